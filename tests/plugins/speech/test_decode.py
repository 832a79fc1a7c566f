"""Sound files become samples or a typed error, and a notice tells what is cut off."""

from __future__ import annotations

import functools
import io
import resource
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from smallai_assistant import AssistantError
from smallai_assistant.errors import InputTooLarge, InvalidAudio
from smallai_speech.containers import sniff
from smallai_speech.decode import Recording, decode_audio, resample

RATE = 16_000
HOUR_S = 3600.0
MAGICS = (
    b"RIFF\x24\xe8\x03\x00WAVEfmt ", b"RF64", b"fLaC\0\0\0\x22", b"OggS\0\x02", b"ID3\x04\0\0\0\0\0\0",
    b"\xff\xfb\x90\x00", b"\0\0\0\x20ftypM4A ", b"\x1a\x45\xdf\xa3", b"\xff\xf1\x50\x80", b"",
)  # fmt: skip


def decode(data: bytes, max_duration_s: float = HOUR_S) -> Recording:
    return decode_audio(data, max_duration_s=max_duration_s)


def tone(seconds: float = 3.0, rate: int = RATE) -> np.ndarray:
    """A swelling 440 Hz tone of peak 0.3."""
    t = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * 440 * t) * (1 - np.cos(2 * np.pi * t / seconds)) / 2).astype(np.float32)


def encoded(kind: str, subtype: str | None = None, *, rate: int = RATE, channels: int = 1) -> bytes:
    samples = tone(rate=rate)
    file = io.BytesIO()
    soundfile.write(file, np.stack([samples] * channels, axis=1), rate, format=kind, subtype=subtype)
    return file.getvalue()


def av_encoded(container: str, codec: str, rate: int) -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.layout = "stereo"
        frame = av.AudioFrame.from_ndarray(np.stack([tone(rate=rate)] * 2), format="fltp", layout="stereo")
        frame.sample_rate = rate
        out.mux([*stream.encode(frame), *stream.encode(None)])
    return file.getvalue()


# Encoded once: the damage and cut tests take each file hundreds of times.
@functools.cache
def files() -> dict[str, bytes]:
    return {
        "wav 8 bit": encoded("WAV", "PCM_U8"),
        "wav 16 bit": encoded("WAV", "PCM_16"),
        "wav 24 bit": encoded("WAV", "PCM_24"),
        "wav float": encoded("WAV", "FLOAT"),
        "wav double": encoded("WAV", "DOUBLE"),
        "wav mu-law": encoded("WAV", "ULAW"),
        "wav stereo": encoded("WAV", "PCM_16", channels=2),
        "wav 6 channels": encoded("WAVEX", "PCM_16", channels=6),
        "wav 8 kHz": encoded("WAV", "PCM_16", rate=8_000),
        "wav 96 kHz": encoded("WAV", "PCM_16", rate=96_000),
        "wav odd rate": encoded("WAV", "PCM_16", rate=44_099),
        "rf64": encoded("RF64", "PCM_16"),
        "flac": encoded("FLAC", "PCM_16"),
        "flac 48 kHz": encoded("FLAC", "PCM_24", rate=48_000, channels=2),
        "ogg vorbis": encoded("OGG", "VORBIS", rate=44_100, channels=2),
        "ogg opus": encoded("OGG", "OPUS", rate=48_000),
        "mp3": encoded("MP3", rate=44_100, channels=2),
        "m4a": av_encoded("ipod", "aac", 44_100),
        "webm": av_encoded("webm", "libopus", 48_000),
        "aac": av_encoded("adts", "aac", 44_100),
    }


NAMES = list(files())


