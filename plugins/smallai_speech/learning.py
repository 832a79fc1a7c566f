"""From feedback to examples to an adapter: a vocabulary, LoRA weights or both, whichever does best on what was kept
aside, and how an adapter is judged.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from smallai_assistant import (
    Adapter,
    AssistantError,
    AudioPart,
    Example,
    JudgedTurn,
    Message,
    ModelSpec,
    Request,
    Score,
    TextPart,
    Training,
    errors,
)
from smallai_speech.memory import Told, told_by, vocabulary_of
from smallai_speech.pipeline import Learnt, recording_of, write_down
from smallai_speech.vocabulary import WORD, Vocabulary

if TYPE_CHECKING:
    from smallai_assistant import ModelRuntime
    from smallai_speech.task import SpeechOptions

log = logging.getLogger(__name__)

Kind = Literal["vocabulary", "lora", "lora+vocabulary"]
VOCABULARY, CHOICE = "vocabulary.json", "choice.json"
_ASIDE_ONE_IN, _MIN_FOR_CHOICE = 4, 4
_MAX_FILE_BYTES = 10_000_000


@dataclass(frozen=True, slots=True)
class Spoken:
    """The payload of an example: a recording and what is known of it."""

    recording: AudioPart
    told: Told
    is_praised: bool


def examples_of(judged_turns: Sequence[JudgedTurn]) -> list[Example]:
    """Corrected recordings, and every second praised one, to be learned again and not forgotten."""
    corrected = _corrected(judged_turns)
    praised = _praised(judged_turns, besides=corrected)
    return [*corrected.values(), *(each for key, each in praised.items() if not _is_kept(key))]


def praised_of(judged_turns: Sequence[JudgedTurn]) -> list[Example]:
    """The other praised recordings: their transcripts must stay as they are."""
    praised = _praised(judged_turns, besides=_corrected(judged_turns))
    return [each for key, each in praised.items() if _is_kept(key)]


def evaluate(
    examples: Sequence[Example],
    adapter: Adapter | None,
    spec: ModelSpec,
    options: SpeechOptions,
    models: ModelRuntime,
) -> list[Score]:
    """1 - WER of each recording, in [0, 1]; the fast memory is off. One that cannot be read scores 0, before and after.

    Raises:
        AdapterMismatch: the adapter does not fit the model.
    """
    scores = []
    for each in examples:
        try:
            text = transcript(each.payload.recording, spec, replace(options, use_memory=False), models, Learnt(adapter))
        except errors.InvalidInput as error:
            log.warning("%s cannot be judged: %s", each.id, error)
            scores.append(Score(0.0, ""))
            continue
        scores.append(Score(words_right(each.expected, text), text))
    return scores


def transcript(
    recording: AudioPart, spec: ModelSpec, options: SpeechOptions, models: ModelRuntime, learnt: Learnt
) -> str:
    """What is said in a recording."""
    from smallai_speech.engine import SpeechModel

    request = Request(Message((recording,)), (), options, session_id="evaluation")
    decoded = recording_of(request.message, options)
    items = write_down(decoded, request, lambda: models.lease(spec, SpeechModel), learnt)
    return "".join(item.text for item in items if isinstance(item, TextPart))


def words_right(expected: str, text: str) -> float:
    """1 - word error rate, not below 0; case, punctuation and spellings of the same word as Whisper normalizes them."""
    from whisper.normalizers import EnglishTextNormalizer

    normalize = EnglishTextNormalizer()
    wanted, found = normalize(expected).split(), normalize(text).split()
    if not wanted:
        return 1.0 if not found else 0.0
    return max(0.0, 1.0 - n_errors(wanted, found) / len(wanted))


def n_errors(wanted: Sequence[str], found: Sequence[str]) -> int:
    """Words to be replaced, added and left out to make one of the other (Levenshtein 1966)."""
    row = list(range(len(found) + 1))
    for i, word in enumerate(wanted, 1):
        previous, row = row, [i]
        for j, other in enumerate(found, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (word != other)))
    return row[-1]


def train(training: Training, spec: ModelSpec, options: SpeechOptions) -> str:
    """Writes the adapter that does best on the corrections that are kept aside. Returns its kind.

    Raises:
        NotEnoughData: there is no correction.
        TrainingFailed: the loss became NaN.
        Cancelled: the training was stopped.
    """
    judged_turns = [*training.replay, *training.examples]
    corrected = [judged_turn for judged_turn in judged_turns if not judged_turn.payload.is_praised]
    if not corrected:
        raise errors.NotEnoughData("no transcript was corrected: there is nothing to learn")
    aside = _aside(corrected)
    kept = [judged_turn for judged_turn in judged_turns if judged_turn not in aside]
    vocabulary = vocabulary_of(judged_turn.payload.told for judged_turn in judged_turns)
    trial = training.work_folder / "trial"
    has_weights = _train_weights(training, kept, spec, trial)
    kinds: list[Kind] = ["vocabulary"] if vocabulary else []
    if has_weights:
        kinds += ["lora+vocabulary", "lora"] if vocabulary else ["lora"]
    if not kinds:
        raise errors.NotEnoughData("the corrections hold no word to learn, and there are no weights to train")
    shares = _compare(kinds, vocabulary_of(each.payload.told for each in kept), aside, (training, spec, options, trial))
    kind = max(kinds, key=lambda each: (shares.get(each, 0.0), -kinds.index(each)))  # of equals the first
    if kind != "lora":
        _write_vocabulary(training.folder, vocabulary)
    if kind != "vocabulary":
        for path in trial.iterdir():
            (training.folder / path.name).write_bytes(path.read_bytes())
    choice = {"kind": kind, "n_aside": len(aside), "words_right": shares}
    (training.folder / CHOICE).write_text(json.dumps(choice, indent=2))
    return kind


def vocabulary_in(adapter: Adapter) -> Vocabulary | None:
    """The adapter's words; None where it has none.

    Raises:
        AdapterMismatch: its file cannot be read.
    """
    if "vocabulary" not in adapter.kind:
        return None
    return _read_vocabulary(adapter.folder / VOCABULARY)


def _read_vocabulary(path: Path) -> Vocabulary:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ValueError("it is too large")
        return Vocabulary.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise errors.AdapterMismatch(f"{path}: {error}") from error


def _write_vocabulary(folder: Path, vocabulary: Vocabulary) -> None:
    (folder / VOCABULARY).write_text(json.dumps(vocabulary.to_json(), indent=1, ensure_ascii=False), encoding="utf-8")


def _train_weights(training: Training, kept: Sequence[Example], spec: ModelSpec, trial: Path) -> bool:
    """Trains LoRA weights into `trial`; False where the libraries for it are not installed."""
    if importlib.util.find_spec("peft") is None:
        log.warning("only the vocabulary is learned: peft is not installed, see pip install smallai-assistant[train]")
        return False
    from smallai_speech.training import train_weights

    return train_weights(training, kept, spec, trial)


def _compare(
    kinds: Sequence[Kind],
    vocabulary: Vocabulary,
    aside: Sequence[Example],
    how: tuple[Training, ModelSpec, SpeechOptions, Path],
) -> dict[str, float]:
    """The share of words that each kind of adapter gets right in what was kept aside, and the bare base."""
    training, spec, options, trial = how
    shares: dict[str, float] = {}
    if not aside:
        return shares
    _write_vocabulary(trial, vocabulary)
    for i, kind in enumerate(["base", *kinds]):
        training.progress(f"judging {kind}", 0.85 + 0.1 * i / len(kinds))
        training.yield_to_serving()
        adapter = None if kind == "base" else _trial_adapter(trial, kind)
        scores = evaluate(aside, adapter, spec, options, training.models)
        shares[kind] = round(sum(score.value for score in scores) / len(scores), 4)
        if adapter is not None:
            training.models.retire_adapter(adapter.id)
    (trial / VOCABULARY).unlink()
    return shares


def _trial_adapter(folder: Path, kind: str) -> Adapter:
    now = datetime.now(UTC)
    return Adapter(f"trial-{kind}-{now.timestamp()}", "trial", kind, folder, {}, {}, now)


def _aside(corrected: Sequence[Example]) -> list[Example]:
    """A quarter of the corrections, always the same ones; none where there are fewer than four."""
    if len(corrected) < _MIN_FOR_CHOICE:
        return []
    order = sorted(corrected, key=lambda each: hashlib.sha256(each.split_key.encode()).digest())
    return order[: len(order) // _ASIDE_ONE_IN]


def _corrected(judged_turns: Sequence[JudgedTurn]) -> dict[str, Example]:
    """The last correction of each recording, by the sha256 of its bytes."""
    return _by_recording(
        [judged_turn for judged_turn in judged_turns if judged_turn.feedback.correction is not None], is_praised=False
    )


def _praised(judged_turns: Sequence[JudgedTurn], *, besides: dict[str, Example]) -> dict[str, Example]:
    good = [
        judged_turn
        for judged_turn in judged_turns
        if judged_turn.feedback.is_good and judged_turn.feedback.correction is None
    ]
    return {key: each for key, each in _by_recording(good, is_praised=True).items() if key not in besides}


def _by_recording(judged_turns: Sequence[JudgedTurn], *, is_praised: bool) -> dict[str, Example]:
    found: dict[str, Example] = {}
    for judged_turn in judged_turns:
        (told,) = told_by([judged_turn]) or (None,)
        recordings = [part for part in judged_turn.turn.request.parts if isinstance(part, AudioPart)]
        if told is None or len(recordings) != 1 or not WORD.search(told.right):
            continue
        try:
            key = hashlib.sha256(recordings[0].read()).hexdigest()
        except AssistantError as error:
            log.warning("the recording of turn %s is left out: %s", judged_turn.turn.id, error)
            continue
        found[key] = Example(
            id=judged_turn.feedback.id,
            prompt=f"recording {key[:16]}",
            expected=told.right,
            split_key=key,
            feedback_ids=(judged_turn.feedback.id,),
            payload=Spoken(recordings[0], told, is_praised),
        )
    return found


def _is_kept(key: str) -> bool:
    return int(key[:8], 16) % 2 == 1
