"""kill -9 at any moment of a learning cycle: `python -m bench.kills_training [--n 20]`.

Child processes run cycles on the scripted task of the tests, which needs no model. Each is killed at a random moment of
its cycle: while it trains, evaluates or promotes. After each kill the champion must be the old one or the new one with
intact files, the database must open, and the next cycle must continue from the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the scripted tasks are those of the tests

from support.scripted_learner import NAME, Dictionary, open_assistant, teach

from smallai_assistant import AssistantError

ROOT = Path(__file__).parents[1]
SEED = 0
# What the child prints when it is to be killed, in turn. Half of the kills hit the training, which takes longest.
MOMENTS = ("step", "evaluating the candidate", "step", "evaluating what it learned", "step", "promoting")
# Slow enough that a kill hits a step, fast enough that 36 steps take a second.
STEP_S = 0.03
CHILD = f"""
import sys
from pathlib import Path
from support.scripted_learner import *
task = Dictionary(knobs=Knobs(step_s={STEP_S}))
with open_assistant(Path(sys.argv[1]), task) as it:
    print("ready", flush=True)
    it.learn(NAME, on_progress=lambda what, fraction: print(what, flush=True))
"""


def killed(folder: Path, moment: str, draw: random.Random) -> str:
    """Starts a cycle and kills it soon after it prints `moment`. Returns the last line it printed, or `done`."""
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        said = ""
        wait_for = draw.randrange(1, 30) if moment == "step" else 1
        for line in child.stdout:
            said = line.strip()
            wait_for -= said.startswith(moment)
            if not wait_for:
                break
        time.sleep(draw.uniform(0.0, 0.05))  # so that the kill hits any moment of what comes next
        child.kill()
        said = next((line.strip() for line in reversed(list(child.stdout)) if line.endswith("\n")), said)
    return "done" if child.returncode == 0 else said


def n_done(folder: Path) -> int:
    """Returns the number of steps that the checkpoint holds."""
    found = [json.loads(path.read_bytes())["done"] for path in (folder / "data/learning").rglob("checkpoint.json")]
    return max(found, default=0)


def main() -> int:
    """Prints what was hit and a JSON line. Returns 1 if a champion was damaged, or work was lost or never resumed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20, help="how many kills")
    n_kills = parser.parse_args().n
    draw = random.Random(SEED)
    hit: Counter[str] = Counter()
    n_damaged = n_lost = n_resumed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with open_assistant(folder) as assistant:
            teach(assistant, {"tea": "a hot drink", "rye": "a grain"})
            assistant.learn(NAME)
            before = assistant.adapters.champion_id(NAME)
        for number in range(n_kills):
            with open_assistant(folder) as assistant:
                words = (f"word{number}{letter}" for letter in "abcdef")
                teach(assistant, {word: f"the meaning of {word}" for word in words})
            what = killed(folder, MOMENTS[number % len(MOMENTS)], draw)
            hit["training" if what.startswith("step") else what] += 1
            saved = n_done(folder)
            task = Dictionary()
            with open_assistant(folder, task) as assistant:
                champion = assistant.adapters.champion_id(NAME)
                approved = {version.id for version in assistant.adapters.versions(NAME) if version.status == "approved"}
                try:
                    assistant.adapters.verify(str(champion))
                    n_damaged += champion != before and champion not in approved
                except AssistantError as error:
                    print(f"damaged: {error}")
                    n_damaged += 1
                # If the new champion serves already, there is nothing new to learn.
                if champion == before:
                    report = assistant.learn(NAME)
                    n_resumed += what.startswith("step") and task.steps[:1] == [saved]
                    n_lost += not report.is_promoted or (bool(task.steps) and task.steps[0] != saved)
                before = assistant.adapters.champion_id(NAME)
    print(f"{n_kills} kills, each in a cycle over 36 new examples")
    for what, n in hit.most_common():
        print(f"  while {what:28} {n:3}")
    print(f"champions damaged      {n_damaged:3}   (wanted 0)")
    print(f"trainings continued    {n_resumed:3}   (of those killed while training)")
    print(f"work lost              {n_lost:3}   (wanted 0: the next cycle begins at the checkpoint and is promoted)")
    figures = {"kills": n_kills, "hit": dict(hit), "damaged": n_damaged, "resumed": n_resumed, "lost": n_lost}
    print(json.dumps({"bench": "kills_training", **figures}))
    return 1 if n_damaged or n_lost or not n_resumed else 0


if __name__ == "__main__":
    sys.exit(main())
