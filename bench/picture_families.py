"""Families of picture kinds for `bench.unseen_kinds`: some to calibrate on, others to report on.

Neither `bench.image`, `bench.teach_image` and `bench.poison_pictures` nor the tests use a kind of them. A family has
five kinds with six pictures or more.
"""

from __future__ import annotations

import functools
import gzip
import io
import random
import re
import struct
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.data import emoji_font, gcompris, mnist, tuxpaint_stamps
from bench.image import FIVE, TWENTY

Family = Mapping[str, Sequence[bytes]]  # kind -> picture files

_N_DIGITS = 30  # of each digit
_MAX_OF_A_KIND = 60  # there are 267 paintings
_EMOJI_PIXELS = 109  # the only size of the font
# Folders of Tux Paint's stamps by family. The last part of the folder names the kind.
_SEASONS = tuple(f"seasonal/{name}" for name in ("christmas", "easter", "halloween", "hanukkah", "newyears"))
_TOWN = ("town/houses/cartoon", "town/roadsigns", "town/flags", "town/cartoon", "town/monuments/cartoon")
_COINS = ("00_symbols", "canadian/coins", "euro/coins", "japanese", "us/coins")
_MONEY = tuple(f"symbols/money/{name}" for name in _COINS)
_SIGNS = ("symbols/chess", "symbols/music", "symbols/shapes", "symbols/math", "symbols/alphabets/asl")
_THINGS = (
    "animals/insects/cartoon",
    "food/fruit/cartoon",
    "vehicles/locomotive/cartoon",
    "household",
    "animals/mammals",
)
# Ranges of code points, which Unicode orders by kind.
_EMOJI = {
    "face": (0x1F600, 0x1F637),
    "animal": (0x1F400, 0x1F42C),
    "food": (0x1F345, 0x1F37B),
    "vehicle": (0x1F680, 0x1F6A4),
    "building": (0x1F3E0, 0x1F3F0),
}
_OTHER_EMOJI = {
    "clock": (0x1F550, 0x1F567),
    "hand": (0x1F446, 0x1F450),
    "zodiac": (0x2648, 0x2653),
    "moon": (0x1F311, 0x1F31D),
    "clothes": (0x1F451, 0x1F462),
}
_GCOMPRIS = ("tools", "renewable", "fishes", "monuments", "others")
_OTHER_GCOMPRIS = ("paintings", "details", "lang", "clickgame", "babyshapes")


def calibration_families() -> dict[str, Family]:
    """Returns the families on which constants are chosen. No figure is reported on them."""
    return {
        "seasons": _stamps(_SEASONS),
        "town": _stamps(_TOWN),
        "money": _stamps(_MONEY),
        "photos": {kind: gcompris_pictures()[kind] for kind in _GCOMPRIS},
        "paintings and drawings": {kind: gcompris_pictures()[kind] for kind in _OTHER_GCOMPRIS},
        "small digits 0 to 4": _small_digits(range(5)),
        "small digits 5 to 9": _small_digits(range(5, 10)),
        "emoji": _emoji(_EMOJI),
    }


def report_families() -> dict[str, Family]:
    """Returns the families on which figures are reported. No constant was chosen on them."""
    return {
        "signs": _stamps(_SIGNS),
        "things": _stamps(_THINGS),
        "digits 0 to 4": _digits(range(5)),
        "digits 5 to 9": _digits(range(5, 10)),
        "other emoji": _emoji(_OTHER_EMOJI),
    }


def named_pictures(classes: Sequence[str]) -> list[tuple[int, bytes]]:
    """Returns pictures whose file name or description ends with the name of a class, with the class's index.

    They come from the sources of the calibration families, and from folders of stamps that no bench uses.
    """
    index = {name.lower(): number for number, name in enumerate(classes)}
    found = []
    for words, data in _described():
        # The longest ending first: "wild boar" before "boar".
        endings = (" ".join(words[start:]) for start in range(len(words)))
        known = next((ending for ending in endings if ending in index or ending.rstrip("s") in index), None)
        if known is not None:
            found.append((index.get(known, index.get(known.rstrip("s"), -1)), data))
    return found


