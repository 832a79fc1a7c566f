"""Settings: a TOML file, then environment variables, then keyword arguments.

The later source overrides the earlier. The name of an environment variable is `SMALLAI_` and the key in capitals. Two
underscores separate a section from its key: `SMALLAI_MEMORY_BUDGET_MB=2000`,
`SMALLAI_MODELS__CHAT=smollm2-135m-instruct`. `SMALLAI_CONFIG` names the file.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import platformdirs

from smallai_assistant.errors import ConfigError, InvalidInput, NearestName

APP = "smallai"

# `true` and `1` are what people and shells write; any other word is an error, not False.
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True)
class ModelsConfig:
    """The model of each role: a catalogue name, a folder, or a hub id.

    `auto` is the first catalogue entry of the role that is pulled, in the order of the catalogue.
    """

    chat: str = "auto"
    chat_quantization: Literal["none", "int8", "nf4"] = "nf4"
    embedding: str = "auto"
    image: str = "auto"
    zero_shot_image: str = ""
    speech: str = "auto"


@dataclass(frozen=True, slots=True)
class AssistantConfig:
    """All settings.

    Attributes:
        data_dir: folder of the database, the media and the adapters. Besides `models_dir`, the assistant writes to no
            other folder. A string is taken as a path.
        models_dir: folder of the pulled models. A string is taken as a path.
        database_url: an SQLAlchemy URL; empty for an SQLite file in `data_dir`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        memory_budget_mb: upper limit for the loaded models, in units of 2**20 bytes; 0 takes 60 % of the device's
            memory.
        reply_to_speech: whether a spoken message is transcribed and then also answered.
        intent_threshold: a text whose cosine similarity to every intent is lower is taken as dialogue; 0 to 1.
        disabled_plugins: entry-point names of plugins that are not loaded.
        models: the model of each role.
        tasks: the options of each task, by task name.
    """

    data_dir: Path = field(default_factory=lambda: platformdirs.user_data_path(APP, appauthor=False))
    models_dir: Path = field(default_factory=lambda: platformdirs.user_cache_path(APP, appauthor=False) / "models")
    database_url: str = ""
    device: str = "auto"
    memory_budget_mb: int = 0
    reply_to_speech: bool = False
    intent_threshold: float = 0.4
    disabled_plugins: tuple[str, ...] = ()
    models: ModelsConfig = field(default_factory=ModelsConfig)
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("data_dir", "models_dir"):
            try:
                # The dataclass is frozen, so that a running assistant's settings cannot change under it.
                object.__setattr__(self, name, Path(getattr(self, name)).expanduser())
            except TypeError as error:
                raise ConfigError(f"{name} is {getattr(self, name)!r}", hint="give a path") from error
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ConfigError(f"device is {self.device!r}", hint="use auto, cpu, cuda or cuda:N")
        if self.memory_budget_mb < 0:
            raise ConfigError(f"memory_budget_mb is {self.memory_budget_mb}", hint="0 lets the device decide")
        if not 0.0 <= self.intent_threshold <= 1.0:
            raise ConfigError(f"intent_threshold is {self.intent_threshold}", hint="give 0 to 1")


def load_config(path: Path | None = None, **overrides: Any) -> AssistantConfig:
    """Reads the file, the environment and `overrides`, and checks them.

    Args:
        path: the TOML file. None takes the file that `SMALLAI_CONFIG` names, or else `config.toml` in the user's
            configuration folder, which may be missing.
        overrides: top-level keys; `models` and `tasks` are mappings. None leaves a key as it is.

    Raises:
        ConfigError: a key or a value is wrong. The message names the file and the line, or the variable.
    """
    # A file that somebody named must exist; the default file need not.
    named = path or (Path(os.environ["SMALLAI_CONFIG"]) if os.environ.get("SMALLAI_CONFIG") else None)
    file = named or platformdirs.user_config_path(APP, appauthor=False) / "config.toml"
    values: dict[str, Any] = {}
    if named is not None or file.is_file():
        source = _TomlSource(file)
        values = _checked(AssistantConfig, source.table, source)
    environment = _environment()
    values = _merged(values, _checked(AssistantConfig, environment, _Source("environment variable")))
    # The command line passes every general option, with None for those that were not given.
    given = {key: value for key, value in overrides.items() if value is not None}
    values = _merged(values, _checked(AssistantConfig, given, _Source("keyword argument")))
    models = ModelsConfig(**values.pop("models", {}))
    return AssistantConfig(**values, models=models)


def nearest(name: str, known: Iterable[str]) -> NearestName:
    """Finds the known name that is most similar to an unknown one; pass it to an error as `hint`."""
    choices = tuple(sorted(known))
    close = difflib.get_close_matches(name, choices, n=1)
    return NearestName(close[0] if close else None, choices)


def make_options(options_type: type[Any], values: Mapping[str, Any], *, base: Any = None) -> Any:
    """Makes an instance of a task's options dataclass.

    Args:
        values: by field name, as TOML, JSON or a caller gives them.
        base: an instance that supplies the fields that `values` does not name; None takes the defaults.

    Raises:
        InvalidInput: a name is unknown, a type is wrong, or the dataclass refuses a value.
    """
    try:
        checked = _checked(options_type, values, _Source("option"))
    except ConfigError as error:
        raise InvalidInput(error.message, hint=error.hint, suggestion=error.suggestion) from error
    return options_type(**checked) if base is None else replace(base, **checked)


class _Source:
    """The origin of a value, for error messages."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def place_of(self, key: str) -> str:
        """Names a key and its place; the names of its sections come first, separated by dots."""
        return f"{self.kind} {key!r}"


