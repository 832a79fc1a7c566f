"""A recording from a stranger costs what its sound needs, and nothing but a typed error comes out of a damaged one."""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from smallai_assistant.errors import Cancelled, InputTooLarge, InvalidAudio
from smallai_speech import budget as budget_module
from smallai_speech import decode as decode_module
from smallai_speech.boxes import MAX_SAMPLES, MAX_TRACKS, matroska_pieces
from smallai_speech.budget import MAX_SILENT_BYTES, Budget, Pieces
from smallai_speech.containers import MAX_CHUNKS
from smallai_speech.decode import Recording, decode_audio

RATE = 16_000
HOUR_S = 3600.0


def decode(data: bytes, max_duration_s: float = HOUR_S) -> Recording:
    return decode_audio(data, max_duration_s=max_duration_s, name="memo")


def tone(seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def written(format: str, subtype: str | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(), RATE, format=format, subtype=subtype, **options)
    return file.getvalue()


def av_written(container: str, codec: str, *, with_video: bool = False) -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=48_000)
        stream.layout = "mono"
        if with_video:
            video = out.add_stream("mpeg4", rate=10)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            for number in range(10):
                picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * number, np.uint8), format="rgb24")
                out.mux(video.encode(picture))
            out.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(tone(rate=48_000)[None, :], format="fltp", layout="mono")
        frame.sample_rate = 48_000
        out.mux([*stream.encode(frame), *stream.encode(None)])
    return file.getvalue()


# -- WAV --


def wav_chunks(data: bytes) -> list[bytes]:
    """Returns the chunks of a WAV file, each with its header."""
    chunks, position = [], 12
    while position < len(data):
        (size,) = struct.unpack_from("<I", data, position + 4)
        chunks.append(data[position : position + 8 + size])
        position += 8 + size + size % 2
    return chunks


