"""`smallai learn` and `smallai adapters` on a task that learns two things, of which the gate refuses one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command_line import Run
from support.scripted_learner import DRINKS, NAME, PLANTS, open_assistant, teach
from support.shelves import Shelves

from smallai_assistant import Assistant


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Assistant]:
    with open_assistant(tmp_path, Shelves(deaf={"plants"})) as assistant:
        teach(assistant, DRINKS | PLANTS)
        yield assistant


def test_learn_names_each_component(run: Run, own: Assistant) -> None:
    done = run("learn", NAME)
    champion = own.adapters.champion_id(NAME)
    assert done.code == 0, done
    assert f"{champion} (without plants) serves now." in done.out
    assert "drinks: approved, from 16 judged turns" in done.out
    assert "plants: refused, and this version has none of them: 16 judged turns wait in the fast memory" in done.out
    assert "no sure improvement on new feedback (plants)" in done.out


def test_components_as_json(run: Run, own: Assistant) -> None:
    row = run("learn", NAME, "--json").row
    drinks, plants = row["components"]
    assert (drinks["name"], drinks["verdict"], drinks["is_included"]) == ("drinks", "approved", True)
    assert (plants["name"], plants["verdict"], plants["is_included"]) == ("plants", "refused", False)
    assert plants["reason_details"][0]["kind"] == "not_sure"
    assert plants["slices"][0]["component"] == "plants"
    assert {found["component"] for found in row["slices"]} == {"drinks", ""}


def test_show_names_what_a_version_has(run: Run, own: Assistant) -> None:
    version = own.learn(NAME).adapter_id
    shown = run("adapters", "show", version).out
    assert "component drinks: 12 judged turns" in shown
    assert "plants: refused" in shown
    assert ", +100.0 points of drinks" in run("adapters", "list").out
    (component,) = run("adapters", "show", version, "--json").row["components"]
    assert (component["name"], component["taken_from"], len(component["feedback_ids"])) == ("drinks", None, 12)
