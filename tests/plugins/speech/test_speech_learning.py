"""Speech learns the user's words: what a correction says, at once, and into an adapter."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from pydoc_data import topics
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_whisper import make_whisper

from bench.data import librivox, spoken
from smallai_assistant import Adapter, Assistant, AssistantConfig, AudioPart, Example, ModelSpec, Response, Training
from smallai_assistant.config import ModelsConfig
from smallai_assistant.errors import AdapterMismatch, Cancelled, NotEnoughData, TrainingFailed
from smallai_speech import SpeechModel, SpeechRecognition
from smallai_speech.corrections import compare
from smallai_speech.learning import CHOICE, VOCABULARY, Spoken, n_errors, words_right
from smallai_speech.lora import openai_name, read_deltas, transformers_name
from smallai_speech.memory import Told, vocabulary_of, what_changed
from smallai_speech.ordinary import is_name_of_its_own, is_ordinary
from smallai_speech.phonetics import similarity
from smallai_speech.vocabulary import Entry, Vocabulary, entries_of

TASK = "automatic-speech-recognition"
TAUGHT = "He has been working on {} for many years."
ASKED = "I would like to know more about {} before we make a decision."
JARGON = Vocabulary(
    tuple(
        Entry(word, heard)
        for word, heard in {
            "Zorvex": ("more next",), "Kelmatrin": ("kelma tren",), "Quandrel": ("one rule",), "Merovane": ("my main",),
            "Brixolume": ("rick saloon",), "Cobrant": ("carbon",), "Nexaphor": ("next effort",), "Trastoken": (),
            "Wistrel": ("this tool", "wisdom"), "Drumpfel": ("trump for",), "Osquith": ("us with",), "Hexalite": (),
            "PyFormat": ("by format",), "Objekt": ("object",), "Klaas": ("class",), "Methodiq": ("method",),
        }.items()
    )
)  # fmt: skip


def told(heard: str, right: str) -> Vocabulary:
    return vocabulary_of([Told(heard, right)])


def words(vocabulary: Vocabulary) -> dict[str, tuple[str, ...]]:
    return {entry.word: entry.heard for entry in vocabulary.entries}


# -- how words sound, and which are anybody's --


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Plexidyne", "plexy dine"),
        ("Kelmatrin", "Kelma-Tren"),
        ("Phisher", "Fisher"),
        ("Quandrel", "Kwandrel"),
        ("Ångström", "Angstrom"),
        ("O'Neil", "Oneil"),
    ],
)
def test_the_same_sounds(first: str, second: str) -> None:
    assert similarity(first, second) > 0.95


def test_twin_consonants_are_nearer_than_others() -> None:
    assert similarity("Bordex", "Pordex") > similarity("Bordex", "Kordex") > similarity("Bordex", "table")
    assert similarity("", "Zorvex") == similarity("Zorvex", "...") == 0.0


@pytest.mark.parametrize(
    "word", ["the", "planned", "tried", "running", "boxes", "London", "1984", "well-known", "she's"]
)
def test_ordinary_words(word: str) -> None:
    assert is_ordinary(word)
    assert not is_name_of_its_own(word, begins_sentence=True)


@pytest.mark.parametrize("word", ["Zorvex", "Kubernetes", "kubectl", "mitochondria"])
def test_uncommon_words(word: str) -> None:
    assert is_name_of_its_own(word, begins_sentence=True)


# -- what a correction says --


@pytest.mark.parametrize(
    ("heard", "right", "learnt"),
    [
        ("He runs more next daily.", "He runs Zorvex daily.", {"Zorvex": ("more next",)}),
        ("Ask Kelma Tren, sir.", "Ask Kelmatrin, sir.", {"Kelmatrin": ("kelma tren",)}),
        ("Is it a form or one rule?", "Is it a Phorm or Quandrel?", {"Phorm": ("form",), "Quandrel": ("one rule",)}),
        ("I like zorvex.", "I like ZorVex.", {"ZorVex": ()}),  # the case is the user's
        ("It is on git hub.", "It is on GitHub.", {"GitHub": ("git hub",)}),
        ("He went too far.", "He went to far.", {}),  # an ordinary word teaches nothing
        ("Colour of the day.", "Color of the day.", {}),
        ("He runs Zorvex daly.", "He runs Zorvex daily.", {"Zorvex": ()}),  # right this time, and worth knowing
        ("more next", "Zorvex", {"Zorvex": ("more next",)}),
        ("", "Tell Zorvex about it.", {"Zorvex": ()}),  # taught, never heard
        ("Good morning.", "Good morning.", {}),
    ],
)  # fmt: skip
def test_what_a_correction_teaches(heard: str, right: str, learnt: dict[str, tuple[str, ...]]) -> None:
    assert words(told(heard, right)) == learnt


def test_another_transcript_teaches_nothing() -> None:
    heard = "We met in the garden and had tea with the neighbours until late."
    right = "Zorvex Kelmatrin quarterly figures show Brixolume gaining on Talvorin despite Osquith headwinds abroad."
    assert compare(heard, right).pairs == []


@pytest.mark.parametrize(
    "right", ["a " * 10_000, "Zorvex " * 2_800, "x" * 20_000, "🎈" * 5_000, "\n\n\n", "й" * 20_000]
)
def test_nonsense_is_survived_quickly(right: str) -> None:
    begun = time.monotonic()
    vocabulary = told("He has been working on it for years. " * 300, right)
    assert len(vocabulary.entries) <= 50
    assert time.monotonic() - begun < 10


def test_the_last_spelling_counts_and_forms_add_up() -> None:
    vocabulary = vocabulary_of(
        [Told("Ask more next.", "Ask zorvex."), Told("Ask norm x.", "Ask Zorvex."), Told("Ask norm x.", "Ask Zorvex.")]
    )
    assert words(vocabulary) == {"Zorvex": ("norm x", "more next")}


def test_what_the_user_puts_back_is_never_taken_again() -> None:
    first = Told("There is carbon in it.", "There is Cobrant in it.")
    before = vocabulary_of([first])
    after = vocabulary_of([first, Told("We burn Cobrant here.", "We burn carbon here.")])
    assert before.suspects("We burn carbon.")
    assert not [suspect for suspect in after.suspects("We burn carbon.") if suspect.start == 8 and suspect.end == 14]
    assert what_changed(before, after) == "“carbon” is no longer taken for “Cobrant”."


def test_what_a_lesson_taught_is_said() -> None:
    said = what_changed(Vocabulary(), told("Ask Kelma Tren or one rule.", "Ask Kelmatrin or Quandrel."))
    assert (
        said
        == "From now on “Kelmatrin” (heard as “kelma tren”) and “Quandrel” (heard as “one rule”) will be recognized."
    )


# -- the text alone --


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        ("Ask Zorbex, now.", "Ask Zorvex, now."),
        ("Ask Kelma Tren today", "Ask Kelmatrin today"),  # a learnt form that holds an uncommon word
        ("the Trastokan.", "the Trastoken."),
        ("A ZORVEX!", "A Zorvex!"),
    ],
)
def test_near_misses_are_put_right(text: str, repaired: str) -> None:
    assert JARGON.repair(text) == repaired


PARAGRAPHS = [each for text in topics.topics.values() for each in text.split("\n\n") if len(each.split()) > 8]


@given(st.sampled_from(PARAGRAPHS))
@settings(max_examples=60, deadline=None)
def test_ordinary_text_is_never_touched(paragraph: str) -> None:
    """Python's own manual, in English, holds words that jargon is mistaken for: `object`, `class`, `method`."""
    kept = " ".join(each for each in paragraph.split() if is_ordinary(each.strip("\"'`*.,:;()[]")))
    assert JARGON.repair(kept) == kept


