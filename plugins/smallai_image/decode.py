"""Decodes the bytes of a picture file into RGB pixels, or raises a typed error."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from smallai_assistant import AssistantError, errors
from smallai_image.containers import Header, check_wanted, read_header

if TYPE_CHECKING:
    import numpy.typing as npt

MAX_PIXELS = 50_000_000
# What the decoder may hold at once, the file included, by the sizes in the file: `_needed_bytes`. What it really takes
# was measured in processes of their own for pictures of 50 megapixels in every mode: at most 290 MB.
MAX_DECODER_BYTES = 270_000_000

# A larger picture is reduced by a whole factor, so that its shorter side stays above this. It saves time and memory and
# does not change the scores, because classifiers see at most about 500 pixels a side.
_ENOUGH_PIXELS = 1024
# Of a longer picture only the middle is used: classifiers see the middle square, and some enlarge the whole before.
_MAX_LONG_SIDE, _MAX_RATIO = 8 * _ENOUGH_PIXELS, 64
_BAND_PIXELS = (
    1 << 20
)  # pixels that are converted at once: a second picture as large as the first would double the memory
# Bytes that Pillow's decoder gets at once: between two such blocks a cancel is noticed. Pillow's own 64 KiB expand to
# 64 MB in a PNG.
_READ_BYTES = 1 << 12
_START_OF_SCAN = b"\xff\xda"  # the marker in a JPEG
_ORIENTATION_TAG = 0x0112
# What undoes each EXIF orientation; 1 is upright.
_TRANSPOSE_OF = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: RGB, uint8, shape (height, width, 3), upright; transparent pixels are white.
        n_frames: number of frames in the file; `pixels` is the first.
    """

    pixels: npt.NDArray[np.uint8]
    n_frames: int


class _WatchedFile(io.BytesIO):
    """The file that the decoder reads. A read raises `Cancelled` when nobody wants the picture any more.

    Pillow reads a PNG, JPEG or GIF block by block while it decodes, and calls `read` from Python, through which the
    exception passes. It reads a WebP whole.

    Attributes:
        ends_before: a read ends before these bytes; empty if it gives all that was asked for.
    """

    def __init__(self, data: bytearray, cancel: Event) -> None:
        super().__init__(data)
        self._cancel = cancel
        self.ends_before = b""

    def read(self, size: int | None = -1, /) -> bytes:
        check_wanted(self._cancel)
        block = super().read(size)
        if self.ends_before and (end := block.find(self.ends_before, len(self.ends_before))) > 0:
            self.seek(end - len(block), os.SEEK_CUR)
            return block[:end]
        return block


def decode(data: bytes, *, name: str = "<bytes>", max_pixels: int = MAX_PIXELS, cancel: Event | None = None) -> Picture:
    """Decodes a PNG, JPEG, WebP or GIF file.

    Args:
        name: the name of the file in messages.
        max_pixels: maximum of width times height.
        cancel: decoding stops soon after it is set.

    Raises:
        InvalidImage: the file is of another format, damaged or cut short.
        InputTooLarge: the picture has more pixels. This is found in the header, before memory is allocated.
        Cancelled: `cancel` was set.
    """
    cancel = cancel or Event()
    header = read_header(data, name=name, max_pixels=max_pixels, cancel=cancel)
    try:
        _check_memory(header, name)
        file = _WatchedFile(header.pieces, cancel)
        header.pieces.clear()  # the decoder has its own copy now
        with Image.open(file, formats=(header.format,)) as image:
            if image.width * image.height > header.width * header.height:
                raise errors.InvalidImage(f"{name}: damaged: it claims two different sizes")
            image.decodermaxblock = _READ_BYTES  # before the orientation is read: for that, Pillow decodes a PNG
            if header.format == "JPEG":  # an empty scan has a few bytes, and takes as long as any
                file.ends_before = _START_OF_SCAN
            # A JPEG can be decoded at a half, a quarter or an eighth of its size, which is much faster.
            image.draft(None, (_ENOUGH_PIXELS, _ENOUGH_PIXELS))
            transpose = _TRANSPOSE_OF.get(_orientation(image))
            image.load()
            pixels = _reduced(image, header, cancel)
        if transpose is not None:
            pixels = np.array(Image.fromarray(pixels).transpose(transpose))
    except AssistantError:
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise errors.InputTooLarge(f"{name}: too large to decode: {error}") from error
    except Exception as error:  # Pillow's decoders raise many types: of struct, of zlib, of dictionary lookups
        raise errors.InvalidImage(f"{name}: cannot be decoded: {error}") from error
    return Picture(pixels, header.n_frames)


