"""The pictures of the README: small, complete in themselves, and made by `make pictures`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PICTURES = re.findall(r"!\[[^\]]+\]\((docs/images/[\w.]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
MAX_BYTES = 300_000


def test_the_readme_shows_both_pictures() -> None:
    assert [Path(name).stem for name in PICTURES] == ["conversation", "report"]


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_small(name: str) -> None:
    assert 1_000 < (ROOT / name).stat().st_size < MAX_BYTES
    assert f'"{Path(name).name}"' in (ROOT / "docs" / "pictures.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in PICTURES if name.endswith(".svg")])
def test_a_drawing_loads_nothing(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    # `url(#...)` names a part of the drawing itself.
    assert not re.search(r"url\((?!#)|@import|@font-face|<script|<image|href=", text)
