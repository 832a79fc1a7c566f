"""The documentation is true: its code runs, its commands parse, its tables and lists match the code."""

from __future__ import annotations

import dataclasses
import inspect
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench.data import imagenet_photos, librivox
from smallai_assistant import Assistant, AssistantError, errors, hookspecs
from smallai_assistant.config import AssistantConfig, LearningConfig, ModelsConfig, load_config

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])
GUIDES = {
    "guide-chat.md": "text-generation",
    "guide-picture.md": "image-classification",
    "guide-speech.md": "automatic-speech-recognition",
    "guide-recommend.md": "recommendation",
}
ITEMS = (
    "id,title,text\n1,Alien,a crew in space meets a creature\n2,Heat,a detective hunts a thief\n3,Paddington,a bear\n"
)
INTERACTIONS = "user,item,weight,at\nada,1,1,1000\nbob,1,1,1000\nbob,2,1,2000\n"


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    code: str


def blocks(page: Path) -> Iterator[Block]:
    """The page's fenced code blocks; `line` is where the code begins, counted from 1."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(page, text.count("\n", 0, match.start(2)) + 1, match[1], match[2])


def commands(page: Path) -> list[str]:
    """The lines of the page's console blocks that a person types."""
    lines = [line for block in blocks(page) if block.language == "console" for line in block.code.splitlines()]
    assert all(line.startswith("$ ") for line in lines), f"{page.name}: only commands, no output"
    return [line.removeprefix("$ ") for line in lines]


def table(page: Path, heading: str) -> list[list[str]]:
    """The rows of the first table after a heading, backticks removed."""
    text = page.read_text(encoding="utf-8").split(f"\n{heading}\n", 1)[1]
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert lines is not None, f"{page.name}: no table after {heading}"
    return [[cell.strip().replace("`", "") for cell in row.strip("|").split("|")] for row in lines[0].splitlines()[2:]]


