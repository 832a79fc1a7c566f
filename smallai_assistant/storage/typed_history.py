"""What people typed in `smallai chat`, kept for the arrow keys: an erasure takes its texts out of it, too."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from smallai_assistant.errors import StoreError
from smallai_assistant.filesystem import write_atomically
from smallai_assistant.validation import fold_key

# An entry of prompt_toolkit's FileHistory: a comment with the time, and a plus before each line.
_ENTRY = re.compile(r"\n?# [^\n]*\n(?:\+[^\n]*\n?)*")


def forget_typed(path: Path, texts: Iterable[str]) -> None:
    """Removes the entries that hold one of the texts, in any white space and case.

    An entry with all words of a text goes too: a message that names a file was typed with the file in its midst.

    Raises:
        StoreError: the file cannot be read or written.
    """
    wanted = {folded for text in texts if (folded := fold_key(text).casefold())}
    if not wanted or not path.is_file():
        return
    try:
        old = path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise StoreError(f"{path.name} could not be read: {error.strerror}") from error
    kept = [entry for entry in _ENTRY.findall(old) if not _holds(entry, wanted)]
    new = "".join(kept)
    if len(new) != len("".join(_ENTRY.findall(old))):
        write_atomically(path, new.encode("utf-8", "surrogateescape"))


def _holds(entry: str, wanted: set[str]) -> bool:
    typed = fold_key(" ".join(line[1:] for line in entry.splitlines() if line.startswith("+"))).casefold()
    words = set(typed.split())
    return any(text in typed or set(text.split()) <= words for text in wanted)
