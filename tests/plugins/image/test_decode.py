"""Decoding: a whole picture file is decoded upright and on white, anything else raises a typed error."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from smallai_assistant import AssistantError
from smallai_assistant.errors import InputTooLarge, InvalidImage
from smallai_image.decode import MAX_PIXELS, decode

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


def textured(width: int = 48, height: int = 32) -> Image.Image:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def with_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


PICTURE = textured()
FRAMES = {"save_all": True, "append_images": [PICTURE.rotate(180)]}
FILES = {
    "jpeg": encode(PICTURE, "JPEG"),
    "jpeg progressive": encode(PICTURE, "JPEG", progressive=True),
    "jpeg grey": encode(PICTURE.convert("L"), "JPEG"),
    "jpeg cmyk": encode(PICTURE.convert("CMYK"), "JPEG"),
    "jpeg with exif and thumbnail": encode(PICTURE, "JPEG", exif=with_exif(1), comment=encode(PICTURE, "JPEG")[:2000]),
    "png": encode(PICTURE, "PNG"),
    "png palette": encode(PICTURE.convert("P"), "PNG"),
    "png alpha": encode(PICTURE.convert("RGBA"), "PNG"),
    "png animated": encode(PICTURE, "PNG", **FRAMES),
    "webp": encode(PICTURE, "WEBP"),
    "webp lossless": encode(PICTURE, "WEBP", lossless=True),
    "webp animated": encode(PICTURE, "WEBP", **FRAMES),
    "gif": encode(PICTURE, "GIF"),
    "gif animated": encode(PICTURE, "GIF", **FRAMES),
}


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# -- whole files --


@pytest.mark.parametrize("kind", FILES)
def test_whole_file_is_decoded(kind: str) -> None:
    picture = decode(FILES[kind])
    assert picture.pixels.shape == (32, 48, 3)
    assert picture.pixels.dtype == np.uint8
    assert picture.n_frames == (2 if "animated" in kind else 1)
    original = np.asarray(PICTURE.convert("L").convert("RGB") if "grey" in kind else PICTURE, np.float64)
    tolerance = 25 if kind.startswith(("gif", "png palette")) else 12  # a palette has 256 colours, JPEG is lossy
    assert np.abs(picture.pixels - original).mean() < tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = Image.new("RGB", (48, 32), WHITE)
    upright.paste(RED, (0, 0, 16, 16))
    upright.paste(BLUE, (32, 16, 48, 32))
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that the camera's turn amounts to
    turned = upright if orientation == 1 else upright.transpose(Image.Transpose(inverse[orientation]))
    pixels = decode(encode(turned, "JPEG", quality=95, subsampling=0, exif=with_exif(orientation))).pixels
    assert pixels.shape == (32, 48, 3)
    assert np.abs(pixels.astype(int) - np.asarray(upright, int)).mean() < 5


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_damaged_exif_is_ignored() -> None:
    data = encode(PICTURE, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert decode(data).pixels.shape == (32, 48, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparent_pixels_become_white(mode: str) -> None:
    clear = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (2, 0, 4, 2))
    if mode == "P":
        image, options = Image.new("P", (4, 2), 0), {"transparency": 0}
        image.putpalette([255, 0, 0, 0, 0, 0])
        image.paste(1, (2, 0, 4, 2))
    elif mode == "RGB":
        image, options = Image.new("RGB", (4, 2), RED), {"transparency": RED}
        image.paste((0, 0, 0), (2, 0, 4, 2))
    else:
        image, options = clear.convert(mode), {}
    pixels = decode(encode(image, "PNG", **options)).pixels
    assert (pixels[:, :2] == 255).all()
    assert (pixels[:, 2:] == 0).all()


def test_half_transparent_pixels_mix_with_white() -> None:
    pixels = decode(encode(Image.new("RGBA", (2, 2), (0, 0, 0, 128)), "PNG")).pixels
    assert np.abs(pixels.astype(int) - 127).max() <= 1


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 0x4000, 0x8000, 0xFFFF]], np.uint16)
    pixels = decode(encode(Image.fromarray(values), "PNG")).pixels
    assert pixels[0, :, 0].tolist() == [0, 0x40, 0x80, 0xFF]


def test_one_bit_picture_is_black_and_white() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert decode(encode(image, "PNG")).pixels[0, :, 1].tolist() == [0, 255]


def test_first_frame_is_used() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    for format in ("GIF", "PNG", "WEBP"):
        picture = decode(encode(frames[0], format, save_all=True, append_images=frames[1:]))
        assert picture.n_frames == 3
        assert np.abs(picture.pixels.astype(int) - RED).max() < 10, format


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_large_pictures_are_reduced(format: str) -> None:
    picture = textured(96, 64).resize((3072, 2048), Image.Resampling.BICUBIC)
    pixels = decode(encode(picture, format)).pixels
    assert pixels.shape == (1024, 1536, 3)
    small = np.asarray(picture.resize((1536, 1024), Image.Resampling.BOX), int)
    assert np.abs(pixels - small).mean() < 8


def test_bytes_after_the_end_are_tolerated() -> None:
    for kind, data in FILES.items():
        assert (decode(data + b"appended \xff\xd8\xff").pixels == decode(data).pixels).all(), kind


# -- damaged and other files --


@pytest.mark.parametrize("kind", FILES)
def test_file_cut_anywhere_is_refused(kind: str) -> None:
    data = FILES[kind]
    for length in range(len(data)):
        with pytest.raises(InvalidImage):
            decode(data[:length])


def test_photo_cut_anywhere_is_refused(photos: list[tuple[Path, int]]) -> None:
    data = photos[0][0].read_bytes()
    lengths = {len(data) - n for n in range(1, 200)} | set(range(0, len(data), 997))
    for length in sorted(lengths):
        with pytest.raises(InvalidImage):
            decode(data[:length])


@pytest.fixture(scope="module")
def photos() -> list[tuple[Path, int]]:
    from bench.data import imagenet_photos

    return imagenet_photos()


SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
FOREIGN = {
    "nothing": b"",
    "text": b"this is text, not a picture\n",
    "pdf": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
    "psd": b"8BPS\0\1" + bytes(40),
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "svg": SVG,
    "bmp": encode(PICTURE, "BMP"),
    "tiff": encode(PICTURE, "TIFF"),
    "ico": encode(PICTURE, "ICO"),
    "a wave file": b"RIFF\x24\0\0\0WAVEfmt " + bytes(28),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_other_formats_are_refused_under_any_name(what: str) -> None:
    for name in ("picture.png", "picture.jpg", f"picture.{what}"):
        with pytest.raises(InvalidImage, match="picture") as caught:
            decode(FOREIGN[what], name=name)
        assert caught.value.hint


@pytest.mark.parametrize("magic", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\x40\0\0\0WEBPVP8 "])
def test_signature_alone_is_refused(magic: bytes) -> None:
    for foreign in FOREIGN.values():
        with pytest.raises(InvalidImage):
            decode(magic + foreign)


def test_flipped_bit_in_a_png_is_noticed() -> None:
    data = bytearray(FILES["png"])
    data[len(data) // 2] ^= 1
    with pytest.raises(InvalidImage, match="checksum"):
        decode(bytes(data))


def test_png_with_too_few_pixels_is_refused() -> None:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0))
    rows = zlib.compress(bytes(30 * (64 * 3 + 1)))  # 30 of 64
    data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")
    with pytest.raises(InvalidImage):
        decode(data)


def interlaced_png(*, n_missing: int) -> bytes:
    """Returns five by three black pixels in the seven passes of Adam7; Pillow cannot write such a file."""
    sizes = ((1, 1), (1, 1), (2, 0), (1, 1), (3, 1), (2, 2), (5, 1))  # columns and rows of each pass
    rows = bytes(sum(rows * (1 + 3 * columns) for columns, rows in sizes) - n_missing)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 3, 8, 2, 0, 0, 1))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def test_interlaced_png_must_have_all_pixels() -> None:
    assert (decode(interlaced_png(n_missing=0)).pixels == np.zeros((3, 5, 3))).all()
    with pytest.raises(InvalidImage, match="fewer pixels"):
        decode(interlaced_png(n_missing=1))


def huge_png() -> bytes:
    """Returns a valid PNG of 50,000 x 50,000 black pixels with one bit each: a small file, gigabytes decoded."""
    packer = zlib.compressobj(1)
    band = bytes(500 * (50_000 // 8 + 1))
    rows = b"".join(packer.compress(band) for _ in range(100)) + packer.flush()
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


# Memory is measured in a separate process: other tests have raised the peak of this one.
MEASURE = """
import json, resource, sys
from pathlib import Path
from smallai_assistant.errors import InputTooLarge
from smallai_image.decode import decode
data = Path(sys.argv[1]).read_bytes()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode(data)
    code = "decoded"
