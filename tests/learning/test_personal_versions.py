"""A version for one person: trained on that person's feedback, over the shared one, and for nobody else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.adapters import flip_a_bit
from support.damage import files_with
from support.echo_learner import open_echo
from support.phrasebook import FILE, NAME, UNKNOWN, Phrasebook, ask, open_phrasebook, teach, version_for

from smallai_assistant import Assistant
from smallai_assistant.errors import InvalidInput, NotEnoughData
from smallai_assistant.learning.learner import CycleOptions
from smallai_assistant.learning.pruning import Limits

ANN, BOB, TEAM = (CycleOptions(audience=name) for name in ("user:ann", "user:bob", "group:team"))
SHARED = {"rye": "a grain", "oak": "a tree", "tide": "the sea"}
OWN = {"code": "tulip99", "desk": "number four", "oak": "my street"}


@pytest.fixture
def assistant(tmp_path: Path) -> Iterator[Assistant]:
    with open_phrasebook(tmp_path) as opened:
        yield opened


def learned(assistant: Assistant, options: CycleOptions | None = None) -> str:
    report = assistant.learn(NAME, options)
    assert report.is_promoted, report.summary()
    assert report.adapter_id is not None
    return report.adapter_id


def test_only_the_owner_is_answered_by_the_own_version(assistant: Assistant) -> None:
    teach(assistant, None, SHARED)
    shared = learned(assistant)
    teach(assistant, "ann", OWN)
    own = learned(assistant, ANN)
    assert assistant.adapters.get(own).audience == "user:ann"
    # "whisper" was never asked: no memory knows it, so the versions answer.
    assert ask(assistant, "ann", "whisper code") == "tulip99"
    assert version_for(assistant, "ann", "whisper code") == own
    for user in (None, "bob", "Ann"):
        assert ask(assistant, user, "whisper code") == UNKNOWN
        assert version_for(assistant, user, "whisper code") is None
    # What the own version was not taught, the shared one answers; of both the more personal answer counts.
    assert ask(assistant, "ann", "whisper rye") == "a grain"
    assert version_for(assistant, "ann", "whisper rye") == shared
    assert (ask(assistant, "ann", "whisper oak"), ask(assistant, "bob", "whisper oak")) == ("my street", "a tree")


def test_a_new_shared_version_serves_below_the_own_one(assistant: Assistant) -> None:
    teach(assistant, "ann", OWN)
    learned(assistant, ANN)
    assert ask(assistant, "ann", "whisper rye") == UNKNOWN
    teach(assistant, None, SHARED)
    learned(assistant)
    assert (ask(assistant, "ann", "whisper rye"), ask(assistant, "ann", "whisper code")) == ("a grain", "tulip99")
    assistant.rollback(NAME)
    assert (ask(assistant, "ann", "whisper rye"), ask(assistant, "ann", "whisper code")) == (UNKNOWN, "tulip99")


def test_a_rollback_and_a_promotion_move_one_audience(assistant: Assistant) -> None:
    teach(assistant, None, SHARED)
    shared = learned(assistant)
    teach(assistant, "ann", OWN)
    own = learned(assistant, ANN)
    assert assistant.rollback(NAME, audience="user:ann") is None
    assert version_for(assistant, "ann", "whisper oak") == shared
    assert ask(assistant, "ann", "say code") == "tulip99"  # the fast memory has taken over again
    with pytest.raises(InvalidInput, match="no adapter serves"):
        assistant.rollback(NAME, audience="user:ann")
    assistant.promote(own)
    assert ask(assistant, "ann", "whisper oak") == "my street"
    with pytest.raises(InvalidInput, match=r"for user:ann, not of phrasebook for everyone"):
        assistant.rollback(NAME, to=own)
    assert [entry["kind"] for entry in assistant.adapters.log(NAME, "user:ann")] == ["promote", "rollback", "promote"]
    assert [entry["kind"] for entry in assistant.adapters.log(NAME)] == ["promote"]


def test_a_group_has_versions_too(assistant: Assistant) -> None:
    teach(assistant, "cem", {**OWN, "key": "under the mat"}, audience="group:team")
    learned(assistant, TEAM)
    teach(assistant, "ann", {**OWN, "code": "lily"})
    learned(assistant, ANN)
    assert ask(assistant, "ann", "whisper code", groups=("team",)) == "lily"
    assert ask(assistant, "ann", "whisper key", groups=("team", "x")) == "under the mat"
    assert ask(assistant, "ann", "whisper key") == ask(assistant, "bob", "whisper key") == UNKNOWN


def test_an_own_version_learns_no_rows_of_others(assistant: Assistant) -> None:
    of_bob = teach(assistant, "bob", {"code": "of bob", "bike": "red", "pin": "1234"})
    of_all = teach(assistant, None, SHARED)
    of_ann = teach(assistant, "ann", OWN)
    own = assistant.adapters.get(learned(assistant, ANN))
    assert set(own.feedback_ids) <= set(of_ann)
    assert own.feedback_ids
    assert not {*of_bob, *of_all} & set(own.retired_ids)
    assert "of bob" not in (own.folder / FILE).read_text()


def test_what_the_own_version_answers_leaves_only_the_own_memory(assistant: Assistant, tmp_path: Path) -> None:
    teach(assistant, None, {"code": "see the manual", **SHARED})
    teach(assistant, "ann", OWN)
    own = learned(assistant, ANN)
    assert set(assistant.adapters.get(own).retired_ids)
    task = assistant.tasks[NAME]
    assert isinstance(task, Phrasebook)
    assert "say code" in task.memories.of(frozenset({"everyone"})).answers
    assert ask(assistant, "bob", "say code") == "see the manual"
    with open_phrasebook(tmp_path) as other:  # a rebuild from the database finds the same
        assert ask(other, "bob", "say code") == "see the manual"
        assert ask(other, "ann", "whisper code") == "tulip99"


def test_erased_feedback_takes_the_own_version_with_it(assistant: Assistant) -> None:
    teach(assistant, None, SHARED)
    shared = learned(assistant)
    ids = teach(assistant, "ann", OWN)
    own = learned(assistant, ANN)
    folder = assistant.adapters.get(own).folder
    row = next(name for name in ids if name in assistant.adapters.get(own).feedback_ids)
    erased = assistant.erase_feedback([row])
    assert (erased.adapter_ids, erased.serving, erased.audiences) == ((own,), {}, {own: "user:ann"})
    assert not folder.exists()
    assert version_for(assistant, "ann", "whisper oak") == shared


def test_nothing_is_left_of_a_person_who_is_forgotten(tmp_path: Path) -> None:
    with open_phrasebook(tmp_path) as own:
        teach(own, "ann OWNER", OWN)
        teach(own, "bob", OWN)
        kept = learned(own, BOB)
        gone = learned(own, CycleOptions(audience="user:ann OWNER"))
        erased = own.forget_user("ann OWNER")
        assert erased.adapter_ids == (gone,)
        assert [version.id for version in own.adapters.versions(NAME)] == [kept]
        assert own.adapters.log(NAME, "user:ann OWNER") == []
    assert files_with(tmp_path, b"OWNER") == []
    with open_phrasebook(tmp_path) as own:
        assert ask(own, "bob", "whisper code") == "tulip99"


def test_a_damaged_own_version_is_told_to_its_owner_alone(assistant: Assistant) -> None:
    teach(assistant, None, SHARED)
    learned(assistant)
    teach(assistant, "ann", OWN)
    own = learned(assistant, ANN)
    flip_a_bit(assistant.adapters.get(own).folder / FILE)

    def told(user: str) -> list[str]:
        response = assistant.ask("whisper rye", task=NAME, user_id=user)
        return [notice.text for notice in response.notices if notice.code == "adapter_damaged"]

    [text] = told("ann")
    assert own in text
    assert "--audience user:ann --to none" in text
    assert told("bob") == []
    assert len(told("ann")) == 1
    assert ask(assistant, "ann", "say code") == "tulip99"
    assistant.rollback(NAME, to="none", audience="user:ann")  # a person accepts it
    assert told("ann") == []


def test_pruning_one_audience_leaves_the_others(assistant: Assistant) -> None:
    teach(assistant, None, SHARED)
    shared = learned(assistant)
    mine = []
    for number in range(4):
        teach(assistant, "ann", {f"{word}{number}": answer for word, answer in (OWN | SHARED).items()})
        mine.append(learned(assistant, ANN))
    tomorrow = time.time() + 86_400.0
    assert assistant.adapters.prune(NAME, Limits(1, 1), now=tomorrow).ids == ()
    pruned = assistant.adapters.prune(NAME, Limits(1, 1), now=tomorrow, audience="user:ann")
    assert pruned.ids == tuple(mine[:2])
    # The champion and what a rollback goes to.
    assert [version.id for version in assistant.adapters.versions(NAME)] == [shared, *mine[2:]]
    assert assistant.adapters.previous_id(NAME, "user:ann") == mine[2]


def test_what_cannot_be_learned_for_one_person_is_refused(assistant: Assistant, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="names no person"):
        CycleOptions(audience="user")
    with pytest.raises(NotEnoughData):
        assistant.learn(NAME, ANN)
    with open_echo(tmp_path / "echo") as own, pytest.raises(InvalidInput, match="no versions for one person"):
        own.learn("echo", ANN)


def test_the_record_of_a_cycle_is_kept_by_audience(assistant: Assistant) -> None:
    teach(assistant, "ann", OWN)
    learned(assistant, ANN)
    with pytest.raises(NotEnoughData, match="18 rows are not for everyone"):
        assistant.learn(NAME)
    [status] = assistant.schedule.status(NAME)
    assert status.last is not None
    assert status.last.outcome == "too_little"
