"""Checks PNG, JPEG, WebP and GIF files from the first byte to the end marker, without decoding a pixel.

Decoders are lenient: given half a file, several of them fill the rest with grey or with whatever is in memory. A file
that passes this check is whole, and the work and the memory of decoding it are known before either is spent.

Decoders also read what nobody asked for: color profiles, comments, further frames. They never see it here. A check
collects the few pieces that make up the first picture, and only these are decoded.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Event

from smallai_assistant import ImagePart, errors

# Chunks, segments or blocks in one file. The 2,076 pictures on the disk of a developer have at most 262; a PNG of
# 64 MiB in pieces of 4 KiB, the smallest that were found, has 16,384, and a GIF of 64 MiB in full blocks 263,000.
MAX_PIECES = 400_000
MAX_SCANS = 100  # of a progressive JPEG, each of which goes over the samples; the 41 of those pictures have 7 to 13
# The work of a JPEG: the samples of each scan, and for each byte what 75 samples take. A sample of an empty scan takes
# 0.65 ns here, a byte at most 50 ns, so this is two seconds. Thirteen scans of 50 megapixels in 30 MB are 2.7 billion.
MAX_JPEG_WORK, _WORK_OF_BYTE = 3_000_000_000, 75
# The work of a PNG: its pixels in bytes, and for each compressed byte what 12 of them take. One takes 3 ns here, with
# its filter, so this is two seconds. A photo of 24 megapixels in 45 MB is 612 million.
MAX_PNG_WORK, _WORK_OF_PACKED_BYTE = 650_000_000, 12

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # samples in a pixel, by color type
# The seven passes of an interlaced PNG: first column, first row, step to the right, step down.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PIECE_BYTES = 1 << 16
# The texts of a PNG that may hold the orientation.
_PNG_ORIENTATION = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
_MAX_EXIF_BYTES = 1 << 16  # what fits into a JPEG
# The start of a JPEG segment. After 0xFF these bytes mean something else: zero is a stuffed 0xFF of the pixels, 0xD0 to
# 0xD7 are restart markers, 0xFF is fill, 0x01 and 0xD8 are TEM and SOI, which have no length.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_JPEG_FILL = re.compile(rb"\xff\xff+")
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15 without DHT, JPG and DAC
_JPEG_USUAL_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive: what browsers show
_WEBP_PIXELS = (b"ALPH", b"VP8 ", b"VP8L")
_EOI, _SOS, _APP0, _APP1, _APP14 = 0xD9, 0xDA, 0xE0, 0xE1, 0xEE
_JPEG_IGNORED = frozenset(range(0xE0, 0xF0)) - {_APP0, _APP1, _APP14} | {0xFE}  # profiles, previews, comments


@dataclass(frozen=True, slots=True)
class Header:
    """What a picture file declares, and the part of it that a decoder needs.

    Attributes:
        format: the format's name in Pillow.
        width, height: size in pixels.
        n_frames: more than 1 for an animation.
        frame: left, top, right and bottom of the first frame in the picture, if it does not fill it.
        held_samples: samples that the decoder of a JPEG holds at once, of 2 bytes each.
        pixel_bytes: what the decoder holds for a pixel, in bytes.
        pieces: the file without everything but the first picture.
    """

    format: str
    width: int
    height: int
    n_frames: int = 1
    frame: tuple[int, int, int, int] | None = None
    held_samples: int = 0
    pixel_bytes: int = 4
    pieces: bytearray = field(default_factory=bytearray, repr=False)


@dataclass(slots=True)
class _File:
    data: bytes
    name: str
    max_pixels: int
    cancel: Event
    n_pieces: int = 0
    kept: bytearray = field(default_factory=bytearray)

    def invalid(self, reason: str) -> errors.InvalidImage:
        return errors.InvalidImage(f"{self.name}: {reason}")

    def cut(self) -> errors.InvalidImage:
        return self.invalid("the file is cut short")

    def too_large(self, reason: str) -> errors.InputTooLarge:
        return errors.InputTooLarge(f"{self.name}: {reason}", hint="send a smaller picture, or save it again")

    def check_size(self, width: int, height: int) -> None:
        if width < 1 or height < 1:
            raise self.invalid(f"it claims {width:,} x {height:,} pixels")
        if width * height > self.max_pixels:
            raise self.too_large(f"{width:,} x {height:,} pixels, {self.max_pixels:,} in all are allowed")

    def count_piece(self) -> None:
        check_wanted(self.cancel)
        self.n_pieces += 1
        if self.n_pieces > MAX_PIECES:
            raise self.too_large(f"it consists of more than {MAX_PIECES:,} pieces")

    def keep(self, start: int, end: int) -> None:
        """Adds a piece of the file to what is decoded."""
        self.kept += memoryview(self.data)[start:end]


def check_wanted(cancel: Event) -> None:
    """Raises `Cancelled` if nobody wants the picture any more."""
    if cancel.is_set():
        raise errors.Cancelled("the picture was not decoded to its end")


def read_header(data: bytes, *, name: str, max_pixels: int, cancel: Event | None = None) -> Header:
    """Checks that the file is whole and not too large. Bytes after its end are tolerated, as decoders do.

    Args:
        name: the name of the file in messages.
        max_pixels: maximum of width times height; checked before the rest of the file.
        cancel: the check stops soon after it is set.

    Raises:
        Cancelled: `cancel` was set.
        InvalidImage: the file is of another format, malformed or cut short.
        InputTooLarge: the picture has more pixels, or its file is made of too many pieces.
    """
    walk = _WALKS[ImagePart.format_of(data, name=name)]
    file = _File(data, name, max_pixels, cancel or Event())
    try:
        return walk(file)
    except (struct.error, IndexError) as error:  # a read past the end of the file
        raise file.cut() from error


def _walk_png(file: _File) -> Header:
    data, position = file.data, len(_PNG_SIGNATURE)
    if not data.startswith(_PNG_SIGNATURE):
        raise file.invalid("damaged: the first bytes of a PNG were changed, as by a transfer of text")
    file.keep(0, position)
    n_frames = 1
    packed = bytearray()  # the pixels of all IDAT chunks, which the decoder gets as one
    while True:
        file.count_piece()
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if position == len(_PNG_SIGNATURE):
            if kind != b"IHDR" or length != 13:
                raise file.invalid("a PNG that does not begin with its header")
            file.check_size(*struct.unpack_from(">II", data, position + 8))
        (checksum,) = struct.unpack_from(">I", data, end)
        is_critical = not kind[0] & 0x20  # an upper-case first letter; decoders ignore damage in the other chunks
        if is_critical and zlib.crc32(memoryview(data)[position + 4 : end]) != checksum:
            raise file.invalid(f"damaged: the checksum of its {kind.decode('latin-1')!r} chunk is wrong")
        if kind == b"acTL":
            (n_frames,) = struct.unpack_from(">I", data, position + 8)
        elif kind == b"IDAT":
            packed += memoryview(data)[position + 8 : end]
        elif not packed and _is_for_pixels(kind, data[position + 8 : position + 40], length):
            file.keep(position, end + 4)
        position = end + 4
        if kind == b"IEND":
            break
    return _png_header(file, packed, n_frames)


def _is_for_pixels(kind: bytes, text: bytes, length: int) -> bool:
    """Whether a PNG chunk changes what the picture looks like, or may hold its orientation."""
    if kind in (b"IHDR", b"PLTE", b"tRNS"):
        return True
    is_text = kind in (b"tEXt", b"zTXt", b"iTXt") and text.startswith(_PNG_ORIENTATION)
    return (kind == b"eXIf" or is_text) and length <= _MAX_EXIF_BYTES


def _png_header(file: _File, packed: bytearray, n_frames: int) -> Header:
    width, height, depth, color, _, _, interlace = struct.unpack_from(">II5B", file.data, len(_PNG_SIGNATURE) + 8)
    if color not in _PNG_SAMPLES or interlace > 1:
        raise file.invalid("damaged: a PNG header that makes no sense")
    bits = depth * _PNG_SAMPLES[color]
    passes = _ADAM7 if interlace else ((0, 0, 1, 1),)
    # Columns and rows of each pass; -(-a // b) rounds up.
    sizes = ((-((left - width) // right), -((top - height) // down)) for left, top, right, down in passes)
    # Each row is a filter byte and its samples.
    n_bytes = sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0)
    _check_png_pixels(file, packed, n_bytes)
    for kind, content in ((b"IDAT", packed), (b"IEND", b"")):
        file.kept += struct.pack(">I4s", len(content), kind)
        file.kept += content
        file.kept += struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
    # Pillow holds grey and palettes in 1 byte, 16-bit grey in 2, everything else in 4.
    pixel_bytes = (2 if depth == 16 else 1) if color in (0, 3) else 4
    return Header("PNG", width, height, n_frames, pixel_bytes=pixel_bytes, pieces=file.kept)


def _check_png_pixels(file: _File, packed: bytearray, n_bytes: int) -> None:
    """Decompresses the pixels, piece by piece, and raises if some are missing: the decoder would leave them black."""
    if n_bytes + _WORK_OF_PACKED_BYTE * len(packed) > MAX_PNG_WORK:
        raise file.too_large("a PNG that takes too long to decode")
    unpacker = zlib.decompressobj()
    view, n_left = memoryview(packed), n_bytes
    try:
        # In small pieces, because zlib copies whatever it has not consumed.
        for start in range(0, len(view), _PIECE_BYTES):
            rest: bytes | memoryview = view[start : start + _PIECE_BYTES]
            # The output is limited, too: a few bytes can expand to gigabytes.
            while rest and n_left > 0 and not unpacker.eof:
                check_wanted(file.cancel)
                n_left -= len(unpacker.decompress(rest, 4 * _PIECE_BYTES))
                rest = unpacker.unconsumed_tail
    except zlib.error as error:
        raise file.invalid(f"damaged: {error}") from error
    if n_left > 0:
        raise file.invalid("damaged: it has fewer pixels than it claims")


def _walk_jpeg(file: _File) -> Header:
    data = file.data
    width = height = n_scans = work = 0
    samples: dict[int, int] = {}  # of each component, by its id
    is_held = False  # whether the decoder holds all samples until the last scan
    kept_app1: set[bytes] = set()
    file.keep(0, 2)
    found = _JPEG_MARKER.search(data, 2)
    while found is not None and (marker := data[found.end() - 1]) != _EOI:
        file.count_piece()
        start, body = found.start(), found.end()
        (length,) = struct.unpack_from(">H", data, body)
        if length < 2:  # the length includes its own two bytes
            raise file.invalid("damaged: a JPEG segment without length")
        segment = data[body + 2 : body + length]
        if marker in _JPEG_FRAMES:
            if marker not in _JPEG_USUAL_FRAMES:
                raise file.invalid("a JPEG of a kind that is not supported: save it again")
            height, width, n_components = struct.unpack_from(">HHB", segment, 1)
            if samples or len(segment) != 6 + 3 * n_components:  # a picture has one frame
                raise file.invalid("damaged: a JPEG with two frames, or with half a frame")
            file.check_size(width, height)
            samples = _jpeg_samples(width, height, segment[6:])
            is_held = marker == 0xC2
        elif marker == _SOS:
            n_scans += 1
            ids = segment[1 : 1 + 2 * segment[0] : 2]
            is_held = is_held or n_scans > 1 or len(ids) < len(samples)
            work += sum(samples.get(component, 0) for component in ids)
            if n_scans > MAX_SCANS or (is_held and work + _WORK_OF_BYTE * len(data) > MAX_JPEG_WORK):
                raise file.too_large(f"a JPEG whose {n_scans:,} scans or more take too long to decode")
        end = body + length
        found = _JPEG_MARKER.search(data, end)
        if marker == _APP1:  # one with EXIF and one with XMP, which may hold the orientation
            if (kind := segment[:4]) in kept_app1:
                continue
            kept_app1.add(kind)
        if marker not in _JPEG_IGNORED:
            file.keep(start, end)
        if marker == _SOS and found is not None:
            # Before a marker there may be any number of bytes 0xFF, over which Pillow takes quadratic time.
            file.kept += _JPEG_FILL.sub(b"\xff", data[end : found.start()]).rstrip(b"\xff")
    if found is None:
        raise file.cut()
    if not width or not n_scans:
        raise file.invalid("a JPEG without pixels")
    file.kept += b"\xff\xd9"
    return Header("JPEG", width, height, held_samples=sum(samples.values()) if is_held else 0, pieces=file.kept)


def _jpeg_samples(width: int, height: int, components: bytes) -> dict[int, int]:
    """Returns the samples of each component, in whole blocks. Its sampling factors are the two halves of a byte."""
    factors = {ident: (byte >> 4, byte & 15) for ident, byte in zip(components[::3], components[1::3], strict=False)}
    unit_x = 8 * (max((x for x, _ in factors.values()), default=1) or 1)
    unit_y = 8 * (max((y for _, y in factors.values()), default=1) or 1)
    units = -(-width // unit_x) * -(-height // unit_y)  # rounded up
    return {ident: units * 64 * x * y for ident, (x, y) in factors.items()}


def _walk_gif(file: _File) -> Header:
    data = file.data
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + _gif_table_bytes(flags)
    file.keep(0, position)
    control = (0, 0)  # the extension that says which color of the next frame is transparent
    n_frames = 0
    while (introducer := data[position]) != 0x3B:  # the trailer
        start = position
        file.count_piece()
        if introducer == 0x21:  # an extension: a label byte, then blocks
            position = _skip_gif_blocks(file, position + 2)
            control = (start, position) if data[start + 1] == 0xF9 else control
        elif introducer == 0x2C:  # a frame
            left, top, columns, rows, flags = struct.unpack_from("<4HB", data, position + 1)
            # A first frame that reaches past the screen enlarges the picture, so it counts for the limit.
            if n_frames == 0:
                width, height = max(width, left + columns), max(height, top + rows)
                file.check_size(width, height)
            position = _skip_gif_blocks(file, position + 10 + _gif_table_bytes(flags) + 1)
            if n_frames == 0:
                file.keep(*control)
                file.keep(start, position)
            n_frames += 1
        else:
            raise file.invalid(f"damaged: an unknown GIF block {introducer:#04x}")
    if n_frames == 0:
        raise file.invalid("a GIF without pixels")
    file.kept += b"\x3b"
    return Header("GIF", width, height, n_frames, pixel_bytes=1, pieces=file.kept)


def _gif_table_bytes(flags: int) -> int:
    """Returns the size of the color table that the flags declare, in bytes."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _skip_gif_blocks(file: _File, position: int) -> int:
    """Returns the position after a sequence of blocks; a block of length zero ends it."""
    data = file.data
    while length := data[position]:
        file.count_piece()
        position += 1 + length
    return position + 1


