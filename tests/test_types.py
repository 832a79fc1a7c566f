"""The values that flow through the assistant: what they refuse, and their round trip through JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallai_assistant import (
    AudioPart,
    GenerationOptions,
    ImagePart,
    InvalidInput,
    ItemPart,
    LabelPart,
    Message,
    SegmentPart,
    TextPart,
)
from smallai_assistant.errors import UrlNotAllowed
from smallai_assistant.storage.serialization import parts_from_json, parts_to_json

numbers = st.floats(allow_nan=False)
parts = st.one_of(
    st.builds(TextPart, st.text()),
    st.builds(LabelPart, st.text(), st.integers(), numbers),
    st.builds(SegmentPart, st.text(), numbers, numbers),
    st.builds(ItemPart, st.text(), st.text(), numbers, st.text()),
)


@given(st.lists(parts))
def test_parts_survive_json(given_parts: list[object]) -> None:
    rows = json.loads(json.dumps(parts_to_json(given_parts)))  # type: ignore[arg-type]
    assert list(parts_from_json(rows)) == given_parts


@pytest.mark.parametrize(
    "url", ["http://a/b.png", "https://a/b", "file:///etc/passwd", "ftp://x/y", "data:image/png;base64,x"]
)
@pytest.mark.parametrize("part", [ImagePart, AudioPart])
def test_addresses_are_not_paths(url: str, part: type[ImagePart]) -> None:
    with pytest.raises(UrlNotAllowed):
        part(Path(url))
    with pytest.raises(UrlNotAllowed):
        Message.of(Path(url))


@pytest.mark.parametrize("part", [TextPart(None), TextPart(["x"]), LabelPart(5, 1, 0.5)])  # type: ignore[arg-type]
def test_a_part_without_text_is_refused(part: TextPart) -> None:
    for content in (part, ["hello", part]):
        with pytest.raises(InvalidInput, match="is "):
            Message.of(content)


def test_string_is_text_and_never_a_path(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"\x89PNG")
    assert Message.of(str(path)).parts == (TextPart(str(path)),)


@pytest.mark.parametrize(
    ("head", "name", "kind"),
    [
        (b"\x89PNG\r\n", "a", ImagePart),
        (b"\xff\xd8\xff\xe0", "a", ImagePart),
        (b"RIFF0000WEBPVP8 ", "a", ImagePart),
        (b"GIF89a", "a", ImagePart),
        (b"RIFF0000WAVEfmt ", "a.png", AudioPart),
        (b"fLaC", "a", AudioPart),
        (b"OggS", "a", AudioPart),
        (b"ID3", "a", AudioPart),
        (b"\xff\xfb\x90", "a", AudioPart),
        (b"just text", "a.png", ImagePart),
        (b"", "-i x.wav", AudioPart),
        (b"", "$(id).wav", AudioPart),
    ],
)
def test_kind_of_file_by_content_then_suffix(tmp_path: Path, head: bytes, name: str, kind: type) -> None:
    (tmp_path / name).write_bytes(head)
    assert isinstance(Message.of(tmp_path / name).parts[0], kind)


def test_files_of_no_known_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    for path, message in [
        (tmp_path / "a.txt", "neither a picture nor a recording"),
        (tmp_path / "none.png", "No such file"),
        (tmp_path, "directory"),
        (Path("a\0b"), "NUL"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            Message.of(path)


def test_wrong_type_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        Message.of(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [
        {"max_tokens": 0},
        {"max_tokens": -1},
        {"max_tokens": 10**18},
        {"max_tokens": True},
        {"temperature": -1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"repetition_penalty": 0.5},
    ],
)
def test_generation_options_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(values))):
        GenerationOptions(**values)  # type: ignore[arg-type]
