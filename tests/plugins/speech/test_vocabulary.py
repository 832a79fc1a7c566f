"""A personal vocabulary: how words sound, what corrections teach, and what the text alone tells."""

from __future__ import annotations

import json
from pydoc_data import topics
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.speech import JARGON

from bench.data import librivox
from smallai_speech.corrections import compare
from smallai_speech.memory import TranscriptPair, vocabulary_of
from smallai_speech.ordinary import is_distinctive, is_ordinary
from smallai_speech.phonetics import similarity
from smallai_speech.receipt import Changes, changes_of
from smallai_speech.vocabulary import Entry, Vocabulary, entries_of


def taught(heard: str, right: str) -> Vocabulary:
    """The vocabulary of one correction."""
    return vocabulary_of([TranscriptPair(heard, right)])


def words(vocabulary: Vocabulary) -> dict[str, tuple[str, ...]]:
    return {entry.word: entry.heard for entry in vocabulary.entries}


# -- how words sound, and which are ordinary --


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Plexidyne", "plexy dine"),
        ("Kelmatrin", "Kelma-Tren"),
        ("Phisher", "Fisher"),
        ("Quandrel", "Kwandrel"),
        ("Ångström", "Angstrom"),
        ("O'Neil", "Oneil"),
    ],
)
def test_spellings_of_the_same_sounds(first: str, second: str) -> None:
    assert similarity(first, second) > 0.95


def test_twin_consonants_are_nearer() -> None:
    assert similarity("Bordex", "Pordex") > similarity("Bordex", "Kordex") > similarity("Bordex", "table")
    assert similarity("", "Zorvex") == similarity("Zorvex", "...") == 0.0


@pytest.mark.parametrize(
    "word", ["the", "planned", "tried", "running", "boxes", "London", "1984", "well-known", "she's"]
)
def test_ordinary_words(word: str) -> None:
    assert is_ordinary(word)
    assert not is_distinctive(word, begins_sentence=True)


@pytest.mark.parametrize("word", ["Zorvex", "Kubernetes", "kubectl", "mitochondria"])
def test_uncommon_words(word: str) -> None:
    assert is_distinctive(word, begins_sentence=True)


# -- what a correction says --


@pytest.mark.parametrize(
    ("heard", "right", "learned"),
    [
        ("He runs more next daily.", "He runs Zorvex daily.", {"Zorvex": ("more next",)}),
        ("Ask Kelma Tren, sir.", "Ask Kelmatrin, sir.", {"Kelmatrin": ("kelma tren",)}),
        ("Is it a form or one rule?", "Is it a Phorm or Quandrel?", {"Phorm": ("form",), "Quandrel": ("one rule",)}),
        ("I like zorvex.", "I like ZorVex.", {"ZorVex": ()}),  # the user's spelling counts
        ("It is on git hub.", "It is on GitHub.", {"GitHub": ("git hub",)}),
        ("He went too far.", "He went to far.", {}),  # an ordinary word teaches nothing
        ("Colour of the day.", "Color of the day.", {}),
        ("He runs Zorvex daly.", "He runs Zorvex daily.", {"Zorvex": ()}),  # right this time, and worth knowing
        ("more next", "Zorvex", {"Zorvex": ("more next",)}),
        ("", "Tell Zorvex about it.", {"Zorvex": ()}),  # taught, never heard
        ("Good morning.", "Good morning.", {}),
    ],
)  # fmt: skip
def test_what_a_correction_teaches(heard: str, right: str, learned: dict[str, tuple[str, ...]]) -> None:
    assert words(taught(heard, right)) == learned


def test_another_transcript_teaches_nothing() -> None:
    heard = "We met in the garden and had tea with the neighbours until late."
    right = "Zorvex Kelmatrin quarterly figures show Brixolume gaining on Talvorin despite Osquith headwinds abroad."
    assert compare(heard, right).pairs == []


