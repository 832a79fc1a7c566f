"""What was learned: versions on disk, the champion that serves, promotion, rollback, lineage.

On disk a version is a folder that never changes, with a manifest of hashes that is written last. Which version serves
is a row in the database, moved in one transaction: a crash leaves the old champion or the new one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from smallai_assistant.errors import AdapterMismatch, GateRejected, IntegrityError, InvalidInput
from smallai_assistant.feedback import Adapter, AdapterStatus
from smallai_assistant.learning.adapter_files import (
    MANIFEST,
    check_files,
    checked_files,
    damaged,
    held_folder,
    seal,
    sweep,
)
from smallai_assistant.models.files import check_name, file_sha256
from smallai_assistant.storage.database import Database, upsert
from smallai_assistant.storage.schema import adapters, champion_log, champions, learned

_IDS_PER_STATEMENT = 500


class AdapterStore:
    """The registry of adapters.

    Args:
        folder: one folder a version; nothing else is written.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        if folder.is_dir():
            with database.read() as connection:
                known = set(connection.scalars(sa.select(adapters.c.id)))
            sweep(folder, known)

    @contextmanager
    def work_folder(self) -> Iterator[Path]:
        """A folder to write an adapter's files into; gone at the end unless `add` took it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with held_folder(self._folder) as folder:
            yield folder

    def add(
        self,
        work: Path,
        *,
        task: str,
        kind: str,
        base: Mapping[str, Any],
        feedback_ids: Sequence[str] = (),
    ) -> Adapter:
        """Makes the files in `work` a version: a candidate that does not serve.

        Raises:
            InvalidInput: there are no files, or a link among them.
            ModelInvalid: a safetensors file is cut short or malformed.
            AdapterMismatch: a safetensors file holds NaN or infinity.
            StoreError: it could not be written.
        """
        files = checked_files(work)
        created_at = datetime.now(UTC)
        name = f"{created_at:%Y%m%d-%H%M%S}-{hashlib.sha256(json.dumps(files).encode()).hexdigest()[:8]}"
        adapter_id = self._free_id(f"{check_name(task)}-{name}")
        manifest = {
            "id": adapter_id,
            "task": task,
            "kind": kind,
            "base": dict(base),
            "files": files,
            "created_at": created_at.isoformat(),
            "parent": self.champion_id(task),
            "feedback_ids": list(feedback_ids),
        }
        seal(work, self._folder / adapter_id, manifest)
        with self._database.write() as connection:
            connection.execute(
                sa.insert(adapters).values(
                    id=adapter_id,
                    task=task,
                    status="candidate",
                    manifest_sha256=file_sha256(self._folder / adapter_id / MANIFEST),
                    report="{}",
                )
            )
            if feedback_ids:
                rows = [{"adapter_id": adapter_id, "feedback_id": fromkey} for fromkey in dict.fromkeys(feedback_ids)]
                connection.execute(sa.insert(learned), rows)
        return self.get(adapter_id)

    def judge(self, adapter_id: str, status: AdapterStatus, report: Mapping[str, Any]) -> Adapter:
        """Records the gate's decision and its figures."""
        with self._database.write() as connection:
            connection.execute(
                sa.update(adapters).where(adapters.c.id == adapter_id).values(status=status, report=json.dumps(report))
            )
        return self.get(adapter_id)

    def get(self, adapter_id: str) -> Adapter:
        """One version; its files are not read, see `verify`.

        Raises:
            InvalidInput: there is none of that id.
            IntegrityError: its manifest is gone or changed.
        """
        with self._database.read() as connection:
            row = connection.execute(sa.select(adapters).where(adapters.c.id == adapter_id)).one_or_none()
        if row is None:
            raise InvalidInput(f"there is no adapter {adapter_id!r}", hint="see `smallai adapters list`")
        return self._read(row)

    def versions(self, task: str | None = None) -> list[Adapter]:
        """All versions, oldest first; those whose manifest is damaged are left out, `verify` names them."""
        query = sa.select(adapters).order_by(adapters.c.seq)
        with self._database.read() as connection:
            rows = connection.execute(query if task is None else query.where(adapters.c.task == task)).all()
        found = []
        for row in rows:
            try:
                found.append(self._read(row))
            except IntegrityError:
                continue
        return found

    def champion_id(self, task: str) -> str | None:
        """The id of the version that serves; None for the bare base."""
        with self._database.read() as connection:
            found = connection.scalar(sa.select(champions.c.adapter_id).where(champions.c.task == task))
        return None if found is None else str(found)

    def champion(self, task: str) -> Adapter | None:
        """The version that serves; None for the bare base."""
        adapter_id = self.champion_id(task)
        return None if adapter_id is None else self.get(adapter_id)

    def promote(self, adapter_id: str, *, reason: str = "promoted", force: bool = False) -> Adapter | None:
        """Makes a version the champion, in one transaction. Returns the one that served before.

        Args:
            force: also one that the gate refused or has not seen; the log says so.

        Raises:
            GateRejected: the gate did not approve it.
            IntegrityError: a file of it is missing or changed.
        """
        adapter = self.get(adapter_id)
        if adapter.status != "approved" and not force:
            reasons = "; ".join(adapter.report.get("reasons", ())) or f"it is a {adapter.status}"
            raise GateRejected(f"the gate did not approve {adapter_id}: {reasons}")
        self.verify(adapter_id)
        reason = f"{reason} (forced: the gate's word was {adapter.status})" if adapter.status != "approved" else reason
        return self._move(adapter.task, adapter_id, "promote", reason)

    def rollback(self, task: str, *, to: str | None = None, reason: str = "rolled back") -> Adapter | None:
        """Makes an earlier version the champion again; `to` is an id, `none` for the bare base, None for the previous.

        Returns:
            The version that serves now, None for the bare base.

        Raises:
            InvalidInput: nothing serves that could be rolled back, or `to` is of another task.
            GateRejected: `to` never served, and the gate did not approve it.
            IntegrityError: a file of the earlier version is missing or changed.
        """
        current = self.champion_id(task)
        if to is None:
            if current is None:
                raise InvalidInput(f"no adapter serves {task}", hint="there is nothing to roll back")
            target = self.previous_id(task)
        else:
            target = None if to == "none" else to
        if target is not None:
            adapter = self.get(target)
            if adapter.task != task:
                raise InvalidInput(f"{target} is of {adapter.task}, not of {task}", hint="see `smallai adapters list`")
            if adapter.status != "approved" and all(entry["adapter_id"] != target for entry in self.log(task)):
                raise GateRejected(f"{target} never served, and the gate did not approve it")
            self.verify(target)
        self._move(task, target, "rollback", reason)
        return self.champion(task)

    def move_away(self, task: str, adapter_id: str, *, to: str | None, reason: str) -> None:
        """Lets `to` serve instead of a damaged champion, unless another has taken its place meanwhile."""
        self._move(task, to, "rollback", reason, only_from=adapter_id)

    def previous_id(self, task: str) -> str | None:
        """The version that a rollback brings back; None for the bare base. Two rollbacks go back two promotions."""
        served: list[str | None] = [None]
        for entry in self.log(task):
            now = entry["adapter_id"]
            if now == served[-1]:
                continue
            if entry["kind"] == "rollback" and now in served:
                while served[-1] != now:
                    served.pop()
            else:
                served.append(now)
        with self._database.read() as connection:
            there = set(connection.scalars(sa.select(adapters.c.id).where(adapters.c.task == task)))
        earlier = (each for each in reversed(served) if each in there and each != served[-1])
        return next(earlier, None)

    def log(self, task: str) -> list[dict[str, Any]]:
        """Every move of the champion, oldest first: kind, adapter_id, previous_id, reason, at (seconds since 1970)."""
        query = sa.select(champion_log).where(champion_log.c.task == task).order_by(champion_log.c.seq)
        with self._database.read() as connection:
            columns = ("kind", "adapter_id", "previous_id", "reason", "at")
            return [{name: getattr(row, name) for name in columns} for row in connection.execute(query)]

    def verify(self, adapter_id: str) -> None:
        """Compares every file with the manifest, and the manifest with the database.

        Raises:
            IntegrityError: a file is missing, changed or not one of its files; the message names the first.
        """
        adapter = self.get(adapter_id)
        check_files(adapter_id, adapter.folder, adapter.files)

    def remove(self, adapter_id: str) -> int:
        """Deletes a version that does not serve. Returns the bytes freed.

        Raises:
            InvalidInput: it serves, or there is none of that id.
        """
        with self._database.write() as connection:
            task = _task_of(connection, adapter_id)
            if connection.scalar(sa.select(champions.c.adapter_id).where(champions.c.task == task)) == adapter_id:
                raise InvalidInput(f"{adapter_id} serves {task}", hint="roll back first")
            connection.execute(sa.delete(learned).where(learned.c.adapter_id == adapter_id))
            connection.execute(sa.delete(adapters).where(adapters.c.id == adapter_id))
        folder = self._folder / adapter_id  # unknown by now: what a kill leaves of it is swept
        n_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        shutil.rmtree(folder, ignore_errors=True)
        return n_bytes

    def learned_from(self, feedback_ids: Iterable[str]) -> list[str]:
        """The ids of the adapters that learned from any of these feedback rows, oldest first."""
        wanted = list(feedback_ids)
        found: set[str] = set()
        with self._database.read() as connection:
            for start in range(0, len(wanted), _IDS_PER_STATEMENT):
                chunk = wanted[start : start + _IDS_PER_STATEMENT]
                found |= set(
                    connection.scalars(sa.select(learned.c.adapter_id).where(learned.c.feedback_id.in_(chunk)))
                )
            order = connection.scalars(sa.select(adapters.c.id).order_by(adapters.c.seq)).all()
        return [each for each in order if each in found]

    def _move(
        self, task: str, adapter_id: str | None, kind: str, reason: str, *, only_from: str | None = None
    ) -> Adapter | None:
        with self._database.write() as connection:
            previous = connection.scalar(sa.select(champions.c.adapter_id).where(champions.c.task == task))
            if only_from is not None and previous != only_from:
                return None
            if adapter_id is not None:
                _task_of(connection, adapter_id)  # it may have been removed since it was verified
            upsert(connection, champions, [{"task": task, "adapter_id": adapter_id}], key="task")
            connection.execute(
                sa.insert(champion_log).values(
                    task=task,
                    kind=kind,
                    adapter_id=adapter_id,
                    previous_id=previous,
                    reason=reason,
                    at=datetime.now(UTC).timestamp(),
                )
            )
        try:
            return None if previous is None else self.get(str(previous))
        except (IntegrityError, InvalidInput):  # a damaged one may be left behind, or removed meanwhile
            return None

    def _read(self, row: sa.Row[Any]) -> Adapter:
        folder = self._folder / row.id
        try:
            if file_sha256(folder / MANIFEST) != row.manifest_sha256:
                raise damaged(row.id, "its manifest has changed")
            manifest = json.loads((folder / MANIFEST).read_bytes())
        except OSError as error:
            raise damaged(row.id, "its manifest is missing") from error
        report = json.loads(row.report)
        return Adapter(
            id=row.id,
            task=row.task,
            kind=manifest["kind"],
            folder=folder,
            base=manifest["base"],
            files=manifest["files"],
            created_at=datetime.fromisoformat(manifest["created_at"]),
            status=row.status,
            parent=manifest["parent"],
            feedback_ids=tuple(manifest["feedback_ids"]),
            retired_ids=tuple(report.get("retired_ids", ())),
            report=report,
        )

    def _free_id(self, wanted: str) -> str:
        name, number = wanted, 1
        while (self._folder / name).exists():
            number += 1
            name = f"{wanted}-{number}"
        return name


def check_base(adapter: Adapter, base: Mapping[str, Any]) -> None:
    """Raises AdapterMismatch unless the adapter was made for `base`."""
    for key in sorted({*adapter.base, *base}):
        if adapter.base.get(key) != base.get(key):
            raise AdapterMismatch(
                f"{adapter.id} was made for {key} {adapter.base.get(key)!r}, serving is {base.get(key)!r}"
            )


def _task_of(connection: sa.Connection, adapter_id: str) -> str:
    task = connection.scalar(sa.select(adapters.c.task).where(adapters.c.id == adapter_id))
    if task is None:
        raise InvalidInput(f"there is no adapter {adapter_id!r}", hint="see `smallai adapters list`")
    return str(task)
