"""Trains item-item weights with the settings that best predict what users chose last, and a map of the texts."""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from smallai_assistant import Example, Training, errors
from smallai_recommend.ease import RIDGE, EaseModel, Settings
from smallai_recommend.evaluation import Evaluator
from smallai_recommend.examples import NextChoice
from smallai_recommend.interactions import Choice, InteractionStats, in_order
from smallai_recommend.text_training import train_text_map
from smallai_recommend.weights import KIND, LearnedWeights

log = logging.getLogger(__name__)

DAY_S = 86_400.0
MIN_EXAMPLES = 4  # a fifth of them, at least one, is kept aside to choose the settings by
# The first is the default, which wins unless another surely predicts better, see `_MIN_STANDARD_ERRORS`.
GRID = tuple(
    Settings(ridge, half_life_s)
    for ridge in (RIDGE, 3 * RIDGE, RIDGE / 3)
    for half_life_s in (None, 90 * DAY_S, 30 * DAY_S)
)
# Weights of the transitions and of the popularity, tried with the best of `GRID`.
MIXES = ((0.3, 0.2), (1.0, 0.2), (0.6, 0.1), (0.6, 0.4), (0.6, 0.8))
# Of 13 settings that are not better, the luckiest exceeds this in one case of 20 (Bonferroni). Luck costs: with 0 or 2,
# a cycle over 1,000 clicks after the first 90 % of MovieLens 100K lost a point.
_MIN_STANDARD_ERRORS = 2.7
ASIDE, MAX_ASIDE = 0.2, 1_000  # share and maximum number of the newest choices, by which settings are compared
FEW_ITEMS = 4_000  # with more items an inverse takes tens of seconds, so fewer settings are tried
_FEW_SETTINGS = 3
# The host holds back this share of the feedback. It counts as known to the weights, so that it alone does not make
# them outdated.
_HELD_OUT = 0.25
_CHECKPOINT = "settings.json"


def train(training: Training, evaluator: Evaluator) -> str:
    """Writes the adapter and returns its kind; see `LearningTask.train`.

    Raises:
        NotEnoughData: there are fewer than `MIN_EXAMPLES` examples.
    """
    examples = sorted([*training.replay, *training.examples], key=lambda example: example.payload.choice.at)
    if len(examples) < MIN_EXAMPLES:
        raise errors.NotEnoughData(f"{len(examples)} choices are too few to learn from", hint="use it for longer")
    settings = _best_settings(training, evaluator, examples)
    training.progress("weights of all choices", 0.6)
    training.yield_to_serving()
    stats = _stats(evaluator, examples)
    n_known = evaluator.n_stored + round(len(examples) / (1 - _HELD_OUT))
    model = EaseModel(stats, max_dense_items=evaluator.max_dense_items, settings=settings)
    learned = LearnedWeights.of(stats, model, settings, n_interactions=n_known)
    if evaluator.has_texts and not training.is_out_of_time:
        learned = replace(learned, text_map=train_text_map(training, evaluator, examples))
    training.yield_to_serving()
    learned.save(training.folder)
    training.progress("done", 1.0)
    return KIND


def _best_settings(training: Training, evaluator: Evaluator, examples: Sequence[Example]) -> Settings:
    """The settings with which the older choices best predict the newest ones."""
    n_aside = min(MAX_ASIDE, max(1, round(ASIDE * len(examples))))
    fit, aside = examples[:-n_aside], examples[-n_aside:]
    stats = _stats(evaluator, fit)
    grid = GRID if stats.n_items <= min(FEW_ITEMS, evaluator.max_dense_items) else GRID[:_FEW_SETTINGS]
    checkpoint = training.work_folder / _CHECKPOINT
    known = _read_checkpoint(checkpoint, n=len(aside))
    best, best_values = GRID[0], list[float]()
    n_tries = len(grid) + len(MIXES)
    for number in range(n_tries):
        # First how the weights are computed, then how they are mixed with the other parts.
        settings = grid[number] if number < len(grid) else _mixed(best, MIXES[number - len(grid)])
        name = ", ".join(f"{key} {value}" for key, value in asdict(settings).items())
        if name not in known:  # else a stopped run has tried it
            if training.is_out_of_time:
                break
            training.yield_to_serving()
            model = EaseModel(stats, max_dense_items=evaluator.max_dense_items, settings=settings)
            tried = LearnedWeights.of(stats, model, settings, n_interactions=stats.n_interactions)
            known[name] = [score.value for score in evaluator.scores(aside, tried)]
            checkpoint.write_text(json.dumps(known), encoding="utf-8")
        ndcg = statistics.mean(known[name])
        log.info("%s: NDCG@10 %.4f over %d choices kept aside", name, ndcg, len(aside))
        share = 0.6 * (number + 1) / n_tries
        training.progress(f"trying {name}: NDCG@10 {ndcg:.4f}", share, loss=1.0 - ndcg, setting=name)
        if not best_values or _is_surely_better(known[name], best_values):
            best, best_values = settings, known[name]
    return best


def _is_surely_better(values: Sequence[float], than: Sequence[float]) -> bool:
    """Whether the mean gain is more than `_MIN_STANDARD_ERRORS` standard errors of the paired differences."""
    gains = [value - other for value, other in zip(values, than, strict=True)]
    if len(gains) < 2:
        return False
    return statistics.mean(gains) > _MIN_STANDARD_ERRORS * statistics.stdev(gains) / math.sqrt(len(gains))


def _mixed(settings: Settings, mix: tuple[float, float]) -> Settings:
    return replace(settings, next=mix[0], popular=mix[1])


def _stats(evaluator: Evaluator, examples: Sequence[Example]) -> InteractionStats:
    """Statistics of the imported choices and those of the examples; items keep the indices of the evaluator."""
    taught = [_choice(example) for example in examples]
    stats = InteractionStats.of(in_order([*evaluator.choices, *taught]))
    for item_id in evaluator.index.stats.item_ids:
        stats.index_of(item_id)
    return stats


def _choice(example: Example) -> Choice:
    asked: NextChoice = example.payload
    return asked.choice._replace(amount=asked.choice.amount * example.weight)


def _read_checkpoint(path: Path, *, n: int) -> dict[str, list[float]]:
    """NDCG@10 of each of the n choices by settings, as a stopped run of the same examples wrote it; else empty."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): list(map(float, values)) for name, values in found.items() if len(values) == n}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
