"""What a plugin declares: its hooks, engines, tasks and options."""

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

_ODD: Mapping[type, tuple[Any, ...]] = {  # values that options rarely mean
    int: (-(10**12), 0, 10**12),
    float: (-1e300, 0.0, 1e300, math.inf, math.nan),
    str: ("", "\0", "?" * 10_000),
    tuple: ((),),
}


def unmarked(plugin: object) -> str:
    known = [name for name, value in vars(hookspecs).items() if hasattr(value, f"{hookspecs.PROJECT}_spec")]
    there = [name for name in known if callable(getattr(plugin, name, None))]
    unmarked = [name for name in there if not hasattr(getattr(plugin, name), f"{hookspecs.PROJECT}_impl")]
    return f"not marked: {', '.join(unmarked)}" if unmarked else "" if there else f"there is none of {', '.join(known)}"


def misloads(engine: Engine) -> str:
    with tempfile.TemporaryDirectory(prefix="smallai-check-") as folder:
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
                    return (
                        f"it takes a folder whose config.json is {content!r}" if content else "it takes an empty folder"
                    )
    return ""


def misshapen(kind: Any) -> str:
    if not isinstance(kind, type) or not is_dataclass(kind):
        return f"options_type is {kind!r:.60}, no dataclass"
    if not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return f"{kind.__name__} is not frozen"
    if bare := [field.name for field in fields(kind) if field.default is field.default_factory is MISSING]:
        return f"no default: {', '.join(bare)}"
    for field in fields(kind):
        try:
            make_options(kind, {field.name: getattr(make_options(kind, {}), field.name)})
        except BaseException as error:
            return f"{field.name} cannot be set: {described(error)}"
    return ""


def _outcomes(kind: Any) -> Iterator[tuple[str, Any, BaseException | None]]:
    """What comes of odd values: option, value, and what was raised."""
    for field in fields(kind):
        for odd in _ODD.get(type(getattr(kind(), field.name)), ()):
            try:
                make_options(kind, {field.name: odd})
            except BaseException as error:
                yield field.name, odd, error
            else:
                yield field.name, odd, None


def wrong_refusals(kind: Any) -> str:
    refused = ((name, odd, error) for name, odd, error in _outcomes(kind) if error is not None)
    wrong = ((name, odd, error) for name, odd, error in refused if not isinstance(error, InvalidInput))
    return "; ".join(f"{name}={odd!r:.20} raises {described(error)}" for name, odd, error in wrong)


def unbounded(kind: Any) -> str:
    passed = {(name, str(odd)) for name, odd, error in _outcomes(kind) if error is None}
    return ", ".join(f"{name} may be {odd}" for name, odd in sorted(passed) if odd in ("nan", str(10**12)))
