"""Tells the format of a sound file, whether the file is complete, and what of it a decoder needs.

A decoder never sees the rest: covers, tags, comments, and the millions of empty chunks that would keep it busy.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal, cast

from smallai_assistant import AudioPart, errors
from smallai_speech.boxes import check_mp4, matroska_pieces
from smallai_speech.budget import Budget
from smallai_speech.mpeg_audio import after_id3, check_aac, first_mpeg_frame, is_adts, walk_mp3

Container = Literal["wav", "flac", "ogg", "mp3", "mov", "matroska", "aac"]

MAX_CHUNKS = 10_000  # of a WAV or FLAC file before its sound; real ones have less than twenty
_MAX_FORMAT_BYTES = 1024  # of the chunks that describe the sound; the longest known has 50
_UNKNOWN_SIZE = 0x7FFF0000  # recorders that write to a pipe leave 0x7fff.... or 0xffffffff, or 0
_MIN_SHARE = 0.1  # a file that holds less of the sound that its header claims is broken, not just cut short
_CONVERT = "convert it to another format"
_STREAM_INFO = 0  # the type of the one FLAC block that a decoder needs


@dataclass(frozen=True, slots=True)
class Contents:
    """What a decoder gets of a sound file.

    Attributes:
        pieces: they make up a file of the same format.
        missing: what the headers promise and the bytes do not hold; None if nothing is missing or the format cannot
            tell.
    """

    pieces: list[bytes | memoryview]
    missing: str | None = None


def sniff(data: bytes, *, name: str = "the recording") -> Container:
    """The container, told by the first bytes and never by a file name.

    Raises:
        InvalidAudio: the format is not supported.
    """
    try:
        found = AudioPart.format_of(data, name=name)
    except errors.InvalidAudio:
        # Some files begin with zeros, or with the rest of a frame.
        if first_mpeg_frame(data, 0) is None:
            raise
        found = "mp3"
    if found not in ("mp3", "aac"):
        return cast("Container", found)
    # These may begin with an ID3 tag, so their own marks come after it.
    start = after_id3(data)
    if data[start : start + 4] == b"fLaC":
        return "flac"
    if is_adts(data, start):
        return "aac"
    if first_mpeg_frame(data, start) is not None:
        return "mp3"
    raise errors.InvalidAudio(f"{name}: no frames of MP3 or AAC, and no other known format")


def contents_of(data: bytes, container: Container, budget: Budget, max_duration_s: float) -> Contents:
    """What a decoder needs of the file.

    Raises:
        InvalidAudio: the header is absurd: no channel, or far more sound than there are bytes.
        InputTooLarge: the file has far more chunks, index or tracks than any real one.
        Cancelled: see `Budget`.
    """
    match container:
        case "wav":
            return _wav(data)
        case "flac":
            return _flac(data)
        case "matroska":
            return Contents([*matroska_pieces(data)])
        case "mov":
            check_mp4(data)
            return Contents([data])
        case "ogg":
            return Contents([data], _ogg_missing(data))
    start, end, missing = after_id3(data), len(data), None
    if container == "mp3":
        start = first_mpeg_frame(data, start) or start
        end, missing = walk_mp3(data, start, budget, max_duration_s)
    else:
        check_aac(data, start, budget, max_duration_s)
    return Contents([memoryview(data)[start:end]], missing)


def _wav(data: bytes) -> Contents:
    order = ">" if data[:4] == b"RIFX" else "<"
    (riff_size,) = struct.unpack_from(f"{order}I", data, 4)
    position, long_size = 12, None
    described = bytearray()
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(data):
            raise errors.InvalidAudio("the WAV file has no sound in it")
        name = data[position : position + 4]
        (size,) = struct.unpack_from(f"{order}I", data, position + 4)
        body = position + 8
        if name == b"ds64" and body + 16 <= len(data):
            (long_size,) = struct.unpack_from("<Q", data, body + 8)
        if name == b"fmt " and body + 16 <= len(data):
            _check_wav_format(*struct.unpack_from(f"{order}HII", data, body + 2))
        if name in (b"fmt ", b"fact") and size <= _MAX_FORMAT_BYTES and len(described) <= _MAX_FORMAT_BYTES:
            described += data[position : body + size + (size & 1)]
        if name == b"data":
            # A recorder that did not come back to its header leaves a size of 0 there, and a wrong one for the file.
            if size == 0 and abs(riff_size + 8 - len(data)) > 1:
                size = len(data) - body
            claimed = long_size if size == 0xFFFFFFFF and long_size is not None else size
            present = len(data) - body
            missing = _wav_data_missing(claimed, present, is_known=long_size is not None)
            sound = memoryview(data)[body : body + min(claimed, present)]
            # The 64-bit forms (RF64, BW64) are turned to the usual one: there are at most 2 GiB.
            sizes = struct.pack(f"{order}I", len(described) + 12 + len(sound)), struct.pack(f"{order}I", len(sound))
            head = (b"RIFX" if order == ">" else b"RIFF") + sizes[0] + b"WAVE" + described + b"data" + sizes[1]
            return Contents([head, sound], missing)
        position = body + size + (size & 1)  # chunks begin at even positions
    raise errors.InputTooLarge(f"the WAV file has more than {MAX_CHUNKS:,} chunks before its sound", hint=_CONVERT)


def _check_wav_format(n_channels: int, rate_hz: int, bytes_per_second: int) -> None:
    if n_channels == 0:
        raise errors.InvalidAudio("the WAV header says 0 channels")
    if rate_hz == 0 or bytes_per_second == 0:
        raise errors.InvalidAudio("the WAV header says 0 samples a second")


def _wav_data_missing(claimed: int, present: int, *, is_known: bool) -> str | None:
    if claimed <= present:
        return None
    if not is_known and claimed >= _UNKNOWN_SIZE and present >= 32_000:  # one second of 16 kHz, 16 bit
        return None
    if present < claimed * _MIN_SHARE:
        raise errors.InvalidAudio(
            f"the WAV header claims {claimed:,} bytes of sound, the file holds {max(present, 0):,}"
        )
    return f"the header claims {claimed:,} bytes of sound, the file holds {present:,}"


def _flac(data: bytes) -> Contents:
    position = after_id3(data) + 4
    info: bytes | None = None
    for _ in range(MAX_CHUNKS):
        head = data[position : position + 4]
        if len(head) < 4:
            raise errors.InvalidAudio("the FLAC file has no sound in it")
        is_last, kind, end = head[0] & 0x80, head[0] & 0x7F, position + 4 + int.from_bytes(head[1:], "big")
        if kind == _STREAM_INFO and info is None:
            info = bytes([0x80]) + data[position + 1 : end]  # as the last block before the sound
        position = end
        if is_last:
            break
    else:
        raise errors.InputTooLarge(f"the FLAC file has more than {MAX_CHUNKS:,} blocks before its sound", hint=_CONVERT)
    if info is None:
        raise errors.InvalidAudio("the FLAC file does not say what it holds")
    return Contents([b"fLaC" + info, memoryview(data)[position:]])


def _ogg_missing(data: bytes) -> str | None:
    """Looks for a whole last page with the flag that ends the stream (RFC 3533, section 6)."""
    last = data.rfind(b"OggS")
    header = data[last : last + 27]
    if len(header) == 27:
        table = data[last + 27 : last + 27 + header[26]]
        if len(table) == header[26] and last + 27 + len(table) + sum(table) <= len(data) and header[5] & 4:
            return None
    return "the last page of the stream is not there"