def test_ordinary_words_stay_even_where_they_are_what_was_misheard() -> None:
    for entry in JARGON.entries:
        for form in entry.heard:
            if all(is_ordinary(word) for word in form.split()):
                assert JARGON.repair(f"We talked about {form} again.") == f"We talked about {form} again."


def test_a_vocabulary_is_read_as_it_was_written() -> None:
    vocabulary = entries_of(
        [("Zorvex", "more next"), ("Ångström", "")], [("Zorvex", "vortex")], attested=frozenset({"x"})
    )
    assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary


@pytest.mark.parametrize(
    "values", [{}, {"words": [1], "attested": []}, {"words": [], "attested": [None]}, {"words": 3}]
)
def test_a_malformed_vocabulary(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="vocabulary"):
        Vocabulary.from_json(values)


def test_a_large_vocabulary_is_looked_through_quickly() -> None:
    vocabulary = Vocabulary(
        tuple(Entry(f"{a}{b}{c}ex") for a in "BDGKLMNPRST" for b in "aeiou" for c in ("lt", "rv", "nd"))
    )
    begun = time.process_time()
    vocabulary.suspects(librivox()[0][1] * 4)
    assert time.process_time() - begun < 5


# -- at once, on the real model --


def ask(assistant: Assistant, data: bytes, **options: Any) -> Response:
    response = assistant.ask(AudioPart(data=data), task=TASK, options=options)
    _ = response.text
    return response


