"""The checks in order: imports, declarations, then the tasks at work in an assistant of their own."""

from __future__ import annotations

import functools
import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from smallai_assistant import types
from smallai_assistant.assistant import Assistant
from smallai_assistant.config import nearest
from smallai_assistant.plugin_manager import PluginManager
from smallai_assistant.task import LearningTask, Task
from smallai_assistant.testing.declarations import misloads, misshapen, unbounded, unmarked, wrong_refusals
from smallai_assistant.testing.imports import heavy_imports, inner_imports
from smallai_assistant.testing.judged_turns import Corrections, JudgedTurns
from smallai_assistant.testing.learning import LearningTrial
from smallai_assistant.testing.report import Notebook, Skip
from smallai_assistant.testing.start import heavy_start, installed, quiet_config
from smallai_assistant.testing.training import TrainingTrial
from smallai_assistant.testing.trial import Trial
from smallai_assistant.testing.writes import watched_writes

Examples = Mapping[str, types.Content]

_ENOUGH_UTTERANCES = 20


class Kit(Notebook):
    """Goes through the checks in order and keeps what each found.

    Args:
        examples: by task, a message it takes.
        corrections: by task that learns, messages and the right answers.
        train: also train adapters.
    """

    def __init__(self, examples: Examples, corrections: Corrections, *, train: bool = False) -> None:
        super().__init__()
        self.examples, self.corrections, self.train = examples, corrections, train
        self.training_folders: list[Path] = []

    def try_plugin(self, plugin: object, folder: Path) -> None:
        """All checks.

        Args:
            folder: where the assistant works.
        """
        if isinstance(plugin, str):
            plugin = importlib.import_module(plugin)
        self.check("light import", "", lambda: heavy_imports(plugin), "import it inside the functions that use it")
        hint = "import the names in smallai_assistant.__all__, from the root; the rest may change"
        self.check("imports of the host", "", lambda: inner_imports(plugin), hint)
        manager = PluginManager(disabled=installed(), extra=[plugin])
        self.check("registers", "", "; ".join(manager.broken.values()), "the page Plugins has the contract")
        self.check("hooks", "", lambda: unmarked(plugin), "put @hookimpl on each hook")
        for engine in manager.engines.values():
            self.check("can_load", engine.name, functools.partial(misloads, engine), "return False for other files")
        for name in self.examples.keys() - manager.tasks.keys():
            self.check("examples", name, "there is no such task", str(nearest(name, manager.tasks)))
        learners = {name: task for name, task in manager.tasks.items() if isinstance(task, LearningTask)}
        for name in self.corrections.keys() - learners.keys():
            self.check("corrections", name, "there is no such task that learns", str(nearest(name, learners)))
        for task in manager.tasks.values():
            self.try_description(task)
        if self.has_failed:
            raise Skip("the tasks were not run", "correct first what failed")
        with watched_writes() as written:
            self.try_tasks(Assistant(quiet_config(folder, manager.tasks), plugins=[plugin]), plugin)
        own = tuple(os.path.realpath(each) + os.sep for each in (folder / "tasks", *self.training_folders))
        outside = ", ".join(sorted(path for path in written if not path.startswith((*own, "/dev/"))))
        hint = "write under self.context.data_dir only; tempfile takes dir="
        self.check("writes", "", outside and f"it wrote {outside}", hint)

    def try_description(self, task: Task) -> None:
        """What the task says of itself."""
        name, kind, said = task.name, task.options_type, task.utterances
        problem = "" if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) else "it names a folder and variables too"
        self.check("name", name, problem, "take small letters, digits and hyphens, such as word-count")
        problem = "" if isinstance(task.title, str) and task.title.strip() else "there is none"
        self.check("title", name, problem, "say in a few words what it does", fatal=False)
        self.check("accepts", name, "" if task.accepts else "it is empty", "give the sets of modalities it takes")
        is_texts = isinstance(said, tuple) and all(isinstance(each, str) and each.strip() for each in said)
        if self.check("utterances", name, "" if is_texts else f"they are {said!r:.60}", "give a tuple of texts"):
            problem = f"only {len(set(said))}" if 0 < len(set(said)) < _ENOUGH_UTTERANCES else ""
            hint = f"about {_ENOUGH_UTTERANCES} varied ones are found reliably; none at all is fine"
            self.check("enough utterances", name, problem, hint, fatal=False)
        hint = "make it a frozen dataclass, every field with a default that can be set from TOML"
        if self.check("options", name, lambda: misshapen(kind), hint):
            hint = "raise InvalidInput, with what and a hint, in __post_init__"
            self.check("bad options", name, lambda: wrong_refusals(kind), hint)
            self.check("option ranges", name, lambda: unbounded(kind), "check them in __post_init__", fatal=False)
        if isinstance(task, LearningTask):
            metric, least = getattr(task, "primary_metric", None), task.least_examples
            problem = "" if isinstance(metric, str) and metric.strip() else f"it is {metric!r}"
            self.check("primary_metric", name, problem, "say what a score means on average, such as top-1 accuracy")
            is_count = isinstance(least, int) and not isinstance(least, bool) and least >= 1
            self.check("least_examples", name, "" if is_count else f"it is {least!r}", "give a whole number, 1 or more")

    def try_tasks(self, assistant: Assistant, plugin: object) -> None:
        """The tasks at work; closes the assistant."""
        for name, why in assistant.broken_plugins.items():
            hint = "rebuild must not raise: skip what it cannot use" if name in assistant.tasks else ""
            self.check("setup", name, why, hint or "setup must not raise")
        taught = []
        for name, task in assistant.tasks.items():
            trial = Trial(assistant, task, self.examples.get(name))
            self.try_answers(trial)
            if isinstance(task, LearningTask):
                taught.append(JudgedTurns(assistant, task, self.corrections.get(name, ())))
                self.try_learning(LearningTrial(trial, task, taught[-1]))
        if taught:
            self.check("light start", "", lambda: heavy_start(plugin, assistant), "let rebuild keep the lessons only")
        for judged_turns in taught:
            self.check("erase", judged_turns.task.name, judged_turns.erase, "neither forget nor rebuild may raise")
        held = ", ".join(str(each.spec) for each in assistant.models.loaded() if each.n_leases)
        self.check("leases", "", held and f"still lent: {held}", "lease in a `with` block")
        self.check("close", "", lambda: _faults_of_close(assistant), "a task's close must not raise")

    def try_answers(self, trial: Trial) -> None:
        """Whether it answers as a task must."""
        name, hint = trial.task.name, "yield only parts, Notice and Details; raise InvalidInput for what a user can fix"
        if not self.check("answers", name, trial.answers, hint):
            return
        self.check("details", name, trial.spoilt_details, "JSON values only: text keys, lists and not tuples")
        self.check("is stored", name, trial.is_not_stored, "plain str, int and float: float(score), not numpy's")
        self.check("text deltas", name, trial.repeated_text, "yield what is new: the pieces are appended")
        hint = "keep what belongs to one answer in `run`, not in self"
        self.check("two at once", name, trial.mixed_answers, hint)
        if not self.check("generator", name, trial.is_no_generator, "write `run` with `yield`"):
            return
        hint = "release in `finally`, yield nothing there, and take small steps"
        if self.check("early close", name, functools.partial(trial.late_stop, by_close=True), hint):
            hint = "check request.cancel between steps"
            self.check("cancel", name, functools.partial(trial.late_stop, by_close=False), hint)

    def try_learning(self, trial: LearningTrial) -> None:
        """Whether it learns as a LearningTask must."""
        name = trial.task.name
        self.check("quick rebuild", name, trial.slow_rebuild, "keep the lessons, and embed or load at their first use")
        self.check("base", name, trial.unstable_base, "JSON values that name the model and its files; no time, no id")
        hint = "skip with a log line what cannot be learned: rebuild and examples never raise"
        self.check("odd lessons", name, trial.odd_judged_turns, hint)
        hint = "return one sentence about what it changed, empty where nothing"
        if not self.check("learn_now", name, trial.bad_effects, hint):
            return
        hint = "let `run` read the fast memory"
        self.check("knows at once", name, trial.ignored_corrections, hint, fatal=False)
        hint = "make rebuild forget all and learn the lessons again, oldest first"
        self.check("rebuild", name, trial.other_rebuild, hint)
        self.check("forgets", name, trial.kept_memory, "make rebuild([]) empty the fast memory")
        if not self.check("learning examples", name, trial.bad_examples, "the page Plugins has what an Example holds"):
            return
        self.check("protected", name, trial.bad_protected, "ask there what no lesson teaches")
        hint = "give the label and a float32 vector of length 1 by feedback id, or nothing"
        self.check("labelled", name, trial.bad_labelled, hint)
        if not self.check("evaluate", name, trial.bad_scores, "give one Score an example, its value in [0, 1]"):
            return
        hint = "answer with `adapter` alone: what the fast memory knows must not count"
        self.check("fast memory is off", name, trial.leaked_scores, hint)
        self.try_training(TrainingTrial(trial, is_wanted=self.train))

    def try_training(self, trial: TrainingTrial) -> None:
        """Whether it trains an adapter and lets it serve."""
        name = trial.task.name
        try:
            if not self.check("train", name, trial.failed_training, "write the files into training.folder"):
                return
            hint = "call training.yield_to_serving() between steps, and let what it raises pass"
            self.check("cancel of training", name, trial.ignored_cancel, hint)
            hint = "where training.is_out_of_time, write what there is and return"
            self.check("training out of time", name, trial.ignored_deadline, hint)
            hint = "give one Score an example with the adapter too"
            self.check("evaluate the adapter", name, trial.bad_scores, hint)
            hint = 'let run ask self.context.adapters once, and yield Details({"adapter": adapter.id})'
            self.check("serves the adapter", name, trial.unserved, hint)
        finally:
            self.training_folders += trial.folders
            trial.clean_up()


def _faults_of_close(assistant: Assistant) -> str:
    """The assistant lists what a task's close raises as the task's fault, and goes on."""
    before = dict(assistant.broken_plugins)
    assistant.close()
    return "; ".join(why for name, why in assistant.broken_plugins.items() if before.get(name) != why)
