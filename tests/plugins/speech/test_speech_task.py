"""Speech becomes text: the task on the real model, its options, its errors and what it tells the user."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.speech import NO_SPEECH, NOISE, RATE, T, ask, clip, codes, normalized_words, wav

from bench.data import librivox
from smallai_assistant import Assistant, AudioPart, InvalidInput, Response, SegmentPart, TextPart
from smallai_assistant.errors import InputTooLarge, InvalidAudio
from smallai_speech import SpeechModel, SpeechOptions
from smallai_speech.engine import TASK
from smallai_speech.spectrogram import Window


def segments(response: Response) -> list[SegmentPart]:
    return [part for part in response.parts if isinstance(part, SegmentPart)]


@pytest.mark.slow
def test_word_error_rate_on_librivox(assistant: Assistant, no_network: None) -> None:
    import jiwer

    references, texts = [], []
    for path, reference in librivox():
        response = ask(assistant, AudioPart(path))
        found = segments(response)
        duration_s = response.details["duration_s"]
        assert response.text == " ".join(segment.text for segment in found)
        assert all(0 <= segment.start_s < segment.end_s <= duration_s for segment in found)
        assert response.details["language"] == "en"
        assert response.details["model"] == "whisper-tiny.en"
        assert codes(response) == []
        references.append(" ".join(normalized_words(reference)))
        texts.append(" ".join(normalized_words(response.text)))
    assert jiwer.wer(references, texts) <= 0.043


@pytest.mark.parametrize("name", NO_SPEECH)
def test_no_words_are_invented(assistant: Assistant, name: str) -> None:
    response = ask(assistant, wav(NO_SPEECH[name]))
    assert response.text == ""
    assert response.parts == ()
    assert codes(response) == ["no_speech"]
    assert response.details["duration_s"] == 10.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["silence", "white noise", "hum over noise", "pink noise"])
def test_without_vad_no_words_are_invented(assistant: Assistant, name: str) -> None:
    response = ask(assistant, wav(NO_SPEECH[name]), vad=False, temperatures=(0.0,))
    assert response.text == ""
    assert codes(response) == ["no_speech"]


@pytest.mark.slow
def test_a_long_recording_keeps_its_times(assistant: Assistant) -> None:
    order, pause_s = (1, 4, 1, 2), 18.0
    starts_s, sound, now_s = [], [], 0.0
    for index in order:
        starts_s.append(now_s + pause_s)
        sound += [np.zeros(int(pause_s * RATE), np.float32), clip(index)]
        now_s = sum(map(len, sound)) / RATE
    samples = np.concatenate(sound)
    response = ask(assistant, wav(samples + 3e-4 * np.resize(NOISE, len(samples))))
    words = normalized_words(response.text)
    wanted = [word for index in order for word in normalized_words(librivox()[index][1])]
    assert len(set(wanted) - set(words)) <= 3
    assert abs(len(words) - len(wanted)) <= 4
    found = segments(response)
    assert all(before.start_s <= after.start_s for before, after in pairwise(found))
    for segment in found:
        assert any(start - 1.0 <= segment.start_s <= start + 6.0 for start in starts_s), segment
    assert response.details["duration_s"] == pytest.approx(now_s, abs=0.01)


@pytest.mark.slow
def test_quiet_speech_is_understood(assistant: Assistant) -> None:
    loud, quiet = (ask(assistant, wav(clip(4) * np.float32(gain))) for gain in (1.0, 0.01))
    assert normalized_words(quiet.text) == normalized_words(loud.text)


@pytest.mark.slow
def test_a_hint_sets_names(assistant: Assistant) -> None:
    without = ask(assistant, wav(clip(1)))
    hinted = ask(assistant, wav(clip(1)), initial_prompt="He was ill-disposed, an ill-disposed man.")
    said = ask(assistant, wav(clip(1)), TextPart("He was ill-disposed, an ill-disposed man."))
    assert "ill-disposed" not in without.text
    assert "ill-disposed" in hinted.text
    assert said.text == hinted.text
    assert codes(hinted) == []


def test_a_long_hint_is_cut_with_notice(assistant: Assistant) -> None:
    response = ask(
        assistant,
        wav(clip(1)),
        TextPart(" ".join(librivox()[0][1] for _ in range(20))),
        beam_size=1,
        temperatures=(0.0,),
    )
    assert "prompt_truncated" in codes(response)


def test_control_tokens_in_hints_are_text(assistant: Assistant) -> None:
    response = ask(assistant, wav(clip(1)), TextPart("<|endoftext|><|nospeech|> <|0.00|>"), beam_size=1)
    assert "young man" in response.text


@pytest.mark.slow
def test_word_times(assistant: Assistant) -> None:
    response = ask(assistant, wav(clip(4)), word_timestamps=True)
    words = response.details["words"]
    assert " ".join(word["word"] for word in words) == response.text
    assert all(0 <= word["start_s"] <= word["end_s"] <= 3.29 for word in words)
    assert all(before["end_s"] <= after["end_s"] for before, after in pairwise(words))
    assert 1.5 < next(word for word in words if word["word"] == "amiable")["start_s"] < 2.2
    json.dumps(words)


@pytest.fixture
def decoded_windows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of samples of each window as it is decoded."""
    windows: list[int] = []
    decode = SpeechModel.decode

    def counted(self: SpeechModel, window: Window, *args: Any, **options: Any) -> Any:
        windows.append(len(window.samples))
        return decode(self, window, *args, **options)

    monkeypatch.setattr(SpeechModel, "decode", counted)
    return windows


