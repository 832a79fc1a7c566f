"""Old versions go in their order, and never the champion, the rollback's target or what served a moment ago."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.adapters import TASK, add
from support.echo_learner import OWN_PLUGINS, Echo, correct
from support.scripted import ScriptedPlugin

from smallai_assistant import Adapter, Assistant, AssistantConfig
from smallai_assistant.learning.adapter_files import MANIFEST
from smallai_assistant.learning.adapter_store import AdapterStore
from smallai_assistant.learning.pruning import SERVED_RECENTLY_S, Limits
from smallai_assistant.learning_config import LearningConfig
from smallai_assistant.models.files import file_sha256
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.schema import adapters

NO_LIMIT = 2**40


@pytest.fixture
def store(database: Database, tmp_path: Path) -> AdapterStore:
    return AdapterStore(database, tmp_path / "adapters")


@pytest.fixture
def later() -> float:
    """A time at which no answer runs any more that began before."""
    return time.time() + SERVED_RECENTLY_S + 60


def ids(store: AdapterStore) -> list[str]:
    return [version.id for version in store.versions(TASK)]


def served(store: AdapterStore, *names: str) -> list[Adapter]:
    """Versions that were promoted one after the other."""
    made = [add(store, name) for name in names]
    for version in made:
        store.promote(version.id)
    return made


def test_refused_versions_go_first_then_the_oldest(store: AdapterStore, later: float) -> None:
    first, second = served(store, "1", "2")
    refused = add(store, "3", status="refused")
    third, fourth = served(store, "4", "5")
    assert store.prune(TASK, Limits(5, NO_LIMIT), now=later).ids == ()
    assert store.prune(TASK, Limits(4, NO_LIMIT), now=later).ids == (refused.id,)
    assert not refused.folder.exists()
    assert store.prune(TASK, Limits(3, NO_LIMIT), now=later).ids == (first.id,)
    assert ids(store) == [second.id, third.id, fourth.id]


def test_champion_target_and_newest_stay(store: AdapterStore, later: float) -> None:
    first, second, third = served(store, "1", "2", "3")
    newest = add(store, "4", status="refused")
    pruned = store.prune(TASK, Limits(1, 1), now=later)
    assert pruned.ids == (first.id,)
    assert ids(store) == [second.id, third.id, newest.id]
    assert store.previous_id(TASK) == second.id
    now_serves = store.rollback(TASK)
    assert now_serves is not None
    assert now_serves.id == second.id


def test_what_served_within_the_hour_stays(store: AdapterStore) -> None:
    first, second, third = served(store, "1", "2", "3")
    assert store.prune(TASK, Limits(1, 1)).ids == ()  # an answer of another process may still run with the first
    assert ids(store) == [first.id, second.id, third.id]


def test_the_candidate_of_a_running_cycle_stays(store: AdapterStore, later: float) -> None:
    unjudged = add(store, "1", status=None)
    served(store, "2", "3")
    assert store.prune(TASK, Limits(1, 1), now=later).ids == ()
    assert unjudged.id in ids(store)


def test_the_size_counts_and_what_was_freed_is_told(store: AdapterStore, later: float) -> None:
    large, small, *_ = served(store, "x" * 5000, "y", "2", "3")
    whole = sum(path.stat().st_size for path in large.folder.parent.rglob("*") if path.is_file())
    of_large = sum(path.stat().st_size for path in large.folder.rglob("*") if path.is_file())
    pruned = store.prune(TASK, Limits(20, whole - 1), now=later)
    assert pruned.ids == (large.id,)
    assert (pruned.n_bytes, pruned.n_kept, pruned.n_bytes_kept) == (of_large, 3, whole - of_large)
    assert small.id in ids(store)


def test_other_tasks_and_damaged_versions(store: AdapterStore, later: float) -> None:
    other = add(store, "other", task="image-classification", status="refused")
    broken, *_ = served(store, "1", "2", "3")
    (broken.folder / MANIFEST).unlink()
    assert store.prune(TASK, Limits(1, 1), now=later).ids == (broken.id,)
    assert not broken.folder.exists()
    assert [version.id for version in store.versions("image-classification")] == [other.id]


def test_lineage_survives_the_version_in_between(
    store: AdapterStore, database: Database, tmp_path: Path, later: float
) -> None:
    """Manifests of an earlier program name only the version before, so what that one learned is handed down."""
    first = add(store, "1", ids=["f1"])
    store.promote(first.id)
    second = add(store, "2", ids=["f2"])
    make_old(database, second)
    for version in (second, *(add(store, name) for name in "34")):
        store.promote(version.id)
    assert store.prune(TASK, Limits(3, NO_LIMIT), now=later).ids == (first.id,)
    assert store.learned_from(["f1"]) == [second.id]
    shutil.rmtree(tmp_path / "adapters" / second.id)
    assert store.learned_from(["f1"]) == [second.id]  # it does not depend on a file


def make_old(database: Database, version: Adapter) -> None:
    """Rewrites a manifest as the program wrote it before it told what a training began with."""
    path = version.folder / MANIFEST
    manifest = {key: value for key, value in json.loads(path.read_bytes()).items() if key != "started_from"}
    path.write_text(json.dumps(manifest))
    with database.write() as connection:
        changed = sa.update(adapters).where(adapters.c.id == version.id)
        connection.execute(changed.values(manifest_sha256=file_sha256(path)))


def test_every_cycle_prunes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smallai_assistant.learning.pruning.SERVED_RECENTLY_S", 0.0)
    learning = LearningConfig(max_versions=3)
    config = AssistantConfig(data_dir=tmp_path / "data", device="cpu", disabled_plugins=OWN_PLUGINS, learning=learning)
    echo = Echo(learns=False)
    with Assistant(config, plugins=[ScriptedPlugin(echo)]) as assistant:
        refused = []
        for number in range(4):
            correct(assistant, first=20 * number)
            refused.append(assistant.learn("echo").adapter_id)
        assert [version.id for version in assistant.adapters.versions("echo")] == refused[1:]
        echo.learns = True
        correct(assistant, first=80)
        report = assistant.learn("echo")
        assert report.is_promoted
        assert [version.id for version in assistant.adapters.versions("echo")] == [*refused[2:], report.adapter_id]
