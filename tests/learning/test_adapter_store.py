"""The champion is always a whole, approved version; every move of it is logged; and it can be moved back."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support.adapters import BASE, TASK, add, flip_a_bit

from smallai_assistant import InvalidInput
from smallai_assistant.errors import (
    AdapterMismatch,
    GateRejected,
    IntegrityError,
    ModelInvalid,
    StoreError,
    StoreFull,
)
from smallai_assistant.learning import adapter_files as files_module
from smallai_assistant.learning.adapter_files import MANIFEST, check_base
from smallai_assistant.learning.adapter_store import AdapterStore
from smallai_assistant.learning.serving_adapters import ServingAdapters
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.schema import learned


@pytest.fixture
def store(database: Database, tmp_path: Path) -> AdapterStore:
    return AdapterStore(database, tmp_path / "adapters")


def entries(store: AdapterStore, task: str = TASK) -> list[tuple[str, str | None, str | None]]:
    return [(entry["kind"], entry["adapter_id"], entry["previous_id"]) for entry in store.log(task)]


# -- adding --


def test_version_holds_its_files_and_lineage(store: AdapterStore, tmp_path: Path) -> None:
    parent = add(store, "parent")
    store.promote(parent.id)
    made = add(store, "child", status=None, ids=["f1", "f2", "f1"])
    assert (made.task, made.kind, made.base, made.status, made.parent) == (TASK, "lora", BASE, "candidate", parent.id)
    assert made.feedback_ids == ("f1", "f2", "f1")
    assert sorted(made.files) == ["config.json", "deep/weights.bin"]
    assert (made.folder / "deep/weights.bin").read_text() == "child"
    assert store.learned_from(["f2", "nope"]) == [made.id]
    judged = store.judge(made.id, "approved", {"gain": 0.1, "retired_ids": ["f1"]})
    assert (judged.status, judged.retired_ids, judged.report["gain"]) == ("approved", ("f1",), 0.1)
    assert [version.id for version in store.versions(TASK)] == [parent.id, made.id]
    assert store.versions("other") == []
    assert [path.name for path in sorted((tmp_path / "adapters").iterdir())] == sorted([parent.id, made.id])


def test_same_files_twice_are_two_versions(store: AdapterStore) -> None:
    assert add(store, "same").id != add(store, "same").id


@pytest.mark.parametrize("kind", ["none", "link", "ours", "name"])
def test_files_that_cannot_be_kept_are_refused(store: AdapterStore, tmp_path: Path, kind: str) -> None:
    task = "../../x" if kind == "name" else TASK
    with store.work_folder() as work:
        if kind == "link":
            (work / "weights").symlink_to("/etc/hostname")
        elif kind == "ours":
            (work / MANIFEST).write_text("{}")
        elif kind == "name":
            (work / "weights").write_text("x")
        with pytest.raises(InvalidInput):
            store.add(work, task=task, kind="lora", base=BASE)
    assert store.versions() == []
    assert not list((tmp_path / "adapters").iterdir())


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        *((dtype, value) for dtype in ("float32", "bfloat16", "float64") for value in ("nan", "inf", "1")),
        *(("float8_e4m3fn", value) for value in ("nan", "1")),  # it has no infinity
    ],
)
def test_weights_that_are_not_finite_are_refused(store: AdapterStore, dtype: str, value: str) -> None:
    import torch
    from safetensors.torch import save_file

    tensor = torch.tensor([1.0, float(value)], dtype=torch.float64).to(getattr(torch, dtype))
    if dtype == "float64" and value == "1":
        tensor *= 1e300  # finite, but not in a smaller type
    with store.work_folder() as work:
        save_file({"good": torch.arange(3), "w": tensor}, work / "adapter.safetensors")
        if value == "1":
            store.add(work, task=TASK, kind="lora", base=BASE)
            return
        with pytest.raises(AdapterMismatch, match="w holds NaN or infinity"):
            store.add(work, task=TASK, kind="lora", base=BASE)
    assert store.versions() == []


def test_cut_weights_are_refused(store: AdapterStore) -> None:
    with store.work_folder() as work:
        (work / "adapter.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
        with pytest.raises(ModelInvalid):
            store.add(work, task=TASK, kind="lora", base=BASE)


@pytest.mark.parametrize(("code", "kind"), [(28, StoreFull), (5, StoreError)])
def test_unwritable_files_make_no_version(
    store: AdapterStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[StoreError]
) -> None:
    add(store, "first")

    def fail(_: Path) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(files_module, "sync_path", fail)
    with pytest.raises(kind):
        add(store, "second")
    assert len(store.versions()) == len(list((tmp_path / "adapters").iterdir())) == 1


def test_adapter_of_another_base_is_refused(store: AdapterStore) -> None:
    adapter = add(store)
    check_base(adapter, BASE)
    for base in ({"model": "other", "sha256": "00"}, {"model": "tiny"}, {**BASE, "quantization": "nf4"}):
        with pytest.raises(AdapterMismatch, match=adapter.id):
            check_base(adapter, base)


# -- moving the champion --


def test_only_approved_versions_are_promoted(store: AdapterStore) -> None:
    for status in (None, "refused"):
        adapter = add(store, str(status), status=status)
        with pytest.raises(GateRejected, match="worse" if status else "candidate"):
            store.promote(adapter.id)
        with pytest.raises(GateRejected, match="never served"):
            store.rollback(TASK, to=adapter.id)
        assert store.champion(TASK) is None
        assert store.log(TASK) == []
    store.promote(adapter.id, reason="by hand", force=True)
    assert store.champion_id(TASK) == adapter.id
    assert store.log(TASK)[0]["reason"] == "by hand (forced: the gate's decision was refused)"
    store.rollback(TASK)
    store.rollback(TASK, to=adapter.id)  # it has served before
    assert store.champion_id(TASK) == adapter.id


def test_two_rollbacks_go_back_two_promotions(store: AdapterStore) -> None:
    a, b, c = (add(store, content).id for content in "abc")
    for version in (a, b, a, c):
        store.promote(version)
    served = [store.champion_id(TASK)]
    for _ in range(4):
        now = store.rollback(TASK)
        served.append(now.id if now else None)
    assert served == [c, a, b, a, None]
    with pytest.raises(InvalidInput, match="no adapter serves"):
        store.rollback(TASK)
    assert len(store.log(TASK)) == 8
    assert entries(store)[4] == ("rollback", a, c)


def test_rollback_to_a_version_or_none(store: AdapterStore) -> None:
    a, b, c = (add(store, content).id for content in "abc")
    for version in (a, b, c):
        store.promote(version)
    store.remove(b)
    assert store.previous_id(TASK) == a
    store.rollback(TASK, to="none")
    assert store.champion(TASK) is None
    store.rollback(TASK, to=c)
    other = add(store, "other", task="image-classification")
    for wrong in (b, other.id, "nope"):
        with pytest.raises(InvalidInput):
            store.rollback(TASK, to=wrong)
    assert store.champion_id(TASK) == c


def test_the_champion_cannot_be_removed(store: AdapterStore, database: Database) -> None:
    adapter = add(store, ids=["f"])
    store.promote(adapter.id)
    with pytest.raises(InvalidInput, match="serves"):
        store.remove(adapter.id)
    store.rollback(TASK)
    assert store.remove(adapter.id) > 0
    assert not adapter.folder.exists()
    assert store.learned_from(["f"]) == []
    for call in (store.get, store.remove, store.promote, store.verify):
        with pytest.raises(InvalidInput, match="no adapter"):
            call(adapter.id)
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(learned)) == 0


def test_removal_and_promotion_at_once_have_one_winner(store: AdapterStore) -> None:
    for n in range(8):
        adapter = add(store, str(n))
        gate, failed = threading.Barrier(2), []

        def run(call: Any, gate: threading.Barrier = gate, failed: list[str] = failed, name: str = adapter.id) -> None:
            gate.wait()
            try:
                call(name)
            except (InvalidInput, IntegrityError) as error:  # removed before, or while, its files were verified
                failed.append(type(error).__name__)

        threads = [threading.Thread(target=run, args=(call,)) for call in (store.remove, store.promote)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(failed) == 1
        champion = store.champion(TASK)
        if champion is not None:
            store.verify(champion.id)


# -- damage --


@pytest.mark.parametrize("name", ["deep/weights.bin", "config.json", MANIFEST])
@pytest.mark.parametrize("how", ["bit", "gone", "more"])
def test_damaged_champion_is_replaced_and_logged(
    store: AdapterStore, caplog: pytest.LogCaptureFixture, name: str, how: str
) -> None:
    good, bad = add(store, "good"), add(store, "bad")
    store.promote(good.id)
    store.promote(bad.id)
    if how == "bit":
        flip_a_bit(bad.folder / name)
    elif how == "gone":
        (bad.folder / name).unlink()
    else:
        (bad.folder / name).with_name("more").write_text("")
    with pytest.raises(IntegrityError, match=bad.id):
        store.verify(bad.id)
    with caplog.at_level(logging.ERROR):
        champion = ServingAdapters(store).champion(TASK)
    assert champion == good
    assert store.champion_id(TASK) == good.id
    assert entries(store)[-1] == ("damaged", good.id, bad.id)
    assert "damaged" in store.log(TASK)[-1]["reason"]
    assert bad.id in caplog.text
    for call in (lambda: store.promote(bad.id), lambda: store.rollback(TASK, to=bad.id)):
        with pytest.raises(IntegrityError):
            call()
    assert [version.id for version in store.versions()] == [good.id] + [bad.id] * (how == "more" or name != MANIFEST)


def test_bare_base_serves_if_all_are_damaged(store: AdapterStore) -> None:
    for content in "abc":
        adapter = add(store, content)
        store.promote(adapter.id)
        flip_a_bit(adapter.folder / "config.json")
    store_of_another_process = ServingAdapters(store)
    assert store_of_another_process.champion(TASK) is None
    assert [kind for kind, *_ in entries(store)] == ["promote"] * 3 + ["damaged"] * 3


def test_replaced_champion_is_not_moved_away(store: AdapterStore) -> None:
    a, b = add(store, "a"), add(store, "b")
    store.promote(a.id)
    store.promote(b.id)
    store.move_away(TASK, a.id, to=None, reason="damaged")
    assert store.champion_id(TASK) == b.id


# -- what a kill leaves --


def test_work_folders_of_dead_processes_are_swept(store: AdapterStore, database: Database, tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    code = f"""
import sys
from pathlib import Path
from smallai_assistant.learning.adapter_files import held_folder
with held_folder(Path({str(folder)!r})) as work:
    (work / "half").write_text("x")
    print(work, flush=True)
    sys.stdin.read()
