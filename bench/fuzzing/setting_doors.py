"""The door of the configuration: a TOML file and the environment."""

from __future__ import annotations

import os
from random import Random

from bench.fuzzing.door import Door, scratch
from bench.fuzzing.mutations import integer, mutate_bytes, text
from smallai_assistant.config import load_config

_FILE = """\
data_dir = "/tmp/x"
models_dir = "~/models"
database_url = ""
device = "cpu"
memory_budget_mb = 2_000
reply_to_speech = false
intent_threshold = 0.4
answer_timeout_s = 600.0
disabled_plugins = ["chat", 'image']

[models]
chat = "auto"
chat_quantization = "nf4"
embedding = "auto"

[tasks.text-generation]
max_tokens = 100
temperature = 0.5
stop = ["a", "b"]
[tasks."image-classification"]
top_k = 0x5
"""
# Values that some key takes: what is right by itself comes further than what is not TOML.
_FITTING = (
    '"auto"',
    '"cuda:1"',
    '"none"',
    '"int8"',
    "0",
    "1",
    "2000",
    "0.5",
    "1e3",
    "inf",
    "nan",
    "true",
    "[]",
    "['x']",
    "[1, 2]",
    "'~/x'",
    "'~nosuchuser/x'",
    '""',
    '"a\\u0000b"',
    "{}",
    "{ x = 1 }",
    "1979-05-27",
    "-1",
    "99999999999",
)
_TOKENS = (
    "[",
    "]",
    "[[",
    "{",
    "}",
    "=",
    ".",
    ",",
    '"',
    '"""',
    "'",
    "'''",
    "\n",
    "#",
    "\\u0000",
    "\\ud800",
    "\\U0011ffff",
    "1_000",
    "0o7",
    "inf",
    "-nan",
    "1979-05-27T07:32:00Z",
    "07:32:00",
    "true",
    "tasks",
    "models",
    "x",
    "_",
    "-",
    "\\",
)
_VARIABLES = (
    "SMALLAI_DEVICE",
    "SMALLAI_MEMORY_BUDGET_MB",
    "SMALLAI_MODELS__CHAT",
    "SMALLAI_MODELS",
    "SMALLAI_TASKS__X__Y",
    "SMALLAI_X",
    "SMALLAI_DATA_DIR",
    "SMALLAI_DISABLED_PLUGINS",
    "SMALLAI___",
    "SMALLAI_TASKS__X",
)


class Config(Door):
    """`load_config`, and the options of a task that are made of it."""

    name = "config"

    def samples(self) -> list[tuple[bytes, dict[str, str]]]:
        return [(_FILE.encode(), {"SMALLAI_DEVICE": "cpu"})]

    def make(self, rng: Random) -> tuple[bytes, dict[str, str]]:
        lines = _FILE.splitlines()
        for _ in range(rng.choice((1, 1, 2, 3))):
            at = rng.randrange(len(lines))
            kind = rng.randrange(9)
            if kind == 0 or kind > 5:
                key = lines[at].partition("=")[0]
                lines[at] = f"{key}= {_value(rng) if kind == 0 else rng.choice(_FITTING)}"
            elif kind == 1:
                lines.insert(at, rng.choice(lines))
            elif kind == 2:
                lines.insert(
                    at, f"{'.'.join(rng.choice(_TOKENS[-8:]) for _ in range(rng.choice((1, 2, 30))))} = {_value(rng)}"
                )
            elif kind == 3:
                line = lines[at]
                place = rng.randrange(len(line) + 1)
                n = rng.choice((1, 1, 2, 10, 500))
                lines[at] = line[:place] + "".join(rng.choice(_TOKENS) for _ in range(n)) + line[place:]
            elif kind == 4:
                lines.insert(
                    at, rng.choice(("[", "[[")) + rng.choice(("tasks", "models", "tasks.x.y", text(rng))) + "]"
                )
            else:
                lines[at] = f"x = {rng.choice('[{')}" * rng.choice((1, 100, 2_000))
        data = "\n".join(lines).encode("utf-8", "surrogatepass")
        if rng.random() < 0.3:
            data = mutate_bytes(rng, data, [data])
        variables = {}
        for _ in range(rng.choice((0, 0, 0, 1, 2))):
            value = rng.choice((text(rng), str(integer(rng)), "a,b", "nan"))
            # Neither NUL nor half a pair can stand in a variable.
            variables[rng.choice(_VARIABLES)] = value.replace("\0", "").replace("\ud800", "\udc80")
        return data, variables

    def enter(self, case: tuple[bytes, dict[str, str]]) -> None:
        from smallai_assistant import GenerationOptions
        from smallai_assistant.config import make_options

        data, variables = case
        path = scratch(self.folder, "config.toml", data)
        os.environ.update(variables)
        try:
            config = load_config(path)
            for values in config.tasks.values():
                make_options(GenerationOptions, values)
        finally:
            for name in variables:
                os.environ.pop(name, None)


def _value(rng: Random) -> str:
    return rng.choice(
        (
            lambda: str(integer(rng)),
            lambda: "9" * rng.choice((20, 400, 5_000)),
            lambda: "'" + text(rng) + "'",
            lambda: '"' + text(rng) + '"',
            lambda: rng.choice(_TOKENS),
            lambda: "[" * rng.choice((1, 50, 3_000)),
            lambda: "{a=" * rng.choice((1, 50, 1_000)),
            lambda: "[1, 'x', true]",
            lambda: "{ a = 1, b.c = 2 }",
        )
    )()
