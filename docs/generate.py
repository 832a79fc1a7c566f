"""Writes the parts of the documentation that show the state of the code: `make docs`.

A page marks such a part with `<!-- begin: NAME -->` and `<!-- end: NAME -->`; whatever stands between is replaced.
`--check` writes nothing and fails if a page differs from what the code says: `make check` calls it.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import difflib
import inspect
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

_FIGURES = ROOT / "bench" / "figures.toml"
_RESULTS = ROOT / "bench" / "results"
MAX_LINE = 120  # a code host wraps a longer line of a code block badly


def tree() -> str:
    """The top of the package and its rooms, with the first sentence of each docstring."""
    package = ROOT / "smallai_assistant"
    modules = sorted(path for path in package.glob("*.py") if path.name != "__init__.py")
    rooms = sorted(path for path in package.iterdir() if (path / "__init__.py").is_file())
    lines = [f"{'smallai_assistant/':29} the host: imports no plugin, and no ML library when imported"]
    lines += [_row(f"    {path.name}", path) for path in modules]
    lines += [_row(f"    {path.name}/", path / "__init__.py") for path in rooms]
    lines.append(f"{'plugins/':29} the four built-in tasks, reached through entry points as any other plugin")
    lines += [
        _row(f"    {path.parent.name}/", path) for path in sorted((ROOT / "plugins").glob("smallai_*/__init__.py"))
    ]
    lines.append(f"{'tests/  bench/  examples/':29} the tests mirror the tree; a bench for each figure")
    return _fenced("text", "\n".join(lines))


def layers() -> str:
    """The layers that import-linter checks."""
    contract = ConfigParser()
    contract.read(ROOT / ".importlinter")
    return _fenced("text", inspect.cleandoc(contract["importlinter:contract:layers"]["layers"]))


def error_tree() -> str:
    """The tree of errors with their codes."""
    from smallai_assistant import errors

    source = inspect.getdoc(errors) or ""
    lines = []
    for line in source.splitlines():
        found = re.match(r"^([ │├└─]*)(\w+)", line)
        value = getattr(errors, found[2], None) if found else None
        if found and inspect.isclass(value) and issubclass(value, errors.AssistantError):
            lines.append(f"{(found[1] + found[2]).removeprefix('    '):28} {value.code}")
    return _fenced("text", "\n".join(lines))


def catalogue() -> str:
    """Every model of the catalogue."""
    from smallai_assistant.models.entries import read_entries

    rows = [["name", "task", "what for", "download", "on disk", "licence"]]
    for entry in read_entries().values():
        sizes = [f"{n_bytes / 1e6:,.0f} MB" for n_bytes in (entry.n_bytes, entry.n_bytes_ready)]
        name = f"`{entry.name}`" + (" (starter)" if "starter" in entry.sets else "")
        rows.append([name, f"`{entry.task}`", entry.title, *sizes, entry.licence])
    return _table(rows)


def figures(*, section: str | None = None, headline: bool = False) -> str:
    """The measured figures: the claims of `bench/figures.toml`, filled from `bench/results`."""
    rows = [["what", "wanted", "measured", "command"]]
    for figure in tomllib.loads(_FIGURES.read_text("utf-8"))["figure"]:
        if (section is None or figure["section"] == section) and (not headline or figure.get("headline", False)):
            rows.append([figure["what"], figure["wanted"], measured(figure), f"`python -m bench.{figure['command']}`"])
    return _table(rows)


def measured(figure: dict[str, Any]) -> str:
    """The text of a figure. `{wer:.2%}` in it is filled from the last recorded run of its bench."""
    text: str = figure["measured"]
    file = _RESULTS / f"{figure.get('results', '')}.json"
    if not figure.get("results"):
        return f"{text} ({figure['on']})" if isinstance(figure.get("on"), datetime.date) else text
    return text.format_map(json.loads(file.read_text("utf-8"))["figures"])


def command_reference() -> str:
    """A page with every command and option, from the parser."""
    from smallai_assistant.cli.parser import make_parser

    root = make_parser()
    page = [
        "# Every command and option",
        "",
        "`smallai COMMAND --help` says the same. [Command line](cli.md) shows the use.",
        "",
    ]
    page += ["## General options", "", "They stand before or after any command.", "", *_options(root, None), ""]
    general = {name for action in root._actions for name in action.option_strings}
    for parser, help_ in _commands(root):
        page += [f"## `{parser.prog}`", "", _sentence(parser.description or help_), ""]
        page += [*_options(parser, general), ""]
        page += _epilog(parser)
    return "\n".join(page).rstrip() + "\n"


def _epilog(parser: argparse.ArgumentParser) -> list[str]:
    """The note, the examples and the JSON shape of a command; `cli/arguments.py` keeps them apart."""
    lines: list[str] = []
    if note := getattr(parser, "note", ""):
        lines += [_sentence(note), ""]
    if examples := getattr(parser, "examples", ()):
        lines += [_fenced("text", "\n".join(examples)), ""]
    if shape := getattr(parser, "json_shape", ""):
        lines += [f"`--json` prints `{shape}`.", ""]
    return lines


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[argparse.ArgumentParser, str]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, child in action.choices.items():
                if any(isinstance(child_action, argparse._SubParsersAction) for child_action in child._actions):
                    yield from _commands(child)
                else:
                    yield child, helps.get(name, "")


def _options(parser: argparse.ArgumentParser, general: set[str] | None) -> list[str]:
    rows = [["argument", "what it does"]]
    for action in parser._actions:
        is_hidden = action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction)
        if is_hidden or (general is not None and set(action.option_strings) & general):
            continue
        metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        takes = "" if action.nargs == 0 else f" {metavar}"
        names = ", ".join(action.option_strings)
        values = action.nargs in ("*", "+")
        rows.append(
            [f"`{names}{takes}`" if names else f"`{metavar}{' ...' if values else ''}`", _escaped(action.help or "")]
        )
    return [_table(rows)] if len(rows) > 1 else ["It takes the general options only."]


def _row(name: str, path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    first = re.split(r"(?<=[^.])\.(?:\s|$)", doc.strip())[0].splitlines()[0]
    return f"{name:29} {first[:1].lower()}{first[1:]}"[:MAX_LINE]


def _sentence(text: str) -> str:
    text = _escaped(text).strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def _escaped(text: str) -> str:
    """One line of Markdown: argparse's own escapes and what would be HTML or a new cell taken out."""
    return " ".join(text.replace("%%", "%").replace("|", "\\|").replace("<", "&lt;").split())


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _table(rows: list[list[str]]) -> str:
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


