"""Makes an adapter: trains candidates, compares them on corrections that are kept aside, and writes the best one."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from smallai_assistant import Adapter, Example, ModelSpec, Training, errors
from smallai_speech.evaluation import evaluate
from smallai_speech.memory import vocabulary_of
from smallai_speech.options import SpeechOptions
from smallai_speech.vocabulary import VOCABULARY_FILE, Vocabulary, write_vocabulary

log = logging.getLogger(__name__)

Kind = Literal["vocabulary", "lora", "lora+vocabulary"]
CHOICE_FILE = "choice.json"
_ASIDE_ONE_IN, _MIN_FOR_CHOICE = 4, 4  # a quarter is kept aside, which takes four corrections


@dataclass(frozen=True, slots=True)
class _Trial:
    """One training, and the folder in which its candidates are made before one of them is chosen."""

    training: Training
    spec: ModelSpec
    options: SpeechOptions
    folder: Path


def train(training: Training, spec: ModelSpec, options: SpeechOptions) -> str:
    """Writes the adapter that does best on the corrections kept aside. Returns its kind.

    Raises:
        NotEnoughData: there is no correction, or nothing in the corrections can be learned.
        TrainingFailed: the loss became NaN.
        Cancelled: the training was stopped.
    """
    examples = [*training.replay, *training.examples]
    corrected = [example for example in examples if not example.payload.is_praised]
    if not corrected:
        raise errors.NotEnoughData("no transcript was corrected: there is nothing to learn")
    aside = _aside(corrected)
    kept = [example for example in examples if example not in aside]
    vocabulary = _vocabulary_of(examples)
    trial = _Trial(training, spec, options, training.work_folder / "trial")
    has_weights = _train_weights(trial, kept)
    kinds: list[Kind] = ["vocabulary"] if vocabulary else []
    if has_weights:
        kinds += ["lora+vocabulary", "lora"] if vocabulary else ["lora"]
    if not kinds:
        raise errors.NotEnoughData("the corrections hold no word to learn, and there are no weights to train")
    # The comparison uses the words of the kept examples only: words of those aside would be known beforehand.
    accuracies = _compare(kinds, _vocabulary_of(kept), aside, trial)
    # Equal kinds: the first, for a vocabulary alone cannot harm other speech, and costs no computing.
    kind = max(kinds, key=lambda candidate: (accuracies.get(candidate, 0.0), -kinds.index(candidate)))
    if kind != "lora":
        write_vocabulary(training.folder, vocabulary)
    if kind != "vocabulary":
        for path in trial.folder.iterdir():
            (training.folder / path.name).write_bytes(path.read_bytes())
    choice = {"kind": kind, "n_aside": len(aside), "words_right": accuracies}
    (training.folder / CHOICE_FILE).write_text(json.dumps(choice, indent=2))
    return kind


def _vocabulary_of(examples: Sequence[Example]) -> Vocabulary:
    return vocabulary_of(example.payload.transcripts for example in examples)


def _aside(corrected: Sequence[Example]) -> list[Example]:
    """A quarter of the corrections, chosen by their hash, so always the same ones; none of fewer than four."""
    if len(corrected) < _MIN_FOR_CHOICE:
        return []
    order = sorted(corrected, key=lambda example: hashlib.sha256(example.split_key.encode()).digest())
    return order[: len(order) // _ASIDE_ONE_IN]


def _train_weights(trial: _Trial, kept: Sequence[Example]) -> bool:
    """Trains LoRA weights into the trial's folder. Returns False if peft is missing or nothing can be trained on."""
    if importlib.util.find_spec("peft") is None:
        log.warning("only the vocabulary is learned: peft is not installed, see pip install smallai-assistant[train]")
        return False
    from smallai_speech.training import train_weights

    return train_weights(trial.training, kept, trial.spec, trial.folder)


def _compare(
    kinds: Sequence[Kind], vocabulary: Vocabulary, aside: Sequence[Example], trial: _Trial
) -> dict[str, float]:
    """Word accuracy of what lies below and of each kind of adapter on what was kept aside; empty if nothing was."""
    accuracies: dict[str, float] = {}
    if not aside:
        return accuracies
    training = trial.training
    trial.folder.mkdir(parents=True, exist_ok=True)  # missing if no weights were trained
    write_vocabulary(trial.folder, vocabulary)
    for i, kind in enumerate(["base", *kinds]):
        training.progress(f"judging {kind}", 0.85 + 0.1 * i / len(kinds))
        training.yield_to_serving()
        adapter = training.over if kind == "base" else _trial_adapter(trial.folder, kind, training.over)
        scores = evaluate(aside, adapter, trial.spec, trial.options, training.models)
        accuracies[kind] = round(sum(score.value for score in scores) / len(scores), 4)
        if adapter is not None and kind != "base":
            training.models.retire_adapter(adapter.id)
    (trial.folder / VOCABULARY_FILE).unlink()  # the folder is copied if a `lora` wins, which has no vocabulary
    return accuracies


def _trial_adapter(folder: Path, kind: str, over: Adapter | None) -> Adapter:
    # The time in the id keeps the loaded model from taking the weights of an earlier trial for these.
    now = datetime.now(UTC)
    return Adapter(f"trial-{kind}-{now.timestamp()}", "trial", kind, folder, {}, {}, now, over=over)
