"""Withdraws the versions that learned from erased feedback: they stop serving, and nothing brings them back."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from smallai_assistant.errors import TrainingFailed
from smallai_assistant.learning.adapter_files import MANIFEST
from smallai_assistant.learning.champions import champion_of, move, note, place_of, previous_of
from smallai_assistant.storage.row_reader import chunks
from smallai_assistant.storage.schema import adapters, feedback, learned

REASON = "it learned from feedback that was erased"


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A version that was withdrawn.

    Attributes:
        has_served: whether it served until then.
        now: the id of the audience's version that serves since then; None if it has none.
    """

    adapter_id: str
    task: str
    audience: str
    has_served: bool
    now: str | None


def learned_from_erased(connection: sa.Connection) -> set[str]:
    """The versions that learned from a row that is erased."""
    query = sa.select(learned.c.adapter_id).join(feedback, feedback.c.id == learned.c.feedback_id)
    return set(connection.scalars(query.where(feedback.c.state == "erased")))


def versions_learned_from(connection: sa.Connection, feedback_ids: Sequence[str]) -> list[str]:
    """The versions that learned from any of these feedback rows, oldest first."""
    found: set[str] = set()
    for chunk in chunks(feedback_ids):
        found |= set(connection.scalars(sa.select(learned.c.adapter_id).where(learned.c.feedback_id.in_(chunk))))
    order = connection.scalars(sa.select(adapters.c.id).order_by(adapters.c.seq)).all()
    return [adapter_id for adapter_id in order if adapter_id in found]


def is_tainted(connection: sa.Connection, adapter_id: str, folder: Path) -> bool:
    """Whether a version, or one that it began with, learned from a row that is erased."""
    return adapter_id in with_descendants(connection, learned_from_erased(connection), folder)


def inherited(connection: sa.Connection, started_from: str | None) -> list[str]:
    """What the version learned that a training began with, and so what the trained one learned as well.

    Raises:
        TrainingFailed: that version is gone.
    """
    if started_from is None:
        return []
    if connection.scalar(sa.select(adapters.c.id).where(adapters.c.id == started_from)) is None:
        raise TrainingFailed(
            f"{started_from}, which the training began with, is gone", hint="start the cycle again; nothing was changed"
        )
    query = sa.select(learned.c.feedback_id).where(learned.c.adapter_id == started_from)
    return sorted(connection.scalars(query))


def hand_down(connection: sa.Connection, adapter_id: str, folder: Path) -> None:
    """Records what a version learned for those that began with it, before its row goes.

    Only versions of an earlier program need it: after it goes, nothing else tells what they learned from it.
    """
    task, audience = place_of(connection, adapter_id)
    of_same_place = sa.select(adapters.c.id).where(adapters.c.task == task, adapters.c.audience == audience)
    heirs = [
        heir
        for heir in connection.scalars(of_same_place).all()
        if heir != adapter_id and _began_with(folder / heir) == adapter_id
    ]
    known = sa.select(learned.c.feedback_id).where(learned.c.adapter_id == sa.bindparam("of"))
    rows = connection.scalars(known, {"of": adapter_id}).all() if heirs else []
    for heir in heirs:
        own = set(connection.scalars(known, {"of": heir}))
        if new := [{"adapter_id": heir, "feedback_id": row_id} for row_id in rows if row_id not in own]:
            connection.execute(sa.insert(learned), new)


def with_descendants(connection: sa.Connection, ids: Collection[str], folder: Path) -> list[str]:
    """These versions and those whose training began with one of them, oldest first."""
    found = set(ids)
    if not found:  # without reading a thousand manifests
        return []
    rows = connection.execute(sa.select(adapters.c.id).order_by(adapters.c.seq)).all()
    # A version is younger than the one that it began with, so one pass finds the whole chain.
    for row in rows:
        if row.id not in found and _began_with(folder / row.id) in found:
            found.add(row.id)
    return [row.id for row in rows if row.id in found]


def _began_with(folder: Path) -> str | None:
    """The version that a version of an earlier program began with, as far as its manifest tells.

    Newer ones need no chain: what their parent learned is recorded as learned by themselves.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):  # it is damaged, and so it does not serve
        return None
    if "started_from" in manifest:
        return None
    # The version that served when it was trained: it may not have begun with it, but nothing says so.
    parent = manifest.get("parent")
    return parent if isinstance(parent, str) else None


def withdraw(connection: sa.Connection, ids: Collection[str], folder: Path) -> list[Withdrawn]:
    """Lets the version before serve that learned nothing of it, and removes the rows of these and of their descendants.

    The caller deletes the folders after its commit.
    """
    tainted = with_descendants(connection, ids, folder)
    done: list[Withdrawn] = []
    for adapter_id in tainted:
        task, audience = place_of(connection, adapter_id)
        now = champion_of(connection, task, audience)
        has_served = now == adapter_id
        if has_served:
            now = previous_of(connection, task, audience, but=tainted)
            move(connection, task, now, "erased", REASON, audience=audience)
        else:
            note(connection, task, "erased", adapter_id=now, previous_id=adapter_id, reason=REASON, audience=audience)
        done.append(Withdrawn(adapter_id, task, audience, has_served, now))
    for adapter_id in tainted:
        connection.execute(sa.delete(learned).where(learned.c.adapter_id == adapter_id))
        connection.execute(sa.delete(adapters).where(adapters.c.id == adapter_id))
    return done
