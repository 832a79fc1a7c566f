"""Finds the files that are named in a line: after `/image` and `/audio`, or anywhere in a message."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from smallai_assistant.errors import AssistantError, InvalidInput
from smallai_assistant.types import AudioPart, ImagePart, file_part

_WORD = re.compile(r"(?:(?<=[\s(])|^)(?=[^\s(])")
_PATH = re.compile(r"""['"]?(?:(?:/|~/|\.\.?/)[^/\s]|file://)""", re.IGNORECASE)
# Without a slash, a word must at least have a suffix, so that not every word costs a look at the disk.
_NAME = re.compile(r"""['"]|[^\s'"]+\.\w{2,5}\b""")
_END_OF_SENTENCE = "?!.,;:)"
# Limits for pasted texts: a name longer than Linux allows is not a file, and looking at the disk takes time.
_MAX_NAME_CHARS = 4096
_MAX_LOOKS = 64
_MAX_WORDS_IN_NAME = 32


@dataclass(frozen=True, slots=True)
class TypedMessage:
    """A message as it was typed, taken apart.

    Attributes:
        text: without the names of the files; it may be empty.
        files: the pictures and recordings, in order.
    """

    text: str
    files: tuple[ImagePart | AudioPart, ...]


def find_files(line: str) -> TypedMessage:
    """Finds the pictures and recordings that a message names.

    A name may be quoted, have spaces after backslashes, begin with `~`, or be a `file://` address, as terminals write
    it if a file is dropped into them. It counts only if the file exists and is a picture or a recording; every other
    name stays text.
    """
    text, files = "", []
    position = n_looks = 0
    for match in _WORD.finditer(line):
        start = match.start()
        # A word inside a name that was found, such as the second word of a quoted one, does not begin a name.
        if start < position or not (_PATH.match(line, start) or _NAME.match(line, start)):
            continue
        n_looks += 1
        if n_looks > _MAX_LOOKS:
            break
        for name, end in _names_at(line, start):
            if (part := _part_of(name)) is not None:
                files.append(part)
                text = _joined(text, line[position:start])
                position = end
                break
    return TypedMessage(_joined(text, line[position:]).strip(), tuple(files))


def lone_path(line: str) -> Path | None:
    """The path, if the whole line looks like one; None for a sentence. The file need not exist."""
    try:
        words = shlex.split(line)
    except ValueError:  # a quote that is not closed
        return None
    if len(words) != 1 or not _PATH.match(words[0]):
        return None
    try:
        return _path_of(words[0])
    except (ValueError, RuntimeError):
        return None


def split_path(text: str, *, usage: str) -> tuple[Path, str]:
    """Splits the words after a command into the name of a file and the rest.

    The name may be quoted. Without quotes it may hold spaces if such a file exists.

    Raises:
        InvalidInput: there is no name; `usage` becomes the hint.
    """
    if not text:
        raise InvalidInput("the file is missing", hint=usage)
    for name, end in _names_at(text, 0):
        if _is_file(name):
            return _path_of(name), text[end:].strip()
    # There is no such file. The caller's error names the first word as a shell would read it.
    name, end = _shell_word(text)
    return _checked_path_of(name), text[end:].strip()


def _names_at(line: str, start: int) -> Iterator[tuple[str, int]]:
    """The names that may begin at a place of the line, each with the place of its end. The most likely comes first."""
    rest = line[start : start + _MAX_NAME_CHARS]
    quote = rest[0]
    if quote in "'\"" and (end := rest.find(quote, 1)) > 0:
        yield rest[1:end], start + end + 1
    name, end = _shell_word(rest)
    if name != rest[:end]:
        yield name, start + end
    # As it stands, with spaces: the longest name first, because "my photo.png" may lie beside "my".
    spaces = [match.start() for match in re.finditer(r"\s|$", rest)]
    for end in reversed(spaces[:_MAX_WORDS_IN_NAME]):
        name = rest[:end]
        while name:
            yield name, start + len(name)
            if name[-1] not in _END_OF_SENTENCE:
                break
            name = name[:-1]  # "what is on ./cat.jpg?"


def _shell_word(text: str) -> tuple[str, int]:
    """The first word as a shell reads it, without quotes and backslashes, and the place of its end."""
    source = io.StringIO(text)
    lexer = shlex.shlex(source, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        word = lexer.get_token() or ""
    except ValueError:  # a quote that is not closed, such as an apostrophe
        word = text.split(maxsplit=1)[0]
        return word, len(word)
    end = source.tell()
    # shlex has read the white space that ends a word, too.
    return word, end - (end > 0 and text[end - 1].isspace())


def _part_of(name: str) -> ImagePart | AudioPart | None:
    """The part for a file; None if there is no such file, or if it is neither a picture nor a recording."""
    try:
        return file_part(_path_of(name)) if _is_file(name) else None
    except AssistantError:
        return None


def _is_file(name: str) -> bool:
    try:
        return bool(name) and _path_of(name).is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL character, `~` of an unknown user
        return False


def _path_of(name: str) -> Path:
    """The path that a name stands for.

    Raises:
        ValueError: the name is a malformed address.
        RuntimeError: it begins with `~` of an unknown user.
    """
    if name.lower().startswith("file://"):
        return Path(unquote(urlsplit(name).path))
    return Path(name).expanduser()


def _checked_path_of(name: str) -> Path:
    try:
        return _path_of(name)
    except (ValueError, RuntimeError):
        return Path(name)  # whoever opens it says what is wrong


def _joined(left: str, right: str) -> str:
    """Two pieces of a sentence from between which a name was taken."""
    if not left.strip():
        return right
    right = right.lstrip(" \t")
    space = " " if right and right[0] not in f"{_END_OF_SENTENCE}\n" else ""
    return left.rstrip(" \t") + space + right
