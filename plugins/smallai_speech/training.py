"""Trains LoRA weights on corrected recordings: Whisper in transformers, PEFT on query and value of every attention.

A copy of the base is trained, so that the serving model is not touched. In each step the recordings are played a little
faster or slower, louder or softer, and with some noise: the weights learn the words and not the recordings.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallai_assistant import AssistantError, AudioPart, Example, ModelSpec, Training, errors
from smallai_speech.decode import SAMPLE_RATE, decode_audio
from smallai_speech.lora import transformers_name
from smallai_speech.model_files import checked_dimensions, read_config, shapes
from smallai_speech.vocabulary import WORD
from smallai_speech.window import WINDOW_S

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

log = logging.getLogger(__name__)

RANK, ALPHA = 8, 16
TARGETS = ("q_proj", "v_proj")  # the matrices that the LoRA paper found worth most (Hu et al. 2021, section 7.1)
LEARNING_RATE, BATCH, EPOCHS = 1e-3, 4, 8
_MAX_TRAINING_S = 240.0  # without a deadline from the caller: two cores make some 100 steps of tiny.en in this time
_GOOD_LOSS = 0.05  # mean of an epoch at which training stops: the examples are known by heart
_CHECKPOINT_S = 30.0
# Part of the trained delta that is kept (Wortsman et al. 2022). Of 20 taught words in other voices, 8, 13 and 19 stay
# wrong at 1, 0.7 and 0.5. On other speech the word error rate is 8.5 % at 1, and that of the base, 4.2 %, at 0.7.
_SHARE_KEPT = 0.7
_WARM_STEPS = 4
_MAX_WORDS_PER_S = 7.0  # fast speech has 4 to 5: a transcript with more belongs to another recording
_MIN_ALLOWED_WORDS = 3.0  # whatever the length: short recordings are often cut tightly
_SPEEDS, _GAINS, _NOISE_DB = (0.92, 1.08), (0.4, 1.2), (15.0, 40.0)  # ranges of the augmentation; noise below the sound
_DONE, _STATE = "adapter_model.safetensors", "state.safetensors"
_N_FRAMES = 3000  # of the spectrogram of a window
_IGNORED = -100  # the label that torch's cross entropy leaves out


@dataclass(frozen=True, slots=True)
class Row:
    """One recording to train on.

    Attributes:
        samples: float32, shape (n_samples,), mono, 16 kHz.
        tokens: the decoder's tokens, from the start sequence to the end token.
        n_given: number of tokens at the start that are given; the others are learned.
        weight: of the recording in the loss.
    """

    samples: FloatArray
    tokens: tuple[int, ...]
    n_given: int
    weight: float


def train_weights(training: Training, examples: Sequence[Example], spec: ModelSpec, target: Path) -> bool:
    """Writes a PEFT adapter into `target`. Returns False if no recording can be trained on.

    Training continues from the checkpoint that a stopped run with the same examples left in `target`.

    Raises:
        TrainingFailed: the loss became NaN.
        Cancelled: the training was stopped; the checkpoint stays.
    """
    if (target / _DONE).is_file():
        return True
    folder = training.models.folder_of(spec)
    config = read_config(folder)
    dims = checked_dimensions(config, shapes(folder), folder)
    rows = _rows(examples, dims)
    if not rows:
        return False
    target.mkdir(parents=True, exist_ok=True)
    training.progress("loading a copy of the model to train", 0.02)
    model = with_lora(load_copy(folder, dims), seed=training.seed).to(training.models.device)
    _fit(model, rows, training, target / _STATE)
    _scale_down(model)
    finished = target / ".finished"
    model.save_pretrained(str(finished))
    # Saved beside and moved: a file named like the finished weights must not exist half written.
    for path in finished.iterdir():
        if path.name != "README.md":  # peft writes a model card for hubs
            path.replace(target / path.name)
    shutil.rmtree(finished)
    (target / _STATE).unlink(missing_ok=True)
    return True


def load_copy(folder: Path, dims: dict[str, int]) -> Any:
    """Makes transformers' Whisper with the weights of an openai-whisper folder, in float32.

    Raises:
        ModelInvalid: transformers' Whisper has other weights than the folder.
    """
    from safetensors.torch import load_file
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=dims["n_vocab"],
            num_mel_bins=dims["n_mels"],
            d_model=dims["n_audio_state"],
            encoder_layers=dims["n_audio_layer"],
            encoder_attention_heads=dims["n_audio_head"],
            encoder_ffn_dim=4 * dims["n_audio_state"],
            decoder_layers=dims["n_text_layer"],
            decoder_attention_heads=dims["n_text_head"],
            decoder_ffn_dim=4 * dims["n_text_state"],
            max_source_positions=dims["n_audio_ctx"],
            max_target_positions=dims["n_text_ctx"],
        )
    )
    state = {
        transformers_name(name): tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()
    }
    missing, unexpected = model.load_state_dict(state, strict=False)
    # The output matrix is missing on purpose: it is tied to the embedding.
    if unexpected or set(missing) - {"proj_out.weight"}:
        raise errors.ModelInvalid(f"{folder}: transformers' Whisper has other weights: {[*missing, *unexpected][:3]}")
    model.tie_weights()
    return model


def with_lora(model: Any, *, seed: int) -> Any:
    """The model with new LoRA weights, the only ones that are trained."""
    import torch
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS)))


def _rows(examples: Sequence[Example], dims: dict[str, int]) -> list[Row]:
    """The recordings of at most one window whose transcript can be said in their time."""
    from whisper.tokenizer import get_tokenizer

    # As whisper derives them from the size of its vocabulary, in `Whisper.num_languages` and `is_multilingual`.
    n_languages = dims["n_vocab"] - 51_765 - (dims["n_vocab"] >= 51_865)
    is_multilingual = dims["n_vocab"] >= 51_865
    tokenizer = get_tokenizer(is_multilingual, num_languages=n_languages, language="en", task="transcribe")
    rows = []
    for example in examples:
        part: AudioPart = example.payload.recording
        try:
            samples = decode_audio(part.read(), max_duration_s=WINDOW_S, name=part.name).samples
        except AssistantError as error:
            log.warning("%s is not trained on: %s", example.id, error)
            continue
        duration_s = len(samples) / SAMPLE_RATE
        n_words = len(WORD.findall(example.expected))
        text = tokenizer.encode(" " + example.expected.strip(), disallowed_special=())
        end = tokenizer.timestamp_begin + round(duration_s / 0.02)  # time tokens count in steps of 0.02 s
        tokens = (*tokenizer.sot_sequence, tokenizer.timestamp_begin, *text, end, tokenizer.eot)
        if n_words > max(_MAX_WORDS_PER_S * duration_s, _MIN_ALLOWED_WORDS) or len(tokens) > dims["n_text_ctx"]:
            log.warning("%s is not trained on: %d words in %.1f s", example.id, n_words, duration_s)
            continue
        rows.append(Row(samples, tokens, len(tokenizer.sot_sequence) + 1, example.weight))
    return rows


def _fit(model: Any, rows: Sequence[Row], training: Training, state: Path) -> None:
    """Trains step by step, and writes a checkpoint every 30 s.

    The random numbers of a step depend on the seed and the step's number alone, so that a resumed run gives the same
    weights.
    """
    import numpy as np
    import torch

    begun, saved_at = time.monotonic(), time.monotonic()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.01)
    steps_an_epoch = math.ceil(len(rows) / BATCH)
    n_steps = EPOCHS * steps_an_epoch
    first = _resume(state, parameters, optimizer)
    losses: list[float] = []
    model.train()
    for step in range(first, n_steps):
        training.yield_to_serving()
        if training.is_out_of_time or (training.deadline is None and time.monotonic() - begun > _MAX_TRAINING_S):
            break
        order = np.random.default_rng([training.seed, step // steps_an_epoch]).permutation(len(rows))
        at = step % steps_an_epoch * BATCH
        batch = [rows[i] for i in order[at : at + BATCH]]
        for group in optimizer.param_groups:
            warm_up = min((step + 1) / _WARM_STEPS, 1.0)
            group["lr"] = LEARNING_RATE * warm_up * 0.5 * (1 + math.cos(math.pi * step / n_steps))
        loss = _step(model, batch, np.random.default_rng([training.seed, step, 1]))
        if not math.isfinite(loss):
            raise errors.TrainingFailed(f"the loss became {loss} at step {step + 1} of {n_steps}")
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss)
        training.progress(f"training, step {step + 1} of {n_steps}", 0.05 + 0.8 * (step + 1) / n_steps, loss=loss)
        if time.monotonic() - saved_at > _CHECKPOINT_S:
            _save(state, parameters, optimizer, step + 1)
            saved_at = time.monotonic()
        if len(losses) >= steps_an_epoch and sum(losses[-steps_an_epoch:]) / steps_an_epoch < _GOOD_LOSS:
            break
    model.eval()


def _scale_down(model: Any) -> None:
    """Keeps `_SHARE_KEPT` of the delta. B A is linear in B, so scaling B is enough."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(_SHARE_KEPT)


