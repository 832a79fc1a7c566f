"""The tokenizer and chat template of a model folder that nobody pinned, in a child process with limits.

A chat template is a program, and a tokenizer runs regular expressions and replacements of its own: nothing tells
beforehand how long they run and how much memory they take. Here they get two seconds and 300 MB for each text. A child
that takes more is killed, the text is refused, and a new child starts.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smallai_assistant import errors
from smallai_assistant.engines.prompts import ChatMessage
from smallai_assistant.errors import Cancelled, InputTooLarge, ModelInvalid
from smallai_assistant.models.child_process import package_environment

# Seconds of the child's processor time: those of the clock would refuse good texts on a machine that is busy. Of good
# texts with a million characters, the most that is taken, spaces need the longest with Qwen's tokenizer, 2.3 s; words
# need 0.6 s.
_CALL_S, _S_PER_CHAR = 2.0, 3e-6
# A text over this length may be too much for a good tokenizer: a million CJK characters that are not in the vocabulary
# make three million tokens and need over 300 MB. The text is blamed then, not the model.
_LONG_CHARS = 100_000
_LOAD_S = 20.0  # the imports take 1 s, a tokenizer.json made as large as that of Gemma 3 another 1.4 s
_CLOCK_FACTOR = 5  # a child that does not get this share of a processor in time is given up as well
_POLL_S = 0.05
_MAX_REPLY_BYTES = 16 * 2**20  # two million token ids
_TICKS = os.sysconf("SC_CLK_TCK")
_ANOTHER = "use another model: this one's chat template or tokenizer is broken or hostile"


class TokenizerProcess:
    """Serves the tokenizer of one folder from a child process. All methods are safe to call from any thread.

    Args:
        name: of the model, for errors.
        is_chat: whether the model needs a chat template.
    """

    def __init__(self, folder: Path, name: str, *, is_chat: bool) -> None:
        self._folder, self._name, self._is_chat = folder, name, is_chat
        self._lock = threading.Lock()
        self._closed = False
        self._child: _Child | None = None
        self._facts: dict[str, Any] = {}
        # The last chat and its ids: a task counts the tokens of a chat before it asks for the answer.
        self._last: tuple[list[ChatMessage], list[int]] | None = None
        self._start()

    def wait(self, *, cancel: threading.Event | None = None) -> None:
        """Waits until the tokenizer is loaded and its chat template was tried.

        Raises:
            ModelInvalid: it cannot be loaded, has no chat template or cannot render it, or takes too much.
        """
        with self._lock:
            self._ready(cancel)

    @property
    def eos_id(self) -> int | None:
        """The id of the token that ends a turn, None if the tokenizer names none."""
        index: int | None = self._facts.get("eos_id")
        return index

    def encode_chat(self, messages: Sequence[ChatMessage], *, cancel: threading.Event | None = None) -> list[int]:
        """As `ChatTokenizer.encode_chat`."""
        asked = [dict(message) for message in messages]
        last = self._last
        if last is not None and last[0] == asked:
            return list(last[1])
        ids: list[int] = self._ask({"do": "chat", "messages": asked}, cancel)
        self._last = (asked, ids)
        return list(ids)

    def encode_text(self, text: str) -> list[int]:
        """As `ChatTokenizer.encode_text`."""
        ids: list[int] = self._ask({"do": "text", "text": text})
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """As `ChatTokenizer.decode`."""
        text: str = self._ask({"do": "decode", "ids": list(ids)})
        return text

    def replace_calls(self, tokenizer: Any) -> None:
        """Lets a tokenizer of transformers, which a library holds, run its calls and its chat template in the child."""
        from transformers import BatchEncoding

        def remote(method: str) -> Any:
            def run(_tokenizer: Any, inputs: Any, **options: Any) -> Any:
                tensors = options.pop("return_tensors", None)
                options = {key: str(value) if hasattr(value, "name") else value for key, value in options.items()}
                found = self._ask({"do": "call", "method": method, "inputs": inputs, "options": options})
                return BatchEncoding(found, tensor_type=tensors) if isinstance(found, dict) else found

            return run

        # Python looks `__call__` up in the class, not in the object.
        methods = {method: remote(method) for method in ("__call__", "apply_chat_template")}
        tokenizer.__class__ = type(type(tokenizer).__name__, (type(tokenizer),), methods)

    def close(self) -> None:
        """Ends the child."""
        self._closed = True
        child = self._child
        if child is not None:
            child.kill()
            with self._lock:  # whoever waits for the child finds it ended, and lets go
                child.dispose()
                self._child = None

    def _start(self) -> None:
        """Starts a child and sends it to load the tokenizer, without waiting for it."""
        self._child = None if self._closed else _Child(self._folder)

    def _ready(self, cancel: threading.Event | None) -> _Child:
        if self._child is None:
            raise Cancelled("the model was closed")
        if not self._child.is_loaded:
            self._exchange(self._child, None, _LOAD_S, cancel)
            if self._is_chat:  # the template is tried, as a text of its own
                self._facts = self._exchange(self._child, {"do": "open_chat"}, _CALL_S, cancel)
            self._child.is_loaded = True
        return self._child

    def _ask(self, request: dict[str, Any], cancel: threading.Event | None = None) -> Any:
        n_chars = _n_chars(request)
        with self._lock:
            try:
                return self._exchange(self._ready(cancel), request, _CALL_S + _S_PER_CHAR * n_chars, cancel)
            except ModelInvalid as error:
                if n_chars <= _LONG_CHARS:
                    raise
                raise InputTooLarge(f"a text of {n_chars:,} characters: {error.message}", hint="send less") from error

    def _exchange(
        self, child: _Child, request: dict[str, Any] | None, seconds: float, cancel: threading.Event | None
    ) -> Any:
        try:
            reply = child.exchange(request, seconds, cancel)
            if reply.get("error") == "MemoryError":
                raise _Breach("takes too much memory")
        except (_Breach, Cancelled) as error:
            child.dispose()
            self._start()  # now: the next text finds a child that is already loaded
            if isinstance(error, Cancelled):
                raise
            if self._closed:
                raise Cancelled("the model was closed") from None
            what = "its tokenizer" if request is None else "its chat template or tokenizer"
            message = f"{self._name}: {what} {error}"
            raise ModelInvalid(message, hint=_ANOTHER) from None
        if "error" in reply:
            kind = getattr(errors, str(reply["error"]), ModelInvalid)
            raise kind(f"{self._name}: {reply['message']}", hint=reply["hint"] or _ANOTHER)
        return reply["result"]


class _Breach(Exception):
    """The child took too much, or ended."""


class _Child:
    """A child process that loads its tokenizer from the first moment on."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "smallai_assistant.engines.tokenizer_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=package_environment()
            | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "MALLOC_ARENA_MAX": "2"},
            start_new_session=True,  # Ctrl-C in the terminal is for the parent, which ends this child when it ends
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self.is_loaded = False
        self._unsent = _line({"do": "load", "folder": str(folder), "seconds": _LOAD_S})
        self._send()

    def exchange(
        self, request: dict[str, Any] | None, seconds: float, cancel: threading.Event | None
    ) -> dict[str, Any]:
        """Sends a request and returns the reply; None waits for the reply to the load.

        Raises:
            Cancelled: `cancel` was set.
            _Breach: the child took over `seconds` of processor time, or ended, which it does for want of memory.
        """
        if request is not None:
            self._unsent = _line(request | {"seconds": seconds})
        begin, deadline = self._processor_s(), time.monotonic() + _CLOCK_FACTOR * seconds
        # The processor time of a load counts from the start of the process: it began before it was waited for.
        limit = seconds if request is None else begin + seconds
        received = bytearray()
        poll = select.poll()  # not select.select, which knows the first 1,024 files of a process only
        poll.register(self._out, select.POLLIN)
        while not received.endswith(b"\n"):
            if self._unsent:
                poll.register(self._in, select.POLLOUT)
            ready = {file for file, _ in poll.poll(1000 * _POLL_S)}
            if self._in in ready:
                self._send()
                if not self._unsent:
                    poll.unregister(self._in)
            if self._out in ready:
                chunk = os.read(self._out, 2**20)
                if not chunk:
                    raise _Breach("takes too much memory, or crashes")
                received += chunk
                if len(received) > _MAX_REPLY_BYTES:
                    raise _Breach("makes too many tokens")
                continue
            if cancel is not None and cancel.is_set():
                raise Cancelled("stopped")
            if self._processor_s() > limit or time.monotonic() > deadline:
                raise _Breach(f"takes over {seconds:.2g} s")
        try:
            reply = json.loads(received)
        except ValueError:
            raise _Breach("gives no answer") from None
        return dict(reply)

    def kill(self) -> None:
        """Ends the process. A thread that waits for its reply reads the end of the pipe."""
        self._process.kill()

    def dispose(self) -> None:
        """Ends the process and closes its pipes, when no thread waits for its reply."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _send(self) -> None:
        try:
            self._unsent = self._unsent[os.write(self._in, self._unsent) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._unsent = b""  # it has ended: the read tells

    def _processor_s(self) -> float:
        try:
            # Behind the name, which may have spaces: user and system time are the fields 14 and 15, counted from 1.
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / _TICKS


def _n_chars(value: Any) -> int:
    """The characters of a caller's texts in a request."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(_n_chars(inner) for key, inner in value.items() if key not in ("do", "method", "options", "role"))
    return sum(map(_n_chars, value)) if isinstance(value, list) else 0


def _line(request: dict[str, Any]) -> bytes:
    return json.dumps(request).encode() + b"\n"
