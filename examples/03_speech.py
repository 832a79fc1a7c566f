"""Transcribes a recording, with times: `python examples/03_speech.py [memo.wav]`.

Without a file it takes a sentence of an audiobook from the test data.
"""

from __future__ import annotations

import sys
from pathlib import Path

from smallai_assistant import Assistant, AudioPart, SegmentPart


def audiobook_sentence() -> Path:
    """A clip of the test data, which is downloaded at its first use."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from bench.data import librivox

    return librivox()[0][0]


def main(file: Path) -> None:
    """Prints each segment, with its times, as soon as it is decoded."""
    print(f"listening to {file.name}")
    with Assistant() as assistant:
        response = assistant.ask(AudioPart(file), task="automatic-speech-recognition")
        for part in response:
            if isinstance(part, SegmentPart):
                print(f"{part.start_s:7.2f} to {part.end_s:.2f} s  {part.text}")
        for notice in response.notices:  # such as that nobody speaks, or that the file is cut short
            print(f"  note: {notice.text}")
        details = response.details
        print(f"  {details['duration_s']:.1f} s of sound, language {details['language'] or 'unknown'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else audiobook_sentence())