class _TomlSource(_Source):
    """A TOML file; it knows the line of each key."""

    def __init__(self, path: Path) -> None:
        super().__init__("key")
        self.path = path
        try:
            self.text = path.read_bytes().decode("utf-8")
            self.table = tomllib.loads(self.text)
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 at byte {error.start}", hint="save the file as UTF-8") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: {error}", hint="correct the TOML") from error
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}", hint="give the path of a TOML file") from error

    def place_of(self, key: str) -> str:
        # tomllib keeps no line numbers, so the key is searched in the text. A key that is written in an unusual way,
        # such as an inline table, is reported without a line.
        section, _, name = key.rpartition(".")
        current = ""
        for number, line in enumerate(self.text.splitlines(), 1):
            if header := re.match(r"\s*\[([^\[\]]+)\]", line):
                current = header[1].replace('"', "").replace("'", "").strip()
                if current == key:
                    return f"{self.path}:{number}: section [{key}]"
            elif (entry := re.match(r"\s*[\"']?([\w.-]+)[\"']?\s*=", line)) and entry[1] == name and current == section:
                return f"{self.path}:{number}: key {name!r}"
        return f"{self.path}: key {key!r}"


def _environment() -> dict[str, Any]:
    """The settings among the environment variables, as nested tables; every value is a string."""
    table: dict[str, Any] = {}
    for variable, text in os.environ.items():
        if not variable.startswith("SMALLAI_") or variable == "SMALLAI_CONFIG":
            continue
        *sections, key = variable.removeprefix("SMALLAI_").lower().split("__")
        # A task's name has hyphens, which the name of a variable cannot have.
        if sections[:1] == ["tasks"]:
            sections[1:] = [section.replace("_", "-") for section in sections[1:]]
        here = table
        for section in sections:
            here = here.setdefault(section, {})
        here[key] = text
    return table


def _merged(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    """Both tables in one; values of `high` win, and tables are merged key by key."""
    out = dict(low)
    for key, value in high.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = _merged(dict(out[key]), dict(value)) if both else value
    return out


def _checked(cls: type[Any], table: Mapping[str, Any], source: _Source, prefix: str = "") -> dict[str, Any]:
    """The values of a table, converted to the types of a dataclass's fields.

    Args:
        prefix: the sections that the table is in, each followed by a dot.

    Raises:
        ConfigError: a key is unknown, or a value has the wrong type.
    """
    hints = typing.get_type_hints(cls)
    known = {field.name for field in fields(cls)}
    out: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"{source.place_of(prefix + key)} is unknown", hint=nearest(key, known))
        hint = hints[key]
        if is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{source.place_of(prefix + key)} must be a table")
            out[key] = _checked(typing.cast("type[Any]", hint), value, source, f"{prefix}{key}.")
        else:
            out[key] = _coerced(hint, value, source.place_of(prefix + key))
    return out


def _coerced(hint: Any, value: Any, place: str) -> Any:
    """Converts a value to the type of an annotation. Strings are parsed, because environment variables are strings."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _coerced(next(arg for arg in args if arg is not type(None)), value, place)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{place} is {value!r}", hint=nearest(str(value), map(str, args)))
        return value
    if origin is tuple:
        items = [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise ConfigError(f"{place} must be a list, not {value!r}")
        return tuple(_coerced(args[0], item, place) for item in items)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{place} must be a table, not {value!r}")
        return dict(value)
    return _scalar(hint, value, place)


def _scalar(hint: Any, value: Any, place: str) -> Any:
    if isinstance(value, str) and hint is not str:
        value = _parsed(hint, value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)  # TOML writes 1 for 1.0
    if hint is Path and isinstance(value, Path):
        return value.expanduser()
    # A bool is an int in Python, but `memory_budget_mb = true` is a mistake.
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{place} must be {hint.__name__}, not {value!r}")
    return value


def _parsed(hint: Any, text: str) -> Any:
    """A string as a value of the type; unchanged if it cannot be read, so that the caller's message can show it."""
    if hint is Path:
        return Path(text)
    if hint is bool:
        return _BOOLEANS.get(text.lower(), text)
    try:
        return hint(text) if hint in (int, float) else text
    except ValueError:
        return text
