"""Settings: a TOML file, then environment variables, then keyword arguments.

The later source overrides the earlier. The name of an environment variable is `SMALLAI_` and the key in capitals. Two
underscores separate a section from its key: `SMALLAI_MEMORY_BUDGET_MB=2000`,
`SMALLAI_MODELS__CHAT=smollm2-135m-instruct`. `SMALLAI_CONFIG` names the file.
"""

from __future__ import annotations

import bisect
import os
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import platformdirs

from smallai_assistant.errors import ConfigError, InvalidInput, nearest
from smallai_assistant.learning_config import LearningConfig as LearningConfig
from smallai_assistant.validation import shown

APP = "smallai"

# `true` and `1` are what people and shells write; any other word is an error, not False.
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

# A configuration with all keys and comments has some thousand bytes. Reading time and memory of a dotted key grow with
# the square of its parts: 1,000 of them in each line of such a file take 0.6 s and 30 MB.
_MAX_FILE_BYTES = 2**16
_MAX_DOTS_IN_LINE = 1_000
_FIX_TOML = "correct the TOML"


@dataclass(frozen=True, slots=True)
class ModelsConfig:
    """The model of each role: a catalogue name, a folder, or a hub id.

    `auto` is the first catalogue entry of the role that is pulled, in the order of the catalogue.

    Attributes:
        chat_engine: what runs the chat model. `auto` takes the engine of a plugin if one can load it, otherwise
            transformers; `llama.cpp` needs the CPU, its extra, and a model that was pulled with its GGUF file.
    """

    chat: str = "auto"
    chat_quantization: Literal["none", "int8", "nf4"] = "nf4"
    chat_engine: Literal["auto", "transformers", "llama.cpp"] = "auto"
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
        answer_timeout_s: an answer ends with an error if its task yields nothing for so many seconds; 0 sets no limit.
        disabled_plugins: labels of plugins that are not loaded, as `smallai plugins` lists them.
        models: the model of each role.
        learning: how feedback is learned.
        tasks: the options of each task, by task name.
    """

    data_dir: Path = field(default_factory=lambda: platformdirs.user_data_path(APP, appauthor=False))
    models_dir: Path = field(default_factory=lambda: platformdirs.user_cache_path(APP, appauthor=False) / "models")
    database_url: str = ""
    device: str = "auto"
    memory_budget_mb: int = 0
    reply_to_speech: bool = False
    intent_threshold: float = 0.4
    answer_timeout_s: float = 600.0
    disabled_plugins: tuple[str, ...] = ()
    models: ModelsConfig = field(default_factory=ModelsConfig)
    learning: LearningConfig = field(default_factory=LearningConfig)
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("data_dir", "models_dir"):
            try:
                # The dataclass is frozen, so that a running assistant's settings cannot change under it.
                object.__setattr__(self, name, _as_path(getattr(self, name)))
            except Exception as error:  # a wrong type, an unknown user, a home that nobody knows
                reason = "" if isinstance(error, TypeError) else f": {error}"
                raise ConfigError(f"{name} is {shown(getattr(self, name))}{reason}", hint="give a path") from error
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", self.device):
            raise ConfigError(f"device is {shown(self.device)}", hint="use auto, cpu, cuda or cuda:N")
        if not 0 <= self.memory_budget_mb < 2**40:
            raise ConfigError(f"memory_budget_mb is {shown(self.memory_budget_mb)}", hint="0 lets the device decide")
        if not 0.0 <= self.intent_threshold <= 1.0:
            raise ConfigError(f"intent_threshold is {self.intent_threshold}", hint="give 0 to 1")
        # NaN fails the chain, too. A wait of more than a year overflows the clocks of some systems.
        if not 0.0 <= self.answer_timeout_s <= 3e7:
            raise ConfigError(f"answer_timeout_s is {self.answer_timeout_s}", hint="give seconds; 0 sets no limit")


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
        values = _checked(AssistantConfig, source.table, _Place(source))
    environment = _EnvironmentSource()
    values = _merged(values, _checked(AssistantConfig, environment.table, _Place(environment)))
    # The command line passes every general option, with None for those that were not given.
    given = {key: value for key, value in overrides.items() if value is not None}
    values = _merged(values, _checked(AssistantConfig, given, _Place(_Source("keyword argument"))))
    models = ModelsConfig(**values.pop("models", {}))
    learning = LearningConfig(**values.pop("learning", {}))
    return AssistantConfig(**values, models=models, learning=learning)


def make_options(options_type: type[Any], values: Mapping[str, Any], *, base: Any = None) -> Any:
    """Makes an instance of a task's options dataclass.

    Args:
        values: by field name, as TOML, JSON or a caller gives them.
        base: an instance that supplies the fields that `values` does not name; None takes the defaults.

    Raises:
        InvalidInput: a name is unknown, a type is wrong, or the dataclass refuses a value.
    """
    try:
        checked = _checked(options_type, values, _Place(_Source("option", takes_nul=True)))
    except ConfigError as error:
        raise InvalidInput(error.message, hint=error.hint, suggestion=error.suggestion) from error
    return options_type(**checked) if base is None else replace(base, **checked)


class _Source:
    """The origin of values, for error messages.

    Args:
        takes_nul: whether a text may hold NUL. No setting may: paths and the database refuse it much later.
    """

    def __init__(self, kind: str, *, takes_nul: bool = False) -> None:
        self.kind = kind
        self.takes_nul = takes_nul

    def place_of(self, key: str) -> str:
        """Names a key and its place; the names of its sections come first, separated by dots."""
        return f"{self.kind} {key!r}"


class _TomlSource(_Source):
    """A TOML file; it knows the line of each key."""

    def __init__(self, path: Path) -> None:
        super().__init__("key")
        self.path = path
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_FILE_BYTES + 1)  # a device or a pipe may never end
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"{path}: {reason}", hint="give the path of a TOML file") from error
        if len(data) > _MAX_FILE_BYTES:
            raise ConfigError(f"{path}: more than {_MAX_FILE_BYTES:,} bytes", hint="give the path of a TOML file")
        try:
            self.text = data.decode("utf-8-sig")  # some editors begin a file with a byte order mark
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 at byte {error.start}", hint="save the file as UTF-8") from error
        for number, line in enumerate(self.text.splitlines(), 1):
            if line.count(".") > _MAX_DOTS_IN_LINE:
                raise ConfigError(f"{path}:{number}: a line with more than {_MAX_DOTS_IN_LINE:,} dots", hint=_FIX_TOML)
        try:
            self.table = tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: {error}", hint=_FIX_TOML) from error
        except Exception as error:  # the parser does not catch what its own steps raise, such as a RecursionError
            raise ConfigError(f"{path}:{self._line_of(type(error))}: {error}", hint=_FIX_TOML) from error

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
        return f"{self.path}: key {shown(key)}"

    def _line_of(self, kind: type[Exception]) -> int:
        """The line that makes the parser raise an error that has no place: with it the beginning of the file raises."""
        lines = self.text.splitlines(keepends=True)

        def raises(n_lines: int) -> bool:
            try:
                tomllib.loads("".join(lines[:n_lines]))
            except tomllib.TOMLDecodeError:  # the beginning may end in the middle of a value
                return False
            except kind:
                return True
            return False

        return min(len(lines), bisect.bisect_left(range(len(lines)), True, key=lambda n: raises(n + 1)) + 1)


class _EnvironmentSource(_Source):
    """The settings among the environment variables; it knows the variable of each key.

    Attributes:
        table: nested tables; every value is a string.
    """

    def __init__(self) -> None:
        super().__init__("environment variable")
        self.table: dict[str, Any] = {}
        self._variables: dict[tuple[str, ...], str] = {}
        for variable, text in sorted(os.environ.items()):
            # An empty variable is how a shell or a service file takes a setting back.
            if not variable.startswith("SMALLAI_") or variable == "SMALLAI_CONFIG" or not text:
                continue
            self._add(variable, text)

    def place_of(self, key: str) -> str:
        names = (name for path, name in self._variables.items() if f"{'.'.join(path)}.".startswith(f"{key}."))
        return f"{self.kind} {next(names, key)}"

    def _add(self, variable: str, text: str) -> None:
        names = variable.removeprefix("SMALLAI_").lower().split("__")
        if names[0] == "tasks":  # a task's name has hyphens, which the name of a variable cannot have
            names[1:2] = [name.replace("_", "-") for name in names[1:2]]
        path = tuple(names)
        for other, name in self._variables.items():
            shorter = min(len(other), len(path))
            if other[:shorter] == path[:shorter]:  # the same key, or a section that another variable sets as a whole
                raise ConfigError(
                    f"the environment variables {name} and {variable} set the same key", hint="unset one of them"
                )
        self._variables[path] = variable
        here = self.table
        for section in path[:-1]:
            here = here.setdefault(section, {})
        here[path[-1]] = text


@dataclass(frozen=True, slots=True)
class _Place:
    """The place of a value in its source; `str()` names it.

    Attributes:
        key: the names of its sections and its own, separated by dots; empty for the whole source.
    """

    source: _Source
    key: str = ""

    def __str__(self) -> str:
        return self.source.place_of(self.key)

    def under(self, name: str) -> _Place:
        """The place of a key in the table that is here."""
        return _Place(self.source, f"{self.key}.{name}" if self.key else name)


def _merged(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    """Both tables in one; values of `high` win, and tables are merged key by key."""
    out = dict(low)
    for key, value in high.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = _merged(dict(out[key]), dict(value)) if both else value
    return out


def _checked(cls: type[Any], table: Mapping[str, Any], place: _Place) -> dict[str, Any]:
    """The values of a table, converted to the types of a dataclass's fields.

    Raises:
        ConfigError: a key is unknown, or a value cannot be converted.
    """
    hints = typing.get_type_hints(cls)
    known = {field.name for field in fields(cls)}
    out: dict[str, Any] = {}
    for key, value in table.items():
        here = place.under(str(key))
        if key not in known:
            raise ConfigError(f"{here} is unknown", hint=nearest(str(key), known))
        try:
            if is_dataclass(hints[key]):
                out[key] = _checked(typing.cast("type[Any]", hints[key]), _as_table(value, here), here)
            else:
                out[key] = _coerced(hints[key], value, here)
        except ConfigError:
            raise
        except Exception as error:  # whatever a conversion raises is about this value, such as an unknown `~user`
            raise ConfigError(f"{here} is {shown(value)}: {error}", hint="correct the value") from error
    return out


def _coerced(hint: Any, value: Any, place: _Place) -> Any:
    """Converts a value to the type of an annotation. Strings are parsed, because environment variables are strings."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _coerced(next(arg for arg in args if arg is not type(None)), value, place)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{place} is {shown(value)}", hint=nearest(str(value), map(str, args)))
        return value
    if origin is tuple:
        items = [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise ConfigError(f"{place} must be a list, not {shown(value)}")
        return tuple(_coerced(args[0], item, place) for item in items)
    if origin is not None and issubclass(origin, Mapping):
        table = _as_table(value, place)
        return {key: _coerced(args[1], inner, place.under(key)) for key, inner in table.items()}
    return value if hint is Any else _scalar(hint, value, place)


def _as_table(value: Any, place: _Place) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{place} must be a table, not {shown(value)}")
    return value


def _scalar(hint: Any, value: Any, place: _Place) -> Any:
    if isinstance(value, str) and "\0" in value and not place.source.takes_nul:
        raise ConfigError(f"{place} holds a NUL character", hint="remove it")
    if isinstance(value, str) and hint is not str:
        value = _parsed(hint, value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)  # TOML writes 1 for 1.0
    if hint is Path and isinstance(value, Path):
        return _as_path(value)
    # A bool is an int in Python, but `memory_budget_mb = true` is a mistake.
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{place} must be {hint.__name__}, not {shown(value)}")
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


def _as_path(value: Any) -> Path:
    """A path whose `~` is the home folder. Raises what Python raises if it is not a path or cannot be one."""
    path = Path(value).expanduser()
    if b"\0" in os.fsencode(path):  # `fsencode` raises if the system's encoding cannot write it
        raise ValueError("it holds a NUL character")
    return path
