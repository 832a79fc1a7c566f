"""One turn through the assistant, with scripted tasks whose every step the test decides."""

from __future__ import annotations

import asyncio
import gc
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.scripted import ScriptedPlugin, make_task

from smallai_assistant import (
    Assistant,
    Details,
    ImagePart,
    Message,
    Notice,
    Request,
    SegmentPart,
    Task,
    TextPart,
    hookimpl,
)
from smallai_assistant.errors import Busy, Cancelled, InputTooLarge, InvalidInput, NoTaskError, PluginError

FOUR = ("chat", "image", "speech", "recommend")
TEXT, IMAGE, AUDIO = frozenset({"text"}), frozenset({"image"}), frozenset({"audio"})


@pytest.fixture
def open_assistant(tmp_path: Path) -> Iterator[Callable[..., Assistant]]:
    opened: list[Assistant] = []

    def build(*tasks: Task, plugin: ScriptedPlugin | None = None, **overrides: Any) -> Assistant:
        plugins = [plugin or ScriptedPlugin(*tasks)]
        settings = {
            "data_dir": tmp_path / "data",
            "models_dir": tmp_path / "models",
            "disabled_plugins": FOUR,
            "device": "cpu",
        }
        opened.append(Assistant(plugins=plugins, **(settings | overrides)))
        return opened[-1]

    yield build
    for assistant in opened:
        assistant.close()


def test_parts_arrive_and_the_turn_is_on_disk(open_assistant: Any) -> None:
    def script(request: Request) -> Iterator[Any]:
        yield TextPart("a")
        yield Notice("odd", "Something odd.")
        yield Details({"model": "m", "n": 1})
        yield TextPart("b")
        yield Details({"n": 2})

    assistant = open_assistant(make_task(script))
    response = assistant.session("ann").send("hi")
    assert [part.text for part in response] == ["a", "b"]
    assert response.text == "ab"
    assert response.notices == (Notice("odd", "Something odd."),)
    assert response.details == {"model": "m", "n": 2}
    stored = assistant.store.turn(response.turn.id)
    assert stored == response.turn
    assert (stored.text, stored.model, stored.user_id, stored.error) == ("ab", "m", "ann", None)
    assert stored.timings["total_s"] >= stored.timings["first_part_s"] > 0


def test_nothing_runs_before_the_response_is_read(open_assistant: Any) -> None:
    ran = threading.Event()

    def script(_: Request) -> Iterator[Any]:
        ran.set()
        yield TextPart("x")

    response = open_assistant(make_task(script)).session().send("hi")
    assert not ran.wait(0.05)
    assert response.text == "x"
    assert ran.is_set()


def test_iterating_twice_gives_the_same_parts(open_assistant: Any) -> None:
    response = open_assistant(make_task()).ask("once")
    assert list(response) == list(response) == [TextPart("once")]


async def test_async_iteration_leaves_the_loop_free(open_assistant: Any) -> None:
    permits: queue.SimpleQueue[int] = queue.SimpleQueue()

    def script(_: Request) -> Iterator[Any]:
        for _n in range(3):
            yield TextPart(str(permits.get(timeout=10)))

    async def permit() -> None:
        for n in range(3):
            permits.put(n)
            await asyncio.sleep(0)

    # If waiting for a part blocked the loop, `permit` would never run and the script would time out.
    permitting = asyncio.create_task(permit())
    parts = [part.text async for part in open_assistant(make_task(script)).ask("hi")]
    await permitting
    assert parts == ["0", "1", "2"]


def endless(stopped: threading.Event) -> Callable[[Request], Iterator[Any]]:
    """A script that yields until it is closed, slowly, so that it does not flood the queue."""

    def script(request: Request) -> Iterator[Any]:
        try:
            while True:
                request.cancel.wait(0.001)
                yield TextPart("x")
        finally:
            stopped.set()

    return script


def test_closing_early_keeps_the_parts_so_far(open_assistant: Any) -> None:
    stopped = threading.Event()
    assistant = open_assistant(make_task(endless(stopped)))
    session = assistant.session()
    response = session.send("go")
    next(iter(response))
    response.close()
    assert stopped.is_set()
    assert response.turn.error == "cancelled"
    assert response.turn.text.startswith("x")
    response.close()
    assert session.send("again") is not None


