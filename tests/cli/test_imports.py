"""`smallai items import`, `interactions import`, and `recommend` from what they stored."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.command_line import Run, is_one_error_line

from bench.data import movielens
from smallai_assistant import (
    Assistant,
    AssistantConfig,
    Interaction,
)
from smallai_assistant.cli import imports


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
        ("a.csv", 'id,title\n1,"A\n2,B\n', 2, "not CSV"),
        ("a.csv", "id,name of it\n1,A\n", 1, "no column 'title'"),
        ("a.jsonl", '{"id": "1", "title": "A"}\n{"id": "2"\n', 2, "not JSON"),
        ("a.jsonl", '{"id": "1", "title": "A"}\n[1]\n', 2, "not a JSON object"),
        ("a.jsonl", '{"id": "1", "title": "A"}\n{"id": true, "title": "A"}\n', 2, "id must be text"),
        ("a.jsonl", '{"id": "1", "title": "A"}\n{"id": null, "title": "A"}\n', 2, "id must be text"),
        ("a.jsonl", '{"id": "1", "title": "A"}\n{"id": "2"}\n', 2, "no column 'title'"),
        ("a.jsonl", '{"id": "1", "title": "A"}\n{"id": "2\\u0000", "title": "A"}\n', 2, "NUL"),
        ("a.jsonl", "\n" + "[" * 100_000, 2, "not JSON"),
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


def test_a_pipe_is_imported(run: Run, library: Assistant, tmp_path: Path) -> None:
    # What a shell makes of `smallai items import <(zcat items.csv.gz)`. The name does not tell the format.
    for name, text in (("some.jsonl", ITEM_FILES["some.jsonl"]), ("plain.csv", ITEM_FILES["plain.csv"])):
        pipe = tmp_path / f"pipe-{name.split('.')[0]}"
        os.mkfifo(pipe)
        writer = threading.Thread(target=lambda pipe=pipe, text=text: pipe.write_text(text))
        writer.start()
        done = run("items", "import", pipe, assistant=library)
        writer.join(30)
        assert (done.code, done.out) == (0, "imported 2 items\n"), done.err
    refused = run("items", "import", "/dev/zero", assistant=library)
    assert (refused.code, refused.out) == (1, "")
    assert "neither a file nor a pipe" in refused.err


def test_interactions_import_reads_times_and_weights(
    run: Run, library: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "log.csv"
    file.write_text(
        "user_id,item_id,rating,timestamp\nada,1,4,1000\nada,2,,2024-01-31T18:00:00\nbob,1,0.5,1700000000000\nbob,2,1,\n"
        "bob,3,1,2024-01-31T18:00:00+01:00\n"
    )
    monkeypatch.setattr(imports, "time", SimpleNamespace(time=lambda: 1_710_000_000.0))
    done = run("interactions", "import", file, assistant=library)
    assert (done.code, done.out) == (0, "imported 5 interactions\n"), done.err
    assert "ratings are read as 1 to 5 (see --scale): 2 for, 3 against" in done.err
    assert "5 of them name an item that is not imported" in done.err
    rows = {(row.user, row.item): row for row in library.items.interactions()}
    assert rows["ada", "1"] == Interaction("ada", "1", 1.0, 1000.0)  # four stars are a plain choice
    assert rows["ada", "2"] == Interaction("ada", "2", 1.0, 1706724000.0)
    assert rows["bob", "1"] == Interaction("bob", "1", -3.0, 1_700_000_000.0)  # half a star is the worst rating
    assert rows["bob", "2"].at == 1_710_000_000.0
    assert rows["bob", "3"].at == 1706720400.0


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
    assert log.out == "imported 100,000 interactions\n"
    assert log.err == "note: ratings are read as 1 to 5 (see --scale): 82,520 for, 17,480 against their item\n"
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
