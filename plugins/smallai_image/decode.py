"""Decodes the bytes of a picture file into RGB pixels, or raises a typed error."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from smallai_assistant import AssistantError, errors
from smallai_image.containers import read_header

if TYPE_CHECKING:
    import numpy.typing as npt

MAX_PIXELS = 50_000_000  # 150 MB as RGB

# A larger picture is reduced by a whole factor, so that its shorter side stays above this. It saves time and memory and
# does not change the scores, because classifiers see at most about 500 pixels a side.
_ENOUGH_PIXELS = 1024
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


def decode(data: bytes, *, name: str = "<bytes>", max_pixels: int = MAX_PIXELS) -> Picture:
    """Decodes a PNG, JPEG, WebP or GIF file.

    Args:
        name: the name of the file in messages.
        max_pixels: maximum of width times height.

    Raises:
        InvalidImage: the file is of another format, damaged or cut short.
        InputTooLarge: the picture has more pixels. This is found in the header, before memory is allocated.
    """
    header = read_header(data, name=name, max_pixels=max_pixels)
    try:
        with Image.open(io.BytesIO(data), formats=(header.format,)) as image:
            # Checked again: Pillow may read another size than `read_header`, for example of a damaged file.
            if image.width * image.height > max_pixels:
                raise errors.InputTooLarge(
                    f"{name}: {image.width:,} x {image.height:,} pixels, {max_pixels:,} are allowed"
                )
            # A JPEG can be decoded at a half, a quarter or an eighth of its size, which is much faster.
            image.draft(None, (_ENOUGH_PIXELS, _ENOUGH_PIXELS))
            transpose = _TRANSPOSE_OF.get(_orientation(image))
            image.load()
            flat = _flat(image)
            factor = min(flat.size) // _ENOUGH_PIXELS
            flat = flat.reduce(factor) if factor > 1 else flat
            pixels = np.array(flat if transpose is None else flat.transpose(transpose))
    except AssistantError:
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise errors.InputTooLarge(f"{name}: too large to decode: {error}") from error
    except Exception as error:  # Pillow's decoders raise many types: of struct, of zlib, of dictionary lookups
        raise errors.InvalidImage(f"{name}: cannot be decoded: {error}") from error
    return Picture(pixels, header.n_frames)


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
