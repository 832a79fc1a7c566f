"""Pictures and recordings in a report page: small, without traces of the file, and told if they cannot be shown."""

from __future__ import annotations

import base64
import hashlib
import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smallai_assistant.learning.report import Media
from smallai_assistant.learning.report_media import (
    MAX_AUDIO_BYTES,
    MAX_THUMBNAIL_BYTES,
    THUMBNAIL_PIXELS,
    Shown,
    shown,
)
from smallai_assistant.storage.media import keep_media


def keep(folder: Path, data: bytes, kind: str = "image") -> Media:
    digest = hashlib.sha256(data).hexdigest()
    keep_media(folder, digest, data)
    return Media(kind, digest)  # type: ignore[arg-type]


def picture(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def thumbnail(found: Shown) -> Image.Image:
    assert found.absent == ""
    head, _, data = found.url.partition(",")
    assert head == "data:image/jpeg;base64"
    raw = base64.b64decode(data)
    assert len(raw) <= MAX_THUMBNAIL_BYTES
    return Image.open(io.BytesIO(raw))


@pytest.mark.parametrize("size", [(1600, 900), (900, 1600), (30, 20), (1, 4000)])
def test_a_thumbnail_is_small(tmp_path: Path, size: tuple[int, int]) -> None:
    image = thumbnail(shown(keep(tmp_path, picture(noise(*size))), tmp_path))
    assert max(image.size) <= THUMBNAIL_PIXELS
    assert image.width <= size[0]


def test_a_cut_out_stands_on_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image = thumbnail(shown(keep(tmp_path, picture(clear)), tmp_path))
    assert image.getpixel((20, 20)) == (255, 255, 255)


def test_a_photo_is_upright_and_anonymous(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lying on its right side
    exif[0x010F] = "a camera"
    image = thumbnail(shown(keep(tmp_path, picture(noise(80, 40), "JPEG", exif=exif)), tmp_path))
    assert image.size == (40, 80)
    assert not image.getexif()


@pytest.mark.parametrize("data", [b"", b"no picture", picture(noise(50, 50))[:400], b"\x89PNG\r\n\x1a\n" + b"\0" * 99])
def test_a_damaged_picture_is_told(tmp_path: Path, data: bytes) -> None:
    assert shown(keep(tmp_path, data), tmp_path).absent == "the picture cannot be read"


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "PPM", "TGA", "ICO"])
def test_other_formats_are_not_opened(tmp_path: Path, kind: str) -> None:
    assert shown(keep(tmp_path, picture(noise(50, 50), kind)), tmp_path).absent == "the picture cannot be read"


def test_a_giant_picture_is_not_decoded(tmp_path: Path) -> None:
    giant = picture(Image.new("1", (10_000, 5_001)))
    assert "too large to show" in shown(keep(tmp_path, giant), tmp_path).absent


def recording(n_samples: int) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(2 * n_samples))
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "mime"),
    [
        (recording(100), "audio/wav"),
        (b"fLaC" + bytes(40), "audio/flac"),
        (b"OggS" + bytes(40), "audio/ogg"),
        (b"ID3" + bytes(40), "audio/mpeg"),
        (b"\xff\xfb" + bytes(40), "audio/mpeg"),
        (b"\0\0\0\x20ftypM4A " + bytes(40), "audio/mp4"),
        (b"\x1a\x45\xdf\xa3" + bytes(40), "audio/webm"),
    ],
)
def test_a_recording_can_be_played(tmp_path: Path, data: bytes, mime: str) -> None:
    found = shown(keep(tmp_path, data, "audio"), tmp_path)
    assert found.url == f"data:{mime};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    ("data", "why"), [(recording(MAX_AUDIO_BYTES), "too large for this page"), (b"<html>", "do not play")]
)
def test_a_recording_that_is_only_named(tmp_path: Path, data: bytes, why: str) -> None:
    media = keep(tmp_path, data, "audio")
    found = shown(media, tmp_path)
    assert found.url == ""
    assert why in found.absent
    assert media.sha256 in found.absent


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    assert shown(Media("image", "ab" * 32), tmp_path).absent == "the picture was erased or is gone"
    assert shown(Media("audio", "ab" * 32), tmp_path).absent == "the recording was erased or is gone"
