"""Which versions of a task may go, so that the disk does not fill with every cycle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from smallai_assistant.learning.adapter_files import size_of
from smallai_assistant.learning.champions import champion_of, entries, previous_of
from smallai_assistant.learning_config import LearningConfig
from smallai_assistant.storage.schema import adapters
from smallai_assistant.validation import EVERYONE

# An answer ends with the version that it began with, in whichever process. None takes an hour.
SERVED_RECENTLY_S = 3600.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How many versions of a task may be kept.

    Attributes:
        n_versions: their number.
        n_bytes: the size of their files.
    """

    n_versions: int
    n_bytes: int

    @classmethod
    def of(cls, config: LearningConfig, *, keep: int | None = None, max_mb: int | None = None) -> Limits:
        """The limits of the configuration, or other ones instead."""
        n_bytes = (config.max_versions_mb if max_mb is None else max_mb) * 2**20
        return cls(config.max_versions if keep is None else keep, n_bytes)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed.

    Attributes:
        ids: in the order in which they went.
        n_bytes: the bytes freed.
        n_kept: number of versions that are left.
        n_bytes_kept: the size of their files.
    """

    ids: tuple[str, ...]
    n_bytes: int
    n_kept: int
    n_bytes_kept: int


def to_prune(
    connection: sa.Connection, task: str, folder: Path, limits: Limits, *, now: float, audience: str = EVERYONE
) -> Pruned:
    """Chooses the versions of an audience to remove until the rest is within the limits: refused ones, then the oldest.

    These stay, even beyond the limits: the champion, the version that a rollback goes to, what served within the last
    hour, the newest version, whose report is that of the last cycle, and a candidate that nobody has judged: it may be
    that of a cycle that runs. The next cycle removes one that a kill left.

    Args:
        folder: holds the folders of all versions.
        now: seconds since 1970.
    """
    query = sa.select(adapters.c.id, adapters.c.status).order_by(adapters.c.seq)
    rows = connection.execute(query.where(adapters.c.task == task, adapters.c.audience == audience)).all()
    sizes = {row.id: size_of(folder / row.id) for row in rows}
    moves = entries(connection, task, audience)
    served = {entry["adapter_id"] for entry in moves} | {entry["previous_id"] for entry in moves}
    kept = {
        champion_of(connection, task, audience),
        previous_of(connection, task, audience),
        *(row.id for row in rows[-1:]),
    }
    kept |= {entry["previous_id"] for entry in moves if now - entry["at"] < SERVED_RECENTLY_S}
    kept |= {row.id for row in rows if row.status == "candidate" and row.id not in served}
    candidates = [row for row in rows if row.id not in kept]
    # A refused version that somebody forced goes by its age, as the approved ones.
    candidates.sort(key=lambda row: row.status == "approved" or row.id in served)  # stable: the oldest first in each
    n_left, n_bytes_left = len(rows), sum(sizes.values())
    chosen: list[str] = []
    for row in candidates:
        if n_left <= limits.n_versions and n_bytes_left <= limits.n_bytes:
            break
        chosen.append(row.id)
        n_left, n_bytes_left = n_left - 1, n_bytes_left - sizes[row.id]
    return Pruned(tuple(chosen), sum(sizes[adapter_id] for adapter_id in chosen), n_left, n_bytes_left)