def _step(model: Any, batch: Sequence[Row], rng: np.random.Generator) -> float:
    """Computes the gradients of the mean loss of a batch. Returns the loss.

    The time stamps are given and not learned: nobody corrected them.
    """
    import torch

    mels = torch.stack([_mel(_augmented(row.samples, rng), model.config.num_mel_bins) for row in batch])
    longest = max(len(row.tokens) for row in batch)
    tokens = torch.full((len(batch), longest), batch[0].tokens[-1])
    targets = torch.full((len(batch), longest), _IGNORED)
    for i, row in enumerate(batch):
        tokens[i, : len(row.tokens)] = torch.tensor(row.tokens)
        targets[i, row.n_given : len(row.tokens)] = torch.tensor(row.tokens[row.n_given :])
        targets[i, len(row.tokens) - 2] = _IGNORED  # the closing time stamp
    device = next(model.parameters()).device
    out = model(input_features=mels.to(device), decoder_input_ids=tokens[:, :-1].to(device), use_cache=False)
    losses = torch.nn.functional.cross_entropy(
        out.logits.float().transpose(1, 2), targets[:, 1:].to(device), ignore_index=_IGNORED, reduction="none"
    )
    weights = torch.tensor([row.weight for row in batch], device=device)
    # Mean over the tokens of each recording first: otherwise long recordings would count more.
    loss = (losses.sum(1) / (targets[:, 1:] != _IGNORED).sum(1).to(device) * weights).sum() / weights.sum()
    loss.backward()
    return float(loss.detach())


