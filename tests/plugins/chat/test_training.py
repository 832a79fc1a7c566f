"""Learning cycles of dialogue, on a tiny random model: it learns nothing useful, but every step runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.dialogue import TASK, ask
from support.tiny_text import save_tiny_llama

from smallai_assistant import Assistant, AssistantConfig
from smallai_assistant.config import ModelsConfig
from smallai_assistant.learning.learner import CycleOptions


@pytest.fixture
def tiny(models_dir: Path, tmp_path: Path) -> Iterator[Assistant]:
    folder = save_tiny_llama(tmp_path / "tiny", context=1024)
    models = ModelsConfig(chat=str(folder), chat_quantization="none")
    config = AssistantConfig(data_dir=tmp_path / "data", models_dir=models_dir, device="cpu", models=models)
    with Assistant(config) as opened:
        yield opened


@pytest.mark.slow
def test_cycle_trains_evaluates_serves_and_rolls_back(tiny: Assistant) -> None:
    for number in range(3):
        tiny.teach(TASK, f"What is the number of room {number}?", str(number))
    ask(tiny, "Where is the boat?", max_tokens=4).rate(correction="in the harbour")
    # Without the correction this is a protected question and a reference prompt.
    ask(tiny, "What is the capital of France?", max_tokens=4).rate(correction="the city of Paris")
    # Turns are split by random ids: twenty ratings give enough of both kinds on both sides.
    for number in range(20):
        response = ask(tiny, f"Say something about {number}.", max_tokens=4)
        if response.text:
            response.rate(good=number % 2 == 0)
    report = tiny.learn(TASK)
    assert report.training.losses
    assert {found.name for found in report.slices} >= {"general knowledge", "plain language", "unrelated questions"}
    assert report.reasons
    adapter = tiny.adapters.get(report.adapter_id)
    assert adapter.kind == "lora"
    assert json.loads((adapter.folder / "adapter_config.json").read_text())["r"] == 16
    weights = {"adapter_config.json", "adapter_model.safetensors"}
    assert set(adapter.files) == weights | {f"elsewhere/{weight}" for weight in weights} | {"scope.safetensors"}
    if not report.is_promoted:
        tiny.promote(report.adapter_id, force=True)
    for question in ("Hello?", "Where is the boat?"):  # outside the scope, and inside
        served = ask(tiny, question, max_tokens=4)
        assert served.details["adapter"] == adapter.id
        assert served.turn.adapter == adapter.id
    tiny.rollback(TASK)
    assert ask(tiny, "Hello?", max_tokens=4).turn.adapter is None


@pytest.mark.slow
def test_corrections_change_nothing_outside_their_scope(tiny: Assistant) -> None:
    for number in range(4):
        tiny.teach(TASK, f"What is the number of room {number}?", str(number))
    before = ask(tiny, "Hello?", max_tokens=4).text
    report = tiny.learn(TASK, options=CycleOptions(promote=False))
    adapter = tiny.adapters.get(report.adapter_id)
    assert set(adapter.files) == {"adapter_config.json", "adapter_model.safetensors", "scope.safetensors"}
    tiny.promote(adapter.id, force=True)
    outside = ask(tiny, "Hello?", max_tokens=4)
    assert (outside.turn.adapter, outside.text) == (None, before)
    assert ask(tiny, "What is the number of room 2?", max_tokens=4).turn.adapter == adapter.id
    protected = {found.name: found for found in report.slices if found.name != "new feedback"}
    assert protected["plain language"].change == 0.0


@pytest.mark.slow
def test_adapter_of_another_model_is_not_used(tiny: Assistant) -> None:
    with tiny.adapters.work_folder() as work:
        (work / "adapter_config.json").write_text("{}")
        adapter = tiny.adapters.add(work, task=TASK, kind="lora", base={"model": "another"})
    tiny.adapters.promote(adapter.id, force=True)
    response = ask(tiny, "Hello?", max_tokens=4)
    assert "adapter_not_used" in {notice.code for notice in response.notices}
    assert response.turn.adapter is None
