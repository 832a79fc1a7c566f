"""Checks PNG, JPEG, WebP and GIF files from the first byte to the end marker, without decoding a pixel.

Decoders are lenient: given half a file, several of them fill the rest with grey or with whatever is in memory. A file
that passes this check is whole, and its size in pixels is known before memory is allocated for them.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from smallai_assistant import errors

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # samples in a pixel, by color type
# The seven passes of an interlaced PNG: first column, first row, step to the right, step down.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PIECE_BYTES = 1 << 16
# The start of a JPEG segment. After 0xFF these bytes mean something else: zero is a stuffed 0xFF of the pixels, 0xD0 to
# 0xD7 are restart markers, 0xFF is fill, 0x01 and 0xD8 are TEM and SOI, which have no length.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15 without DHT, JPG and DAC
_EOI, _SOS = 0xD9, 0xDA
# The first bytes of other formats that people send, for a message that helps.
_OTHER_FORMATS = (
    (b"%PDF", "a PDF document"),
    (b"8BPS", "a Photoshop file"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "XML, perhaps an SVG drawing"),
    (b"II*\0", "a TIFF file"),
    (b"MM\0*", "a TIFF file"),
    (b"BM", "a BMP file"),
    (b"PK\x03\x04", "a ZIP archive"),
)


@dataclass(frozen=True, slots=True)
class Header:
    """What a picture file declares.

    Attributes:
        format: the format's name in Pillow.
        width, height: size in pixels.
        n_frames: more than 1 for an animation.
    """

    format: str
    width: int
    height: int
    n_frames: int = 1


@dataclass(frozen=True, slots=True)
class _File:
    data: bytes
    name: str
    max_pixels: int

    def invalid(self, reason: str) -> errors.InvalidImage:
        return errors.InvalidImage(f"{self.name}: {reason}")

    def cut(self) -> errors.InvalidImage:
        return self.invalid("the file is cut short")

    def check_size(self, width: int, height: int) -> None:
        if width < 1 or height < 1:
            raise self.invalid(f"it claims {width:,} x {height:,} pixels")
        if width * height > self.max_pixels:
            raise errors.InputTooLarge(
                f"{self.name}: {width:,} x {height:,} pixels, {self.max_pixels:,} in all are allowed",
                hint="send a smaller picture",
            )


def read_header(data: bytes, *, name: str, max_pixels: int) -> Header:
    """Checks that the file is whole and not too large. Bytes after its end are tolerated, as decoders do.

    Args:
        name: the name of the file in messages.
        max_pixels: maximum of width times height; checked before the rest of the file.

    Raises:
        InvalidImage: the file is of another format, malformed or cut short.
        InputTooLarge: the picture has more pixels.
    """
    file = _File(data, name, max_pixels)
    walk = _walker(data)
    if walk is None:
        raise file.invalid(_why_not(data))
    try:
        return walk(file)
    except (struct.error, IndexError) as error:  # a read past the end of the file
        raise file.cut() from error


def _walker(data: bytes) -> Callable[[_File], Header] | None:
    if data.startswith(_PNG_SIGNATURE):
        return _walk_png
    if data.startswith(b"\xff\xd8\xff"):
        return _walk_jpeg
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _walk_gif
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _walk_webp
    return None


def _why_not(data: bytes) -> str:
    if not data:
        return "the file is empty"
    head = data[:64].lstrip()
    for magic, what in _OTHER_FORMATS:
        if head.startswith(magic):
            return f"{what}, not a supported picture"
    return "not a supported picture, or its first bytes are missing"


def _walk_png(file: _File) -> Header:
    data, position = file.data, len(_PNG_SIGNATURE)
    width = height = n_bytes = 0
    n_frames = 1
    packed = []
    while True:
        length, kind = struct.unpack_from(">I4s", data, position)
        if position == len(_PNG_SIGNATURE):
            if kind != b"IHDR" or length != 13:
                raise file.invalid("a PNG that does not begin with its header")
            width, height = struct.unpack_from(">II", data, position + 8)
            file.check_size(width, height)
            n_bytes = _png_bytes(file, width, height)
        end = position + 8 + length
        (checksum,) = struct.unpack_from(">I", data, end)
        is_critical = not kind[0] & 0x20  # an upper-case first letter; decoders ignore damage in the other chunks
        if is_critical and zlib.crc32(memoryview(data)[position + 4 : end]) != checksum:
            raise file.invalid(f"damaged: the checksum of its {kind.decode('latin-1')!r} chunk is wrong")
        if kind == b"acTL":
            (n_frames,) = struct.unpack_from(">I", data, position + 8)
        elif kind == b"IDAT":
            packed.append(memoryview(data)[position + 8 : end])
        position = end + 4
        if kind == b"IEND":
            break
    _check_png_pixels(file, packed, n_bytes)
    return Header("PNG", width, height, n_frames)


def _png_bytes(file: _File, width: int, height: int) -> int:
    """Returns the size of the pixels before compression, in bytes: each row is a filter byte and its samples."""
    depth, colour, _, _, interlace = struct.unpack_from(">5B", file.data, len(_PNG_SIGNATURE) + 16)
    if colour not in _PNG_SAMPLES or interlace > 1:
        raise file.invalid("damaged: a PNG header that makes no sense")
    bits = depth * _PNG_SAMPLES[colour]
    passes = _ADAM7 if interlace else ((0, 0, 1, 1),)
    # Columns and rows of each pass; -(-a // b) rounds up.
    sizes = ((-((left - width) // right), -((top - height) // down)) for left, top, right, down in passes)
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0)


def _check_png_pixels(file: _File, packed: list[memoryview], n_bytes: int) -> None:
    """Decompresses the pixels, piece by piece, and raises if some are missing: the decoder would leave them black."""
    unpacker = zlib.decompressobj()
    n_left = n_bytes
    try:
        for chunk in packed:
            # In small pieces, because zlib copies whatever it has not consumed.
            for start in range(0, len(chunk), _PIECE_BYTES):
                rest: bytes | memoryview = chunk[start : start + _PIECE_BYTES]
                # The output is limited, too: a few bytes can expand to gigabytes.
                while rest and n_left > 0 and not unpacker.eof:
                    n_left -= len(unpacker.decompress(rest, 4 * _PIECE_BYTES))
                    rest = unpacker.unconsumed_tail
    except zlib.error as error:
        raise file.invalid(f"damaged: {error}") from error
    if n_left > 0:
        raise file.invalid("damaged: it has fewer pixels than it claims")


def _walk_jpeg(file: _File) -> Header:
    data, position = file.data, 2
    width = height = 0
    has_pixels = False
    while True:
        found = _JPEG_MARKER.search(data, position)
        if found is None:
            raise file.cut()
        marker, position = data[found.end() - 1], found.end()
        if marker == _EOI:
            break
        (length,) = struct.unpack_from(">H", data, position)
        if length < 2:  # the length includes its own two bytes
            raise file.invalid("damaged: a JPEG segment without length")
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, position + 3)
            file.check_size(width, height)
        has_pixels = has_pixels or marker == _SOS
        position += length
    if not width or not has_pixels:
        raise file.invalid("a JPEG without pixels")
    return Header("JPEG", width, height)


def _walk_gif(file: _File) -> Header:
    data = file.data
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + _gif_table_bytes(flags)
    n_frames = 0
    while (introducer := data[position]) != 0x3B:  # the trailer
        if introducer == 0x21:  # an extension: a label byte, then blocks
            position = _skip_gif_blocks(data, position + 2)
        elif introducer == 0x2C:  # a frame
            left, top, columns, rows, flags = struct.unpack_from("<4HB", data, position + 1)
            # A first frame that reaches past the screen enlarges the picture, so it counts for the limit.
            if n_frames == 0:
                width, height = max(width, left + columns), max(height, top + rows)
                file.check_size(width, height)
            n_frames += 1
            position = _skip_gif_blocks(data, position + 10 + _gif_table_bytes(flags) + 1)
        else:
            raise file.invalid(f"damaged: an unknown GIF block {introducer:#04x}")
    if n_frames == 0:
        raise file.invalid("a GIF without pixels")
    return Header("GIF", width, height, n_frames)


def _gif_table_bytes(flags: int) -> int:
    """Returns the size of the color table that the flags declare, in bytes."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _skip_gif_blocks(data: bytes, position: int) -> int:
    """Returns the position after a sequence of blocks; a block of length zero ends it."""
    while length := data[position]:
        position += 1 + length
    return position + 1


