"""Finds the installed plugins: ours first, then strangers' by name."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint

from smallai_assistant.foreign.calls import described
from smallai_assistant.hookspecs import PROJECT

_OWN = "smallai-assistant"


@dataclass(frozen=True, slots=True)
class Installed:
    """An entry point of an installed distribution.

    Attributes:
        label: the name under which it is listed. It is the entry point's name, with the distribution if another plugin
            has that name.
        version: of the distribution; empty if there is none.
        is_own: whether the assistant's own distribution brings it.
        unusable: why it cannot be loaded, such as that an earlier plugin has its name; empty if it can.
    """

    entry_point: EntryPoint
    label: str
    version: str = ""
    is_own: bool = False
    unusable: str = ""

    @property
    def module(self) -> str:
        """The module that is imported."""
        return self.entry_point.value.partition(":")[0].strip()


def installed_plugins() -> list[Installed]:
    """The installed plugins in the order of loading.

    Ours come first, so that a stranger cannot take the name of one of our plugins or tasks by sorting before it.
    """
    try:
        return sort_plugins(list(importlib.metadata.entry_points(group=PROJECT)))
    except Exception:  # one malformed `entry_points.txt` of any distribution
        return _one_by_one()


def sort_plugins(entry_points: Sequence[EntryPoint]) -> list[Installed]:
    """Puts entry points into the order of loading, and finds those whose name is taken."""
    rows = []
    for entry_point in entry_points:
        name, version = _name_and_version(entry_point.dist)
        rows.append((_canonical(name) != _OWN, entry_point.name, name, version, entry_point))
    taken: dict[str, str] = {}
    plugins = []
    for is_foreign, name, dist_name, version, entry_point in sorted(rows, key=lambda row: row[:4]):
        source = f"{dist_name} {version}".strip() or "a plugin without a distribution"
        if name not in taken:
            taken[name] = source
            plugins.append(Installed(entry_point, name, version, not is_foreign))
        else:
            why = f"the name {name!r} is taken by {taken[name]}; two plugins cannot have one name"
            plugins.append(Installed(entry_point, f"{name} ({source})", version, not is_foreign, why))
    return plugins


def _one_by_one() -> list[Installed]:
    """As `installed_plugins`, and names the distributions whose entry points cannot be read. Slower."""
    entry_points: list[EntryPoint] = []
    seen, unreadable = set(), []
    for dist in importlib.metadata.distributions():
        name, version = _name_and_version(dist)
        if _canonical(name) in seen:  # one that is found twice on the path counts once
            continue
        seen.add(_canonical(name))
        try:
            entry_points += [found for found in dist.entry_points if found.group == PROJECT]
        except Exception as error:
            why = f"its entry points cannot be read: {described(error)}"
            broken = EntryPoint(name, "", PROJECT)
            unreadable.append(Installed(broken, f"{name} {version}".strip(), version, unusable=why))
    return [*sort_plugins(entry_points), *unreadable]


def _name_and_version(dist: Distribution | None) -> tuple[str, str]:
    try:
        return ("", "") if dist is None else (dist.name or "", dist.version or "")
    except Exception:  # metadata without these lines
        return "", ""


def _canonical(name: str) -> str:
    """The form in which names of distributions are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
