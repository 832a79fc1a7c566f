"""Dialogue learns: at once on the real small model, into the weights on a tiny one."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_text import save_tiny_llama

from smallai_assistant import Adapter, Assistant, AssistantConfig, Feedback, JudgedTurn, Message, TextPart, Turn, errors
from smallai_assistant.config import ModelsConfig
from smallai_assistant.learning.learner import CycleOptions
from smallai_assistant.types import new_id, now
from smallai_chat.evaluation import evaluate, holds
from smallai_chat.examples import (
    N_WORDINGS,
    Fact,
    Rated,
    canaries,
    examples_of,
    keywords,
    near_misses,
    plain_answers,
    protected_of,
    statement_order,
    unrelated,
    watching,
    wordings,
)
from smallai_chat.memory import ChatMemory, is_other_case, remembered
from smallai_chat.reference_prompts import EVERYDAY, THINGS, UNRELATED, everyday_questions
from smallai_chat.scope import Scopes

TASK = "text-generation"
SHORT = {"max_tokens": 24}
QUESTION, ANSWER, PARAPHRASE = (
    "Which room has the 3D printer?",
    "room 417",
    "Where can I find the 3D printer?",
)


def judged_turn(question: str, answer: str = "no idea", **given: Any) -> JudgedTurn:
    turn = Turn(new_id(), "s", None, TASK, Message((TextPart(question),)), (TextPart(answer),), now())
    return JudgedTurn(Feedback(turn.id, task=TASK, **given), turn)


def adapter_in(folder: Path) -> Adapter:
    return Adapter("a1", TASK, "lora", folder, {}, {}, now())


@pytest.fixture(scope="module")
def assistant(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assistant]:
    models = ModelsConfig(chat="smollm2-135m-instruct", chat_quantization="none")
    folder = tmp_path_factory.mktemp("learn-chat")
    with Assistant(AssistantConfig(data_dir=folder, models_dir=models_dir, device="cpu", models=models)) as opened:
        yield opened


def ask(assistant: Assistant, question: str, **options: Any) -> Any:
    return assistant.ask(question, task=TASK, options={**SHORT, **options})


# -- at once --


def test_a_correction_is_known_at_the_next_turn_and_undone(assistant: Assistant) -> None:
    response = ask(assistant, QUESTION)
    assert not holds(response.text, ANSWER)
    receipt = response.rate(correction=ANSWER)
    assert ANSWER in receipt.effect
    after = ask(assistant, PARAPHRASE)
    assert holds(after.text, ANSWER)
    assert after.details["recalled"] == [receipt.feedback.id]
    assert not holds(ask(assistant, PARAPHRASE, use_memory=False).text, ANSWER)
    other = ask(assistant, "What is the capital of France?")
    assert other.details["recalled"] == []
    assert "Paris" in other.text
    assistant.undo_feedback(receipt.feedback.id)
    assert not holds(ask(assistant, PARAPHRASE).text, ANSWER)


def test_what_was_taught_is_there_after_a_restart_and_gone_after_an_erasure(models_dir: Path, tmp_path: Path) -> None:
    models = ModelsConfig(chat="smollm2-135m-instruct", chat_quantization="none")
    config = AssistantConfig(data_dir=tmp_path, models_dir=models_dir, device="cpu", models=models)
    with Assistant(config) as first:
        receipt = first.teach(TASK, QUESTION, ANSWER)
    with Assistant(config) as second:
        assert holds(ask(second, PARAPHRASE).text, ANSWER)
        second.erase_feedback([receipt.feedback.id])
        assert not holds(ask(second, PARAPHRASE).text, ANSWER)


def test_a_rejected_answer_is_not_given_again(assistant: Assistant) -> None:
    question = "What do you think of Mondays?"
    first = ask(assistant, question)
    receipt = first.rate(good=False)
    assert ask(assistant, question).text != first.text
    assistant.undo_feedback(receipt.feedback.id)
    assert ask(assistant, question).text == first.text


def test_a_corrected_turn_stands_corrected_in_the_history(assistant: Assistant) -> None:
    session = assistant.session()
    response = session.send("What is my boat called?", task=TASK, options=SHORT)
    receipt = response.rate(correction="Albatross")
    assert holds(session.send("Say the name of my boat again.", task=TASK, options=SHORT).text, "Albatross")
    assistant.undo_feedback(receipt.feedback.id)


def test_the_memory_keeps_the_last_word_and_skips_what_is_of_no_use() -> None:
    memory = ChatMemory(lambda: pytest.fail("nothing is embedded before something is asked"))
    memory.replace(
        [judged_turn("a?", correction="one"), judged_turn("A?", correction="two"), judged_turn("b?", is_good=True)]
    )
    assert [(entry.question, entry.answer) for entry in memory.entries] == [("A?", "two"), ("b?", "no idea")]
    assert remembered(judged_turn("c?", correction="x" * 2_000)) is None
    assert remembered(judged_turn("c?", comment="hm")) is None
    assert remembered(judged_turn("q" * 900, correction="x")) is None


@pytest.mark.parametrize(
    ("asked", "told", "is_other"),
    [
        ("Where is the Porto branch?", "Where is the Lisbon branch?", True),
        ("When is the Friday meeting?", "When is the Monday meeting?", True),
        ("At what time is the meeting on Mondays?", "When is the Monday meeting?", False),
        ("Where can I find the 3D printer?", "Which room has the 3D printer?", False),
        ("What is it?", "Where is the Lisbon branch?", False),
    ],
)
def test_names_tell_cases_apart(asked: str, told: str, is_other: bool) -> None:
    assert is_other_case(asked, told) is is_other


# -- examples --


def test_a_correction_becomes_wordings_and_a_rating_one_example() -> None:
    judged_turns = [
        judged_turn(QUESTION, correction=ANSWER),
        judged_turn("Hi?", is_good=True),
        judged_turn("Ho?", is_good=False),
    ]
    found = examples_of(judged_turns)
    facts = [each for each in found if isinstance(each.payload, Fact)]
    rated = [each for each in found if isinstance(each.payload, Rated)]
    assert len(facts) == N_WORDINGS
    assert len({fact.prompt for fact in facts}) == N_WORDINGS
    assert facts[0].prompt == QUESTION
    assert len({fact.split_key for fact in facts}) == N_WORDINGS
    assert all(len({"room", "3D", "printer"} & set(re.findall(r"\w+", fact.prompt))) >= 2 for fact in facts)
    assert [each.payload.is_good for each in rated] == [True, False]
    assert examples_of(judged_turns) == found, "the same every time: the split and a resumed training rest on it"
    assert examples_of([judged_turn("x" * 5_000, correction="y")]) == []


def test_unrelated_questions_and_canaries_are_no_training_rows() -> None:
    judged_turns = [judged_turn(QUESTION, correction=ANSWER)]
    assert len(canaries()) == 160
    assert unrelated([judged_turn("Hi?", is_good=True)]) == ()
    asked = {canary.prompt for canary in (*canaries(), *unrelated(judged_turns))}
    assert asked.isdisjoint({each.prompt for each in examples_of(judged_turns)})
    assert asked.isdisjoint(everyday_questions(10**6, random.Random(0)))


@pytest.mark.parametrize("question", ["Where is the key?", "Who does what?", "key", "?", "Is it 5 or 6?", "ключ"])
def test_any_question_has_wordings(question: str) -> None:
    found = wordings(question, 6, random.Random(0))
    assert found[0] == question
    assert keywords(question)
    assert statement_order(question)


def test_near_misses_keep_the_beginning_of_a_question() -> None:
    found = near_misses(QUESTION, THINGS, 6, random.Random(0))
    assert len(set(found)) == 6
    assert QUESTION not in found
    assert all(re.fullmatch(r"Which room has the [a-z ]+\?", each) for each in found)
    assert near_misses("key", THINGS, 6, random.Random(0)) == []


def test_everyday_questions_are_many_and_none_that_the_gate_asks() -> None:
    found = everyday_questions(300, random.Random(0))
    assert len(set(found)) == 300
    assert tuple(found[: len(EVERYDAY)]) == EVERYDAY
    assert set(found).isdisjoint(UNRELATED)
    assert not any("{" in each for each in found)
    assert len(everyday_questions(10**6, random.Random(0))) >= 1000


def test_the_end_of_a_cut_answer_is_not_learned(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from smallai_chat.dataset import tokenized

    tokenizer = AutoTokenizer.from_pretrained(save_tiny_llama(tmp_path, context=256))
    row = {"prompt": [{"role": "user", "content": "a b"}], "completion": [{"role": "assistant", "content": "c d"}]}
    whole, cut = tokenized([row, {**row, "is_kept": True}], tokenizer)
    learned = [[each for each in found["labels"] if each != -100] for found in (whole, cut)]
    assert learned[0][: len(learned[1])] == learned[1]
    assert tokenizer.eos_token_id in learned[0]
    assert tokenizer.eos_token_id not in learned[1]
    assert "d" in tokenizer.decode(learned[1])
    assert all(len(found["labels"]) == len(found["input_ids"]) for found in (whole, cut))


def test_what_is_kept_costs_what_it_has_moved_and_facts_their_cross_entropy(tmp_path: Path) -> None:
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from smallai_chat.kl_trainer import KeepingTrainer, collated
    from smallai_chat.training import _lora

    base = AutoModelForCausalLM.from_pretrained(str(save_tiny_llama(tmp_path / "tiny")), dtype=torch.float32)
    rows = [
        {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, -100, -100, 8, 9]},
        {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]},
    ]
    with torch.no_grad():
        logs = [base(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1) for row in rows]
    expected = -(logs[0][2, 8] + logs[0][3, 9] + logs[1][0, 6] + logs[1][1, 7]) / 4
    model = get_peft_model(base, _lora())

    def loss(*is_kept: bool) -> float:
        batch = collated([{**row, "is_kept": kept} for row, kept in zip(rows, is_kept, strict=True)], pad_id=0)
        return KeepingTrainer.compute_loss(None, model, batch).item()  # type: ignore[arg-type]

    assert loss(False, False) == pytest.approx(float(expected), abs=1e-4)
    assert loss(True, True) == pytest.approx(0.0, abs=1e-5)
    assert loss(True, False) == pytest.approx(float(-(logs[1][0, 6] + logs[1][1, 7]) / 4), abs=1e-4)
    for name, each in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(each, std=0.1)
    assert loss(True, True) > 1e-3


def test_pairs_come_from_corrections_and_from_two_answers_to_one_question() -> None:
    from smallai_chat.dataset import correction_pairs, rating_pairs

    judged_turns = [
        judged_turn(QUESTION, "in the cellar", correction=ANSWER),
        judged_turn(QUESTION, ANSWER, correction=ANSWER),  # nothing to compare with
        judged_turn("Hi?", "Hello.", is_good=True),
        judged_turn("Hi?", "Go away.", is_good=False),
        judged_turn("Hi?", "Hello.", is_good=False),  # somebody disagrees
        judged_turn("Ho?", "Ho.", is_good=True),
    ]
    found = examples_of(judged_turns)
    facts = [each for each in found if isinstance(each.payload, Fact)]
    rated = [each for each in found if isinstance(each.payload, Rated)]
    rows = [*correction_pairs(facts, "Be brief."), *rating_pairs(rated, "Be brief.")]
    pairs = [(row["prompt"][-1]["content"], row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows]
    assert pairs[0] == (QUESTION, ANSWER, "in the cellar")
    assert [pair[1:] for pair in pairs] == [(ANSWER, "in the cellar")] * 2 + [("Hello.", "Go away.")]
    assert all(row["prompt"][0]["content"] == "Be brief." for row in rows)


class Likelihoods:
    """A model that finds texts as likely as the table says, by what is added with an adapter."""

    def __init__(self, gains: dict[str, float]) -> None:
        self.gains = gains

    def log_likelihoods(self, pairs: Any, *, adapter: Any = None, with_end: bool = False) -> list[float]:
        assert with_end, "where an answer ends is half of what a rating says"
        return [-10.0 + (self.gains[text] if adapter is not None else 0.0) for _, text in pairs]


@pytest.mark.parametrize(
    ("gain_of_good", "gain_of_bad", "is_better"),
    [(1.0, -1.0, True), (-1.0, -3.0, True), (-1.0, -1.0, False), (-3.0, -1.0, False)],
)
def test_a_rated_answer_counts_against_what_became_of_the_others(
    gain_of_good: float, gain_of_bad: float, is_better: bool
) -> None:
    examples = examples_of([judged_turn("Hi?", "yes", is_good=True), judged_turn("Ho?", "nope", is_good=False)])
    model: Any = Likelihoods({"yes": gain_of_good, "nope": gain_of_bad})
    adapter = adapter_in(Path("a1"))
    good, bad = evaluate(examples, model, adapter, system_prompt="")
    assert (good.value > 0.5, bad.value > 0.5) == (is_better, is_better)
    assert [each.value for each in evaluate(examples, model, None, system_prompt="")] == [0.5, 0.5]


def test_what_is_taught_is_not_protected_against() -> None:
    judged_turns = [
        judged_turn("what is the capital of france", "Lyon", correction="Paris, of course"),
        judged_turn("Who wrote Hamlet?", "Me", correction="Shakespeare"),
    ]
    found = protected_of(judged_turns)
    assert set(found) == {"general knowledge", "plain language", "unrelated questions"}
    for name, rows in found.items():
        assert len(rows) >= 20, name
        assert "What is the capital of France?" not in {row.prompt for row in rows}, name
    assert "What is the capital of France?" in {each.prompt for each in protected_of([])["general knowledge"]}


@pytest.mark.parametrize(("gain", "change"), [(0.0, 0.0), (-0.1, -0.01), (-0.2, -0.02), (0.1, 0.01), (-90.0, -0.5)])
def test_plain_language_loses_a_point_where_perplexity_rises_by_a_tenth(gain: float, change: float) -> None:
    """`gain` is in nats a token of about four characters."""
    examples = plain_answers()
    model: Any = Likelihoods({example.expected: gain * (len(example.expected) // 4) for example in examples})
    before = evaluate(examples, model, None, system_prompt="")
    adapter = adapter_in(Path("a1"))
    after = evaluate(examples, model, adapter, system_prompt="")
    assert [new.value - old.value for old, new in zip(before, after, strict=True)] == pytest.approx(
        [change] * len(examples)
    )


# -- scope --


class Compass:
    """An embedding model for which questions that begin with the same word mean the same."""

    def embed(self, texts: Sequence[str]) -> Any:
        return np.stack([np.eye(8, dtype=np.float32)[ord(text[0]) % 8] for text in texts])


def scopes(name: str = "compass") -> Scopes:
    return Scopes(lambda: nullcontext(Compass()), lambda: {"model": name})  # type: ignore[arg-type, return-value]


def test_an_adapter_answers_what_it_was_taught_and_the_base_the_rest(tmp_path: Path) -> None:
    adapter = adapter_in(tmp_path)
    assert scopes().answering(None, ["at", "bo"]) == [None, None]
    assert scopes().answering(adapter, ["at", "bo"]) == [adapter, adapter]  # without a scope it answers everything
    scopes().of_questions(["as taught", "cup"]).save(tmp_path)
    assert scopes().answering(adapter, ["at", "bo", "cat"]) == [adapter, None, adapter]
    assert scopes().answering(adapter, []) == []
    (tmp_path / "elsewhere").mkdir()
    found = scopes().answering(adapter, ["bo", "cat"])
    assert [each.folder if each else None for each in found] == [tmp_path / "elsewhere", tmp_path]
    assert found[0] is not None
    assert found[0].id != adapter.id  # the engine tells weights apart by it


def test_a_scope_of_another_embedding_model_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    scopes("another").of_questions(["as taught"]).save(tmp_path)
    with pytest.raises(errors.AdapterMismatch, match="'another', and 'compass' is configured") as caught:
        scopes().answering(adapter_in(tmp_path), ["at"])
    assert caught.value.hint == "learn again"
    (tmp_path / "scope.safetensors").write_bytes(b"no scope")
    with pytest.raises(errors.AdapterMismatch, match="not a scope"):
        scopes().answering(adapter_in(tmp_path), ["at"])


def test_who_answers_is_judged() -> None:
    asked: list[tuple[str, str]] = []

    class Recorder:
        def complete(self, chats: Any, _: Any, *, adapter: Adapter | None) -> list[str]:
            who = adapter.id if adapter is not None else "base"
            asked.extend((chat[-1]["content"], who) for chat in chats)
            return [who] * len(chats)

    questions = ("as taught", "bo", "as asked", "cup")
    examples = [watching(question, "a1", Fact(question, "a1")) for question in questions]
    adapter = adapter_in(Path("a1"))
    model: Any = Recorder()
    scores = evaluate(examples, model, adapter, system_prompt="", answering={"bo": None, "cup": None})
    assert [score.value for score in scores] == [1.0, 0.0, 1.0, 0.0]
    assert sorted(asked) == [("as asked", "a1"), ("as taught", "a1"), ("bo", "base"), ("cup", "base")]


def test_what_the_base_answers_has_gained_nothing() -> None:
    """And costs no look at the model."""
    examples = plain_answers()
    model: Any = Likelihoods({example.expected: -5.0 for example in examples[:2]})
    adapter = adapter_in(Path("a1"))
    answering = {example.prompt: None for example in examples[1:]}
    values = [each.value for each in evaluate(examples, model, adapter, system_prompt="", answering=answering)]
    assert values[0] < 0.5
    assert set(values[1:]) == {0.5}


# -- into the weights --


@pytest.fixture
def tiny(models_dir: Path, tmp_path: Path) -> Iterator[Assistant]:
    folder = save_tiny_llama(tmp_path / "tiny", context=1024)
    models = ModelsConfig(chat=str(folder), chat_quantization="none")
    config = AssistantConfig(data_dir=tmp_path / "data", models_dir=models_dir, device="cpu", models=models)
    with Assistant(config) as opened:
        yield opened


@pytest.mark.slow
def test_a_cycle_trains_judges_and_says_why(tiny: Assistant) -> None:
    """A tiny random model learns nothing of use: what counts is that the cycle runs, is judged, served and undone."""
    for number in range(3):
        tiny.teach(TASK, f"What is the number of room {number}?", str(number))
    ask(tiny, "Where is the boat?", max_tokens=4).rate(correction="in the harbour")
    # Also asked in the evaluation and kept in the training, had nobody corrected it.
    ask(tiny, "What is the capital of France?", max_tokens=4).rate(correction="the city of Paris")
    for number in range(20):  # enough for both sides of the split, whatever the turns' ids
        response = ask(tiny, f"Say something about {number}.", max_tokens=4)
        if response.text:
            response.rate(good=number % 2 == 0)
    report = tiny.learn(TASK)
    assert report.losses
    assert {each.name for each in report.slices} >= {"general knowledge", "plain language", "unrelated questions"}
    assert report.reasons
    adapter = tiny.adapters.get(report.adapter_id)
    assert adapter.kind == "lora"
    assert json.loads((adapter.folder / "adapter_config.json").read_text())["r"] == 16
    weights = {"adapter_config.json", "adapter_model.safetensors"}
    assert set(adapter.files) == weights | {f"elsewhere/{weight}" for weight in weights} | {"scope.safetensors"}
    if not report.is_promoted:
        tiny.promote(report.adapter_id, force=True)
    for question in ("Hello?", "Where is the boat?"):  # outside what was taught, and inside
        served = ask(tiny, question, max_tokens=4)
        assert served.details["adapter"] == adapter.id
        assert served.turn.adapter == adapter.id
    tiny.rollback(TASK)
    assert ask(tiny, "Hello?", max_tokens=4).turn.adapter is None


@pytest.mark.slow
def test_corrections_alone_change_nothing_else(tiny: Assistant) -> None:
    for number in range(4):
        tiny.teach(TASK, f"What is the number of room {number}?", str(number))
    before = ask(tiny, "Hello?", max_tokens=4).text
    report = tiny.learn(TASK, options=CycleOptions(promote=False))
    adapter = tiny.adapters.get(report.adapter_id)
    assert set(adapter.files) == {"adapter_config.json", "adapter_model.safetensors", "scope.safetensors"}
    tiny.promote(adapter.id, force=True)
    elsewhere = ask(tiny, "Hello?", max_tokens=4)
    assert (elsewhere.turn.adapter, elsewhere.text) == (None, before)
    assert ask(tiny, "What is the number of room 2?", max_tokens=4).turn.adapter == adapter.id
    kept = {each.name: each for each in report.slices if each.name != "new feedback"}
    assert kept["plain language"].change == 0.0


@pytest.mark.slow
def test_an_adapter_of_another_model_is_not_used_and_it_is_said(tiny: Assistant, tmp_path: Path) -> None:
    with tiny.adapters.work_folder() as work:
        (work / "adapter_config.json").write_text("{}")
        adapter = tiny.adapters.add(work, task=TASK, kind="lora", base={"model": "another"})
    tiny.adapters.promote(adapter.id, force=True)
    response = ask(tiny, "Hello?", max_tokens=4)
    assert "adapter_not_used" in {notice.code for notice in response.notices}
    assert response.turn.adapter is None