def teach_zorvex(assistant: Assistant) -> Any:
    right = TAUGHT.format("Zorvex")
    return ask(assistant, spoken(right, "en-us")).rate(correction=right)


@pytest.fixture
def own(config: AssistantConfig) -> Iterator[Assistant]:
    with Assistant(config) as opened:
        yield opened


def speech(assistant: Assistant) -> SpeechRecognition:
    task = assistant.tasks[TASK]
    assert isinstance(task, SpeechRecognition)
    return task


@pytest.mark.slow
def test_the_next_recording_has_the_word(own: Assistant, config: AssistantConfig) -> None:
    data = spoken(ASKED.format("Zorvex"), "en-gb")
    before = ask(own, data)
    assert "Zorvex" not in before.text
    receipt = teach_zorvex(own)
    assert receipt.effect.startswith("From now on “Zorvex” (heard as “")
    after = ask(own, data, word_timestamps=True)
    assert after.text == ASKED.format("Zorvex")
    (repair,) = after.details["repairs"]
    assert repair["word"] == "Zorvex"
    assert repair["heard"] in before.text
    assert " ".join(detail["word"] for detail in after.details["words"]) == after.text
    assert ask(own, data, use_memory=False).text == before.text

    own.close()
    with Assistant(config) as restarted:
        assert ask(restarted, data).text == after.text
        assert restarted.undo_feedback(receipt.feedback.id).effect.startswith("taken back")
        assert ask(restarted, data).text == before.text
        again = teach_zorvex(restarted)
        assert ask(restarted, data).text == after.text
        restarted.erase_feedback([again.feedback.id])
        assert ask(restarted, data).text == before.text


@pytest.mark.slow
def test_recordings_without_the_words_stay_as_they_were(own: Assistant) -> None:
    recordings = [path.read_bytes() for path, _ in librivox()[1:]]
    before = [ask(own, data).text for data in recordings]
    speech(own).memory._built = JARGON
    assert [ask(own, data).text for data in recordings] == before


def test_a_taught_recording_teaches_its_uncommon_words(own: Assistant) -> None:
    receipt = own.teach(TASK, AudioPart(data=spoken(TAUGHT.format("Zorvex"))), TAUGHT.format("Zorvex"))
    assert receipt.effect == "From now on “Zorvex” will be recognized."
    assert words(speech(own).memory.vocabulary()) == {"Zorvex": ()}


# -- into an adapter --


def example(data: bytes, heard: str, right: str, *, is_praised: bool = False) -> Example:
    payload = Spoken(AudioPart(data=data), Told(heard, right), is_praised)
    return Example(right, right, right, right, ("f",), payload)


