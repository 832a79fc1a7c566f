"""Trains item-item weights anew, with the settings that find best what users chose last, and the map of the texts."""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from smallai_assistant import Example, Training, errors
from smallai_recommend.ease import RIDGE, Settings, TogetherModel
from smallai_recommend.evaluation import Judge
from smallai_recommend.examples import Next
from smallai_recommend.interactions import Choice, InteractionStats
from smallai_recommend.text_training import train_text_map
from smallai_recommend.weights import KIND, LearnedWeights

log = logging.getLogger(__name__)

DAY_S = 86_400.0
LEAST = 4
GRID = tuple(
    Settings(ridge, half_life_s)
    for ridge in (RIDGE, 3 * RIDGE, RIDGE / 3)
    for half_life_s in (None, 90 * DAY_S, 30 * DAY_S)
)
MIXES = ((0.3, 0.2), (1.0, 0.2), (0.6, 0.1), (0.6, 0.4), (0.6, 0.8))  # of what comes next, and what is popular
ASIDE, MAX_ASIDE = 0.2, 1_000
FEW_ITEMS = 4_000  # with more of them an inverse takes tens of seconds: fewer settings are tried
_FEW_SETTINGS = 3
_HELD_OUT = 0.25  # of the feedback the host holds back so much; it counts for how much has come since
_CHECKPOINT = "settings.json"


def train(training: Training, judge: Judge) -> str:
    """Writes the adapter; see `LearningTask.train`."""
    examples = sorted([*training.replay, *training.examples], key=lambda each: each.payload.choice.at)
    if len(examples) < LEAST:
        raise errors.NotEnoughData(f"{len(examples)} choices are too few to learn from", hint="use it for longer")
    settings = _best_settings(training, judge, examples)
    training.progress("weights of all choices", 0.6)
    training.yield_to_serving()
    stats = _stats(judge, examples)
    n_known = judge.n_stored + round(len(examples) / (1 - _HELD_OUT))
    model = TogetherModel(stats, max_dense_items=judge.max_dense_items, settings=settings)
    learned = LearnedWeights.of(stats, model, settings, n_interactions=n_known)
    if judge.has_texts and not training.is_out_of_time:
        learned = replace(learned, text_map=train_text_map(training, judge, examples))
    training.yield_to_serving()
    learned.save(training.folder)
    training.progress("done", 1.0)
    return KIND


def _best_settings(training: Training, judge: Judge, examples: Sequence[Example]) -> Settings:
    """The settings by which the newest choices, kept aside, are found best from the others."""
    n_aside = min(MAX_ASIDE, max(1, round(ASIDE * len(examples))))
    fit, aside = examples[:-n_aside], examples[-n_aside:]
    stats = _stats(judge, fit)
    grid = GRID if stats.n_items <= min(FEW_ITEMS, judge.max_dense_items) else GRID[:_FEW_SETTINGS]
    checkpoint = training.work_folder / _CHECKPOINT
    known = _read_checkpoint(checkpoint)
    best, best_ndcg = GRID[0], -1.0
    n_tries = len(grid) + len(MIXES)
    for number in range(n_tries):
        # First how weights are made, then how these are mixed with the rest.
        settings = grid[number] if number < len(grid) else _mixed(best, MIXES[number - len(grid)])
        name = ", ".join(f"{key} {value}" for key, value in asdict(settings).items())
        if name not in known:
            if training.is_out_of_time:
                break
            training.yield_to_serving()
            model = TogetherModel(stats, max_dense_items=judge.max_dense_items, settings=settings)
            tried = LearnedWeights.of(stats, model, settings, n_interactions=stats.n_interactions)
            known[name] = statistics.mean(score.value for score in judge.scores(aside, tried))
            checkpoint.write_text(json.dumps(known), encoding="utf-8")
        ndcg = known[name]
        log.info("%s: NDCG@10 %.4f over %d choices kept aside", name, ndcg, len(aside))
        share = 0.6 * (number + 1) / n_tries
        training.progress(f"trying {name}: NDCG@10 {ndcg:.4f}", share, loss=1.0 - ndcg, setting=name)
        if ndcg > best_ndcg:
            best, best_ndcg = settings, ndcg
    return best


def _mixed(settings: Settings, mix: tuple[float, float]) -> Settings:
    return replace(settings, next=mix[0], popular=mix[1])


def _stats(judge: Judge, examples: Sequence[Example]) -> InteractionStats:
    """What was imported and what these examples teach, by time; items keep the order that the judge has."""
    taught = [_choice(example) for example in examples]
    stats = InteractionStats.of(sorted([*judge.choices, *taught], key=lambda each: each.at))
    for item_id in judge.index.stats.item_ids:
        stats.index_of(item_id)
    return stats


def _choice(example: Example) -> Choice:
    asked: Next = example.payload
    return asked.choice._replace(amount=asked.choice.amount * example.weight)


def _read_checkpoint(path: Path) -> dict[str, float]:
    """What a stopped run of the same examples had found out."""
    try:
        return {str(name): float(value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
