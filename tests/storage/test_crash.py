"""kill -9, cancellation, two processes at once, a full disk: complete data stays complete, half of it is never used."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.adapters import add, flip_a_bit
from support.tiny_servers import (
    FILES,
    WHEELS,
    Server,
    files_below,
    package_index,
    serving,
    tiny_entry,
    write_files,
    write_wheels,
)

from bench import kills
from smallai_assistant import ImagePart
from smallai_assistant.errors import Cancelled, ModelNotFound
from smallai_assistant.learning.adapter_store import AdapterStore
from smallai_assistant.models.catalog import Catalog
from smallai_assistant.models.folders import ModelFolders  # noqa: F401  (for the processes)
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.item_store import ItemStore
from smallai_assistant.storage.turn_store import TurnStore

HERE = Path(__file__).parent


def open_catalog(folder: Path) -> Catalog:
    """A catalogue of the tiny model alone."""
    catalog = Catalog(folder)
    catalog.entries = {"tiny": tiny_entry()}
    return catalog


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Starts a Python process with everything of this module imported."""
    path = os.pathsep.join([*map(str, (HERE, HERE.parent, HERE.parents[1])), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", f"from test_crash import *\n{code}", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )


def run(code: str, *arguments: object) -> str:
    """Runs such a process to its end and returns what it printed."""
    with start(code, *arguments) as process:
        out, _ = process.communicate(timeout=100)
    assert process.returncode == 0, out
    return out


# -- a pull that is stopped --


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with serving(package_index(write_wheels(tmp_path / "packages"))) as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
        yield server


def wheels_asked(index: Server) -> list[str]:
    return [path.removeprefix("/files/") for path in index.asked if path.startswith("/files/")]


def check_that_it_continues(folder: Path, index: Server) -> None:
    """Checks a pull that was stopped in the second package: there is no model, and the first package is kept."""
    catalog = open_catalog(folder)
    assert not catalog.is_pulled("tiny")
    for call in (catalog.resolve, catalog.verify):
        with pytest.raises(ModelNotFound):
            call("tiny")
    assert (folder / ".parts-tiny/config.json").read_bytes() == FILES["config.json"]
    assert wheels_asked(index) == list(WHEELS)
    index.stalls.clear()
    index.go.set()
    assert catalog.pull(["tiny"])
    catalog.verify("tiny")
    assert files_below(folder) == {".lock", *(f"tiny/{name}" for name in [*FILES, "smallai-model.json"])}
    assert wheels_asked(index) == [*WHEELS, WHEELS[1]]


def test_a_cancelled_pull_keeps_complete_files(tmp_path: Path, index: Server) -> None:
    index.stalls[f"/files/{WHEELS[1]}"] = 50_000
    cancel = threading.Event()
    threading.Thread(target=lambda: (index.is_stalled.wait(60), cancel.set())).start()
    with pytest.raises(Cancelled) as caught:
        open_catalog(tmp_path / "models").pull(["tiny"], cancel=cancel)
    assert "finished files are kept" in caught.value.hint
    check_that_it_continues(tmp_path / "models", index)


def test_a_killed_pull_keeps_complete_files(tmp_path: Path, index: Server) -> None:
    index.stalls[f"/files/{WHEELS[1]}"] = 50_000
    with start("open_catalog(Path(sys.argv[1])).pull(['tiny'])", tmp_path / "models") as process:
        assert index.is_stalled.wait(60)
        process.kill()
    check_that_it_continues(tmp_path / "models", index)


def test_one_process_pulls_and_the_other_waits(tmp_path: Path, index: Server) -> None:
    index.stalls[f"/files/{WHEELS[0]}"] = 50_000
    code = (
        "def tell(name, what, fraction):\n"
        "    if 'waiting' in what: print('waiting', flush=True)\n"
        "print(len(open_catalog(Path(sys.argv[1])).pull(['tiny'], progress=tell)), flush=True)"
    )
    with start(code, tmp_path / "models") as first:
        assert index.is_stalled.wait(60)
        with start(code, tmp_path / "models") as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "waiting\n"
            index.go.set()
            assert first.communicate(timeout=60)[0] == "1\n"  # model was fetched
            assert second.communicate(timeout=60)[0] == "0\n"
    assert wheels_asked(index) == list(WHEELS)
    open_catalog(tmp_path / "models").verify("tiny")


AT_EVERY_STEP = """
import itertools, shutil
import filelock  # before the fork: its import would be a hundred steps in which nothing is at stake
kind, root = sys.argv[1], Path(sys.argv[2])
own = write_files(root / "own")
n_before = n_after = 0
for n in itertools.count():
    folder = root / "models"
    shutil.rmtree(folder, ignore_errors=True)
    catalog = open_catalog(folder)
    if kind == "remove":
        catalog.pull(["tiny"], local=own)
    child = os.fork()
    if child == 0:
        steps = itertools.count()
        def hook(event, _):  # Python calls it before every operation on files
            if event.startswith(("open", "os.", "shutil.", "fcntl.")) and next(steps) == n:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        catalog.remove("tiny") if kind == "remove" else catalog.pull(["tiny"], local=own)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status == 0:
        break
    assert status == signal.SIGKILL, status
    if catalog.is_pulled("tiny"):
        catalog.verify("tiny")
        catalog.resolve("tiny")
        n_after += 1
    else:
        n_before += 1
    catalog.pull(["tiny"], local=own)  # leftovers of the killed process do not prevent it
    catalog.verify("tiny")
    catalog.remove("tiny")
    assert files_below(folder) == {".lock"}, files_below(folder)
    assert n < 1000
print(n_before, n_after)
"""


@pytest.mark.parametrize("kind", ["pull", "remove"])
def test_killed_at_any_step_models_are_whole(tmp_path: Path, kind: str) -> None:
    n_not_there, n_whole = map(int, run(AT_EVERY_STEP, kind, tmp_path).split())
    assert n_not_there >= 3, "the steps were not those of the work"
    assert n_whole >= 3
    assert n_not_there + n_whole >= (40 if kind == "pull" else 12)


# -- a full disk --

ON_A_SMALL_DISK = """
import shutil
from smallai_assistant.errors import StoreFull
kind, disk, own = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)], check=True)
catalog = open_catalog(disk / "models")
filler = disk / "filler"

def fill(*_):
    if not filler.exists():
        filler.write_bytes(bytes(shutil.disk_usage(disk).free // 1024 * 1024 - keep))

keep = 200_000 if kind == "copying" else 0
real_check = ModelFolders.check_room
if kind == "copying":  # there is room when the pull checks, and none right after
    ModelFolders.check_room = lambda *_: fill()
try:
    tell = fill if kind == "storing" else None
    catalog.pull(["tiny"], progress=tell, local=None if kind == "package" else own)
except StoreFull as error:
    print("StoreFull", bool(error.hint))
ModelFolders.check_room = real_check
catalog = open_catalog(disk / "models")
assert not catalog.is_pulled("tiny")
assert not list((disk / "models").glob(".w*")), list((disk / "models").iterdir())
filler.unlink(missing_ok=True)
print(len(catalog.pull(["tiny"], local=own)))
catalog.verify("tiny")
print(shutil.disk_usage(disk).used < 600_000)
"""


@pytest.mark.parametrize("kind", ["package", "copying", "storing"])
def test_a_pull_works_after_a_full_disk(tmp_path: Path, kind: str, index: Server) -> None:
    """On a disk of 2 MB a package is too large, or others fill the disk while files are copied or stored."""
    namespace = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    (tmp_path / "disk").mkdir()
    try:
        subprocess.run([*namespace, "mount", "-t", "tmpfs", "none", tmp_path / "disk"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a small file system")
    write_wheels(tmp_path / "packages", ballast=3_000_000)
    write_files(tmp_path / "own")
    code = f"import os, sys; os.execvp('unshare', {namespace!r} + [sys.executable, '-c'] + sys.argv[1:])"
    inner = f"from test_crash import *\n{ON_A_SMALL_DISK}"
    out = run(code, inner, kind, tmp_path / "disk", tmp_path / "own")
    assert out.split("\n") == ["StoreFull True", "1", "True", ""]


# -- turns and items --

CONVERSE = """
from support.scripted import ScriptedPlugin, make_task
from smallai_assistant import Assistant, ImagePart, TextPart
task = make_task(lambda request: iter([TextPart("seen")]), accepts=(frozenset({"text", "image"}),))
four = ("chat", "image", "speech", "recommend")
with Assistant(data_dir=Path(sys.argv[1]), plugins=[ScriptedPlugin(task)], disabled_plugins=four, device="cpu") as it:
    session = it.session("ann")
    while True:
        picture = random.randbytes(20_000)
        turn = session.send([f"{picture[:8].hex()}", ImagePart(data=picture)]).turn
        print(session.id, turn.id, flush=True)
"""


def test_acknowledged_turns_and_pictures_survive_kill_9(tmp_path: Path) -> None:
    acknowledged: list[list[str]] = []
    for _ in range(3):
        with start(CONVERSE, tmp_path) as process:
            assert process.stdout is not None
            acknowledged.append(process.stdout.readline().split())
            time.sleep(random.uniform(0, 0.5))  # so that the kill hits any moment of the work
            process.kill()
            acknowledged += [line.split() for line in process.stdout if line.endswith("\n")]
    assert len(acknowledged) > 3
    database = Database(tmp_path)
    store = TurnStore(database, tmp_path / "media")
    for session_id, turn_id in acknowledged:
        turn = store.turn(turn_id)
        assert (turn.session_id, turn.user_id, turn.text) == (session_id, "ann", "seen")
    stored = [turn for row in store.session_list() for turn in store.turns(row["id"])]
    assert {turn.id for turn in stored} >= {turn_id for _, turn_id in acknowledged}
    for turn in stored:  # also a turn that was stored but not acknowledged before the kill
        text, picture = turn.request.parts
        assert isinstance(picture, ImagePart)
        assert picture.read()[:8].hex() == text.text
        assert len(picture.read()) == 20_000
    store.close()
    database.close()


IMPORT = """
from smallai_assistant import Item
store = ItemStore(Database(Path(sys.argv[1])))
for n in range(1000):
    print(n, flush=True)
    store.add_items([Item(f"{n}-{i}", "title", "text") for i in range(2000)])
"""


def test_a_killed_import_is_complete_or_absent(tmp_path: Path) -> None:
    sizes = []
    for n in range(4):
        folder = tmp_path / str(n)
        with start(IMPORT, folder) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(n + 1)]
            time.sleep(random.uniform(0, 0.2))  # so that the kill hits any moment of the import
            process.kill()
            lines += [line for line in process.stdout if line.endswith("\n")]
        database = Database(folder)
        sizes.append(len(ItemStore(database).items()))
        assert sizes[-1] % 2000 == 0
        assert len(lines) - 1 <= sizes[-1] // 2000 <= len(lines)  # the last one may have been committed
        database.close()
    assert max(sizes) > 0


def test_the_killed_process_was_killed(tmp_path: Path) -> None:
    """The tests above are meaningful only if the signal hits a working process."""
    with start(CONVERSE, tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert process.poll() is None
        process.kill()
    assert process.returncode == -signal.SIGKILL


# -- feedback and champions; `bench.kills` repeats this a thousand times --

KILL = """
import json
from bench.kills import KINDS, Place, random
result = KINDS[sys.argv[1]](Place(Path(sys.argv[2]), sys.argv[3]), int(sys.argv[4]), random.Random(0))
print(json.dumps([result.n_acknowledged, result.broken]))
"""


@pytest.mark.parametrize(("kind", "n"), [("storing", 25), ("importing", 5), ("promoting", 12)])
def test_kill_9_breaks_no_promise(tmp_path: Path, database_url: str, kind: str, n: int) -> None:
    """Acknowledged rows are there, imports are complete, the champion is intact, and the log ends with it."""
    n_acknowledged, broken = json.loads(run(KILL, kind, tmp_path / "data", database_url, n))
    assert broken == []
    assert n_acknowledged >= 3  # the children were at work


STORE_ONE = """
from bench.kills import Place, store_feedback

def say(text):
    if text != "ready":
        print(text, flush=True)
        os._exit(0)

store_feedback(Place(Path(sys.argv[1])), 0, say)
"""


def test_a_broken_promise_would_be_seen(tmp_path: Path) -> None:
    place = kills.Place(tmp_path)
    with start(STORE_ONE, tmp_path) as process:
        out, _ = process.communicate(timeout=100)
    row = out.split()
    assert kills.lost_rows(place, [row]) == []
    assert kills.lost_rows(place, [["t", "f", "never stored"]]) == ["feedback never stored"]
    [picture] = [path for path in (tmp_path / "media").rglob("*") if path.is_file()]
    picture.write_bytes(b"half")
    assert kills.lost_rows(place, [row]) == [f"picture {row[2]}"]

    database = Database(tmp_path)
    adapters = AdapterStore(database, tmp_path / "adapters")
    champion = add(adapters, task=kills.TASK).id
    adapters.promote(champion)
    assert kills.check_champion(place, {champion}) == []
    assert "serves, and not one of" in kills.check_champion(place, {"another"})[0]
    flip_a_bit(tmp_path / "adapters" / champion / "config.json")
    assert "config.json has changed" in kills.check_champion(place, {champion})[0]
    database.close()
