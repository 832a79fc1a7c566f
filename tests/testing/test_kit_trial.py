"""The kit finds every fault of a running task, and reports no fault that does not exist."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.scripted import ScriptedPlugin, make_task
from support.testing_cases import SizedEngine, be_impatient, failed, finding, report_on

from smallai_assistant import (
    Assistant,
    AudioPart,
    Details,
    EmbeddingModel,
    Engine,
    ImagePart,
    InvalidInput,
    Item,
    LabelPart,
    ModelSpec,
    Request,
    TextPart,
    hookimpl,
)
from smallai_assistant.testing import check_plugin

_impatient = pytest.fixture(autouse=True)(be_impatient)


# -- running a task --


def raises(_: Request) -> Iterator[Any]:
    yield TextPart("so far")
    raise ZeroDivisionError("a slip")


def yields_a_number(_: Request) -> Iterator[Any]:
    yield 3


def grows(_: Request) -> Iterator[Any]:
    yield from map(TextPart, ("one", "one two", "one two three"))


def swallows_the_close(_: Request) -> Iterator[Any]:
    try:
        yield TextPart("a")
    except GeneratorExit:
        yield TextPart("never mind")


def closes_slowly(_: Request) -> Iterator[Any]:
    try:
        yield TextPart("a")
    finally:
        time.sleep(1.8)


def closes_never(_: Request) -> Iterator[Any]:
    try:
        yield TextPart("a")
        yield TextPart("b")
    except GeneratorExit:
        time.sleep(6)


def ignores_cancel(_: Request) -> Iterator[Any]:
    for n in range(12):
        yield TextPart(str(n))
        time.sleep(0.2)


def respects_cancel(request: Request) -> Iterator[Any]:
    for item in ignores_cancel(request):
        if request.cancel.is_set():
            return
        yield item


@pytest.mark.parametrize(
    ("script", "check", "text"),
    [
        (raises, "answers", "PluginError: the task 'thing' raised ZeroDivisionError: a slip"),
        (yields_a_number, "answers", "run must be a generator of parts, Notice and Details; it yielded 3"),
        (lambda _: ["text"], "answers", "run must be a generator of parts, Notice and Details; it returned ['text']"),
        (lambda _: None, "answers", "it returned None"),
        (lambda _: iter([TextPart("a")]), "generator", "list_iterator"),
        (lambda _: (d for d in [Details({"x": object()})]), "answers", "not JSON serializable"),
        (lambda _: (d for d in [Details({"x": (1, 2)})]), "details", "they change: {'x': (1, 2)}"),
        (lambda _: (part for part in [TextPart(None)]), "answers", "TextPart whose text is None, which is not text"),  # type: ignore[arg-type]
        (lambda _: (part for part in [LabelPart("a", 1, float("nan"))]), "answers", "score is nan"),
        (lambda _: (d for d in [Details({"x": float("nan")})]), "answers", "not JSON compliant"),
        (lambda _: (d for d in [Details({1: "x"})]), "answers", "not a mapping from text"),
        (lambda _: (p for p in [LabelPart("cat", 0, np.float32(0.5))]), "answers", "not a finite number"),
        (lambda _: (p for p in [LabelPart(("cat",), 0, 0.5)]), "answers", "not text"),
        (grows, "text deltas", "every piece repeats the one before: 'one two'"),
        (swallows_the_close, "early close", "generator ignored GeneratorExit"),
        (closes_slowly, "early close", "s to stop, 1.5 s is allowed"),
        (closes_never, "early close", "it was still running 4 s later"),
        (ignores_cancel, "cancel", "s to stop"),
    ],
)
def test_faults_of_run_are_found(script: Callable[[Request], Any], check: str, text: str) -> None:
    found = failed(report_on(script))
    assert text in found[check], found
    assert set(found) <= {check, "is stored"}


def test_cancel_between_steps_is_enough() -> None:
    assert report_on(respects_cancel).is_ok


def test_state_on_self_is_found_every_time() -> None:
    def run(self: Any, request: Request, _: Any) -> Iterator[Any]:
        self.words = request.message.text.split()
        yield TextPart("the words: ")
        yield TextPart(", ".join(self.words))

    for _ in range(5):
        assert failed(report_on(run=run)) == {"two at once": "two answers at once get mixed up"}


def test_growing_state_is_not_reported_as_mixing() -> None:
    def run(self: Any, request: Request, _: Any) -> Iterator[Any]:
        self.n_runs = getattr(self, "n_runs", 0) + 1
        yield TextPart(f"run {self.n_runs}")

    report = report_on(run=run)
    assert report.is_ok
    assert finding(report, "two at once").status == "skipped"
    assert "state on self" in finding(report, "two at once").hint


def test_tasks_may_answer_one_at_a_time() -> None:
    import threading

    lock = threading.Lock()

    def script(request: Request) -> Iterator[Any]:
        with lock:
            yield from map(TextPart, request.message.text.split())

    assert report_on(script).is_ok


@pytest.mark.parametrize("where", ["run", "first run", "setup"])
def test_write_outside_the_folder_is_found(where: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.txt"

    def setup(self: Any, context: Any) -> None:
        self.context = context
        if where == "setup":
            elsewhere.write_text("x")

    def run(self: Any, request: Request, _: Any) -> Iterator[Any]:
        (self.context.data_dir / "sub").mkdir(exist_ok=True)
        (self.context.data_dir / "sub" / "mine.txt").write_text("x")
        # The first run is that of a session, below the host's turn runner; the kit itself calls the later ones.
        if where == "run" or (where == "first run" and not elsewhere.exists()):
            np.save(str(elsewhere), np.zeros(3))
        yield TextPart("a")

    (text,) = failed(report_on(run=run, setup=setup)).values()
    assert text.startswith(f"it wrote {elsewhere}")
    assert "," not in text


def test_database_outside_the_folder_is_found(tmp_path: Path) -> None:
    import sqlite3

    def script(_: Request) -> Iterator[Any]:
        sqlite3.connect(tmp_path / "own.db").close()
        sqlite3.connect(":memory:").close()
        yield TextPart("a")

    assert failed(report_on(script)) == {"writes": f"it wrote {tmp_path / 'own.db'}"}


def test_reading_is_not_reported(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("x")

    def script(_: Request) -> Iterator[Any]:
        yield TextPart((tmp_path / "words.txt").read_text())

    assert report_on(script).is_ok


def test_faults_of_setup_and_close_are_found() -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no luck")

    assert "no luck" in failed(report_on(setup=fail))["setup"]
    assert failed(report_on(close=fail)) == {"close": "RuntimeError: no luck"}


def test_lease_that_is_not_released_is_found(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "sized.json").write_text("{}")
    save_file({"x": np.zeros(1, np.float32)}, folder / "model.safetensors")
    held = []

    def run(self: Any, request: Request, models: Any) -> Iterator[Any]:
        held.append(models.lease(ModelSpec(str(folder), task="feature-extraction"), EmbeddingModel))
        held[-1].__enter__()
        yield TextPart("a")

    class Plugin(ScriptedPlugin):
        @hookimpl
        def register_engines(self, register: Callable[[Engine], None]) -> None:
            register(SizedEngine())

    report = check_plugin(Plugin(make_task(run=run, title="leaks")))
    assert failed(report) == {"leases": f"still lent: {folder}"}


# -- models, examples, data --


def test_missing_model_skips_the_checks() -> None:
    def run(self: Any, request: Request, models: Any) -> Iterator[Any]:
        with models.lease(ModelSpec("auto", task="text-generation"), EmbeddingModel):
            yield TextPart("a")

    report = report_on(run=run)
    assert report.is_ok
    assert finding(report, "answers").status == "skipped"
    assert "smallai models pull" in finding(report, "answers").hint
    assert not [finding for finding in report.findings if finding.check in ("early close", "cancel")]


def test_example_replaces_the_made_up_message() -> None:
    def script(request: Request) -> Iterator[Any]:
        if not request.message.text.startswith("count:"):
            raise InvalidInput("it must begin with a count", hint="begin so")
        yield TextPart("1")

    plugin = ScriptedPlugin(make_task(script, title="counts"))
    without = check_plugin(plugin)
    assert without.is_ok
    assert finding(without, "answers").status == "skipped"
    assert {finding.status for finding in check_plugin(plugin, examples={"scripted": "count: a"}).findings} <= {
        "ok",
        "skipped",
        "warning",
    }
    assert finding(check_plugin(plugin, examples={"scripted": "count: a"}), "answers").status == "ok"
    refused = failed(check_plugin(plugin, examples={"scripted": "a"}))
    assert "it must begin with a count" in refused["answers"]
    assert failed(check_plugin(plugin, examples={"scriptd": "a"})) == {"examples": "there is no such task"}


def test_made_up_pictures_and_recordings_can_be_read() -> None:
    import soundfile
    from PIL import Image

    def script(request: Request) -> Iterator[Any]:
        for part in request.message.parts:
            if isinstance(part, ImagePart):
                yield TextPart(str(Image.open(io.BytesIO(part.read())).convert("RGB").size))
            elif isinstance(part, AudioPart):
                samples, rate = soundfile.read(io.BytesIO(part.read()))
                yield TextPart(f"{len(samples)} at {rate}")

    seen = []

    def watched(request: Request) -> Iterator[Any]:
        for part in script(request):
            seen.append(part.text)
            yield part

    for accepts in ({"image"}, {"audio"}, {"image", "text"}):
        assert report_on(watched, accepts=(frozenset(accepts),)).is_ok
    assert set(seen) == {"(32, 32)", "16000 at 16000"}


def test_given_data_folder_is_used_and_kept(tmp_path: Path) -> None:
    with Assistant(data_dir=tmp_path / "data") as assistant:
        assistant.items.add_items([Item("1", "Alien")])

    def run(self: Any, request: Request, _: Any) -> Iterator[Any]:
        yield TextPart(self.context.items.items()[0].title)

    plugin = ScriptedPlugin(make_task(run=run, title="names an item"))
    assert "IndexError" in failed(check_plugin(plugin))["answers"]
    assert check_plugin(plugin, data_dir=tmp_path / "data").is_ok
