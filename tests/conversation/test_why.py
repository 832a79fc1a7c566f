"""Why an answer was given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.echo_learner import Echo, correct, open_echo

from smallai_assistant import Assistant, Session
from smallai_assistant.errors import InvalidInput


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Assistant]:
    with open_echo(tmp_path, Echo()) as assistant:
        yield assistant


def say(session: Session, text: str) -> str:
    return session.send(text, task="echo").turn.id


def test_it_names_the_feedback_and_the_bare_answer(own: Assistant) -> None:
    session = own.session("ann")
    first = session.send("hello", task="echo")
    given = first.rate(correction="HELLO").feedback
    again = session.send("hello", task="echo")
    assert again.text == "HELLO"
    found = again.why()
    (cause,) = found.causes
    assert (cause.feedback_id, cause.source, cause.audience) == (given.id, "ann", "user:ann")
    assert (cause.question, cause.right, cause.counts) == ("hello", "HELLO", True)
    assert (cause.similarity, cause.verdict) == (1.0, "the same words")
    assert (found.answer, found.bare_answer, found.adapter, found.notices) == ("HELLO", "hello", None, ())
    own.undo_feedback(given.id)
    assert not again.why().causes[0].counts


def test_nothing_was_used(own: Assistant) -> None:
    found = own.session().send("hello", task="echo").why()
    assert (found.causes, found.answer, found.bare_answer) == ((), "hello", "hello")


def test_the_version_that_answered_is_named_and_set_aside_for_the_bare_answer(own: Assistant) -> None:
    correct(own, 20)
    version = own.learn("echo").adapter_id
    session = own.session()
    response = session.send("say never", task="echo")
    assert response.text == "SAY NEVER"
    found = response.why()
    assert (found.adapter, found.bare_answer) == (version, "say never")
    assert session.send("say never", task="echo").text == "SAY NEVER"  # it serves on


def test_nobody_is_shown_what_is_not_for_them(own: Assistant) -> None:
    ann = own.session("ann")
    ann.send("hello", task="echo").rate(correction="HELLO")
    asked = say(ann, "hello")
    with pytest.raises(InvalidInput, match="another user"):
        own.session("bob").why(asked)
    with pytest.raises(InvalidInput, match="another user"):
        own.session().why(asked)
    with pytest.raises(InvalidInput, match="no turn"):
        ann.why("nothing")


def test_erased_feedback_is_counted_and_not_shown(own: Assistant) -> None:
    session = own.session("ann")
    given = session.send("hello", task="echo").rate(correction="HELLO").feedback
    asked = say(session, "hello")
    own.erase_feedback([given.id])
    found = session.why(asked)
    assert found.causes == ()
    assert [notice.code for notice in found.notices] == ["causes_hidden"]
