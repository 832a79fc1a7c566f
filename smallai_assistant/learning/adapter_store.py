"""The registry of adapters: versions on disk, the champion that serves, promotion, rollback, lineage.

On disk a version is a folder that never changes, with a manifest of hashes that is written last. A row in the database
says which version serves. It moves in one transaction, so that a crash leaves the old champion or the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from smallai_assistant.errors import AdapterMismatch, GateRejected, IntegrityError, InvalidInput, StoreError
from smallai_assistant.feedback import Adapter, AdapterStatus
from smallai_assistant.learning.adapter_files import (
    MANIFEST,
    check_files,
    checked_files,
    held_folder,
    read_version,
    seal,
    size_of,
    sweep,
)
from smallai_assistant.learning.champions import (
    MoveKind,
    champion_of,
    entries,
    last_entry,
    missing_adapter,
    move,
    previous_of,
    task_of,
)
from smallai_assistant.learning.pruning import Limits, Pruned, to_prune
from smallai_assistant.learning.withdrawal import (
    REASON,
    Withdrawn,
    hand_down,
    inherited,
    is_tainted,
    learned_from_erased,
    withdraw,
)
from smallai_assistant.models.files import check_name, file_sha256
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.row_reader import chunks
from smallai_assistant.storage.schema import adapters, learned


class AdapterStore:
    """The registry of adapters. Thread-safe; several processes may share it.

    Args:
        folder: holds one folder for each version and nothing else.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        tainted: set[str] = set()
        with contextlib.suppress(StoreError), database.read() as connection:  # a damaged page must not keep us out
            tainted = learned_from_erased(connection)
        if tainted:  # an earlier version of the program left them, or a kill
            with database.write() as connection:
                withdrawn = self.withdraw(connection, tainted)
            for version in withdrawn:
                self.delete_files(version.adapter_id)
        if folder.is_dir():
            with database.read() as connection:
                known = set(connection.scalars(sa.select(adapters.c.id)))
            sweep(folder, known)  # what killed processes left

    @contextmanager
    def work_folder(self) -> Iterator[Path]:
        """Makes a folder to write an adapter's files into; it is deleted at the end, unless `add` took it."""
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
        started_from: str | None = None,
    ) -> Adapter:
        """Turns the files in `work` into a version: a candidate that does not serve.

        Args:
            work: from `work_folder`; it is renamed and must not be written to any more.
            kind: what the files are, such as `lora`.
            base: what the adapter was made for, as JSON.
            feedback_ids: what it learned from, oldest first.
            started_from: the version that its training began with; what that one learned is in it, too.

        Raises:
            TrainingFailed: `started_from` is gone: it learned from feedback that was erased meanwhile.
            InvalidInput: there are no files, or one of them is a link.
            ModelInvalid: a safetensors file is cut short or malformed.
            AdapterMismatch: a safetensors file holds NaN or infinity.
            StoreError: it could not be written.
        """
        files = checked_files(work)
        created_at = datetime.now(UTC)
        # Sorted by name, versions are sorted by age; the hash tells versions of one second apart.
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
            "started_from": started_from,
            "feedback_ids": list(feedback_ids),
        }
        # First the folder, then the row: a crash in between leaves a folder without a row, which the next start sweeps.
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
            row_ids = dict.fromkeys([*inherited(connection, started_from), *feedback_ids])
            if row_ids:
                rows = [{"adapter_id": adapter_id, "feedback_id": row_id} for row_id in row_ids]
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
        """Returns one version. Only its manifest is read; `verify` reads the other files.

        Raises:
            InvalidInput: there is no adapter with that id, or it learned from feedback that was erased.
            IntegrityError: its manifest is missing or has changed.
        """
        with self._database.read() as connection:
            row = connection.execute(sa.select(adapters).where(adapters.c.id == adapter_id)).one_or_none()
            if row is None:
                raise missing_adapter(connection, adapter_id)
        return self._read(row)

    def versions(self, task: str | None = None) -> list[Adapter]:
        """Returns all versions, oldest first, without those whose manifest is damaged; `verify` names the damage."""
        query = sa.select(adapters).order_by(adapters.c.seq)
        with self._database.read() as connection:
            rows = connection.execute(query if task is None else query.where(adapters.c.task == task)).all()
        found = []
        for row in rows:
            try:
                found.append(self._read(row))
            except IntegrityError:  # one damaged version must not hide the others
                continue
        return found

    def damaged(self, task: str | None = None) -> dict[str, str]:
        """Returns what is wrong with each version whose files are not as they were recorded; it hashes all of them."""
        found: dict[str, str] = {}
        query = sa.select(adapters.c.id).order_by(adapters.c.seq)
        with self._database.read() as connection:
            ids = connection.scalars(query if task is None else query.where(adapters.c.task == task)).all()
        for adapter_id in ids:
            try:
                self.verify(adapter_id)
            except IntegrityError as error:
                found[adapter_id] = error.message
            except InvalidInput:  # removed since
                continue
        return found

    def champion_id(self, task: str) -> str | None:
        """Returns the id of the version that serves; None for the bare base."""
        with self._database.read() as connection:
            return champion_of(connection, task)

    def champion(self, task: str) -> Adapter | None:
        """Returns the version that serves; None for the bare base."""
        adapter_id = self.champion_id(task)
        return None if adapter_id is None else self.get(adapter_id)

    def promote(self, adapter_id: str, *, reason: str = "promoted", force: bool = False) -> Adapter | None:
        """Makes a version the champion, in one transaction. Returns the version that served before.

        Args:
            reason: for the log.
            force: promotes it even if the gate refused it or has not judged it; the log says so.

        Raises:
            GateRejected: the gate did not approve it, and `force` is not set.
            IntegrityError: one of its files is missing or has changed.
        """
        adapter = self.get(adapter_id)
        if adapter.status != "approved" and not force:
            reasons = "; ".join(adapter.report.get("reasons", ())) or f"it is a {adapter.status}"
            raise GateRejected(f"the gate did not approve {adapter_id}: {reasons}")
        self.verify(adapter_id)
        if adapter.status != "approved":
            reason = f"{reason} (forced: the gate's decision was {adapter.status})"
        return self._move(adapter.task, adapter_id, "promote", reason)

    def rollback(self, task: str, *, to: str | None = None, reason: str = "rolled back") -> Adapter | None:
        """Makes an earlier version the champion again.

        Args:
            to: an adapter's id, or `none` for the bare base; None takes the version before the champion.
            reason: for the log.

        Returns:
            The version that serves now; None for the bare base.

        Raises:
            InvalidInput: no adapter serves, or `to` is an adapter of another task.
            GateRejected: `to` never served, and the gate did not approve it.
            IntegrityError: a file of the earlier version is missing or has changed.
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
            # A version that somebody forced may serve again: that decision was made when it was promoted.
            if adapter.status != "approved" and all(entry["adapter_id"] != target for entry in self.log(task)):
                raise GateRejected(f"{target} never served, and the gate did not approve it")
            self.verify(target)
        self._move(task, target, "rollback", reason)
        return self.champion(task)

    def move_away(self, task: str, adapter_id: str, *, to: str | None, reason: str) -> None:
        """Lets `to` serve instead of a damaged champion, unless another champion has replaced it meanwhile."""
        self._move(task, to, "damaged", reason, only_from=adapter_id)

    def previous_id(self, task: str) -> str | None:
        """Returns the version that a rollback brings back; None for the bare base.

        Two rollbacks go back two promotions.
        """
        with self._database.read() as connection:
            return previous_of(connection, task)

    def log(self, task: str) -> list[dict[str, Any]]:
        """Returns the moves of the champion, oldest first: kind, adapter_id, previous_id, reason, at (s since 1970).

        An entry of the kind `erased` may name a version in `previous_id` that did not serve.
        """
        with self._database.read() as connection:
            return entries(connection, task)

    def last_move(self, task: str) -> dict[str, Any] | None:
        """Returns the last entry of `log`; None if nothing ever served the task."""
        with self._database.read() as connection:
            return last_entry(connection, task)

    def verify(self, adapter_id: str) -> None:
        """Compares every file with the manifest, and the manifest with the database.

        Raises:
            IntegrityError: a file is missing, has changed or does not belong to it; the message names the first.
        """
        adapter = self.get(adapter_id)
        check_files(adapter_id, adapter.folder, adapter.files)

    def remove(self, adapter_id: str) -> int:
        """Deletes a version that does not serve. Returns the bytes freed.

        Raises:
            InvalidInput: it serves, or there is no adapter with that id.
        """
        with self._database.write() as connection:
            task = task_of(connection, adapter_id)
            if champion_of(connection, task) == adapter_id:
                raise InvalidInput(f"{adapter_id} serves {task}", hint="roll back first")
            self._remove_row(connection, adapter_id)
        return self.delete_files(adapter_id)

    def prune(self, task: str, limits: Limits, *, now: float | None = None) -> Pruned:
        """Deletes versions of a task until the rest is within the limits; see `to_prune`."""
        now = datetime.now(UTC).timestamp() if now is None else now
        with self._database.write() as connection:
            chosen = to_prune(connection, task, self._folder, limits, now=now)
            for adapter_id in chosen.ids:
                self._remove_row(connection, adapter_id)
        return replace(chosen, n_bytes=sum(map(self.delete_files, chosen.ids)))

    def _remove_row(self, connection: sa.Connection, adapter_id: str) -> None:
        hand_down(connection, adapter_id, self._folder)
        connection.execute(sa.delete(learned).where(learned.c.adapter_id == adapter_id))
        connection.execute(sa.delete(adapters).where(adapters.c.id == adapter_id))

    def delete_files(self, adapter_id: str) -> int:
        """Deletes the folder of a version whose row is gone. Returns the bytes freed."""
        folder = self._folder / adapter_id  # without a row: if a kill leaves some of it, the next start sweeps that
        n_bytes = size_of(folder)
        shutil.rmtree(folder, ignore_errors=True)
        return n_bytes

    def withdraw(self, connection: sa.Connection, adapter_ids: Iterable[str]) -> list[Withdrawn]:
        """Withdraws versions, and those that began with them, in the caller's transaction; see `withdrawal`.

        The files stay until `delete_files`: the transaction may fail.
        """
        return withdraw(connection, set(adapter_ids), self._folder)

    def learned_from(self, feedback_ids: Iterable[str]) -> list[str]:
        """Returns the ids of the adapters that learned from any of these feedback rows, oldest first."""
        wanted = list(feedback_ids)
        found: set[str] = set()
        with self._database.read() as connection:
            for chunk in chunks(wanted):
                found |= set(
                    connection.scalars(sa.select(learned.c.adapter_id).where(learned.c.feedback_id.in_(chunk)))
                )
            order = connection.scalars(sa.select(adapters.c.id).order_by(adapters.c.seq)).all()
        return [adapter_id for adapter_id in order if adapter_id in found]

    def _move(
        self, task: str, adapter_id: str | None, kind: MoveKind, reason: str, *, only_from: str | None = None
    ) -> Adapter | None:
        """Moves the champion and logs the move. Returns the version that served before, if it can be read.

        Args:
            only_from: does nothing if another version serves by now.

        Raises:
            GateRejected: the version learned from feedback that was erased.
        """
        with self._database.write() as connection:
            if only_from is not None and champion_of(connection, task) != only_from:
                return None
            if adapter_id is not None:
                task_of(connection, adapter_id)  # it may have been removed since it was verified
                if is_tainted(connection, adapter_id, self._folder):
                    raise GateRejected(
                        f"{adapter_id} cannot serve: {REASON}", hint=f"train again: smallai learn {task}"
                    )
            previous = move(connection, task, adapter_id, kind, reason)
        try:
            return None if previous is None else self.get(previous)
        except (IntegrityError, InvalidInput):  # the champion may leave a damaged version, or one removed meanwhile
            return None

    def _read(self, row: sa.Row[Any]) -> Adapter:
        return read_version(row, self._folder / row.id)

    def _free_id(self, wanted: str) -> str:
        # The same files added twice within a second would get the same id.
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
                f"{adapter.id} was made for {key} {adapter.base.get(key)!r}, and the task now has {base.get(key)!r}"
            )
