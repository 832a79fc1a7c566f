"""A picture from a stranger costs at most what its kind of picture needs: the bounds on time and on memory."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smallai_assistant.errors import Cancelled, InputTooLarge, InvalidImage
from smallai_image.containers import MAX_PIECES, MAX_SCANS, read_header
from smallai_image.decode import MAX_PIXELS, decode

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8))


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def black_png(width: int, height: int, *, depth: int = 8, color: int = 2) -> bytes:
    """A valid PNG of black pixels, which Pillow cannot write in every depth."""
    n_bytes = height * (1 + (width * depth * {0: 1, 2: 3, 4: 2, 6: 4}[color] + 7) // 8)
    packer = zlib.compressobj(1)
    blocks = [packer.compress(bytes(min(1 << 22, n_bytes - start))) for start in range(0, n_bytes, 1 << 22)]
    rows = b"".join(blocks) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return PNG_SIGNATURE + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def webp(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def animated_webp(canvas: tuple[int, int], offset: tuple[int, int], frame: Image.Image) -> bytes:
    """A WebP whose first frame lies at `offset`, which must be even."""

    def three(*numbers: int) -> bytes:
        return b"".join(number.to_bytes(3, "little") for number in numbers)

    pixels = encode(frame, "WEBP", lossless=True)[12:]
    place = three(offset[0] // 2, offset[1] // 2, frame.width - 1, frame.height - 1, 100) + b"\0"
    return webp(
        (b"VP8X", b"\x02\0\0\0" + three(canvas[0] - 1, canvas[1] - 1)),
        (b"ANIM", bytes(6)),
        (b"ANMF", place + pixels),
        (b"ANMF", place + pixels),
    )


# -- the number of pieces --


def of_many_pieces(n: int) -> dict[str, bytes]:
    """Returns pictures with `n` more pieces than they need."""
    png, jpeg, gif = encode(NOISE, "PNG"), encode(NOISE, "JPEG"), encode(NOISE.convert("P"), "GIF")
    table = 13 + 3 * 256
    return {
        "png text": png[:33] + chunk(b"tEXt", b"") * n + png[33:],
        "png pixels": png[:33] + chunk(b"IDAT", b"") * n + png[33:],
        "jpeg": jpeg[:2] + b"\xff\xfe\0\2" * n + jpeg[2:],
        "gif": gif[:table] + b"\x21\xfe\0" * n + gif[table:],
        "gif block": gif[:table] + b"\x21\xfe" + b"\1 " * n + b"\0" + gif[table:],
        "webp": webp((b"VP8L", encode(NOISE, "WEBP", lossless=True)[20:]), *[(b"ABCD", b"")] * n),
    }


def test_too_many_pieces_are_refused() -> None:
    for kind, data in of_many_pieces(MAX_PIECES).items():
        with pytest.raises(InputTooLarge, match=f"{MAX_PIECES:,} pieces"):
            decode(data)
        assert kind


def test_pieces_beside_the_pixels_do_no_harm() -> None:
    plain = of_many_pieces(0)
    for kind, data in of_many_pieces(5_000).items():
        assert (decode(data).pixels == decode(plain[kind]).pixels).all(), kind


# -- what the decoder never sees --


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif"])
def test_profiles_and_comments_are_not_decoded(kind: str) -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    plain = encode(NOISE.convert("P") if kind == "gif" else NOISE, kind)
    if kind == "png":
        texts = chunk(b"iCCP", b"x\0\0" + bomb) + chunk(b"zTXt", b"Comment\0\0" + bomb)
        data = plain[:33] + texts * 20 + plain[33:]
    elif kind == "jpeg":
        data = encode(NOISE, "JPEG", icc_profile=bytes(900_000), comment=b"x" * 60_000)
    elif kind == "webp":
        data = encode(NOISE, "WEBP", icc_profile=bytes(900_000), xmp=bytes(900_000), exif=b"II*\0" + bytes(900_000))
    else:
        data = encode(NOISE.convert("P"), "GIF", comment=b"x" * 900_000)
    header = read_header(data, name="x", max_pixels=MAX_PIXELS)
    assert len(header.pieces) < 20_000 < len(data)
    assert (decode(data).pixels == decode(plain).pixels).all()


def test_later_frames_are_not_decoded() -> None:
    frames = [Image.effect_noise((64, 64), 50 + i).convert("RGB") for i in range(9)]
    for format in ("GIF", "PNG", "WEBP"):
        data = encode(frames[0], format, save_all=True, append_images=frames[1:])
        assert len(read_header(data, name="x", max_pixels=MAX_PIXELS).pieces) < len(data) / 4
        assert decode(data).n_frames == 9


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("by", ["exif", "xmp"])
def test_orientation_is_still_read(format: str, by: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    if by == "xmp" and format == "PNG":  # Pillow does not write it
        png = encode(NOISE, "PNG")
        data = png[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp) + png[33:]
    else:
        data = encode(NOISE, format, **({"exif": exif} if by == "exif" else {"xmp": xmp}))
    assert decode(data).pixels.shape == (48, 32, 3)


# -- scans --


def with_scans(n: int) -> bytes:
    """A progressive JPEG whose last scan, some bytes long, comes `n` times more."""
    data = encode(Image.new("RGB", (1600, 1200), "red"), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert len(last) < 100
    return data[:-2] + last * n + data[-2:]


def test_a_thousand_scans_are_refused() -> None:
    assert decode(with_scans(3)).pixels.shape == (1200, 1600, 3)
    with pytest.raises(InputTooLarge, match="scans"):
        decode(with_scans(1000))
    with pytest.raises(InputTooLarge, match=f"{MAX_SCANS + 1} scans"):
        decode(encode(NOISE, "JPEG", progressive=True)[:-2] + with_scans(0)[-60:-2] * 1000 + b"\xff\xd9")


def test_scans_of_a_large_picture_count_more() -> None:
    data = bytearray(with_scans(60))
    frame = data.index(b"\xff\xc2")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 6000, 8000)  # the size of the file's only frame
    with pytest.raises(InputTooLarge, match="scans"):
        decode(bytes(data))


def test_fill_bytes_before_a_marker_are_skipped() -> None:
    data = encode(NOISE, "JPEG")
    assert (decode(data[:-2] + b"\xff" * 3_000_000 + data[-2:]).pixels == decode(data).pixels).all()


@pytest.mark.parametrize("frame", [0xC3, 0xC9, 0xCA])
def test_lossless_and_arithmetic_jpegs_are_refused(frame: int) -> None:
    data = encode(NOISE, "JPEG")
    with pytest.raises(InvalidImage, match="not supported"):
        decode(data.replace(b"\xff\xc0", bytes([0xFF, frame])))


# -- memory --


HEAVY = {
    "an address for each row": lambda: black_png(1, 40_000_000, depth=1, color=0),
    "a narrow canvas": lambda: animated_webp((32, 1_048_600), (0, 0), NOISE.crop((0, 0, 32, 24))),
    "a large canvas": lambda: animated_webp((7_000, 7_000), (0, 0), NOISE),
    "a large WebP": lambda: encode(Image.new("L", (16_000, 3_000)), "WEBP", method=0),
}


@pytest.mark.parametrize("what", HEAVY)
def test_what_takes_too_much_memory_is_refused(what: str) -> None:
    with pytest.raises(InputTooLarge, match="MB to decode") as caught:
        decode(HEAVY[what]())
    assert "JPEG" in caught.value.hint


def test_a_progressive_jpeg_is_held_whole() -> None:
    """A decoder keeps all samples of a progressive JPEG, of 2 bytes each, whatever size it gives."""
    data = bytearray(encode(NOISE, "JPEG", progressive=True, subsampling=0))
    frame = data.index(b"\xff\xc2")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 6_000, 8_000)
    with pytest.raises(InputTooLarge, match="MB to decode"):
        decode(bytes(data))


MEASURE = """
import json, sys
from pathlib import Path
from smallai_image.decode import decode

