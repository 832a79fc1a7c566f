"""Speech learns the user's words: twenty invented ones from ten corrections: `python -m bench.teach_speech`.

espeak-ng speaks all sentences. A corrected one holds two of the words. Each word is asked for in two other sentences,
in other voices. Measured are the words that are wrong before and after the corrections, the same with only an adapter
that was trained on them, the word error rate on real recordings with either, and how often words that merely sound
like a taught one are replaced by it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.data import librivox, spoken
from bench.speech import word_error_rate
from smallai_assistant import Adapter, Assistant, AudioPart, Example, Training
from smallai_assistant.config import load_config
from smallai_speech import SpeechRecognition
from smallai_speech.examples import SpeechPayload
from smallai_speech.memory import TranscriptPair

MAX_ERRORS_LEFT = 0.5  # share of the errors on the words before
MAX_WER_CHANGE = 0.002  # on real recordings
TASK = "automatic-speech-recognition"
WORDS = (
    "Zorvex", "Kelmatrin", "Quandrel", "Merovane", "Brixolume", "Talvorin", "Fendrick", "Osquith", "Velkara",
    "Drumpfel", "Nexaphor", "Tavelo", "Gorimund", "Plexidyne", "Wistrel", "Yarnova", "Hexalite", "Cobrant", "Lumivar",
    "Trastoken",
)  # fmt: skip
TAUGHT = (
    "He has been working on {} and {} for many years.",
    "She asked me a question about {} and {} this morning.",
    "The doctor said that {} and {} were very good for children.",
)
TAUGHT_VOICES = ("en-us", "en-gb+f2", "en-us+m3")
ASKED = (
    "I would like to know more about {} before we make a decision.",
    "There is nothing wrong with {} at the moment.",
    "My brother wrote a letter to {} last summer.",
    "We had a long meeting about {} yesterday afternoon.",
)
ASKED_VOICES = ("en-gb", "en-us+f3", "en-gb+m3", "en-us+f2", "en-us+m1")
# What the words are misheard as, now really said.
ALIKE = ("next effort", "one rule", "the trump card", "this tool", "carbon", "my main", "Walter", "the mask")


def taught() -> list[tuple[bytes, str]]:
    """Ten recordings and what is said in them."""
    rows = []
    for i in range(0, len(WORDS), 2):
        text = TAUGHT[i // 2 % len(TAUGHT)].format(*WORDS[i : i + 2])
        rows.append((spoken(text, TAUGHT_VOICES[i // 2 % len(TAUGHT_VOICES)]), text))
    return rows


def asked(words: Sequence[str] = WORDS, *, times: int = 2) -> list[tuple[bytes, str, str]]:
    """Recordings, what is said in them, and the word in question."""
    rows = []
    for i, word in enumerate(words):
        for j in range(times):
            text = ASKED[(i + j) % len(ASKED)].format(word)
            rows.append((spoken(text, ASKED_VOICES[(i + 2 * j) % len(ASKED_VOICES)]), text, word))
    return rows


def measure(assistant: Assistant) -> dict[str, Any]:
    """The figures, on the configured speech model."""

    def ask(data: bytes) -> str:
        return assistant.ask(AudioPart(data=data), task=TASK).text

    begun = time.perf_counter()
    questions, references = asked(), [text for _, text in librivox()]
    recordings = [path.read_bytes() for path, _ in librivox()]
    before = [ask(data) for data, _, _ in questions]
    plain = [ask(data) for data in recordings]
    for data, text in taught():
        assistant.ask(AudioPart(data=data), task=TASK).rate(correction=text)
    after = [ask(data) for data, _, _ in questions]
    with_words = [ask(data) for data in recordings]
    alike = asked(ALIKE, times=1)
    mistaken = [text for data, _, _ in alike if holds_any(text := ask(data))]

    adapter, seconds = trained(assistant)
    by_adapter = alone(assistant, adapter, [(data, text) for data, text, _ in questions])
    read_by_adapter = alone(assistant, adapter, list(zip(recordings, references, strict=True)))
    wanted = [word for _, _, word in questions]
    texts = [text for _, text, _ in questions]
    return {
        "n_asked": len(questions),
        "wrong_before": n_wrong(wanted, before),
        "wrong_after": n_wrong(wanted, after),
        "wrong_with_adapter_alone": n_wrong(wanted, by_adapter),
        "adapter_kind": adapter.kind,
        "training_s": round(seconds, 1),
        "sentences_wer_before": round(word_error_rate(texts, before), 4),
        "sentences_wer_after": round(word_error_rate(texts, after), 4),
        "librivox_wer_before": round(word_error_rate(references, plain), 4),
        "librivox_wer_after": round(word_error_rate(references, with_words), 4),
        "librivox_wer_with_adapter_alone": round(word_error_rate(references, read_by_adapter), 4),
        "alike_said": len(alike),
        "alike_mistaken": mistaken,
        "seconds": round(time.perf_counter() - begun, 1),
    }


def n_wrong(words: Sequence[str], texts: Sequence[str]) -> int:
    """Number of texts that do not hold their word in the user's spelling."""
    return sum(word not in text for word, text in zip(words, texts, strict=True))