def test_segments_stream_and_close_stops(assistant: Assistant, decoded_windows: list[int]) -> None:
    minutes = np.concatenate([clip(0), np.zeros(25 * RATE, np.float32)] * 20)
    response = assistant.ask([wav(minutes)], task=TASK, options={"beam_size": 1})
    parts = iter(response)
    assert [type(next(parts)), type(next(parts))] == [TextPart, SegmentPart]
    response.close()
    assert response.turn.error == "cancelled"
    assert 1 <= sum(isinstance(part, SegmentPart) for part in response.turn.response) < 20
    assert len(decoded_windows) < 20  # there are at least twenty windows


def test_a_cut_recording_says_so(assistant: Assistant) -> None:
    data = wav(clip(4)).data
    assert data is not None
    response = ask(assistant, AudioPart(data=data[: len(data) * 3 // 4]), beam_size=1)
    assert codes(response) == ["audio_truncated"]
    assert response.text.startswith("He might")


@pytest.mark.parametrize("name", ["-i x.wav", "$(id).wav", "`id`;x.wav", "concat:a|b.wav", "a b\n.wav"])
def test_a_name_is_only_a_name(
    assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_bytes(wav(0 * T).data or b"")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert codes(ask(assistant, Path(name))) == ["no_speech"]
    assert sorted(tmp_path.iterdir()) == before


def test_a_path_that_is_not_there(assistant: Assistant) -> None:
    with pytest.raises(InvalidInput):
        ask(assistant, AudioPart(Path("../../x.wav")))


@pytest.mark.parametrize("data", [b"", b"text, not sound", b"RIFF\xff\xff\xff\xffWAVEfmt " + bytes(900)])
def test_bad_bytes_are_invalid_audio(assistant: Assistant, data: bytes) -> None:
    with pytest.raises(InvalidAudio):
        ask(assistant, AudioPart(data=data))


def test_a_recording_over_the_limit(assistant: Assistant) -> None:
    with pytest.raises(InputTooLarge, match="allowed"):
        ask(assistant, wav(0 * T), max_duration_s=5.0)


@pytest.mark.parametrize(
    "options",
    [
        {"language": "English"},
        {"beam_size": 0},
        {"beam_size": 100},
        {"temperatures": ()},
        {"temperatures": (float("nan"),)},
        {"max_duration_s": float("nan")},
        {"max_duration_s": 0.0},
    ],
    ids=str,
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        SpeechOptions(**options)


def test_a_language_the_model_does_not_know(assistant: Assistant) -> None:
    with pytest.raises(InvalidInput, match="English only"):
        ask(assistant, wav(clip(1)), language="de")


def test_one_recording_at_a_time(assistant: Assistant) -> None:
    with pytest.raises(InvalidInput, match="2 recordings"):
        ask(assistant, wav(clip(1)), wav(clip(4)))


def test_importing_the_plugin_loads_nothing_heavy() -> None:
    code = "import smallai_speech, sys; print(sorted({'torch', 'whisper', 'scipy', 'numpy', 'av'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
