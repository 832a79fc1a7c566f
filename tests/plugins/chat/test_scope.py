"""The scope of an adapter: which questions it answers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.dialogue import adapter_in

from smallai_assistant import Adapter, errors
from smallai_chat.scope import Scope, Scopes


class FirstLetterModel:
    """An embedding model under which texts with the same first letter mean the same."""

    def embed(self, texts: Sequence[str]) -> Any:
        return np.stack([np.eye(8, dtype=np.float32)[ord(text[0]) % 8] for text in texts])


def scopes(name: str = "first-letter") -> Scopes:
    return Scopes(lambda: nullcontext(FirstLetterModel()), lambda: {"model": name})  # type: ignore[arg-type, return-value]


def weights_for(adapter: Adapter | None, questions: Sequence[str]) -> list[Adapter | None]:
    return [route.adapter for route in scopes().routes(adapter, questions)]


def test_base_answers_outside_the_scope(tmp_path: Path) -> None:
    adapter = adapter_in(tmp_path)
    assert weights_for(None, ["at", "bo"]) == [None, None]
    assert weights_for(adapter, ["at", "bo"]) == [adapter, adapter]  # no scope file: every question
    # The scope of an older adapter has vectors only, and goes by their similarity.
    replace(scopes().of_questions(["as taught", "cup"]), questions=()).save(tmp_path)
    assert weights_for(adapter, ["at", "bo", "cat"]) == [adapter, None, adapter]
    assert weights_for(adapter, []) == []
    with_ratings = replace(adapter, files={"adapter.bin": "", "elsewhere/adapter.bin": ""})
    found = weights_for(with_ratings, ["bo", "cat"])
    assert [(chosen.id, chosen.part_name) if chosen else None for chosen in found] == [("a1", "elsewhere"), ("a1", "")]


def test_each_component_answers_its_questions(tmp_path: Path) -> None:
    (tmp_path / "corrections").mkdir()
    scopes().of_questions(["Where is the red boat?"]).save(tmp_path / "corrections")
    asked = ["Where is the red boat?", "Who owns the mill?"]

    def parts(*names: str) -> list[str | None]:
        adapter = replace(adapter_in(tmp_path), files={f"{name}/adapter.bin": "" for name in names})
        return [chosen.part_name if chosen else None for chosen in weights_for(adapter, asked)]

    assert parts("corrections", "ratings") == ["corrections", "ratings"]
    assert parts("corrections") == ["corrections", None]
    shutil.rmtree(tmp_path / "corrections")
    assert parts("ratings") == ["ratings", "ratings"]


def test_scope_decides_by_its_questions(tmp_path: Path) -> None:
    adapter = adapter_in(tmp_path)
    scopes().of_questions(["Where is the red boat?", "Who owns the mill?"]).save(tmp_path)
    asked = ["where is the red boat", "Where is the blue boat?", "What is it?"]
    assert weights_for(adapter, asked) == [adapter, None, None]
    loaded = Scope.load(tmp_path)
    assert loaded is not None
    assert loaded.questions == ("Where is the red boat?", "Who owns the mill?")
    # Measured once: what the similarities of the model mean is stored with the scope.
    assert list(loaded.calibration.as_json()) == ["en"]


def test_a_question_in_the_scope_is_asked_in_the_words_that_were_trained(tmp_path: Path) -> None:
    long = "Where is the red boat of the harbour master? " * 20
    scopes().of_questions(["Where is the red boat?", "Who owns the mill?", long]).save(tmp_path)
    asked = ["Tell me where the red boat is.", "Where is the blue boat?", long]
    found = scopes().routes(adapter_in(tmp_path), asked)
    assert [route.question for route in found] == ["Where is the red boat?", "Where is the blue boat?", long]
    assert [route.adapter is None for route in found] == [False, True, False]


def test_scope_of_another_embedding_model_is_refused(tmp_path: Path) -> None:
    scopes("another").of_questions(["as taught"]).save(tmp_path)
    with pytest.raises(errors.AdapterMismatch, match="'another', and 'first-letter' is configured") as caught:
        scopes().routes(adapter_in(tmp_path), ["at"])
    assert caught.value.hint == "learn again"


def test_damaged_scope_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scope.safetensors").write_bytes(b"no scope")
    with pytest.raises(errors.AdapterMismatch, match="not a scope"):
        scopes().routes(adapter_in(tmp_path), ["at"])
