"""Decodes sound files to mono 16 kHz samples, in this process, from bytes only.

No decoder ever gets a path or an address. libsndfile and FFmpeg's libraries read from memory, and the container is
fixed from the first bytes, so that a file cannot make them open a playlist or a network address. They get the sound and
its description only, and a budget ends their work if it gives no sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any

from smallai_assistant import AssistantError, Notice, errors
from smallai_speech.budget import Budget, Pieces
from smallai_speech.containers import Container, Contents, contents_of, sniff
from smallai_speech.mixing import Mixer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

SAMPLE_RATE = 16_000  # what Whisper was trained on (Radford et al. 2022, section 2.2)
_RATES_HZ = (2_000, 768_000)  # lowest and highest; others are damage, or made to exhaust memory
_MAX_CHANNELS = 64
_BLOCK_VALUES = 2**13  # samples times channels decoded at once: one damaged block costs no more than these
_MIN_S = 0.02
_PROBED_BYTES = "262144"  # of streams without a header: FFmpeg looks at 5 MB, which is a million frames without sound
_CLAIM_TOLERANCE_S = 0.06  # some containers count an encoder's lead-in, which the decoder cuts


@dataclass(frozen=True, slots=True)
class Recording:
    """A decoded recording.

    Attributes:
        samples: float32, shape (n_samples,), mono, 16 kHz, in [-1, 1].
        notices: what is missing from it or damaged in it.
    """

    samples: FloatArray
    notices: tuple[Notice, ...] = ()

    @property
    def duration_s(self) -> float:
        return len(self.samples) / SAMPLE_RATE


def decode_audio(
    data: bytes, *, max_duration_s: float, name: str = "the recording", cancel: Event | None = None
) -> Recording:
    """Decodes WAV, FLAC, OGG (Vorbis, Opus), MP3, MP4, Matroska, WebM or AAC.

    Args:
        data: the encoded file.
        max_duration_s: decoding stops with an error as soon as there is more.
        name: used in messages only; no file is opened by it.
        cancel: decoding stops soon after it is set.

    Raises:
        InvalidAudio: the bytes are not a recording, nothing can be decoded, or a sample is not finite.
        InputTooLarge: the recording is longer than `max_duration_s`, or decoding takes too long for its sound.
        Cancelled: `cancel` was set.
    """
    container = sniff(data, name=name)
    budget = Budget(cancel)
    try:
        return _decode(data, container, max_duration_s, budget)
    except (errors.InvalidAudio, errors.InputTooLarge) as error:
        # The end of the budget looks like the end of the file to a decoder.
        found = budget.stop() or error
        if isinstance(found, errors.Cancelled):
            raise found from error
        raise type(found)(f"{name}: {found.message}", hint=found.hint) from error
    except AssistantError:
        raise
    except MemoryError as error:
        raise errors.InputTooLarge(f"{name}: too large to decode") from error
    except Exception as error:  # libraries raise many types, of a damaged header most
        raise errors.InvalidAudio(f"{name}: cannot be decoded: {_reason(error)}") from error


def resample(samples: FloatArray, *, from_hz: int, to_hz: int = SAMPLE_RATE) -> FloatArray:
    """Resamples mono audio, band-limited.

    Args:
        samples: float32, shape (n_samples,), in [-1, 1].
        from_hz: the rate of `samples`.
        to_hz: the rate wanted.

    Returns:
        float32, shape (round(n_samples * to_hz / from_hz),).

    Raises:
        ValueError: a rate is not positive, or `samples` is not one-dimensional.
    """
    import numpy as np

    if from_hz <= 0 or to_hz <= 0:
        raise ValueError(f"rates must be positive, not {from_hz} and {to_hz}")
    if samples.ndim != 1:
        raise ValueError(f"samples must be one-dimensional, not of shape {samples.shape}")
    if from_hz == to_hz or not len(samples):
        return samples
    n_wanted = round(len(samples) * to_hz / from_hz)
    resampler = _Resampler(to_hz)
    blocks = [*_channel_of(resampler.push(samples[:, None], from_hz)), *_channel_of(resampler.flush())]
    out = np.concatenate([np.zeros(0, np.float32), *blocks])[:n_wanted]
    return np.pad(out, (0, n_wanted - len(out)))


def _decode(data: bytes, container: Container, max_duration_s: float, budget: Budget) -> Recording:
    import numpy as np

    contents = contents_of(data, container, budget, max_duration_s)
    missing = contents.missing
    source = _open(contents, container, budget)
    limit = round(max_duration_s * SAMPLE_RATE)
    collected = bytearray()  # grows in place: a list of blocks would need a second copy of a long recording
    try:
        # Refuse before decoding if the header says so; that of a cut file claims more than can be decoded.
        if source.claimed_s is not None and source.claimed_s > max_duration_s and missing is None:
            raise _too_long(source.claimed_s, max_duration_s)
        for block in source.blocks():
            if not np.isfinite(block).all():
                raise errors.InvalidAudio("the recording holds samples that are not finite numbers")
            collected += block.tobytes()
            if len(collected) > limit * 4:
                raise _too_long(len(collected) / 4 / SAMPLE_RATE, max_duration_s)
            if len(block):
                budget.heard(len(collected) / 4 / SAMPLE_RATE)
            budget.check()
    finally:
        source.close()
    budget.check()
    samples = np.frombuffer(collected, np.float32)
    if len(samples) < _MIN_S * SAMPLE_RATE:
        raise errors.InvalidAudio(f"the recording holds {len(samples) / SAMPLE_RATE:.3f} s of sound")
    peak = max(float(samples.max()), -float(samples.min()))
    if peak > 1.0:  # samples stored as floats may exceed full scale
        samples /= peak
    return Recording(samples, tuple(_notices(source, len(samples) / SAMPLE_RATE, missing)))


def _open(contents: Contents, container: Container, budget: Budget) -> _Source:
    """Opens WAV and FLAC with libsndfile, everything else with FFmpeg, which also reads FLAC that is cut short.

    Of MP3, libsndfile's decoder prints warnings on standard error; of OGG, its decoder makes tables of any size that
    the file asks for.
    """
    if container in ("wav", "flac"):
        import soundfile

        try:
            return _SoundFileSource(soundfile.SoundFile(Pieces(contents.pieces, budget)))
        except (soundfile.LibsndfileError, ValueError, RuntimeError):
            budget.check()
    return _AvSource(Pieces(contents.pieces, budget), container)


def _too_long(found_s: float, max_duration_s: float) -> errors.InputTooLarge:
    return errors.InputTooLarge(
        f"the recording lasts {found_s / 60:.1f} min or more, {max_duration_s / 60:.1f} min are allowed",
        hint="split it into parts, or raise max_duration_s",
    )


def _notices(source: _Source, decoded_s: float, missing: str | None) -> Iterator[Notice]:
    """Tells the user what is cut off or damaged; `missing` is what the headers showed."""
    if missing is None and source.stopped is not None:
        missing = source.stopped
    if missing is None and source.claimed_s is not None and decoded_s < source.claimed_s - _CLAIM_TOLERANCE_S:
        missing = f"the header claims {source.claimed_s:.1f} s"
    if missing is not None:
        yield Notice("audio_truncated", f"The recording is cut short: {missing}; {decoded_s:.1f} s could be read.")
    if source.mixer.is_turned:
        yield Notice(
            "audio_channels_opposite",
            "Two channels of the recording are opposite and would cancel each other; one of them was turned round.",
        )
    if source.n_damaged > (missing is not None):  # the cut itself damages one packet
        yield Notice("audio_damaged", f"{source.n_damaged} damaged packets of the recording were left out.")


class _Source:
    """One open file, read as mono 16 kHz blocks.

    Attributes:
        claimed_s: the duration that the header gives; None if it gives none.
        stopped: why decoding ended before the end of the file; None if it did not.
        n_damaged: number of packets that were skipped.
        mixer: makes one channel of several.
    """

    mixer: Mixer

    claimed_s: float | None = None
    stopped: str | None = None
    n_damaged = 0

    def blocks(self) -> Iterator[FloatArray]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class _SoundFileSource(_Source):
    def __init__(self, file: Any) -> None:
        import soundfile

        self._file = file
        self._error: type[Exception] = soundfile.LibsndfileError
        self._rate_hz, self._n_channels = int(file.samplerate), int(file.channels)
        _check_format(self._rate_hz, self._n_channels)
        self.mixer = Mixer(self._rate_hz)
        if 0 < file.frames < 2**62:  # libsndfile gives 2**63 - 1 if the header does not say
            self.claimed_s = int(file.frames) / self._rate_hz

    def blocks(self) -> Iterator[FloatArray]:
        resampler = _Resampler(SAMPLE_RATE)
        n_frames = max(_BLOCK_VALUES // self._n_channels, 64)
        n_read = 0
        while True:
            try:
                block = self._file.read(n_frames, dtype="float32", always_2d=True)
            except (self._error, ValueError, RuntimeError) as error:
                if n_read == 0:
                    raise errors.InvalidAudio(f"the recording cannot be decoded: {_reason(error)}") from error
                self.stopped = f"decoding failed after {n_read / self._rate_hz:.1f} s"
                break
            if not len(block):
                break
            n_read += len(block)
            yield from _channel_of(resampler.push(self.mixer.push(block)[:, None], self._rate_hz))
        yield from _channel_of(resampler.flush())

    def close(self) -> None:
        self._file.close()


class _AvSource(_Source):
    def __init__(self, file: Pieces, container: Container) -> None:
        import av
        import av.error

        self._errors: tuple[type[Exception], ...] = (av.error.FFmpegError, ValueError, EOFError)
        # The container is fixed and no protocol is allowed: the file cannot make FFmpeg open anything else.
        options = {"protocol_whitelist": ""}
        if container in ("mp3", "aac"):
            options["probesize"] = _PROBED_BYTES
        try:
            self._container = av.open(file, format=container, options=options, metadata_errors="ignore")
        except self._errors as error:
            raise errors.InvalidAudio(f"the recording cannot be opened: {_reason(error)}") from error
        if not self._container.streams.audio:
            self._container.close()
            raise errors.InvalidAudio("the file has no sound track")
        self._stream = self._container.streams.audio[0]
        self.mixer = Mixer(SAMPLE_RATE)
        # Of AAC and MP3 streams FFmpeg guesses the duration from the bit rate: that is not a claim of the file.
        if container not in ("aac", "mp3") and self._container.duration:
            self.claimed_s = self._container.duration / 1_000_000

    def blocks(self) -> Iterator[FloatArray]:
        resampler = _Resampler(SAMPLE_RATE)
        n_frames = 0
        for packet in self._packets():
            try:
                frames = packet.decode()
            except self._errors:
                self.n_damaged += 1
                self.stopped = "the last packet is cut"
                continue
            for frame in frames:
                self.stopped = None  # what was damaged before was not the end
                _check_format(frame.sample_rate, len(frame.layout.channels))
                n_frames += 1
                yield from map(self.mixer.push, resampler.push_frame(frame))
        if n_frames == 0:
            raise errors.InvalidAudio("nothing of the recording can be decoded")
        yield from map(self.mixer.push, resampler.flush())

    def _packets(self) -> Iterator[Any]:
        try:
            yield from self._container.demux(self._stream)
        except self._errors as error:
            self.stopped = f"reading failed ({_reason(error)})"

    def close(self) -> None:
        self._container.close()


class _Resampler:
    """FFmpeg's band-limited resampler, fed block by block. Blocks are float32, of shape (n_samples, n_channels)."""

    def __init__(self, to_hz: int) -> None:
        self._to_hz = to_hz
        self._format: tuple[Any, ...] | None = None
        self._resampler: Any = None

    def push(self, block: FloatArray, from_hz: int) -> list[FloatArray]:
        """Resamples the next block of one channel; the filter keeps some of it until the next call."""
        if from_hz == self._to_hz:
            return [block]
        import av
        import numpy as np

        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block.T), format="fltp", layout="mono")
        frame.sample_rate = from_hz
        return self.push_frame(frame)

    def push_frame(self, frame: Any) -> list[FloatArray]:
        """Resamples the next frame. Two channels stay two; FFmpeg mixes more of them to one, each by its place.

        A frame of another format starts a new resampler; what the old one still holds comes first.
        """
        import av

        key = (frame.sample_rate, frame.format.name, frame.layout.name)
        before: list[FloatArray] = []
        if key != self._format:
            before = self.flush()
            self._format = key
            layout = "stereo" if len(frame.layout.channels) == 2 else "mono"
            self._resampler = av.AudioResampler(format="fltp", layout=layout, rate=self._to_hz)
        frame.pts = None  # time stamps in a file may go backwards, which the resampler refuses
        return [*before, *_arrays(self._resampler.resample(frame))]

    def flush(self) -> list[FloatArray]:
        """Returns the samples that the resampler still holds, and forgets it."""
        if self._resampler is None:
            return []
        out = _arrays(self._resampler.resample(None))
        self._resampler = self._format = None
        return out


def _arrays(frames: list[Any]) -> list[FloatArray]:
    return [frame.to_ndarray().T for frame in frames]


def _channel_of(blocks: list[FloatArray]) -> Iterator[FloatArray]:
    for block in blocks:
        yield block[:, 0]


def _check_format(rate_hz: int, n_channels: int) -> None:
    low, high = _RATES_HZ
    if not low <= rate_hz <= high:
        raise errors.InvalidAudio(f"the sample rate is {rate_hz:,} Hz", hint=f"give {low:,} to {high:,} Hz")
    if n_channels > _MAX_CHANNELS:
        raise errors.InvalidAudio(f"the recording has {n_channels} channels", hint=f"give at most {_MAX_CHANNELS}")


def _reason(error: BaseException) -> str:
    """What a library says, without the file names and codes around it."""
    text = getattr(error, "strerror", None) or str(error).split(": ")[-1]
    return text.strip().rstrip(".").lower()[:120]
