"""What became of the last learning cycle of each task, and which one runs: kept in the database for every process."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import sqlalchemy as sa

from smallai_assistant.errors import AssistantError, Cancelled, NotEnoughData, StoreError
from smallai_assistant.learning.report import CycleReport
from smallai_assistant.storage.database import Database, upsert
from smallai_assistant.storage.revisions import ERASURES, current
from smallai_assistant.storage.row_reader import chunks
from smallai_assistant.storage.schema import FAILURE_PREFIX, feedback, meta, turns
from smallai_assistant.validation import EVERYONE

log = logging.getLogger(__name__)

_PREFIX, _RUNNING = "cycle:", "cycle_running"
_PREFIXES = (_PREFIX, FAILURE_PREFIX)

CycleOutcome = Literal["promoted", "approved", "nothing_new", "refused", "too_little", "failed"]


@dataclass(frozen=True, slots=True)
class CycleRecord:
    """How the last cycle of a task ended. A cycle that was stopped leaves no record: it goes on where it ended.

    Attributes:
        at: when it began, in seconds since 1970.
        outcome: the decision of the gate, `nothing_new` if nothing could improve; `too_little` if there was too little
            to learn from; `failed` after any other error.
        reasons: of the gate, sentences for people.
        error: the code of the error; empty if there was none.
        failure: the error's message; empty if there was none, or if anything was erased since.
        adapter_id: the version that it made; None if it made none.
        tried_up_to: the feedback that it saw: rows up to this `seq`.
        learned_up_to: the same of the last cycle that was not `too_little`. The rows since then still count as new.
        n_missing: about how many more rows than it saw are needed, after `too_little`.
    """

    task: str
    at: float
    outcome: CycleOutcome
    seconds: float = 0.0
    reasons: tuple[str, ...] = ()
    error: str = ""
    failure: str = ""
    adapter_id: str | None = None
    tried_up_to: int = 0
    learned_up_to: int = 0
    n_missing: int = 0

    def to_json(self) -> dict[str, Any]:
        """The record as JSON."""
        return {**asdict(self), "reasons": list(self.reasons)}


@dataclass(frozen=True, slots=True)
class RunningCycle:
    """A cycle that has begun, in this process or another.

    Attributes:
        at: when it began, in seconds since 1970.
    """

    task: str
    at: float
    audience: str = EVERYONE


@dataclass(slots=True)
class Attempt:
    """A cycle that is being recorded.

    Attributes:
        report: set it when the cycle has ended with a decision.
    """

    task: str
    at: float
    up_to: int
    n_erasures: int
    audience: str = EVERYONE
    report: CycleReport | None = None
    begun: float = field(default_factory=time.monotonic)


class CycleHistory:
    """The last cycle of each task. Thread-safe; several processes may share it."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    @contextmanager
    def recorded(self, task: str, audience: str = EVERYONE) -> Iterator[Attempt]:
        """Records how the cycle in the block ends. The caller holds the lock of the cycles."""
        attempt = self._begin(task, audience)
        try:
            yield attempt
        except BaseException as error:
            if isinstance(error, Exception) and not isinstance(error, Cancelled):
                self._end(attempt, _failure(attempt, error))
            else:  # it was stopped, and the next one goes on from its checkpoint
                self._end(attempt, None)
            raise
        assert attempt.report is not None
        self._end(attempt, _success(attempt, attempt.report))

    def last(self, task: str, audience: str = EVERYONE) -> CycleRecord | None:
        """How the last cycle for an audience ended; None if none has ended yet."""
        with self._database.read() as connection:
            return _read(connection, task, audience)

    def last_of(self, task: str, audiences: Iterable[str]) -> dict[str, CycleRecord]:
        """How the last cycles for these audiences ended, as far as one has ended, in one read for some hundred."""
        found = {}
        with self._database.read() as connection:
            for chunk in chunks(list(audiences)):
                keys = {audience: [_key(prefix, task, audience) for prefix in _PREFIXES] for audience in chunk}
                values = _values(connection, [key for pair in keys.values() for key in pair])
                for audience, pair in keys.items():
                    if (record := _record(values, pair)) is not None:
                        found[audience] = record
        return found

    def numbers(self, task: str) -> dict[str, int]:
        """The number in the table of each active feedback of a task: later rows have larger ones."""
        query = sa.select(feedback.c.id, feedback.c.seq).where(feedback.c.task == task, feedback.c.state == "active")
        with self._database.read() as connection:
            return {row.id: row.seq for row in connection.execute(query)}

    def forget_audience(self, audience: str) -> None:
        """Deletes how the cycles for an audience ended."""
        with self._database.write() as connection:
            tasks = connection.scalars(sa.select(feedback.c.task).distinct()).all()  # erased rows keep their task
            keys = [_key(prefix, task, audience) for task in tasks for prefix in _PREFIXES]
            connection.execute(sa.delete(meta).where(meta.c.key.in_(keys)))

    def running(self) -> RunningCycle | None:
        """The cycle that began and did not end; it may have been killed."""
        with self._database.read() as connection:
            value = connection.scalar(sa.select(meta.c.value).where(meta.c.key == _RUNNING))
        return None if value is None else RunningCycle(**json.loads(value))

    def ids_after(self, task: str, seq: int) -> set[str]:
        """The active feedback of a task that was stored after a row."""
        query = sa.select(feedback.c.id).where(
            feedback.c.task == task, feedback.c.state == "active", feedback.c.seq > seq
        )
        with self._database.read() as connection:
            return set(connection.scalars(query))

    def last_turn_at(self) -> float:
        """When the last turn was answered or taught, by any process, in seconds since 1970; 0 without a turn."""
        with self._database.read() as connection:
            at = connection.scalar(sa.select(turns.c.created_at).order_by(turns.c.seq.desc()).limit(1))
        return float(at or 0.0)

    def _begin(self, task: str, audience: str) -> Attempt:
        with self._database.write() as connection:
            up_to = connection.scalar(sa.select(sa.func.max(feedback.c.seq)).where(feedback.c.task == task)) or 0
            attempt = Attempt(task, self._clock(), int(up_to), current(connection, [ERASURES])[0], audience)
            value = json.dumps({"task": task, "at": attempt.at, "audience": audience})
            upsert(connection, meta, [{"key": _RUNNING, "value": value}], key="key")
        return attempt

    def _end(self, attempt: Attempt, record: CycleRecord | None) -> None:
        try:
            with self._database.write() as connection:
                connection.execute(sa.delete(meta).where(meta.c.key == _RUNNING))
                if record is not None:
                    self._write(connection, attempt, record)
        except StoreError as error:  # the result of the cycle counts, whether it could be noted or not
            log.warning("the end of the cycle of %s could not be recorded: %s", attempt.task, error)

    def _write(self, connection: sa.Connection, attempt: Attempt, record: CycleRecord) -> None:
        table = record.to_json()
        if record.outcome == "too_little":
            before = _read(connection, attempt.task, attempt.audience)
            table["learned_up_to"] = 0 if before is None else before.learned_up_to
        rows = [{"key": _key(_PREFIX, attempt.task, attempt.audience), "value": json.dumps({**table, "failure": ""})}]
        failure_key = _key(FAILURE_PREFIX, attempt.task, attempt.audience)
        connection.execute(sa.delete(meta).where(meta.c.key == failure_key))
        # An erasure drops the sentences about failures, and one that came meanwhile would have dropped this one.
        if record.failure and current(connection, [ERASURES])[0] == attempt.n_erasures:
            rows.append({"key": failure_key, "value": record.failure})
        upsert(connection, meta, rows, key="key")


