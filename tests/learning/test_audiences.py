"""What is taught for one person or a group reaches nobody else: at once, after a restart, and from shared weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.echo_learner import Echo, open_echo

from smallai_assistant import Assistant, Feedback
from smallai_assistant.errors import InvalidInput, NotEnoughData


class Careless(Echo):
    """Does not say that it keeps apart what it learned for different people."""

    honours_audiences = False


@pytest.fixture
def assistant(tmp_path: Path) -> Iterator[Assistant]:
    with open_echo(tmp_path, Echo()) as own:
        yield own


def answer(assistant: Assistant, user: str | None, text: str = "my name?", groups: tuple[str, ...] = ()) -> str:
    return assistant.session(user, groups=groups).send(text).text


def correct(assistant: Assistant, user: str | None, right: str, *, text: str = "my name?", **more: Any) -> Any:
    return assistant.ask(text, user_id=user).rate(correction=right, **more)


def test_what_a_user_says_is_for_that_user_alone_unless_said_otherwise(assistant: Assistant) -> None:
    receipt = correct(assistant, "ann", "Ann")
    assert receipt.feedback.audience == "user"
    assert receipt.effect.startswith("For you alone: 'my name?'")
    assert answer(assistant, "ann") == "Ann"
    assert answer(assistant, "bob") == answer(assistant, None) == "my name?"


def test_without_a_user_it_is_for_everyone(assistant: Assistant) -> None:
    receipt = correct(assistant, None, "Ann")
    assert receipt.feedback.audience == "everyone"
    assert receipt.effect.startswith("'my name?'")
    assert answer(assistant, "bob") == answer(assistant, None) == "Ann"


def test_a_user_may_teach_everyone(assistant: Assistant) -> None:
    assert correct(assistant, "ann", "blue", audience="everyone").effect.startswith("For everyone: ")
    assert answer(assistant, "bob") == "blue"


def test_a_group_knows_what_is_for_the_group(assistant: Assistant) -> None:
    assert correct(assistant, "ann", "tulip", audience="group:berlin").effect.startswith("For the group berlin: ")
    assert answer(assistant, "bob", groups=("berlin", "x")) == "tulip"
    assert answer(assistant, "bob", groups=("paris",)) == answer(assistant, "ann") == "my name?"


def test_the_more_personal_answer_counts_whenever_it_was_said(assistant: Assistant) -> None:
    correct(assistant, "ann", "Ann")
    correct(assistant, "cem", "the team", audience="group:team")
    correct(assistant, "bob", "somebody", audience="everyone")
    assert answer(assistant, "ann", groups=("team",)) == "Ann"
    assert answer(assistant, "bob", groups=("team",)) == "the team"
    assert answer(assistant, "dan") == "somebody"


def test_who_judges_a_turn_of_another_person_teaches_the_own_memory(assistant: Assistant) -> None:
    turn = assistant.ask("my name?", user_id="ann").turn
    assistant.give_feedback(Feedback(turn.id, correction="Bob", source="bob"))
    assert answer(assistant, "ann") == "my name?"
    assert answer(assistant, "bob") == "Bob"


def test_what_was_taught_without_a_question_reaches_its_audience(assistant: Assistant) -> None:
    assistant.teach("echo", "wifi?", "tulip99", source="ann", audience="user")
    assistant.teach("echo", "color?", "red")
    assert (answer(assistant, "ann", "wifi?"), answer(assistant, "bob", "wifi?")) == ("tulip99", "wifi?")
    assert answer(assistant, "bob", "color?") == "red"


def test_a_restart_and_an_undo_keep_audiences_apart(tmp_path: Path) -> None:
    with open_echo(tmp_path, Echo()) as own:
        correct(own, "ann", "Ann")
        undone = correct(own, "bob", "Bob").feedback
    with open_echo(tmp_path, Echo()) as own:
        assert [answer(own, user) for user in ("ann", "bob", "cem")] == ["Ann", "Bob", "my name?"]
        own.undo_feedback(undone.id)
        assert [answer(own, user) for user in ("ann", "bob", "cem")] == ["Ann", "my name?", "my name?"]


def test_spellings_of_a_name_that_look_alike_are_one_person(assistant: Assistant) -> None:
    correct(assistant, "jose\u0301", "José")
    assert answer(assistant, "josé") == "José"


@pytest.mark.parametrize("audience", ["", "nobody", "group:", "group: ", "user:ann", 3])
def test_what_is_no_audience_is_refused(assistant: Assistant, audience: Any) -> None:
    with pytest.raises(InvalidInput, match=r"audience is|group is empty"):
        correct(assistant, "ann", "Ann", audience=audience)


def test_a_task_that_does_not_keep_audiences_apart_gets_only_what_is_for_everyone(tmp_path: Path) -> None:
    with open_echo(tmp_path, Careless()) as own:
        assert "cannot keep what it knows for some people only" in correct(own, "ann", "Ann").effect
        assert answer(own, "ann") == answer(own, "bob") == "my name?"
        correct(own, "ann", "everybody", audience="everyone")
        assert answer(own, "bob") == "everybody"
    with open_echo(tmp_path, Careless()) as own:
        assert answer(own, "bob") == "everybody"


def test_the_default_may_be_configured(tmp_path: Path) -> None:
    from support.echo_learner import OWN_PLUGINS
    from support.scripted import ScriptedPlugin

    with Assistant(
        data_dir=tmp_path,
        device="cpu",
        disabled_plugins=OWN_PLUGINS,
        learning={"default_audience": "group:lab"},
        plugins=[ScriptedPlugin(Echo())],
    ) as own:
        assert correct(own, "ann", "Ann").feedback.audience == "group:lab"
        assert answer(own, "bob", groups=("lab",)) == "Ann"


def test_a_shared_version_learns_no_personal_feedback(tmp_path: Path) -> None:
    with open_echo(tmp_path, Echo()) as own:
        for number in range(20):
            correct(own, "ann", f"SAY {number}", text=f"say {number}")
        with pytest.raises(NotEnoughData, match="20 rows are not for everyone"):
            own.learn("echo")


def test_what_three_people_say_alike_is_learned_and_named(tmp_path: Path) -> None:
    with open_echo(tmp_path, Echo()) as own:
        ids = {
            correct(own, user, f"SAY {number}", text=f"say {number}").feedback.id
            for number in range(20)
            for user in ("ann", "bob", "cem")
        }
        secret = correct(own, "ann", "SECRET", text="secret").feedback.id
        report = own.learn("echo")
        assert report.is_promoted
        assert report.feedback.n_personal == 1
        assert {agreement.people for agreement in report.feedback.agreements} == {("user:ann", "user:bob", "user:cem")}
        learned = set(own.adapters.get(report.adapter_id).feedback_ids)
        assert learned
        assert learned <= ids
        assert secret not in learned
        assert "SECRET" not in str(report.to_json())
