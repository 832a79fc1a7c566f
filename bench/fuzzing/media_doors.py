"""The doors of pictures and sounds."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np

from bench.fuzzing import formats
from bench.fuzzing.door import Door
from bench.fuzzing.mutations import Piece, mutate_bytes, mutate_pieces

_Format = tuple[Callable[[bytes], list[Piece]], Callable[[list[Piece]], bytes]]


class _Files(Door):
    """A door that takes the bytes of files.

    Attributes:
        formats: those that are made of pieces, and how they are taken apart and put together.
        files: valid ones, by format.
    """

    formats: ClassVar[dict[str, _Format]] = {}

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.files = self.make_files()
        self._all = [(kind, data) for kind, files in self.files.items() for data in files]

    def make_files(self) -> dict[str, list[bytes]]:
        raise NotImplementedError

    def samples(self) -> list[bytes]:
        return [data for _, data in self._all]

    def make(self, rng: Random) -> bytes:
        kind, data = rng.choice(self._all)
        others = self.files[kind]
        if kind in self.formats and rng.random() < 0.6:
            data = mutate_pieces(rng, data, others, *self.formats[kind])
            if rng.random() < 0.7:
                return data
        return mutate_bytes(rng, data, others)


class Pictures(_Files):
    """The decoder of pictures."""

    name = "pictures"
    formats: ClassVar[dict[str, _Format]] = {
        "PNG": (formats.split_png, formats.join_png),
        "JPEG": (formats.split_jpeg, formats.join_jpeg),
        "WEBP": (formats.split_riff, formats.join_riff),
    }

    def make_files(self) -> dict[str, list[bytes]]:
        from PIL import Image

        grid = np.arange(40)[:, None] * 5 + np.arange(56)[None, :] * 2
        color = Image.fromarray(np.stack([grid, grid[::-1], 255 - grid], -1).astype(np.uint8))
        clear = color.convert("RGBA")
        clear.putalpha(Image.fromarray(grid.astype(np.uint8)))
        grey16 = Image.fromarray((grid * 200).astype(np.uint16))

        def file(image: Image.Image, kind: str, **options: Any) -> bytes:
            buffer = io.BytesIO()
            image.save(buffer, kind, **options)
            return buffer.getvalue()

        exif = Image.Exif()
        exif[0x0112] = 6
        frames = [color.rotate(90 * n) for n in range(3)]
        return {
            "PNG": [
                file(color, "PNG"),
                file(clear, "PNG"),
                file(grey16, "PNG"),
                file(color.convert("1"), "PNG"),
                file(color.quantize(16), "PNG", transparency=0),
                file(color, "PNG", save_all=True, append_images=frames),
            ],
            "JPEG": [
                file(color, "JPEG", exif=exif),
                file(color, "JPEG", progressive=True),
                file(color.convert("L"), "JPEG"),
                file(color.convert("CMYK"), "JPEG"),
                file(color, "JPEG", subsampling=2, restart_marker_blocks=2),
            ],
            "WEBP": [
                file(color, "WEBP"),
                file(clear, "WEBP", lossless=True),
                file(color, "WEBP", save_all=True, append_images=frames, exif=exif),
            ],
            "GIF": [file(color, "GIF"), file(color, "GIF", save_all=True, append_images=frames, transparency=0)],
        }

    def enter(self, case: bytes) -> None:
        from smallai_image.decode import decode

        decode(case)


class Sounds(_Files):
    """The decoder of recordings."""

    name = "sounds"
    formats: ClassVar[dict[str, _Format]] = {
        "wav": (formats.split_riff, formats.join_riff),
        "flac": (formats.split_flac, formats.join_flac),
        "ogg": (formats.split_ogg, formats.join_ogg),
        "mp4": (formats.split_boxes, formats.join_boxes),
    }

    def make_files(self) -> dict[str, list[bytes]]:
        import soundfile

        time = np.arange(2_400) / 16_000
        tone = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
        stereo = np.stack([tone, -0.5 * tone], 1)

        def wav(samples: Any, kind: str, subtype: str) -> bytes:
            buffer = io.BytesIO()
            soundfile.write(buffer, samples, 16_000, format=kind, subtype=subtype)
            data = buffer.getvalue()
            if subtype != "FLOAT":
                return data
            # The chunk with the peaks holds the time of day; each run must have the same bytes.
            return formats.join_riff([piece for piece in formats.split_riff(data) if piece[0] != b"PEAK"])

        subtypes = ("PCM_16", "PCM_24", "PCM_U8", "FLOAT", "ULAW", "IMA_ADPCM", "MS_ADPCM")
        return {
            "wav": [*(wav(tone, "WAV", subtype) for subtype in subtypes), wav(stereo, "WAVEX", "PCM_16")],
            "flac": [wav(tone, "FLAC", "PCM_16"), wav(stereo, "FLAC", "PCM_24")],
            "ogg": [_same_serial(wav(stereo, "OGG", subtype)) for subtype in ("VORBIS", "OPUS")],
            "mp3": [wav(stereo, "MP3", "MPEG_LAYER_III")],
            "mp4": [_encoded(stereo, "mp4", "aac")],
            "matroska": [_encoded(stereo, kind, codec) for kind, codec in (("webm", "libopus"), ("matroska", "aac"))],
            "aac": [_encoded(stereo, "adts", "aac")],
        }

    def enter(self, case: bytes) -> None:
        from smallai_speech.decode import decode_audio

        decode_audio(case, max_duration_s=600.0)


def _same_serial(data: bytes) -> bytes:
    """An OGG file with the same serial number each time; its encoder takes a random one."""
    pages = formats.split_ogg(data)
    return formats.join_ogg([(head[:14] + b"fuzz" + head[18:], body) for head, body in pages])


def _encoded(samples: Any, container: str, codec: str) -> bytes:
    """A recording in a format of FFmpeg; the same bytes each time."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options={"fflags": "+bitexact"}) as file:
        stream: Any = file.add_stream(codec, rate=48_000, layout="stereo")
        stream.codec_context.flags |= 1 << 23  # bitexact: no random serial numbers, no name of the program
        planes = np.ascontiguousarray(np.repeat(samples, 3, axis=0).T.astype(np.float32))
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout="stereo")
        frame.sample_rate = 48_000
        resampler = av.AudioResampler(format=stream.format, layout="stereo", rate=48_000)
        fifo = av.AudioFifo()
        for piece in resampler.resample(frame):
            fifo.write(piece)
        size = stream.frame_size or 1024
        while (piece := fifo.read(size) or fifo.read(size, partial=True)) is not None:
            piece.pts = None
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    return buffer.getvalue()
