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
    """Prints the list of what was found; returns 1 where a check failed."""
    parser = argparse.ArgumentParser(prog="python -m smallai_assistant.testing", description="Checks a plugin.")
    parser.add_argument("module", help="the plugin's module, such as smallai_wordcount")
    parser.add_argument("--task", help="the task that --say, --image and --audio are for")
    parser.add_argument("--say", metavar="TEXT", type=types.TextPart)
    parser.add_argument("--image", metavar="FILE", type=lambda path: types.ImagePart(Path(path)))
    parser.add_argument("--audio", metavar="FILE", type=lambda path: types.AudioPart(Path(path)))
    parser.add_argument("--correction", metavar="TEXT", help="what the answer should be: tries to teach it")
    parser.add_argument("--train", action="store_true", help="also train an adapter from the correction")
    given = parser.parse_args(arguments)
    parts = [each for each in (given.say, given.image, given.audio) if each is not None]
    if bool(parts) != bool(given.task):
        parser.error("--task goes with --say, --image or --audio")
    if given.correction and not parts:
        parser.error("--correction goes with --task and a message")
    report = check_plugin(
        given.module,
        examples={given.task: parts} if parts else {},
        corrections={given.task: [(parts, given.correction)]} if given.correction else {},
        train=given.train,
    )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no ✓ gets the words
    print(report)
    return 0 if report.is_ok else 1


if __name__ == "__main__":
    sys.exit(main())
