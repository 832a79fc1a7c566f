"""The typed form of `catalog.toml`: which models there are, and which bytes they consist of."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files as package_files
from typing import Any


@dataclass(frozen=True, slots=True)
class PackageMember:
    """A file inside a package of the Python package index.

    Attributes:
        package: `NAME==VERSION`. The version is part of it because an index never changes a published file.
    """

    package: str
    member: str


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a hub repository.

    Attributes:
        revision: the commit, 40 hexadecimal digits. A branch would not do: its files change.
    """

    repo: str
    path: str
    revision: str


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a model: its identity (`sha256`, `n_bytes`) and its sources.

    Attributes:
        path: relative to the model's folder.
        parts: package members that give the file when they are joined in this order. A package index limits the size of
            a package, so large files are split.
        hub: the same file on the model hub, None if no hub has it.
    """

    path: str
    n_bytes: int
    sha256: str
    parts: tuple[PackageMember, ...]
    hub: HubFile | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of the catalogue.

    Attributes:
        task: the pipeline id of transformers, such as `text-generation`.
        upstream: the repository that the bytes come from.
        revision: the commit of that repository, empty if it is not known.
        format: the format of the files that are fetched; `convert.needs_conversion` tells which ones are converted.
        n_bytes_ready: size on disk after the conversion.
        sets: names of the sets that contain it, `starter` and `small`.
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
        """Size of the files that are fetched, before the conversion."""
        return sum(file.n_bytes for file in self.files)


def read_entries() -> dict[str, Entry]:
    """The entries by name, in the order of preference."""
    table = tomllib.loads((package_files("smallai_assistant.models") / "catalog.toml").read_text("utf-8"))
    return {model["name"]: _entry(model) for model in table["model"]}


@functools.cache
def is_pinned(name: str) -> bool:
    """Whether a model's name is one of the catalogue, whose files are pinned by their hashes."""
    return name in read_entries()


def _entry(model: Mapping[str, Any]) -> Entry:
    files = tuple(
        FileEntry(
            path=file["path"],
            n_bytes=file["n_bytes"],
            sha256=file["sha256"],
            parts=tuple(PackageMember(**part) for part in file["parts"]),
            hub=_hub_file(model, file),
        )
        for file in model["file"]
    )
    names = ("name", "task", "title", "licence", "upstream", "revision", "format", "n_bytes_ready")
    return Entry(**{key: model[key] for key in names}, sets=tuple(model["sets"]), files=files)


def _hub_file(model: Mapping[str, Any], file: Mapping[str, Any]) -> HubFile | None:
    # Without a pinned commit the hub would be asked for bytes that it may have replaced long ago.
    if "hub_path" not in file or not model["revision"]:
        return None
    return HubFile(model["upstream"], file["hub_path"], model["revision"])
