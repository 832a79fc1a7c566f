"""The argument parser of `smallai` and the types of its arguments. Imports nothing heavy, so that `--help` is fast."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from smallai_assistant.cli.completion import offer, task_names
from smallai_assistant.cli.streams import write
from smallai_assistant.filesystem import expanded

_FALLBACK_WIDTH = 80
_MIN_WIDTH, _MAX_WIDTH = 20, 110  # longer lines are hard to read
# Every command reads these, also when the option was not given; see `common_options` for why they are not there.
_DEFAULTS: dict[str, Any] = {
    "run": None,
    "config": None,
    "data_dir": None,
    "models_dir": None,
    "device": None,
    "debug": False,
    "json": False,
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that names what was probably meant.

    Args:
        examples: commands to show below the options, as they are typed.
        json_shape: what the command prints with `--json`.
        note: a paragraph to show below the options.
    """

    def __init__(
        self, *args: Any, examples: Sequence[str] = (), json_shape: str = "", note: str = "", **kwargs: Any
    ) -> None:
        kwargs.setdefault("allow_abbrev", False)  # an abbreviation in a script breaks when a new option is added
        kwargs.setdefault("formatter_class", _HelpFormatter)
        paragraphs = [note] if note else []
        paragraphs += ["\n".join(["examples:", *(f"  {example}" for example in examples)])] if examples else []
        paragraphs += [f"--json prints {json_shape}"] if json_shape else []
        kwargs.setdefault("epilog", "\n\n".join(paragraphs) or None)
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.json_shape = json_shape
        self.note = note

    def print_help(self, file: Any = None) -> None:  # noqa: ARG002  (argparse gives none)
        """Prints the help to the command's own output."""
        write(self.format_help())

    def error(self, message: str) -> NoReturn:
        # An argument may hold anything, also what a terminal would obey.
        line = " ".join(message.split()).encode("ascii", "backslashreplace").decode()
        self.exit(2, f"error: {line}\n")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parses the arguments. The error for an unknown option names the nearest option of the command.

        Raises:
            SystemExit: 2 for a wrong argument, 0 after `--help` and `--version`.
        """
        found, unknown = self.parse_known_args(args, namespace or argparse.Namespace(**_DEFAULTS))
        if unknown:
            from smallai_assistant.errors import nearest

            command: Parser = getattr(found, "parser", self)
            option = unknown[0].split("=")[0]
            if option.startswith("-"):
                self.error(f"unknown option {option!r} ({nearest(option, command.long_options())})")
            self.error(f"unexpected {unknown[0]!r} (see `{command.prog} --help`)")
        return found

    def long_options(self) -> list[str]:
        """The names of its options that begin with two hyphens."""
        return [name for action in self._actions for name in action.option_strings if name.startswith("--")]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # argparse's own message lists all choices, which is more than a line if they are the commands.
        if action.choices is not None and value not in action.choices:
            from smallai_assistant.errors import nearest

            what = "command" if isinstance(action, argparse._SubParsersAction) else action.metavar or action.dest
            raise argparse.ArgumentError(None, f"unknown {what} {value!r} ({nearest(str(value), action.choices)})")


class _HelpFormatter(argparse.HelpFormatter):
    """Wraps the paragraphs of a help text, and keeps the lines of its examples.

    It works for a terminal of any width: below about 11 columns, argparse's own wrapping fails.
    """

    def __init__(self, prog: str) -> None:
        import shutil

        columns = shutil.get_terminal_size((_FALLBACK_WIDTH, 24)).columns
        width = max(_MIN_WIDTH, min(columns - 2, _MAX_WIDTH))
        super().__init__(prog, max_help_position=min(28, width // 2), width=width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.split("\n\n")
        return "\n\n".join(
            paragraph if "\n" in paragraph else super(_HelpFormatter, self)._fill_text(paragraph, width, indent)
            for paragraph in paragraphs
        )


class VersionAction(argparse.Action):
    """Prints the version and ends the program."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        # The version is looked up among the installed packages, which takes time; argparse's own action needs it early.
        from smallai_assistant import __version__

        write(f"smallai {__version__}\n")
        parser.exit(0)


def add_command(
    commands: Any, name: str, run: str, help: str, common: argparse.ArgumentParser, **kwargs: Any
) -> Parser:
    """Adds a command.

    Args:
        run: `module:function` in this package; the function gets the `CommandContext` and returns the exit code.
        help: one line for the list of commands; the description is made from it if none is given.
        kwargs: arguments of `Parser`.
    """
    description = kwargs.pop("description", f"{help[0].upper()}{help[1:]}.")
    parser: Parser = commands.add_parser(name, help=help, description=description, parents=[common], **kwargs)
    parser.set_defaults(run=run, parser=parser)
    return parser


def add_group(commands: Any, name: str, help: str) -> Any:
    """Adds a command that has commands itself. Returns what they are added to."""
    parser: Parser = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    parser.set_defaults(parser=parser)
    return parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)


def add_task_option(parser: Parser, help: str) -> None:
    """Adds the option that names a task."""
    offer(parser.add_argument("--task", metavar="TASK", help=help), task_names)


def common_options() -> argparse.ArgumentParser:
    """The general options. They may stand before or after the command."""
    # They have no defaults here: argparse would let the default of the command override a value before the command.
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = common.add_argument_group("general options")
    group.add_argument(
        "--config", type=existing_file, metavar="FILE", help="read the settings from this TOML file (SMALLAI_CONFIG)"
    )
    group.add_argument(
        "--data-dir",
        type=path,
        metavar="DIR",
        help="folder of the conversations, the feedback, the items and the adapters (SMALLAI_DATA_DIR)",
    )
    group.add_argument(
        "--models-dir", type=path, metavar="DIR", help="folder of the pulled models (SMALLAI_MODELS_DIR)"
    )
    group.add_argument(
        "--device", type=device, metavar="DEVICE", help="where models run: auto, cpu, cuda or cuda:N (SMALLAI_DEVICE)"
    )
    group.add_argument("--json", action="store_true", help="print JSON for programs, one object on each line")
    group.add_argument("--debug", action="store_true", help="print the log, and the stack trace of an error")
    return common


def path(text: str) -> Path:
    """A path; it need not exist."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path")
    return expanded(text)


def existing_file(text: str) -> Path:
    """The path of a file that exists."""
    file = path(text)
    if not file.is_file():
        raise argparse.ArgumentTypeError(f"{text}: {'a folder' if file.is_dir() else 'there is no such file'}")
    return file


def device(text: str) -> str:
    """The name of a device; whether the machine has it is seen when a model loads."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} (give auto, cpu, cuda or cuda:N)")
    return text


def labels(text: str) -> list[str]:
    """Labels that are separated by commas."""
    return [label.strip() for label in text.split(",")]


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Makes the type of a whole number from `low` to `high`."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} (give {low} to {high})")
        return value

    return number


def real(text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def minutes(text: str) -> float:
    """A number of minutes, more than 0."""
    value = real(text)
    # NaN fails both comparisons. The upper limit, 69 days, keeps infinity out.
    if not 0 < value <= 100_000:
        raise argparse.ArgumentTypeError(f"{text} (give more than 0 and at most 100,000)")
    return value