def kilobytes(field):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])

grown = {}
for path in map(Path, sys.argv[1:]):
    data = path.read_bytes()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = kilobytes("VmRSS")
    decode(data)
    grown[path.name] = (kilobytes("VmHWM") - before) / 1024
print(json.dumps(grown))
"""


@pytest.mark.slow  # pictures of 50 megapixels
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is read on Linux")
def test_fifty_megapixels_stay_under_300_mb(tmp_path: Path) -> None:
    width, height = 8_000, 6_200
    pictures = {
        "rgba16.png": black_png(width, height, depth=16, color=6),
        "grey16.png": black_png(width, height, depth=16, color=0),
        "grey-alpha.png": black_png(width, height, color=4),
        "rgb.png": black_png(width, height),
        "panorama.png": black_png(31_000, 1_600, color=6),
        "phone.jpg": encode(Image.new("RGB", (width, height), "gray"), "JPEG"),
        "web.jpg": encode(Image.new("RGB", (width, height), "gray"), "JPEG", progressive=True),
        "palette.gif": encode(Image.new("P", (width, height)), "GIF"),
        "photo.webp": encode(Image.new("RGB", (4_640, 3_480), "gray"), "WEBP", method=0),
    }
    for name, data in pictures.items():
        (tmp_path / name).write_bytes(data)
    files = [str(tmp_path / name) for name in pictures]
    done = subprocess.run([sys.executable, "-c", MEASURE, *files], capture_output=True, text=True, check=True)
    assert max(json.loads(done.stdout).values()) < 300, done.stdout


# -- shapes --


def test_a_frame_beside_the_corner_stands_on_white() -> None:
    pixels = decode(animated_webp((60, 40), (8, 4), NOISE)).pixels
    assert pixels.shape == (40, 60, 3)
    assert (pixels[4:36, 8:56] == np.asarray(NOISE)).all()
    assert (pixels[:4] == 255).all()
    assert (pixels[:, :8] == 255).all()
    assert (pixels[36:] == 255).all()


def test_a_frame_outside_the_canvas_is_refused() -> None:
    with pytest.raises(InvalidImage, match="does not lie in the picture"):
        decode(animated_webp((40, 40), (8, 4), NOISE))


def test_of_a_strip_the_middle_is_used() -> None:
    strip = Image.new("RGB", (20_001, 10), "white")
    strip.paste("red", (10_000, 0, 10_001, 10))
    pixels = decode(encode(strip, "PNG")).pixels
    assert pixels.shape == (10, 640, 3)
    assert pixels[0, 319:322, 1].tolist().count(0) == 1


def test_a_long_picture_is_reduced_as_one() -> None:
    """The bands in which a picture is reduced leave no seams."""
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (3_001, 2_305, 3), np.uint8))
    wanted = np.asarray(image.reduce(2))
    assert (decode(encode(image, "PNG", compress_level=1)).pixels == wanted).all()


def test_a_png_that_takes_too_long_is_refused() -> None:
    header = struct.pack(">II5B", 7000, 7000, 8, 6, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", bytes(56_000_000)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    with pytest.raises(InputTooLarge, match="takes too long"):
        decode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


# -- cancelling --


class CancelledAtCheck(Event):
    """An event that is set from the n-th time on that somebody looks at it."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n_left, self.n_looks = n, 0

    def is_set(self) -> bool:
        self.n_looks += 1
        return self.n_looks >= self.n_left