"""
    folder.mkdir()
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    work = Path(process.stdout.readline().strip())
    with store.work_folder() as own:
        AdapterStore(database, folder)
        assert (work / "half").exists()  # both are held by a living process
        assert own.exists()
    process.kill()
    process.communicate()
    AdapterStore(database, folder)
    assert not list(folder.iterdir())


def test_unrecorded_versions_are_swept(store: AdapterStore, database: Database, tmp_path: Path) -> None:
    kept = add(store)
    for name, age_s in (("old", 120), ("new", 0)):
        folder = tmp_path / "adapters" / name
        shutil.copytree(kept.folder, folder)
        os.utime(folder, times=(kept.created_at.timestamp() - age_s,) * 2)
    AdapterStore(database, tmp_path / "adapters")
    assert sorted(path.name for path in (tmp_path / "adapters").iterdir()) == sorted([kept.id, "new"])
    store.verify(kept.id)


def test_manifest_names_the_id_and_files(store: AdapterStore) -> None:
    adapter = add(store)
    manifest = json.loads((adapter.folder / MANIFEST).read_text())
    assert manifest["id"] == adapter.id
    assert manifest["files"] == adapter.files


def test_part_is_a_subfolder_with_files(store: AdapterStore) -> None:
    adapter = add(store)
    assert (adapter.part.adapter_id, adapter.part.name, adapter.part.folder) == (adapter.id, "", adapter.folder)
    deep = adapter.with_part("deep")
    assert deep is not None
    assert (deep.id, deep.part.name, deep.part.folder) == (adapter.id, "deep", adapter.folder / "deep")
    assert deep.part != adapter.part
    assert adapter.with_part("shallow") is None
