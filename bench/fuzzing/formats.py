"""Files that are made of pieces, taken apart and put together again with right lengths and checksums."""

from __future__ import annotations

import struct
import zlib

from bench.fuzzing.mutations import Piece

_PNG = b"\x89PNG\r\n\x1a\n"
_OGG_CRC = [0] * 256
for _byte in range(256):
    _crc = _byte << 24
    for _ in range(8):
        _crc = (_crc << 1) ^ (0x04C11DB7 if _crc & 0x80000000 else 0)
    _OGG_CRC[_byte] = _crc & 0xFFFFFFFF


def split_png(data: bytes) -> list[Piece]:
    pieces, at = [], 8
    while at + 8 <= len(data):
        (n,) = struct.unpack_from(">I", data, at)
        pieces.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + n]))
        at += 12 + n
    return pieces


def join_png(pieces: list[Piece]) -> bytes:
    chunks = (struct.pack(">I", len(b)) + h + b + struct.pack(">I", zlib.crc32(h + b)) for h, b in pieces)
    return _PNG + b"".join(chunks)


def split_riff(data: bytes) -> list[Piece]:
    pieces, at = [(data[:4], data[8:12])], 12
    while at + 8 <= len(data):
        (n,) = struct.unpack_from("<I", data, at + 4)
        pieces.append((data[at : at + 4], data[at + 8 : at + 8 + n]))
        at += 8 + n + n % 2
    return pieces


def join_riff(pieces: list[Piece]) -> bytes:
    (head, kind), *rest = pieces
    body = kind + b"".join(h + struct.pack("<I", len(b)) + b + b"\0" * (len(b) % 2) for h, b in rest)
    return head + struct.pack("<I", len(body)) + body


def split_jpeg(data: bytes) -> list[Piece]:
    """Each piece has its marker as its name; the coded pixels belong to the piece before them."""
    pieces, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xD9:
        (n,) = struct.unpack_from(">H", data, at + 2)
        end = at + 2 + n
        while data[at + 1] == 0xDA and end + 1 < len(data):
            if data[end] == 0xFF and data[end + 1] not in (0, *range(0xD0, 0xD8)):
                break
            end += 1
        pieces.append((data[at : at + 2] + data[at + 2 : at + 4], data[at + 4 : end]))
        at = end
    return pieces


def join_jpeg(pieces: list[Piece]) -> bytes:
    out = bytearray(b"\xff\xd8")
    for head, body in pieces:
        n = head[2:] if head[1:2] == b"\xda" else struct.pack(">H", min(len(body) + 2, 0xFFFF))
        out += head[:2] + n + body
    return bytes(out + b"\xff\xd9")


def split_boxes(data: bytes) -> list[Piece]:
    """The boxes of an MP4 file; those of `moov` are one piece each, so that their lengths stay right."""
    pieces, at = [], 0
    while at + 8 <= len(data):
        (n,) = struct.unpack_from(">I", data, at)
        n = n if n >= 8 else len(data) - at
        pieces.append((data[at + 4 : at + 8], data[at + 8 : at + n]))
        at += n
    return pieces


def join_boxes(pieces: list[Piece]) -> bytes:
    return b"".join(struct.pack(">I", len(body) + 8) + head + body for head, body in pieces)


def split_ogg(data: bytes) -> list[Piece]:
    """The name of a page is its header with the table of lengths."""
    pieces, at = [], 0
    while at + 27 <= len(data):
        n_lengths = data[at + 26]
        end_head = at + 27 + n_lengths
        n = sum(data[at + 27 : end_head])
        pieces.append((data[at:end_head], data[end_head : end_head + n]))
        at = end_head + n
    return pieces


def join_ogg(pieces: list[Piece]) -> bytes:
    out = bytearray()
    for head, body in pieces:
        page = head[:22] + bytes(4) + head[26:] + body
        crc = 0
        for byte in page:
            crc = ((crc << 8) & 0xFFFFFFFF) ^ _OGG_CRC[(crc >> 24) ^ byte]
        out += page[:22] + struct.pack("<I", crc) + page[26:]
    return bytes(out)


def split_flac(data: bytes) -> list[Piece]:
    """The blocks of metadata, and all frames as one piece."""
    pieces, at, is_last = [], 4, False
    while not is_last and at + 4 <= len(data):
        is_last = bool(data[at] & 0x80)
        n = int.from_bytes(data[at + 1 : at + 4])
        pieces.append((data[at : at + 1], data[at + 4 : at + 4 + n]))
        at += 4 + n
    return [*pieces, (b"", data[at:])]


def join_flac(pieces: list[Piece]) -> bytes:
    return b"fLaC" + b"".join((h + len(b).to_bytes(4)[1:] if h else b"") + b for h, b in pieces)