SLOW: dict[str, tuple[Callable[[], bytes], int]] = {
    "many scans": (lambda: with_scans(60), 60),
    "a black PNG": (lambda: black_png(4_000, 3_000), 36 * 4),  # 256 KiB at a time
    "a PNG": (lambda: encode(NOISE.resize((600, 400)), "PNG", compress_level=0), 600 * 400 * 3 // 4096),
    "a GIF": (lambda: encode(NOISE.resize((600, 400)), "GIF"), 600 * 400 // 8192),
}


@pytest.mark.parametrize("what", SLOW)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_cancel_stops_the_decoder(what: str, share: float) -> None:
    make, n_steps = SLOW[what]
    data = make()
    never = CancelledAtCheck(10**9)
    decode(data, cancel=never)
    assert never.n_looks > n_steps
    cancel = CancelledAtCheck(int(share * never.n_looks) + 1)
    with pytest.raises(Cancelled):
        decode(data, cancel=cancel)
    assert cancel.n_looks <= cancel.n_left + 1  # Pillow decodes a PNG again if that failed while it looked for EXIF


def test_pixels_do_not_depend_on_the_reads() -> None:
    """A read that ends before each scan changes nothing."""
    data = encode(NOISE.resize((300, 200)), "JPEG", progressive=True, quality=95)
    with Image.open(io.BytesIO(data)) as image:
        assert (decode(data).pixels == np.asarray(image)).all()
