"""A conversation, and its answers that can be read while they are made."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from smallai_assistant.conversation.turn_runner import Conversation, Run, Services
from smallai_assistant.conversation.why import Explainer, Why
from smallai_assistant.errors import AssistantError, Busy
from smallai_assistant.feedback import DEFAULT_SOURCE, Feedback, Receipt
from smallai_assistant.types import Content, Message, Notice, Part, TextPart, Turn

_CLOSE_PATIENCE_S = 10.0  # a plugin that does not stop must not keep the caller in `close` forever


class Session:
    """A conversation. Each turn knows the earlier ones. It makes one answer at a time."""

    def __init__(self, services: Services, conversation: Conversation) -> None:
        self._services = services
        self._conversation = conversation
        self._current: weakref.ref[Response] | None = None  # weak, so that dropping a response stops its work

    @property
    def id(self) -> str:
        """The conversation's id. `Assistant.session(session_id=...)` resumes it."""
        return self._conversation.id

    @property
    def user_id(self) -> str | None:
        """The user whose conversation it is, None if no user was named."""
        return self._conversation.user_id

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that the user belongs to, as the session was opened with."""
        return self._conversation.groups

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
        """Prepares an answer. The work starts when the response is first read.

        Args:
            content: a text (`str`), a file (`Path`), a part, a list of these, or a Message.
            task: the name of a task; None lets the router choose.
            options: values for the task's options. They override the configuration.
            timeout_s: the time limit of the answer, counted from now. When it has passed, reading raises Cancelled and
                the computation stops.

        Raises:
            InvalidInput: the content cannot be used.
            Busy: the previous answer is still being made.

        Errors of routing and of the task are raised when the response is read.
        """
        before = self._current() if self._current is not None else None
        if before is not None and before.is_running:
            raise Busy("the previous answer is still being made", hint="read it to its end or close() it")
        message = Message.of(content)
        run = Run(self._services, self._conversation, message, task=task, options=options or {})
        response = Response(run, self, timeout_s=timeout_s)
        self._current = weakref.ref(response)
        return response

    def give_feedback(
        self,
        turn_id: str,
        *,
        good: bool | None = None,
        correction: str | None = None,
        comment: str = "",
        audience: str | None = None,
    ) -> Receipt:
        """Judges an answer. Returns after the feedback is on disk; the next turn takes it into account.

        For other kinds of feedback, such as clicks, give a `Feedback` to `Assistant.give_feedback`.

        Args:
            good: thumb up or thumb down.
            correction: what the answer should have been.
            comment: the reason, for people.
            audience: whom it reaches: `user`, `group:NAME` or `everyone`; see `Feedback`.

        Returns:
            What was stored, and what changed at once.

        Raises:
            InvalidInput: there is no such turn, or the feedback says nothing.
            StoreError: it could not be stored.
        """
        given = Feedback(
            turn_id,
            is_good=good,
            correction=correction,
            comment=comment,
            source=self.user_id or DEFAULT_SOURCE,
            audience=audience,
        )
        return self._services.give_feedback(given)

    def why(self, turn_id: str) -> Why:
        """Says why a turn was answered as it was: the feedback that was used, whose it is, and the bare answer.

        It shows what the session's user may see. It asks the model once more, for the bare answer.

        Raises:
            InvalidInput: there is no such turn, or it is of another user.
        """
        return Explainer(self._services).why(turn_id, user_id=self.user_id, groups=self.groups)


class Response:
    """An answer. Iterate it with `for` or `async for` to get its parts as they are made, or read `text`, which waits.

    Reading starts the work. Closing or dropping the response stops it. Reading may raise any AssistantError of the
    routing or of the task, and raises the same error again if it is repeated.
    """

    def __init__(self, run: Run, session: Session, *, timeout_s: float | None = None) -> None:
        self._run = run
        self._session = session
        self._parts: list[Part] = []
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._error: BaseException | None = None
        self._is_finished = False
        weakref.finalize(self, run.cancel)  # a response that nobody can read any more must not use the processor

    def __iter__(self) -> Iterator[Part]:
        # By position, so that a second iteration yields the parts from the beginning.
        position = 0
        while position < len(self._parts) or self._pull():
            yield self._parts[position]
            position += 1

    async def __aiter__(self) -> AsyncIterator[Part]:
        position = 0
        try:
            # Waiting for a part blocks, so it happens on another thread and the event loop stays free.
            while position < len(self._parts) or await asyncio.to_thread(self._pull):
                yield self._parts[position]
                position += 1
        finally:
            # Leaving the loop early, for example because a web client disconnected, stops the work.
            if not self._is_finished:
                self._run.cancel()

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        """Whether the work has begun and has not ended."""
        return self._run.is_running

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts, once the answer is complete."""
        return tuple(self)

    @property
    def text(self) -> str:
        """The whole text of the answer. If a spoken message was transcribed and answered, it is that of the reply."""
        self._drain()
        return "".join(part.text for part in self._parts if isinstance(part, TextPart))

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What the user should know about the answer."""
        self._drain()
        return tuple(self._run.notices)

    @property
    def details(self) -> Mapping[str, Any]:
        """Facts about the answer, such as `model`, `n_completion_tokens` and `language`; see `Details`."""
        self._drain()
        return dict(self._run.details)

    @property
    def timings(self) -> Mapping[str, float]:
        """Durations in seconds: `route_s`, `first_part_s` and `total_s`."""
        self._drain()
        return dict(self._run.timings)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The stored turns; it waits until they are on disk.

        There is one, or two if a spoken message was transcribed and answered.

        Raises:
            StoreError: they could not be stored.
        """
        self._drain()
        return tuple(future.result() for future in self._run.stored)

    @property
    def turn(self) -> Turn:
        """The stored turn of the answer; it waits until it is on disk.

        Raises:
            StoreError: it could not be stored.
        """
        return self.turns[-1]

    def rate(
        self,
        *,
        good: bool | None = None,
        correction: str | None = None,
        comment: str = "",
        audience: str | None = None,
    ) -> Receipt:
        """Judges this answer; see `Session.give_feedback`."""
        return self._session.give_feedback(
            self.turn.id, good=good, correction=correction, comment=comment, audience=audience
        )

    def why(self) -> Why:
        """Says why this was answered; see `Session.why`."""
        return self._session.why(self.turn.id)

    def close(self) -> None:
        """Stops the computation and waits until it has stopped. The parts so far are kept and stored. Idempotent."""
        self._run.cancel()
        self._run.wait(_CLOSE_PATIENCE_S)
        self._is_finished = True

    def _drain(self) -> None:
        while self._pull():
            pass

    def _pull(self) -> bool:
        """Waits for one more part. Returns False at the end."""
        if self._error is not None:
            raise self._error
        if self._is_finished:
            return False
        try:
            item = self._run.next_part(self._deadline)
        except AssistantError as error:
            self._error = error
            raise
        except BaseException:  # Ctrl-C while waiting
            self._run.cancel()
            raise
        if item is None:
            self._is_finished = True
            return False
        self._parts.append(item)
        return True