def test_dropping_the_response_stops_the_task(open_assistant: Any) -> None:
    stopped = threading.Event()
    response = open_assistant(make_task(endless(stopped))).ask("go")
    next(iter(response))
    del response
    gc.collect()
    assert stopped.wait(10)


async def test_leaving_an_async_for_stops_the_task(open_assistant: Any) -> None:
    stopped = threading.Event()
    response = open_assistant(make_task(endless(stopped))).ask("go")
    parts = aiter(response)
    await anext(parts)
    await parts.aclose()
    assert await asyncio.to_thread(stopped.wait, 10)


def test_timeout_does_not_wait_for_the_task(open_assistant: Any) -> None:
    release = threading.Event()

    def script(_: Request) -> Iterator[Any]:
        yield TextPart("first")
        release.wait(30)

    response = open_assistant(make_task(script)).session().send("hi", timeout_s=0.2)
    with pytest.raises(Cancelled, match="timeout_s"):
        list(response)
    assert response.is_running, "the reader did not wait for the task"
    release.set()


def test_one_answer_at_a_time(open_assistant: Any) -> None:
    session = open_assistant(make_task(endless(threading.Event()))).session()
    first = session.send("one")
    next(iter(first))
    with pytest.raises(Busy):
        session.send("two")
    first.close()
    session.send("two").close()


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt(), SystemExit(3), MemoryError()])
def test_error_of_a_task_ends_its_answer_only(open_assistant: Any, error: BaseException) -> None:
    failing = [True]

    def script(_: Request) -> Iterator[Any]:
        yield TextPart("start")
        if failing.pop() if failing else False:
            raise error

    session = open_assistant(make_task(script)).session()
    response = session.send("one")
    with pytest.raises(PluginError, match=type(error).__name__):
        list(response)
    assert session.send("two").text == "start"
    assert session.history[0].request.text == "two"


@pytest.mark.parametrize("script", [lambda _: None, lambda _: iter([42]), lambda _: "text", lambda _: [TextPart("x")]])
def test_wrong_items_are_a_plugin_error(open_assistant: Any, script: Any) -> None:
    with pytest.raises(PluginError, match=r"ScriptedTask\.run must be a generator"):
        _ = open_assistant(make_task(script)).ask("hi").text


def test_typed_errors_pass_and_are_recorded(open_assistant: Any) -> None:
    def script(_: Request) -> Iterator[Any]:
        raise InvalidInput("no", hint="yes")
        yield

    assistant = open_assistant(make_task(script))
    session = assistant.session()
    response = session.send("hi")
    with pytest.raises(InvalidInput, match="no"):
        _ = response.text
    assert session.history == ()
    assistant.store.close()  # commits what is queued
    assert [turn.error for turn in assistant.store.turns(session.id)] == ["invalid_input"]


def test_history_survives_a_restart(open_assistant: Any) -> None:
    def script(request: Request) -> Iterator[Any]:
        yield TextPart("|".join(turn.request.text for turn in request.history))

    first = open_assistant(make_task(script))
    session = first.session("ann")
    assert session.send("one").text == ""
    assert session.send("two").text == "one"
    first.close()
    second = open_assistant(make_task(script))
    resumed = second.session(session_id=session.id)
    assert resumed.user_id == "ann"
    assert resumed.send("three").text == "one|two"
    with pytest.raises(InvalidInput, match="another user"):
        second.session("bob", session_id=session.id)
    with pytest.raises(InvalidInput, match="no session"):
        second.session(session_id="nope")


def test_options_are_merged_and_checked(open_assistant: Any) -> None:
    assistant = open_assistant(make_task(), tasks={"scripted": {"shout": True}})
    session = assistant.session()
    assert session.send("hi").text == "HI"
    assert session.send("hi", options={"times": 2}).text == "HIHI"
    with pytest.raises(InvalidInput, match=r"did you mean 'times'"):
        _ = session.send("hi", options={"tmes": 2}).text
    with pytest.raises(InvalidInput, match="times is 0"):
        _ = session.send("hi", options={"times": 0}).text


