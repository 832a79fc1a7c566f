"""Shared by the tests of the conformance kit: short waits, packages written to disk, access to findings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smallai_assistant import EmbeddingModel, Engine, ModelSpec, Request
from smallai_assistant.testing import Finding, PluginReport, check_plugin, trial
from support.scripted import ScriptedPlugin, make_task


def be_impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shortens the waits of the kit, and hides the models."""
    for name, seconds in (("ANSWER_S", 20.0), ("STOP_S", 1.5), ("HANG_S", 2.5), ("STEP_S", 0.2)):
        monkeypatch.setattr(trial, name, seconds)
    monkeypatch.setenv("SMALLAI_MODELS_DIR", str(tmp_path / "models"))


def write_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Yields a function that writes sources as a package on the path and returns the package's name."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(**sources: str) -> str:
        folder = tmp_path / "smallai_written"
        folder.mkdir()
        for name, source in sources.items():
            (folder / f"{name}.py").write_text(source)
        return folder.name

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] in ("smallai_written", "llama_cpp")]:
        if name not in before:
            del sys.modules[name]


GOOD = """
from smallai_assistant import Task, TextPart, hookimpl
class Good(Task):
    name = "good"
    title = "says fine"
    def run(self, request, models):
        yield TextPart("fine")
@hookimpl
def register_tasks(register):
    register(Good())
"""


def report_on(script: Callable[[Request], Any] | None = None, **attributes: Any) -> PluginReport:
    """The report on a plugin with one task, which runs `script` or the `run` among the attributes."""
    given = {"title": "does a thing", "name": "thing", **attributes}
    return check_plugin(ScriptedPlugin(make_task(*filter(None, [script]), **given)))


def finding(report: PluginReport, check: str) -> Finding:
    """The only finding of that check."""
    (found,) = [finding for finding in report.findings if finding.check == check]
    return found


def failed(report: PluginReport) -> dict[str, str]:
    """Check -> text of the failed checks. Each of them must have a hint."""
    assert all(found.hint for found in report.of("failed")), report
    return {found.check: found.text for found in report.of("failed")}


class SizedModel(EmbeddingModel):
    """A model of a made-up size that computes nothing."""

    def embed(self, texts: Any) -> Any:
        return np.ones((len(texts), 1), np.float32)

    def release(self) -> None:
        pass


class SizedEngine(Engine):
    """Loads folders with a `sized.json`."""

    name = "sized"

    def can_load(self, spec: ModelSpec, folder: Path) -> bool:
        return (folder / "sized.json").is_file()

    def estimate_bytes(self, spec: ModelSpec, folder: Path) -> int:
        return 100

    def load(self, spec: ModelSpec, folder: Path, *, device: str, progress: Any) -> SizedModel:
        return SizedModel(spec, device="cpu", n_bytes=100)
