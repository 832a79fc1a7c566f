"""The context of a command: its arguments, the settings, the screen, and the assistant on demand."""

from __future__ import annotations

import errno
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
from smallai_assistant.cli.streams import OutputError
from smallai_assistant.config import AssistantConfig, load_config
from smallai_assistant.errors import AssistantError, InvalidInput, UrlNotAllowed, nearest
from smallai_assistant.foreign.calls import fault_notice

if TYPE_CHECKING:
    from smallai_assistant.assistant import Assistant

OpenAssistant = Callable[[AssistantConfig, Callable[[str, float], None]], AbstractContextManager["Assistant"]]

_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Without it, prompt_toolkit warns if a terminal does not answer where the cursor is.
    "PROMPT_TOOLKIT_NO_CPR": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # torch imports the installed backends of other devices, which no setting can choose here. One whose metadata is
    # malformed would end the import of torch.
    "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
}


def quiet_libraries(*, debug: bool, online: bool = False) -> None:
    """Keeps the warnings and progress bars of libraries off the screen.

    Args:
        debug: print the log instead.
        online: let the client of the hub use the network.
    """
    for name, value in _QUIET.items():
        if not (online and name == "HF_HUB_OFFLINE"):
            # Whoever sets one of these variables knows why.
            os.environ.setdefault(name, value)
    if debug:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
        logging.getLogger("smallai_assistant").setLevel(logging.DEBUG)
        return
    warnings.simplefilter("ignore")
    # Without a handler, Python prints warnings of the log to standard error.
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(logging.NullHandler())


class CommandContext:
    """One run of one command.

    Args:
        args: the parsed arguments.
        open_assistant: makes the assistant from the settings and a progress callback.
    """

    def __init__(self, args: Any, open_assistant: OpenAssistant | None = None) -> None:
        self.args = args
        self.screen = Screen()
        self._open_assistant = open_assistant or _open

    @cached_property
    def config(self) -> AssistantConfig:
        """The settings; the general options override them."""
        return self.config_with()

    def config_with(self, **overrides: Any) -> AssistantConfig:
        """The settings with further overrides.

        Raises:
            ConfigError: a setting is wrong.
        """
        args = self.args
        general = {"data_dir": args.data_dir, "models_dir": args.models_dir, "device": args.device}
        return load_config(args.config, **{**general, **overrides})

    @contextmanager
    def assistant(self, config: AssistantConfig | None = None, *, names_faults: bool = True) -> Iterator[Assistant]:
        """Opens the assistant for a `with` block. The loading of models is shown on the screen.

        Args:
            names_faults: whether to name the plugins that have a fault; False for a command that lists them itself.
        """
        assistant = None
        try:
            with self._open_assistant(config or self.config, self.screen.loading) as assistant:
                if names_faults:
                    self._name_faults(assistant)
                yield assistant
        finally:
            self.screen.end_progress()
            if assistant is not None and names_faults:
                self._name_faults(assistant)  # of observers, which are told while it closes

    def _name_faults(self, assistant: Assistant) -> None:
        faults = list(assistant.broken_plugins.items())
        self.screen.notices(fault_notice(name, why) for name, why in faults)

    def failed(self, error: AssistantError, *, about: dict[str, Any] | None = None) -> int:
        """Prints an error and returns its exit code.

        Args:
            about: keys to put before the error in the JSON object, such as the file.
        """
        self.screen.end_progress()
        if self.args.debug:
            traceback.print_exception(error)
        if self.args.json and not isinstance(error, OutputError):
            self.screen.json({**(about or {}), "error": error.to_json()})
        self.screen.error(str(error))
        # Exit code 2 means that the command was called wrongly. A subclass, such as InvalidImage, means that it was
        # called rightly and a file's content is bad.
        return 2 if type(error) in (InvalidInput, UrlNotAllowed) else 1

    def crashed(self, error: Exception) -> int:
        """Prints a defect of the program, or of its surroundings, in one line and returns its exit code."""
        self.screen.end_progress()
        if self.args.debug:
            traceback.print_exception(error)
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            self.screen.error(f"{error.strerror}: no file can be opened any more (raise the limit, see `ulimit -n`)")
            return 1
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        self.screen.error(f"internal error: {reason} (run again with --debug and report it)")
        return 1

    def for_each(self, key: str, values: Sequence[Any], work: Callable[[Any], None]) -> int:
        """Calls `work` with each value. If one fails, the error is printed and the others are still done.

        Args:
            key: the name of a value in the JSON object of an error.

        Returns:
            The exit code: 0 if all succeeded. If there is only one value, the code of its error; otherwise 1.
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
    """Returns the path if a file is there.

    Raises:
        InvalidInput: there is nothing, or a folder. The hint names the file with the most similar name.
        UrlNotAllowed: it is a web address.
    """
    from smallai_assistant.types import AudioPart

    AudioPart(path)  # refuses web addresses and NUL characters
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
        return path  # a pipe or a device; whoever reads it reports what is wrong
    near = nearest(path.name, siblings)
    # Without a similar name, the hint would list every file of the folder.
    hint = near if near.name is not None else "give the path of a file"
    raise InvalidInput(f"{path}: there is no such file", hint=hint)


def check_writable(path: Path) -> Path:
    """Returns the path if a file can be written there, so that a long command does not fail at its end.

    Raises:
        InvalidInput: it is a folder, or its folder does not exist.
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
