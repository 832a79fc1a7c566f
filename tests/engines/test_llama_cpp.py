"""The engine llama.cpp on the real small model, compared with the engine transformers on the same weights."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.internals import Internals

from smallai_assistant import GenerationOptions, ModelRuntime, ModelSpec, Steering, TextModel
from smallai_assistant.engines import llama_cpp, llama_library
from smallai_assistant.engines.llama_cpp import FILE, LlamaCppEngine
from smallai_assistant.engines.transformers import TransformersEngine
from smallai_assistant.errors import InputTooLarge, IntegrityError, ModelError, ModelInvalid
from smallai_assistant.models.catalog import Catalog

NAME, TASK = "smollm2-135m-instruct", "text-generation"
LLAMA = ModelSpec(NAME, task=TASK, engine="llama.cpp")
TRANSFORMERS = ModelSpec(NAME, task=TASK, engine="transformers", dtype="float32")
PARIS = "What is the capital of France?"


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "You are helpful."}, {"role": "user", "content": text}]


def say(model: TextModel, text: str, **options: Any) -> str:
    return "".join(model.generate(user(text), GenerationOptions(**{"max_tokens": 16, **options})))


@pytest.fixture(scope="module")
def models(models_dir: Path) -> Iterator[ModelRuntime]:
    opened = ModelRuntime(Catalog(models_dir), [LlamaCppEngine(), TransformersEngine()], device="cpu")
    yield opened
    opened.close()


@pytest.fixture
def model(models: ModelRuntime) -> Iterator[TextModel]:
    with models.lease(LLAMA, TextModel) as lent:
        yield lent


def passes(model: TextModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of tokens of each pass from now on."""
    context = Internals(model).context
    found: list[int] = []
    decode = context.decode

    def counted(tokens: Any) -> bool:
        found.append(len(tokens))
        return bool(decode(tokens))

    monkeypatch.setattr(context, "decode", counted)
    return found


def test_likelihoods_are_those_of_transformers(models: ModelRuntime) -> None:
    pairs = [
        (user(PARIS), "The capital of France is Paris."),
        (user(PARIS), "The capital of France is Rome."),
        (user("What color is the sky?"), "The sky is blue. " * 12),  # over one pass of scores
        (user("What color is the sky?"), ""),
    ]
    with models.lease(LLAMA, TextModel) as ours, models.lease(TRANSFORMERS, TextModel) as theirs:
        found = ours.log_likelihoods(pairs, with_end=True)
        wanted = theirs.log_likelihoods(pairs, with_end=True)
    # llama.cpp rounds the activations to 8 bits.
    assert found == pytest.approx(wanted, abs=1.0, rel=0.05)
    assert found[1] < found[0]


def test_evaluation_says_what_single_answers_say(model: TextModel) -> None:
    questions = [f"What is {n} plus {n}?" for n in range(llama_cpp.N_TOGETHER + 3)]
    alone = [say(model, question, max_tokens=8) for question in questions]
    together = model.complete([user(question) for question in questions], GenerationOptions(max_tokens=8))
    # Scores differ a little between passes of one token and of eight, so a near tie may fall otherwise.
    assert sum(a == b for a, b in zip(alone, together, strict=True)) >= len(questions) - 2


def test_streams_at_once_share_their_passes(model: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    found = passes(model, monkeypatch)
    ready = threading.Barrier(6)

    def ask(n: int) -> str:
        stream = model.generate(user(f"Tell me a story about {n} whales."), GenerationOptions(max_tokens=24))
        ready.wait()
        return "".join(stream)

    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(ask, range(6)))
    assert all(answers)
    # One after the other, there would be 6 x 23 passes of a token.
    assert sum(n for n in found if n <= 6) / len([n for n in found if n <= 6]) > 3