def _walk_webp(file: _File) -> Header:
    data = file.data
    (n_bytes,) = struct.unpack_from("<I", data, 4)
    end = 8 + n_bytes
    if end > len(data):
        raise file.cut()
    size: tuple[int, int] | None = None
    n_frames, has_pixels = 0, False
    for kind, start, length in _riff_chunks(file, end):
        if size is None:
            size = _webp_size(file, kind, start)
            file.check_size(*size)
        n_frames += kind == b"ANMF"
        has_pixels = has_pixels or (kind in (b"VP8 ", b"VP8L", b"ANMF") and length > 0)
    if size is None or not has_pixels:
        raise file.invalid("a WebP without pixels")
    return Header("WEBP", *size, n_frames=max(n_frames, 1))


def _riff_chunks(file: _File, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yields the kind, the start and the length of each chunk."""
    position = 12
    while position < end:
        kind, length = struct.unpack_from("<4sI", file.data, position)
        if position + 8 + length > end:
            raise file.cut()
        yield kind, position + 8, length
        position += 8 + length + length % 2  # chunks are padded to an even length


def _webp_size(file: _File, kind: bytes, start: int) -> tuple[int, int]:
    """Returns width and height from the first chunk."""
    data = file.data
    if kind == b"VP8X":  # the canvas: width and height minus one, 24 bits each
        return int.from_bytes(data[start + 4 : start + 7], "little") + 1, (
            int.from_bytes(data[start + 7 : start + 10], "little") + 1
        )
    if kind == b"VP8 " and data[start + 3 : start + 6] == b"\x9d\x01\x2a":  # a key frame
        width, height = struct.unpack_from("<HH", data, start + 6)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and data[start] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, start + 1)  # width and height minus one, 14 bits each
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise file.invalid("a WebP that does not begin with its header")
