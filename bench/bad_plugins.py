"""Installs bad plugins, one after the other, and runs commands beside each: `python -m bench.bad_plugins [NAME ...]`.

Each plugin has one fault. Every command must end in time, print JSON and nothing else, keep its turns, and name the
plugin as soon as its fault shows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS = ("chat", "image", "speech", "recommend")
MAX_COMMAND_S = 45.0  # an import that hangs takes 20 s, beside the start of the command on a busy machine
TASK = """
from smallai_assistant import *
class Bad(Task):
    name = "bad"
    def run(self, request, models):
        {run}
class Plugin:
    @hookimpl
    def register_tasks(self, register):
        register(Bad())
    {hook}
plugin = Plugin()
"""
GOOD = """
from smallai_assistant import *
class Chat(Task):
    name = "text-generation"
    def run(self, request, models):
        yield TextPart("an answer")
class Look(Task):
    name = "image-classification"
    accepts = (frozenset({"image"}),)
    def run(self, request, models):
        yield LabelPart("cat", 1, 0.9)
@hookimpl
def register_tasks(register):
    register(Chat())
    register(Look())
"""
PNG = b"\x89PNG any bytes: the task does not look"
FOR_EVER = "__import__('threading').Event().wait(900)"
NOISE = (
    "print('noise', flush=True); __import__('os').write(1, b'noise'); __import__('ctypes').CDLL(None).puts(b'noise')"
)
LAST_WORD = "import atexit, os; atexit.register(lambda: os.write(1, b'noise'))"

START, ANSWER, CHOICE, FEEDBACK, NOWHERE = "every command", "its answers", "choices", "feedback", "nowhere: it works"


@dataclass(frozen=True, slots=True)
class Bad:
    """A plugin with one fault.

    Attributes:
        shows: where the fault shows, and the plugin must be named.
        label: the name that must be told, if it is not `bad`.
    """

    source: str
    shows: str = START
    label: str = "bad"
    entry_points: str = ""


def task(run: str = "yield TextPart('fine')", hook: str = "") -> str:
    """The source of a plugin with a task and perhaps a further hook."""
    return TASK.format(run=run, hook=f"@hookimpl\n    {hook}" if hook else "")


def observer(body: str) -> str:
    """The source of a plugin that observes turns and feedback."""
    return task(
        hook=f"def turn_finished(self, turn): {body}\n    @hookimpl\n    def feedback_given(self, feedback): {body}"
    )


BAD = {
    "import hangs": Bad(FOR_EVER),
    "import exits": Bad("import sys; sys.exit(3)"),
    "import ends the process": Bad("import os; os._exit(0)"),
    "import crashes": Bad("import ctypes; ctypes.string_at(0)"),
    "import aborts": Bad("import os; os.abort()"),
    "import raises": Bad("1 / 0"),
    "import presses Ctrl-C": Bad("raise KeyboardInterrupt"),
    "import is no Python": Bad("def broken(:"),
    "import prints": Bad(f"{NOISE}\n{task()}", NOWHERE),
    "import prints at the end": Bad(
        f"import atexit, os; atexit.register(lambda: os.write(1, b'noise'))\n{task()}", NOWHERE
    ),
    "name of another plugin": Bad(task(), label="good (z-bad 1.0)", entry_points="good = bad_plugin:plugin"),
    "task of another plugin": Bad(
        task().replace('"bad"', '"text-generation"'), label="zz", entry_points="zz = bad_plugin:plugin"
    ),
    "entry points malformed": Bad(task(), label="z-bad 1.0", entry_points="bad"),
    "registration hangs": Bad(task().replace("register(Bad())", FOR_EVER)),
    "registration crashes": Bad(task().replace("register(Bad())", "__import__('ctypes').string_at(0)")),
    "hook unknown": Bad(task(hook="def turn_finnished(self, turn): pass")),
    "setup hangs": Bad(task().replace("    def run", f"    def setup(self, context): {FOR_EVER}\n    def run")),
    "close hangs": Bad(task().replace("    def run", f"    def close(self): {FOR_EVER}\n    def run")),
    "run hangs": Bad(task(f"yield TextPart('x'); {FOR_EVER}"), ANSWER),
    "run returns None": Bad(task("return None"), ANSWER),
    "run yields a number": Bad(task("yield 42"), ANSWER),
    "run yields no text": Bad(task("yield TextPart(None)"), ANSWER),
    "run yields NaN": Bad(task("yield LabelPart('cat', 1, float('nan'))"), ANSWER),
    "run yields no JSON": Bad(task("yield Details({'a': {1, 2}})"), ANSWER),
    "run exits": Bad(task("yield TextPart('x'); raise SystemExit(0)"), ANSWER),
    "run presses Ctrl-C": Bad(task("yield TextPart('x'); raise KeyboardInterrupt"), ANSWER),
    "run prints": Bad(task(f"{NOISE}; yield TextPart('fine')"), NOWHERE),
    "run leaves threads": Bad(
        task(f"__import__('threading').Thread(target=lambda: {FOR_EVER}, daemon=True).start(); yield TextPart('fine')"),
        NOWHERE,
    ),
    "observer hangs": Bad(observer(FOR_EVER), FEEDBACK),
    "observer raises": Bad(observer("1 / 0"), NOWHERE),
    "observer exits": Bad(observer("raise SystemExit(0)"), NOWHERE),
    "observer is slow": Bad(observer("__import__('time').sleep(0.5)"), NOWHERE),
    "observer prints": Bad(observer(NOISE), NOWHERE),
    "choice raises": Bad(task(hook="def choose_task(self, message): 1 / 0"), CHOICE),
    "choice hangs": Bad(task(hook=f"def choose_task(self, message): {FOR_EVER}"), CHOICE),
    "choice is unknown": Bad(task(hook="def choose_task(self, message): return 'nothing'"), CHOICE),
}


@dataclass(slots=True)
class Result:
    """What the commands did beside one plugin."""

    problems: list[str]
    worst_s: float = 0.0
    named_in: int = 0
    n_commands: int = 0


def install(site: Path, distribution: str, module: str, source: str, entry_points: str) -> None:
    """Writes a distribution with one plugin."""
    (site / f"{module}.py").write_text(source)
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[smallai_assistant]\n{entry_points}\n")


class Machine:
    """A folder with a good and a bad plugin, and a data directory."""

    def __init__(self, folder: Path, bad: Bad) -> None:
        self.bad, self.result = bad, Result([])
        self.picture = folder / "cat.png"
        self.picture.write_bytes(PNG)
        site = folder / "site"
        site.mkdir()
        install(site, "x-good", "good_plugin", GOOD, "good = good_plugin")
        install(site, "z-bad", "bad_plugin", bad.source, bad.entry_points or _entry_point(bad))
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SMALLAI_")},
            "PYTHONPATH": f"{site}{os.pathsep}{Path.cwd()}",
            "XDG_CONFIG_HOME": str(folder),
            "SMALLAI_DATA_DIR": str(folder / "data"),
            "SMALLAI_DISABLED_PLUGINS": ",".join(OURS),
            "SMALLAI_ANSWER_TIMEOUT_S": "2",
        }

    def run(self, *words: str, names: bool = False, may_fail: bool = False) -> list[dict[str, Any]]:
        """Runs a command with `--json` and checks it. Returns the objects that it printed.

        Args:
            names: it must name the plugin.
            may_fail: it may end with a typed error that names the plugin.
        """
        result, told = self.result, " ".join(words[:2])
        result.n_commands += 1
        begun = time.perf_counter()
        command = [sys.executable, "-m", "smallai_assistant.cli", *words, "--json"]
        try:
            done = subprocess.run(
                command, env=self.env, capture_output=True, text=True, check=False, timeout=2 * MAX_COMMAND_S
            )
        except subprocess.TimeoutExpired:
            result.problems.append(f"{told} hangs")
            return []
        seconds = time.perf_counter() - begun
        result.worst_s = max(result.worst_s, seconds)
        is_named = self.bad.label in done.stdout + done.stderr
        result.named_in += is_named
        try:
            rows = [json.loads(line) for line in done.stdout.splitlines()]
        except ValueError:
            result.problems.append(f"{told} printed {done.stdout[:80]!r}")
            return []
        failed = done.returncode not in (0, 1) or (done.returncode == 1 and not may_fail)
        if failed or "Traceback" in done.stderr or "internal error" in done.stderr:
            result.problems.append(f"{told} ended with {done.returncode}: {done.stderr.strip()[-200:]}")
        if names and not is_named:
            result.problems.append(f"{told} did not name it")
        if seconds > MAX_COMMAND_S:
            result.problems.append(f"{told} took {seconds:.0f} s")
        return rows


def _entry_point(bad: Bad) -> str:
    return "bad = bad_plugin:plugin" if "plugin = Plugin()" in bad.source else "bad = bad_plugin"


def check(machine: Machine) -> Result:
    """Runs the commands beside a bad plugin."""
    shows, run = machine.bad.shows, machine.run
    always = shows == START
    run("plugins", names=always)
    (answer,) = run("ask", "hello", "--task", "text-generation", names=always or shows == FEEDBACK) or [{}]
    run("classify", str(machine.picture), names=always)
    n_turns = 2
    if not always:  # the task of the plugin can be asked, and the message can be for either
        run("ask", "hello", "--task", "bad", names=shows == ANSWER, may_fail=shows == ANSWER)
        run("ask", "hello", names=shows == CHOICE, may_fail=shows == CHOICE)
        n_turns += 1 + (shows != CHOICE)  # a message for which no task was chosen is no turn
    if "turn_id" in answer:
        run("feedback", "add", answer["turn_id"], "--good", names=always or shows == FEEDBACK)
    stored = sum(row["n_turns"] for row in run("sessions", "list", names=always))
    if stored != n_turns:
        machine.result.problems.append(f"{stored} turns are stored, {n_turns} were made")
    # Models are missing in this data directory's configuration, or not: doctor may end with 1.
    run("doctor", names=always or shows == FEEDBACK, may_fail=True)
    return machine.result


def main() -> int:
    """Prints the table and the JSON line. Returns 1 if a command failed."""
    names = sys.argv[1:] or list(BAD)
    n_right, n_commands, worst_s = 0, 0, 0.0
    print(f"{'plugin':26} {'must be named in':20} {'named in':>10} {'slowest':>9}")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            result = check(Machine(Path(folder), BAD[name]))
        n_right += not result.problems
        n_commands += result.n_commands
        worst_s = max(worst_s, result.worst_s)
        share = f"{result.named_in} of {result.n_commands}"
        print(f"{name:26} {BAD[name].shows:20} {share:>10} {result.worst_s:7.1f} s", flush=True)
        for problem in result.problems:
            print(f"    {problem}", flush=True)
    figures = {"plugins": len(names), "right": n_right, "commands": n_commands, "slowest_s": round(worst_s, 1)}
    print(json.dumps({"bench": "bad_plugins", **figures}))
    return 0 if n_right == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