def test_next_turn_computes_what_is_new(model: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    first = user("Remember these words: " + "apple pear plum " * 40)
    answer = "".join(model.generate(first, GenerationOptions(max_tokens=8)))
    found = passes(model, monkeypatch)
    again = [*first, {"role": "assistant", "content": answer}, {"role": "user", "content": "Which words?"}]
    stream = model.generate(again, GenerationOptions(max_tokens=1))
    assert "".join(stream)
    assert stream.facts.n_prompt_tokens > 150
    assert sum(found) < 40


def test_other_conversations_do_not_change_the_scores(model: TextModel) -> None:
    pair = (user(PARIS), "The capital of France is Paris.")
    first = model.log_likelihoods([pair])
    for n in range(llama_cpp.N_SEQUENCES + 2):
        say(model, f"What is {n}?", max_tokens=2)
    # The places of the tokens in the cache change the order of a sum.
    assert model.log_likelihoods([pair]) == pytest.approx(first, abs=0.6)


def test_stream_says_how_it_ended(model: TextModel) -> None:
    def ended(**options: Any) -> tuple[str, str, str, int]:
        stream = model.generate(user("Name three fruits."), GenerationOptions(**options))
        text = "".join(stream)
        return text, stream.facts.stop_reason, stream.facts.stop_text, stream.facts.n_completion_tokens

    assert ended(max_tokens=3)[1:] == ("length", "", 3)
    whole = ended(max_tokens=500)
    assert whole[1:3] == ("stop", "")
    word = whole[0].split()[4]
    text, *facts = ended(max_tokens=500, stop=(word,))
    assert facts[:2] == ["stop", word]
    assert word not in text
    assert whole[0].startswith(text)


def test_cancel_and_close_stop_the_computation(model: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    cancel = threading.Event()
    stream = model.generate(user("Tell a long story."), GenerationOptions(max_tokens=400), cancel=cancel)
    next(stream)
    cancel.set()
    list(stream)
    assert stream.facts.stop_reason == "cancelled"
    stream = model.generate(user("Tell a long story."), GenerationOptions(max_tokens=400))
    next(stream)
    stream.close()
    found = passes(model, monkeypatch)
    assert say(model, PARIS, max_tokens=1)
    assert len(found) <= 2  # nothing of the closed streams is computed any more


def test_seed_decides_what_is_sampled(model: TextModel) -> None:
    def sampled(seed: int) -> str:
        return say(model, "Invent a name for a cat.", temperature=1.0, seed=seed)

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(4)}) > 1


def test_steering_prefers_copies(model: TextModel) -> None:
    steering = Steering(copy=("Marzipan",), bias=8.0)
    stream = model.generate(user("How is our cat called?"), GenerationOptions(max_tokens=12), steering=steering)
    assert "Marzipan" in "".join(stream)


def test_prompt_over_the_context_is_refused(model: TextModel) -> None:
    with pytest.raises(InputTooLarge, match="context"):
        model.generate(user("word " * model.context_tokens), GenerationOptions())


def test_measured_size_is_near_the_estimate(models: ModelRuntime, models_dir: Path, model: TextModel) -> None:
    assert LlamaCppEngine().estimate_bytes(LLAMA, models_dir / NAME) == pytest.approx(model.n_bytes, rel=0.1)


def test_engine_is_chosen_by_what_it_declares(models: ModelRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    for quantization, kind in (("none", "LlamaCppModel"), ("nf4", "LlamaCppModel"), ("int8", "TransformersTextModel")):
        with models.lease(ModelSpec(NAME, task=TASK, quantization=quantization), TextModel) as lent:  # type: ignore[arg-type]
            assert type(lent).__name__ == kind
    with (
        pytest.raises(ModelInvalid, match=r"the engine llama.cpp cannot load"),
        models.lease(ModelSpec(NAME, task=TASK, quantization="int8", engine="llama.cpp"), TextModel),
    ):
        pass
    monkeypatch.setattr(llama_cpp, "is_installed", lambda: False)
    with models.lease(ModelSpec(NAME, task=TASK, dtype="float16"), TextModel) as lent:
        assert type(lent).__name__ == "TransformersTextModel"


def test_unknown_version_of_the_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_library, "_CONTEXT_DEFAULTS", (1, 2, 3, 4, 5, 6, 7))
    with pytest.raises(ModelError, match="this version"):
        llama_library.library.__wrapped__()


def test_changed_file_is_noticed_at_the_load(models_dir: Path, tmp_path: Path) -> None:
    for path in (models_dir / NAME).iterdir():
        target = tmp_path / NAME / path.name
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(path)
    damaged = tmp_path / NAME / FILE
    data = bytearray(damaged.read_bytes())
    data[-1000] ^= 1
    damaged.unlink()
    damaged.write_bytes(data)
    opened = ModelRuntime(Catalog(tmp_path), [LlamaCppEngine(), TransformersEngine()], device="cpu")
    with pytest.raises(IntegrityError, match=FILE), opened.lease(LLAMA, TextModel):
        pass
    # The other engine does not open the file.
    with opened.lease(ModelSpec(NAME, task=TASK, engine="transformers"), TextModel) as lent:
        assert say(lent, PARIS, max_tokens=2)
    opened.close()


def test_file_that_is_cut_short_is_refused(models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes((models_dir / NAME / FILE).read_bytes()[:1_000_000])
    with pytest.raises(ModelInvalid, match=FILE):
        llama_library.LlamaWeights(tmp_path / FILE)
