"""Checks of what a plugin declares: its hooks, engines and options.

Each check returns what is wrong, one sentence for people, or an empty text.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from smallai_assistant import hookspecs
from smallai_assistant.config import make_options
from smallai_assistant.engines.base import Engine, ModelSpec
from smallai_assistant.errors import InvalidInput
from smallai_assistant.testing.report import described

# Type of an option's default -> values that hardly any option allows.
_ODD: Mapping[type, tuple[Any, ...]] = {
    int: (-(10**12), 0, 10**12),
    float: (-1e300, 0.0, 1e300, math.inf, math.nan),
    str: ("", "\0", "?" * 10_000),
    tuple: ((),),
}


def unmarked_hooks(plugin: object) -> str:
    """Checks that the plugin has a hook, and that all its hooks have `@hookimpl`, without which pluggy ignores them."""
    # pluggy's markers set these two attributes on a function.
    known = [name for name, value in vars(hookspecs).items() if hasattr(value, f"{hookspecs.PROJECT}_spec")]
    present = [name for name in known if callable(getattr(plugin, name, None))]
    if not present:
        return f"it has none of {', '.join(known)}"
    unmarked = [name for name in present if not hasattr(getattr(plugin, name), f"{hookspecs.PROJECT}_impl")]
    return f"not marked: {', '.join(unmarked)}" if unmarked else ""


def accepts_foreign_files(engine: Engine) -> str:
    """Checks that an engine refuses folders of other engines. Engines of plugins are asked before those of the host."""
    with tempfile.TemporaryDirectory(prefix="smallai-check-") as folder:
        # An empty folder, a damaged config, and the config of an unknown model.
        for content in ("", "{", '{"model_type": "nothing"}'):
            if content:
                Path(folder, "config.json").write_text(content)
            for task in (
                "text-generation",
                "image-classification",
                "automatic-speech-recognition",
                "feature-extraction",
            ):
                if engine.can_load(ModelSpec("nothing", task=task), Path(folder)):
                    what = f"a folder whose config.json is {content!r}" if content else "an empty folder"
                    return f"it accepts {what}"
    return ""


def malformed_options(kind: Any) -> str:
    """Checks that an options type is a frozen dataclass with defaults, and that TOML can set each field."""
    if not isinstance(kind, type) or not is_dataclass(kind):
        return f"options_type is {kind!r:.60}, not a dataclass"
    if not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return f"{kind.__name__} is not frozen"
    if bare := [field.name for field in fields(kind) if field.default is field.default_factory is MISSING]:
        return f"no default: {', '.join(bare)}"
    for field in fields(kind):
        # Setting a field to its own default fails only if its type cannot be set from TOML.
        try:
            make_options(kind, {field.name: getattr(make_options(kind, {}), field.name)})
        except BaseException as error:
            return f"{field.name} cannot be set: {described(error)}"
    return ""


def _outcomes(kind: Any) -> Iterator[tuple[str, Any, BaseException | None]]:
    """Sets every option to odd values. Yields the option, the value, and what was raised."""
    for field in fields(kind):
        for odd in _ODD.get(type(getattr(kind(), field.name)), ()):
            try:
                make_options(kind, {field.name: odd})
            except BaseException as error:
                yield field.name, odd, error
            else:
                yield field.name, odd, None


def wrong_refusals(kind: Any) -> str:
    """Checks that odd values raise InvalidInput and nothing else."""
    refused = ((name, odd, error) for name, odd, error in _outcomes(kind) if error is not None)
    wrong = ((name, odd, error) for name, odd, error in refused if not isinstance(error, InvalidInput))
    return "; ".join(f"{name}={odd!r:.20} raises {described(error)}" for name, odd, error in wrong)


def unbounded_options(kind: Any) -> str:
    """Checks that no option allows NaN or 10**12, which a range check would refuse."""
    passed = {(name, str(odd)) for name, odd, error in _outcomes(kind) if error is None}
    return ", ".join(f"{name} may be {odd}" for name, odd in sorted(passed) if odd in ("nan", str(10**12)))
