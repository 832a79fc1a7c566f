"""Any sequence of promotions, rollbacks, removals and damage, against a list of what served."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.adapters import TASK, add, flip_a_bit

from smallai_assistant import InvalidInput
from smallai_assistant.errors import GateRejected, IntegrityError
from smallai_assistant.learning.adapter_store import AdapterStore
from smallai_assistant.learning.serving_adapters import ServingAdapters
from smallai_assistant.storage.database import Database


class Champions(RuleBasedStateMachine):
    """Models a registry: `served` is the history of champions, the last of which serves; None is the bare base."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.database = Database(self.folder)
        self.store = AdapterStore(self.database, self.folder / "adapters")
        self.status: dict[str, str] = {}
        self.damaged: set[str] = set()
        self.served: list[str | None] = [None]
        self.n_added = 0

    def teardown(self) -> None:
        self.database.close()
        shutil.rmtree(self.folder)

    def back_to(self, adapter_id: str | None) -> None:
        if adapter_id in self.served:
            while self.served[-1] != adapter_id:
                self.served.pop()
        else:
            self.served.append(adapter_id)

    @property
    def previous(self) -> str | None:
        return self.served[-2] if len(self.served) > 1 else None

    def pick(self, number: int) -> str:
        return sorted(self.status)[number % len(self.status)]

    @initialize()
    def begin(self) -> None:
        for _ in range(3):
            self.add("approved")

    @precondition(lambda self: len(self.status) < 3)  # few, so that each serves several times
    @rule(status=st.sampled_from(["approved", "approved", "approved", "refused"]))
    def add(self, status: str) -> None:
        self.n_added += 1
        self.status[add(self.store, str(self.n_added), status=status).id] = status

    @precondition(lambda self: self.status)
    @rule(numbers=st.lists(st.integers(0, 2), min_size=1, max_size=5), force=st.booleans())
    def promote(self, numbers: list[int], force: bool) -> None:
        for adapter_id in map(self.pick, numbers):
            kind = IntegrityError if adapter_id in self.damaged else None
            if self.status[adapter_id] == "refused" and not force:
                kind = GateRejected
            if kind is not None:
                with pytest.raises(kind):
                    self.store.promote(adapter_id, force=force)
                continue
            self.store.promote(adapter_id, force=force)
            if self.served[-1] != adapter_id:
                self.served.append(adapter_id)

    @rule(times=st.integers(1, 3))
    def rollback(self, times: int) -> None:
        for _ in range(times):
            if self.served[-1] is None or self.previous in self.damaged:
                with pytest.raises((InvalidInput, IntegrityError)):
                    self.store.rollback(TASK)
            else:
                self.store.rollback(TASK)
                self.served.pop()

    @precondition(lambda self: self.status)
    @rule(number=st.integers(0, 2), to_none=st.booleans())
    def rollback_to(self, number: int, to_none: bool) -> None:
        adapter_id = None if to_none else self.pick(number)
        if adapter_id in self.damaged or (adapter_id and self.status[adapter_id] == "refused"):
            return
        self.store.rollback(TASK, to=adapter_id or "none")
        self.back_to(adapter_id)

    @precondition(lambda self: self.status)
    @rule(number=st.integers(0, 2))
    def remove(self, number: int) -> None:
        adapter_id = self.pick(number)
        if adapter_id == self.served[-1]:
            with pytest.raises(InvalidInput):
                self.store.remove(adapter_id)
            return
        self.store.remove(adapter_id)
        del self.status[adapter_id]
        # Two entries of one version become neighbours if the version between them goes: they count once.
        left = [version for version in self.served if version != adapter_id]
        self.served = [version for version, after in zip(left, [*left[1:], object()], strict=True) if version != after]

    @precondition(lambda self: self.served[-1] is not None and self.served[-1] not in self.damaged)
    @rule()
    def damage(self) -> None:
        adapter_id = str(self.served[-1])
        flip_a_bit(self.folder / "adapters" / adapter_id / "config.json")
        self.damaged.add(adapter_id)
        while self.served[-1] in self.damaged:
            self.served.pop()
        now = ServingAdapters(self.store).champion(TASK)
        assert (now.id if now else None) == self.served[-1]

    @rule()
    def open_again(self) -> None:
        self.database.close()
        self.database = Database(self.folder)
        self.store = AdapterStore(self.database, self.folder / "adapters")

    @invariant()
    def champion_is_whole_and_last_in_the_log(self) -> None:
        champion = self.store.champion(TASK)
        assert (champion.id if champion else None) == self.served[-1]
        assert self.store.previous_id(TASK) == self.previous
        if champion is not None:
            self.store.verify(champion.id)
        log = self.store.log(TASK)
        assert (log[-1]["adapter_id"] if log else None) == self.served[-1]
        for before, after in itertools.pairwise(log):
            assert after["previous_id"] == before["adapter_id"]
        assert {path.name for path in (self.folder / "adapters").glob("*")} == set(self.status)


TestChampions = Champions.TestCase
TestChampions.settings = settings(
    max_examples=20, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
