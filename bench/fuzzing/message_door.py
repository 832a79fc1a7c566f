"""The door of messages: what a caller gives to the assistant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from bench.fuzzing.door import Door
from bench.fuzzing.mutations import integer, mutate_json, text, value
from smallai_assistant import (
    Assistant,
    AudioPart,
    Feedback,
    GenerationOptions,
    ImagePart,
    ItemPart,
    LabelPart,
    Request,
    SegmentPart,
    Task,
    TextPart,
    hookimpl,
)

_HEADS = (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0WAVE", b"ID3", b"%PDF", b"\0" * 300, b"<svg")
_OPTIONS = {"max_tokens": 10, "temperature": 0.5}


class _Echo(Task):
    """Repeats the parts."""

    name = "echo"
    accepts = (frozenset({"text"}), frozenset({"image"}), frozenset({"audio"}), frozenset({"text", "image"}))
    options_type = GenerationOptions

    def run(self, request: Request, models: Any) -> Iterator[Any]:
        yield from (part for part in request.message.parts if not isinstance(part, (ImagePart, AudioPart)))
        yield TextPart(request.message.text[:100] or "nothing")


class _Plugin:
    @hookimpl
    def register_tasks(self, register: Callable[[Task], None]) -> None:
        register(_Echo())


class Messages(Door):
    """`Session.send` and `give_feedback`, with a scripted task."""

    name = "messages"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        ours = ("chat", "image", "speech", "recommend")
        self._assistant = Assistant(
            data_dir=folder / "data",
            models_dir=folder / "models",
            plugins=[_Plugin()],
            disabled_plugins=ours,
            device="cpu",
        )

    def close(self) -> None:
        self._assistant.close()

    def samples(self) -> list[Any]:
        return [(["hello", ImagePart(data=_HEADS[1])], {}, {"correction": "no", "key": None})]

    def make(self, rng: Random) -> Any:
        # Most parts are taken as they are, so that many messages come to the task and to the database.
        parts = [self._part(rng) for _ in range(rng.choice((0, 1, 1, 1, 2, 5)))]
        if rng.random() < 0.7:
            parts = [part for part in parts if isinstance(part, (str, TextPart, ImagePart))] or [text(rng)]
        content = parts[0] if len(parts) == 1 and rng.random() < 0.5 else parts
        options = mutate_json(rng, _OPTIONS) if rng.random() < 0.2 else {}
        said: dict[str, Any] = {"correction": text(rng), "comment": text(rng)}
        if rng.random() < 0.5:
            said |= {"stars": rng.choice((1, 5, 0, 6, float("nan")))}
        return content, options, said

    def _part(self, rng: Random) -> Any:
        long = text(rng) * rng.choice((1, 1, 1, 1, 1000, 40_000)) if rng.random() < 0.05 else text(rng)
        return rng.choice(
            (
                lambda: long,
                lambda: TextPart(long),
                lambda: Path(self.folder / text(rng)),
                lambda: Path(text(rng)),
                lambda: ImagePart(data=rng.choice(_HEADS) + rng.randbytes(rng.choice((0, 8, 400)))),
                lambda: AudioPart(data=rng.choice(_HEADS) + rng.randbytes(rng.choice((0, 8, 400)))),
                lambda: LabelPart(text(rng), integer(rng), rng.choice((0.5, float("nan"), 2.0))),
                lambda: SegmentPart(text(rng), rng.choice((0.0, -1.0, float("inf"))), 1.0),
                lambda: ItemPart(text(rng), text(rng), rng.choice((0.5, float("nan"))), text(rng)),
                lambda: TextPart(value(rng) if rng.random() < 0.3 else long),
            )
        )()

    def enter(self, case: Any) -> None:
        content, options, said = case
        session = self._assistant.session("ann")
        turn = session.send(content, task="echo", options=options).turn
        session.give_feedback(turn.id, **{key: text for key, text in said.items() if key != "stars" and text})
        if "stars" in said:
            self._assistant.give_feedback(Feedback(turn.id, signal="stars", value=said["stars"], item=said["comment"]))
        if self._assistant.session("ann", session_id=session.id).history[0].text != turn.text:
            raise AssertionError("the turn is read as another one")
