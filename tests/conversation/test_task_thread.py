"""A task that hangs loses its own answer and keeps nothing: no session, no turn, no model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.scripted import ScriptedPlugin, make_task

from smallai_assistant import Assistant, Request, TextPart, errors
from smallai_assistant.conversation import task_thread

OURS = ("chat", "image", "speech", "recommend")


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets the threads of a test end."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def open_assistant(tmp_path: Path) -> Iterator[Callable[..., Assistant]]:
    opened: list[Assistant] = []

    def build(script: Any, **settings: Any) -> Assistant:
        plugins = [ScriptedPlugin(make_task(script), make_task(name="other"))]
        settings = {"data_dir": tmp_path, "disabled_plugins": OURS, "device": "cpu", "plugins": plugins, **settings}
        opened.append(Assistant(**settings))
        return opened[-1]

    yield build
    for assistant in opened:
        assistant.close()


def test_a_task_that_yields_nothing_is_given_up(open_assistant: Any, release: threading.Event) -> None:
    def script(request: Request) -> Iterator[Any]:
        yield TextPart("begun")
        if request.message.text == "hang":
            release.wait(60)

    assistant = open_assistant(script, answer_timeout_s=2)
    session = assistant.session()
    response = session.send("hang", task="scripted")
    with pytest.raises(errors.PluginError, match=r"'scripted' has yielded nothing for 2 s and was given up"):
        list(response)
    assert not response.is_running
    assert session.send("go on", task="scripted").text == "begun"
    assert session.send("go on", task="other").text == "go on"
    assistant.store.flush()
    first, *others = assistant.store.turns(session.id)
    assert (first.error, first.text) == ("plugin_error", "begun")
    assert [turn.error for turn in others] == [None, None]
    assert assistant.models.wait_until_idle(patience_s=0)


def test_a_task_that_yields_now_and_then_is_not_given_up(open_assistant: Any) -> None:
    def script(request: Request) -> Iterator[Any]:
        for number in range(4):
            request.cancel.wait(0.7)  # 2.8 s together
            yield TextPart(str(number))

    assert open_assistant(script, answer_timeout_s=2).ask("x", task="scripted").text == "0123"


def test_zero_sets_no_limit(open_assistant: Any) -> None:
    def script(request: Request) -> Iterator[Any]:
        request.cancel.wait(0.6)
        yield TextPart("at last")

    assert open_assistant(script, answer_timeout_s=0).ask("x", task="scripted").text == "at last"


def test_a_task_that_ignores_the_cancel_frees_the_session(
    open_assistant: Any, release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_thread, "_CANCEL_PATIENCE_S", 0.2)

    def script(_: Request) -> Iterator[Any]:
        yield TextPart("begun")
        release.wait(60)

    assistant = open_assistant(script)
    session = assistant.session()
    response = session.send("x", task="scripted")
    next(iter(response))
    response.close()
    assert not response.is_running
    assert response.turn.error == "cancelled"
    assert session.send("next", task="other").text == "next"


@pytest.mark.parametrize("keeps", ["hangs", "leaks"])
def test_no_model_stays_lent(open_assistant: Any, release: threading.Event, tmp_path: Path, keeps: str) -> None:
    """The runtime's own tests lease real models; here, a lease of a thread is all that counts."""
    ended: list[str] = []
    kept: list[Any] = []

    def script(_: Request) -> Iterator[Any]:
        kept.append(assistant.models.leases.begin(lambda: ended.append("first")))
        yield TextPart("begun")
        if keeps == "hangs":
            release.wait(60)
            try:
                assistant.models.leases.begin(lambda: ended.append("second"))
            except errors.Cancelled:
                late.set()

    late = threading.Event()
    assistant = open_assistant(script, answer_timeout_s=2)
    if keeps == "leaks":
        assert assistant.ask("x", task="scripted").text == "begun"
    else:
        with pytest.raises(errors.PluginError, match="given up"):
            _ = assistant.ask("x", task="scripted").text
    assert ended == ["first"]
    kept[0].end()
    assert ended == ["first"]
    if keeps == "hangs":
        release.set()
        assert late.wait(30)
        assert ended == ["first", "second"]


def test_what_closing_raises_is_an_error_of_the_task(open_assistant: Any) -> None:
    class Stream:
        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            raise StopIteration

        def close(self) -> None:
            raise SystemExit(3)

    with pytest.raises(errors.PluginError, match="'scripted' raised SystemExit: 3"):
        _ = open_assistant(lambda _: Stream()).ask("x", task="scripted").text