@pytest.mark.parametrize("riff_size", [0, 36, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_with_size_zero_is_read_to_its_end(riff_size: int) -> None:
    data = bytearray(written("WAV", "PCM_16"))
    at = data.index(b"data")
    data[4:8] = struct.pack("<I", riff_size)
    data[at + 4 : at + 8] = bytes(4)
    recording = decode(bytes(data))
    assert recording.duration_s == 1.0
    assert recording.notices == ()


def test_an_empty_wav_stays_empty() -> None:
    fmt = next(chunk for chunk in wav_chunks(written("WAV", "PCM_16")) if chunk.startswith(b"fmt "))
    body = b"WAVE" + fmt + b"data\0\0\0\0" + b"LIST" + struct.pack("<I", 4_000) + bytes(4_000)
    with pytest.raises(InvalidAudio, match=r"0\.000 s"):
        decode(b"RIFF" + struct.pack("<I", len(body)) + body)


@pytest.mark.parametrize("magic", [b"RF64", b"BW64"])
def test_forms_of_wav_for_large_files(magic: bytes) -> None:
    chunks = wav_chunks(written("WAV", "PCM_16"))
    fmt, sound = (next(chunk for chunk in chunks if chunk.startswith(name)) for name in (b"fmt ", b"data"))
    ds64 = b"ds64" + struct.pack("<IQQQI", 28, 0, len(sound) - 8, RATE, 0)
    data = magic + b"\xff" * 4 + b"WAVE" + ds64 + fmt + b"data" + b"\xff" * 4 + sound[8:]
    assert (decode(data).samples == decode(written("WAV", "PCM_16")).samples).all()


def test_wav_with_the_high_byte_first() -> None:
    data = written("WAV", "PCM_16", endian="BIG")
    assert data.startswith(b"RIFX")
    assert (decode(data).samples == decode(written("WAV", "PCM_16")).samples).all()


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM", "GSM610", "ULAW", "ALAW", "DOUBLE", "PCM_U8"])
def test_codecs_inside_wav(subtype: str) -> None:
    assert decode(written("WAV", subtype)).duration_s == pytest.approx(1.0, abs=0.05)


def test_chunks_before_the_sound_are_skipped_and_counted() -> None:
    data = written("WAV", "PCM_16")
    many = data[:12] + b"junk\0\0\0\0" * (MAX_CHUNKS - 10) + data[12:]
    assert (decode(many).samples == decode(data).samples).all()
    with pytest.raises(InputTooLarge, match="chunks before its sound"):
        decode(data[:12] + b"junk\0\0\0\0" * MAX_CHUNKS + data[12:])


def test_every_byte_of_a_float_header_may_change() -> None:
    data = written("WAV", "FLOAT")
    for position in range(data.index(b"data") + 8):
        for value in (0, 1, 0x7F, 0xFF):
            changed = bytearray(data)
            changed[position] = value
            try:
                samples = decode(bytes(changed)).samples
            except (InvalidAudio, InputTooLarge):
                continue
            assert np.isfinite(samples).all()


def test_too_many_channels_are_refused() -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros((4_000, 66), np.float32), RATE, format="WAV")
    with pytest.raises(InvalidAudio, match="66 channels"):
        decode(file.getvalue())


# -- FLAC, MP3, AAC, OGG --


def test_flac_blocks_are_skipped_and_counted() -> None:
    data = written("FLAC")
    padding = b"\x01\0\0\0"
    assert (decode(data[:42] + padding * 5_000 + data[42:]).samples == decode(data).samples).all()
    with pytest.raises(InputTooLarge, match="blocks before its sound"):
        decode(data[:42] + padding * MAX_CHUNKS + data[42:])


def test_a_tag_that_claims_a_gigabyte() -> None:
    with pytest.raises(InvalidAudio, match="no frames"):
        decode(b"ID3\4\0\0\7\x7f\x7f\x7f" + written("MP3"))


@pytest.mark.parametrize("tail", [b"ID3\4\0\0\0\0\0\0" * 100_000, bytes(1_000_000), b"TAG" + bytes(125)])
def test_tags_around_mp3_are_not_decoded(tail: bytes) -> None:
    data = written("MP3")
    cover = b"ID3\4\0\0" + bytes([0, 64, 0, 0]) + bytes(64 << 14)
    assert (decode(cover + data + tail).samples == decode(data).samples).all()


def test_frames_for_longer_than_allowed_are_not_decoded() -> None:
    mp3 = b"\xff\xfb\x10\x00" + bytes(100)  # 104 bytes are 26 ms
    with pytest.raises(InputTooLarge, match="min are allowed"):
        decode(mp3 * 200_000)
    aac = b"\xff\xf1\x50\x80\x00\xe0\xfc"  # a frame without content, 23 ms
    with pytest.raises(InputTooLarge, match="min are allowed"):
        decode(aac * 200_000)


def ogg_page(serial: int) -> bytes:
    """An empty page. Its checksum is wrong, so a decoder also looks for the next page inside of it."""
    return b"OggS\0\0" + b"\xff" * 8 + struct.pack("<III", serial, 1, 0) + b"\0"


def test_empty_pages_before_the_sound_are_limited() -> None:
    data = written("OGG", "VORBIS")
    with pytest.raises((InputTooLarge, InvalidAudio)):
        decode(ogg_page(7) * (MAX_SILENT_BYTES // 27 + 2_000) + data)


# -- MP4 --


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def with_claim(data: bytes, name: bytes, distance: int, claim: int) -> bytes:
    at = data.index(name)
    return data[: at + distance] + struct.pack(">I", claim) + data[at + distance + 4 :]


def test_the_index_of_mp4_may_not_claim_more_than_a_day() -> None:
    data = av_written("ipod", "aac")
    assert decode(data).duration_s == pytest.approx(1.0, abs=0.1)
    with pytest.raises(InputTooLarge, match=f"{MAX_SAMPLES:,} are allowed"):
        decode(with_claim(data, b"stsz", 12, 170_000_000))
    fragment = box(b"moof", box(b"traf", box(b"trun", bytes(4) + struct.pack(">I", 100_000_000))))
    with pytest.raises(InputTooLarge, match="in its index"):
        decode(data + fragment)
    misplaced = box(b"udta", box(b"stsz", bytes(8) + struct.pack(">I", 170_000_000)))
    with pytest.raises(InputTooLarge, match="in its index"):
        decode(data + misplaced)


def test_a_compressed_index_is_refused() -> None:
    data = av_written("ipod", "aac")
    with pytest.raises(InvalidAudio, match="compressed index"):
        decode(data + box(b"moov", box(b"cmov", box(b"dcom", b"zlib"))))


def test_boxes_of_mp4_are_counted() -> None:
    with pytest.raises(InputTooLarge, match="boxes"):
        decode(av_written("ipod", "aac") + box(b"free", b"") * 1_000_001)


def test_boxes_in_boxes_do_no_harm() -> None:
    nested = b""
    for _ in range(5_000):
        nested = box(b"udta", nested)
    with pytest.raises(InvalidAudio, match=r"cannot be opened: [a-z]"):
        decode(box(b"ftyp", b"M4A \0\0\0\0") + box(b"moov", nested))


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_the_sound_of_a_video_is_read(container: str) -> None:
    assert decode(av_written(container, "aac", with_video=True)).duration_s == pytest.approx(1.0, abs=0.1)


# -- WebM --

CLUSTER, TRACKS, SEGMENT = b"\x1f\x43\xb6\x75", b"\x16\x54\xae\x6b", b"\x18\x53\x80\x67"


def element(ident: bytes, body: bytes) -> bytes:
    return ident + b"\x01" + len(body).to_bytes(7, "big") + body


def live_webm() -> tuple[bytes, bytes]:
    """A WebM as browsers record it, with a segment of unknown size: what is before the clusters, and the clusters."""
    data = av_written("webm", "libopus")
    segment, cluster = data.index(SEGMENT), data.index(CLUSTER)
    return data[:segment] + SEGMENT + b"\x01" + b"\xff" * 7 + data[segment + 12 : cluster], data[cluster:]


def test_tags_and_attachments_of_webm_are_not_decoded() -> None:
    before, clusters = live_webm()
    extra = {
        "tags": element(b"\x12\x54\xc3\x67", b"\x73\x73\x80" * 400_000),
        "index": element(b"\x1c\x53\xbb\x6b", b"\xbb\x80" * 500_000),
        "attachment": element(b"\x19\x41\xa4\x69", element(b"\x61\xa7", element(b"\x46\x5c", bytes(1_000_000)))),
        "tracks again": element(TRACKS, b"\xae\x80" * 400_000),
    }
    wanted = decode(before + clusters).samples
    for what, piece in extra.items():
        data = before + piece + clusters
        assert sum(map(len, matroska_pieces(data))) < len(before + clusters) + 100, what
        assert (decode(data).samples == wanted).all(), what


def test_a_cluster_of_unknown_size_lasts_until_the_end() -> None:
    before, clusters = live_webm()
    assert clusters.startswith(CLUSTER)
    size_bytes = 9 - clusters[4].bit_length()
    data = before + CLUSTER + b"\x01" + b"\xff" * 7 + clusters[4 + size_bytes :]
    assert decode(data).duration_s == pytest.approx(1.0, abs=0.1)


def test_tracks_of_webm_are_counted() -> None:
    before, clusters = live_webm()
    head = before[: before.index(SEGMENT) + 12]
    with pytest.raises(InputTooLarge, match=f"{MAX_TRACKS} tracks"):
        decode(head + element(TRACKS, b"\xae\x80" * (MAX_TRACKS + 1)) + clusters)
    with pytest.raises(InputTooLarge, match="pieces"):
        decode(before + b"\xec\x80" * 1_000_001 + clusters)


def test_damage_in_webm_ends_it() -> None:
    before, clusters = live_webm()
    assert decode(before + clusters + bytes(1_000)).duration_s == pytest.approx(1.0, abs=0.1)
    with pytest.raises(InvalidAudio):
        decode(before + bytes(1_000) + clusters)


# -- time and memory --


class Clock:
    """Processor time that passes with each look at it."""

    def __init__(self, step_s: float) -> None:
        self.step_s, self.now_s = step_s, 0.0

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


def test_work_without_sound_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_module.time, "thread_time", Clock(0.5))
    for data in (written("WAV", "PCM_16"), written("OGG", "VORBIS"), av_written("ipod", "aac")):
        with pytest.raises(InputTooLarge, match="takes too long for its sound") as caught:
            decode(data)
        assert str(caught.value).startswith("memo: ")


def test_sound_pays_for_work() -> None:
    budget = Budget()
    budget._began_at -= 10.0  # as if ten seconds had been worked
    with pytest.raises(InputTooLarge):
        budget.check()
    budget.heard(60.0)
    budget.check()
    budget.restart()
    budget.check()


def test_reading_without_sound_ends() -> None:
    budget = Budget()
    file = Pieces([bytes(1 << 20)] * 65, budget)
    n_read = 0
    while block := file.read(1 << 20):
        n_read += len(block)
    assert MAX_SILENT_BYTES < n_read <= MAX_SILENT_BYTES + (1 << 20)
    budget.heard(1.0)
    budget.check()


@pytest.mark.parametrize(
    "make", [lambda: written("WAV", "PCM_16"), lambda: written("OGG", "VORBIS")], ids=["libsndfile", "FFmpeg"]
)
def test_cancel_stops_the_decoder(make: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    cancel = threading.Event()
    push = decode_module.Mixer.push
    n_blocks = 0

    def push_and_cancel(self: Any, block: Any) -> Any:
        nonlocal n_blocks
        n_blocks += 1
        cancel.set()
        return push(self, block)

    monkeypatch.setattr(decode_module.Mixer, "push", push_and_cancel)
    with pytest.raises(Cancelled):
        decode_audio(make(), max_duration_s=HOUR_S, cancel=cancel)
    assert n_blocks == 1


@pytest.mark.parametrize(
    ("raised", "wanted"),
    [(RuntimeError("odd"), InvalidAudio), (MemoryError(), InputTooLarge), (OSError(22, "no"), InvalidAudio)],
)
def test_whatever_a_library_raises_is_typed(
    raised: Exception, wanted: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(decode_module.Mixer, "push", fail)
    with pytest.raises(wanted, match="memo: "):
        decode(written("WAV", "PCM_16"))


@given(
    pieces=st.lists(st.binary(max_size=9), max_size=6),
    steps=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 2), st.integers(0, 20)), max_size=8),
)
@settings(max_examples=200, deadline=None)
def test_pieces_read_like_one_file(pieces: list[bytes], steps: list[tuple[int, int, int]]) -> None:
    ours, plain = Pieces(pieces, Budget()), io.BytesIO(b"".join(pieces))
    for offset, whence, n_bytes in steps:
        wanted = max(offset - 30 if whence else offset, -plain.tell() if whence == 1 else -len(plain.getvalue()))
        assert ours.seek(wanted, whence) == plain.seek(wanted, whence)
        assert ours.read(n_bytes) == plain.read(n_bytes)
        assert ours.tell() == plain.tell()
