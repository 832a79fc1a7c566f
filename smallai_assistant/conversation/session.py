"""One conversation, and the answers it gives to read."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from smallai_assistant.conversation.turn_runner import Conversation, Run, Services
from smallai_assistant.errors import AssistantError, Busy
from smallai_assistant.feedback import Feedback, Receipt
from smallai_assistant.types import Content, Message, Notice, Part, TextPart, Turn

DEFAULT_SOURCE = "local"
_CLOSE_PATIENCE_S = 10.0


class Session:
    """A conversation: what was said before is known to the next turn. One answer at a time."""

    def __init__(self, services: Services, *, session_id: str, user_id: str | None, history: list[Turn]) -> None:
        self._services = services
        self._conversation = Conversation(session_id, user_id, history)
        self._current: weakref.ref[Response] | None = None

    @property
    def id(self) -> str:
        """Resumes the conversation through `Assistant.session(session_id=...)`."""
        return self._conversation.id

    @property
    def user_id(self) -> str | None:
        """Whose conversation it is."""
        return self._conversation.user_id

    @property
    def history(self) -> tuple[Turn, ...]:
        """The turns so far, oldest first."""
        return tuple(self._conversation.history)

    def send(
        self,
        content: Content,
        *,
        task: str | None = None,
        options: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> Response:
        """Prepares an answer; the work starts when the response is first read.

        Args:
            content: text (`str`), a file (`Path`), a part, a list of those, or a Message.
            task: the task's name; None lets the router choose.
            options: values for the task's options, over those of the configuration.
            timeout_s: after that many seconds reading raises Cancelled and the compute stops.

        Raises:
            InvalidInput: the content cannot be used.
            Busy: the answer before is still running.
        """
        before = self._current() if self._current is not None else None
        if before is not None and before.is_running:
            raise Busy("the answer before is still running", hint="read it to its end or close() it")
        message = Message.of(content)
        run = Run(self._services, self._conversation, message, task=task, options=options or {})
        response = Response(run, self, timeout_s=timeout_s)
        self._current = weakref.ref(response)
        return response

    def give_feedback(
        self, turn_id: str, *, good: bool | None = None, correction: str | None = None, comment: str = ""
    ) -> Receipt:
        """Says what an answer was like; returns once it is on disk, and the next turn knows.

        For more, such as clicks, give a `Feedback` to `Assistant.give_feedback`.

        Args:
            good: thumb up or down.
            correction: what the answer should have been.
            comment: why.

        Raises:
            InvalidInput: there is no such turn, or nothing was said.
            StoreError: it could not be stored.
        """
        given = Feedback(
            turn_id, is_good=good, correction=correction, comment=comment, source=self.user_id or DEFAULT_SOURCE
        )
        return self._services.give_feedback(given)


class Response:
    """An answer: iterate it (`for` or `async for`) for its parts as they come, or read `text`, which waits.

    Reading starts the work. `close()`, or dropping the response, stops it.
    """

    def __init__(self, run: Run, session: Session, *, timeout_s: float | None = None) -> None:
        self._run = run
        self._session = session
        self._parts: list[Part] = []
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._error: BaseException | None = None
        self._is_finished = False
        weakref.finalize(self, run.cancel)

    def __iter__(self) -> Iterator[Part]:
        position = 0
        while position < len(self._parts) or self._pull():
            yield self._parts[position]
            position += 1

    async def __aiter__(self) -> AsyncIterator[Part]:
        position = 0
        try:
            while position < len(self._parts) or await asyncio.to_thread(self._pull):
                yield self._parts[position]
                position += 1
        finally:
            if not self._is_finished:
                self._run.cancel()

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        """Whether the work has begun and not ended."""
        return self._run.is_running

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts, once the answer is complete."""
        return tuple(self)

    @property
    def text(self) -> str:
        """The whole text of the answer; of the reply, where a spoken message was transcribed and answered."""
        self._drain()
        return "".join(part.text for part in self._parts if isinstance(part, TextPart))

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What the user should know about the answer."""
        self._drain()
        return tuple(self._run.notices)

    @property
    def details(self) -> Mapping[str, Any]:
        """Facts: `model`, `n_completion_tokens`, `language` ..., see `Details`."""
        self._drain()
        return dict(self._run.details)

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds: `route_s`, `first_part_s`, `total_s`."""
        self._drain()
        return dict(self._run.timings)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The stored turns: one, or two where a spoken message was transcribed and answered.

        Returns once they are on disk.

        Raises:
            StoreError: they could not be stored.
        """
        self._drain()
        return tuple(future.result() for future in self._run.stored)

    @property
    def turn(self) -> Turn:
        """The stored turn of the answer; returns once it is on disk."""
        return self.turns[-1]

    def rate(self, *, good: bool | None = None, correction: str | None = None, comment: str = "") -> Receipt:
        """Says what the answer was like; see `Session.give_feedback`."""
        return self._session.give_feedback(self.turn.id, good=good, correction=correction, comment=comment)

    def close(self) -> None:
        """Stops the compute and waits until it has stopped; what came is kept and stored. Twice is once."""
        self._run.cancel()
        self._run.wait(_CLOSE_PATIENCE_S)
        self._is_finished = True

    def _drain(self) -> None:
        while self._pull():
            pass

    def _pull(self) -> bool:
        """Waits for one more part; False at the end."""
        if self._error is not None:
            raise self._error
        if self._is_finished:
            return False
        try:
            item = self._run.next_part(self._deadline)
        except AssistantError as error:
            self._error = error
            raise
        except BaseException:
            self._run.cancel()
            raise
        if item is None:
            self._is_finished = True
            return False
        self._parts.append(item)
        return True
