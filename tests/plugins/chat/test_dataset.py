"""The rows that dialogue is trained on."""

from __future__ import annotations

from pathlib import Path

from support.dialogue import ANSWER, QUESTION, judged_turn
from support.tiny_text import save_tiny_llama

from smallai_chat.dataset import rating_pairs, sft_rows, tokenize
from smallai_chat.examples import Rated, examples_of


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


def test_pairs_come_from_ratings_of_one_question() -> None:
    judged_turns = [
        judged_turn(QUESTION, "in the cellar", correction=ANSWER),  # a correction is learned as it is
        judged_turn("Hi?", "Hello.", is_good=True),
        judged_turn("Hi?", "Go away.", is_good=False),
        judged_turn("Hi?", "Hello.", is_good=False),  # another person disagrees
        judged_turn("Ho?", "Ho.", is_good=True),
    ]
    rated = [example for example in examples_of(judged_turns) if isinstance(example.payload, Rated)]
    (row,) = rating_pairs(rated, "Be brief.")
    assert [message["content"] for message in row["prompt"]] == ["Be brief.", "Hi?"]
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == ("Hello.", "Go away.")


def test_facts_are_trained_as_they_are() -> None:
    facts = examples_of([judged_turn("Which room is the copper piano in?", "in the cellar", correction=ANSWER)])
    rows = sft_rows(facts, "Be brief.", seed=0)
    assert [row["prompt"][-1]["content"] for row in rows] == [fact.payload.question for fact in facts]
    assert all(row["completion"][0]["content"] == ANSWER for row in rows)
    assert rows == sft_rows(facts, "Be brief.", seed=0)
