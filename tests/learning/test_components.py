"""Components of a version: each has its own gate, and one that fails is left out while the other is promoted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.scripted_learner import DRINKS, NAME, PLANTS, UNKNOWN, ask, open_assistant, questions, teach
from support.shelves import SHELF_OF, Shelves

from smallai_assistant import Assistant, Example, errors
from smallai_assistant.learning.evaluation import ReasonKind
from smallai_assistant.learning.report import ComponentReport, CycleReport
from smallai_assistant.learning.report_html import write_page

MORE_DRINKS = {"cocoa": "a sweet drink", "juice": "a drink of fruit"}
MORE_PLANTS = {"fern": "a plant without flowers", "moss": "a plant without roots"}


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Shelves:
    for shelf, words in (("drinks", MORE_DRINKS), ("plants", MORE_PLANTS)):
        for word in words:
            monkeypatch.setitem(SHELF_OF, word, shelf)
    return Shelves()


@pytest.fixture
def opened(tmp_path: Path, task: Shelves) -> Iterator[Assistant]:
    with open_assistant(tmp_path, task) as assistant:
        yield assistant


def found(report: CycleReport) -> dict[str, ComponentReport]:
    return {component.name: component for component in report.components}


def test_both_components_are_promoted(opened: Assistant, task: Shelves) -> None:
    drinks, plants = teach(opened, DRINKS), teach(opened, PLANTS)
    report = opened.learn(NAME)
    assert report.is_promoted
    assert [(row.name, row.component) for row in report.slices] == [
        ("new feedback", "drinks"),
        ("new feedback", "plants"),
        ("numbers", ""),
    ]
    assert {name: row.verdict for name, row in found(report).items()} == {"drinks": "approved", "plants": "approved"}
    assert {name: row.n_judged_turns for name, row in found(report).items()} == {"drinks": 16, "plants": 16}
    adapter = opened.adapters.get(report.adapter_id)
    learned = {component.name: set(component.feedback_ids) for component in adapter.components}
    assert learned["drinks"] < set(drinks)
    assert learned["plants"] < set(plants)
    assert set(adapter.feedback_ids) == learned["drinks"] | learned["plants"]
    assert set(adapter.files) == {"drinks/table.json", "plants/table.json"}
    assert task.memory == {}
    assert CycleReport.from_json(report.to_json()) == report


def test_a_component_that_fails_is_left_out(opened: Assistant, task: Shelves) -> None:
    task.deaf = {"plants"}
    drinks, plants = teach(opened, DRINKS), teach(opened, PLANTS)
    report = opened.learn(NAME)
    assert report.is_promoted
    assert [(row.name, row.component) for row in report.slices] == [("new feedback", "drinks"), ("numbers", "")]
    refused = found(report)["plants"]
    assert (refused.verdict, refused.is_included, refused.taken_from) == ("refused", False, None)
    assert [reason.kind for reason in refused.reasons if reason.kind != ReasonKind.KEPT] == [ReasonKind.NOT_SURE]
    adapter = opened.adapters.get(report.adapter_id)
    assert [component.name for component in adapter.components] == ["drinks"]
    assert set(adapter.files) == {"drinks/table.json"}
    assert set(adapter.feedback_ids) < set(drinks)
    assert not set(plants) & {*adapter.feedback_ids, *report.retired_ids, *report.held_out_ids}
    assert len(opened.adapters.versions(NAME)) == 1  # the candidate with both is gone
    assert task.memory == PLANTS  # they wait in the fast memory
    assert ask(opened, "what of tea") == DRINKS["tea"]
    text = report.summary()
    assert f"{report.adapter_id} (without plants) serves now." in text
    assert "plants: refused, and this version has none of them: 16 judged turns wait in the fast memory" in text
    assert "no sure improvement on new feedback (plants)" in text
    assert CycleReport.from_json(report.to_json()) == report

    # To the next cycle they are new, and what is learned already is taken over without another training.
    task.deaf = set()
    second = opened.learn(NAME)
    assert second.is_promoted
    assert task.trained == [{"drinks", "plants"}, {"plants"}]
    both = {component.name: component for component in opened.adapters.get(second.adapter_id).components}
    assert both["drinks"].taken_from == adapter.id
    assert both["drinks"].feedback_ids == adapter.components[0].feedback_ids
    assert both["plants"].taken_from is None
    assert task.memory == {}
    assert set(second.retired_ids) == {*drinks, *plants}
    assert f"drinks: not learned this time; what {adapter.id} learned of them serves on" in second.summary()


def test_the_page_names_components(opened: Assistant, task: Shelves, tmp_path: Path) -> None:
    task.deaf = {"plants"}
    teach(opened, DRINKS | PLANTS)
    report = opened.learn(NAME)
    write_page(report, tmp_path / "page.html", media_dir=tmp_path, serving_id=report.adapter_id)
    page = (tmp_path / "page.html").read_text()
    assert "<bdi>drinks: approved, from 16 judged turns</bdi>" in page
    assert "plants: refused, and this version has none of them" in page
    assert "no sure improvement on new feedback (plants)" in page
    assert "of <bdi>drinks</bdi> that it never saw" in page


def test_a_loss_is_that_of_the_component_that_answered(opened: Assistant, task: Shelves) -> None:
    task.forgets = {"plants": range(5)}
    teach(opened, DRINKS | PLANTS)
    report = opened.learn(NAME)
    assert report.is_promoted
    assert {name: row.verdict for name, row in found(report).items()} == {"drinks": "approved", "plants": "refused"}
    (lost,) = [reason.slice for reason in found(report)["plants"].reasons if reason.kind is ReasonKind.LOST]
    assert lost is not None
    assert (lost.name, lost.n, round(lost.change, 4)) == ("numbers", 100, -0.05)
    assert [row.change for row in report.slices if row.name == "numbers"] == [0.0]


def test_losses_that_pass_alone_but_not_together(opened: Assistant, task: Shelves) -> None:
    task.forgets = {"drinks": range(1), "plants": range(1, 2)}  # one point each
    teach(opened, DRINKS | PLANTS)
    report = opened.learn(NAME)
    assert report.is_promoted
    assert sorted(row.verdict for row in report.components) == ["approved", "refused"]
    assert [round(row.change, 4) for row in report.slices if row.name == "numbers"] == [-0.01]


def test_nothing_changes_if_all_components_fail(opened: Assistant, task: Shelves) -> None:
    task.deaf = {"drinks", "plants"}
    teach(opened, DRINKS | PLANTS)
    report = opened.learn(NAME)
    assert report.outcome == "refused"
    assert {row.verdict for row in report.components} == {"refused"}
    assert report.retired_ids == ()
    assert task.memory == DRINKS | PLANTS


def test_losses_and_gains_of_failing_components_do_not_balance(opened: Assistant, task: Shelves) -> None:
    # Each makes five numbers right that it should not touch: the whole would look unchanged.
    task.deaf = {"drinks", "plants"}
    task.forgets = {"drinks": range(5), "plants": range(5, 10)}
    teach(opened, DRINKS | PLANTS)
    assert opened.learn(NAME).outcome == "refused"


def test_a_refused_component_serves_on_as_it_was(opened: Assistant, task: Shelves) -> None:
    teach(opened, DRINKS | PLANTS)
    first = opened.learn(NAME)
    task.deaf = {"plants"}
    teach(opened, MORE_DRINKS | MORE_PLANTS)
    second = opened.learn(NAME)
    assert second.is_promoted
    row = found(second)["plants"]
    assert (row.verdict, row.is_included, row.taken_from) == ("refused", True, first.adapter_id)
    assert task.memory == MORE_PLANTS
    assert ask(opened, "what of oak") == PLANTS["oak"]
    assert ask(opened, "what of cocoa") == MORE_DRINKS["cocoa"]


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_damaged_files_are_not_taken_over(opened: Assistant, task: Shelves, damage: str) -> None:
    teach(opened, DRINKS | PLANTS)
    first = opened.adapters.get(opened.learn(NAME).adapter_id)
    teach(opened, MORE_DRINKS)
    file = first.folder / "plants" / "table.json"
    task.knobs.on_step = lambda _: file.write_text("{}") if damage == "changed" else file.unlink(missing_ok=True)
    with pytest.raises(errors.IntegrityError if damage == "changed" else errors.TrainingFailed, match=first.id):
        opened.learn(NAME)
    assert [version.id for version in opened.adapters.versions(NAME)] == [first.id]


def test_too_little_of_one_component_waits(opened: Assistant, task: Shelves) -> None:
    teach(opened, DRINKS)
    opened.teach(NAME, questions("oak")[0], PLANTS["oak"])
    report = opened.learn(NAME)
    assert report.is_promoted
    row = found(report)["plants"]
    assert (row.verdict, row.is_included, row.n_judged_turns) == ("waiting", False, 1)
    assert [reason.kind for reason in row.reasons] == [ReasonKind.TOO_LITTLE]
    assert row.reasons[0].n_missing > 0
    assert task.trained == [{"drinks"}]
    assert task.memory == {"oak": PLANTS["oak"]}


def test_too_little_of_every_component(opened: Assistant) -> None:
    opened.teach(NAME, questions("tea")[0], DRINKS["tea"])
    opened.teach(NAME, questions("oak")[0], PLANTS["oak"])
    with pytest.raises(errors.NotEnoughData) as caught:
        opened.learn(NAME)
    assert caught.value.n_missing


def test_what_learned_from_a_row_taken_back_is_trained_again(opened: Assistant, task: Shelves) -> None:
    teach(opened, DRINKS | PLANTS)
    first = opened.learn(NAME)
    learned = opened.adapters.get(first.adapter_id).components[1].feedback_ids
    opened.undo_feedback(learned[0])
    teach(opened, MORE_DRINKS)
    report = opened.learn(NAME)
    assert report.is_promoted
    assert task.trained[1] == {"drinks", "plants"}
    plants = opened.adapters.get(report.adapter_id).components[1]
    assert (plants.name, plants.taken_from, set(plants.feedback_ids)) == ("plants", None, set(learned[1:]))


def test_an_erasure_reaches_what_was_taken_over_only(opened: Assistant, task: Shelves) -> None:
    task.deaf = {"plants"}
    drinks, plants = teach(opened, DRINKS), teach(opened, PLANTS)
    first = opened.learn(NAME)
    assert opened.erase_feedback(plants[:1]).adapter_ids == ()  # it was left out
    task.deaf = set()
    second = opened.learn(NAME)
    assert second.is_promoted
    row = opened.adapters.get(first.adapter_id).feedback_ids[0]
    assert row in drinks
    erased = opened.erase_feedback([row])
    assert set(erased.adapter_ids) == {first.adapter_id, second.adapter_id}


def test_a_component_that_was_not_trained(opened: Assistant, task: Shelves) -> None:
    task.unwritten = {"plants"}
    teach(opened, DRINKS | PLANTS)
    report = opened.learn(NAME)
    assert report.is_promoted
    assert [reason.kind for reason in found(report)["plants"].reasons] == [ReasonKind.NOT_TRAINED]
    assert task.memory == PLANTS


def test_a_task_that_writes_no_component_fails(opened: Assistant, task: Shelves) -> None:
    task.unwritten = {"drinks", "plants"}
    (teach(opened, DRINKS | PLANTS))
    with pytest.raises(errors.TrainingFailed, match="no files into the folders of its components: drinks, plants"):
        opened.learn(NAME)


def test_components_are_cross_fitted(opened: Assistant, task: Shelves) -> None:
    task.is_cheap = True
    task.deaf = {"plants"}
    teach(opened, DRINKS | PLANTS)
    report = opened.learn(NAME)
    assert report.is_promoted
    assert {name: row.verdict for name, row in found(report).items()} == {"drinks": "approved", "plants": "refused"}
    assert task.memory == PLANTS
    task.deaf = set()
    second = opened.learn(NAME)
    assert second.is_promoted
    assert ask(opened, "what of tea") == DRINKS["tea"]
    assert ask(opened, "what of oak") == PLANTS["oak"]
    assert ask(opened, "what of fog") == UNKNOWN


@pytest.mark.parametrize("name", ["../plants", "/plants", "two words", "Plants", ".", "a" * 65])
def test_the_name_of_a_component_is_one_word(name: str) -> None:
    with pytest.raises(errors.InvalidInput, match="the component is"):
        Example("e", "what is tea", "a drink", "e", component=name)
