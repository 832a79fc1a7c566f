"""The order of the checks: imports, declarations, then each task in an assistant without other plugins.

Most checks are functions that return what is wrong, and are named after it: `heavy_imports`, `late_stop`. Here every
check gets its name in the report and a hint that says what to do.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from smallai_assistant import types
from smallai_assistant.assistant import Assistant
from smallai_assistant.errors import nearest
from smallai_assistant.plugin_manager import PluginManager
from smallai_assistant.task import LearningTask, Task
from smallai_assistant.testing.declarations import (
    accepts_foreign_files,
    malformed_options,
    unbounded_options,
    unmarked_hooks,
    wrong_refusals,
)
from smallai_assistant.testing.imports import heavy_imports, inner_imports
from smallai_assistant.testing.judged_turns import Corrections, JudgedTurns
from smallai_assistant.testing.learning import LearningTrial
from smallai_assistant.testing.report import Notebook, Skip
from smallai_assistant.testing.start import heavy_start, installed, quiet_config
from smallai_assistant.testing.training import TrainingTrial
from smallai_assistant.testing.trial import Trial
from smallai_assistant.testing.writes import watched_writes

Examples = Mapping[str, types.Content]

_ENOUGH_UTTERANCES = 20  # with fewer, the router often misses a task; `bench/intents.py` measures it


class Kit(Notebook):
    """Runs the checks in order and keeps their findings.

    Args:
        examples: task name -> a message that the task takes.
        corrections: name of a LearningTask -> messages and the right answers.
        train: whether to also train adapters.
    """

    def __init__(self, examples: Examples, corrections: Corrections, *, train: bool = False) -> None:
        super().__init__()
        self.examples, self.corrections, self.train = examples, corrections, train
        self.training_folders: list[Path] = []  # where trainings may write, in addition to the tasks' own folders

    def try_plugin(self, plugin: object, folder: Path) -> None:
        """Runs all checks.

        Args:
            folder: the data directory of the assistant.
        """
        if isinstance(plugin, str):
            plugin = importlib.import_module(plugin)
        self.check("light import", "", lambda: heavy_imports(plugin), "import it inside the functions that use it")
        hint = "import the names in smallai_assistant.__all__, from the root; the rest may change"
        self.check("imports of the host", "", lambda: inner_imports(plugin), hint)
        manager = PluginManager(disabled=installed(), extra=[plugin])
        self.check("registers", "", "; ".join(manager.broken.values()), "docs/plugins.md describes the contract")
        self.check("hooks", "", lambda: unmarked_hooks(plugin), "put @hookimpl on each hook")
        for engine in manager.engines.values():
            check = functools.partial(accepts_foreign_files, engine)
            self.check("can_load", engine.name, check, "return False for other files")
        for name in self.examples.keys() - manager.tasks.keys():
            self.check("examples", name, "there is no such task", str(nearest(name, manager.tasks)))
        learners = {name: task for name, task in manager.tasks.items() if isinstance(task, LearningTask)}
        for name in self.corrections.keys() - learners.keys():
            self.check("corrections", name, "there is no such LearningTask", str(nearest(name, learners)))
        for task in manager.tasks.values():
            self.try_description(task)
        if self.has_failed:
            raise Skip("the tasks were not run", "first fix what failed")
        # From the assistant's start, because `setup` may write, until it is closed.
        with watched_writes() as written:
            self.try_tasks(Assistant(quiet_config(folder, manager.tasks), plugins=[plugin]), plugin)
        own = tuple(os.path.realpath(path) + os.sep for path in (folder / "tasks", *self.training_folders))
        # Devices such as /dev/null are not files of the user.
        outside = ", ".join(sorted(path for path in written if not path.startswith((*own, "/dev/"))))
        hint = "write under self.context.data_dir only; tempfile takes dir="
        self.check("writes", "", outside and f"it wrote {outside}", hint)

    def try_description(self, task: Task) -> None:
        """Checks the class attributes of a task."""
        name, kind, utterances = task.name, task.options_type, task.utterances
        # Stricter than the host: in the name of an environment variable, '.' cannot occur and '_' would be ambiguous.
        problem = "" if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) else "it also names a folder and variables"
        self.check("name", name, problem, "use small letters, digits and hyphens, such as word-count")
        problem = "" if isinstance(task.title, str) and task.title.strip() else "there is none"
        self.check("title", name, problem, "say in a few words what it does", fatal=False)
        self.check("accepts", name, "" if task.accepts else "it is empty", "give the sets of modalities it takes")
        # A plain text is a sequence of texts, too: its characters.
        is_texts = isinstance(utterances, tuple) and all(isinstance(text, str) and text.strip() for text in utterances)
        problem = "" if is_texts else f"they are {utterances!r:.60}"
        if self.check("utterances", name, problem, "give a tuple of texts"):
            n_texts = len(set(utterances))
            problem = f"only {n_texts}" if 0 < n_texts < _ENOUGH_UTTERANCES else ""
            hint = f"with about {_ENOUGH_UTTERANCES} varied ones the task is found reliably; none at all is fine"
            self.check("enough utterances", name, problem, hint, fatal=False)
        hint = "make it a frozen dataclass, every field with a default that can be set from TOML"
        if self.check("options", name, lambda: malformed_options(kind), hint):
            hint = "raise InvalidInput, with a message and a hint, in __post_init__"
            self.check("bad options", name, lambda: wrong_refusals(kind), hint)
            hint = "check them in __post_init__"
            self.check("option ranges", name, lambda: unbounded_options(kind), hint, fatal=False)
        if isinstance(task, LearningTask):
            metric, minimum = getattr(task, "primary_metric", None), task.min_examples
            problem = "" if isinstance(metric, str) and metric.strip() else f"it is {metric!r}"
            self.check("primary_metric", name, problem, "say what a score means on average, such as top-1 accuracy")
            is_count = isinstance(minimum, int) and not isinstance(minimum, bool) and minimum >= 1
            problem = "" if is_count else f"it is {minimum!r}"
            self.check("min_examples", name, problem, "give a whole number, 1 or more")
            problem = "" if task.split_by in ("key", "time") else f"it is {task.split_by!r}"
            self.check("split_by", name, problem, "give key or time")

    def try_tasks(self, assistant: Assistant, plugin: object) -> None:
        """Runs the tasks, and closes the assistant."""
        for name, why in assistant.broken_plugins.items():
            # A task whose setup fails is dropped. One that is still there failed to rebuild what was stored before.
            hint = "rebuild must not raise: skip what it cannot use" if name in assistant.tasks else ""
            self.check("setup", name, why, hint or "setup must not raise")
        taught = []
        for name, task in assistant.tasks.items():
            trial = Trial(assistant, task, self.examples.get(name))
            self.try_answers(trial)
            if isinstance(task, LearningTask):
                taught.append(JudgedTurns(assistant, task, self.corrections.get(name, ())))
                self.try_learning(LearningTrial(trial, task, taught[-1]))
        if taught:  # before the feedback is erased
            hint = "let rebuild keep the feedback only, and load models at the first answer"
            self.check("light start", "", lambda: heavy_start(plugin, assistant), hint)
        for judged_turns in taught:
            self.check("erase", judged_turns.task.name, judged_turns.erase, "neither forget nor rebuild may raise")
        held = ", ".join(str(model.spec) for model in assistant.models.loaded() if model.n_leases)
        self.check("leases", "", held and f"still lent: {held}", "lease in a `with` block")
        self.check("close", "", lambda: _faults_of_close(assistant), "a task's close must not raise")

    def try_answers(self, trial: Trial) -> None:
        """Checks the answers of a task."""
        name, hint = trial.task.name, "yield only parts, Notice and Details; raise InvalidInput for what a user can fix"
        if not self.check("answers", name, trial.answers, hint):
            return
        self.check("details", name, trial.malformed_details, "use JSON values: text keys, and lists instead of tuples")
        hint = "use plain str, int and float: float(score) instead of a number of numpy"
        self.check("is stored", name, trial.changed_in_store, hint)
        self.check("text deltas", name, trial.repeated_text, "yield only the new text, because pieces are appended")
        hint = "keep the state of an answer in local variables of `run`, not in self"
        self.check("two at once", name, trial.mixed_answers, hint)
        if not self.check("generator", name, trial.not_a_generator, "write `run` with `yield`"):
            return
        hint = "release in `finally` what you hold, yield nothing there, and take small steps"
        if self.check("early close", name, functools.partial(trial.late_stop, by_close=True), hint):
            hint = "check request.cancel between steps"
            self.check("cancel", name, functools.partial(trial.late_stop, by_close=False), hint)

    def try_learning(self, trial: LearningTrial) -> None:
        """Checks that a LearningTask learns at once, and gives examples and scores."""
        name = trial.task.name
        hint = "keep the feedback, and embed or load at its first use"
        self.check("quick rebuild", name, trial.slow_rebuild, hint)
        hint = "give JSON values that name the model and its files, without times and random ids"
        self.check("base", name, trial.unstable_base, hint)
        hint = "skip, with a log line, what cannot be learned: rebuild and examples must not raise"
        self.check("odd feedback", name, trial.odd_judged_turns, hint)
        hint = "return one sentence about what changed, empty if nothing changed"
        if not self.check("learn_now", name, trial.bad_effects, hint):
            return
        hint = "let `run` read the fast memory"
        self.check("knows at once", name, trial.ignored_corrections, hint, fatal=False)
        hint = "make rebuild forget everything and learn the feedback again, oldest first"
        self.check("rebuild", name, trial.different_rebuild, hint)
        self.check("forgets", name, trial.remaining_memory, "make rebuild([]) empty the fast memory")
        hint = "docs/plugins.md describes the fields of an Example"
        if not self.check("learning examples", name, trial.bad_examples, hint):
            return
        self.check("protected", name, trial.bad_protected, "give examples that no feedback teaches")
        hint = "map each feedback id to its label and a float32 vector of length 1, or return nothing"
        self.check("labelled", name, trial.bad_labelled, hint)
        if not self.check("evaluate", name, trial.bad_scores, "give one Score per example, its value in [0, 1]"):
            return
        hint = "answer with `adapter` alone: what the fast memory knows must not count"
        self.check("fast memory is off", name, trial.leaked_scores, hint)
        # Last, because the training checks need all of the above.
        self.try_training(TrainingTrial(trial, is_wanted=self.train))

    def try_training(self, trial: TrainingTrial) -> None:
        """Checks that a LearningTask trains an adapter and lets it serve."""
        name = trial.task.name
        try:
            if not self.check("train", name, trial.failed_training, "write the files into training.folder"):
                return
            hint = "call training.yield_to_serving() between steps, and let what it raises pass"
            self.check("cancel of training", name, trial.ignored_cancel, hint)
            hint = "if training.is_out_of_time, write what is learned so far and return"
            self.check("training out of time", name, trial.ignored_deadline, hint)
            hint = "give one Score per example with the adapter, too"
            self.check("evaluate the adapter", name, trial.bad_scores, hint)
            hint = 'let run ask self.context.adapters once, and yield Details({"adapter": adapter.id})'
            self.check("serves the adapter", name, trial.unserved, hint)
        finally:
            self.training_folders += trial.folders
            trial.clean_up()


def _faults_of_close(assistant: Assistant) -> str:
    """Closes the assistant and returns what tasks raised; the assistant lists it instead of raising it."""
    before = dict(assistant.broken_plugins)
    assistant.close()
    return "; ".join(why for name, why in assistant.broken_plugins.items() if before.get(name) != why)
