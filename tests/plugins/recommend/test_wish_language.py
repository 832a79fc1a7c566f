"""Wishes in other languages than English. No model is loaded."""

from __future__ import annotations

import pytest

from smallai_assistant import Item
from smallai_recommend.catalogue import Catalogue
from smallai_recommend.interactions import InteractionStats
from smallai_recommend.query import TitleFinder, doubtful_words, parse_query

VOCABULARY = frozenset(["western", "vampire", "jazz", "cooking"])


@pytest.mark.parametrize(
    ("wish", "language", "wanted", "unwanted", "doubtful"),
    [
        ("bitte keinen Western", "German", "", "Western", ()),
        ("Vampire mag ich nicht", "German", "", "Vampire", ()),
        ("Vampirefilme bitte nicht", "German", "", "Vampirefilme", ()),
        ("nicht nur Jazz", "German", "Jazz", "", ()),
        ("ohne Western oder Vampire", "German", "", "Western Vampire", ()),
        ("je n’aime pas les westerns", "French", "", "westerns", ()),
        ("du jazz mais sans vampire", "French", "jazz", "vampire", ()),
        ("no me gusta el jazz", "Spanish", "", "jazz", ()),
        ("niente western, grazie", "Italian", "", "western", ()),
        ("não quero western", "Portuguese", "", "western", ()),
        ("iets met jazz maar geen western", "Dutch", "jazz", "western", ()),
        ("poproszę western bez vampire", "Polish", "poproszę western", "vampire", ("poproszę",)),
        ("без jazz пожалуйста", "Russian", "", "jazz", ()),
        ("ohne Gedöns", "German", "", "Gedöns", ("gedöns",)),
        # In a language without a table, a word beside the known one may turn it round.
        ("western olmasın", "", "western olmasın", "", ("olmasın",)),
        # English, and words that only look foreign.
        ("a western about sin", "English", "western about sin", "", ()),
        ("no western", "English", "", "western", ()),
        ("non-fiction", "", "non-fiction", "", ()),
        ("die hard", "", "die hard", "", ()),
        ("vampire western", "", "vampire western", "", ()),
    ],
)
def test_wishes_of_many_languages(
    wish: str, language: str, wanted: str, unwanted: str, doubtful: tuple[str, ...]
) -> None:
    query = parse_query(wish, TitleFinder({}, []))
    assert (query.language, query.text, query.avoid) == (language, wanted, unwanted)
    assert doubtful_words(query, lambda: VOCABULARY) == doubtful


def test_decomposed_titles_are_found() -> None:
    finder = TitleFinder({0: "Ame\u0301lie"}, [1.0])
    assert parse_query("like Am\u00e9lie", finder).like == (0,)
    assert parse_query("like Ame\u0301lie", TitleFinder({0: "Am\u00e9lie"}, [1.0])).like == (0,)


def test_the_vocabulary_is_of_titles_and_texts() -> None:
    items = [Item("1", "Über Wölfe", "a WESTERN")]
    assert Catalogue.of(items, InteractionStats()).vocabulary == {"über", "wölfe", "a", "western"}
