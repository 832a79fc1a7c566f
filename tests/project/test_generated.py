"""The generated parts of the documentation are what the code says, and the check notices if they are not."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_up_to_date(generate: ModuleType) -> None:
    stale = [str(path.relative_to(ROOT)) for path, wanted in generate.pages() if path.read_text("utf-8") != wanted]
    assert not stale, "run `make docs`"


def test_every_part_is_on_a_page(generate: ModuleType) -> None:
    text = "".join(path.read_text("utf-8") for path, _ in generate.pages())
    assert {name for name in generate.PARTS if f"<!-- begin: {name} -->" not in text} == set()


def test_stale_text_is_replaced(generate: ModuleType) -> None:
    page = "before\n<!-- begin: layers -->\nstale\n<!-- end: layers -->\nafter\n"
    filled = generate.filled(page)
    assert "stale" not in filled
    assert "plugin_manager" in filled
    assert generate.filled(filled) == filled


def test_descriptions_in_the_tree_are_whole(generate: ModuleType) -> None:
    """The tree shows the first sentence of each docstring; a longer one would be cut."""
    assert [line for line in generate.tree().splitlines() if len(line) >= generate.MAX_LINE] == []


def test_check_exits_with_one_for_a_stale_page(tmp_path: Path) -> None:
    for name in ("docs", "bench", "smallai_assistant", "plugins"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in (".importlinter", "README.md"):
        (tmp_path / name).write_text((ROOT / name).read_text("utf-8"))
    readme = tmp_path / "README.md"
    readme.write_text(readme.read_text("utf-8").replace("    errors.py", "    mistakes.py"))
    done = subprocess.run(
        [sys.executable, "-c", CHECK.format(root=str(tmp_path), file=str(ROOT / "docs" / "generate.py"))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "-    mistakes.py" in done.stdout


CHECK = """
import runpy, sys
from pathlib import Path
source = Path({file!r}).read_text("utf-8").replace("Path(__file__).resolve().parents[1]", "Path({root!r})")
sys.argv = ["generate.py", "--check"]
exec(compile(source, "generate.py", "exec"), {{"__name__": "__main__", "__doc__": "x"}})
"""
