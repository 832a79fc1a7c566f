"""A person who is forgotten leaves nothing: no text, no name, no memory, no weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.damage import files_with
from support.echo_learner import Echo, correct, open_echo

from smallai_assistant import ImagePart, Interaction
from smallai_assistant.errors import InvalidInput

PICTURE = b"\x89PNG\r\n\x1a\n" + b"PICTURE-BYTES" * 99


def test_nothing_of_the_person_stays(tmp_path: Path) -> None:
    with open_echo(tmp_path, Echo()) as own:
        session = own.session("ann OWNER")
        session.send("SECRET question", task="echo").rate(correction="SECRET answer", comment="SECRET comment")
        session.send(ImagePart(data=PICTURE), task="echo").rate(correction="SECRET label")
        on_another = own.ask("shared", task="echo", user_id="bob")
        own.session("ann OWNER").give_feedback(on_another.turn.id, correction="SECRET opinion")
        own.teach("echo", "SECRET fact", "SECRET", source="ann OWNER", audience="user")
        own.items.add_interactions([Interaction("ann OWNER", "SECRET item"), Interaction("bob", "item")])
        erased = own.forget_user("ann  OWNER")
        assert (len(erased.feedback_ids), len(erased.turn_ids), erased.n_interactions) == (4, 3, 1)
        asked = own.ask("SECRET fact", task="echo", user_id="ann")
        assert asked.text == "SECRET fact"
        own.erase_turns([asked.turn.id])  # `turn` waits until it is stored
        assert [row["id"] for row in own.store.users()] == ["bob"]
        assert [row.user for row in own.items.interactions()] == ["bob"]
        assert own.ask("shared", task="echo", user_id="bob").text == "shared"
    assert files_with(tmp_path, b"SECRET", b"OWNER", b"PICTURE-BYTES") == []


def test_shared_versions_that_learned_from_the_person_go(tmp_path: Path) -> None:
    with open_echo(tmp_path, Echo()) as own:
        correct(own, 20, source="ann")
        version = own.learn("echo").adapter_id
        erased = own.forget_user("ann")
        assert erased.adapter_ids == erased.champions == (version,)
        assert erased.serving == {"echo": None}
        assert own.ask("say 1", task="echo").text == "say 1"


def test_a_repetition_finds_nothing(tmp_path: Path) -> None:
    with open_echo(tmp_path, Echo()) as own:
        own.ask("hello", task="echo", user_id="ann").rate(good=True)
        assert own.forget_user("ann").feedback_ids
        again = own.forget_user("ann")
        assert (again.feedback_ids, again.turn_ids, again.n_interactions) == ((), (), 0)
        with pytest.raises(InvalidInput):
            own.forget_user(" ")
