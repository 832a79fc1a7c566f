"""Thirty facts taught by correction, in real conversations: `python -m bench.facts [--small | --qwen] [--no-learn]`.

Each invented fact is asked once, answered wrongly, and corrected. Two paraphrases of each question, which nobody
taught, are asked three times: before the corrections, at the next turn (fast memory), and after a learning cycle with
the fast memory off (weights alone). An answer is right if it contains the taught words. `bench.canary` is asked before
and after the cycle.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench import canary
from bench.canary import TASK, by_weights
from smallai_assistant import Assistant, AssistantConfig, Example, ModelSpec
from smallai_assistant.config import ModelsConfig, load_config
from smallai_chat.evaluation import contains_answer
from smallai_chat.examples import Fact, LeakCheck, held_out_example
from smallai_chat.reference_prompts import HELD_OUT_QUESTIONS

N_TOKENS = 48  # of an answer: room for a sentence around the fact


class Wanted(NamedTuple):
    """A model and the figures that it must reach.

    Attributes:
        memory: minimum share of right answers at the next turn.
        weights: minimum share of right answers from the weights alone.
        before: maximum share of right answers before the corrections; more would mean that the facts are not new.
        canary_drop: maximum loss of the canary, as a share.
    """

    name: str
    quantization: str
    memory: float
    weights: float = 0.70
    before: float = 0.10
    canary_drop: float = 0.01


# The figures of docs/benchmarks.md. The larger model must do better from the memory, because it copies better.
SMALL = Wanted("smollm2-135m-instruct", "none", memory=0.80)
QWEN = Wanted("qwen2.5-coder-0.5b-instruct", "nf4", memory=0.95)


@contextmanager
def opened(wanted: Wanted) -> Iterator[tuple[Assistant, ModelSpec]]:
    """Opens an assistant without feedback on that model. Yields it and the model's spec."""
    models = ModelsConfig(chat=wanted.name, chat_quantization=wanted.quantization)  # type: ignore[arg-type]
    spec = ModelSpec(wanted.name, task=TASK, quantization=wanted.quantization)  # type: ignore[arg-type]
    print(f"{wanted.name}, {wanted.quantization}", flush=True)
    # A new data folder, so that the user's own feedback plays no part; the models are those already pulled.
    with tempfile.TemporaryDirectory() as folder:
        config = AssistantConfig(
            data_dir=Path(folder), models_dir=load_config().models_dir, device="cpu", models=models
        )
        with Assistant(config) as assistant:
            yield assistant, spec