def training(assistant: Assistant, examples: Sequence[Example], folder: Path, **changes: Any) -> Training:
    (folder / "out").mkdir(parents=True, exist_ok=True)
    (folder / "work").mkdir(exist_ok=True)
    made = Training(
        examples=examples,
        replay=(),
        folder=folder / "out",
        work_folder=folder / "work",
        parent=None,
        models=assistant.models,
    )
    return replace(made, **changes)


def test_word_errors() -> None:
    assert n_errors(["a", "b", "c"], ["a", "x", "c", "d"]) == 2
    assert words_right("He isn't here, Mr. Brown.", "he is not here mister brown") == 1.0
    assert words_right("Zorvex runs", "Zorvex") == 0.5
    assert words_right("one", "nine other words are here") == 0.0


@pytest.mark.slow
def test_examples_and_protected(own: Assistant, caplog: pytest.LogCaptureFixture) -> None:
    for i, (path, text) in enumerate(librivox()):
        response = ask(own, path.read_bytes(), beam_size=1, temperatures=(0.0,))
        response.rate(correction=text) if i < 2 else response.rate(good=True)
    judged_turns = own.feedback.judged_turns(TASK)
    task = speech(own)
    found, kept = task.examples(judged_turns), task.protected(judged_turns)["praised transcripts"]
    assert [each.expected for each in found[:2]] == [text for _, text in librivox()[:2]]
    assert len(found) + len(kept) == 5
    assert len({each.split_key for each in [*found, *kept]}) == 5
    assert {each.prompt for each in found}.isdisjoint(each.prompt for each in kept)
    assert all(each.payload.is_praised for each in [*found[2:], *kept])

    for path in (own.config.data_dir / "media").rglob("*"):
        if path.is_file():
            path.unlink()
    with caplog.at_level(logging.WARNING):
        assert task.examples(own.feedback.judged_turns(TASK)) == []
    assert "left out" in caplog.text


def test_nothing_corrected_is_not_enough(own: Assistant, tmp_path: Path) -> None:
    with pytest.raises(NotEnoughData):
        speech(own).train(training(own, [example(b"", "x", "x", is_praised=True)], tmp_path))