def _walk_webp(file: _File) -> Header:
    data = file.data
    (n_bytes,) = struct.unpack_from("<I", data, 4)
    end = 8 + n_bytes
    if end > len(data):
        raise file.cut()
    size: tuple[int, int] | None = None
    first: list[tuple[bytes, int, int]] = []  # the chunks of the first picture
    frame: tuple[int, int, int, int] | None = None
    n_frames = 0
    for kind, start, length in _riff_chunks(file, 12, end):
        if size is None:
            size = _webp_size(file, kind, start)
            file.check_size(*size)
        if kind == b"ANMF":
            n_frames += 1
            if n_frames == 1:
                inner = _riff_chunks(file, start + 16, start + length)
                first = [chunk for chunk in inner if chunk[0] in _WEBP_PIXELS]
                left, top, columns, rows = (
                    int.from_bytes(data[i : i + 3], "little") for i in range(start, start + 12, 3)
                )
                frame = (2 * left, 2 * top, 2 * left + columns + 1, 2 * top + rows + 1)
        elif n_frames == 0 and (kind in _WEBP_PIXELS or (kind in (b"EXIF", b"XMP ") and length <= _MAX_EXIF_BYTES)):
            first.append((kind, start, length))
    if size is None or not any(kind in (b"VP8 ", b"VP8L") and length for kind, _, length in first):
        raise file.invalid("a WebP without pixels")
    width, height = size
    if frame is not None and (frame[2] > width or frame[3] > height):
        raise file.invalid("damaged: a WebP whose first frame does not lie in the picture")
    if frame == (0, 0, width, height):
        frame = None
    _keep_webp(file, size if frame is None else (frame[2] - frame[0], frame[3] - frame[1]), first)
    # Pillow's decoder holds two canvases, the frame as bytes and as a picture, of 4 bytes each.
    return Header("WEBP", width, height, max(n_frames, 1), frame, pixel_bytes=16, pieces=file.kept)


def _keep_webp(file: _File, size: tuple[int, int], chunks: list[tuple[bytes, int, int]]) -> None:
    """Writes the first picture as a file of its own."""
    names = [kind for kind, _, _ in chunks]
    flags = 0x10 * (b"ALPH" in names or b"VP8L" in names) | 0x08 * (b"EXIF" in names) | 0x04 * (b"XMP " in names)
    canvas = b"".join((side - 1).to_bytes(3, "little") for side in size)
    pieces = bytearray(b"WEBPVP8X" + struct.pack("<II", 10, flags) + canvas)
    for kind, start, length in chunks:
        pieces += struct.pack("<4sI", kind, length)
        pieces += memoryview(file.data)[start : start + length]
        pieces += bytes(length % 2)
    file.kept += b"RIFF" + struct.pack("<I", len(pieces))
    file.kept += pieces


def _riff_chunks(file: _File, position: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yields the kind, the start and the length of each chunk."""
    while position < end:
        file.count_piece()
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


_WALKS = {"png": _walk_png, "jpeg": _walk_jpeg, "gif": _walk_gif, "webp": _walk_webp}