def _success(attempt: Attempt, report: CycleReport) -> CycleRecord:
    return CycleRecord(
        attempt.task,
        attempt.at,
        report.outcome,
        seconds=time.monotonic() - attempt.begun,
        reasons=tuple(map(str, report.reasons)),
        adapter_id=report.adapter_id,
        tried_up_to=attempt.up_to,
        learned_up_to=attempt.up_to,
    )


def _failure(attempt: Attempt, error: Exception) -> CycleRecord:
    is_too_little = isinstance(error, NotEnoughData)
    return CycleRecord(
        attempt.task,
        attempt.at,
        "too_little" if is_too_little else "failed",
        seconds=time.monotonic() - attempt.begun,
        error=error.code if isinstance(error, AssistantError) else "internal",
        failure=error.message if isinstance(error, AssistantError) else repr(error),
        tried_up_to=attempt.up_to,
        learned_up_to=attempt.up_to,
        n_missing=max(1, getattr(error, "n_missing", None) or 1) if is_too_little else 0,
    )


def _key(prefix: str, task: str, audience: str) -> str:
    # The key of `meta` has 64 characters, and a task's name up to 128. Records without an audience are older.
    whole = task if audience == EVERYONE else f"{task}\0{audience}"
    return f"{prefix}{hashlib.sha256(whole.encode()).hexdigest()[:32]}"


def _read(connection: sa.Connection, task: str, audience: str) -> CycleRecord | None:
    keys = [_key(prefix, task, audience) for prefix in _PREFIXES]
    return _record(_values(connection, keys), keys)


def _values(connection: sa.Connection, keys: Sequence[str]) -> dict[str, str]:
    query = sa.select(meta.c.key, meta.c.value)
    return {
        row.key: row.value for part in chunks(keys) for row in connection.execute(query.where(meta.c.key.in_(part)))
    }


def _record(values: Mapping[str, str], keys: Sequence[str]) -> CycleRecord | None:
    """The record under the first of these keys, with the sentence about its failure under the second."""
    if keys[0] not in values:
        return None
    known = {found.name for found in fields(CycleRecord)}  # a later version of the program may have stored more
    table = {name: content for name, content in json.loads(values[keys[0]]).items() if name in known}
    return CycleRecord(**{**table, "reasons": tuple(table["reasons"]), "failure": values.get(keys[1], "")})
