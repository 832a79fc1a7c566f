"""The fuzzer finds what it is for, and the cheap doors stand some hundred inputs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bench import fuzz
from bench.fuzzing import formats, worker
from bench.fuzzing.door import Door
from bench.fuzzing.doors import DOORS, open_door
from bench.fuzzing.media_doors import Pictures
from bench.fuzzing.mutations import mutate_json
from smallai_assistant import InvalidInput

N_INPUTS = 200
SLOW = {"load", "template", "tokenizer"}


@pytest.mark.parametrize("name", [name for name in DOORS if name not in SLOW])
def test_a_door_raises_typed_errors_only(name: str, tmp_path: Path) -> None:
    door = open_door(name, tmp_path)
    try:
        for sample in door.samples():
            door.enter(sample)
        # The bench counts from 0; these seeds are not among those of its usual run.
        for seed in range(10**9, 10**9 + N_INPUTS):
            _, error = worker.try_case(door.enter, worker.case_of(door, seed))
            assert error is None, f"python -m bench.fuzz --door {name} --seed {seed}"
    finally:
        door.close()


def test_a_seed_always_gives_the_same_input(tmp_path: Path) -> None:
    for name in ("pictures", "sounds", "items", "gguf"):
        cases = []
        for number in range(2):
            (tmp_path / f"{name}{number}").mkdir()
            door = open_door(name, tmp_path / f"{name}{number}")
            cases.append([worker.case_of(door, seed) for seed in range(50)])
            door.close()
        assert cases[0] == cases[1]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pieces_are_put_together_as_they_were(kind: str, tmp_path: Path) -> None:
    door = Pictures(tmp_path)
    split, join = door.formats[kind]
    for data in door.files[kind]:
        assert join(split(data)) == data


def test_a_page_of_ogg_has_its_checksum() -> None:
    page = b"OggS" + bytes(22) + b"\x01\x03abc"
    assert formats.split_ogg(formats.join_ogg(formats.split_ogg(page)))[0][1] == b"abc"


def test_a_changed_tree_leaves_the_old_one() -> None:
    tree = {"a": [1, {"b": "c"}], "d": None}
    before = json.dumps(tree)
    for seed in range(200):
        mutate_json(Random(seed), tree)
    assert json.dumps(tree) == before


class Faulty(Door):
    """A door with every fault; the seed tells which."""

    name = "faulty"

    def samples(self) -> list[Any]:
        return []

    def make(self, rng: Random) -> str:
        raise NotImplementedError

    def enter(self, case: str) -> None:
        if case == "typed":
            raise InvalidInput("no")
        if case == "untyped":
            raise KeyError("x")
        if case == "slow":
            begun = time.process_time()
            while time.process_time() - begun < 2.1:
                pass
        if case == "large":
            _ = b"x" * (400 * 2**20)
        if case == "endless":
            while True:
                pass
        if case == "crash":
            __import__("ctypes").string_at(0)


# Run as a worker, with the door above in the table.
AS_WORKER = """
import sys
from bench.fuzzing import worker
from tests.bench import test_fuzz
worker.open_door = lambda name, folder: test_fuzz.Faulty(folder)
worker.case_of = lambda door, seed: ["typed", "untyped", "slow", "large", "endless", "fine", "crash", "fine"][seed]
worker.main()
"""


def test_each_fault_is_found_with_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    start = subprocess.Popen

    def started(words: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return start([sys.executable, "-c", AS_WORKER, *words[3:]], **options)

    monkeypatch.setattr(fuzz.subprocess, "Popen", started)
    result = fuzz.Result()
    fuzz.fuzz("faulty", 0, 8, lambda n_done, n_faults: None, result)
    found = {seed: kind for kind, seeds in result.seeds.items() for seed in seeds}
    assert found.pop(1).startswith("KeyError at ")
    assert found == {2: "over 2 s", 3: "over 300 MB", 4: "takes for ever", 6: "crash (SIGSEGV)"}
    assert (result.inputs, result.refused, result.faults.total()) == (8, 1, 5)