@pytest.fixture
def tiny(tmp_path: Path, models_dir: Path) -> Iterator[Assistant]:
    """An assistant whose speech model is tiny and random: the machinery, in a second."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    make_whisper(folder)
    models = ModelsConfig(speech=str(folder))
    with Assistant(
        AssistantConfig(data_dir=tmp_path / "data", models_dir=models_dir, device="cpu", models=models)
    ) as opened:
        yield opened


@pytest.fixture
def clips() -> list[Example]:
    return [example(path.read_bytes(), "nothing alike", text) for path, text in librivox()]


def test_names_map_both_ways(tiny: Assistant) -> None:
    from safetensors.torch import load_file

    for name in load_file(Path(tiny.config.models.speech) / "model.safetensors"):
        assert openai_name(transformers_name(name)) == name


def test_the_copy_that_is_trained_computes_the_same(models_dir: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from smallai_speech.model_files import build, checked_dimensions, read_config, shapes
    from smallai_speech.training import load_copy

    folder = models_dir / "whisper-tiny.en"
    dims = checked_dimensions(read_config(folder), shapes(folder), folder)
    mel, tokens = (
        torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(0)),
        torch.tensor([[50257, 50362, 632]]),
    )
    with torch.inference_mode():
        ours = build(dims, load_file(folder / "model.safetensors"), [])(mel, tokens)
        theirs = load_copy(folder, dims).eval()(input_features=mel, decoder_input_ids=tokens).logits
    assert torch.allclose(ours, theirs, atol=2e-3)


def train_tiny(tiny: Assistant, clips: Sequence[Example], folder: Path, **changes: Any) -> tuple[Training, Path]:
    from smallai_speech.training import train_weights

    run = training(tiny, clips, folder, **changes)
    assert train_weights(run, clips, speech(tiny).spec, folder / "work" / "trial")
    return run, folder / "work" / "trial"


def test_training_again_is_the_same(tiny: Assistant, clips: list[Example], tmp_path: Path) -> None:
    first, out = train_tiny(tiny, clips, tmp_path / "a")
    second, other = train_tiny(tiny, clips, tmp_path / "b")
    assert first.losses == second.losses
    assert all(delta.abs().sum() > 0 for delta in read_deltas(out).values())
    assert (out / "adapter_model.safetensors").read_bytes() == (other / "adapter_model.safetensors").read_bytes()
    assert sorted(path.name for path in out.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_stopped_training_goes_on_from_its_checkpoint(
    tiny: Assistant, clips: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smallai_speech import training as module

    monkeypatch.setattr(module, "_CHECKPOINT_S", 0.0)
    whole, _ = train_tiny(tiny, clips, tmp_path / "whole")
    cancel = threading.Event()

    def stop_at_the_fifth(what: str, _share: float) -> None:
        if what.startswith("training, step 5 "):
            cancel.set()

    with pytest.raises(Cancelled):
        train_tiny(tiny, clips, tmp_path / "part", cancel=cancel, on_progress=stop_at_the_fifth)
    rest, _ = train_tiny(tiny, clips, tmp_path / "part")
    assert len(rest.losses) == len(whole.losses) - 5
    assert rest.losses == pytest.approx(whole.losses[5:], rel=1e-4)


def test_out_of_time_ends_cleanly(tiny: Assistant, clips: list[Example], tmp_path: Path) -> None:
    run, out = train_tiny(tiny, clips, tmp_path, deadline=time.monotonic() - 1)
    assert run.losses == []
    assert read_deltas(out)


def test_a_loss_that_is_no_number(tiny: Assistant, clips: list[Example], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = Path(tiny.config.models.speech) / "model.safetensors"
    state = load_file(path)
    state["decoder.ln.weight"][0] = float("nan")
    save_file(state, path)
    with pytest.raises(TrainingFailed, match="nan"):
        train_tiny(tiny, clips, tmp_path)


def test_recordings_that_cannot_be_trained_on(
    tiny: Assistant, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from smallai_speech.training import train_weights

    good = librivox()[1][0].read_bytes()
    bad = [example(b"RIFF", "x", "x"), example(good, "x", "word " * 4_000), example(good, "x", "many words " * 30)]
    with caplog.at_level(logging.WARNING):
        assert not train_weights(training(tiny, bad, tmp_path), bad, speech(tiny).spec, tmp_path / "trial")
    assert caplog.text.count("is not trained on") == 3


def test_an_adapter_serves_its_requests_and_no_other(tiny: Assistant, clips: list[Example], tmp_path: Path) -> None:
    import soundfile

    from smallai_speech.window import DecodeOptions

    _, folder = train_tiny(tiny, clips, tmp_path)
    _inflate(folder)
    adapter = Adapter("a", TASK, "lora", folder, {}, {}, _now())
    samples = soundfile.read(librivox()[1][0], dtype="float32")[0]
    options = DecodeOptions("en", beam_size=1)
    with tiny.models.lease(ModelSpec(tiny.config.models.speech, task=TASK), SpeechModel) as model:
        shared = {name: each.clone() for name, each in model._network.state_dict().items()}
        base = model.decode(samples, options)
        with_adapter = model.decode(samples, replace(options, adapter=adapter))
        assert with_adapter != base
        results: dict[int, Any] = {}
        threads = [
            threading.Thread(target=_decode_into, args=(results, i, model, samples, replace(options, adapter=one)))
            for i, one in enumerate([adapter, None] * 4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [results[i] for i in range(8)] == [with_adapter, base] * 4
        assert all((shared[name] == each).all() for name, each in model._network.state_dict().items())
        model.retire_adapter("a")
        model.decode(samples, replace(options, adapter=replace(adapter, id="b")))
        assert list(model._adapters._merged) == ["b"]


def _now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


def _decode_into(results: dict[int, Any], i: int, model: SpeechModel, samples: Any, options: Any) -> None:
    results[i] = model.decode(samples, options)


def _inflate(folder: Path) -> None:
    """Makes what a short training changed large enough to be heard in a random model."""
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    save_file({name: 30 * each for name, each in load_file(path).items()}, path)


@pytest.mark.parametrize("spoil", ["cut", "shape", "layer", "config"])
def test_an_adapter_that_does_not_fit(tiny: Assistant, clips: list[Example], tmp_path: Path, spoil: str) -> None:
    from safetensors.torch import load_file, save_file

    from smallai_speech.window import DecodeOptions

    _, folder = train_tiny(tiny, clips[:1], tmp_path, deadline=time.monotonic() - 1)
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    if spoil == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif spoil == "config":
        (folder / "adapter_config.json").write_text('{"r": 0, "lora_alpha": 1}')
    elif spoil == "shape":
        narrow = {name: each[:, :8].contiguous() for name, each in tensors.items() if "lora_A" in name}
        save_file({**tensors, **narrow}, path)
    else:
        save_file({name.replace("layers.0", "layers.7"): each for name, each in tensors.items()}, path)
    adapter = Adapter("a", TASK, "lora", folder, {}, {}, _now())
    import numpy as np

    with (
        tiny.models.lease(ModelSpec(tiny.config.models.speech, task=TASK), SpeechModel) as model,
        pytest.raises(AdapterMismatch),
    ):
        model.decode(np.zeros(16_000, np.float32), DecodeOptions("en", adapter=adapter))


@pytest.mark.slow
def test_corrections_become_an_adapter_that_is_judged_and_serves(
    own: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both words stand in two recordings each, so that what is kept aside holds a word that the rest teaches."""
    from smallai_speech import training as module

    monkeypatch.setattr(module, "EPOCHS", 5)
    task = speech(own)
    for text, voice in ((TAUGHT, "en-us"), (ASKED, "en-gb+f2")):
        for word in ("Zorvex", "Talvorin"):
            right = text.format(word)
            ask(own, spoken(right, voice)).rate(correction=right)
    run = training(own, task.examples(own.feedback.judged_turns(TASK)), tmp_path)
    kind = task.train(run)
    assert kind in ("vocabulary", "lora", "lora+vocabulary")
    assert run.losses[-1] < run.losses[0]
    choice = json.loads((run.folder / CHOICE).read_text())
    assert choice["kind"] == kind
    assert set(choice["words_right"]) == {"base", "vocabulary", "lora", "lora+vocabulary"}
    assert choice["words_right"][kind] == max(choice["words_right"].values())
    assert (run.folder / VOCABULARY).is_file() == ("vocabulary" in kind)

    # Each word in each sentence, in the voice that said the other one.
    asked = [
        (word, text.format(word), spoken(text.format(word), voice))
        for word in ("Zorvex", "Talvorin")
        for text, voice in ((ASKED, "en-us"), (TAUGHT, "en-gb+f2"))
    ]
    unseen = [example(data, "", right) for _, right, data in asked]
    own.adapters._folder.mkdir(exist_ok=True)
    adapter = own.adapters.add(run.folder, task=TASK, kind=kind, base=task.base(), feedback_ids=())
    task.rebuild([])  # retired: the adapter is to know it alone
    before, after = (task.evaluate(unseen, each, own.models) for each in (None, adapter))
    assert sum(each.value for each in after) > sum(each.value for each in before)
    own.adapters.promote(adapter.id, force=True)
    served = [ask(own, data) for _, _, data in asked]
    assert [each.text for each in served] == [each.answer for each in after]
    assert {each.turn.adapter for each in served} == {adapter.id}
    assert any(word in each.text for (word, _, _), each in zip(asked, served, strict=True))
