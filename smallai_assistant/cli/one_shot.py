"""The commands that answer once: ask, transcribe, classify, recommend."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallai_assistant.cli.context import CommandContext, check_file
from smallai_assistant.cli.render import AnswerPrinter, notices_json
from smallai_assistant.config import AssistantConfig
from smallai_assistant.errors import InputTooLarge
from smallai_assistant.types import (
    MAX_TEXT_CHARS,
    AudioPart,
    ImagePart,
    ItemPart,
    LabelPart,
    Part,
    SegmentPart,
    TextPart,
)
from smallai_assistant.validation import canonical_key

if TYPE_CHECKING:
    from smallai_assistant.assistant import Assistant
    from smallai_assistant.conversation.session import Response

CHAT = "text-generation"
IMAGE = "image-classification"
SPEECH = "automatic-speech-recognition"
RECOMMEND = "recommendation"
# The text of the request if the user gave no wish; every message needs a part.
ANY_WISH = "recommend something"


def ask(context: CommandContext) -> int:
    """`smallai ask`: asks any task and prints the answer while it arrives."""
    args = context.args
    parts: list[str | Path | Part] = [ImagePart(check_file(path)) for path in args.image]
    parts += [AudioPart(check_file(path)) for path in args.audio]
    text = _read_stdin() if args.text == "-" else args.text
    if text.strip() or not parts:
        parts.append(TextPart(text))
    options = {"system_prompt": args.system, "max_tokens": args.max_tokens}
    options = {name: value for name, value in options.items() if value is not None}
    # Only the chat model has these two options, so whoever gives one means that task.
    task = args.task or (CHAT if options and not (args.image or args.audio) else None)
    with context.assistant() as assistant:
        response = assistant.ask(parts, task=task, options=options, user_id=args.user)
        show(context, response)
    return 0


def show(context: CommandContext, response: Response) -> None:
    """Prints an answer while it arrives, or as one JSON object at its end. If it is interrupted, the compute stops."""
    printer = AnswerPrinter(context.screen)
    try:
        for part in response:
            if not context.args.json:
                printer.show(part)
    except BaseException:  # Ctrl-C too
        response.close()
        raise
    finally:
        # What was shown before Ctrl-C or an error stays on the screen.
        printer.finish()
    if context.args.json:
        context.screen.json(answer_json(response))
    else:
        context.screen.notices(response.notices)


def answer_json(response: Response) -> dict[str, Any]:
    """The object that `ask --json` prints."""
    turn = response.turn
    return {
        "text": response.text,
        "task": turn.task,
        "turn_id": turn.id,
        "model": turn.model,
        "adapter": turn.adapter,
        "notices": notices_json(response.notices),
        "timings": dict(response.timings),
    }


def transcribe(context: CommandContext) -> int:
    """`smallai transcribe`: prints what is said in recordings."""
    args = context.args
    # With `reply_to_speech`, the words would be sent on to the chat model, and its answer would be printed.
    config = context.config_with(reply_to_speech=False)
    with lazily(context, config) as assistant:

        def work(path: Path) -> None:
            response = assistant().ask(AudioPart(check_file(path)), task=SPEECH)
            segments = [part for part in _read(context, response) if isinstance(part, SegmentPart)]
            if args.json:
                context.screen.json(
                    {
                        "file": str(path),
                        "text": response.text,
                        "language": response.details.get("language"),
                        "duration_s": response.details.get("duration_s"),
                        "segments": [{"start_s": s.start_s, "end_s": s.end_s, "text": s.text} for s in segments],
                    }
                )
            else:
                _print_transcript(context, path, response.text, segments)
            context.screen.notices(response.notices, once=True)

        return context.for_each("file", args.files, work)


def classify(context: CommandContext) -> int:
    """`smallai classify`: prints what is on pictures."""
    args = context.args
    options = {"top": args.top, "labels": args.labels, "taught": args.taught}
    options = {name: value for name, value in options.items() if value is not None}
    with lazily(context) as assistant:

        def work(path: Path) -> None:
            response = assistant().ask(ImagePart(check_file(path)), task=IMAGE, options=options)
            labels = [part for part in _read(context, response) if isinstance(part, LabelPart)]
            if args.json:
                rows = [{"label": label.label, "id": label.id, "score": label.score} for label in labels]
                context.screen.json({"file": str(path), "labels": rows})
            else:
                context.screen.heading(str(path))
                context.screen.bars([(label.label, label.score) for label in labels])
            context.screen.notices(response.notices, once=True)

        return context.for_each("file", args.files, work)


def recommend(context: CommandContext) -> int:
    """`smallai recommend`: prints items for users."""
    args = context.args
    options = {} if args.k is None else {"k": args.k}
    with context.assistant() as assistant:

        def work(user: str) -> None:
            user = canonical_key("user", user)
            response = assistant.ask(args.wish or ANY_WISH, task=RECOMMEND, options=options, user_id=user)
            items = [part for part in _read(context, response) if isinstance(part, ItemPart)]
            is_cold = bool(response.details.get("cold_start", False))
            if args.json:
                rows = [{"id": i.id, "title": i.title, "score": i.score, "why": i.why} for i in items]
                context.screen.json({"user": user, "cold_start": is_cold, "items": rows})
            else:
                context.screen.heading(f"{user} (nothing known yet)" if is_cold else user)
                context.screen.items(items)
                if not items:
                    context.screen.out(f"  {response.text or 'nothing to recommend'}")
            context.screen.notices(response.notices, once=True)

        return context.for_each("user", args.user, work)


def _read(context: CommandContext, response: Response) -> tuple[Part, ...]:
    """Waits for the whole answer. If it is interrupted, the compute stops."""
    try:
        return response.parts
    except BaseException:
        response.close()
        raise
    finally:
        context.screen.end_progress()


@contextmanager
def lazily(context: CommandContext, config: AssistantConfig | None = None) -> Iterator[Any]:
    """Gives a function that opens the assistant at its first call and closes it at the end of the `with` block.

    A wrong path is reported at once, without the seconds that it takes to open the assistant.
    """
    from contextlib import ExitStack

    with ExitStack() as stack:
        opened: list[Assistant] = []

        def assistant() -> Assistant:
            if not opened:
                opened.append(stack.enter_context(context.assistant(config)))
            return opened[0]

        yield assistant


def _read_stdin() -> str:
    if sys.stdin is None:  # closed by the shell: `<&-`
        return ""
    # A character takes at most four bytes. One byte more tells that there is more.
    data = sys.stdin.buffer.read(4 * MAX_TEXT_CHARS + 1) if hasattr(sys.stdin, "buffer") else sys.stdin.read().encode()
    if len(data) > 4 * MAX_TEXT_CHARS:
        raise InputTooLarge(f"standard input has more than {MAX_TEXT_CHARS:,} characters")
    return data.decode("utf-8", "replace")


def _print_transcript(context: CommandContext, path: Path, text: str, segments: list[SegmentPart]) -> None:
    args, screen = context.args, context.screen
    if len(args.files) > 1:
        screen.heading(str(path))
    if args.srt:
        screen.out(subtitles(segments), end="")
    elif args.timestamps:
        for segment in segments:
            screen.out(f"[{_clock(segment.start_s, '.')} - {_clock(segment.end_s, '.')}] {segment.text.strip()}")
    else:
        screen.out(text.strip())
    if not text.strip():
        screen.note("no speech was heard")


def subtitles(segments: list[SegmentPart]) -> str:
    """Segments as subtitles in the SRT format."""
    return "".join(
        f"{number}\n{_clock(segment.start_s, ',')} --> {_clock(segment.end_s, ',')}\n{segment.text.strip()}\n\n"
        for number, segment in enumerate(segments, 1)
    )


def _clock(seconds: float, mark: str) -> str:
    """A time as `00:01:02.345`; SRT has a comma for the point."""
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{mark}{milliseconds % 1000:03}"