PARTS: dict[str, Callable[[], str]] = {
    "tree": tree,
    "layers": layers,
    "errors": error_tree,
    "catalogue": catalogue,
    "headline figures": lambda: figures(headline=True),
    "core figures": lambda: figures(section="core"),
    "learning figures": lambda: figures(section="learning"),
}
PAGES: dict[str, Callable[[], str]] = {"docs/cli-reference.md": command_reference}
_PART = re.compile(r"(<!-- begin: (.+?) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)


def filled(text: str) -> str:
    """The page with every marked part as the code says."""
    return _PART.sub(lambda match: f"{match[1]}{PARTS[match[2]]()}\n{match[3]}", text)


def pages() -> Iterator[tuple[Path, str]]:
    """Each page that has generated parts, and what it should hold."""
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]):
        text = path.read_text("utf-8")
        if _PART.search(text):
            yield path, filled(text)
    for name, make in PAGES.items():
        yield ROOT / name, make()


def main() -> int:
    """Writes the pages, or with `--check` prints the differences and returns 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page differs")
    is_check = parser.parse_args().check
    stale = 0
    for path, wanted in pages():
        current = path.read_text("utf-8") if path.is_file() else ""
        if current == wanted:
            continue
        stale += 1
        name = path.relative_to(ROOT)
        if not is_check:
            path.write_text(wanted, encoding="utf-8")
            print(f"wrote {name}")
            continue
        sys.stdout.writelines(
            difflib.unified_diff(
                current.splitlines(keepends=True), wanted.splitlines(keepends=True), str(name), f"{name} by `make docs`"
            )
        )
    if is_check and stale:
        print(f"{stale} page(s) differ from the code: run `make docs`", file=sys.stderr)
    return int(is_check and stale > 0)


if __name__ == "__main__":
    raise SystemExit(main())
