"""The conformance kit: it runs a plugin and reports what is wrong with it.

`assert_conforms(module)` is a test in one line. `python -m smallai_assistant.testing MODULE` prints the list of checks.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from smallai_assistant.testing.judged_turns import Corrections
from smallai_assistant.testing.kit import Examples, Kit
from smallai_assistant.testing.report import Finding, PluginReport

__all__ = ["Corrections", "Examples", "Finding", "PluginReport", "assert_conforms", "check_plugin"]


def check_plugin(
    plugin: object,
    *,
    examples: Examples | None = None,
    corrections: Corrections | None = None,
    data_dir: Path | None = None,
    train: bool = False,
) -> PluginReport:
    """Runs all checks on a plugin, in an assistant without other plugins, with the user's models and device.

    A task that needs a model that was not pulled is skipped; that is not a failure.

    Args:
        plugin: its module, the name of its module, or an object with the hooks.
        examples: task name -> a message that the task takes. A task without an example gets a made-up text, a small
            picture, or a second of silence.
        corrections: name of a LearningTask -> pairs of a message and the right answer.
        data_dir: the data folder of the assistant, for example one with items; None takes an empty temporary folder.
            What the kit taught is erased at the end; the turns stay.
        train: whether to also train an adapter from the corrections, let it serve, and roll it back.

    Returns:
        The findings, one per check.
    """
    name = plugin if isinstance(plugin, str) else getattr(plugin, "__name__", type(plugin).__name__)
    kit = Kit(examples or {}, corrections or {}, train=train)
    with tempfile.TemporaryDirectory(prefix="smallai-check-", ignore_cleanup_errors=True) as temporary:
        kit.check("runs to the end", "", lambda: kit.try_plugin(plugin, data_dir or Path(temporary)), "correct this")
    return PluginReport(name, tuple(kit.findings))


def assert_conforms(
    plugin: object,
    *,
    examples: Examples | None = None,
    corrections: Corrections | None = None,
    data_dir: Path | None = None,
    train: bool = False,
) -> None:
    """Runs `check_plugin` and raises AssertionError, with the whole list, if a check failed. For tests."""
    report = check_plugin(plugin, examples=examples, corrections=corrections, data_dir=data_dir, train=train)
    if not report.is_ok:
        raise AssertionError(f"the plugin does not conform\n{report}")
