"""Learning cycles of dialogue, on a tiny random model: it learns nothing useful, but every step runs."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
from support.dialogue import TASK, ask
from support.tiny_text import save_tiny_llama

from smallai_assistant import Assistant, Example, ModelSpec
from smallai_assistant.feedback import is_held_out
from smallai_assistant.learning.evaluation import Verdict
from smallai_assistant.learning.learner import CycleOptions
from smallai_chat.dataset import kto_rows
from smallai_chat.examples import Rated
from smallai_chat.training import SFT_BATCH, SFT_EPOCHS, SFT_MIN_STEPS, load_base, lora_config, sft_epochs

NAMES = ("corrections", "ratings")


@pytest.mark.slow
def test_cycle_trains_evaluates_serves_and_rolls_back(tiny: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    # By chance one component of a random model may pass alone; here both are to be in the version.
    monkeypatch.setattr("smallai_assistant.learning.components.gate", lambda slices, **_: Verdict(True, ()))
    for number in range(3):
        tiny.teach(TASK, f"What is the number of room {number}?", str(number))
    ask(tiny, "Where is the boat?", max_tokens=4).rate(correction="in the harbour")
    # Without the correction this is a protected question and a reference prompt.
    ask(tiny, "What is the capital of France?", max_tokens=4).rate(correction="the city of Paris")
    # Turns are split by their random ids, and an empty answer is not learned from: rate until there is enough of all.
    rated: Counter[tuple[bool, bool]] = Counter()
    for number in range(1_000):
        response = ask(tiny, f"Say something about {number}.", max_tokens=4)
        if response.text.strip():
            response.rate(good=number % 2 == 0)
            rated[is_held_out(response.turn.id), number % 2 == 0] += 1
        if all(rated[side, good] >= 4 for side in (True, False) for good in (True, False)):
            break
    report = tiny.learn(TASK)
    assert report.training.losses
    assert {found.name for found in report.slices} >= {"general knowledge", "plain language", "unrelated questions"}
    assert report.reasons
    adapter = tiny.adapters.get(report.adapter_id)
    assert adapter.kind == "lora"
    assert json.loads((adapter.folder / "corrections/adapter_config.json").read_text())["r"] == 16
    weights = [f"{part}/adapter_{name}" for part in NAMES for name in ("config.json", "model.safetensors")]
    assert set(adapter.files) == {*weights, "corrections/scope.safetensors"}
    learned = {component.name: set(component.feedback_ids) for component in adapter.components}
    assert learned.keys() == set(NAMES)
    assert not learned["corrections"] & learned["ratings"]
    assert {component.name: component.is_included for component in report.components} == dict.fromkeys(NAMES, True)
    if not report.is_promoted:
        tiny.promote(report.adapter_id, force=True)
    for question, part in (("Hello?", "ratings"), ("Where is the boat?", "corrections")):
        served = ask(tiny, question, max_tokens=4)
        assert (served.details["adapter"], served.details["part"]) == (adapter.id, part)
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
    files = ("adapter_config.json", "adapter_model.safetensors", "scope.safetensors")
    assert set(adapter.files) == {f"corrections/{name}" for name in files}
    tiny.promote(adapter.id, force=True)
    outside = ask(tiny, "Hello?", max_tokens=4)
    assert (outside.turn.adapter, outside.text) == (None, before)
    assert ask(tiny, "What is the number of room 2?", max_tokens=4).turn.adapter == adapter.id
    # The weights are asked in the words that they learned, unless the memory shows something newer.
    question, other = "What is the number of room 2?", "Tell me the number of room 2, please."
    by_weights = [ask(tiny, text, max_tokens=8, use_memory=False) for text in (question, other)]
    assert by_weights[0].text == by_weights[1].text
    assert [turn.details["n_prompt_tokens"] for turn in by_weights] == [by_weights[0].details["n_prompt_tokens"]] * 2
    shown = [ask(tiny, text, max_tokens=8).details["n_prompt_tokens"] for text in (question, other)]
    assert shown[0] != shown[1]
    protected = {found.name: found for found in report.slices if found.name != "new feedback"}
    assert protected["plain language"].change == 0.0


@pytest.mark.slow
def test_an_answer_that_was_cut_is_trained_without_its_end(tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import KTOConfig

    from smallai_chat.kto_trainer import WholeAnswersTrainer

    folder = save_tiny_llama(tmp_path / "tiny", context=1024)
    spec = ModelSpec(str(folder), task=TASK)
    model, tokenizer = load_base(folder, spec, "cpu")
    rated = [
        Example(str(n), "Hi?", "", str(n), payload=Rated("Hi?", "a b c", n % 2 == 0, is_cut=n == 1)) for n in range(4)
    ]
    arguments = KTOConfig(output_dir=str(tmp_path / "out"), per_device_train_batch_size=4, use_cpu=True, report_to=[])
    rows = Dataset.from_list(kto_rows(rated, ""))
    trainer = WholeAnswersTrainer(
        model=model, args=arguments, train_dataset=rows, processing_class=tokenizer, peft_config=lora_config()
    )
    ends = [tokenizer.eos_token_id in row["completion_ids"] for row in trainer.train_dataset]
    assert ends == [True, False, True, True]


@pytest.mark.slow
def test_adapter_of_another_model_is_not_used(tiny: Assistant) -> None:
    with tiny.adapters.work_folder() as work:
        (work / "adapter_config.json").write_text("{}")
        adapter = tiny.adapters.add(work, task=TASK, kind="lora", base={"model": "another"})
    tiny.adapters.promote(adapter.id, force=True)
    response = ask(tiny, "Hello?", max_tokens=4)
    assert "adapter_not_used" in {notice.code for notice in response.notices}
    assert response.turn.adapter is None


def test_few_corrections_take_as_many_steps_as_many() -> None:
    assert sft_epochs(1_000) == SFT_EPOCHS
    for n_rows in (1, 8, 94, 250):
        assert sft_epochs(n_rows) * math.ceil(n_rows / SFT_BATCH) >= SFT_MIN_STEPS
    assert [sft_epochs(n_rows) for n_rows in (1, 94, 400)] == [150, 13, 4]
