"""Items and interactions in the store, and the import of odd files. The commands are tested in tests/cli."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from smallai_assistant import Interaction, Item
from smallai_assistant.cli import main
from smallai_assistant.errors import StoreError
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.item_store import ItemStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ItemStore]:
    database = Database(tmp_path / "data")
    yield ItemStore(database)
    database.close()


class Ran(NamedTuple):
    code: int
    out: str
    err: str


def run_import(kind: str, file: Path, store: ItemStore, capsys: pytest.CaptureFixture[str], *words: str) -> Ran:
    """Runs `smallai KIND import FILE` on this store; the import needs only this part of an assistant."""
    front = SimpleNamespace(items=store, broken_plugins={})
    opener: Any = lambda *_: contextlib.nullcontext(front)  # noqa: E731
    return Ran(main([kind, "import", str(file), *words], open_assistant=opener), *capsys.readouterr())


# -- the store --


def test_interactions_are_sorted_by_time_and_order(store: ItemStore) -> None:
    store.add_interactions([Interaction("ada", "c", at=2.0), Interaction("ada", "b", at=1.0)])
    store.add_interactions([Interaction("bob", "a", at=1.0), Interaction("ada", "d", at=2.0)])
    assert [interaction.item for interaction in store.interactions()] == ["b", "a", "c", "d"]
    assert [interaction.item for interaction in store.interactions(after=1)] == ["b", "a", "d"]
    assert [interaction.item for interaction in store.interactions(after=3)] == ["d"]
    assert store.interactions(after=4) == []
    assert [interaction.item for interaction in store.interactions_of("ada")] == ["b", "c", "d"]
    assert store.interactions_of("nobody") == []


def test_what_was_stored_comes_back(store: ItemStore) -> None:
    item = Item(
        "é/1 '\"", "Amélie \U0001f3ac", "line\nline\t%s {}", {"year": 2001, "tags": ["a", None], "deep": {"x": 0.5}}
    )
    choice = Interaction("ünal; DROP TABLE items", "é/1 '\"", 999.5, 1_700_000_000.125)
    assert store.add_items([item]) == 1
    assert store.add_interactions([choice]) == 1
    assert store.items() == [item]
    assert store.interactions() == [choice]


def test_the_last_of_a_repeated_id_counts(store: ItemStore) -> None:
    assert store.add_items([Item("a", "first"), Item("b", "B"), Item("a", "last")]) == 2
    assert [item.title for item in store.items()] == ["last", "B"]


def test_more_items_than_a_statement_holds(store: ItemStore) -> None:
    store.add_items(Item(f"{n:05}", f"Item {n}") for n in range(1_234))
    assert store.remove_items([*(f"{n:05}" for n in range(1_200)), *(f"x{n}" for n in range(400))]) == 1_200
    assert [item.id for item in store.items()] == [f"{n:05}" for n in range(1_200, 1_234)]


def test_only_writes_change_the_revision(store: ItemStore) -> None:
    seen = [store.revision()]

    def changed() -> tuple[bool, bool]:
        seen.append(store.revision())
        return seen[-1][0] != seen[-2][0], seen[-1][1] != seen[-2][1]

    store.add_items([])
    store.add_interactions([])
    assert store.remove_items(["nowhere"]) == 0
    assert store.remove_items([]) == 0
    assert changed() == (False, False)
    store.add_items([Item("a", "A")])
    assert changed() == (True, False)
    store.add_interactions([Interaction("ada", "a")])
    assert changed() == (False, True)
    store.add_items([Item("a", "A")])
    assert changed() == (True, False)
    store.remove_items(["a"])
    assert changed() == (True, False)


def test_a_forgotten_user_has_no_interactions(store: ItemStore) -> None:
    store.add_interactions([Interaction("ada", "a"), Interaction("bob", "b"), Interaction("ada", "c")])
    before = store.revision()
    assert store.forget_user(" ada ") == 2
    assert [row.user for row in store.interactions()] == ["bob"]
    assert [now - then for then, now in zip(before, store.revision(), strict=True)] == [0, 1, 1]
    assert store.forget_user("ada") == 0


def test_a_write_that_fails_midway_keeps_nothing(store: ItemStore) -> None:
    def rows() -> Iterator[Any]:
        yield Interaction("ada", "a")
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        store.add_interactions(rows())
    broken = Interaction("ada", "b")
    object.__setattr__(broken, "user", None)  # no check lets this through, so the database has to refuse it
    with pytest.raises(StoreError):
        store.add_interactions([Interaction("ada", "a"), broken])
    with pytest.raises(TypeError):
        store.add_items([Item("a", "A"), Item("b", "B", metadata={"x": object()})])
    assert store.interactions() == []
    assert store.items() == []
    assert store.revision() == (0, 0, 0)
    store.add_interactions([Interaction("ada", "c")])
    assert [interaction.item for interaction in store.interactions(after=0)] == ["c"]
    assert store.interactions(after=1) == []  # the failed rows do not count


# -- imports --


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1", "cp1252", "shift_jis"])
def test_other_encodings_are_told_with_the_line(
    store: ItemStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], encoding: str
) -> None:
    title = "愛" if encoding == "shift_jis" else "Amélie"
    file = tmp_path / "items.csv"
    file.write_bytes(f"id,title\n1,Alien\n2,{title}\n".encode(encoding))
    done = run_import("items", file, store, capsys)
    assert done.code == 1
    assert f"line {1 if encoding.startswith('utf') else 3}: " in done.err
    assert "UTF-8" in done.err
    assert done.err.count("\n") == 1
    assert store.items() == []


def test_a_bad_line_imports_nothing(store: ItemStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store.add_items([Item("0", "before")])
    file = tmp_path / "items.jsonl"
    rows = [json.dumps({"id": n, "title": f"Item {n}"}) for n in range(3_000)]
    rows[2_990] = json.dumps({"id": 2_990, "title": ["no", "text"]})
    file.write_text("\n".join(rows))
    done = run_import("items", file, store, capsys)
    assert done.code == 1
    assert "line 2,991: title must be text" in done.err
    assert [item.title for item in store.items()] == ["before"]


def test_lines_that_repeat_an_id_are_told(store: ItemStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "items.csv"
    file.write_text("id,title\n1,Alien\n2,Heat\n1,Aliens\n")
    done = run_import("items", file, store, capsys)
    assert (done.code, done.out) == (0, "imported 2 items\n")
    assert "1 lines repeat an id" in done.err
    assert [item.title for item in store.items()] == ["Aliens", "Heat"]


@pytest.mark.parametrize(
    ("kind", "header", "missing", "columns"),
    [
        ("items", "id,titel", "'title'", "id, titel"),
        ("items", "number,words", "'id' and no column 'title'", "number, words"),
        ("interactions", "usr,item", "'user'", "usr, item"),
        ("interactions", "user,thing", "'item'", "user, thing"),
    ],
)
def test_a_missing_column_is_named(
    store: ItemStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    header: str,
    missing: str,
    columns: str,
) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(f"{header}\n1,2\n")
    done = run_import(kind, file, store, capsys)
    assert done.code == 1
    assert f"line 1: there is no column {missing}" in done.err
    assert columns in done.err


@pytest.mark.parametrize(
    ("kind", "header", "hint"),
    [
        ("items", "id,titel,year", "is 'titel' the title?"),
        ("items", "Idd;Titl", "is 'Idd' the id? is 'Titl' the title?"),
        ("interactions", "usr,item", "is 'usr' the user?"),
        ("interactions", "costumer,product_idd", "is 'costumer' the user? is 'product_idd' the item?"),
        ("interactions", "user,zzz", ""),
    ],
)
def test_a_misspelt_column_is_recognised(
    store: ItemStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, header: str, hint: str
) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(header + "\n" + ("1,2,3"[: 2 * header.count(",") + 1] if "," in header else "1;2") + "\n")
    done = run_import(kind, file, store, capsys)
    assert done.code == 1
    assert hint in done.err
    assert ("is '" in done.err) is bool(hint)
    assert "its columns are: " in done.err


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("7", "7"),
        ("Heat (1995)", "1"),
        (" heat ", "1"),
        ("HEAT", "1"),
        ("100% Wolf_!", "2"),
        ("100_ Wolf", None),
        ("%", None),
        ("Hea", None),
        ("", None),
        ("x" * 20_000, None),
        ("8", "3"),  # an id comes first, then a title
    ],
)
def test_items_are_found_by_id_or_title(store: ItemStore, name: str, id_: str | None) -> None:
    store.add_items([Item("1", "Heat (1995)"), Item("2", "100% Wolf_!"), Item("3", "8"), Item("7", "8 (1963)")])
    found = store.find_item(name)
    assert (found.id if found else None) == id_


def test_of_fitting_columns_the_plainest_is_taken(
    store: ItemStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "log.csv"
    file.write_text("username,User ID,Item-ID,Rating,Timestamp\nAda L.,u7,i9,4.5,1000\n")
    assert run_import("interactions", file, store, capsys).code == 0
    assert store.interactions() == [Interaction("u7", "i9", Interaction.weight_of_stars(4.5), 1000.0)]


def test_line_numbers_count_lines_inside_cells(
    store: ItemStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "items.csv"
    file.write_text('id,title,text\n1,Alien,"a\nb\nc"\n2,Heat,"d\ne"\n3,,"f\ng"\n')
    done = run_import("items", file, store, capsys)
    assert "line 7: the title is empty" in done.err


@pytest.mark.parametrize("kind", ["items", "interactions"])
def test_json_says_what_was_imported(
    store: ItemStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text('{"id": 7, "title": "Alien", "user": 1, "item": 7, "at": "2026-01-31"}\n')
    done = run_import(kind, file, store, capsys, "--json")
    more = {"scale": None, "for": 1, "against": 0} if kind == "interactions" else {}
    assert json.loads(done.out) == {"file": str(file), "imported": 1, "kind": kind, **more}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(
    content=st.one_of(
        st.binary(max_size=300),
        st.lists(st.lists(st.text(max_size=8), min_size=1, max_size=4).map(",".join)).map(
            lambda rows: ("id,title,user,item\n" + "\n".join(rows)).encode("utf-8", "replace")
        ),
        st.lists(st.dictionaries(st.sampled_from(["id", "title", "user", "item", "weight", "at"]),
                                 st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5))).map(
            lambda rows: "\n".join(map(json.dumps, rows)).encode()
        ),
    ),
    suffix=st.sampled_from(["", ".csv", ".jsonl", ".inter"]),
    kind=st.sampled_from(["items", "interactions"]),
)  # fmt: skip
@example(content=b"id,title\n1,a\rb\n", suffix=".csv", kind="items")
@example(content=b'{"user": "a", "item": "b", "at": 1e999}', suffix=".jsonl", kind="interactions")
@example(content=b'{"user": "a", "item": "b", "at": "9999-12-31T23:59:59-23:59"}', suffix=".jsonl", kind="interactions")
@example(content=b'{"user": "a", "item": "b", "weight": ' + b"9" * 5_000 + b"}", suffix=".jsonl", kind="interactions")
@example(content=b'{"user": "a", "item": "b", "at": ' + b"9" * 400 + b"}", suffix=".jsonl", kind="interactions")
@example(content=b'{"id": ' + b"9" * 5_000 + b', "title": "t"}', suffix=".jsonl", kind="items")
@example(content=b'{"id": "a", "title": "t", "metadata": {"x": NaN}}', suffix=".jsonl", kind="items")
def test_any_file_is_imported_or_one_error_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, suffix: str, kind: str
) -> None:
    file = tmp_path / f"file{suffix}"
    file.write_bytes(content)
    database = Database(tmp_path / "fuzz", "sqlite://")
    store = ItemStore(database)
    done = run_import(kind, file, store, capsys)
    n_stored = len(store.items()) + len(store.interactions())
    database.close()
    if done.code == 0:
        assert done.out.startswith("imported ")
        assert n_stored == int(done.out.split()[1].replace(",", "")) > 0
    else:
        assert done.code == 1
        assert n_stored == 0
        assert done.err.startswith("error: ")
        assert done.err.count("\n") == 1
        assert "Traceback" not in done.err
        assert "internal" not in done.err
