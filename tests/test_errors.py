"""Errors: sentences for people, fields for programs."""

from __future__ import annotations

import pickle

import pytest

from smallai_assistant.errors import AssistantError, InvalidImage, InvalidInput, ModelNotFound, NearestName, nearest


def test_nearest_finds_the_similar_name() -> None:
    assert nearest("devise", ["models", "device"]) == NearestName("device", ("device", "models"))
    assert nearest("xyz", ["b", "a"]) == NearestName(None, ("a", "b"))


@pytest.mark.parametrize(
    ("near", "hint"),
    [
        (NearestName("device", ("device", "models")), "did you mean 'device'?"),
        (NearestName(None, ("a", "b")), "known: a, b"),
        (NearestName(None), "known: none"),
    ],
)
def test_the_hint_is_made_from_the_name(near: NearestName, hint: str) -> None:
    error = InvalidInput("there is no such key", hint=near)
    assert (error.hint, error.suggestion) == (hint, near.name)
    assert str(error) == f"there is no such key ({hint})"


def test_a_suggestion_makes_the_hint() -> None:
    assert InvalidInput("no such key", suggestion="device").hint == "did you mean 'device'?"
    own = InvalidInput("no such key", hint="see the list", suggestion="device")
    assert (own.hint, own.suggestion) == ("see the list", "device")


def test_the_class_has_a_general_hint() -> None:
    assert InvalidImage("bad").hint == InvalidImage.default_hint
    assert str(InvalidImage("bad", hint="")) == "bad"


def test_a_missing_model_can_be_pulled_by_name() -> None:
    error = ModelNotFound("it is not pulled", pull_name="whisper-base")
    assert error.hint == "get it with `smallai models pull whisper-base`"
    misspelt = ModelNotFound("there is no such model", hint=nearest("whisper-bse", ["whisper-base"]))
    assert (misspelt.suggestion, misspelt.pull_name) == ("whisper-base", None)


def test_an_error_as_json_has_the_fields() -> None:
    assert InvalidInput("wrong", suggestion="right").to_json() == {
        "code": "invalid_input",
        "message": "wrong",
        "hint": "did you mean 'right'?",
        "suggestion": "right",
    }
    row = ModelNotFound("it is not here", hint="get it", pull_name="starter").to_json()
    assert (row["code"], row["suggestion"], row["pull_name"]) == ("model_not_found", None, "starter")


@pytest.mark.parametrize("error", [ModelNotFound("a", pull_name="b"), AssistantError("a", hint="b", suggestion="c")])
def test_an_error_survives_pickling(error: AssistantError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (again.to_json(), str(again)) == (error.to_json(), str(error))