except InputTooLarge as error:
    code = error.code
print(json.dumps([code, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]))
"""


def test_huge_png_is_refused_without_allocating(tmp_path: Path) -> None:
    file = tmp_path / "huge.png"
    file.write_bytes(huge_png())
    done = subprocess.run([sys.executable, "-c", MEASURE, file], capture_output=True, text=True, check=True)
    code, growth_mb = json.loads(done.stdout)
    assert code == "input_too_large"
    assert growth_mb < 64


def huge_headers() -> dict[str, bytes]:
    """Returns the beginnings of files that declare far more pixels than are allowed."""
    canvas = (20_000 - 1).to_bytes(3, "little") * 2
    frame = struct.pack(">HBHHB", 17, 8, 60_000, 60_000, 3) + bytes(9)
    screen = struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0)
    return {
        "png": b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 9, 8, 2, 0, 0, 0)),
        "jpeg": b"\xff\xd8\xff\xe0\0\4ab\xff\xc0" + frame,
        "webp": b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas,
        "gif": b"GIF89a" + screen + b"\x2c" + struct.pack("<4HB", 0, 0, 60_000, 60_000, 0) + b"\x08\0\x3b",
    }


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif"])
def test_declared_size_is_checked_first(kind: str) -> None:
    with pytest.raises(InputTooLarge, match=f"{MAX_PIXELS:,}"):
        decode(huge_headers()[kind])


def test_size_of_the_first_gif_frame_counts() -> None:
    data = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + b"\x2c" + struct.pack("<4HB", 9, 9, 60_000, 60_000, 0)
    with pytest.raises(InputTooLarge):
        decode(data + b"\x08\0\x3b")


@pytest.mark.parametrize("frame", [b"\xff\xc0\x00\x02", b"\xff\xc0\x00\x0b\x08\x00\x10\x00\x10\x01\x01\x11\x00"])
def test_jpeg_of_many_frames_is_refused_at_once(frame: bytes) -> None:
    # A frame that is read past its end declares 255 components, of 80,000 frames.
    with pytest.raises(InvalidImage, match=r"frame|cut"):
        decode(b"\xff\xd8" + frame * 80_000 + b"\xff\xd9")


def test_picture_of_zero_width_is_refused() -> None:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 9, 8, 2, 0, 0, 0))
    with pytest.raises(InvalidImage):
        decode(b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IEND", b""))


def assert_decodes_or_raises_typed_error(data: bytes) -> None:
    try:
        pixels = decode(data).pixels
    except AssistantError:
        return
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.dtype == np.uint8


MAGICS = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF\x20\0\0\0WEBP", b"RIFF\x20\0\0\0WEBPVP8X"]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(MAGICS), st.binary(max_size=200))
@example(b"GIF89a", bytes(7) + b"\x2c")
def test_random_bytes_never_crash(magic: bytes, tail: bytes) -> None:
    assert_decodes_or_raises_typed_error(magic + tail)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=12))
def test_damaged_files_never_crash(kind: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(FILES[kind])
    for position, value in changes:
        data[position % min(len(data), 400)] = value  # changes in the headers are found at the beginning
    assert_decodes_or_raises_typed_error(bytes(data))


def test_pillow_is_not_set_to_accept_truncated_files() -> None:
    from PIL import ImageFile

    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
