"""Frames of MPEG sound: MP3 and AAC streams, and the tags around them."""

from __future__ import annotations

import functools

from smallai_assistant import errors
from smallai_speech.budget import Budget

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
_AAC_HZ = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)
_TAGS = (b"TAG", b"APETAGEX", b"ID3", b"LYRICS")  # which may follow the last frame of an MP3 file
_SEARCHED_BYTES = 65_536  # in which the first MPEG frame must lie
_MAX_TAGS = 10  # at the beginning of a file; real ones have one or two
_CHECKED_FRAMES = 4096  # frames between two looks at the budget, some milliseconds


def after_id3(data: bytes) -> int:
    """The position after the ID3v2 tags, whose size is stored as four bytes of seven bits; 0 if there are none."""
    position = 0
    for _ in range(_MAX_TAGS):
        head = data[position : position + 10]
        if head[:3] != b"ID3" or len(head) < 10:
            break
        size = 0
        for byte in head[6:10]:
            size = size << 7 | byte & 0x7F
        position += 10 + size + (10 if head[5] & 0x10 else 0)
    return position


def is_adts(data: bytes, position: int) -> bool:
    """Whether two AAC frames follow each other at `position`."""
    first = _adts_frame(data, position)
    return first is not None and _adts_frame(data, position + first[0]) is not None


def _adts_frame(data: bytes, position: int) -> tuple[int, float] | None:
    """Length in bytes and in seconds of the AAC frame at `position` (ISO 13818-7, 6.2); None if there is none."""
    head = data[position : position + 7]
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return None
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    if length < 7:
        return None
    rate_hz = _AAC_HZ[min(head[2] >> 2 & 15, len(_AAC_HZ) - 1)]
    n_blocks = 1 + (head[6] & 3 if len(head) == 7 else 0)
    return length, 1024 * n_blocks / rate_hz


def first_mpeg_frame(data: bytes, start: int) -> int | None:
    """The position of the first three MPEG audio frames in a row within 64 KiB; None if there are none.

    Two bytes that look like a frame's header are common in other data; three frames that meet are not.
    """
    position = start
    while (position := data.find(b"\xff", position, start + _SEARCHED_BYTES)) >= 0:
        at, n_frames = position, 0
        while n_frames < 3 and (frame := _frame(data, at)) is not None:
            at += frame[0]
            n_frames += 1
        if n_frames == 3:
            return position
        position += 1
    return None


def walk_mp3(data: bytes, position: int, budget: Budget, max_duration_s: float) -> tuple[int, str | None]:
    """Goes from frame to frame.

    Args:
        position: of the first frame.

    Returns:
        the end of the sound, and what the first frame promises and the file does not hold; None if nothing is missing.

    Raises:
        InputTooLarge: there are frames for more than `max_duration_s`.
    """
    promised, found, seconds = _xing_frames(data, position), 0, 0.0
    while (frame := _frame(data, position)) is not None and position + frame[0] <= len(data):
        position += frame[0]
        found += 1
        seconds += frame[1]
        if found % _CHECKED_FRAMES == 0:
            _check(budget, seconds, max_duration_s)
    budget.restart()  # it is still to be decoded
    rest = data[position : position + 16]
    # After the tags nothing comes; after anything else there may be more sound.
    end = position if rest.startswith(_TAGS) or not rest.strip(b"\0") else len(data)
    # The frame that holds the promise is among the found and not among the promised: one lost frame is not noticed.
    if promised is not None and found < promised:
        return end, f"the header promises {promised:,} frames, the file holds {found:,}"
    return end, "the last frame is cut" if end > position and _frame(data, position) is not None else None


def check_aac(data: bytes, position: int, budget: Budget, max_duration_s: float) -> None:
    """Goes from frame to frame of an AAC stream.

    Raises:
        InputTooLarge: there are frames for more than `max_duration_s`. Empty frames of 7 bytes are among them.
    """
    found, seconds = 0, 0.0
    while (frame := _adts_frame(data, position)) is not None:
        position += frame[0]
        found += 1
        seconds += frame[1]
        if found % _CHECKED_FRAMES == 0:
            _check(budget, seconds, max_duration_s)
    budget.restart()


def _check(budget: Budget, seconds: float, max_duration_s: float) -> None:
    budget.heard(seconds)
    budget.check()
    if seconds > max_duration_s:
        raise errors.InputTooLarge(
            f"the recording lasts {seconds / 60:.1f} min or more, {max_duration_s / 60:.1f} min are allowed",
            hint="split it into parts, or raise max_duration_s",
        )


def _xing_frames(data: bytes, position: int) -> int | None:
    """Number of frames promised by a Xing or Info header in the first frame; None if there is no such header."""
    frame = data[position : position + 64]
    for tag in (b"Xing", b"Info"):
        at = frame.find(tag)
        if at >= 0 and at + 12 <= len(frame) and frame[at + 7] & 1:
            return int.from_bytes(frame[at + 8 : at + 12], "big")
    return None


def _frame(data: bytes, position: int) -> tuple[int, float] | None:
    """Length in bytes and in seconds of the MPEG audio frame whose header is at `position`; None if there is none."""
    head = data[position : position + 4]
    return _frame_of(head[1], head[2]) if len(head) == 4 and head[0] == 0xFF else None


@functools.cache  # a file has few different headers
def _frame_of(second: int, third: int) -> tuple[int, float] | None:
    """What the second and the third byte of a header say (ISO 11172-3, 2.4.3.1)."""
    version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
    rate_index, hz_index, padding = third >> 4, third >> 2 & 3, third >> 1 & 1
    if second & 0xE0 != 0xE0 or version == 1 or layer == 4 or hz_index == 3 or not 1 <= rate_index <= 14:
        return None
    bits_per_second = 1000 * (_MPEG1 if version == 3 else _MPEG2)[layer][rate_index - 1]
    rate_hz = _MPEG_HZ[version][hz_index]
    if layer == 1:
        return (12 * bits_per_second // rate_hz + padding) * 4, 384 / rate_hz
    # A frame has 1152 samples, 576 in layer 3 of the lower rates; an eighth, for the rate counts bits.
    samples_per_8_bits = 72 if layer == 3 and version != 3 else 144
    return samples_per_8_bits * bits_per_second // rate_hz + padding, 8 * samples_per_8_bits / rate_hz