def holds_any(text: str) -> bool:
    """Whether a taught word is in the text."""
    return any(word in text for word in WORDS)


def trained(assistant: Assistant) -> tuple[Adapter, float]:
    """Trains an adapter on the corrections, as a learning cycle does. Returns it and the seconds that it took."""
    task = assistant.tasks[TASK]
    assert isinstance(task, SpeechRecognition)
    examples = task.examples(assistant.feedback.judged_turns(TASK))
    begun = time.perf_counter()
    with assistant.adapters.work_folder() as folder, tempfile.TemporaryDirectory() as work:
        training = Training(
            examples=examples,
            replay=(),
            folder=folder,
            work_folder=Path(work),
            parent=None,
            models=assistant.models,
        )
        kind = task.train(training)
        print("kept aside:", (folder / "choice.json").read_text().replace("\n", " "))
        adapter = assistant.adapters.add(folder, task=TASK, kind=kind, base=task.base())
    return adapter, time.perf_counter() - begun


def alone(assistant: Assistant, adapter: Adapter, rows: Sequence[tuple[bytes, str]]) -> list[str]:
    """The transcripts of recordings with the adapter and without the fast memory."""
    task = assistant.tasks[TASK]
    assert isinstance(task, SpeechRecognition)
    return [score.answer for score in task.evaluate([example(*row) for row in rows], adapter, assistant.models)]


def example(data: bytes, text: str) -> Example:
    """One recording to judge by."""
    payload = SpeechPayload(AudioPart(data=data), TranscriptPair("", text), is_praised=False)
    return Example(text, text, text, text, payload=payload)


def main() -> None:
    """Prints the table and the JSON line. Exits with 1 if a figure is missed."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Assistant(load_config(data_dir=Path(folder) / "data")) as assistant,
    ):
        figures = measure(assistant)
    n, before, after = figures["n_asked"], figures["wrong_before"], figures["wrong_after"]
    alone_wrong, kind = figures["wrong_with_adapter_alone"], figures["adapter_kind"]
    read = "librivox_wer_"
    print(f"words wrong of {n}, before         {before:4}")
    print(f"  after ten corrections          {after:4}   (at most {before * MAX_ERRORS_LEFT:.0f})")
    print(f"  with the adapter alone         {alone_wrong:4}   ({kind}, trained in {figures['training_s']:.0f} s)")
    sentences = [figures[f"sentences_wer_{when}"] for when in ("before", "after")]
    print(f"all words of them, WER           {sentences[0]:.1%} -> {sentences[1]:.1%}")
    print(f"LibriVox, WER                    {figures[f'{read}before']:.2%} -> {figures[f'{read}after']:.2%}, ", end="")
    print(f"adapter alone {figures[f'{read}with_adapter_alone']:.2%}   (at most {MAX_WER_CHANGE:.1%} more)")
    print(f"said alike and taken for a word  {len(figures['alike_mistaken'])} of {figures['alike_said']}")
    print(json.dumps({"bench": "teach_speech", **figures}))
    worst = max(figures[f"{read}after"], figures[f"{read}with_adapter_alone"]) - figures[f"{read}before"]
    if after > before * MAX_ERRORS_LEFT or worst > MAX_WER_CHANGE:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
