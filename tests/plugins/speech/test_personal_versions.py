"""Speech puts the words and the weights of a person's version over those of everyone's."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from smallai_assistant import Adapter
from smallai_speech.pipeline import Learned
from smallai_speech.vocabulary import Entry, Vocabulary, write_vocabulary


def version(folder: Path, kind: str, *words: str, over: Adapter | None = None) -> Adapter:
    folder.mkdir()
    if words:
        write_vocabulary(folder, Vocabulary(tuple(Entry(word) for word in words)))
    return Adapter(folder.name, "automatic-speech-recognition", kind, folder, {}, {}, datetime.now(UTC), over=over)


def words_of(learned: Learned) -> list[str]:
    vocabulary = learned.words()
    assert vocabulary is not None
    return [entry.word for entry in vocabulary.entries]


def test_the_own_spelling_wins_and_no_word_of_everyone_is_lost(tmp_path: Path) -> None:
    shared = version(tmp_path / "shared", "vocabulary", "Kelmatrin", "Plexidyne")
    own = version(tmp_path / "own", "vocabulary", "KELMATRIN", "Zorvex", over=shared)
    assert sorted(words_of(Learned(own))) == ["KELMATRIN", "Plexidyne", "Zorvex"]
    memory = Vocabulary((Entry("ZORVEX"),))
    assert sorted(words_of(Learned(own, memory))) == ["KELMATRIN", "Plexidyne", "ZORVEX"]
    assert Learned().words() is None


def test_weights_come_from_the_first_version_that_has_some(tmp_path: Path) -> None:
    shared = version(tmp_path / "shared", "lora")
    words_only = version(tmp_path / "own", "vocabulary", "Zorvex", over=shared)
    assert Learned(words_only).weights() == shared
    both = version(tmp_path / "both", "lora+vocabulary", "Zorvex", over=shared)
    assert Learned(both).weights() == both
    assert Learned(replace(words_only, over=None)).weights() is None
