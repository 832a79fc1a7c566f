"""What every command gets: its arguments, the settings, the screen, and the assistant on demand."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallai_assistant.cli.render import Screen
from smallai_assistant.config import AssistantConfig, load_config, nearest
from smallai_assistant.errors import AssistantError, InvalidInput, UrlNotAllowed

if TYPE_CHECKING:
    from smallai_assistant.assistant import Assistant

OpenAssistant = Callable[[AssistantConfig, Callable[[str, float], None]], AbstractContextManager["Assistant"]]

_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PROMPT_TOOLKIT_NO_CPR": "1",  # else it warns where a terminal does not tell the cursor's place
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
}


def quiet_libraries(*, debug: bool, online: bool = False) -> None:
    """Keeps the libraries' warnings and progress bars off the screen; `--debug` shows the log instead.

    Args:
        online: the command was asked to fetch something, so the hub's client may.
    """
    for name, value in _QUIET.items():
        if not (online and name == "HF_HUB_OFFLINE"):
            os.environ.setdefault(name, value)
    if debug:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
        logging.getLogger("smallai_assistant").setLevel(logging.DEBUG)
        return
    warnings.simplefilter("ignore")
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(logging.NullHandler())


class CommandContext:
    """One run of one command."""

    def __init__(self, args: Any, open_assistant: OpenAssistant | None = None) -> None:
        self.args = args
        self.screen = Screen()
        self._open_assistant = open_assistant or _open

    @cached_property
    def config(self) -> AssistantConfig:
        """The settings, with the general options over them."""
        return self.config_with()

    def config_with(self, **overrides: Any) -> AssistantConfig:
        """The settings with more overrides.

        Raises:
            ConfigError: one is wrong.
        """
        args = self.args
        general = {"data_dir": args.data_dir, "models_dir": args.models_dir, "device": args.device}
        return load_config(args.config, **{**general, **overrides})

    @contextmanager
    def assistant(self, config: AssistantConfig | None = None) -> Iterator[Assistant]:
        """Opens the assistant for a block; loading models shows on the screen."""
        try:
            with self._open_assistant(config or self.config, self.screen.loading) as assistant:
                yield assistant
        finally:
            self.screen.end_progress()

    def failed(self, error: AssistantError, *, about: dict[str, Any] | None = None) -> int:
        """Reports an error and returns the exit code that belongs to it."""
        self.screen.end_progress()
        if self.args.debug:
            traceback.print_exception(error)
        if self.args.json:
            self.screen.json({**(about or {}), "error": error.to_json()})
        self.screen.error(str(error))
        # What is wrong with the arguments themselves is wrong use; a bad content of a file is not.
        return 2 if type(error) in (InvalidInput, UrlNotAllowed) else 1

    def crashed(self, error: Exception) -> int:
        """Reports a defect of ours in one line."""
        self.screen.end_progress()
        if self.args.debug:
            traceback.print_exception(error)
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        self.screen.error(f"internal error: {reason} (run again with --debug and report it)")
        return 1

    def for_each(self, key: str, values: Sequence[Any], work: Callable[[Any], None]) -> int:
        """Runs `work` on every value; an error is reported and the rest is still done.

        Args:
            key: what a value is called in the JSON of an error.

        Returns:
            The exit code: that of the error where there is one value, 1 where any of several failed.
        """
        codes = []
        for value in values:
            try:
                work(value)
            except AssistantError as error:
                codes.append(self.failed(error, about={key: str(value)}))
        if not codes:
            return 0
        return codes[0] if len(values) == 1 else 1


def check_file(path: Path) -> Path:
    """Returns the path of a file that is there.

    Raises:
        InvalidInput: nothing is there, or a folder; the hint names the nearest file.
        UrlNotAllowed: it is an address.
    """
    from smallai_assistant.types import AudioPart

    AudioPart(path)
    try:
        if path.is_file():
            return path
        if path.is_dir():
            raise InvalidInput(f"{path}: a folder", hint="give the path of a file")
        siblings = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(f"{path}: {reason}", hint="give the path of a file") from error
    if path.exists():
        return path  # a pipe or a device: reading says what is wrong with it
    near = nearest(path.name, siblings)
    # Without a similar name, the hint would list every file of the folder.
    hint = near if near.name is not None else "give the path of a file"
    raise InvalidInput(f"{path}: there is no such file", hint=hint)


def check_writable(path: Path) -> Path:
    """Returns a path where a file can be made: told before the work, not after it.

    Raises:
        InvalidInput: it is a folder, or its folder is not there.
    """
    folder = path.absolute().parent
    try:
        if path.is_dir():
            raise InvalidInput(f"{path}: a folder", hint="give the path of a file")
        if not folder.is_dir():
            raise InvalidInput(f"{folder}: there is no such folder", hint="make it first")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(f"{path}: {reason}", hint="give the path of a file") from error
    return path


def _open(config: AssistantConfig, on_progress: Callable[[str, float], None]) -> AbstractContextManager[Assistant]:
    from smallai_assistant.assistant import Assistant

    return Assistant(config, on_progress=on_progress)
