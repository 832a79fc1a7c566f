"""Logs of interactions."""

from __future__ import annotations

import numpy as np

from smallai_assistant import Interaction


def log_of(*rows: tuple[str, str], weight: float = 1.0) -> list[Interaction]:
    """Interactions of users with items, one second apart."""
    return [Interaction(user, item, weight, at=float(second)) for second, (user, item) in enumerate(rows, 1)]


def random_log(n: int, *, n_users: int, n_items: int, seed: int = 0) -> list[Interaction]:
    rng = np.random.default_rng(seed)
    return log_of(*((f"u{rng.integers(n_users)}", f"i{rng.integers(n_items)}") for _ in range(n)))
