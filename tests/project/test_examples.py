"""The examples run and do what they say."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from smallai_assistant import Assistant, AssistantConfig, LabelPart
from smallai_assistant.config import ModelsConfig
from smallai_assistant.testing import check_plugin

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SMALL_CHAT = "smollm2-135m-instruct"


def environment(models_dir: Path, folder: Path) -> dict[str, str]:
    """An environment with the smallest models and with the data in `folder`."""
    ours = {
        "SMALLAI_MODELS_DIR": str(models_dir),
        "SMALLAI_DATA_DIR": str(folder / "data"),
        "SMALLAI_MODELS__CHAT": SMALL_CHAT,
    }
    return {**os.environ, **ours}


def run(command: list[str | Path], env: dict[str, str], cwd: Path) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=cwd, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("0*.py")), ids=lambda path: path.name)
def test_numbered_example_runs(example: Path, models_dir: Path, tmp_path: Path) -> None:
    out = run([sys.executable, example], environment(models_dir, tmp_path), tmp_path)
    assert len(out.splitlines()) >= 3, out
    assert "Traceback" not in out


def test_examples_cover_all_tasks_and_learning() -> None:
    assert [path.stem for path in sorted(EXAMPLES.glob("0*.py"))] == [
        "01_chat",
        "02_picture",
        "03_speech",
        "04_recommend",
        "05_learn_from_feedback",
    ]


# -- the web application --


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def client(models_dir: Path, tmp_path: Path) -> Iterator[Any]:
    from fastapi.testclient import TestClient

    config = AssistantConfig(
        data_dir=tmp_path / "data",
        models_dir=models_dir,
        models=ModelsConfig(chat=SMALL_CHAT),
        tasks={"text-generation": {"max_tokens": 12}},
    )
    module = load(EXAMPLES / "fastapi_app.py")
    try:
        with TestClient(module.create_app(config)) as client:
            yield client
    finally:
        del sys.modules["fastapi_app"]


def answer(client: Any, **body: str) -> list[dict[str, Any]]:
    response = client.post("/chat", json=body)
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def test_fastapi_app_streams_and_resumes(client: Any) -> None:
    *pieces, end = answer(client, text="Say hello.", task="text-generation")
    assert len(pieces) > 1
    assert "".join(piece["text"] for piece in pieces).strip()
    assert end["task"] == "text-generation"

    *_, second = answer(client, text="Again.", task="text-generation", session_id=end["session_id"])
    assert second["session_id"] == end["session_id"]
    assert second["turn_id"] != end["turn_id"]
    history = client.app.state.assistant.session(session_id=end["session_id"]).history
    assert [turn.request.text for turn in history] == ["Say hello.", "Again."]


def test_fastapi_app_returns_errors(client: Any) -> None:
    empty = client.post("/chat", json={"text": "  "})
    assert empty.status_code == 422
    assert empty.json()["error"] == "invalid_input"
    lost = client.post("/chat", json={"text": "hi", "session_id": "nowhere"})
    assert lost.status_code == 422
    (late,) = answer(client, text="hi", task="text-generatoin")
    assert late["error"] == "invalid_input"
    assert "text-generation" in late["hint"]


# -- the plugin template --


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, because building it writes into its folder."""
    folder = tmp_path_factory.mktemp("template") / "plugin_template"
    return Path(shutil.copytree(EXAMPLES / "plugin_template", folder, ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture(scope="module")
def installed(template: Path) -> Path:
    """A folder for the path, into which pip installed the plugin."""
    target = template.parent / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    run([*pip, "--target", target, template], dict(os.environ), template.parent)
    return target


def test_plugin_template_passes_its_own_tests(template: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(template)}
    out = run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", template], env, tmp_path)
    assert "4 passed" in out


def test_installed_plugin_is_found_and_used(installed: Path, models_dir: Path, tmp_path: Path) -> None:
    env = environment(models_dir, tmp_path) | {"PYTHONPATH": str(installed)}
    smallai = Path(sys.executable).with_name("smallai")
    assert "wordcount" in run([smallai, "plugins"], env, tmp_path)
    out = run([smallai, "ask", "--json", "--task", "word-count", "the cat and the dog"], env, tmp_path)
    row = json.loads(out)
    assert row["text"].startswith("5 words, most often the (2)")
    assert row["task"] == "word-count"
    without = env | {"SMALLAI_DISABLED_PLUGINS": "wordcount"}
    assert "wordcount" not in run([smallai, "plugins"], without, tmp_path)


@pytest.mark.slow
def test_installed_plugin_is_found_by_intent(installed: Path, models_dir: Path, tmp_path: Path) -> None:
    env = environment(models_dir, tmp_path) | {"PYTHONPATH": str(installed)}
    smallai = Path(sys.executable).with_name("smallai")
    out = run([smallai, "ask", "--json", "how many words are in this text please"], env, tmp_path)
    assert json.loads(out)["task"] == "word-count"


# -- the learning plugin --

NOTES = {
    "bills": (
        "electricity invoice, 84 euros, due on Friday",
        "the water company sent the yearly statement",
        "pay the rent by bank transfer",
        "the phone contract costs two euros more from May",
        "the insurance premium is debited in June",
        "refund of the heating costs is on its way",
        "reminder: the dentist's bill is overdue",
        "broadband invoice number 2207",
        "council tax, second instalment",
    ),
    "recipes": (
        "two eggs, flour and milk for the pancakes",
        "roast the carrots with cumin and honey",
        "grandma's tomato soup needs fresh basil",
        "let the pizza dough rise for an hour",
        "marinate the chicken in lemon and garlic",
        "fold the egg whites into the chocolate",
        "simmer the lentils with a bay leaf",
        "bake the apple pie at 180 degrees",
        "risotto wants hot stock, a ladle at a time",
    ),
    "travel": (
        "the train to Lisbon leaves at nine",
        "book the hotel near the harbour",
        "passport and sun cream into the suitcase",
        "the flight to Oslo has a stop in Copenhagen",
        "hire a car at the airport",
        "ferry tickets to the islands",
        "museum opening hours in Vienna",
        "ask the hostel about a late check-in",
        "hiking route through the national park",
    ),
}
# None of them shares a distinctive word with the notes above.
NEW_NOTES = {
    "the gas supplier wants 40 euros": "bills",
    "whisk butter and sugar": "recipes",
    "a tent in Norway": "travel",
}


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(EXAMPLES / "plugin_learning")
    yield load(EXAMPLES / "plugin_learning" / "smallai_notes.py")
    del sys.modules["smallai_notes"]


def test_learning_plugin_is_one_short_file() -> None:
    (source,) = (EXAMPLES / "plugin_learning").glob("*.py")
    assert len(source.read_text().splitlines()) < 120


def test_notes_find_their_folder_and_adapters_learn_it(notes: ModuleType, config: AssistantConfig) -> None:
    with Assistant(config, plugins=[notes]) as assistant:

        def folder(note: str) -> str:
            return "".join(
                part.label for part in assistant.ask(note, task="note-folders") if isinstance(part, LabelPart)
            )

        first = assistant.ask("pay the rent", task="note-folders")
        assert [notice.code for notice in first.notices] == ["no_folders"]
        assert first.rate(correction="bills").effect == "Notes like this one go to bills from now on."
        assert folder("pay the rent") == "bills"
        for name, texts in NOTES.items():
            for text in texts:
                assistant.teach("note-folders", text, name)
        assert {note: folder(note) for note in NEW_NOTES} == NEW_NOTES

        report = assistant.learn("note-folders")
        assert report.is_promoted, report.summary()
        (target,) = report.slices
        assert target.before == 0.0, "without an adapter no folder is known"
        assert target.after > 0.8
        response = assistant.ask("a tent in Norway", task="note-folders")
        assert response.details["adapter"] == report.adapter_id

        # Taken back and not erased: an erasure would take the adapter with it.
        for judged_turn in assistant.feedback.judged_turns("note-folders"):
            assistant.feedback.retract(judged_turn.feedback.id)
    with Assistant(config, plugins=[notes]) as assistant:
        assert {note: folder(note) for note in NEW_NOTES} == NEW_NOTES, (
            "the adapter knows the folders without the feedback"
        )
        assistant.rollback("note-folders")
        assert folder("a tent in Norway") == ""


@pytest.mark.slow
def test_learning_plugin_conforms(notes: ModuleType, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALLAI_MODELS_DIR", str(models_dir))
    corrections = [(text, name) for name, texts in NOTES.items() for text in texts[:2]]
    report = check_plugin(notes, corrections={"note-folders": corrections}, train=True)
    assert {finding.status for finding in report.findings} == {"ok"}, report
