"""The table of first bytes: every format is told apart, and what is not read is named with what to do."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from smallai_assistant import AudioPart, ImagePart, InvalidInput, Message
from smallai_assistant.errors import InvalidAudio, InvalidImage
from smallai_assistant.file_formats import FORMATS, format_of

# The beginnings of real files, as their specifications show them.
BEGINNINGS = {
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "jpeg": b"\xff\xd8\xff\xe1\x12\x34Exif\0\0",
    "gif": b"GIF89a\x01\0\x01\0",
    "webp": b"RIFF\x24\0\0\0WEBPVP8L",
    "wav": b"BW64\xff\xff\xff\xffWAVEds64",
    "flac": b"fLaC\0\0\0\x22",
    "ogg": b"OggS\0\x02",
    "matroska": b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01",
    "avif": b"\0\0\0\x20ftypavif\0\0\0\0avifmif1",
    "heic": b"\0\0\0\x24ftypheic\0\0\0\0mif1heic",
    "jxl": b"\0\0\0\x0cJXL \r\n\x87\n",
    "jp2": b"\0\0\0\x0cjP  \r\n\x87\n",
    "tiff": b"MM\0*\0\0\0\x08",
    "bmp": b"BM\x36\x10\x0e\0\0\0\0\0\x36",
    "psd": b"8BPS\0\1\0\0",
    "xcf": b"gimp xcf v011\0",
    "svg": b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>",
    "xml": b"<?xml version='1.0'?>\n<!-- made by hand -->\n<svg/>",
    "ps": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "aiff": b"FORM\0\0\x10\0AIFFCOMM",
    "au": b".snd\0\0\0\x18",
    "caf": b"caff\0\1\0\0desc",
    "w64": b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb",
    "amr": b"#!AMR-WB\n\x04",
    "asf": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c",
    "midi": b"MThd\0\0\0\6\0\1",
    "ape": b"MAC \x96\x0f",
    "wavpack": b"wvpk\x10\0\0\0",
    "avi": b"RIFF\x24\0\0\0AVI LIST",
    "flv": b"FLV\1\5\0\0\0\x09",
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "zip": b"PK\3\4\x14\0",
    "gzip": b"\x1f\x8b\x08\0",
    "html": b"\n<!DOCTYPE html>\n<html>",
    "mov": b"\0\0\1\0ftypmp42\0\0\0\0isommp42",
    "ico": b"\0\0\1\0\1\0\x10\x10",
    "mpeg": b"\0\0\1\xba\x44\0",
    "aac": b"\xff\xf1\x50\x80",
    "mp3": b"\xff\xfb\x90\x64",
}


def test_every_format_has_a_beginning_here() -> None:
    assert sorted(row.name for row in FORMATS) == sorted(BEGINNINGS)


@pytest.mark.parametrize("name", BEGINNINGS)
def test_each_beginning_tells_its_format(name: str) -> None:
    found = format_of(BEGINNINGS[name] + bytes(300))
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("name", BEGINNINGS)
def test_a_beginning_is_enough_at_any_length(name: str) -> None:
    for length in range(len(BEGINNINGS[name])):
        format_of(BEGINNINGS[name][:length])


@pytest.mark.parametrize("row", [row for row in FORMATS if not row.is_read], ids=lambda row: row.name)
def test_what_is_not_read_is_named_with_advice(row) -> None:  # type: ignore[no-untyped-def]
    for part, error in ((ImagePart, InvalidImage), (AudioPart, InvalidAudio)):
        with pytest.raises(error, match=re.escape(f"x.y: {row.title}, not a supported")) as caught:
            part.format_of(BEGINNINGS[row.name], name="x.y")
        is_same_kind = row.modality in (None, "image" if part is ImagePart else "audio")
        assert caught.value.hint == (row.advice if is_same_kind else error.default_hint)


def test_a_photo_of_an_iphone_is_named() -> None:
    with pytest.raises(InvalidImage) as caught:
        ImagePart.format_of(BEGINNINGS["heic"], name="photo.jpg")
    assert str(caught.value) == "photo.jpg: a HEIC file (iPhone), not a supported picture (export as JPEG)"


def test_a_picture_is_not_a_recording() -> None:
    with pytest.raises(InvalidAudio, match="a PNG picture, not a supported recording") as caught:
        AudioPart.format_of(BEGINNINGS["png"])
    assert "M4A" in caught.value.hint
    with pytest.raises(InvalidImage, match="an MP4 or M4A file, not a supported picture"):
        ImagePart.format_of(BEGINNINGS["mov"])


@pytest.mark.parametrize(("data", "reason"), [(b"", "empty"), (b"just text", "not a supported picture")])
def test_bytes_of_no_format(data: bytes, reason: str) -> None:
    assert format_of(data) is None
    with pytest.raises(InvalidImage, match=reason):
        ImagePart.format_of(data)


@pytest.mark.parametrize(
    ("name", "kind"), [("a.heic", ImagePart), ("a.TIFF", ImagePart), ("a.mp4", AudioPart), ("a.wma", AudioPart)]
)
def test_suffixes_decide_if_the_bytes_do_not(tmp_path: Path, name: str, kind: type) -> None:
    (tmp_path / name).write_bytes(b"?")
    assert isinstance(Message.of(tmp_path / name).parts[0], kind)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InvalidInput, match="a pipe or a device"):
        Message.of(tmp_path / "a.png")
