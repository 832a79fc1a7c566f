"""A catalogue of pairs of films: feedback shows that they belong together, the imported interactions do not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from smallai_assistant import Interaction, Item, JudgedTurn, Training, errors
from smallai_recommend.signals import CatalogueItem
from support.recommend_feedback import judged_turn_of

N_PAIRS = 30
FILMS = [Item(f"{side}{n}", f"Film {side}{n}") for n in range(N_PAIRS) for side in "ab"]
FIND = {film.id: CatalogueItem(film.id, film.title) for film in FILMS}.get


def pairs_of_choices(n: int, *, seed: int = 0) -> list[tuple[str, str]]:
    """Users and films: who chooses a film a chooses the film b of the same number next, unlike those of the import."""
    random = np.random.default_rng(seed)
    return [
        (f"u{user}", f"{side}{number}")
        for user in range(n)
        for number in random.permutation(N_PAIRS)[:2]
        for side in "ab"
    ]


def imported(n: int = 60) -> list[Interaction]:
    random = np.random.default_rng(1)
    return [
        Interaction(f"old{user}", FILMS[item].id, at=float(100 * user + place))
        for user in range(n)
        for place, item in enumerate(random.permutation(len(FILMS))[:6])
    ]


def clicks(n: int = 60) -> list[JudgedTurn]:
    rows = pairs_of_choices(n)
    return [
        judged_turn_of(user, at=1e6 + second, turn_id=f"turn {second}", session=f"s{user}", item=item, signal="click")
        for second, (user, item) in enumerate(rows)
    ]


def never() -> Any:
    raise errors.ModelNotFound("no model is needed here")


def training_of(tmp_path: Path, examples: Sequence[Any], **given: Any) -> Training:
    for name in ("adapter", "work"):
        (tmp_path / name).mkdir(exist_ok=True)
    models: Any = SimpleNamespace(wait_until_idle=lambda cancel: None)
    folder, work = tmp_path / "adapter", tmp_path / "work"
    return Training(examples, (), folder=folder, work_folder=work, parent=None, models=models, **given)
