"""Imports of strangers' plugins: first in a child process, then on a thread with a deadline; what is known is kept.

A plugin that ends the process while it is imported, by `os._exit` or by a crash of native code, would end every command
without its name. So one that is new, or whose files changed, is imported in a child process first. While a known one is
imported in this process, its record says so: if the process ends meanwhile, the next one finds the record and names the
plugin instead of importing it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from smallai_assistant.errors import PluginError
from smallai_assistant.foreign.calls import PluginHangsError, call
from smallai_assistant.foreign.installed import Installed

log = logging.getLogger(__name__)
T = TypeVar("T")

# A light plugin takes milliseconds; one that imports torch takes 3 s here, and 15 s from a cold disk of a network.
IMPORT_TIMEOUT_S = 20.0
# What ended a process or hung is not tried for so long, because each try costs the deadline, or the command.
_RETRY_S = 3600.0
_MAX_FILES = 1_000  # of a package whose changes are noticed
_MAX_RESULT_BYTES = 65_536  # what a pipe holds on Linux
_IS_CHILD = "_ASSISTANT_PLUGIN_TRIAL"  # an environment variable of the child
_CHILD = "from smallai_assistant.plugin_manager import try_plugin; try_plugin()"

GOOD, IMPORTING, BAD = "good", "importing", "bad"
_thread = threading.local()  # `imports`: whether this thread imports a plugin


class ProcessEndedError(PluginError):
    """The import of a plugin ended the process that did it."""


@dataclass(frozen=True, slots=True)
class _Record:
    """What is known of a plugin.

    Attributes:
        stamp: tells its version and its files.
        state: GOOD, IMPORTING or BAD.
        why: the reason if it is BAD; what an observer of a GOOD one did.
        at: when it was written, in seconds since 1970.
        pid: the process that wrote it.
    """

    stamp: str
    state: str
    why: str = ""
    at: float = 0.0
    pid: int = 0

    @property
    def is_recent(self) -> bool:
        """Whether it is younger than the time after which a plugin is tried again."""
        return 0.0 <= time.time() - self.at < _RETRY_S  # a clock that went back makes no record last for years

    @property
    def is_of_living(self) -> bool:
        """Whether another process imports the plugin just now."""
        if self.state != IMPORTING or time.time() - self.at > 2 * IMPORT_TIMEOUT_S:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass
        return True


class PluginImporter:
    """Imports plugins and keeps what is known about them.

    Args:
        folder: the folder of `plugins.json`; None keeps nothing, so every import is tried in a child process first.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = folder / "plugins.json" if folder is not None else None
        self._stamps: dict[str, str] = {}

    @property
    def is_inside_import(self) -> bool:
        """Whether a plugin opens an assistant while it is imported. That assistant gets no foreign plugins."""
        return _IS_CHILD in os.environ or getattr(_thread, "imports", False)

    def load(self, plugin: Installed, use: Callable[[object], T]) -> T:
        """Imports a plugin and hands it to `use`, which registers it.

        Raises:
            PluginError: it hangs, ended a process, or broke the contract.
            Exception: what else its import raised.
        """
        stamp = self._stamps[plugin.label] = _stamp_of(plugin)
        known = self._read().get(plugin.label)
        if known is not None and known.stamp != stamp:
            known = None
        if known is not None and known.is_recent and known.state == BAD:
            raise PluginError(f"{known.why}; it is tried again {_RETRY_TEXT}")
        try:
            if known is not None and known.is_recent and known.state == IMPORTING and not known.is_of_living:
                raise ProcessEndedError("the last process that imported it ended meanwhile")
            if known is None or not (known.state == GOOD or known.is_of_living):
                self._try_in_child(plugin)
            self._write(plugin.label, _Record(stamp, IMPORTING))
            loaded = call(functools.partial(_import, plugin), timeout_s=IMPORT_TIMEOUT_S, what="its import")
            result = use(loaded)
        except (PluginHangsError, ProcessEndedError) as error:
            self._write(plugin.label, _Record(stamp, BAD, error.message))
            raise PluginError(f"{error.message}; it is tried again {_RETRY_TEXT}") from error
        except BaseException as error:
            # It is known no longer if it raised. Ctrl-C says nothing of it.
            self._write(plugin.label, None if isinstance(error, Exception) else known)
            raise
        has_fault = known is not None and known.state == GOOD and known.why
        self._write(plugin.label, known if has_fault else _Record(stamp, GOOD))
        return result

    def keep_fault(self, label: str, why: str) -> None:
        """Keeps what an observer of a loaded plugin did, so that later commands can name it."""
        if label in self._stamps:
            self._write(label, _Record(self._stamps[label], GOOD, why, time.time()))

    def fault_of(self, label: str) -> str:
        """What an observer of the plugin did in the last hour; empty if nothing."""
        known = self._read().get(label)
        is_current = known is not None and known.stamp == self._stamps.get(label) and known.is_recent
        return known.why if known is not None and is_current and known.state == GOOD else ""

    def _try_in_child(self, plugin: Installed) -> None:
        """Imports and registers the plugin in a child process.

        Raises:
            PluginHangsError: it takes longer than the deadline.
            ProcessEndedError: the child ended in the middle.
            PluginError: it raised.
        """
        if plugin.module in sys.modules or not sys.executable:  # imported already; or Python is embedded in a program
            return
        reader, writer = os.pipe()
        entry_point = plugin.entry_point
        environment = {**os.environ, _IS_CHILD: "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            child = subprocess.Popen(
                [sys.executable, "-P", "-c", _CHILD, entry_point.name, entry_point.value, str(writer)],
                env=environment,
                pass_fds=[writer],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # so that what it starts can be ended with it
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            try:
                code = child.wait(IMPORT_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                raise PluginHangsError(f"its import takes longer than {IMPORT_TIMEOUT_S:g} s") from None
            finally:
                with contextlib.suppress(OSError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            os.set_blocking(pipe.fileno(), False)  # a process that it started may hold the other end
            text = pipe.read(_MAX_RESULT_BYTES)
        if not text:
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with the exit code {code}"
            raise ProcessEndedError(f"its import ends the process {how}")
        if reason := json.loads(text)["error"]:
            raise PluginError(reason)

    def _read(self) -> dict[str, _Record]:
        try:
            rows = json.loads(self._file.read_bytes()) if self._file is not None else {}
            return {label: _Record(**row) for label, row in rows.items()}
        except FileNotFoundError:
            return {}
        except Exception as error:  # then every plugin counts as new, which costs a child process each
            log.warning("%s cannot be read: %s", self._file, error)
            return {}

    def _write(self, label: str, record: _Record | None) -> None:
        """Keeps a record, or drops it. If it cannot be written, the next start tries the plugin as a new one."""
        if self._file is None:
            return
        rows: dict[str, Any] = {name: asdict(known) for name, known in self._read().items()}
        rows.pop(label, None)
        if record is not None:
            at = record.at or time.time()
            rows[label] = asdict(_Record(record.stamp, record.state, record.why, at, os.getpid()))
        try:
            # Atomic, but not flushed to the disk: after a power cut the plugin is tried as a new one.
            descriptor, temporary = tempfile.mkstemp(
                dir=self._file.parent, prefix=".tmp-"
            )  # only the owner may read it
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(rows, file, indent=1)
            os.replace(temporary, self._file)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._file, error.strerror)


_RETRY_TEXT = "in an hour, or once its files change"


def _import(plugin: Installed) -> object:
    _thread.imports = True
    try:
        return plugin.entry_point.load()
    finally:
        _thread.imports = False


def send_result(descriptor: int, error: str) -> None:
    """Ends the child process and tells its parent how the import went; an empty error means well."""
    os.write(descriptor, json.dumps({"error": error}).encode()[:_MAX_RESULT_BYTES])
    os._exit(0)  # without the handlers and threads that the plugin may have started


def _stamp_of(plugin: Installed) -> str:
    """Tells the version of a plugin and its files: another text if something changed that an import may depend on."""
    parts = [plugin.entry_point.value, plugin.version, sys.version]
    try:
        # The package at the top, because the search for a module inside it would import it.
        spec = importlib.util.find_spec(plugin.module.partition(".")[0])
        folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
        files = [Path(spec.origin)] if spec and spec.origin else []
        for folder in folders:
            files += [path for path in folder.rglob("*") if path.suffix in (".py", ".so", ".pyd")][:_MAX_FILES]
        stats = [path.stat() for path in files if path.is_file()]
        parts += [str(len(stats)), str(sum(stat.st_size for stat in stats))]
        parts += [str(max((stat.st_mtime_ns for stat in stats), default=0))]
    except Exception as error:  # a finder of modules may be foreign code; the import will say what is wrong
        parts.append(type(error).__name__)
    return " ".join(parts)
