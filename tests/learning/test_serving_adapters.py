"""A damaged champion is replaced, and every answer says so, in every process, until somebody decides."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.scripted_learner import DRINKS, NAME, PLANTS, ask, learn, open_assistant, served_by

from smallai_assistant import Assistant


def damage(opened: Assistant, adapter_id: str) -> None:
    """Cuts a file of a version short, as a full disk does."""
    path = opened.adapters.get(adapter_id).folder / "table.json"
    path.write_bytes(path.read_bytes()[:10])


def notices(opened: Assistant) -> list[str]:
    return [notice.text for notice in opened.ask("what of tea", task=NAME).notices if notice.code == "adapter_damaged"]


def test_an_answer_says_that_its_version_is_damaged(opened: Assistant, tmp_path: Path) -> None:
    first, second = learn(opened, DRINKS), learn(opened, PLANTS)
    assert notices(opened) == []
    damage(opened, second)
    [text] = notices(opened)  # in the process that had checked it before
    assert second in text
    assert "table.json has changed" in text
    assert f"{first} answers instead" in text
    assert served_by(opened) == first
    assert ask(opened, "tell me rye") == PLANTS["rye"]  # what the version had taken over is in the fast memory again
    assert opened.ask("what of tea", task=NAME).turn.notices[-1].code == "adapter_damaged"
    with open_assistant(tmp_path) as other:
        assert notices(other) == [text]
        other.rollback(NAME, to=first)  # a person accepts it
        assert notices(other) == []
    assert notices(opened) == []


def test_a_damaged_version_is_found_at_the_start(opened: Assistant, tmp_path: Path) -> None:
    champion = learn(opened, DRINKS)
    damage(opened, champion)
    with open_assistant(tmp_path) as other:
        [text] = notices(other)
        assert "the bare model answers instead" in text
        assert "--to none" in text


def test_a_touched_file_is_hashed_again(opened: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    champion = learn(opened, DRINKS)
    verified = []
    real = opened.adapters.verify
    monkeypatch.setattr(opened.adapters, "verify", lambda name: (verified.append(name), real(name)))
    assert served_by(opened) == champion
    assert verified == []  # nothing was touched since it was checked
    os.utime(opened.adapters.get(champion).folder / "table.json")
    assert served_by(opened) == champion
    assert verified == [champion]
    assert notices(opened) == []


def test_a_champion_without_a_file_is_replaced(opened: Assistant) -> None:
    champion = learn(opened, DRINKS)
    (opened.adapters.get(champion).folder / "table.json").unlink()
    [text] = notices(opened)
    assert "table.json is missing" in text
    assert opened.adapters.damaged() == {champion: f"{champion}: table.json is missing"}