def wav_header(claimed: int, *, channels: int = 1, rate: int = RATE, bits: int = 16) -> bytes:
    block = channels * bits // 8
    form = struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * block % 2**32, block, bits)
    size = struct.pack("<I", min(claimed + 36, 2**32 - 1))
    return b"RIFF" + size + b"WAVEfmt " + form + b"data" + struct.pack("<I", claimed)


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_same_tone(name: str) -> None:
    recording = decode(files()[name])
    samples, wanted = recording.samples, tone()
    assert recording.notices == ()
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert recording.duration_s == pytest.approx(3.0, abs=0.1)
    # Codecs shift the sound by their lead-in and may change the level when they mix channels: compare the shapes at the
    # best alignment.
    spectrum = np.fft.rfft(samples, 2**17) * np.conj(np.fft.rfft(wanted, 2**17))
    likeness = np.fft.irfft(spectrum).max() / (np.linalg.norm(samples) * np.linalg.norm(wanted))
    assert likeness > 0.99


def test_resampling_is_band_limited() -> None:
    t = np.arange(96_000) / 48_000
    speech_band = (0.5 * np.sin(2 * np.pi * 1_000 * t)).astype(np.float32)
    above = (0.5 * np.sin(2 * np.pi * 11_000 * t)).astype(np.float32)
    kept, gone = resample(speech_band, from_hz=48_000), resample(above, from_hz=48_000)
    assert len(kept) == len(gone) == 32_000
    middle = slice(1_000, -1_000)
    assert np.std(kept[middle]) == pytest.approx(np.std(speech_band), rel=0.01)
    assert np.std(gone[middle]) < 1e-3 * np.std(above)  # 60 dB down: else it would alias to 5 kHz


def test_resampling_refuses_bad_input() -> None:
    with pytest.raises(ValueError, match="positive"):
        resample(np.zeros(10, np.float32), from_hz=0)
    with pytest.raises(ValueError, match="one-dimensional"):
        resample(np.zeros((10, 2), np.float32), from_hz=8_000)


@given(
    n_samples=st.integers(0, 4_000),
    from_hz=st.sampled_from([8_000, 11_025, 22_050, 44_100, 48_000, 96_000]),
    to_hz=st.sampled_from([8_000, 16_000, 48_000]),
)
@settings(max_examples=40, deadline=None)
def test_resampling_gives_the_stated_length(n_samples: int, from_hz: int, to_hz: int) -> None:
    out = resample(np.zeros(n_samples, np.float32), from_hz=from_hz, to_hz=to_hz)
    assert out.dtype == np.float32
    assert out.shape == (round(n_samples * to_hz / from_hz),)


# -- bytes that are not a recording --


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"this is text in a file named memo.wav\n" * 50,
        b"#EXTM3U\nhttp://127.0.0.1:9/a.ts\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"<?xml version='1.0'?><MPD><BaseURL>http://127.0.0.1:9/</BaseURL></MPD>",
        b"\x89PNG\r\n\x1a\n" + bytes(200),
        b"RIFF\x24\0\0\0WAVE",
        wav_header(0),
        wav_header(1_000, channels=0) + bytes(1_000),
        wav_header(1_000, rate=0) + bytes(1_000),
        wav_header(1_000, rate=1) + bytes(1_000),
        wav_header(64_000, rate=2**31 - 1) + bytes(64_000),
        wav_header(100) + bytes(100),
    ],
    ids=[
        "empty", "text", "m3u", "concat", "dash", "png", "no chunks", "no sound",
        "0 channels", "0 Hz", "1 Hz", "2 GHz", "3 ms",
    ],
)  # fmt: skip
def test_other_bytes_are_invalid_audio(data: bytes, no_network: None) -> None:
    with pytest.raises(InvalidAudio) as caught:
        decode_audio(data, max_duration_s=HOUR_S, name="memo.wav")
    assert caught.value.hint
    assert str(caught.value).startswith("memo.wav: ")