def facts() -> list[dict[str, Any]]:
    """Returns the facts: a question, its answer and two paraphrases each."""
    lines = Path(__file__).with_name("facts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def paraphrases() -> list[tuple[str, str]]:
    """Returns all paraphrases, each with its answer."""
    return [(question, fact["answer"]) for fact in facts() for question in fact["paraphrases"]]


def share_right(texts: Sequence[str]) -> float:
    """Returns the share of right ones among the answers to `paraphrases()`, which are in the same order."""
    rows = paraphrases()
    return sum(contains_answer(text, answer) for text, (_, answer) in zip(texts, rows, strict=True)) / len(rows)


def without_memory(assistant: Assistant) -> list[str]:
    """Returns the champion's answers to the paraphrases, from its weights alone."""
    asked = [fact_example(question, answer) for question, answer in paraphrases()]
    return [score.answer for score in by_weights(assistant, asked, assistant.adapters.champion(TASK))]


def fact_example(question: str, answer: str) -> Example:
    """Returns an example that is right if the generated text contains the answer."""
    return held_out_example(question, answer, Fact(question, answer))


def n_leaks(assistant: Assistant) -> int:
    """Returns how many of the held-out everyday questions get a taught answer."""
    taught = tuple(fact["answer"] for fact in facts())
    asked = [held_out_example(question, "", LeakCheck(question, taught)) for question in HELD_OUT_QUESTIONS]
    found = by_weights(assistant, asked, assistant.adapters.champion(TASK))
    for question, score in zip(HELD_OUT_QUESTIONS, found, strict=True):
        if score.value < 1:
            print(f"      {question} | {' '.join(score.answer.split())[:90]!r}")
    return sum(score.value < 1 for score in found)


def run(wanted: Wanted, *, learns: bool, n_canary: int) -> tuple[dict[str, Any], bool]:
    """Returns the figures of a model, and whether all of them are met."""
    with opened(wanted) as (assistant, _):
        figures: dict[str, Any] = {"model": wanted.name}
        figures["before"] = share_right(without_memory(assistant))
        say("before", figures["before"], f"at most {wanted.before:.0%}")
        for fact in facts():
            # Without the memory, so that every fact is answered and corrected independently of those before it.
            response = assistant.ask(fact["question"], task=TASK, options={"max_tokens": N_TOKENS, "use_memory": False})
            response.rate(correction=fact["answer"])
        begun = time.perf_counter()
        texts = [
            assistant.ask(question, task=TASK, options={"max_tokens": N_TOKENS}).text for question, _ in paraphrases()
        ]
        figures["next_turn"] = share_right(texts)
        figures["next_turn_s"] = round((time.perf_counter() - begun) / len(texts), 2)
        say("next turn, from the fast memory", figures["next_turn"], f"at least {wanted.memory:.0%}")
        show_wrong(texts)
        if learns:
            figures |= learned(assistant, n_canary)
            say("from the weights alone", figures["weights"], f"at least {wanted.weights:.0%}")
            drop = figures["canary_drop"]
            say("canary drop", drop, f"at most {wanted.canary_drop:.0%}")
            canary.show(figures["canary"])
            print(f"  taught answers to {len(HELD_OUT_QUESTIONS)} unrelated questions: {figures['leaks']}", flush=True)
    ok = figures["before"] <= wanted.before and figures["next_turn"] >= wanted.memory
    if learns:
        ok &= figures["weights"] >= wanted.weights and drop <= wanted.canary_drop
    return figures, ok


def learned(assistant: Assistant, n_canary: int) -> dict[str, Any]:
    """Runs a learning cycle. Returns its outcome and what the weights alone know after it."""
    before = canary.ask(assistant, n_canary)
    seen: list[str] = []

    def tell(what: str, fraction: float) -> None:
        if not seen or seen[-1] != what:  # one line for each stage, not for each step
            seen.append(what)
            print(f"  {fraction:4.0%} {what}", flush=True)

    report = assistant.learn(TASK, on_progress=tell)
    print("  " + report.summary().replace("\n", "\n  "), flush=True)
    if not report.is_promoted:
        # A refused adapter is measured, too; the outcome is part of the figures.
        assistant.promote(report.adapter_id, force=True)
    texts = without_memory(assistant)
    show_wrong(texts)
    after = canary.ask(assistant, n_canary)
    return {
        "outcome": report.outcome,
        "minutes": round(report.seconds / 60, 1),
        "weights": share_right(texts),
        "retired": len(report.retired_ids),
        "leaks": n_leaks(assistant),
        "canary_drop": round(canary.drop(before, after), 4),
        "canary": canary.figures(before, after),
    }


def say(what: str, value: float, wanted: str) -> None:
    """Prints one line of the table."""
    print(f"  {what:34} {value:6.1%}   ({wanted})", flush=True)


def show_wrong(texts: Sequence[str]) -> None:
    """Prints the first five wrong answers."""
    wrong = [(q, a, t) for t, (q, a) in zip(texts, paraphrases(), strict=True) if not contains_answer(t, a)]
    for question, answer, text in wrong[:5]:
        print(f"      {question} | {answer} | {' '.join(text.split())[:90]!r}")


def main() -> None:
    """Prints the table and a JSON line for each model. Exits with 1 if a figure is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true", help="SmolLM2-135M only")
    parser.add_argument("--qwen", action="store_true", help="Qwen 0.5B only")
    parser.add_argument("--no-learn", action="store_true", help="the fast memory only")
    parser.add_argument("--canary", type=int, default=1000, help="most questions of each set of the canary")
    args = parser.parse_args()
    missed = False
    for wanted, is_chosen in ((SMALL, args.small or not args.qwen), (QWEN, args.qwen or not args.small)):
        if is_chosen:
            figures, ok = run(wanted, learns=not args.no_learn, n_canary=args.canary)
            missed |= not ok
            print(json.dumps({"bench": "facts", **figures}), flush=True)
    if missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