def _described() -> Iterator[tuple[list[str], bytes]]:
    root = tuxpaint_stamps()
    for path in sorted(root.rglob("*.png")):
        text = path.with_suffix(".txt")
        is_used = str(path.parent.relative_to(root)) in {**FIVE, **TWENTY}
        if text.is_file() and not is_used and not {"cartoon", "symbols"} & set(path.parts) and not _is_mirrored(path):
            line = text.read_text(encoding="utf-8").partition("\n")[0]
            yield re.sub(r"[^\w\s-]", "", line).lower().split(), path.read_bytes()
    for name, data in _gcompris_files():
        yield re.sub(r"[\W\d_]+", " ", Path(name).stem.lower()).split(), data
    for first, last in _EMOJI.values():
        for code in range(first, last + 1):
            if (drawn := _drawn(code)) is not None:
                yield unicodedata.name(chr(code)).lower().split(), drawn


@functools.cache
def gcompris_pictures() -> dict[str, list[bytes]]:
    """Returns the pictures of GCompris by activity; those of `categorization` by category."""
    found: defaultdict[str, list[bytes]] = defaultdict(list)
    for name, data in _gcompris_files():
        parts = name.split("/")
        kind = parts[-2] if "categorization" in parts else parts[4]
        if len(found[kind]) < _MAX_OF_A_KIND:
            found[kind].append(data)
    return dict(found)


def _stamps(folders: Sequence[str]) -> Family:
    root = tuxpaint_stamps()
    return {
        folder: [path.read_bytes() for path in sorted((root / folder).glob("*.png")) if not _is_mirrored(path)]
        for folder in folders
    }


def _is_mirrored(path: Path) -> bool:
    return re.search("_(mirror|flip)", path.stem) is not None


def _emoji(ranges: Mapping[str, tuple[int, int]]) -> Family:
    return {
        kind: [drawn for code in range(first, last + 1) if (drawn := _drawn(code))]
        for kind, (first, last) in ranges.items()
    }


@functools.cache
def _drawn(code: int) -> bytes | None:
    """Returns an emoji on white as a PNG; None if the font does not have it."""
    image = Image.new("RGB", (136, 128), "white")
    font = ImageFont.truetype(str(emoji_font()), _EMOJI_PIXELS)
    ImageDraw.Draw(image).text((0, 0), chr(code), font=font, embedded_color=True)
    return _png(image) if np.asarray(image).std() > 1 else None


def _digits(digits: Sequence[int]) -> Family:
    rows = np.loadtxt(io.StringIO(gzip.decompress(mnist().read_bytes()).decode()), delimiter=",")
    pixels = rows[:, :-1].reshape(-1, 28, 28).astype(np.uint8)
    return _sampled(pixels, rows[:, -1].astype(int).tolist(), digits)


def _small_digits(digits: Sequence[int]) -> Family:
    """Written digits of 8 x 8 pixels, which scikit-learn brings along."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = np.repeat(np.repeat((found.images * 15.9).astype(np.uint8), 8, axis=1), 8, axis=2)
    return _sampled(pixels, found.target.tolist(), digits)


def _sampled(pixels: np.ndarray, labels: Sequence[int], digits: Sequence[int]) -> Family:
    draw = random.Random(0)
    family = {}
    for digit in digits:
        rows = [index for index, label in enumerate(labels) if label == digit]
        family[str(digit)] = [_png(Image.fromarray(pixels[index])) for index in draw.sample(rows, _N_DIGITS)]
    return family


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def _gcompris_files() -> Iterator[tuple[str, bytes]]:
    for path in sorted(gcompris().rglob("*.rcc")):
        for name, data in _qt_resources(path.read_bytes()):
            if name.endswith(".webp"):
                yield name, data


def _qt_resources(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields the files in a Qt resource file, by the layout that `rcc --binary` writes."""
    version, tree, contents, names = struct.unpack(">4xIIII", data[:20])
    size = 22 if version >= 2 else 14  # later versions keep the time of each file

    def name_at(offset: int) -> str:
        start = names + offset
        (n,) = struct.unpack(">H", data[start : start + 2])
        return data[start + 6 : start + 6 + 2 * n].decode("utf-16-be")

    def walk(node: int, folder: str) -> Iterator[tuple[str, bytes]]:
        start = tree + node * size
        name, flags = struct.unpack(">IH", data[start : start + 6])
        path = f"{folder}/{name_at(name)}" if node else ""
        if flags & 2:  # a folder
            n_children, first = struct.unpack(">II", data[start + 6 : start + 14])
            for child in range(first, first + n_children):
                yield from walk(child, path)
            return
        (offset,) = struct.unpack(">I", data[start + 10 : start + 14])
        begin = contents + offset
        (n_bytes,) = struct.unpack(">I", data[begin : begin + 4])
        content = data[begin + 4 : begin + 4 + n_bytes]
        yield path, zlib.decompress(content[4:]) if flags & 1 else content

    yield from walk(0, "")
