"""Style learned from ratings alone: short answers are praised, long ones rejected: `python -m bench.style [--qwen]`.

The model answers sixty questions. Every second answer is stopped after its first sentence, so that both lengths occur.
A simulated user who likes short answers praises those of at most 25 words and rejects the others. After a learning
cycle forty other questions are asked. Compliance is the share of answers that end within 25 words without being
stopped. Nothing is corrected, and the instructions stay the same.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from bench import canary
from bench.canary import SYSTEM, TASK
from bench.facts import QWEN, SMALL, Wanted, opened
from smallai_assistant import Assistant, GenerationOptions, ModelSpec, TextModel
from smallai_chat.evaluation import RoutedModel
from smallai_chat.task import ChatTask

MAX_WORDS = 25
MIN_GAIN, MAX_DROP = 0.25, 0.01  # of compliance, and of the canary; both as shares
N_TOKENS = 90  # more than 25 words in any case, so that a long answer is not cut to a short one
FIRST_SENTENCE = (". ", ".\n", "\n")
# A hundred topics: the questions on the first sixty are rated, those on the last forty measure compliance.
TOPICS = """
photosynthesis;gravity;a volcano;the internet;a library;democracy;an earthquake;a piano;bread;rain;a vaccine;a bicycle
glass;a rainbow;money;sleep;a computer;steel;an orchestra;a desert;a battery;cotton;a glacier;honey;an atom;a novel
a bridge;snow;a telescope;paper;an island;a heart;coffee;wind;a map;a camera;salt;a museum;an airplane;music;a river
a forest;electricity;a clock;a mirror;chess;a train;the moon;a garden;a hospital;plastic;a university;a ship;fire;wool
a dictionary;a planet;a magnet;cheese;a robot;a satellite;oil;a school;the sun;a thermometer;a language;rubber;a tree
an engine;a hotel;a radio;a cloud;gold;a market;a fish;a passport;a sculpture;soap;a lake;tea;a lighthouse;a farm
a newspaper;concrete;a violin;a whale;an elevator;pepper;a calendar;a compass;silk;a theater;a microscope;rice;a tunnel
a kitchen;a wheel;chocolate;a dam;a poem
"""
N_TURNS, N_UNSEEN = 60, 40


def questions() -> list[str]:
    """Returns a hundred questions, of which the first sixty are rated."""
    topics = [topic.strip() for line in TOPICS.strip().splitlines() for topic in line.split(";")]
    forms = ("What is {}?", "Tell me about {}.", "Can you explain {}?")
    return [forms[number % 3].format(topic) for number, topic in enumerate(topics)]


def is_short(text: str) -> bool:
    """Whether an answer has at most 25 words, and is not empty."""
    return 0 < len(text.split()) <= MAX_WORDS


def compliance(assistant: Assistant, spec: ModelSpec, asked: Sequence[str]) -> float:
    """Returns the share of short answers to questions that were not rated."""
    options = GenerationOptions(max_tokens=N_TOKENS, repetition_penalty=1.1)
    task, champion = assistant.tasks[TASK], assistant.adapters.champion(TASK)
    assert isinstance(task, ChatTask)
    # Each question is answered by the weights that would answer it in a conversation.
    routes = dict(zip(asked, task.scopes.routes(champion, asked), strict=True))
    with assistant.models.lease(spec, TextModel) as model:
        texts = RoutedModel(model, champion, SYSTEM, routes).complete(asked, options)
    for text in texts[:3]:
        print(f"      {' '.join(text.split())[:110]!r}")
    return sum(map(is_short, texts)) / len(texts)


def run(wanted: Wanted, *, n_canary: int) -> tuple[dict[str, Any], bool]:
    """Returns the figures of a model, and whether all of them are met."""
    with opened(wanted) as (assistant, spec):
        n_up = 0
        for number, question in enumerate(questions()[:N_TURNS]):
            # Left alone, a small model hardly ever answers briefly: there would be nothing to praise.
            stop = FIRST_SENTENCE if number % 2 else ()
            style = {"max_tokens": N_TOKENS, "use_memory": False, "stop": stop}
            response = assistant.ask(question, task=TASK, options=style)
            n_up += is_short(response.text)
            response.rate(good=is_short(response.text))
        figures: dict[str, Any] = {"model": wanted.name, "thumbs_up": n_up, "thumbs_down": N_TURNS - n_up}
        print(f"  {n_up} thumbs up, {N_TURNS - n_up} down", flush=True)
        known = canary.ask(assistant, n_canary)
        figures["before"] = compliance(assistant, spec, questions()[N_TURNS : N_TURNS + N_UNSEEN])
        report = assistant.learn(TASK)
        print("  " + report.summary().replace("\n", "\n  "), flush=True)
        if not report.is_promoted:
            # A refused adapter is measured, too; the outcome is part of the figures.
            assistant.promote(report.adapter_id, force=True)
        figures["after"] = compliance(assistant, spec, questions()[N_TURNS : N_TURNS + N_UNSEEN])
        still_known = canary.ask(assistant, n_canary)
        figures["canary"] = canary.figures(known, still_known)
        figures["canary_drop"] = drop = round(canary.drop(known, still_known), 4)
        figures |= {"outcome": report.outcome, "minutes": round(report.seconds / 60, 1)}
    gain = figures["after"] - figures["before"]
    print(f"  short answers {figures['before']:.1%} before, {figures['after']:.1%} after: {100 * gain:+.1f} points")
    canary.show(figures["canary"])
    print(f"    (at least {100 * MIN_GAIN:+.0f})   canary drop {100 * drop:.1f} points (at most {100 * MAX_DROP:.0f})")
    return figures, gain >= MIN_GAIN and drop <= MAX_DROP


def main() -> None:
    """Prints the figures and a JSON line. Exits with 1 if a figure is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--qwen", action="store_true", help="Qwen 0.5B instead of SmolLM2-135M")
    parser.add_argument("--canary", type=int, default=1000, help="most questions of each set of the canary")
    args = parser.parse_args()
    figures, ok = run(QWEN if args.qwen else SMALL, n_canary=args.canary)
    print(json.dumps({"bench": "style", **figures}), flush=True)
    if not ok:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
