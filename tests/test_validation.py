"""Keys have one form; numbers and times are what every database gives back."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallai_assistant import Feedback, ImagePart, Interaction, InvalidInput, Item, JudgedTurn, Message, TextPart, Turn
from smallai_assistant.errors import InputTooLarge
from smallai_assistant.validation import canonical_key, check_range, check_said, check_time, fold_key

COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "Käfer"), unicodedata.normalize("NFD", "Käfer")


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        (DECOMPOSED, COMPOSED),
        (" Zoë\u00a0 Saldaña\n", "Zoë Saldaña"),
        ("\u2000a\u3000b", "a b"),
        ("Straße", "Straße"),  # case and letters are kept
        ("\u1112\u1161\u11ab", "\ud55c"),
    ],
)
def test_one_key_for_what_looks_alike(typed: str, key: str) -> None:
    assert canonical_key("label", typed) == key


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=60))
def test_a_folded_key_is_stable(text: str) -> None:
    assert fold_key(fold_key(text)) == fold_key(text)


@pytest.mark.parametrize("value", ["", "  ", "\u00a0", "a\0b", "\ud800", 7, None])
def test_what_is_no_key_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput):
        canonical_key("user", value)


def test_a_key_may_not_grow_over_its_limit() -> None:
    grows = "\ufb2c" * 200  # one character, three in NFC
    with pytest.raises(InputTooLarge):
        canonical_key("user", grows, 512)


def test_every_door_folds_its_keys() -> None:
    assert Interaction(f" {DECOMPOSED}", DECOMPOSED, at=1.0) == Interaction(COMPOSED, COMPOSED, at=1.0)
    assert Item(f"{DECOMPOSED} ", "t").id == COMPOSED
    given_ = Feedback("t", correction="a  b", source=f"{DECOMPOSED} ", signal="click", item=DECOMPOSED)
    assert (given_.source, given_.item, given_.correction) == (COMPOSED, COMPOSED, "a  b")


def turn_of(*parts: Any, **details: Any) -> Turn:
    return Turn("t", "s", None, "x", Message(parts), (), datetime.now(UTC), details=details)


def test_the_correction_of_a_picture_is_a_key() -> None:
    label = Feedback("t", correction=f"{DECOMPOSED}  ")
    picture = ImagePart(data=b"x")
    assert JudgedTurn(label, turn_of(picture, taught=True)).feedback.correction == COMPOSED
    text = JudgedTurn(label, turn_of(TextPart("q"), taught=True)).feedback
    assert text.correction == label.correction  # the white space of a text may mean something


@pytest.mark.parametrize(
    "at",
    [
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
        datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-14))),
        "2024-01-01",
        None,
    ],
)
def test_a_time_outside_of_the_calendar_is_refused(at: Any) -> None:
    with pytest.raises(InvalidInput):
        check_time("created_at", at)
    with pytest.raises(InvalidInput):
        Feedback("t", is_good=True, created_at=at)


def test_times_become_utc() -> None:
    here = datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    assert check_time("at", here) == here
    assert Feedback("t", is_good=True, created_at=here).created_at.tzinfo is UTC


@pytest.mark.parametrize(("days", "is_refused"), [(-365, False), (0.9, False), (1.1, True), (36_500, True)])
def test_nobody_speaks_in_the_future(days: float, is_refused: bool) -> None:
    now = datetime(2024, 5, 1, tzinfo=UTC)
    said = now + timedelta(days=days)
    if is_refused:
        with pytest.raises(InvalidInput, match="in the future"):
            check_said("created_at", said, now)
    else:
        check_said("created_at", said, now)


def test_a_number_must_fit_a_double() -> None:
    # Not as parameters: pytest writes those into the names of the tests, and Python refuses to write 5,000 digits.
    wrong: list[Any] = [10**400, -(10**5000), float("nan"), float("inf"), True, "1", [[]] * 3]
    for value in wrong:
        with pytest.raises(InvalidInput) as caught:
            check_range("stars", value, 1, 5)
        assert len(caught.value.message) < 200


def test_a_wrong_value_is_shown_in_part() -> None:
    deep: Any = []
    for _ in range(5_000):
        deep = [deep]
    for value in (deep, "x" * 10**6, 10**5000):
        with pytest.raises(InvalidInput) as caught:
            Feedback("t", is_good=True, source=value)  # type: ignore[arg-type]
        assert len(str(caught.value)) < 300


def test_a_path_is_no_key() -> None:
    with pytest.raises(InvalidInput, match="must be text"):
        canonical_key("user", Path("x"))  # type: ignore[arg-type]
