"""What the catalogue knows of a model: the data in `catalog.toml`, typed."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files as package_files
from typing import Any


@dataclass(frozen=True, slots=True)
class Part:
    """A member of a package on the Python index."""

    package: str
    member: str


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a hub repository at one commit."""

    repo: str
    path: str
    revision: str


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a model: what it is (`sha256`, `n_bytes`) and where it can be had.

    Attributes:
        parts: joined in this order they are the file.
    """

    path: str
    n_bytes: int
    sha256: str
    parts: tuple[Part, ...]
    hub: HubFile | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of the catalogue.

    Attributes:
        task: the transformers pipeline id.
        upstream: the repository that the bytes come from.
        revision: its commit, empty where it is not known.
        format: of the files that are fetched; some are converted.
        sets: `starter`, `small`, or none.
        n_bytes_ready: on disk, converted.
    """

    name: str
    task: str
    title: str
    licence: str
    upstream: str
    revision: str
    format: str
    n_bytes_ready: int
    sets: tuple[str, ...]
    files: tuple[FileEntry, ...] = field(repr=False)

    @property
    def n_bytes(self) -> int:
        """Bytes of its files before conversion."""
        return sum(file.n_bytes for file in self.files)


def read_entries() -> dict[str, Entry]:
    """The entries by name, in the order of preference."""
    table = tomllib.loads((package_files("smallai_assistant.models") / "catalog.toml").read_text("utf-8"))
    return {model["name"]: _entry(model) for model in table["model"]}


def _entry(model: Mapping[str, Any]) -> Entry:
    def hub(file: Mapping[str, Any]) -> HubFile | None:
        if "hub_path" not in file:
            return None
        return HubFile(model["upstream"], file["hub_path"], model["revision"])

    files = tuple(
        FileEntry(
            path=file["path"],
            n_bytes=file["n_bytes"],
            sha256=file["sha256"],
            parts=tuple(Part(**part) for part in file["parts"]),
            hub=hub(file),
        )
        for file in model["file"]
    )
    names = ("name", "task", "title", "licence", "upstream", "revision", "format", "n_bytes_ready")
    return Entry(**{key: model[key] for key in names}, sets=tuple(model["sets"]), files=files)
