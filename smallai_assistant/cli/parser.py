"""The words `smallai` understands. Imports nothing heavy: `--help` is fast."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

SHAPES = {
    "ask": '{"text", "task", "turn_id", "model", "adapter", "notices", "timings"}',
    "transcribe": '{"file", "text", "language", "duration_s", "segments": [{"start_s", "end_s", "text"}]}',
    "classify": '{"file", "labels": [{"label", "id", "score"}]}',
    "recommend": '{"user", "cold_start", "items": [{"id", "title", "score", "why"}]}',
    "feedback": '{"feedback_id", "turn_id", "task", "is_new", "effect", "notices"}',
    "teach": '{"file", "feedback_id", "turn_id", "task", "is_new", "effect", "notices"}',
    "learn": '{"task", "adapter_id", "outcome", "reasons", "slices": [{"name", "n", "before", "after", ...}], ...}',
}
_FALLBACK_WIDTH = 80
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
    """An argument parser whose errors are one line that names what was probably meant."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", _HelpFormatter)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        line = " ".join(message.split()).encode("ascii", "backslashreplace").decode()
        self.exit(2, f"error: {line}\n")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parses; an unknown word is an error that names the nearest option of the command.

        Raises:
            SystemExit: with 2 where a word is wrong, with 0 after `--help` and `--version`.
        """
        found, unknown = self.parse_known_args(args, namespace or argparse.Namespace(**_DEFAULTS))
        if unknown:
            from smallai_assistant.config import nearest

            command: Parser = getattr(found, "parser", self)
            option = unknown[0].split("=")[0]
            if option.startswith("-"):
                self.error(f"unknown option {option!r} ({nearest(option, command.options())})")
            self.error(f"unexpected {unknown[0]!r} (see `{command.prog} --help`)")
        return found

    def options(self) -> list[str]:
        """The long options it takes."""
        return [name for action in self._actions for name in action.option_strings if name.startswith("--")]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            from smallai_assistant.config import nearest

            what = "command" if isinstance(action, argparse._SubParsersAction) else action.metavar or action.dest
            raise argparse.ArgumentError(None, f"unknown {what} {value!r} ({nearest(str(value), action.choices)})")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Survives a terminal of any width: below about 11 columns argparse's own wrapping fails."""

    def __init__(self, prog: str) -> None:
        import shutil

        width = max(20, min(shutil.get_terminal_size((_FALLBACK_WIDTH, 24)).columns - 2, 110))
        super().__init__(prog, max_help_position=min(28, width // 2), width=width)


class _Version(argparse.Action):
    """Prints the version, read only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from smallai_assistant import __version__

        sys.stdout.write(f"smallai {__version__}\n")
        parser.exit(0)


def make_parser() -> Parser:
    """The parser of the command line; `run` of the result is `module:function` of the command."""
    common = _common()
    root = Parser(
        prog="smallai",
        parents=[common],
        description="A private assistant of small models: chat, pictures, speech, recommendations.",
        epilog="First time here: `smallai models pull starter`, then `smallai chat`. All at once: `smallai demo`.",
    )
    root.add_argument("--version", action=_Version, help="print the version and end")
    commands = root.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)

    def add(name: str, run: str, help: str, **kwargs: Any) -> Parser:
        return _add(commands, name, run, help, common, **kwargs)

    _add_chat(add("chat", "repl:chat", "talk with the assistant"))
    _add_ask(add("ask", "one_shot:ask", "ask once", epilog=f"--json: {SHAPES['ask']}"))
    _add_transcribe(
        add("transcribe", "one_shot:transcribe", "write down speech", epilog=f"--json: {SHAPES['transcribe']}")
    )
    _add_classify(
        add("classify", "one_shot:classify", "say what is on a picture", epilog=f"--json: {SHAPES['classify']}")
    )
    _add_recommend(add("recommend", "one_shot:recommend", "recommend items", epilog=f"--json: {SHAPES['recommend']}"))
    _add_models(commands, common)
    for name, what in (
        ("items", "columns: id, title, and if you like text; any other column is kept as metadata"),
        ("interactions", "columns: user, item, and if you like weight (or rating) and at (or timestamp)"),
    ):
        group = _group(commands, name, f"the {name} that recommendations are made from")
        importer = _add(group, "import", f"imports:import_{name}", f"import {name} from CSV or JSONL", common)
        importer.description += f". All lines or none. {what[0].upper()}{what[1:]}."  # type: ignore[operator]
        importer.add_argument("file", metavar="FILE", help="CSV with a header line, or JSONL")
    _add_feedback(commands, common)
    _add_teach(add("teach", "feedback:teach", "teach what is on pictures or said in recordings"))
    _add_learn(add("learn", "learn:learn", "learn from the feedback so far", epilog=f"--json: {SHAPES['learn']}"))
    _add_adapters(commands, common)
    sessions = _group(commands, "sessions", "conversations so far")
    listed = _add(sessions, "list", "info:sessions_list", "list conversations, newest first", common)
    listed.add_argument("--limit", type=_number(1, 100_000), default=20, metavar="N", help="most to list (20)")
    add("plugins", "info:plugins", "what is installed, and what is broken and why")
    add("doctor", "doctor:doctor", "check the installation: what is there, what is missing and how to get it")
    demo = add("demo", "demo:demo", "a tour of the four tasks")
    demo.add_argument("--offline", action="store_true", help="fetch no photo and no recording for the tour")
    return root


def _common() -> argparse.ArgumentParser:
    """Options that stand before or after the command.

    They have no default of their own: that of the command would win over what stands before it.
    """
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = common.add_argument_group("general options")
    group.add_argument("--config", type=_existing_file, metavar="FILE", help="the TOML file with the settings")
    group.add_argument("--data-dir", type=_path, metavar="DIR", help="where conversations and items are kept")
    group.add_argument("--models-dir", type=_path, metavar="DIR", help="where models are kept")
    group.add_argument("--device", type=_device, metavar="DEVICE", help="auto, cpu, cuda or cuda:N")
    group.add_argument("--json", action="store_true", help="print one JSON object a line")
    group.add_argument("--debug", action="store_true", help="show the stack trace of an error, and the log")
    return common


def _add(commands: Any, name: str, run: str, help: str, common: argparse.ArgumentParser, **kwargs: Any) -> Parser:
    description = help[0].upper() + help[1:]
    parser: Parser = commands.add_parser(name, help=help, description=description, parents=[common], **kwargs)
    parser.set_defaults(run=run, parser=parser)
    return parser


def _group(commands: Any, name: str, help: str) -> Any:
    parser: Parser = commands.add_parser(name, help=help, description=help[0].upper() + help[1:])
    parser.set_defaults(parser=parser)
    return parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)


def _add_chat(parser: Parser) -> None:
    parser.add_argument("--session", metavar="ID", help="go on with that conversation, see `smallai sessions list`")
    parser.add_argument("--resume", action="store_true", help="go on with the latest conversation")
    parser.add_argument("--user", metavar="U", help="who is talking; recommendations are for them")
    parser.add_argument("--task", metavar="TASK", help="use this task for every message")
    parser.epilog = "Type /help inside. Without a terminal it reads lines from standard input."


def _add_ask(parser: Parser) -> None:
    parser.add_argument("text", metavar="TEXT", help="what to ask; - reads standard input")
    parser.add_argument("--image", type=_path, action="append", default=[], metavar="FILE", help="a picture")
    parser.add_argument("--audio", type=_path, action="append", default=[], metavar="FILE", help="a recording")
    parser.add_argument("--task", metavar="TASK", help="the task to use, such as text-generation; else it is chosen")
    parser.add_argument("--system", metavar="TEXT", help="instructions for the chat model, above the conversation")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="most tokens of the answer")
    parser.add_argument("--user", metavar="U", help="who asks")


def _add_transcribe(parser: Parser) -> None:
    parser.add_argument("files", nargs="+", type=_path, metavar="FILE", help="WAV, FLAC, OGG or MP3")
    parser.add_argument("--timestamps", action="store_true", help="print each segment with its times")
    parser.add_argument("--srt", action="store_true", help="print subtitles in the SRT format")


def _add_classify(parser: Parser) -> None:
    parser.add_argument("files", nargs="+", type=_path, metavar="FILE", help="PNG, JPEG, WebP or GIF")
    parser.add_argument("--top", type=int, metavar="N", help="most labels to print (5)")
    parser.add_argument("--labels", type=_labels, metavar="A,B,...", help="choose among these labels of yours")


def _add_recommend(parser: Parser) -> None:
    parser.add_argument("wish", nargs="?", metavar="WISH", help="what it should be like, in words")
    parser.add_argument("--user", action="append", required=True, metavar="U", help="for whom; may be repeated")
    parser.add_argument("-k", type=int, metavar="N", help="how many items")


def _add_models(commands: Any, common: argparse.ArgumentParser) -> None:
    group = _group(commands, "models", "list, get, check and remove models")
    _add(group, "list", "models:list_models", "list the catalogue and what is pulled", common)
    pull = _add(group, "pull", "models:pull", "get models; `starter` is one for each task", common)
    pull.add_argument("names", nargs="+", metavar="NAME", help="a name of the catalogue, or starter")
    pull.add_argument("--small", action="store_true", help="with starter: the smallest chat model")
    pull.add_argument("--from", dest="source", type=_path, metavar="PATH", help="take the files from there")
    verify = _add(group, "verify", "models:verify", "check the pulled files against their hashes", common)
    verify.add_argument("names", nargs="*", metavar="NAME", help="which; all that are pulled where none is named")
    remove = _add(group, "remove", "models:remove", "remove models from the disk", common)
    remove.add_argument("names", nargs="+", metavar="NAME", help="which")


def _add_feedback(commands: Any, common: argparse.ArgumentParser) -> None:
    group = _group(commands, "feedback", "what people thought of the answers")
    shape = f"--json: {SHAPES['feedback']}"
    add = _add(group, "add", "feedback:add", "say what an answer was like", common, epilog=shape)
    add.add_argument("turn_id", metavar="TURN_ID", help="`turn_id` of the answer, or `last` for the latest one")
    thumb = add.add_mutually_exclusive_group()
    thumb.add_argument("--good", dest="is_good", action="store_true", default=None, help="thumb up")
    thumb.add_argument("--bad", dest="is_good", action="store_false", default=None, help="thumb down")
    add.add_argument(
        "--correction", metavar="T", help="what the answer should have been: a text, a label, a transcript"
    )
    add.add_argument("--comment", default="", metavar="T", help="why; kept, not learned from")
    add.add_argument("--signal", metavar="S", help="what was done with an item: click, skip, dwell or stars")
    add.add_argument("--value", type=_real, metavar="V", help="of the signal: seconds of dwell, 1 to 5 stars")
    add.add_argument("--item", metavar="I", help="the item the signal is about")
    add.add_argument("--source", metavar="S", help="who says so (the user of the turn)")
    add.add_argument("--no-training", action="store_true", help="learn from it at once only, never in a cycle")
    add.add_argument("--key", metavar="K", help="idempotency key: what has the same key is stored once")
    listed = _add(group, "list", "feedback:list_feedback", "list feedback, oldest first", common)
    listed.add_argument("--task", metavar="TASK", help="only that of a task")
    listed.add_argument("--limit", type=_number(1, 1_000_000), default=20, metavar="N", help="the last N (20)")
    _add(group, "stats", "feedback:stats", "count it by task and source", common)
    export = _add(group, "export", "transfer:export_feedback", "write it to a file, with what it is about", common)
    export.add_argument("file", type=_path, metavar="FILE", help="JSONL; - writes to standard output")
    export.add_argument("--task", metavar="TASK", help="only that of a task")
    export.add_argument("--no-media", action="store_true", help="leave out pictures and recordings")
    import_ = _add(group, "import", "transfer:import_feedback", "read what was exported; all or nothing", common)
    import_.add_argument("file", type=_path, metavar="FILE", help="what `feedback export` wrote")
    erase = _add(group, "erase", "feedback:erase", "delete its content for good", common)
    erase.add_argument("ids", nargs="+", metavar="ID", help="which")
    undo = _add(group, "undo", "feedback:undo", "take it back; it stays in the log", common, epilog=shape)
    undo.add_argument("id", metavar="ID", help="which")


def _add_teach(parser: Parser) -> None:
    parser.add_argument("label", metavar="LABEL", help="what is on the pictures, or what is said")
    parser.add_argument("files", nargs="+", type=_path, metavar="FILE", help="pictures or recordings")
    parser.add_argument("--task", metavar="TASK", help="the task to teach; else the one that takes such a file")
    parser.add_argument("--source", default="local", metavar="S", help="who says so (local)")
    parser.epilog = f"--json: {SHAPES['teach']}"


def _add_learn(parser: Parser) -> None:
    parser.add_argument(
        "task", nargs="?", metavar="TASK", help="which; every task with new feedback where none is named"
    )
    parser.add_argument("--budget-minutes", type=_minutes, metavar="M", help="end the training with what it has then")
    parser.add_argument("--report", type=_path, metavar="FILE.html", help="write a page about it; needs a TASK")
    parser.add_argument("--no-promote", action="store_true", help="stop after the gate's word, let nothing new serve")
    parser.add_argument(
        "--without-erased", action="store_true", help="learn all of it again, without what was erased or taken back"
    )
    parser.add_argument("--trust", action="append", default=[], metavar="SOURCE", help="never set that source aside")
    parser.add_argument("--seed", type=_number(0, 2**31 - 1), default=0, metavar="N", help="of the training (0)")
    parser.description = "Learn from the feedback so far. Exit code 3: the gate refused, and nothing was changed."


def _add_adapters(commands: Any, common: argparse.ArgumentParser) -> None:
    group = _group(commands, "adapters", "what was learned: versions, which of them serves, and back again")
    listed = _add(group, "list", "adapters:list_adapters", "list the versions, oldest first", common)
    listed.add_argument("--task", metavar="TASK", help="only those of a task")
    show = _add(group, "show", "adapters:show", "show what one learned from, its figures and where it served", common)
    show.add_argument("id", metavar="ID", help="which")
    diff = _add(group, "diff", "adapters:diff", "show in what two of a task differ", common)
    diff.add_argument("first", metavar="A", help="the one")
    diff.add_argument("second", metavar="B", help="the other")
    promote = _add(group, "promote", "adapters:promote", "let one serve", common)
    promote.add_argument("id", metavar="ID", help="which")
    promote.add_argument("--force", action="store_true", help="also one that the gate refused; the log says so")
    rollback = _add(group, "rollback", "adapters:rollback", "let the version before serve again", common)
    rollback.add_argument("task", metavar="TASK", help="of which task")
    rollback.add_argument("--to", metavar="ID", help="that version; `none` is the bare model")
    verify = _add(group, "verify", "adapters:verify", "check the files against their hashes", common)
    verify.add_argument("ids", nargs="*", metavar="ID", help="which; all where none is named")
    remove = _add(group, "remove", "adapters:remove", "remove versions that do not serve", common)
    remove.add_argument("ids", nargs="+", metavar="ID", help="which")


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("an empty path")
    return Path(text).expanduser()


def _existing_file(text: str) -> Path:
    path = _path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text}: {'a folder' if path.is_dir() else 'there is no such file'}")
    return path


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} (give auto, cpu, cuda or cuda:N)")
    return text


def _labels(text: str) -> list[str]:
    return [label.strip() for label in text.split(",")]


def _number(low: int, high: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} (give {low} to {high})")
        return value

    return number


def _real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def _minutes(text: str) -> float:
    value = _real(text)
    if not 0 < value <= 100_000:
        raise argparse.ArgumentTypeError(f"{text} (give more than 0 and at most 100,000)")
    return value
