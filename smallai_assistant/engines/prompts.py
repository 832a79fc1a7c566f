"""Turns chat messages into token ids. No text of a message can become a control token."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from smallai_assistant.errors import AssistantError, InvalidInput, ModelInvalid

T = TypeVar("T")
ChatMessage = dict[str, str]


class TextTokenizer(Protocol):
    """What a text model needs of a tokenizer; see `ChatTokenizer`."""

    @property
    def eos_id(self) -> int | None: ...

    def encode_chat(self, messages: Sequence[ChatMessage], *, cancel: threading.Event | None = None) -> list[int]: ...

    def encode_text(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def close(self) -> None: ...


class ChatTokenizer:
    """A transformers tokenizer with a chat template, safe to use from several threads.

    Args:
        tokenizer: a tokenizer that is backed by the `tokenizers` library. Nothing else may use it, because its own
            encode methods change its state.
        max_chars: for a number of characters of a chat, how many the template may make of them; None for a template
            that is trusted.

    Raises:
        ModelInvalid: the tokenizer has no chat template, cannot render it, or has no `tokenizers` backend.
    """

    def __init__(self, tokenizer: Any, *, max_chars: Callable[[int], int] | None = None) -> None:
        self._tokenizer = tokenizer
        self._max_chars = max_chars
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if not hasattr(backend, "encode_batch_fast"):
            raise ModelInvalid("the model has no tokenizer.json", hint="use a model that has one")
        self._backend = backend
        if not tokenizer.chat_template:
            raise ModelInvalid("the model has no chat template", hint="use a model made for chat, often named Instruct")
        # A tokenizer.json may ask for either, and both would change a prompt silently.
        self._backend.no_truncation()
        self._backend.no_padding()
        # Texts that the backend turns into one control token wherever they occur. Runs of spaces, which some
        # vocabularies also add as tokens, are ordinary text.
        self._controls = {
            token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.content.strip()
        }
        # Longest first, because a regular expression takes the first alternative that matches, and one control token
        # may be the beginning of another. "(?!)" matches nothing.
        longest_first = sorted(self._controls, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._takes_system = True
        # The last chat and its ids: a task counts the tokens of a chat before it asks for the answer. Threads may
        # overwrite each other's entry, but an entry is one tuple and is always consistent.
        self._last: tuple[list[ChatMessage], list[int]] | None = None
        # Templates are programs. Two trials find a broken one now, and whether it accepts a system message.
        try:
            self._render([{"role": "user", "content": "x"}])
        except InvalidInput as error:
            raise ModelInvalid(f"the chat template cannot be used: {error.message}") from error
        try:
            self._render([{"role": "system", "content": "x"}, {"role": "user", "content": "x"}])
        except InvalidInput:
            self._takes_system = False

    @property
    def eos_id(self) -> int | None:
        """The id of the token that ends a turn, None if the tokenizer names none."""
        index: int | None = self._tokenizer.eos_token_id
        return index

    def encode_chat(self, messages: Sequence[ChatMessage], *, cancel: threading.Event | None = None) -> list[int]:  # noqa: ARG002
        """The token ids of the prompt that asks for the next answer.

        A control token in the content of a message is encoded as the plain text that it looks like. All control tokens
        of the result come from the template.

        Args:
            cancel: not looked at: the templates of pinned models take milliseconds.

        Raises:
            InvalidInput: the text holds half a surrogate pair, or the template refuses the messages.
        """
        asked = [dict(message) for message in messages]
        last = self._last
        if last is not None and last[0] == asked:
            return list(last[1])
        # Every control token of the text is put between two marks. The marks are random, so that no text can contain
        # them. Marks survive what templates do to a text, such as strip().
        mark = secrets.token_hex(8)
        marked = [message | {"content": self._bracket(message["content"], mark)} for message in asked]
        rendered = self._render(marked)
        ids = self._encode_marked(rendered, mark)
        self._last = (asked, ids)
        return list(ids)

    def encode_text(self, text: str) -> list[int]:
        """The token ids of a plain text; a control token in it is encoded as the text that it looks like.

        Raises:
            InvalidInput: the text holds half a surrogate pair.
        """
        mark = secrets.token_hex(8)
        return self._encode_marked(self._bracket(text, mark), mark)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without control tokens."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=True)
        return text

    def close(self) -> None:
        """Nothing to end."""

    def _encode_marked(self, text: str, mark: str) -> list[int]:
        """Encodes a text, and the pieces between two marks as plain text."""
        # Splitting at a pattern with one group puts the text between marks at the odd places.
        pieces = re.split(f"\ue000{mark}(.*?){mark}\ue001", text, flags=re.DOTALL)
        return [
            token
            for number, piece in enumerate(pieces)
            for token in (self._encode_as_text(piece) if number % 2 else self._encode(piece))
        ]

    def _bracket(self, text: str, mark: str) -> str:
        """Puts marks around every control token in the text."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"character {error.start + 1} of the text is half a surrogate pair") from error
        return self._control.sub(f"\ue000{mark}\\g<0>{mark}\ue001", text)

    def _render(self, messages: list[ChatMessage]) -> str:
        if not self._takes_system and messages[0]["role"] == "system":
            # As the authors of such models advise: the instructions come at the beginning of the first message.
            system, *rest = messages
            first = {**rest[0], "content": f"{system['content']}\n\n{rest[0]['content']}"} if rest else system
            messages = [first, *rest[1:]]
        text: str = _guard(
            lambda: self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        )
        if self._max_chars is not None:
            limit = self._max_chars(sum(len(message["content"]) for message in messages))
            if len(text) > limit:
                raise ModelInvalid(f"the chat template makes {len(text):,} characters, over {limit:,}")
        return text

    def _encode(self, text: str) -> list[int]:
        if not text:
            return []
        # The batch method releases the GIL. A long text takes a second, and other threads run meanwhile.
        ids: list[int] = _guard(lambda: self._backend.encode_batch_fast([text], add_special_tokens=False))[0].ids
        return ids

    def _encode_as_text(self, control: str) -> list[int]:
        """Runs the pipeline of the backend without its first stage, which matches control tokens."""

        def run() -> list[int]:
            text = self._backend.normalizer.normalize_str(control) if self._backend.normalizer else control
            pre = self._backend.pre_tokenizer
            words = [word for word, _ in pre.pre_tokenize_str(text)] if pre else [text]
            return [token.id for word in words for token in self._backend.model.tokenize(word)]

        ids = _guard(run)
        if self._controls[control] in ids:  # the vocabulary also has it as a plain word
            raise InvalidInput(f"the text holds {control!r}, which this model cannot take as text")
        return ids


def _guard(run: Callable[[], T]) -> T:
    """Runs a model's template or tokenizer on a user's text; every failure becomes InvalidInput.

    A panic in the tokenizer's Rust code is a BaseException.
    """
    try:
        return run()
    except (AssistantError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise InvalidInput(f"the model cannot take this text: {error}") from error
