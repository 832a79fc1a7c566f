"""A cycle over thirty corrections and seventy thumbs: `python -m bench.mixed_cycle [--qwen] [--seeds N]`.

The feedback is that of `bench.learn_while_chatting`: thirty invented facts are corrected, 35 short answers praised and
35 long ones rejected. Each seed trains on the bare base and is judged by the gate. Wanted: what corrections taught and
what ratings taught are both promoted, the facts are known from the weights alone, answers to other questions become
short, and the canary keeps its level.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from bench import canary
from bench.canary import TASK
from bench.facts import QWEN, SMALL, Wanted, n_leaks, opened, share_right, without_memory
from bench.learn_while_chatting import N_THUMBS, collect
from bench.style import MIN_GAIN, compliance, questions
from smallai_assistant import Assistant, ModelSpec
from smallai_assistant.learning.learner import CycleOptions

MIN_FACTS = {SMALL.name: 0.85, QWEN.name: 0.95}  # share of right paraphrases
MAX_DROP = 0.01  # of the canary, as a share
NAMES = ("corrections", "ratings")


def run(wanted: Wanted, *, n_seeds: int, n_canary: int) -> tuple[list[dict[str, Any]], bool]:
    """Returns the figures of each seed, and whether all of them are met."""
    rows = []
    with opened(wanted) as (assistant, spec):
        print(f"  {collect(assistant)} rows", flush=True)
        known = canary.ask(assistant, n_canary)
        before = compliance(assistant, spec, questions()[N_THUMBS:])
        for seed in range(n_seeds):
            figures = {"model": wanted.name, "seed": seed, "style_before": before, **cycle(assistant, spec, seed)}
            still_known = canary.ask(assistant, n_canary)
            figures |= {"canary_drop": round(canary.drop(known, still_known), 4)}
            figures |= {"canary": canary.figures(known, still_known)}
            show(figures, wanted)
            rows.append(figures)
            if assistant.adapters.champion_id(TASK) is not None:
                assistant.rollback(TASK, to="none")
    return rows, all(is_met(figures, wanted) for figures in rows)


def cycle(assistant: Assistant, spec: ModelSpec, seed: int) -> dict[str, Any]:
    """Runs a cycle. Returns its outcome, and what the weights alone know and how briefly they answer."""
    report = assistant.learn(TASK, CycleOptions(seed=seed))
    print("  " + report.summary().replace("\n", "\n  "), flush=True)
    if not report.is_promoted:
        # A refused version is measured, too; the outcome is part of the figures.
        assistant.promote(report.adapter_id, force=True)
    return {
        "outcome": report.outcome,
        "verdicts": {component.name: component.verdict for component in report.components},
        "minutes": round(report.seconds / 60, 1),
        "facts": round(share_right(without_memory(assistant)), 4),
        "leaks": n_leaks(assistant),
        "style_after": compliance(assistant, spec, questions()[N_THUMBS:]),
        "slices": {found.title: round(100 * found.change, 1) for found in report.slices},
    }


def is_met(figures: dict[str, Any], wanted: Wanted) -> bool:
    """Whether a seed reaches the figures."""
    return bool(
        figures["outcome"] == "promoted"
        and all(figures["verdicts"].get(name) == "approved" for name in NAMES)
        and figures["facts"] >= MIN_FACTS[wanted.name]
        and figures["style_after"] - figures["style_before"] >= MIN_GAIN
        and figures["canary_drop"] <= MAX_DROP
    )


def show(figures: dict[str, Any], wanted: Wanted) -> None:
    """Prints the figures of a seed."""
    verdicts = ", ".join(f"{name} {verdict}" for name, verdict in figures["verdicts"].items())
    gain = 100 * (figures["style_after"] - figures["style_before"])
    print(f"  seed {figures['seed']}: {figures['outcome']} in {figures['minutes']} minutes; {verdicts}", flush=True)
    print(f"    facts {figures['facts']:.1%} (at least {MIN_FACTS[wanted.name]:.0%}), leaks {figures['leaks']}")
    print(f"    short answers {figures['style_before']:.1%} to {figures['style_after']:.1%}: {gain:+.1f} points")
    canary.show(figures["canary"])
    print(json.dumps({"bench": "mixed_cycle", **figures}), flush=True)


def main() -> None:
    """Prints the figures and a JSON line for each seed. Exits with 1 if a figure is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--qwen", action="store_true", help="Qwen 0.5B instead of SmolLM2-135M")
    parser.add_argument("--seeds", type=int, default=3, help="number of cycles")
    parser.add_argument("--canary", type=int, default=252, help="most questions of each set of the canary")
    args = parser.parse_args()
    rows, ok = run(QWEN if args.qwen else SMALL, n_seeds=args.seeds, n_canary=args.canary)
    n_both = sum(all(verdict == "approved" for verdict in figures["verdicts"].values()) for figures in rows)
    print(f"  both components promoted: {n_both} of {len(rows)} seeds")
    if not ok:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
