"""Drawings of three kinds of things. Each seed gives another picture, and the kinds are easy to tell apart.

They are drawn here, so that no model was trained on them and the tests need no files.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw

SIDE = 160


def rings(seed: int) -> bytes:
    """Returns a PNG of concentric rings in two colors."""
    return _drawn(seed, "rings")


def flag(seed: int) -> bytes:
    """Returns a PNG of three colored stripes on a pole."""
    return _drawn(seed, "flag")


def face(seed: int) -> bytes:
    """Returns a PNG of a round face with two eyes and a mouth."""
    return _drawn(seed, "face")


def _drawn(seed: int, kind: str) -> bytes:
    # The tests depend on the order of the random draws: another order gives other pictures.
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (SIDE, SIDE), _color(random, 200))
    draw = ImageDraw.Draw(image)
    size = int(random.integers(90, 140))
    left, top = (int(random.integers(5, SIDE - size)) for _ in range(2))
    box = (left, top, left + size, top + size)
    if kind == "rings":
        colors = [_color(random, 0), _color(random, 120)]
        step = size // int(random.integers(8, 12))
        for i in range(0, size // 2, step):
            draw.ellipse((box[0] + i, box[1] + i, box[2] - i, box[3] - i), fill=colors[i // step % 2])
    elif kind == "flag":
        for i in range(3):
            stripe = size // 5
            draw.rectangle((left + 8, top + i * stripe, left + size, top + (i + 1) * stripe), fill=_color(random, 60))
        draw.rectangle((left, top, left + 8, top + size), fill=(90, 60, 30))
    else:
        draw.ellipse(box, fill=(250, int(random.integers(190, 230)), int(random.integers(60, 120))), outline=(0, 0, 0))
        for x in (0.3, 0.6):
            eye = (left + x * size, top + 0.3 * size)
            draw.ellipse((*eye, eye[0] + 0.1 * size, eye[1] + 0.15 * size), fill=(0, 0, 0))
        mouth = (left + 0.25 * size, top + 0.4 * size, left + 0.75 * size, top + 0.8 * size)
        draw.arc(mouth, 20, 160, fill=(0, 0, 0), width=5)
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def _color(random: np.random.Generator, minimum: int) -> tuple[int, int, int]:
    red, green, blue = (int(channel) for channel in random.integers(minimum, 256, 3))
    return red, green, blue
