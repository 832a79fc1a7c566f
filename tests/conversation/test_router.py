"""The choice of a task for a message: by name, by modality, by a hook, by the intent of the text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.scripted import ScriptedPlugin, make_task
from support.tiny_servers import CONFIG, WEIGHTS

from smallai_assistant import Assistant, AudioPart, ImagePart, Message, Request, SegmentPart, TextPart, hookimpl
from smallai_assistant.conversation.router import DIALOGUE, Route
from smallai_assistant.errors import InvalidInput, NoTaskError, PluginError
from smallai_assistant.task import Task
from smallai_assistant.types import Content

FOUR = ("chat", "image", "speech", "recommend")
TEXT, IMAGE, AUDIO = frozenset({"text"}), frozenset({"image"}), frozenset({"audio"})
SPEECH, WISH = "automatic-speech-recognition", "recommendation"
PICTURE, SOUND = ImagePart(data=b"picture"), AudioPart(data=b"sound")
UTTERANCES = ("recommend me a film", "what should I watch tonight", "suggest a good book", "which movie would I like")

Open = Callable[..., Assistant]


@pytest.fixture
def open_assistant(tmp_path: Path) -> Iterator[Open]:
    """Opens an assistant with the given tasks and no models; pass `models_dir` for the real ones."""
    opened: list[Assistant] = []

    def build(*tasks: Task, plugin: ScriptedPlugin | None = None, **overrides: Any) -> Assistant:
        settings = {
            "data_dir": tmp_path / "data",
            "models_dir": tmp_path / "no-models",
            "disabled_plugins": FOUR,
            "device": "cpu",
        }
        opened.append(Assistant(plugins=[plugin or ScriptedPlugin(*tasks)], **(settings | overrides)))
        return opened[-1]

    yield build
    for assistant in opened:
        assistant.close()


def tasks() -> list[Task]:
    """A task for each modality, and two for text."""
    return [
        make_task(name=WISH, utterances=UTTERANCES),
        make_task(name=DIALOGUE),
        make_task(name="image-classification", accepts=(IMAGE, IMAGE | TEXT)),
        make_task(name=SPEECH, accepts=(AUDIO,)),
    ]


def route(assistant: Assistant, content: Content, task: str | None = None) -> Route:
    return assistant.router.route(Message.of(content), task)


def chosen(assistant: Assistant, content: Content, task: str | None = None) -> str:
    found = route(assistant, content, task)
    assert found.notices == ()
    return found.task.name


class Chooser(ScriptedPlugin):
    """A plugin whose hook returns a fixed answer and records the candidates."""

    def __init__(self, *tasks: Task, answer: Any = None) -> None:
        super().__init__(*tasks)
        self.answer = answer
        self.asked: list[list[str]] = []

    @hookimpl
    def choose_task(self, message: Message, candidates: Sequence[Task]) -> Any:
        self.asked.append([task.name for task in candidates])
        return self.answer


# -- by name --


def test_named_task_is_chosen_without_asking_hooks(open_assistant: Open) -> None:
    plugin = Chooser(*tasks(), answer=WISH)
    assistant = open_assistant(plugin=plugin)
    assert chosen(assistant, "recommend me a film", DIALOGUE) == DIALOGUE
    assert chosen(assistant, "hello", WISH) == WISH
    assert chosen(assistant, PICTURE, "image-classification") == "image-classification"
    assert plugin.asked == []


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("text-generatoin", "did you mean 'text-generation'?"),
        ("recommend", "did you mean 'recommendation'?"),
        ("zzz", "known: automatic-speech-recognition, image-classification, recommendation, text-generation"),
        ("", "known: "),
    ],
)
def test_unknown_task_suggests_the_nearest(open_assistant: Open, name: str, hint: str) -> None:
    with pytest.raises(InvalidInput, match="there is no task") as caught:
        route(open_assistant(*tasks()), "hi", name)
    assert repr(name) in caught.value.message
    assert hint in caught.value.hint


def test_named_task_says_what_it_takes(open_assistant: Open) -> None:
    assistant = open_assistant(*tasks())
    with pytest.raises(InvalidInput, match=r"image-classification takes image or image\+text, not audio"):
        route(assistant, SOUND, "image-classification")
    with pytest.raises(InvalidInput, match="text-generation takes text, not image and text"):
        route(assistant, ["what is this", PICTURE], DIALOGUE)


# -- by modality --


def test_only_candidate_is_chosen_without_a_model(open_assistant: Open) -> None:
    plugin = Chooser(*tasks(), answer="nonsense")
    assistant = open_assistant(plugin=plugin)
    assert chosen(assistant, PICTURE) == "image-classification"
    assert chosen(assistant, ["what is this?", PICTURE]) == "image-classification"
    assert chosen(assistant, SOUND) == SPEECH
    assert plugin.asked == []


@pytest.mark.parametrize(
    ("content", "says"), [([PICTURE, SOUND], "audio and image"), (["words", SOUND], "audio and text")]
)
def test_message_without_a_task_lists_the_tasks(open_assistant: Open, content: Content, says: str) -> None:
    with pytest.raises(NoTaskError, match=f"no task takes {says}") as caught:
        route(open_assistant(*tasks()), content)
    for line in (
        "recommendation takes text",
        "image-classification takes image or image+text",
        f"{SPEECH} takes audio",
    ):
        assert line in caught.value.hint


def test_without_plugins_the_hint_names_the_command(open_assistant: Open) -> None:
    with pytest.raises(NoTaskError, match="smallai plugins"):
        route(open_assistant(), "hi")


# -- by hook --


def test_hook_choose_task_is_asked_about_several_candidates(open_assistant: Open) -> None:
    plugin = Chooser(*tasks(), answer=WISH)
    assistant = open_assistant(plugin=plugin)
    assert chosen(assistant, "hello there") == WISH
    assert plugin.asked == [[WISH, DIALOGUE]]


@pytest.mark.parametrize("answer", [SPEECH, "nonsense", 3, ""])
def test_hook_choose_task_must_name_a_candidate(open_assistant: Open, answer: Any) -> None:
    assistant = open_assistant(plugin=Chooser(*tasks(), answer=answer))
    with pytest.raises(PluginError, match="choose_task returned") as caught:
        route(assistant, "hello")
    assert f"{WISH}, {DIALOGUE}" in caught.value.hint


# -- by intent --


def test_texts_are_routed_by_similar_utterances(open_assistant: Open, models_dir: Path) -> None:
    plugin = Chooser(*tasks())
    assistant = open_assistant(plugin=plugin, models_dir=models_dir)
    assert chosen(assistant, "Can you suggest a movie for this evening?") == WISH
    for text in ("What is the capital of France?", "Thanks, that is all.", "7 * 8"):
        assert chosen(assistant, text) == DIALOGUE
    assert len(plugin.asked) == 4
    scores = assistant.router.scores("recommend me a film", [assistant.tasks[WISH]])
    assert 0.4 < scores[WISH] <= 1.0


def test_odd_texts_are_dialogue(open_assistant: Open, models_dir: Path) -> None:
    assistant = open_assistant(*tasks(), models_dir=models_dir)
    for text in ("\ud800", "a\x00b", "e\u0301" * 100_000, "?", "\U0001f9d1\u200d\U0001f680", "<|im_start|>system"):
        assert chosen(assistant, text) == DIALOGUE


def test_only_the_beginning_of_a_text_counts(open_assistant: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    assistant = open_assistant(*tasks())
    seen: list[str] = []

    def scores(text: str, rivals: list[Task]) -> dict[str, float]:
        seen.append(text)
        return {task.name: 1.0 for task in rivals}

    monkeypatch.setattr(assistant.router, "scores", scores)
    assert chosen(assistant, "recommend me a film " + "x" * 900_000) == WISH
    assert seen[0].startswith("recommend me a film x")
    assert len(seen[0]) == 1000


def test_text_below_the_threshold_is_dialogue(open_assistant: Open, models_dir: Path) -> None:
    wish = "Can you suggest a movie for this evening?"
    for threshold, expected in ((0.0, WISH), (0.99, DIALOGUE)):
        assistant = open_assistant(*tasks(), models_dir=models_dir, intent_threshold=threshold)
        assert chosen(assistant, wish) == expected
        assert chosen(assistant, UTTERANCES[0], WISH) == WISH


def test_missing_embedding_model_gives_dialogue_and_a_notice(open_assistant: Open) -> None:
    assistant = open_assistant(*tasks())
    found = route(assistant, "recommend me a film")
    assert found.task.name == DIALOGUE
    (notice,) = found.notices
    assert notice.code == "intent_unavailable"
    assert "taken as dialogue" in notice.text
    assert "smallai models pull starter" in notice.text
    response = assistant.ask("recommend me a film")
    assert response.text == "recommend me a film"
    assert [notice.code for notice in response.turn.notices] == ["intent_unavailable"]


def test_damaged_embedding_model_gives_dialogue_and_a_notice(open_assistant: Open, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "all-minilm-l6-v2"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(WEIGHTS[:-1])
    (folder / "config.json").write_bytes(CONFIG)
    (folder / "smallai-model.json").write_text(json.dumps({"files": {}}))
    found = route(open_assistant(*tasks(), models_dir=tmp_path / "models"), "recommend me a film")
    assert found.task.name == DIALOGUE
    assert [notice.code for notice in found.notices] == ["intent_unavailable"]
    assert "model.safetensors" in found.notices[0].text


def test_no_model_is_needed_without_utterances(open_assistant: Open) -> None:
    assistant = open_assistant(make_task(name="first"), make_task(name=DIALOGUE), make_task(name="third"))
    assert chosen(assistant, "recommend me a film") == DIALOGUE
    without_dialogue = open_assistant(make_task(name="first"), make_task(name="second"))
    assert chosen(without_dialogue, "hello") == "first"


# -- a spoken message --


def hear(text: str) -> Callable[[Request], Iterator[Any]]:
    def script(_: Request) -> Iterator[Any]:
        yield TextPart(text)
        yield SegmentPart(text, 0.0, 1.0)

    return script


def reply(request: Request) -> Iterator[Any]:
    spoken = [turn.task for turn in request.history]
    yield TextPart(f"{request.message.text} {spoken} {request.options.shout}")


def speaking(text: str) -> list[Task]:
    others = [make_task(reply, name=DIALOGUE), make_task(reply, name=WISH, utterances=UTTERANCES)]
    return [make_task(hear(text), name=SPEECH, accepts=(AUDIO,)), *others]


@pytest.mark.parametrize(
    ("text", "task"), [("suggest a good film for tonight", WISH), ("what is the capital of France", DIALOGUE)]
)
def test_speech_is_routed_like_text(open_assistant: Open, models_dir: Path, text: str, task: str) -> None:
    assistant = open_assistant(*speaking(text), models_dir=models_dir, reply_to_speech=True)
    response = assistant.session("ann").send(SOUND, options={"shout": True})
    first, second = response.turns
    assert (first.task, second.task) == (SPEECH, task)
    assert second.request.text == text
    # The options are for the speech task, not for the reply. The reply sees the recording's turn in its history.
    assert response.text == f"{text} ['{SPEECH}'] False"
    assert [turn.id for turn in assistant.store.turns(first.session_id)] == [first.id, second.id]


def test_silence_gets_no_reply(open_assistant: Open) -> None:
    response = open_assistant(*speaking("  "), reply_to_speech=True).ask(SOUND)
    assert [turn.task for turn in response.turns] == [SPEECH]


def test_failed_reply_keeps_the_transcript(open_assistant: Open) -> None:
    def fail(_: Request) -> Iterator[Any]:
        raise InvalidInput("no reply")
        yield

    others = [make_task(fail, name=DIALOGUE), make_task(hear("hello"), name=SPEECH, accepts=(AUDIO,))]
    assistant = open_assistant(*others, reply_to_speech=True)
    session = assistant.session()
    with pytest.raises(InvalidInput, match="no reply"):
        _ = session.send(SOUND).text
    assistant.store.close()  # commits what is queued
    stored = assistant.store.turns(session.id)
    assert [(turn.task, turn.text, turn.error) for turn in stored] == [
        (SPEECH, "hello", None),
        (DIALOGUE, "", "invalid_input"),
    ]
