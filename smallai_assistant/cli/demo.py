"""`smallai demo`: a tour of the four tasks on real inputs. It stores nothing among the user's data."""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallai_assistant.cli import demo_data
from smallai_assistant.cli.context import CommandContext
from smallai_assistant.cli.one_shot import CHAT, IMAGE, RECOMMEND, SPEECH, answer_json
from smallai_assistant.cli.render import AnswerPrinter
from smallai_assistant.errors import AssistantError, DownloadError, IntegrityError
from smallai_assistant.types import AudioPart, Content, ImagePart

if TYPE_CHECKING:
    from smallai_assistant.assistant import Assistant
    from smallai_assistant.conversation.session import Response, Session

_N_STOPS = 5


def demo(context: CommandContext) -> int:
    """`smallai demo`."""
    # The user's conversations and items stay as they are, and what the tour stores is deleted at its end.
    with tempfile.TemporaryDirectory(prefix="smallai-demo-") as folder:
        config = context.config_with(data_dir=Path(folder), database_url="", reply_to_speech=False)
        with context.assistant(config) as assistant:
            return _Tour(context, assistant).run()


class _Tour:
    """The five stops of the tour. Each shows the input, the call of the Python API, and the answer."""

    def __init__(self, context: CommandContext, assistant: Assistant) -> None:
        self.context = context
        self.screen = context.screen
        self.assistant = assistant
        self._n_skipped = 0
        self._is_json = bool(context.args.json)

    def run(self) -> int:
        # A missing model is reported before the tour begins, not in the middle of it.
        for task, role in ((CHAT, "chat"), ("feature-extraction", "embedding"), (IMAGE, "image"), (SPEECH, "speech")):
            self.assistant.catalog.resolve(getattr(self.assistant.config.models, role), task=task)
        self._say(
            "A tour of what the assistant can do. Everything runs on this machine, with small models; what is stored "
            "goes into a temporary folder and is gone afterwards. The first use of a model loads it."
        )
        self.chat()
        self.picture()
        self.speech()
        self.recommendations()
        self.one_door()
        self.next_steps()
        return 0

    def chat(self) -> None:
        self._stop(1, "Chat", "A session remembers, so the second question can say “it”.")
        session = self.assistant.session()
        self._code("session = assistant.session()")
        for question in ("What is the capital of France? Answer in one sentence.", "Which river flows through it?"):
            self._ask(question, session, task=CHAT, options={"max_tokens": 60})

    def picture(self) -> None:
        self._stop(2, "Pictures", "An image classifier that knows 1,000 things, and labels of your own.")
        path = self._sample(demo_data.PHOTO)
        if path is not None:
            # A path would be shown with the folder of the samples; the reader would give one of their own.
            self._ask(ImagePart(path), task=IMAGE, options={"top": 3}, shown="Path('chelsea.png')")
            labels = ["cat", "dog", "bird", "car"]
            self._ask(ImagePart(path), task=IMAGE, options={"labels": labels}, shown="Path('chelsea.png')")

    def speech(self) -> None:
        self._stop(3, "Speech", "A recording becomes text, with the times of every segment.")
        path = self._sample(demo_data.RECORDING)
        if path is not None:
            self._ask(AudioPart(path), task=SPEECH, shown="Path('beckett.wav')")

    def recommendations(self) -> None:
        self._stop(
            4,
            "Recommendations",
            "Thirty classic books and eleven made-up readers are loaded. You have read The Time Machine, The War of "
            "the Worlds and Twenty Thousand Leagues under the Sea.",
        )
        self._code("assistant.items.add_items(books)\nassistant.items.add_interactions(readings)")
        self.assistant.items.add_items(demo_data.books())
        self.assistant.items.add_interactions(demo_data.readings())
        reader = self.assistant.session(demo_data.READER)
        self._ask("What should I read next?", reader, task=RECOMMEND, options={"k": 3})
        self._say("A new user has no history; the words of the wish decide:")
        self._ask("a detective solves a murder", self.assistant.session("newcomer"), task=RECOMMEND, options={"k": 3})

    def one_door(self) -> None:
        self._stop(5, "One door", "You do not have to name the task: the assistant sees what a message wants.")
        reader = self.assistant.session(demo_data.READER)
        for text in ("Can you recommend me a book?", "Write one sentence about the sea."):
            self._ask(text, reader)

    def next_steps(self) -> None:
        if self._is_json:
            return
        self.screen.out("")
        self.screen.heading("What to try next")
        rows = (
            ("smallai chat", "a conversation; name a picture or a recording in a message, or type /help"),
            ("smallai classify photo.jpg", "say what is on a picture of yours"),
            ("smallai transcribe memo.wav", "transcribe a recording of yours"),
            ("smallai items import items.csv", "recommend your own items; then `smallai interactions import`"),
            ("smallai doctor", "see what is installed and what is missing"),
        )
        for command, what in rows:
            self.screen.out(f"  {command:<32} {what}" if self.screen.width > 90 else f"  {command}\n      {what}")
        if self._n_skipped:
            self.screen.note(f"{self._n_skipped} of the stops had no input to show, see above")

    def _ask(
        self,
        content: Content,
        session: Session | None = None,
        *,
        task: str | None = None,
        options: Mapping[str, Any] | None = None,
        shown: str | None = None,
    ) -> None:
        """Prints the call, makes it, and prints the answer while it arrives.

        Args:
            session: None asks without a conversation.
            shown: what the call shows instead of `content`.
        """
        arguments = [shown or repr(content)]
        arguments += [f"task={task!r}"] if task else []
        arguments += [f"options={dict(options)!r}"] if options else []
        call = f"{'session.send' if session else 'assistant.ask'}({', '.join(arguments)})"
        self._code(call)
        send = session.send if session else self.assistant.ask
        response = send(content, task=task, options=options)
        try:
            self._answer(response, call)
        except BaseException:  # Ctrl-C stops the compute
            response.close()
            raise

    def _answer(self, response: Response, call: str) -> None:
        printer = AnswerPrinter(self.screen)
        for part in response:
            if not self._is_json:
                printer.show(part)
        printer.finish()
        if self._is_json:
            self.screen.json({"call": call, **answer_json(response)})
            return
        self.screen.notices(response.notices)
        turn = response.turn
        self.screen.note(f"[{turn.task}, {turn.model or 'no model'}, {turn.timings['total_s']:.1f} s]")

    def _sample(self, sample: demo_data.Sample) -> Path | None:
        """The file of a sample, or None if it cannot be fetched. Either way, a sentence tells the reader."""
        folder = self.assistant.config.models_dir / ".samples"
        if self.context.args.offline and not (folder / sample.file).is_file():
            reason = "--offline was given"
        else:
            try:
                self.screen.progress(sample.file, 0.0, label=f"fetching {sample.what}")
                path = demo_data.fetch(sample, folder)
                self.screen.end_progress()
                self._say(f"The input is {sample.what}: {path}")
                return path
            except (DownloadError, IntegrityError, OSError) as error:
                reason = error.message if isinstance(error, AssistantError) else str(error)
            finally:
                self.screen.end_progress()
        self._n_skipped += 1
        if self._is_json:
            self.screen.json({"skipped": sample.file, "reason": reason})
        self._say(f"Skipped: {sample.what} cannot be fetched ({reason}). Use a file of yours as shown at the end.")
        return None

    def _stop(self, number: int, title: str, text: str) -> None:
        if not self._is_json:
            self.screen.out("")
            self.screen.heading(f"{number} of {_N_STOPS}  {title}")
        self._say(text)

    def _say(self, text: str) -> None:
        if not self._is_json:
            self.screen.out(textwrap.fill(text, min(96, self.screen.width)))

    def _code(self, code: str) -> None:
        if not self._is_json:
            self.screen.out("")
            for line in code.splitlines():
                self.screen.out(f">>> {line}")