@pytest.mark.parametrize("claimed", [4_000_000_000, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_claimed_size_allocates_nothing(claimed: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InvalidAudio, match="claims"):
        decode(wav_header(claimed) + bytes(1_000))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


def test_a_piped_recording_has_no_claimed_length() -> None:
    recording = decode(wav_header(0xFFFFFFFF) + bytes(64_000))
    assert recording.duration_s == 2.0
    assert recording.notices == ()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_samples_that_are_not_finite(value: float, rate: int) -> None:
    samples = tone(1.0, rate)
    samples[rate // 2] = value
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")
    with pytest.raises(InvalidAudio, match="finite"):
        decode(file.getvalue())


@pytest.mark.parametrize("scale", [10.0, 32_768.0, 1e30])
def test_samples_over_full_scale_are_scaled_down(scale: float) -> None:
    file = io.BytesIO()
    soundfile.write(file, tone() * scale, RATE, format="WAV", subtype="FLOAT")
    samples = decode(file.getvalue()).samples
    assert np.abs(samples).max() == pytest.approx(1.0)
    assert np.isfinite(samples).all()


# -- files that are cut short --


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", NAMES)
def test_a_cut_file_is_noticed(name: str, share: float) -> None:
    data = files()[name]
    try:
        recording = decode(data[: int(len(data) * share)])
    except InvalidAudio:
        return
    assert recording.duration_s <= 3.1
    if recording.duration_s < 2.9:
        assert [notice.code for notice in recording.notices] == ["audio_truncated"]


@pytest.mark.parametrize("name", ["wav 16 bit", "flac", "mp3", "ogg opus", "aac"])
def test_most_of_a_file_is_read(name: str) -> None:
    data = files()[name]
    recording = decode(data[: len(data) * 9 // 10])
    assert recording.duration_s > 1.5
    assert [notice.code for notice in recording.notices] == ["audio_truncated"]
    assert "cut short" in recording.notices[0].text


# -- files that are too long --


def long_flac(seconds: int) -> bytes:
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 8_000, 1, format="FLAC", subtype="PCM_16") as out:
        for _ in range(seconds // 60):
            out.write(np.zeros(60 * 8_000, np.int16))
    return file.getvalue()


def test_ten_hours_are_too_long() -> None:
    data = long_flac(36_000)
    with pytest.raises(InputTooLarge, match="600"):
        decode(data, 4 * HOUR_S)


def test_decoding_stops_at_the_limit() -> None:
    data = bytearray(long_flac(3_600))
    data[21] &= 0xF0  # STREAMINFO's number of samples: 0 is unknown
    data[22:26] = bytes(4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputTooLarge):
        decode(bytes(data), 60.0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB; an hour would take 230 MB


# -- any bytes --


def decode_or_refuse(data: bytes) -> Recording | None:
    """The recording, or None after a typed error; any other error fails the test."""
    try:
        return decode(data, 60.0)
    except AssistantError:
        return None


@given(magic=st.sampled_from(MAGICS), rest=st.binary(max_size=3_000))
@example(magic=b"", rest=b"\xff" * 3_000)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_decode_or_raise_typed_errors(magic: bytes, rest: bytes) -> None:
    recording = decode_or_refuse(magic + rest)
    if recording is not None:
        assert np.isfinite(recording.samples).all()
        assert np.abs(recording.samples).max() <= 1.0


@given(
    name=st.sampled_from(NAMES),
    edits=st.lists(st.tuples(st.integers(0, 4_000), st.integers(0, 255)), min_size=1, max_size=20),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_files_decode_or_raise_typed_errors(name: str, edits: list[tuple[int, int]]) -> None:
    data = bytearray(files()[name][:20_000])
    for position, value in edits:
        data[position % len(data)] = value
    recording = decode_or_refuse(bytes(data))
    if recording is not None:
        assert np.isfinite(recording.samples).all()


@pytest.mark.parametrize("tag", [b"", b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)])
def test_the_container_is_told_by_its_bytes(tag: bytes) -> None:
    assert sniff(tag + files()["mp3"]) == "mp3"
    assert sniff(tag + files()["aac"]) == "aac"
    assert sniff(tag + files()["flac"]) == "flac"


def test_decoding_prints_nothing(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for data in files().values():
        for end in (len(data), len(data) // 2):
            try:
                decode(data[:end])
            except InvalidAudio:
                continue
    sys.stderr.flush()
    assert capfd.readouterr() == ("", "")
