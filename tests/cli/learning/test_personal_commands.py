"""`smallai learn --audience` and `smallai adapters` with versions for one person."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command_line import Run
from support.phrasebook import NAME, ask, open_phrasebook, teach

from smallai_assistant import Assistant

SHARED = {"rye": "a grain", "oak": "a tree", "tide": "the sea"}
OWN = {"code": "tulip99", "desk": "number four", "oak": "my street"}


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Assistant]:
    with open_phrasebook(tmp_path / "data") as assistant:
        yield assistant


def test_a_version_of_ones_own_from_learn_to_forget(run: Run, own: Assistant) -> None:
    teach(own, None, SHARED)
    teach(own, "ann", OWN)
    assert run("learn", NAME, "--json").row["outcome"] == "promoted"
    report = run("learn", "--audience", "user:ann", "--json").row
    assert (report["task"], report["outcome"]) == (NAME, "promoted")
    mine = report["adapter_id"]
    assert ask(own, "ann", "whisper code") == "tulip99"

    rows = run("adapters", "list", "--json").rows
    assert [(row["audience"], row["is_serving"]) for row in rows] == [("everyone", True), ("user:ann", True)]
    assert [row["id"] for row in run("adapters", "list", "--audience", "user:ann", "--json").rows] == [mine]
    assert ", for ann alone" in run("adapters", "list").out.splitlines()[-1]
    assert "for: ann alone" in run("adapters", "show", mine).out

    turn = own.ask("whisper code", task=NAME, user_id="ann").turn.id
    assert f"The version {mine} of {NAME}, which learned for ann alone, answered." in run("why", turn).out

    back = run("adapters", "rollback", NAME, "--audience", "user:ann")
    assert back.out == f"{NAME} for ann alone: what serves everyone serves now\n"
    again = run("adapters", "promote", mine, "--json").row
    assert again == {"task": NAME, "audience": "user:ann", "before": None, "serves": mine}
    assert run("adapters", "prune").out.count("0 removed") == 2

    erased = run("users", "forget", "ann")
    assert f"{mine} for ann alone learned from it and served until now: it is deleted" in erased.out
    assert "serves" not in erased.out.replace("served", "")
    assert [row["audience"] for row in run("adapters", "list", "--json").rows] == ["everyone"]


def test_the_status_names_who_may_learn(run: Run, own: Assistant) -> None:
    teach(own, "ann", OWN | SHARED)
    assert "enough for a cycle of their own: 1 (user:ann)" in run("learn", "--status").out
    shown = run("learn", "--status", "--audience", "user:ann").out
    assert f"{NAME} for ann alone" in shown
    assert "serves: what serves everyone" in shown
    assert f"smallai learn {NAME} --audience user:ann" in shown
    assert run("learn", "--status", "--json").row["due"] == ["user:ann"]


@pytest.mark.parametrize("whom", ["user", "ann", "group: "])
def test_what_is_no_audience_is_refused(run: Run, whom: str) -> None:
    assert run("learn", NAME, "--audience", whom).code == 2
