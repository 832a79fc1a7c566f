"""The rows that dialogue is trained on."""

from __future__ import annotations

from pathlib import Path

from support.dialogue import ANSWER, QUESTION, judged_turn
from support.tiny_text import save_tiny_llama

from smallai_chat.dataset import correction_pairs, rating_pairs, tokenize
from smallai_chat.examples import Fact, Rated, examples_of


def test_end_of_a_cut_answer_is_not_learned(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(save_tiny_llama(tmp_path, context=256))
    row = {"prompt": [{"role": "user", "content": "a b"}], "completion": [{"role": "assistant", "content": "c d"}]}
    whole, cut = tokenize([row, {**row, "is_reference": True}], tokenizer)
    learned_whole, learned_cut = ([label for label in row["labels"] if label != -100] for row in (whole, cut))
    assert learned_whole[: len(learned_cut)] == learned_cut
    assert tokenizer.eos_token_id in learned_whole
    assert tokenizer.eos_token_id not in learned_cut
    assert "d" in tokenizer.decode(learned_cut)
    assert all(len(row["labels"]) == len(row["input_ids"]) for row in (whole, cut))


def test_pairs_come_from_corrections_and_ratings() -> None:
    judged_turns = [
        judged_turn(QUESTION, "in the cellar", correction=ANSWER),
        judged_turn(QUESTION, ANSWER, correction=ANSWER),  # the answer was right: nothing to compare with
        judged_turn("Hi?", "Hello.", is_good=True),
        judged_turn("Hi?", "Go away.", is_good=False),
        judged_turn("Hi?", "Hello.", is_good=False),  # another person disagrees
        judged_turn("Ho?", "Ho.", is_good=True),
    ]
    found = examples_of(judged_turns)
    facts = [example for example in found if isinstance(example.payload, Fact)]
    rated = [example for example in found if isinstance(example.payload, Rated)]
    rows = [*correction_pairs(facts, "Be brief."), *rating_pairs(rated, "Be brief.")]
    pairs = [(row["prompt"][-1]["content"], row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows]
    assert pairs[0] == (QUESTION, ANSWER, "in the cellar")
    assert [pair[1:] for pair in pairs] == [(ANSWER, "in the cellar")] * 2 + [("Hello.", "Go away.")]
    assert all(row["prompt"][0]["content"] == "Be brief." for row in rows)
