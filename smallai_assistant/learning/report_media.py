"""Pictures and recordings of a report page, as data URLs, so that the page stays one file."""

from __future__ import annotations

import base64
import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smallai_assistant.file_formats import format_of
from smallai_assistant.learning.report import Media
from smallai_assistant.storage.media import media_path

log = logging.getLogger(__name__)

# Twice the size at which the page shows it, for screens with two pixels per CSS pixel.
THUMBNAIL_PIXELS = 200
# With 12 pictures the page stays under 700 kB.
MAX_THUMBNAIL_BYTES = 40_000
# 16 seconds of 16 kHz, 16-bit mono. With 12 recordings the page stays under 9 MB, which mail programs still take.
MAX_AUDIO_BYTES = 512 * 1024
# What a picture may have before it is decoded: the decoder would need 4 bytes for each of them.
_MAX_SOURCE_PIXELS = 50_000_000  # as at the door of pictures
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")  # as at that door: no other decoder sees a kept file
_JPEG_QUALITIES = (85, 70, 50, 30)


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture or a recording as the page shows it: its data URL, or the sentence that stands in for it."""

    kind: Literal["image", "audio"]
    url: str = ""
    absent: str = ""


def shown(media: Media, folder: Path) -> Shown:
    """Reads a kept file for the page.

    Args:
        folder: the media folder.
    """
    path = media_path(folder, media.sha256)
    try:
        n_bytes = path.stat().st_size
        if media.kind == "image":
            return _picture(path)
        if n_bytes > MAX_AUDIO_BYTES:
            return Shown("audio", absent=f"recording of {n_bytes / 1e6:.1f} MB, too large for this page: {path.name}")
        return _recording(path)
    except OSError:
        # Never an error: the figures are worth reading without the picture.
        word = "picture" if media.kind == "image" else "recording"
        return Shown(media.kind, absent=f"the {word} was erased or is gone")


def _picture(path: Path) -> Shown:
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > _MAX_SOURCE_PIXELS:
                return Shown("image", absent=f"picture of {image.width:,} x {image.height:,} pixels, too large to show")
            # JPEG decodes at a fraction of its size; other formats ignore it.
            image.draft("RGB", (2 * THUMBNAIL_PIXELS, 2 * THUMBNAIL_PIXELS))
            # Cameras store the picture lying and the rotation beside it.
            upright = ImageOps.exif_transpose(image).convert("RGBA")
            upright.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
            # JPEG has no transparency: without a background, cut-outs would stand on black.
            small = Image.new("RGB", upright.size, "white")
            small.paste(upright, mask=upright.getchannel("A"))
    except OSError as error:
        # A missing file is the caller's to tell; a damaged one is told here.
        if isinstance(error, FileNotFoundError):
            raise
        return Shown("image", absent="the picture cannot be read")
    except Exception as error:
        # Decoders of hostile files raise what they like.
        log.info("%s cannot be shown: %s", path.name, error)
        return Shown("image", absent="the picture cannot be read")
    for quality in _JPEG_QUALITIES:
        out = io.BytesIO()
        # Encoded again, so that nothing of the original file but its pixels gets into the page: no place, no camera.
        small.save(out, "JPEG", quality=quality)
        if out.tell() <= MAX_THUMBNAIL_BYTES:
            return Shown("image", url=_data_url("image/jpeg", out.getvalue()))
    return Shown("image", absent="the picture does not fit into this page")


def _recording(path: Path) -> Shown:
    data = path.read_bytes()
    found = format_of(data)  # kept files have no suffix
    if found is None or not found.mime:
        return Shown("audio", absent=f"recording in a format that browsers do not play: {path.name}")
    return Shown("audio", url=_data_url(found.mime, data))


def _data_url(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"