@pytest.fixture
def reader(models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of somebody who follows the docs: their files, the smallest chat model, nothing stored yet."""
    monkeypatch.setenv("SMALLAI_MODELS_DIR", str(models_dir))
    monkeypatch.setenv("SMALLAI_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SMALLAI_MODELS__CHAT", "smollm2-135m-instruct")
    monkeypatch.setenv("SMALLAI_CONFIG", "")
    folder = tmp_path / "work"
    folder.mkdir()
    shutil.copy(imagenet_photos()[0][0], folder / "photo.jpg")
    shutil.copy(min((path for path, _ in librivox()), key=lambda path: path.stat().st_size), folder / "memo.wav")
    (folder / "items.csv").write_text(ITEMS)
    (folder / "interactions.csv").write_text(INTERACTIONS)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    "page",
    [
        # The guides take half a minute each with the real models; the README is what a newcomer pastes first.
        pytest.param(page, id=page.name, marks=[] if page.name == "README.md" else [pytest.mark.slow])
        for page in PAGES
        if any(block.language == "python" for block in blocks(page))
    ],
)
def test_python_blocks_run(page: Path, reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page's blocks run in order in one namespace, as a reader would paste them."""
    module = types.ModuleType(f"docs_{page.stem.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks(page):
        if block.language == "python":
            code = compile("\n" * (block.line - 1) + block.code, str(page), "exec", dont_inherit=True)
            exec(code, module.__dict__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_toml_blocks_are_valid(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SMALLAI_MODELS_DIR", "SMALLAI_DATA_DIR", "SMALLAI_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for block in blocks(page):
        if block.language != "toml":
            continue
        if "project" in tomllib.loads(block.code):
            continue
        file = tmp_path / "config.toml"
        file.write_text(block.code)
        load_config(file)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from smallai_assistant.cli import make_parser

    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in commands(page):
        words = shlex.split(command)
        while "=" in words[0]:
            words = words[1:]
        if words[0] == "smallai":
            try:
                make_parser().parse_args(words[1:])
            except SystemExit as exit_:
                pytest.fail(f"{page.name}: {command}\n{capsys.readouterr().err}" if exit_.code else "")
        elif words[0] == "make":
            assert set(words[1:]) <= targets, command
        else:
            assert words[0] in {"pip", "source"}, command


@pytest.mark.slow
def test_the_tour_of_the_readme_runs(reader: Path) -> None:
    smallai = str(Path(sys.executable).with_name("smallai"))
    tour = [shlex.split(command) for command in commands(ROOT / "README.md") if command.startswith("smallai ")]
    assert len(tour) >= 8
    for words in tour:
        done = subprocess.run([smallai, *words[1:]], capture_output=True, text=True, cwd=reader, check=False)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip(), words


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_between_files_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        if "://" not in target:
            assert (ROOT / target).exists(), f"{name}: {target}"


def test_files_named_in_the_readme_exist() -> None:
    (tree,) = [b.code for b in blocks(ROOT / "README.md") if b.language == "text" and "smallai_assistant/" in b.code]
    for line in tree.splitlines():
        folder = ROOT / "smallai_assistant" if line.startswith(" ") else ROOT
        for name in re.findall(r"[a-z_]+\.py|^ +[a-z]+/|^[a-z_]+/|(?<=  )[a-z]+/", line):
            assert (folder / name.strip()).exists(), line
        for plugin in re.findall(r"smallai_(?:chat|image|speech|recommend)", line):
            assert (ROOT / "plugins" / plugin).is_dir()


def test_every_hook_is_documented_with_its_signature() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    hooks = [var for var in vars(hookspecs).values() if hasattr(var, f"{hookspecs.PROJECT}_spec")]
    assert len(hooks) >= 4
    for hook in hooks:
        source = inspect.getsource(hook)
        signature = re.search(r"def (.*?):\n", source, re.DOTALL)
        assert signature is not None
        assert f"### {hook.__name__}\n\n```text\n{signature[1]}\n```" in page
        assert re.search(rf"@hookimpl\n *def {hook.__name__}\(", page), f"no worked example of {hook.__name__}"


def test_every_setting_is_documented_with_its_default() -> None:
    page = ROOT / "docs" / "configuration.md"
    top = {row[0]: row[2] for row in table(page, "## Keys")}
    fields = {field.name: field for field in dataclasses.fields(AssistantConfig)}
    assert list(top) == [name for name in fields if name not in ("models", "learning", "tasks")]
    for name in ("device", "memory_budget_mb", "intent_threshold"):
        assert top[name] == str(fields[name].default)
    models = {row[0]: row[1] for row in table(page, "### `[models]`")}
    assert models == {field.name: field.default or "empty" for field in dataclasses.fields(ModelsConfig)}
    learning = {row[0]: row[1] for row in table(page, "### `[learning]`")}
    defaults = LearningConfig()
    assert learning == {
        field.name: shown(getattr(defaults, field.name)).removesuffix(".0") for field in dataclasses.fields(defaults)
    }


@pytest.mark.parametrize(("page", "task"), GUIDES.items())
def test_every_option_is_documented_with_its_default(page: str, task: str, tmp_path: Path) -> None:
    with Assistant(data_dir=tmp_path) as assistant:
        options_type: Any = assistant.tasks[task].options_type
    rows = {row[0]: row[1] for row in table(ROOT / "docs" / page, "## Options")}
    defaults = options_type()
    assert rows == {field.name: shown(getattr(defaults, field.name)) for field in dataclasses.fields(options_type)}


def shown(value: Any) -> str:
    text = "empty" if value in ("", ()) else "none" if value is None else str(value)
    return text.lower() if isinstance(value, bool) else text


def test_the_error_tree_is_complete() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, AssistantError):
            assert re.search(rf"\b{name} +{value.code}$", page, re.MULTILINE), name
            assert name in (errors.__doc__ or "")


def test_the_layers_are_those_that_are_checked() -> None:
    contract = ConfigParser()
    contract.read(ROOT / ".importlinter")
    layers = contract["importlinter:contract:layers"]["layers"].strip()
    (shown_layers,) = [
        block.code.strip()
        for block in blocks(ROOT / "docs" / "architecture.md")
        if block.language == "text" and block.code.startswith("cli")
    ]
    assert shown_layers == layers


def test_benchmark_commands_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"python -m bench\.(\w+)", page.read_text(encoding="utf-8")):
            assert (ROOT / "bench" / f"{name}.py").is_file(), f"{page.name}: bench.{name}"


def test_every_command_is_in_the_reference() -> None:
    from smallai_assistant.cli import make_parser

    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    actions = [action for action in make_parser()._actions if isinstance(action.choices, dict)]
    assert actions
    for name in actions[0].choices or ():
        assert f"`smallai {name}" in page, name
