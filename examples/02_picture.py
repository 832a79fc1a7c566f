"""Names what a picture shows: `python examples/02_picture.py [photo.jpg [label label ...]]`.

Without a file it draws a clock.
"""

from __future__ import annotations

import io
import sys
from math import pi, sin
from pathlib import Path

from PIL import Image, ImageDraw

from smallai_assistant import Assistant, ImagePart, LabelPart


def draw_clock() -> bytes:
    """Draws a clock and returns the bytes of a PNG file. A picture does not need to be a file on disk."""
    picture = Image.new("RGB", (320, 320), "white")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((30, 30, 290, 290), outline="black", width=12)
    for hour in range(12):
        x, y = sin(hour * pi / 6), sin(hour * pi / 6 - pi / 2)
        draw.line((160 + 105 * x, 160 + 105 * y, 160 + 120 * x, 160 + 120 * y), fill="black", width=8)
    draw.line((160, 75, 160, 160, 220, 195), fill="black", width=8)
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


def main(picture: ImagePart, labels: list[str]) -> None:
    """Names what the picture shows. If labels are given, says which of them fits best."""
    with Assistant() as assistant:
        response = assistant.ask(picture, task="image-classification", options={"labels": labels, "top": 3})
        print(response.text)
        for part in response.parts:
            if isinstance(part, LabelPart):
                print(f"  {part.score:6.1%}  {part.label}")
        for notice in response.notices:  # such as how your own labels were matched
            print(f"  note: {notice.text}")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(ImagePart(Path(given[0])) if given else ImagePart(data=draw_clock()), given[1:])
