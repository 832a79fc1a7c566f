"""How far a correction reaches: `python -m bench.scope [--tune] [--show]`.

Every taught question of `scope_unseen.jsonl` is asked in other words, which should find it, and beside it near misses,
which should not: another place, number, day, month, person, unit or subject, a negation, an opposite, something
unrelated. And the project's own questions of general knowledge are asked of a memory that holds all taught questions in
English.
`--tune` asks the half that the decider was made with; `--show` prints what went wrong.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from bench.questions import MODELS, CachedModel, Pair, embedding_model, pairs
from smallai_assistant import EmbeddingModel, Feedback, JudgedTurn, Message, TextPart, Turn
from smallai_assistant.types import new_id, now
from smallai_chat.examples import own_questions
from smallai_chat.follow_up import whole_question
from smallai_chat.memory import ChatMemory
from smallai_chat.same_question import texts_of

TASK = "text-generation"
N_TIMED = 40


def is_found(memory: ChatMemory, taught: str, asked: str) -> bool:
    """Whether a memory that knows only the taught question shows its answer to the one asked."""
    memory.replace([judged(taught)])
    return bool(memory.retrieve(asked).shown)


def judged(question: str) -> JudgedTurn:
    """Returns a corrected turn."""
    turn = Turn(new_id(), "s", None, TASK, Message((TextPart(question),)), (TextPart("I do not know."),), now())
    return JudgedTurn(Feedback(turn.id, task=TASK, correction="so it is"), turn)


def shares(asked: Sequence[tuple[Pair, bool]], attribute: str) -> dict[str, float]:
    """Returns the share of found ones by language or kind."""
    found: defaultdict[str, list[bool]] = defaultdict(list)
    for pair, is_hit in asked:
        found[getattr(pair, attribute)].append(is_hit)
    return {name: round(sum(hits) / len(hits), 4) for name, hits in found.items()}


def measured(model: EmbeddingModel, half: str, *, shows: bool) -> dict[str, Any]:
    """Returns the figures of an embedding model on one half."""
    cached: Any = CachedModel(model)
    cached.embed([text for pair in pairs(half) for text in texts_of(pair.stored, pair.asked, pair.language)])
    memory = ChatMemory(lambda: nullcontext(cached))
    asked = [(pair, is_found(memory, pair.stored, pair.asked)) for pair in pairs(half)]
    same = [row for row in asked if row[0].kind == "same"]
    others = [row for row in asked if row[0].kind not in {"same", "another row"}]
    rows = [row for row in asked if row[0].kind == "another row"]
    for pair, is_hit in asked:
        if shows and is_hit != (pair.kind == "same"):
            print(f"      {pair.language} {pair.kind}: {pair.stored} | {pair.asked}")
    return {
        "hits": shares(same, "language"),
        "false_hits": shares(others, "language"),
        "false_hits_by_kind": shares(others, "kind"),
        "n_same": len(same),
        "n_others": len(others),
        "false_rows": round(sum(hit for _, hit in rows) / len(rows), 4),
        "hit": round(sum(hit for _, hit in same) / len(same), 4),
        "false_hit": round(sum(hit for _, hit in others) / len(others), 4),
    }


def follow_ups(model: EmbeddingModel) -> dict[str, float]:
    """Returns how often a corrected follow-up is found in the same sense elsewhere, and in another sense."""
    memory = ChatMemory(lambda: nullcontext(model))
    lines = Path(__file__).with_name("follow_ups.jsonl").read_text(encoding="utf-8").splitlines()
    hits, false_hits = [], []
    for row in map(json.loads, lines):
        taught = whole_question(row["taught"], row["before"])
        hits.append(is_found(memory, taught, whole_question(row["same"], row["same_before"])))
        false_hits.append(is_found(memory, taught, whole_question(row["other"], row["other_before"])))
    n = len(hits)
    return {"n": n, "hit": round(sum(hits) / n, 4), "false_hit": round(sum(false_hits) / n, 4)}


def false_general(model: EmbeddingModel, half: str) -> float:
    """Returns the share of questions of general knowledge at which a taught answer is shown."""
    cached: Any = CachedModel(model)
    memory = ChatMemory(lambda: nullcontext(cached))
    taught = {pair.stored for pair in pairs(half) if pair.language == "en"}
    memory.replace([judged(question) for question in sorted(taught)])
    asked = sorted(own_questions())
    cached.embed(asked)
    return round(sum(bool(memory.retrieve(question).shown) for question in asked) / len(asked), 4)


def ms_per_turn(model: EmbeddingModel, half: str) -> float:
    """Returns the median time of a question beside 30 taught ones, in milliseconds, sentence vector included."""
    memory = ChatMemory(lambda: nullcontext(model))
    english = [pair for pair in pairs(half) if pair.language == "en"]
    memory.replace([judged(question) for question in list(dict.fromkeys(pair.stored for pair in pairs(half)))[:30]])
    memory.retrieve("warm up")
    times = []
    for pair in english[:N_TIMED]:
        begun = time.perf_counter()
        memory.retrieve(pair.asked)
        times.append(time.perf_counter() - begun)
    return round(1000 * sorted(times)[len(times) // 2], 1)


def show(name: str, half: str, figures: Mapping[str, Any]) -> None:
    """Prints one model's table."""
    print(f"{name}, {half} half: {figures['n_same']} in other words, {figures['n_others']} others", flush=True)
    for language, share in figures["hits"].items():
        print(f"  {language:3} found {share:6.1%}, false {figures['false_hits'][language]:6.1%}")
    print(
        "  false by kind: " + ", ".join(f"{kind} {share:.1%}" for kind, share in figures["false_hits_by_kind"].items())
    )
    print(f"  all found {figures['hit']:.1%}, false {figures['false_hit']:.1%}", end=", ")
    print(f"other rows {figures['false_rows']:.1%}, general knowledge {figures['false_general']:.1%}", end=", ")
    print(f"{figures['ms']} ms a turn", flush=True)


def main() -> None:
    """Prints the tables and a JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tune", action="store_true", help="also the half that the decider was made with")
    parser.add_argument("--show", action="store_true", help="print what went wrong in the tuning half")
    args = parser.parse_args()
    halves = ["unseen", *(["tune"] if args.tune else [])]
    out: dict[str, Any] = {}
    for name in MODELS:
        with embedding_model(name) as model:
            if model is None:
                continue
            out[f"{name.split('-')[1]}_follow_ups"] = found = follow_ups(model)
            print(f"{name}: {found['n']} follow-ups, found {found['hit']:.1%}, false {found['false_hit']:.1%}")
            for half in halves:
                figures = measured(model, half, shows=args.show and half == "tune")
                figures["false_general"] = false_general(model, half)
                figures["ms"] = ms_per_turn(model, half)
                show(name, half, figures)
                out[f"{name.split('-')[1]}_{half}"] = figures
    print(json.dumps({"bench": "scope", **out}), flush=True)


if __name__ == "__main__":
    main()