@pytest.mark.parametrize("content", ["", "  \n\t", []])
def test_empty_messages_are_refused(open_assistant: Any, content: Any) -> None:
    with pytest.raises(InvalidInput):
        open_assistant(make_task()).ask(content)


def test_ten_megabytes_are_refused_by_send(open_assistant: Any) -> None:
    """`bench/overhead.py` measures that it takes less than 50 ms."""
    session = open_assistant(make_task()).session()
    with pytest.raises(InputTooLarge):
        session.send("x" * 10_000_000)
    assert session.send("hi").text == "hi"


def test_odd_text_survives_the_store(open_assistant: Any) -> None:
    odd = "a\ud800b\x00c" + "e\u0301" * 50_000 + "\U0001f9d1‍🚀"
    assistant = open_assistant(make_task())
    response = assistant.ask(odd)
    assert response.text == odd
    assert assistant.store.turn(response.turn.id).request.text == odd


def test_pictures_are_kept_for_later_corrections(open_assistant: Any, tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    picture.write_bytes(b"\x89PNG some bytes")
    assistant = open_assistant(make_task(lambda _: iter([TextPart("ok")]), accepts=(IMAGE,)))
    turn_id = assistant.ask(picture).turn.id
    assistant.ask(ImagePart(data=b"\x89PNG others")).turn  # noqa: B018
    picture.unlink()
    (part,) = assistant.store.turn(turn_id).request.parts
    assert isinstance(part, ImagePart)
    assert part.read() == b"\x89PNG some bytes"


def test_no_task_error_lists_the_tasks(open_assistant: Any) -> None:
    assistant = open_assistant(make_task())
    with pytest.raises(NoTaskError, match="scripted takes text"):
        _ = assistant.ask(ImagePart(data=b"x")).text
    with pytest.raises(InvalidInput, match="did you mean 'scripted'"):
        _ = assistant.ask("x", task="scriptd").text


def test_hook_choose_task(open_assistant: Any) -> None:
    class Chooser(ScriptedPlugin):
        @hookimpl
        def choose_task(self, message: Message, candidates: Any) -> str | None:
            return {"b": "second", "c": "third"}.get(message.text)

    second = make_task(lambda _: iter([TextPart("from second")]), name="second")
    assistant = open_assistant(plugin=Chooser(make_task(), second))
    assert assistant.ask("b").text == "from second"
    assert assistant.ask("a").text == "a"
    with pytest.raises(PluginError, match="third"):
        _ = assistant.ask("c").text


def test_hook_turn_finished_observes_stored_turns(open_assistant: Any) -> None:
    heard: list[str] = []

    class Observer(ScriptedPlugin):
        @hookimpl
        def turn_finished(self, turn: Any) -> None:
            assert assistant.store.turn(turn.id) == turn
            heard.append(turn.text)
            raise KeyboardInterrupt

    assistant = open_assistant(plugin=Observer(make_task()))
    session = assistant.session()
    for text in ("one", "two"):
        session.send(text).turn  # noqa: B018
    assistant.close()
    assert heard == ["one", "two"]


def test_a_spoken_message_can_be_answered(open_assistant: Any) -> None:
    def transcribe(_: Request) -> Iterator[Any]:
        yield TextPart("what time")
        yield SegmentPart("what time", 0.0, 1.0)

    def reply(request: Request) -> Iterator[Any]:
        yield TextPart(f"you asked {request.message.text}")

    speech = make_task(transcribe, name="automatic-speech-recognition", accepts=(AUDIO,))
    chat = make_task(reply, name="text-generation")
    from smallai_assistant import AudioPart

    recording = AudioPart(data=b"RIFF")
    assistant = open_assistant(speech, chat, reply_to_speech=True)
    response = assistant.ask(recording)
    assert response.parts == (SegmentPart("what time", 0.0, 1.0), TextPart("you asked what time"))
    assert [turn.task for turn in response.turns] == ["automatic-speech-recognition", "text-generation"]
    assert response.turns[0].text == "what time"
    assistant.close()
    silent = open_assistant(speech, chat)
    assert silent.ask(recording).text == "what time"