def _mel(samples: FloatArray, n_mels: int) -> Any:
    """The spectrogram, shape (n_mels, 3000), as the engine makes it."""
    import torch
    from whisper.audio import N_SAMPLES, log_mel_spectrogram, pad_or_trim

    mel = log_mel_spectrogram(torch.from_numpy(samples), n_mels, padding=N_SAMPLES)
    return pad_or_trim(mel[:, : -(-len(samples) * 100 // SAMPLE_RATE)], _N_FRAMES)


def _augmented(samples: FloatArray, rng: np.random.Generator) -> FloatArray:
    """The recording at another speed and level, with some noise; at most one window."""
    import numpy as np

    speed = rng.uniform(*_SPEEDS)
    n_samples = min(round(len(samples) / speed), int(WINDOW_S * SAMPLE_RATE))
    faster = np.interp(np.arange(n_samples) * speed, np.arange(len(samples)), samples)
    level = float(np.sqrt((faster**2).mean())) * 10 ** (-rng.uniform(*_NOISE_DB) / 20)
    louder = (faster + rng.normal(0, level + 1e-6, n_samples)) * rng.uniform(*_GAINS)
    clipped: FloatArray = np.clip(louder, -1, 1).astype(np.float32)
    return clipped


def _save(path: Path, parameters: Sequence[Any], optimizer: Any, step: int) -> None:
    """Writes a checkpoint atomically: the weights, Adam's moments and the next step."""
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    for i, parameter in enumerate(parameters):
        moments = optimizer.state[parameter]
        tensors |= {
            f"{i}.weight": parameter.detach(),
            f"{i}.first": moments["exp_avg"],
            f"{i}.second": moments["exp_avg_sq"],
        }
    temporary = path.with_suffix(".new")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, {"step": json.dumps(step)})
    temporary.replace(path)


def _resume(path: Path, parameters: Sequence[Any], optimizer: Any) -> int:
    """Loads a checkpoint. Returns the next step, 0 if there is no checkpoint that fits."""
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            step = int(json.loads(file.metadata()["step"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        if any(tensors[f"{i}.weight"].shape != parameter.shape for i, parameter in enumerate(parameters)):
            raise ValueError("of another shape")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        if path.exists():
            log.warning("the checkpoint %s is ignored: %s", path.name, error)
        return 0
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.copy_(tensors[f"{i}.weight"])
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"{i}.first"].to(parameter.device),
                "exp_avg_sq": tensors[f"{i}.second"].to(parameter.device),
            }
    return step
