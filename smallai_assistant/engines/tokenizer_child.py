"""The child process of `tokenizer_process`: tokenizer and chat template of one model folder, one request after another.

Requests and replies are JSON objects, one a line. The parent measures the time and ends a call that takes too long; the
memory is limited here. So is the processor time, more generously, for the case that the parent dies during a call: who
reads the pipe afterwards ends, but a template that loops reads nothing.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from smallai_assistant.engines.prompts import ChatTokenizer
from smallai_assistant.errors import AssistantError, ModelInvalid

# Memory above what is used when the work begins. a tokenizer.json made as large as that of Gemma 3 (262,144
# words, 353,000 merges) needs 320 MB to be read; a million characters of English, the most that is taken, need 100 MB,
# and of random letters 200 MB.
LOAD_BYTES, CALL_BYTES = 1_500 * 2**20, 300 * 2**20
# Libraries that transformers imports if it finds them. Tokenizers work without; torch alone would take 120 MB.
_UNNEEDED = ("torch", "torchvision", "tensorflow", "flax", "jax", "sklearn", "scipy", "pandas", "av", "PIL")
# Longer texts are no work of a template: those of real models add up to 20 kB to a chat.
_FREE_CHARS, _CHARS_PER_CHAR = 2**18, 8
_CHARS_PER_TOKEN = 4_096  # the longest words of vocabularies have about 500
# The system ends the child if a call takes this much more than the parent allows. It counts in whole seconds.
_TIME_FACTOR, _MORE_S = 2, 1


class TokenizerServer:
    """Answers the requests of the parent; each method is one.

    Attributes:
        tokenizer: of transformers; None before `load`.
    """

    def __init__(self) -> None:
        self.tokenizer: Any = None
        self._chat: ChatTokenizer | None = None

    def load(self, folder: str) -> None:
        from transformers import AutoTokenizer

        _limit_memory(LOAD_BYTES)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        _limit_memory(CALL_BYTES)

    def open_chat(self) -> dict[str, Any]:
        self._chat = ChatTokenizer(self.tokenizer, max_chars=_max_rendered)
        return {"eos_id": self._chat.eos_id}

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        return self._loaded().encode_chat(messages)

    def text(self, text: str) -> list[int]:
        return self._loaded().encode_text(text)

    def decode(self, ids: list[int]) -> str:
        text = self._loaded().decode(ids)
        if len(text) > _CHARS_PER_TOKEN * len(ids):
            raise ModelInvalid(f"the tokenizer makes {len(text):,} characters of {len(ids)} tokens")
        return text

    def call(self, method: str, inputs: Any, options: dict[str, Any]) -> Any:
        """A method of the tokenizer of transformers, for engines that use it as a whole."""
        method = {"__call__": "__call__", "apply_chat_template": "apply_chat_template"}[method]
        found = getattr(self.tokenizer, method)(inputs, **options)
        return dict(found) if hasattr(found, "keys") else found

    def _loaded(self) -> ChatTokenizer:
        assert self._chat is not None
        return self._chat


def _max_rendered(n_chars: int) -> int:
    return _FREE_CHARS + _CHARS_PER_CHAR * n_chars


def _limit_memory(n_bytes: int) -> None:
    """Limits the writable memory to `n_bytes` above what is used now. Mapped libraries do not count."""
    with open("/proc/self/status", encoding="ascii") as file:
        used_kb = next(int(line.split()[1]) for line in file if line.startswith("VmData:"))
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (used_kb * 1024 + n_bytes, hard))


def _limit_time(seconds: float) -> None:
    """Limits the processor time from now on."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    limit = math.ceil(time.process_time() + _TIME_FACTOR * seconds) + _MORE_S
    resource.setrlimit(resource.RLIMIT_CPU, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def answer(serve: Callable[..., Any], request: dict[str, Any]) -> dict[str, Any]:
    """Calls a method of the server; the reply holds its result, or its error as an `AssistantError` of the parent."""
    try:
        return {"result": serve(**request)}
    except AssistantError as error:
        return {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    except MemoryError:
        return {"error": "MemoryError", "message": "", "hint": ""}
    except BaseException as error:  # a panic in the Rust code of tokenizers is not an Exception
        text = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return {"error": "ModelInvalid", "message": text, "hint": ""}


def main() -> None:
    """Answers requests until the parent closes the pipe."""
    # Whatever a library prints must not get into the replies.
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    modules: dict[str, Any] = sys.modules
    modules.update(dict.fromkeys(_UNNEEDED))  # None: an import fails, and `find_spec` finds nothing
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # ended by the system, it leaves no file
    server = TokenizerServer()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit_time(request.pop("seconds"))
        reply = answer(getattr(server, request.pop("do")), request)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
