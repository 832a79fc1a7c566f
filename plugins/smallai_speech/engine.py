"""Runs Whisper in OpenAI's own implementation, from safetensors: no pickle, no ffmpeg, no download."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

from smallai_assistant import Engine, InvalidInput, LoadedModel, ModelSpec, errors
from smallai_speech.decode import SAMPLE_RATE
from smallai_speech.lora import SwappedWeights
from smallai_speech.model_files import build, checked_dimensions, checked_heads, halve, read_config, shapes
from smallai_speech.rescoring import Repairs, rescore, score_texts
from smallai_speech.spectrogram import Window, loudest, mel_of
from smallai_speech.window import (
    WINDOW_S,
    Decoded,
    DecodeOptions,
    Piece,
    Run,
    Stopped,
    cut_at_times,
    piece_of,
    with_text,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

TASK = "automatic-speech-recognition"
MODEL_TYPE = "openai-whisper"

_FRAMES_PER_S = 100
_MAX_PROMPT_CHARS = 4_000  # far more than 224 tokens: bounds the time that the tokenizer takes
_MAX_SCORED_PROMPT_CHARS = 600  # some 150 of the 224 tokens that a prompt may have
_ALIGNING = Lock()  # whisper switches off the fast attention of every model in the process while it aligns
_SEED = 0  # of the sampling at higher temperatures: the same recording always gives the same text


class WhisperEngine(Engine):
    """Loads folders whose config.json says `"model_type": "openai-whisper"`."""

    name = MODEL_TYPE

    def can_load(self, spec: ModelSpec, folder: Path) -> bool:
        # Every engine is asked about every folder: one that cannot be read belongs to another engine.
        try:
            return spec.task == TASK and read_config(folder).get("model_type") == MODEL_TYPE
        except errors.ModelInvalid:
            return False

    def estimate_bytes(self, spec: ModelSpec, folder: Path) -> int:
        n_weights = sum(prod(shape) for shape in shapes(folder).values())
        return n_weights * (2 if spec.dtype == "float16" else 4)

    def load(
        self, spec: ModelSpec, folder: Path, *, device: str, progress: Callable[[str, float], None]
    ) -> LoadedModel:
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if spec.quantization != "none":
            raise InvalidInput(f"{spec}: {MODEL_TYPE} cannot be quantized", hint="load it without quantization")
        if spec.dtype not in ("auto", "float32", "float16"):
            raise InvalidInput(f"{spec.name}: {MODEL_TYPE} has no {spec.dtype}", hint="use float32 or float16")
        is_half = spec.dtype == "float16" or (spec.dtype == "auto" and device.startswith("cuda"))
        progress(f"reading {spec.name}", 0.0)
        config = read_config(folder)
        dimensions = checked_dimensions(config, shapes(folder), folder)
        heads = checked_heads(config, dimensions, folder)
        try:
            network = build(dimensions, load_file(folder / "model.safetensors"), heads)
        except (SafetensorError, OSError) as error:
            raise errors.ModelInvalid(f"{folder}: {error}", hint="pull the model again") from error
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise errors.ModelInvalid(f"{folder}: not the weights of {MODEL_TYPE}: {error}") from error
        if is_half:
            halve(network)
        network.to(device)
        progress(f"reading {spec.name}", 1.0)
        return SpeechModel(spec, network, device=device, is_half=is_half)


class SpeechModel(LoadedModel):
    """A loaded Whisper: turns windows of at most 30 s of mono 16 kHz sound into text.

    Attributes:
        languages: the codes that it knows; `en` alone if it is not multilingual.
        network: the `whisper.model.Whisper`; None once the model is released. Only the model's thread may compute with
            it.
    """

    languages: tuple[str, ...]
    network: Any

    def __init__(self, spec: ModelSpec, network: Any, *, device: str, is_half: bool) -> None:
        from whisper.tokenizer import LANGUAGES

        tensors = [*network.parameters(), *network.buffers()]
        # The mask of the alignment heads is sparse and tiny; its storage cannot be measured like the others.
        dense = (tensor for tensor in tensors if not tensor.is_sparse)
        super().__init__(spec, device=device, n_bytes=LoadedModel.measure(iter(dense)))
        self.network = network
        self._is_half = is_half
        self._adapters = SwappedWeights(network)
        self.languages = tuple(LANGUAGES)[: network.num_languages] if network.is_multilingual else ("en",)

    def release(self) -> None:
        self._adapters.drop_all()
        self.network = None

    def retire_adapter(self, adapter_id: str) -> None:
        self._adapters.retire(adapter_id)

    def detect_language(self, samples: FloatArray) -> str:
        """The likeliest language code of up to 30 s of speech."""
        if len(self.languages) == 1:
            return self.languages[0]
        return self.call(lambda: self._detect_language(samples))

    def loudest(self, samples: FloatArray) -> float:
        """The maximum of a recording's logarithmic spectrogram, which the `Window`s of the recording need."""
        return self.call(lambda: loudest(samples, self.network.dims.n_mels))

    def decode(self, window: Window, options: DecodeOptions, *, cancel: Event | None = None) -> Decoded:
        """Decodes one window once.

        Raises:
            ValueError: the window is empty or too long.
            Stopped: `cancel` was set; it is checked after every token.
            AdapterMismatch: the adapter's weights do not fit the model.
            OutOfMemory: the device has no memory, even for a beam of 1.
        """
        if not 0 < len(window.samples) <= WINDOW_S * SAMPLE_RATE:
            raise ValueError(f"a window has 1 to {WINDOW_S * SAMPLE_RATE:.0f} samples, not {len(window.samples)}")
        return self.call(lambda: self._decode(window, options, cancel or Event()))

    def prompt_fits(self, prompt: str) -> bool:
        """Whether all of the prompt is used; only the end of a longer one is."""
        n_allowed = self.network.dims.n_text_ctx // 2 - 1
        return len(prompt) <= _MAX_PROMPT_CHARS and len(self._prompt_tokens(prompt)) <= n_allowed

    # -- on the model's thread --

    def _detect_language(self, samples: FloatArray) -> str:
        import torch

        with torch.inference_mode():
            _, probabilities = self.network.detect_language(
                self._encode(self._mel(Window(samples))), self._tokenizer(None)
            )
        by_language: dict[str, float] = probabilities[0]
        return max(by_language, key=by_language.__getitem__)

    def _decode(self, window: Window, options: DecodeOptions, cancel: Event) -> Decoded:
        import torch

        try:
            return self._decode_once(window, options, cancel)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        # Outside the handler: inside it the traceback still holds the tensors of the first try.
        try:
            return self._decode_once(window, replace(options, beam_size=1), cancel)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise errors.OutOfMemory(
                f"the device {self.device} has no memory to decode {len(window.samples) / SAMPLE_RATE:.1f} s of speech",
                hint="free some memory, or set device to cpu",
            ) from error

    def _decode_once(self, window: Window, options: DecodeOptions, cancel: Event) -> Decoded:
        import torch

        cuda = [torch.device(self.device)] if self.device.startswith("cuda") else []
        window_s = len(window.samples) / SAMPLE_RATE
        with (
            self._adapters.use(options.adapter),
            torch.inference_mode(),
            torch.random.fork_rng(devices=cuda),  # the random state of the process stays as it was
        ):
            torch.manual_seed(_SEED)
            mel = self._mel(window)
            features = self._encode(mel)
            result, has_ended = self._search(features, options, cancel)
            first_time = self._tokenizer(options.language).timestamp_begin
            runs, consumed_s = cut_at_times(result.tokens, first_time, window_s)
            runs, repairs = self._with_words(runs, features, options)
            pieces = self._pieces(runs, mel, round(window_s * _FRAMES_PER_S), options)
        return Decoded(
            pieces=pieces,
            consumed_s=consumed_s,
            avg_logprob=float(result.avg_logprob),
            no_speech_prob=float(result.no_speech_prob),
            compression_ratio=float(result.compression_ratio),
            repairs=repairs,
            text=result.text,
            has_ended=has_ended,
        )

    def _mel(self, window: Window) -> Any:
        mel = mel_of(window, self.network.dims.n_mels, self.device)
        return mel.half() if self._is_half else mel

    def _encode(self, mel: Any) -> Any:
        return self.network.encoder(mel[None])

    def _tokenizer(self, language: str | None) -> Any:
        from whisper.tokenizer import get_tokenizer

        network = self.network
        return get_tokenizer(
            network.is_multilingual, num_languages=network.num_languages, language=language, task="transcribe"
        )

    def _prompt_tokens(self, prompt: str) -> list[int]:
        """The end of the prompt; text that looks like a control token is encoded as plain text."""
        text = prompt[-_MAX_PROMPT_CHARS:].strip()
        return list(self._tokenizer("en").encode(" " + text, disallowed_special=())) if text else []

    def _tokens_before(self, options: DecodeOptions) -> list[int]:
        """The prompt, and as much of what was said before the window as there is room for."""
        given = self._prompt_tokens(options.prompt)
        room = max(self.network.dims.n_text_ctx // 2 - 1 - len(given), 0)
        return [*given, *(options.said[-room:] if room else ())]

    def _search(self, features: Any, options: DecodeOptions, cancel: Event) -> tuple[Any, bool]:
        """Whisper's decoding result, and whether the model ended the text before the room for it was full."""
        from whisper.decoding import DecodingOptions, DecodingTask

        samples = options.temperature > 0
        width = options.beam_size if options.beam_size > 1 else None  # whisper's greedy search has no beam
        task = DecodingTask(
            self.network,
            DecodingOptions(
                language=options.language,
                temperature=options.temperature,
                beam_size=None if samples else width,
                best_of=width if samples else None,
                prompt=self._tokens_before(options) or None,
                fp16=self._is_half,
            ),
        )
        task.logit_filters.append(_StopWhen(cancel))
        result = task.run(features)[0]
        room = min(task.sample_len, task.n_ctx + 1 - len(task.initial_tokens))
        return result, len(result.tokens) < room

    def _with_words(self, runs: list[Run], features: Any, options: DecodeOptions) -> tuple[list[Run], Repairs]:
        """Replaces what was heard by the words of the vocabulary that were meant."""
        if not options.vocabulary:
            return runs, ()
        tokenizer = self._tokenizer(options.language)
        texts = [tokenizer.decode([token for token in run.tokens if token < tokenizer.eot]) for run in runs]

        def changed(wanted: Sequence[str]) -> list[Run]:
            return [
                run if new == old else with_text(run, new, tokenizer)
                for run, old, new in zip(runs, texts, wanted, strict=True)
            ]

        def score(prompt: str, versions: Sequence[Sequence[str]]) -> list[float]:
            before = self._prompt_tokens(f"{prompt}. {options.prompt}"[:_MAX_SCORED_PROMPT_CHARS])
            prefix = [tokenizer.sot_prev, *before, *tokenizer.sot_sequence]
            room = self.network.dims.n_text_ctx - len(prefix) - 1
            rows = [[token for run in changed(version) for token in run.tokens][:room] for version in versions]
            return score_texts(self.network, features, prefix, [[*row, tokenizer.eot] for row in rows])

        wanted, repairs = rescore(texts, options.vocabulary, score)
        return changed(wanted), repairs

    def _pieces(self, runs: list[Run], mel: Any, n_frames: int, options: DecodeOptions) -> tuple[Piece, ...]:
        tokenizer = self._tokenizer(options.language)
        segments: list[dict[str, Any]] = [
            {
                "seek": 0,
                "start": run.start_s,
                "end": run.end_s,
                "tokens": [token for token in run.tokens if token < tokenizer.eot],
                "stamped": run.tokens,
            }
            for run in runs
        ]
        segments = [segment for segment in segments if segment["tokens"] and segment["end"] > segment["start"]]
        if options.word_timestamps:
            from whisper.timing import add_word_timestamps

            with _ALIGNING:
                add_word_timestamps(
                    segments=segments,
                    model=self.network,
                    tokenizer=tokenizer,
                    mel=mel,
                    num_frames=n_frames,
                    last_speech_timestamp=0.0,
                )
        return tuple(piece_of(segment, tokenizer.decode(segment["tokens"]), segment["stamped"]) for segment in segments)


class _StopWhen:
    """A logit filter that changes no logits: whisper calls it at every token, the only place to stop at."""

    def __init__(self, cancel: Event) -> None:
        self._cancel = cancel

    def apply(self, logits: Any, tokens: Any) -> None:  # noqa: ARG002
        if self._cancel.is_set():
            raise Stopped
