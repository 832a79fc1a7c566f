"""Three learning cycles in a row, and what the last leaves of the first: `python -m bench.three_cycles [--qwen]`.

Each cycle teaches ten facts of one subject by correction and learns them into the weights. Then these facts and those
of the earlier subjects are asked in wordings that nobody taught, with the fast memory off. Backward transfer (Lopez-Paz
and Ranzato 2017) is the mean change of a subject's share of right answers from its own cycle to the last. The baseline
is plain sequential LoRA: one adapter of the same rank, trained at the same rate on the corrections of one subject after
the other.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.canary import SYSTEM, TASK, by_weights
from bench.facts import N_TOKENS, QWEN, SMALL, Wanted, fact_example, facts, opened
from smallai_assistant import Adapter, Assistant, ModelSpec
from smallai_assistant.types import now
from smallai_chat import training as recipe
from smallai_chat.dataset import sft_row

MIN_TRANSFER = -0.01  # one point, which the gate allows as well
# Numbers of the facts of `bench.facts`, ten for each subject.
SUBJECTS = {
    "people and firms": (2, 8, 12, 14, 19, 22, 24, 27, 28, 29),
    "places and things": (0, 1, 5, 9, 10, 17, 18, 21, 25, 26),
    "numbers and codes": (3, 4, 6, 7, 11, 13, 15, 16, 20, 23),
}
Fact = dict[str, Any]


def subjects() -> list[list[Fact]]:
    """Returns the facts of each subject."""
    every = facts()
    return [[every[number] for number in numbers] for numbers in SUBJECTS.values()]


def shares(assistant: Assistant, adapter: Adapter | None) -> list[float]:
    """Returns the share of each subject's paraphrases that the weights alone answer correctly."""
    found = []
    for rows in subjects():
        asked = [fact_example(question, row["answer"]) for row in rows for question in row["paraphrases"]]
        scores = by_weights(assistant, asked, adapter)
        found.append(sum(score.value for score in scores) / len(scores))
    return found


def transfer(table: Sequence[Sequence[float]]) -> float:
    """Computes the backward transfer of a table with a row for each cycle and a column for each subject."""
    last = len(table) - 1
    return sum(table[last][subject] - table[subject][subject] for subject in range(last)) / last


def ours(assistant: Assistant) -> tuple[list[list[float]], list[str]]:
    """Runs the three cycles. Returns their table and their outcomes."""
    table, outcomes = [], []
    for name, rows in zip(SUBJECTS, subjects(), strict=True):
        for row in rows:
            asked = {"max_tokens": N_TOKENS, "use_memory": False}
            assistant.ask(row["question"], task=TASK, options=asked).rate(correction=row["answer"])
        report = assistant.learn(TASK)
        outcomes.append(report.outcome)
        print("  " + report.summary().replace("\n", "\n  "), flush=True)
        table.append(shares(assistant, assistant.adapters.champion(TASK)))
        show(name, table[-1])
    return table, outcomes


def sequential(assistant: Assistant, spec: ModelSpec, folder: Path) -> list[list[float]]:
    """Trains one LoRA adapter on each subject after the other. Returns the table."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = recipe.load_base(assistant.models.folder_of(spec), spec, "cpu")
    table = []
    for number, (name, rows) in enumerate(zip(SUBJECTS, subjects(), strict=True)):
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=str(folder / "work"), use_cpu=True, bf16=False, gradient_checkpointing=False,
                learning_rate=recipe.SFT_RATE, num_train_epochs=12, per_device_train_batch_size=4, warmup_steps=2,
                completion_only_loss=True, save_strategy="no", report_to=[], disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=Dataset.from_list([sft_row(row["question"], row["answer"], SYSTEM) for row in rows]),
            processing_class=tokenizer,
            # From the second subject on the model has the adapter already, and training continues with it.
            peft_config=None if hasattr(model, "peft_config") else recipe.lora_config(),
        )  # fmt: skip
        trainer.train()
        model = trainer.model
        model.save_pretrained(str(folder / f"v{number}"))
        adapter = Adapter(f"sequential-{number}", TASK, "lora", folder / f"v{number}", {}, {}, now())
        table.append(shares(assistant, adapter))
        show(name, table[-1])
    return table


def show(name: str, row: Sequence[float]) -> None:
    """Prints a line of the table."""
    print(f"    after {name:20}" + "".join(f"{share:8.0%}" for share in row), flush=True)


def run(wanted: Wanted) -> dict[str, Any]:
    """Returns the figures of a model."""
    with opened(wanted) as (assistant, spec), tempfile.TemporaryDirectory() as folder:
        print(f"  columns: {', '.join(SUBJECTS)}", flush=True)
        print("  three cycles", flush=True)
        table, outcomes = ours(assistant)
        print("  plain sequential LoRA", flush=True)
        plain = sequential(assistant, spec, Path(folder))
    return {
        "model": wanted.name,
        "outcomes": outcomes,
        "table": table,
        "transfer": transfer(table),
        "sequential_table": plain,
        "sequential_transfer": transfer(plain),
    }


def main() -> int:
    """Prints the tables and a JSON line. Returns 1 if the backward transfer is below the limit."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--qwen", action="store_true", help="Qwen 0.5B instead of SmolLM2-135M")
    figures = run(QWEN if parser.parse_args().qwen else SMALL)
    print(
        f"  backward transfer {100 * figures['transfer']:+.1f} points (at least {100 * MIN_TRANSFER:+.0f}); "
        f"plain sequential LoRA {100 * figures['sequential_transfer']:+.1f}"
    )
    print(json.dumps({"bench": "three_cycles", **figures}), flush=True)
    return 0 if figures["transfer"] >= MIN_TRANSFER else 1


if __name__ == "__main__":
    raise SystemExit(main())
