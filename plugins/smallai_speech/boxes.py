"""Checks MP4 and Matroska files before FFmpeg reads them: their tables may claim more than any memory holds.

FFmpeg makes entries of 35 bytes for the samples of an MP4, and some hundred bytes for each track of a Matroska file, as
many as the file claims. Here they are counted first.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from smallai_assistant import errors

# A day of AAC has 4 million samples, an hour of video 0.2 million. Six million take 210 MB.
MAX_SAMPLES = 6_000_000
# The index of a day of sound has 35 MB. FFmpeg keeps at most two and a half times what it reads of it.
MAX_INDEX_BYTES = 64 * 2**20
MAX_BOXES = 1_000_000  # a day in fragments of a tenth of a second
MAX_TRACKS = 100
_MAX_INFO_BYTES = 2**16  # of the description of the file
_MAX_TRACKS_BYTES = 2**20  # of the description of all tracks; a codec's own header has up to 8 kB
_SOUND_BOXES = (b"mdat", b"free", b"skip", b"wide")  # FFmpeg does not look into these
# Boxes that claim a number of entries without bytes for them, and how far behind their name it stands. They are
# searched and not walked to, because FFmpeg finds them in boxes that they do not belong to, too.
_CLAIMS = ((b"stsz", 12), (b"stz2", 12), (b"trun", 8), (b"iinf", 8), (b"iloc", 10))
_COMPRESSED = re.compile(rb"cmov.{4}dcom", re.DOTALL)  # an index that FFmpeg would decompress to any size

_EBML, _SEGMENT, _INFO, _TRACKS, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1549A966, 0x1654AE6B, 0x1F43B675
_TRACK_ENTRY = 0xAE
_OPEN_SEGMENT = b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff"  # a segment that lasts until the end of the file


def check_mp4(data: bytes) -> None:
    """Checks what the index of an MP4 file claims.

    Raises:
        InputTooLarge: the index has more bytes, boxes or samples than a day of sound needs.
        InvalidAudio: the index is compressed.
    """
    n_samples = n_bytes = 0
    for number, (kind, start, end) in enumerate(_top_boxes(data)):
        if number >= MAX_BOXES:
            raise _too_large(f"more than {MAX_BOXES:,} boxes")
        if kind in _SOUND_BOXES:
            continue
        n_bytes += end - start
        if n_bytes > MAX_INDEX_BYTES:
            raise _too_large(f"an index of more than {MAX_INDEX_BYTES // 2**20} MiB")
        if _COMPRESSED.search(data, start, end):
            raise errors.InvalidAudio("an MP4 file with a compressed index", hint="save it again, or convert it to WAV")
        n_samples += _claimed_samples(data, start, end)
        if n_samples > MAX_SAMPLES:
            raise _too_large(f"{n_samples:,} samples in its index, {MAX_SAMPLES:,} are allowed")


def _claimed_samples(data: bytes, start: int, end: int) -> int:
    n_samples = n_boxes = 0
    for name, distance in _CLAIMS:
        position = data.find(name, start, end)
        while position >= 0 and n_samples <= MAX_SAMPLES:
            n_boxes += 1
            if n_boxes > MAX_BOXES:
                raise _too_large(f"more than {MAX_BOXES:,} boxes")
            n_samples += int.from_bytes(data[position + distance : position + distance + 4], "big")
            position = data.find(name, position + 4, end)
    return n_samples


def _top_boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields the kind, the start and the end of each box that is in no other."""
    position = 0
    while position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        if size == 1 and position + 16 <= len(data):  # the size follows, in 8 bytes
            (size,) = struct.unpack_from(">Q", data, position + 8)
        end = len(data) if size == 0 else position + size
        if end < position + 8:
            # FFmpeg stops here, or looks for a box further on: the rest counts as one that is no sound.
            yield b"????", position, len(data)
            return
        yield kind, position, min(end, len(data))
        position = end


def matroska_pieces(data: bytes) -> list[memoryview]:
    """Returns what FFmpeg needs of a Matroska or WebM file: the description of its tracks, and the clusters of sound.

    Tags, attachments, chapters and the index are left out.

    Raises:
        InvalidAudio: there is no segment.
        InputTooLarge: the description is larger than that of any real file, or the file consists of too many pieces.
    """
    _, body, end = _element(data, 0, _EBML)
    ranges = [[0, min(end, body + 1024)]]
    _, position, segment_end = _element(data, ranges[0][1], _SEGMENT)
    seen: set[int] = set()
    for _ in range(MAX_BOXES):
        if position >= segment_end:
            break
        try:
            ident, body, end = _element(data, position)
        except errors.InvalidAudio:  # damage: what comes after it cannot be found
            break
        if ident in (_INFO, _TRACKS) and ident not in seen:
            seen.add(ident)
            (_check_tracks if ident == _TRACKS else _check_info)(data, body, end)
            ranges.append([position, end])
        elif ident == _CLUSTER:
            if ranges[-1][1] == position:  # one piece with the cluster before
                ranges[-1][1] = end
            else:
                ranges.append([position, end])
        position = end
    else:
        raise _too_large(f"more than {MAX_BOXES:,} pieces")
    pieces = [memoryview(data)[start:end] for start, end in ranges]
    return [pieces[0], memoryview(_OPEN_SEGMENT), *pieces[1:]]


def _check_info(data: bytes, position: int, end: int) -> None:  # noqa: ARG001
    if end - position > _MAX_INFO_BYTES:
        raise _too_large(f"a description of more than {_MAX_INFO_BYTES // 2**10} KiB")


def _check_tracks(data: bytes, position: int, end: int) -> None:
    if end - position > _MAX_TRACKS_BYTES:
        raise _too_large(f"a description of its tracks of more than {_MAX_TRACKS_BYTES // 2**20} MiB")
    n_tracks = 0
    while position < end:
        ident, _, position = _element(data, position)
        n_tracks += ident == _TRACK_ENTRY
        if n_tracks > MAX_TRACKS:
            raise _too_large(f"more than {MAX_TRACKS} tracks")


def _element(data: bytes, position: int, wanted: int | None = None) -> tuple[int, int, int]:
    """The id of the element at `position`, and the start and the end of its body (RFC 8794, sections 4 and 5)."""
    ident, body = _number(data, position, keep_marker=True)
    size, body = _number(data, body, keep_marker=False)
    if ident is None or (wanted is not None and ident != wanted):
        raise errors.InvalidAudio("the file is a damaged WebM or Matroska file")
    # All bits of the size are set if it is not known: the element then lasts until the end of what is around it.
    return ident, body, len(data) if size is None else min(body + size, len(data))


def _number(data: bytes, position: int, *, keep_marker: bool) -> tuple[int | None, int]:
    """Reads a number of variable length; None if all its bits are set. Returns the position after it, too."""
    first = data[position] if position < len(data) else 0
    length = 9 - first.bit_length()  # the position of the first set bit tells
    if first == 0 or position + length > len(data):
        raise errors.InvalidAudio("the file is a damaged WebM or Matroska file")
    value = int.from_bytes(data[position : position + length], "big")
    if keep_marker:
        return value, position + length
    bits = 7 * length
    value &= (1 << bits) - 1
    return (None if value == (1 << bits) - 1 else value), position + length


def _too_large(reason: str) -> errors.InputTooLarge:
    return errors.InputTooLarge(f"the file has {reason}", hint="convert it to WAV or FLAC")