def _check_memory(header: Header, name: str) -> None:
    """Raises InputTooLarge if the decoder would hold more than `MAX_DECODER_BYTES`."""
    width, height = header.width, header.height
    # The same choice as in Pillow's `draft`.
    fits = min(width // _ENOUGH_PIXELS, height // _ENOUGH_PIXELS) if header.format == "JPEG" else 1
    scale = next(scale for scale in (8, 4, 2, 1) if scale <= max(fits, 1))
    # A few rows are held twice more while they are decoded, and an address for each row.
    pixels = (width * height + 3 * width) // scale**2
    n_bytes = header.pixel_bytes * pixels + 8 * height // scale + 2 * header.held_samples + len(header.pieces)
    if n_bytes > MAX_DECODER_BYTES:
        raise errors.InputTooLarge(
            f"{name}: {width:,} x {height:,} pixels of this kind of {header.format} take {n_bytes / 1e6:,.0f} MB "
            f"to decode, {MAX_DECODER_BYTES / 1e6:,.0f} MB are allowed",
            hint="send a smaller picture, or save it as a usual JPEG",
        )


def _reduced(image: Image.Image, header: Header, cancel: Event) -> npt.NDArray[np.uint8]:
    """Returns the picture reduced by a whole factor, on white, and cut to its middle if it is very long."""
    width, height = (header.width, header.height) if header.frame else image.size
    factor = max(min(width, height) // _ENOUGH_PIXELS, 1)
    longest = factor * min(_MAX_LONG_SIDE, _MAX_RATIO * -(-min(width, height) // factor))
    columns, rows = min(width, longest), min(height, longest)
    left, top = (width - columns) // 2, (height - rows) // 2
    if header.frame:  # from here on relative to the first frame
        left, top = left - header.frame[0], top - header.frame[1]
    pixels = np.empty((-(-rows // factor), -(-columns // factor), 3), np.uint8)
    step = max(_BAND_PIXELS // (columns * factor), 1) * factor
    for start in range(0, rows, step):
        check_wanted(cancel)
        stop = min(start + step, rows)
        band = _cut(image, (left, top + start, left + columns, top + stop))
        pixels[start // factor : -(-stop // factor)] = np.asarray(band.reduce(factor) if factor > 1 else band)
    return pixels


def _cut(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Returns a part of the picture as RGB on white. What lies outside the picture is white, too."""
    left, top, right, bottom = box
    inner = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    if inner == box:
        return _flat(image.crop(box))
    white = Image.new("RGB", (right - left, bottom - top), "white")
    if inner[0] < inner[2] and inner[1] < inner[3]:
        white.paste(_flat(image.crop(inner)), (inner[0] - left, inner[1] - top))
    return white


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8; 1 if there is none."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # EXIF may be damaged although the pixels are whole
        return 1
    return value if isinstance(value, int) else 1


def _flat(image: Image.Image) -> Image.Image:
    """Returns the picture as RGB on a white background."""
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip at 255 instead of scaling
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    clear = image.convert("RGBA")
    white = Image.new("RGB", clear.size, "white")
    white.paste(clear, mask=clear.getchannel("A"))
    return white
