"""A thousand people with weights of their own, eight of whom ask at once: `python -m bench.personal_adapters`.

Each person's version of dialogue has LoRA weights of the trained size and a scope of one question. In every round the
same eight people ask at the same moment, each the question in the scope; then eight people without weights of their own
ask the same. Both see the same models, the same process and the same load. The ratio is that of the medians of the time
to the first token. With `--rotate` five groups of eight take turns, so that weights are loaded and evicted.

The weights are random: how long they take does not depend on what they say. Those of the people who ask are files of
their own; the rest of the thousand share theirs on the disk (hard links).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bench.canary import TASK
from bench.facts import SMALL, opened
from smallai_assistant import Adapter, Assistant, LearningTask, ModelSpec
from smallai_assistant.learning.adapter_files import MANIFEST
from smallai_assistant.learning.champions import move
from smallai_assistant.learning.preparation import base_of
from smallai_assistant.models.files import file_sha256
from smallai_assistant.storage.schema import adapters

N_PEOPLE, N_AT_ONCE, N_ROUNDS, N_TOKENS = 1_000, 8, 12, 12
N_GROUPS = 5  # of eight people that take turns with `--rotate`: their weights together are more than are kept loaded
WEIGHTS = ("adapter_config.json", "adapter_model.safetensors")
WANTED_RATIO = 1.2
# So many rounds are made before the figures: models, sentence vectors and weights are loaded in them.
N_WARM = 2


def question(person: int) -> str:
    """The one question in a person's scope."""
    return f"What is the code of locker {person:04}?"


def make_weights(spec: ModelSpec, folder: Path) -> None:
    """Writes LoRA weights of the size that a cycle trains."""
    import torch
    from peft import get_peft_model

    from smallai_chat.training import load_base, lora_config

    torch.manual_seed(0)
    model, _ = load_base(folder, spec, "cpu")
    model = get_peft_model(model, lora_config())
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=1e-3)
    model.save_pretrained(str(folder.parent / "lora"))


def add_people(assistant: Assistant, spec: ModelSpec, n_own: int) -> None:
    """Registers and promotes a version for each person; the first `n_own` have files of their own."""
    task = assistant.tasks[TASK]
    assert isinstance(task, LearningTask)
    base = base_of(task)
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "base"
        copy.symlink_to(assistant.models.folder_of(spec))
        make_weights(spec, copy)
        weights = Path(name) / "lora"
        for person in range(n_own):
            with assistant.adapters.work_folder() as work:
                for file in WEIGHTS:
                    (work / file).write_bytes((weights / file).read_bytes())
                task.scopes.of_questions([question(person)]).save(work)  # type: ignore[attr-defined]
                audience = f"user:person {person}"
                made = assistant.adapters.add(work, task=TASK, kind="lora", base=base, audience=audience)
            assistant.adapters.promote(made.id, force=True)
    for person in range(n_own, N_PEOPLE):
        copy_version(assistant, made, person)


def copy_version(assistant: Assistant, of: Adapter, person: int) -> None:
    """Lets a copy of a version serve a person, with the same files on the disk. The registry would hash them again."""
    copied, audience = f"{of.id}-{person}", f"user:person {person}"
    folder = of.folder.parent / copied
    folder.mkdir()
    for file in of.files:
        os.link(of.folder / file, folder / file)
    manifest = json.loads((of.folder / MANIFEST).read_bytes()) | {"id": copied, "audience": audience}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    row = {"id": copied, "task": TASK, "audience": audience, "status": "approved", "report": "{}"}
    with assistant.database.write() as connection:
        digest = file_sha256(folder / MANIFEST)
        connection.execute(sa.insert(adapters).values(row | {"manifest_sha256": digest}))
        move(connection, TASK, copied, "promote", "bench", audience=audience)


def ask_at_once(assistant: Assistant, people: Sequence[int], *, own: bool, number: int) -> list[float]:
    """Lets people ask at the same moment. Returns the seconds to the first token of each.

    Args:
        own: False asks as people without weights of their own.
        number: of the round; it makes the words of a question new, so that no answer's cache holds them.
    """
    start = threading.Barrier(len(people))
    found: dict[int, float] = {}

    def ask(person: int) -> None:
        session = assistant.session(f"{'person' if own else 'guest'} {person}")
        text = f"{question(person)[:-1]}, please ({number})?" if number % 2 else question(person)
        start.wait()
        begun = time.perf_counter()
        response = session.send(text, task=TASK, options={"max_tokens": N_TOKENS, "use_memory": False})
        for _ in response:
            found.setdefault(person, time.perf_counter() - begun)
        if own != (response.turn.adapter is not None):
            raise RuntimeError(f"{text!r} was answered by {response.turn.adapter}")

    threads = [threading.Thread(target=ask, args=(person,)) for person in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(people)
    return [found[person] for person in people]


def run(*, rotate: bool) -> dict[str, Any]:
    """Returns the figures."""
    n_own = N_GROUPS * N_AT_ONCE if rotate else N_AT_ONCE
    times: dict[bool, list[float]] = {False: [], True: []}
    cold: list[float] = []
    with opened(SMALL) as (assistant, spec):
        begun = time.perf_counter()
        add_people(assistant, spec, n_own)
        print(f"  {N_PEOPLE:,} versions in {time.perf_counter() - begun:.0f} s", flush=True)
        begun = time.perf_counter()
        ids = [f"person {number}" for number in range(N_PEOPLE)]
        for name in ids:
            assistant.adapters.champion_ids(TASK, {"everyone", f"user:{name}"})
        lookup_ms = 1_000 * (time.perf_counter() - begun) / N_PEOPLE
        for number in range(N_WARM + N_ROUNDS):
            first = number % N_GROUPS * N_AT_ONCE if rotate else 0
            people = range(first, first + N_AT_ONCE)
            for own in (False, True) if number % 2 else (True, False):
                found = ask_at_once(assistant, people, own=own, number=number)
                if number >= N_WARM:
                    times[own] += found
                elif own:
                    cold += found if not number else []
            print(f"  round {number}: " + ", ".join(f"{value:.2f}" for value in times[True][-N_AT_ONCE:]), flush=True)
        used = sum(info.n_bytes for info in assistant.models.loaded())
        budget = assistant.models.budget_bytes
    base, own_s = statistics.median(times[False]), statistics.median(times[True])
    return {
        "n_people": N_PEOPLE,
        "n_at_once": N_AT_ONCE,
        "rotate": rotate,
        "first_token_without_s": round(base, 3),
        "first_token_with_s": round(own_s, 3),
        "ratio": round(own_s / base, 2),
        "p95_ratio": round(p95(times[True]) / p95(times[False]), 2),
        "first_token_cold_s": round(statistics.median(cold), 3),
        "lookup_ms": round(lookup_ms, 3),
        "used_mb": round(used / 2**20),
        "budget_mb": round(budget / 2**20),
        "peak_rss_mb": peak_rss_mb(),
    }


def p95(values: Sequence[float]) -> float:
    """The 95th percentile."""
    return sorted(values)[int(0.95 * (len(values) - 1))]


def peak_rss_mb() -> int:
    """The largest size of this process so far."""
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> int:
    """Prints a JSON line. Returns 1 if the ratio is missed or the memory is over the budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rotate", action="store_true", help="other eight people in each round")
    found = run(rotate=parser.parse_args().rotate)
    print(json.dumps(found))
    return int(found["ratio"] > WANTED_RATIO or found["used_mb"] > found["budget_mb"])


if __name__ == "__main__":
    raise SystemExit(main())