@pytest.mark.timeout(60)  # a watchdog: without bounds on the work these would take minutes
@pytest.mark.parametrize(
    "right", ["a " * 10_000, "Zorvex " * 2_800, "x" * 20_000, "🎈" * 5_000, "\n\n\n", "й" * 20_000]
)
def test_nonsense_teaches_few_words(right: str) -> None:
    vocabulary = taught("He has been working on it for years. " * 300, right)
    assert len(vocabulary.entries) <= 50


def test_the_last_spelling_counts() -> None:
    vocabulary = vocabulary_of(
        [
            TranscriptPair("Ask more next.", "Ask zorvex."),
            TranscriptPair("Ask norm x.", "Ask Zorvex."),
            TranscriptPair("Ask norm x.", "Ask Zorvex."),
        ]
    )
    assert words(vocabulary) == {"Zorvex": ("norm x", "more next")}


def test_a_veto_lasts() -> None:
    first = TranscriptPair("There is carbon in it.", "There is Cobrant in it.")
    before = vocabulary_of([first])
    after = vocabulary_of([first, TranscriptPair("We burn Cobrant here.", "We burn carbon here.")])
    assert before.suspects("We burn carbon.")
    assert not [suspect for suspect in after.suspects("We burn carbon.") if suspect.start == 8 and suspect.end == 14]
    assert changes_of(before, after) == Changes(freed=(("carbon", "Cobrant"),))


def test_what_a_correction_taught_is_said() -> None:
    found = changes_of(Vocabulary(), taught("Ask Kelma Tren or one rule.", "Ask Kelmatrin or Quandrel."))
    assert found == Changes(learned=(("Kelmatrin", "kelma tren"), ("Quandrel", "one rule")))


# -- the text alone --


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        ("Ask Zorbex, now.", "Ask Zorvex, now."),
        ("Ask Kelma Tren today", "Ask Kelmatrin today"),  # a learned form that holds an uncommon word
        ("the Trastokan.", "the Trastoken."),
        ("A ZORVEX!", "A Zorvex!"),
    ],
)
def test_near_misses_are_put_right(text: str, repaired: str) -> None:
    assert JARGON.repair(text) == repaired


PARAGRAPHS = [
    paragraph for text in topics.topics.values() for paragraph in text.split("\n\n") if len(paragraph.split()) > 8
]


@given(st.sampled_from(PARAGRAPHS))
@settings(max_examples=60, deadline=None)
def test_ordinary_text_is_never_touched(paragraph: str) -> None:
    """Python's own manual, in English, holds words that jargon is mistaken for: `object`, `class`, `method`."""
    kept = " ".join(word for word in paragraph.split() if is_ordinary(word.strip("\"'`*.,:;()[]")))
    assert JARGON.repair(kept) == kept


def test_misheard_forms_of_ordinary_words_stay() -> None:
    for entry in JARGON.entries:
        for form in entry.heard:
            if all(is_ordinary(word) for word in form.split()):
                assert JARGON.repair(f"We talked about {form} again.") == f"We talked about {form} again."


def test_a_vocabulary_is_read_as_it_was_written() -> None:
    vocabulary = entries_of(
        [("Zorvex", "more next"), ("Ångström", "")], [("Zorvex", "vortex")], attested=frozenset({"x"})
    )
    assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary


@pytest.mark.parametrize(
    "values", [{}, {"words": [1], "attested": []}, {"words": [], "attested": [None]}, {"words": 3}]
)
def test_a_malformed_vocabulary(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="vocabulary"):
        Vocabulary.from_json(values)


def test_few_words_are_compared_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """The edit distance is slow: the quick test before it must rule out most words."""
    vocabulary = Vocabulary(
        tuple(Entry(f"{a}{b}{c}ex") for a in "BDGKLMNPRST" for b in "aeiou" for c in ("lt", "rv", "nd"))
    )
    compared: list[str] = []

    def counted(first: str, second: str) -> float:
        compared.append(first)
        return similarity(first, second)

    monkeypatch.setattr("smallai_speech.vocabulary.similarity", counted)
    text = librivox()[0][1] * 4
    vocabulary.suspects(text)
    n_spans = 4 * len(text.split())
    assert 0 < len(compared) < 0.5 * n_spans * len(vocabulary.entries)
