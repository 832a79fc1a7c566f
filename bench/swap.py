"""Promotion and rollback while 50 answers are made: `python -m bench.swap [--scripted]`.

On the scripted task of the tests, and on SmolLM2-135M with LoRA adapters of random weights. Each round starts 50
streams on one version and, when all have begun, promotes another version or rolls back. Every stream must say, to its
last token, what its version says when it is asked alone, and its stored turn must name that version.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the scripted tasks are those of the tests

from support.scripted import ScriptedPlugin
from support.scripted_learner import BUILT_IN_PLUGINS, NAME, Dictionary, Knobs, open_assistant, write_json

from smallai_assistant import (
    Adapter,
    Assistant,
    Details,
    Example,
    Feedback,
    GenerationOptions,
    JudgedTurn,
    LearningTask,
    ModelRuntime,
    ModelSpec,
    Request,
    Score,
    TextModel,
    TextPart,
    Training,
    errors,
)

N_STREAMS, N_TOKENS = 50, 16
MAX_ROLLBACK_S = 1.0  # a rollback is the way out of a bad promotion: nobody should have to wait for it
SPEC = ModelSpec("smollm2-135m-instruct", task="text-generation")
QUESTIONS = [f"Write a line about {thing}." for thing in
             ("tea", "fog", "rye", "oak", "the sea", "a lamp", "chess", "snow", "a mill", "glass")]  # fmt: skip


class Chat(LearningTask):
    """Answers with the text model and the adapter that serves; it learns nothing itself."""

    name: ClassVar[str] = "swap"
    primary_metric: ClassVar[str] = "none"

    def run(self, request: Request, models: ModelRuntime) -> Iterator[Any]:
        adapter = self.context.adapters.champion(self.name)
        yield Details({"adapter": adapter.id if adapter is not None else None})
        with models.lease(SPEC, TextModel) as model:
            messages = [{"role": "user", "content": request.message.text}]
            options = GenerationOptions(max_tokens=N_TOKENS)
            for delta in model.generate(messages, options, cancel=request.cancel, adapter=adapter):
                yield TextPart(delta)

    def learn_now(self, judged_turn: JudgedTurn) -> str:
        return ""

    def rebuild(self, judged_turns: Sequence[JudgedTurn]) -> None: ...

    def base(self) -> Mapping[str, Any]:
        return {"model": SPEC.name}

    def examples(self, judged_turns: Sequence[JudgedTurn]) -> list[Example]:
        return []

    def train(self, training: Training) -> str:
        raise errors.NotEnoughData("it does not learn")

    def evaluate(self, examples: Sequence[Example], adapter: Adapter | None, models: ModelRuntime) -> list[Score]:
        return []


def add(assistant: Assistant, task: str, base: Mapping[str, Any], write: Callable[[Path], None]) -> str:
    """Registers an approved version of the files that `write` writes. Returns its id."""
    with assistant.adapters.work_folder() as folder:
        write(folder)
        adapter = assistant.adapters.add(folder, task=task, kind="lora", base=base)
    return assistant.adapters.judge(adapter.id, "approved", {}).id


def random_lora(model_folder: Path, seed: int) -> Callable[[Path], None]:
    """Returns a function that writes a LoRA of rank 16 on all linear layers."""

    def write(folder: Path) -> None:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        config = LoraConfig(r=16, lora_alpha=16, target_modules=layers, task_type="CAUSAL_LM")
        module = get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16), config)
        with torch.no_grad():
            for name, weight in module.named_parameters():
                if "lora_" in name:
                    weight.normal_(std=0.07)  # strong enough that every answer differs from the other version's
        module.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # peft's model card is not part of an adapter

    return write


def run_round(
    assistant: Assistant, task: str, expected: Mapping[str | None, Mapping[str, str]], move: Callable[[], object]
) -> dict[str, Any]:
    """Runs 50 streams, and calls `move` when all have begun.

    Args:
        expected: what each version says to each question when it is asked alone.
        move: promotes or rolls back.

    Returns:
        Seconds of the move, streams that it did not wait for, streams that went wrong, and seconds in all.
    """
    serving = assistant.adapters.champion_id(task)
    questions = list(expected[serving])
    begun = threading.Semaphore(0)
    wrong: list[str] = []
    ended: list[float] = []

    def converse(question: str) -> None:
        response = assistant.ask(question, task=task)
        text = ""
        for part in response:
            if not text:
                begun.release()
            text += part.text if isinstance(part, TextPart) else ""
        ended.append(time.perf_counter())
        if response.turn.adapter != serving or text != expected[serving][question]:
            wrong.append(f"{question!r} on {response.turn.adapter}: {text!r}, alone {expected[serving][question]!r}")

    threads = [threading.Thread(target=converse, args=(questions[n % len(questions)],)) for n in range(N_STREAMS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    # Only a stream that has said something is on a version for certain.
    for _ in threads:
        if not begun.acquire(timeout=300):
            raise SystemExit("a stream did not begin")
    moved = time.perf_counter()
    move()
    took_s = time.perf_counter() - moved
    now = assistant.adapters.champion_id(task)
    after = assistant.ask(questions[0], task=task)
    if after.text != expected[now][questions[0]] or after.turn.adapter != now:
        wrong.append(f"the next answer was {after.text!r} of {after.turn.adapter}, not of {now}")
    for thread in threads:
        thread.join()
    for line in wrong[:5]:
        print(f"  wrong: {line}")
    n_running = sum(at > moved for at in ended)
    total_s = time.perf_counter() - started
    return {"move_s": round(took_s, 3), "n_running": n_running, "n_wrong": len(wrong), "total_s": round(total_s, 1)}


def rounds(assistant: Assistant, task: str, versions: Sequence[str], questions: Sequence[str]) -> dict[str, Any]:
    """Promotes the second of two versions and rolls back to the first, each while 50 streams run."""
    expected: dict[str | None, dict[str, str]] = {}
    for version in versions:
        assistant.promote(version)
        expected[version] = {question: assistant.ask(question, task=task).text for question in questions}
    if len({json.dumps(answers) for answers in expected.values()}) != len(expected):
        raise SystemExit("the versions say the same: nothing could be told apart")
    first, second = versions
    assistant.rollback(task, to=first)
    moves: dict[str, Callable[[], object]] = {
        "promote": lambda: assistant.promote(second),
        "rollback": lambda: assistant.rollback(task),
    }
    found = {}
    for what, move in moves.items():
        row = found[what] = run_round(assistant, task, expected, move)
        wanted = f"at most {MAX_ROLLBACK_S:.0f} s" if what == "rollback" else "told"
        print(f"  {what:8} {row['move_s']:7.3f} s ({wanted}); {row['n_running']} streams ran on, "
              f"{row['n_wrong']} mixed versions (wanted 0); {row['total_s']:.1f} s in all", flush=True)  # fmt: skip
    return found


def scripted(folder: Path) -> dict[str, Any]:
    """Runs the rounds on the dictionary of the tests: 16 words, 20 ms apart."""
    task = Dictionary(knobs=Knobs(word_s=0.02))
    with open_assistant(folder, task) as assistant:
        subjects = [question.split()[-1].strip(".") for question in QUESTIONS]

        def table(number: int) -> Callable[[Path], None]:
            words = {word: " ".join([f"{word}{number}"] * N_TOKENS) for word in subjects}
            return lambda folder: write_json(folder / "table.json", words)

        versions = [add(assistant, NAME, task.base(), table(number)) for number in range(2)]
        # A promotion probes the new version with a message of the feedback; without one it would not be probed.
        probe = assistant.ask("what of tea", task=NAME).turn
        assistant.give_feedback(Feedback(probe.id, is_good=True))
        return rounds(assistant, NAME, versions, [f"say all of {word}" for word in subjects])


def real(folder: Path) -> dict[str, Any]:
    """Runs the rounds on SmolLM2-135M in bfloat16 with two LoRA adapters."""
    with Assistant(plugins=[ScriptedPlugin(Chat())], disabled_plugins=BUILT_IN_PLUGINS, data_dir=folder) as assistant:
        model_folder = assistant.catalog.resolve(SPEC.name)
        base = {"model": SPEC.name}
        versions = [add(assistant, "swap", base, random_lora(model_folder, seed)) for seed in range(2)]
        probe = assistant.ask(QUESTIONS[0], task="swap").turn
        assistant.give_feedback(Feedback(probe.id, is_good=True))
        return rounds(assistant, "swap", versions, QUESTIONS[:5])


def main() -> int:
    """Prints the rounds and a JSON line. Returns 1 if a stream mixed versions or a rollback took over a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scripted", action="store_true", help="only the task without a model")
    only_scripted = parser.parse_args().scripted
    figures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        print(f"scripted: {N_STREAMS} streams of {N_TOKENS} tokens a round")
        figures["scripted"] = scripted(Path(folder) / "scripted")
        if not only_scripted:
            print(f"{SPEC}: {N_STREAMS} streams of {N_TOKENS} tokens a round", flush=True)
            figures["smollm2-135m"] = real(Path(folder) / "real")
    is_fine = True
    for found in figures.values():
        for what, row in found.items():
            # If no stream was running after the move, the round showed nothing.
            is_fine &= row["n_wrong"] == 0 and row["n_running"] > 0
            is_fine &= what != "rollback" or row["move_s"] <= MAX_ROLLBACK_S
    print(json.dumps({"bench": "swap", **figures}))
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
