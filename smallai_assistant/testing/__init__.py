"""The conformance kit: tries a plugin in a throw-away assistant and says what is wrong with it and what to do.

`assert_conforms(module)` is a test of one line; `python -m smallai_assistant.testing MODULE` prints a list.
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
    """Runs every check on a plugin, in an assistant without other plugins; models and device are the user's.

    Args:
        plugin: its module, the module's name, or an object that has the hooks.
        examples: by task, a message it takes; a task without one gets a made-up text, picture or silence.
        corrections: by task that learns, messages and what the answer should have been.
        data_dir: where that assistant works, such as a folder with items; None takes an empty one. What was taught
            is erased at the end; the turns stay.
        train: also train an adapter from the corrections, let it serve and take it back.

    A task that needs a model that is not pulled is skipped, not failed.
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
    """`check_plugin`, for tests: where a check failed it raises AssertionError with the whole list."""
    report = check_plugin(plugin, examples=examples, corrections=corrections, data_dir=data_dir, train=train)
    if not report.is_ok:
        raise AssertionError(f"the plugin does not conform\n{report}")
