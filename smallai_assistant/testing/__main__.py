"""The command `python -m smallai_assistant.testing`."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from smallai_assistant import types
from smallai_assistant.testing import check_plugin


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the list of checks. Returns 1 if a check failed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m smallai_assistant.testing", description="Checks a plugin.")
    parser.add_argument("module", help="the plugin's module, such as smallai_wordcount")
    parser.add_argument("--task", help="the task that --say, --image and --audio are for")
    parser.add_argument("--say", metavar="TEXT", type=types.TextPart)
    parser.add_argument("--image", metavar="FILE", type=lambda path: types.ImagePart(Path(path)))
    parser.add_argument("--audio", metavar="FILE", type=lambda path: types.AudioPart(Path(path)))
    parser.add_argument("--correction", metavar="TEXT", help="the right answer, which the kit then teaches")
    parser.add_argument("--train", action="store_true", help="also train an adapter from the correction")
    given = parser.parse_args(arguments)
    parts = [part for part in (given.say, given.image, given.audio) if part is not None]
    if bool(parts) != bool(given.task):
        parser.error("--task needs --say, --image or --audio, and they need --task")
    if given.correction and not parts:
        parser.error("--correction needs --task and a message")
    report = check_plugin(
        given.module,
        examples={given.task: parts} if parts else {},
        corrections={given.task: [(parts, given.correction)]} if given.correction else {},
        train=given.train,
    )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show ✓ shows ? and not a traceback
    print(report)
    return 0 if report.is_ok else 1


if __name__ == "__main__":
    sys.exit(main())
