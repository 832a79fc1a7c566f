"""The registry of adapters: versions on disk, the champion that serves, promotion, rollback, lineage.

On disk a version is a folder that never changes, with a manifest of hashes that is written last. A row in the database
says which version serves. It moves in one transaction, so that a crash leaves the old champion or the new one.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from smallai_assistant.errors import GateRejected, IntegrityError, InvalidInput, StoreError
from smallai_assistant.feedback import Adapter, AdapterStatus, Component
from smallai_assistant.learning import champions
from smallai_assistant.learning.adapter_files import (
    MANIFEST,
    check_files,
    checked_files,
    free_id,
    held_folder,
    read_version,
    seal,
    size_of,
    sweep,
)
from smallai_assistant.learning.pruning import Limits, Pruned, to_prune
from smallai_assistant.learning.withdrawal import (
    REASON,
    Withdrawn,
    hand_down,
    inherited,
    is_tainted,
    learned_from_erased,
    versions_learned_from,
    withdraw,
)
from smallai_assistant.models.files import file_sha256
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.schema import adapters, learned
from smallai_assistant.validation import EVERYONE


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
        components: Sequence[Component] = (),
        audience: str = EVERYONE,
        over: str | None = None,
    ) -> Adapter:
        """Turns the files in `work` into a version: a candidate that does not serve.

        Args:
            work: from `work_folder`; it is renamed and must not be written to any more.
            kind: what the files are, such as `lora`.
            base: what the adapter was made for, as JSON.
            feedback_ids: what it learned from, oldest first.
            started_from: the version that its training began with; what that one learned is in it, too.
            components: what it learned, if the task learns several things that are judged by themselves.
            audience: whom it is for.
            over: the version for everyone that it was compared over; nothing of it is in the files.

        Raises:
            TrainingFailed: `started_from` is gone: it learned from feedback that was erased meanwhile.
            InvalidInput: there are no files, or one of them is a link.
            ModelInvalid: a safetensors file is cut short or malformed.
            AdapterMismatch: a safetensors file holds NaN or infinity.
            StoreError: it could not be written.
        """
        files = checked_files(work)
        created_at = datetime.now(UTC)
        adapter_id = free_id(self._folder, task, files, created_at)
        manifest = {
            "id": adapter_id,
            "task": task,
            "kind": kind,
            "base": dict(base),
            "files": files,
            "created_at": created_at.isoformat(),
            "audience": audience,
            "parent": self.champion_id(task, audience),
            "started_from": started_from,
            "over": over,
            "feedback_ids": list(feedback_ids),
            "components": [asdict(component) for component in components],
        }
        # First the folder, then the row: a crash in between leaves a folder without a row, which the next start sweeps.
        seal(work, self._folder / adapter_id, manifest)
        with self._database.write() as connection:
            connection.execute(
                sa.insert(adapters).values(
                    id=adapter_id,
                    task=task,
                    audience=audience,
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
        retired = json.dumps(list(report["retired_ids"])) if report.get("retired_ids") else None
        change = sa.update(adapters).where(adapters.c.id == adapter_id)
        with self._database.write() as connection:
            connection.execute(change.values(status=status, report=json.dumps(report), retired_ids=retired))
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
                raise champions.missing_adapter(connection, adapter_id)
        return read_version(row, self._folder / row.id)

    def audience_of(self, adapter_id: str | None) -> str:
        """Returns whom a version serves; `everyone` if there is none with that id."""
        query = sa.select(adapters.c.audience).where(adapters.c.id == adapter_id)
        with self._database.read() as connection:
            return str(connection.scalar(query) or EVERYONE)

    def versions(self, task: str | None = None, audience: str | None = None) -> list[Adapter]:
        """Returns all versions, oldest first, without those whose manifest is damaged; `verify` names the damage."""
        found = []
        for row in self._rows(task, audience):
            with contextlib.suppress(IntegrityError):  # one damaged version must not hide the others
                found.append(read_version(row, self._folder / row.id))
        return found

    def damaged(self, task: str | None = None, audience: str | None = None) -> dict[str, str]:
        """Returns what is wrong with each version whose files are not as they were recorded; it hashes all of them."""
        found: dict[str, str] = {}
        for row in self._rows(task, audience):
            try:
                self.verify(row.id)
            except IntegrityError as error:
                found[row.id] = error.message
            except InvalidInput:  # removed since
                continue
        return found

    def _rows(self, task: str | None, audience: str | None) -> Sequence[sa.Row[Any]]:
        query = sa.select(adapters).order_by(adapters.c.seq)
        query = query if task is None else query.where(adapters.c.task == task)
        query = query if audience is None else query.where(adapters.c.audience == audience)
        with self._database.read() as connection:
            return connection.execute(query).all()

    def champion_id(self, task: str, audience: str = EVERYONE) -> str | None:
        """Returns the id of the version that serves; None for the bare base, or what serves everyone."""
        with self._database.read() as connection:
            return champions.champion_of(connection, task, audience)

    def champion_ids(self, task: str, audiences: Collection[str]) -> dict[str, str | None]:
        """Returns the champion of each of these audiences that ever had one, the most personal audience first."""
        with self._database.read() as connection:
            return champions.champions_of(connection, task, audiences)

    def retired_ids(self, task: str) -> dict[str, frozenset[str]]:
        """Returns the feedback that each champion answers by itself, by the audience that it serves."""
        with self._database.read() as connection:
            return champions.retired_by_champions(connection, task)

    def champion(self, task: str, audience: str = EVERYONE) -> Adapter | None:
        """Returns the version of `champion_id`."""
        adapter_id = self.champion_id(task, audience)
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
        return self._move(adapter.task, adapter_id, "promote", reason, audience=adapter.audience)

    def rollback(
        self, task: str, *, to: str | None = None, reason: str = "rolled back", audience: str = EVERYONE
    ) -> Adapter | None:
        """Makes an earlier version of an audience the champion again.

        Args:
            to: an adapter's id, or `none` for no version; None takes the version before the champion.
            reason: for the log.

        Returns:
            The version that serves now; None for the bare base, or what serves everyone.

        Raises:
            InvalidInput: no adapter serves, or `to` is an adapter of another task or audience.
            GateRejected: `to` never served, and the gate did not approve it.
            IntegrityError: a file of the earlier version is missing or has changed.
        """
        if to is None:
            if self.champion_id(task, audience) is None:
                raise InvalidInput(f"no adapter serves {task}", hint="there is nothing to roll back")
            target = self.previous_id(task, audience)
        else:
            target = None if to == "none" else to
        if target is not None:
            adapter = self.get(target)
            if (adapter.task, adapter.audience) != (task, audience):
                whose = f"of {adapter.task} for {adapter.audience}, not of {task} for {audience}"
                raise InvalidInput(f"{target} is {whose}", hint="see `smallai adapters list`")
            # A version that somebody forced may serve again: that decision was made when it was promoted.
            served = {entry["adapter_id"] for entry in self.log(task, audience)}
            if adapter.status != "approved" and target not in served:
                raise GateRejected(f"{target} never served, and the gate did not approve it")
            self.verify(target)
        self._move(task, target, "rollback", reason, audience=audience)
        return self.champion(task, audience)

    def move_away(self, task: str, adapter_id: str, *, to: str | None, reason: str, audience: str = EVERYONE) -> None:
        """Lets `to` serve instead of a damaged champion, unless another champion has replaced it meanwhile."""
        self._move(task, to, "damaged", reason, only_from=adapter_id, audience=audience)

    def previous_id(self, task: str, audience: str = EVERYONE) -> str | None:
        """Returns the version that a rollback brings back; None for none. Two rollbacks go back two promotions."""
        with self._database.read() as connection:
            return champions.previous_of(connection, task, audience)

    def log(self, task: str, audience: str = EVERYONE) -> list[dict[str, Any]]:
        """Returns the moves of the champion, oldest first: kind, adapter_id, previous_id, reason, at (s since 1970).

        An entry of the kind `erased` may name a version in `previous_id` that did not serve.
        """
        with self._database.read() as connection:
            return champions.entries(connection, task, audience)

    def last_move(self, task: str, audience: str = EVERYONE) -> dict[str, Any] | None:
        """Returns the last entry of `log`; None if nothing ever served the audience."""
        with self._database.read() as connection:
            return champions.last_entry(connection, task, audience)

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
            task, audience = champions.place_of(connection, adapter_id)
            if champions.champion_of(connection, task, audience) == adapter_id:
                raise InvalidInput(f"{adapter_id} serves {task}", hint="roll back first")
            self._remove_row(connection, adapter_id)
        return self.delete_files(adapter_id)

    def prune(self, task: str, limits: Limits, *, now: float | None = None, audience: str = EVERYONE) -> Pruned:
        """Deletes versions of an audience until the rest is within the limits; see `to_prune`."""
        now = datetime.now(UTC).timestamp() if now is None else now
        with self._database.write() as connection:
            chosen = to_prune(connection, task, self._folder, limits, now=now, audience=audience)
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
        with self._database.read() as connection:
            return versions_learned_from(connection, list(feedback_ids))

    def forget_audience(self, audience: str) -> list[Withdrawn]:
        """Deletes all versions for an audience, with their files, and that there were any."""
        with self._database.write() as connection:
            ids = connection.scalars(sa.select(adapters.c.id).where(adapters.c.audience == audience)).all()
            withdrawn = self.withdraw(connection, ids)
            champions.forget_audience(connection, audience)
        for version in withdrawn:
            self.delete_files(version.adapter_id)
        return withdrawn

    def _move(
        self,
        task: str,
        adapter_id: str | None,
        kind: champions.MoveKind,
        reason: str,
        *,
        audience: str,
        only_from: str | None = None,
    ) -> Adapter | None:
        """Moves the champion and logs the move. Returns the version that served before, if it can be read.

        Args:
            only_from: does nothing if another version serves by now.

        Raises:
            GateRejected: the version learned from feedback that was erased.
        """
        with self._database.write() as connection:
            if only_from is not None and champions.champion_of(connection, task, audience) != only_from:
                return None
            if adapter_id is not None:
                champions.place_of(connection, adapter_id)  # it may have been removed since it was verified
                if is_tainted(connection, adapter_id, self._folder):
                    raise GateRejected(
                        f"{adapter_id} cannot serve: {REASON}", hint=f"train again: smallai learn {task}"
                    )
            previous = champions.move(connection, task, adapter_id, kind, reason, audience=audience)
        try:
            return None if previous is None else self.get(previous)
        except (IntegrityError, InvalidInput):  # the champion may leave a damaged version, or one removed meanwhile
            return None
