"""What a request asks for. No model is loaded."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallai_recommend.query import Query, TitleFinder, parse_query

NAMES = [
    "Alien (1979)",
    "Aliens",
    "Matrix, The (1999)",
    "Big",
    "Heat",
    "Toy Story",
    "The Thing",
    "What to Watch",
    "Emma",
]


@pytest.fixture(scope="module")
def finder() -> TitleFinder:
    return TitleFinder(dict(enumerate(NAMES)), [1.0] * len(NAMES))


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("recommend something", Query()),
        ("What should I watch tonight?", Query()),
        ("a western for tonight", Query(text="western")),
        ("I'm in the mood for something scary, please", Query(text="scary")),
        ("recommend a film like Alien", Query(like=(0,))),
        ("recommend a film like ALIEN 1979", Query(like=(0,))),
        ("films similar to the matrix", Query(like=(2,))),
        ("I liked Alien and The Thing, what now?", Query(like=(0, 6))),
        ("I want to see a big heist", Query(text="big heist")),
        ("after Big", Query(like=(3,))),
        ("toy story", Query(like=(5,))),
        ("a comedy but no romance", Query(text="comedy", avoid="romance")),
        ("nothing too violent", Query(avoid="violent")),
        ("a good love story for the weekend", Query(text="love story")),
        ("a song I would love", Query()),
        ("I really love westerns", Query(text="westerns")),
        ("a comedy, no love stories", Query(text="comedy", avoid="love stories")),
        ("I do not love it", Query()),
        ("more of the same", Query(like_last=True)),
        ("something like the last one", Query(like_last=True)),
        ("", Query()),
        ("\0\ud800 ?!", Query()),
    ],
)
def test_a_request_is_parsed(finder: TitleFinder, text: str, query: Query) -> None:
    assert parse_query(text, finder) == query


@given(text=st.text(max_size=300))
def test_any_text_can_be_parsed(text: str) -> None:
    query = parse_query(text, TitleFinder({0: "Alien", 1: "", 2: "?!"}, [1.0, 1.0, 1.0]))
    assert set(query.like) <= {0}
    assert len(query.text) <= 300


def test_year_then_popularity_decides_between_equal_titles() -> None:
    names = ["Emma (1996)", "Emma (2020)"]
    found: Sequence[tuple[str, tuple[int, ...]]] = [
        ("like Emma", (1,)),
        ("like Emma 1996", (0,)),
        ("like Emma (1996)", (0,)),
    ]
    for text, like in found:
        assert parse_query(text, TitleFinder(dict(enumerate(names)), [1.0, 5.0])).like == like
