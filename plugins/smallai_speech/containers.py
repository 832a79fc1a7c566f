"""Tells the format of a sound file and whether the file is complete, from its headers, before any decoder sees it."""

from __future__ import annotations

import struct
from typing import Literal

from smallai_assistant import errors

Container = Literal["wav", "flac", "ogg", "mp3", "mov", "matroska", "aac"]

# MPEG audio bit rates in kbit/s by index 1..14, ISO 11172-3 table 2.4.2.3 and ISO 13818-3.
_MPEG1 = {
    1: (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    2: (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
_MPEG2 = {
    1: (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    3: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG_HZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_TAGS = (b"TAG", b"APETAGEX", b"ID3", b"LYRICS")  # which may follow the last frame of an MP3 file
_UNKNOWN_SIZE = 0x7FFF0000  # recorders that write to a pipe leave 0x7fff.... or 0xffffffff
_MIN_SHARE = 0.1  # a file that holds less of the sound that its header claims is broken, not just cut short
_SEARCHED_BYTES = 65_536  # in which the first MPEG frame must lie


def sniff(data: bytes) -> Container:
    """The container, told by the first bytes and never by a file name.

    Raises:
        InvalidAudio: the format is not supported.
    """
    if not data:
        raise errors.InvalidAudio("the recording has no bytes")
    head = data[:12]
    if head[:4] in (b"RIFF", b"RF64", b"RIFX") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":
        return "ogg"
    if head[4:8] == b"ftyp":
        return "mov"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    # These may begin with an ID3 tag, so their own marks come after it.
    start = _after_id3(data)
    if data[start : start + 4] == b"fLaC":
        return "flac"
    if _is_adts(data, start):
        return "aac"
    if _first_mpeg_frame(data, start) is not None:
        return "mp3"
    raise errors.InvalidAudio("the bytes are not a recording of a known format")


def missing_part(data: bytes, container: Container) -> str | None:
    """Says what the headers promise and the bytes do not hold; None if nothing is missing or the format cannot tell.

    Raises:
        InvalidAudio: the header is absurd: no channel, or far more sound than there are bytes.
    """
    if container == "wav":
        return _wav_missing(data)
    if container == "ogg":
        return _ogg_missing(data)
    if container == "mp3":
        return _mp3_missing(data)
    return None  # of the others the decoder tells


def _wav_missing(data: bytes) -> str | None:
    order = ">" if data[:4] == b"RIFX" else "<"
    position, long_size = 12, None
    while position + 8 <= len(data):
        name = data[position : position + 4]
        (size,) = struct.unpack_from(f"{order}I", data, position + 4)
        body = position + 8
        if name == b"ds64" and body + 16 <= len(data):
            (long_size,) = struct.unpack_from("<Q", data, body + 8)
        if name == b"fmt " and body + 16 <= len(data):
            _check_wav_format(*struct.unpack_from(f"{order}HII", data, body + 2))
        if name == b"data":
            claimed = long_size if size == 0xFFFFFFFF and long_size is not None else size
            return _wav_data_missing(claimed, len(data) - body, is_known=long_size is not None)
        position = body + size + (size & 1)  # chunks begin at even positions
    raise errors.InvalidAudio("the WAV file has no sound in it")


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


def _ogg_missing(data: bytes) -> str | None:
    """Looks for a whole last page with the flag that ends the stream (RFC 3533, section 6)."""
    last = data.rfind(b"OggS")
    header = data[last : last + 27]
    if len(header) == 27:
        table = data[last + 27 : last + 27 + header[26]]
        if len(table) == header[26] and last + 27 + len(table) + sum(table) <= len(data) and header[5] & 4:
            return None
    return "the last page of the stream is not there"


def _mp3_missing(data: bytes) -> str | None:
    position = _first_mpeg_frame(data, _after_id3(data))
    if position is None:
        return None
    promised, found = _xing_frames(data, position), 0
    while (length := _mpeg_frame_bytes(data, position)) is not None and position + length <= len(data):
        position += length
        found += 1
    # The frame that holds the promise is among the found and not among the promised: one lost frame is not noticed.
    if promised is not None and found < promised:
        return f"the header promises {promised:,} frames, the file holds {found:,}"
    rest = data[position : position + 16]
    if rest.startswith(_TAGS) or not rest.strip(b"\0"):
        return None
    return "the last frame is cut" if _mpeg_frame_bytes(data, position) is not None else None


def _xing_frames(data: bytes, position: int) -> int | None:
    """Number of frames promised by a Xing or Info header in the first frame; None if there is no such header."""
    frame = data[position : position + 64]
    for tag in (b"Xing", b"Info"):
        at = frame.find(tag)
        if at >= 0 and at + 12 <= len(frame) and frame[at + 7] & 1:
            return int.from_bytes(frame[at + 8 : at + 12], "big")
    return None


def _after_id3(data: bytes) -> int:
    """The position after an ID3v2 tag, whose size is stored as four bytes of seven bits; 0 if there is no tag."""
    if data[:3] != b"ID3" or len(data) < 10:
        return 0
    size = 0
    for byte in data[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size + (10 if data[5] & 0x10 else 0)


def _is_adts(data: bytes, position: int) -> bool:
    """Whether two AAC frames follow each other at `position` (ISO 13818-7, 6.2)."""
    for _ in range(2):
        head = data[position : position + 6]
        if len(head) < 6 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
            return False
        length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        if length < 7:
            return False
        position += length
    return True


def _first_mpeg_frame(data: bytes, start: int) -> int | None:
    """The position of the first three MPEG audio frames in a row within 64 KiB; None if there are none.

    Two bytes that look like a frame's header are common in other data; three frames that meet are not.
    """
    position = start
    while (position := data.find(b"\xff", position, start + _SEARCHED_BYTES)) >= 0:
        at, n_frames = position, 0
        while n_frames < 3 and (length := _mpeg_frame_bytes(data, at)) is not None:
            at += length
            n_frames += 1
        if n_frames == 3:
            return position
        position += 1
    return None


def _mpeg_frame_bytes(data: bytes, position: int) -> int | None:
    """Length of the MPEG audio frame whose header is at `position` (ISO 11172-3, 2.4.3.1); None if there is none."""
    head = data[position : position + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    rate_index, hz_index, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or layer == 4 or hz_index == 3 or not 1 <= rate_index <= 14:
        return None
    bits_per_second = 1000 * (_MPEG1 if version == 3 else _MPEG2)[layer][rate_index - 1]
    rate_hz = _MPEG_HZ[version][hz_index]
    if layer == 1:
        return (12 * bits_per_second // rate_hz + padding) * 4
    # A frame has 1152 samples, 576 in layer 3 of the lower rates; an eighth, for the rate counts bits.
    samples_per_8_bits = 72 if layer == 3 and version != 3 else 144
    return samples_per_8_bits * bits_per_second // rate_hz + padding
