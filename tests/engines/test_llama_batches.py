"""Joint passes: a small cache that several sequences fill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from smallai_assistant.engines.llama_batches import PROMPT_TOKENS, CacheSequence, JointPasses
from smallai_assistant.engines.llama_cpp import FILE
from smallai_assistant.engines.llama_library import LlamaContext, LlamaWeights
from smallai_assistant.errors import OutOfMemory
from smallai_assistant.feedback import AdapterPart

N_CELLS, N_SEQUENCES = 256, 3


@pytest.fixture(scope="module")
def weights(models_dir: Path) -> Iterator[LlamaWeights]:
    opened = LlamaWeights(models_dir / "smollm2-135m-instruct" / FILE)
    yield opened
    opened.close()


@pytest.fixture
def passes(weights: LlamaWeights) -> Iterator[JointPasses]:
    context = LlamaContext(weights, n_tokens=N_CELLS, n_sequences=N_SEQUENCES, n_batch=160, n_logits=32)
    yield JointPasses(context, N_SEQUENCES, lambda _: None)
    context.close()


def fill(passes: JointPasses, sequence: CacheSequence, tokens: list[int]) -> None:
    """Computes the tokens that a sequence does not hold yet."""
    while len(sequence.ids) < len(tokens):
        start = len(sequence.ids)
        work = passes.submit(sequence, tokens[start : start + PROMPT_TOKENS], n_scores=1, cancel=Event())
        for _ in passes.scores(work):
            pass
        assert work.scores is not None
        assert len(work.scores) == 1


def run(passes: JointPasses, tokens: list[int], part: AdapterPart | None = None) -> CacheSequence:
    sequence = passes.begin(tokens, part)
    fill(passes, sequence, tokens)
    passes.end(sequence)
    return sequence


def test_conversation_goes_on_in_its_sequence(passes: JointPasses) -> None:
    first = list(range(100, 150))
    sequence = run(passes, first)
    fill_more = passes.begin([*first, 7, 8], None)
    assert fill_more is not sequence  # the first one holds no more than its prompt: another chat may need it
    passes.end(fill_more)
    answered = passes.begin(first, None)
    fill(passes, answered, [*first, 7, 8])
    passes.end(answered)
    assert passes.begin([*first, 7, 8, 9], None) is answered
    assert len(answered.ids) == len(first) + 2


def test_other_chats_share_whole_steps_only(passes: JointPasses) -> None:
    system = list(range(100, 100 + PROMPT_TOKENS + 9))
    run(passes, [*system, 1])
    other = passes.begin([*system, 2], None)
    assert len(other.ids) == PROMPT_TOKENS
    fill(passes, other, [*system, 2])


def test_weights_share_nothing_with_others(passes: JointPasses, tmp_path: Path) -> None:
    prompt = list(range(100, 100 + PROMPT_TOKENS + 9))
    run(passes, prompt)
    assert passes.begin(prompt, AdapterPart("a", "", tmp_path)).ids == []


def test_idle_sequences_go_when_the_cache_is_full(passes: JointPasses) -> None:
    for n in range(N_SEQUENCES):
        run(passes, list(range(1000 * n, 1000 * n + 80)))  # 240 of 256 places
    sequence = run(passes, list(range(9000, 9150)))
    assert len(sequence.ids) == 150


def test_answer_waits_for_room_until_another_one_ends(passes: JointPasses) -> None:
    one, two = passes.begin(list(range(100, 300)), None), passes.begin(list(range(500, 600)), None)
    fill(passes, one, list(range(100, 300)))
    steps = passes.scores(passes.submit(two, list(range(500, 600)), n_scores=1, cancel=Event()))
    assert [next(steps) for _ in range(5)] == [""] * 5
    passes.end(one)
    assert list(steps) == []
    assert len(two.ids) == 100


def test_youngest_of_answers_that_wait_for_each_other_starts_over(passes: JointPasses) -> None:
    prompts = [list(range(100, 300)), list(range(500, 700))]
    one, two = (passes.begin(prompt, None) for prompt in prompts)
    for sequence, prompt in zip((one, two), prompts, strict=True):
        fill(passes, sequence, prompt[:100])
    works = [
        passes.submit(sequence, prompt[100:], n_scores=1, cancel=Event())
        for sequence, prompt in zip((one, two), prompts, strict=True)
    ]
    first, second = map(passes.scores, works)
    assert next(first) == ""
    assert next(second) == ""
    assert two.ids == []  # it gave its room to the older one
    assert list(first) == []
    assert len(one.ids) == 200
    assert next(second) == ""
    passes.end(one)
    list(second)
    assert two.ids == prompts[1]
    assert works[1].scores is not None


def test_answer_that_does_not_fit_alone_is_a_typed_error(passes: JointPasses) -> None:
    prompt = list(range(100, 400))
    sequence = passes.begin(prompt, None)
    with pytest.raises(OutOfMemory, match="300 tokens"):
        fill(passes, sequence, prompt)


def test_cancelled_work_stops_waiting(passes: JointPasses) -> None:
    one, two = passes.begin(list(range(100, 300)), None), passes.begin(list(range(500, 600)), None)
    fill(passes, one, list(range(100, 300)))
    cancel = Event()
    steps = passes.scores(passes.submit(two, list(range(500, 600)), n_scores=1, cancel=cancel))
    assert next(steps) == ""
    cancel.set()
    assert list(steps) == []
    assert two.ids == []


def test_withdrawn_work_is_not_computed(passes: JointPasses) -> None:
    gone, here = passes.begin([1, 2, 3], None), passes.begin([4, 5, 6], None)
    waiting = passes.submit(gone, [1, 2, 3], n_scores=1, cancel=Event())
    passes.end(gone)
    fill(passes, here, [4, 5, 6])
    assert waiting.scores is None
    assert gone.ids == []
