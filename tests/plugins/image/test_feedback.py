"""Labels in corrections of pictures."""

from __future__ import annotations

import unicodedata

import pytest

from smallai_assistant.errors import InvalidInput
from smallai_image.feedback import label_key, tidy_label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("llama", "llama"),
        ("No, it's a llama!", "llama"),
        ("This is an Egyptian  cat.", "Egyptian cat"),
        ("wrong: that’s the Eiffel Tower", "Eiffel Tower"),
        ("“my mug”", "my mug"),
        ("An apple", "apple"),
        ("thermos", "thermos"),
        ("theatre", "theatre"),
        ("a", "a"),
        ("No", "No"),
        ("猫", "猫"),
    ],
)
def test_label_is_found_in_a_correction(text: str, label: str) -> None:
    assert tidy_label(text) == label


@pytest.mark.parametrize("text", ["", "  ", "!?", "x" * 201, "word " * 4000, "\u202e", "a\u202eb"])
def test_text_that_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        tidy_label(text)


def test_label_key_ignores_case_and_spaces() -> None:
    assert label_key(" My  MUG") == "my mug"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Müsli", "mu\u0308sli"),
        ("ÅNGSTRÖM", "a\u030angstro\u0308m"),
        ("\u212bngström", "ångström"),
        ("Straße", "STRASSE"),
    ],
)
def test_label_key_ignores_how_accents_are_stored(one: str, other: str) -> None:
    assert label_key(one) == label_key(other)
    assert tidy_label(other) == unicodedata.normalize("NFC", other)
    assert label_key(one) != label_key("muesli")
