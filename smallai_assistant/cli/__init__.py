"""The command line: the command `smallai`. A module is imported only by the commands that need it."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from smallai_assistant.cli.parser import make_parser
from smallai_assistant.cli.streams import OutputError, own_output

if TYPE_CHECKING:
    from smallai_assistant.cli.context import OpenAssistant

__all__ = ["main", "make_parser"]

DONE, FAILED, WRONG_USE = 0, 1, 2  # 2 is what argparse and the shells use
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
PIPE_CLOSED = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None, *, open_assistant: OpenAssistant | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        argv: the words after `smallai`. None takes those of the process, which is then taken to end with the command:
            what plugins print later goes to standard error, too.
        open_assistant: makes the assistant for the commands; a program that has one passes it here.
    """
    try:
        with own_output(is_whole_process=argv is None):
            return _parse_and_run(argv, open_assistant)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return PIPE_CLOSED
    except OutputError as error:  # of the last flush, or of the help
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(f"error: {error}\n")
        return FAILED


def _parse_and_run(argv: Sequence[str] | None, open_assistant: OpenAssistant | None) -> int:
    parser = make_parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what may come next; see `smallai completion`
        from smallai_assistant.cli.completion import complete

        complete(parser)
    try:
        args = parser.parse_args(argv)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else WRONG_USE
    if args.run is None:
        parser.print_help()
        return DONE
    return _run(args.run, args, open_assistant)


def _run(target: str, args: object, open_assistant: OpenAssistant | None) -> int:
    from smallai_assistant.cli.context import CommandContext, quiet_libraries
    from smallai_assistant.errors import AssistantError

    module, function = target.split(":")
    # Only a pull may reach the hub; every other command works with what is on the disk.
    quiet_libraries(debug=bool(getattr(args, "debug", False)), online=function == "pull")
    context = CommandContext(args, open_assistant)
    try:
        code: int = getattr(importlib.import_module(f"smallai_assistant.cli.{module}"), function)(context)
    except AssistantError as error:
        return context.failed(error)
    except KeyboardInterrupt:
        context.screen.end_progress()
        context.screen.note("interrupted")
        raise
    except BrokenPipeError:
        raise
    except Exception as error:  # a defect of ours, or of a library
        return context.crashed(error)
    else:
        return code
