"""What a door is to the fuzzer."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, ClassVar


class Door:
    """A place where a stranger's input comes in.

    Args:
        folder: for its files; it is empty.

    Attributes:
        name: of the door, for the command line.
        is_cheap: whether an input takes about a millisecond.
    """

    name: ClassVar[str]
    is_cheap: ClassVar[bool] = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def samples(self) -> list[Any]:
        """Valid inputs: the door must take each."""
        raise NotImplementedError

    def make(self, rng: Random) -> Any:
        """An input that is wrong in some way, or only odd."""
        raise NotImplementedError

    def enter(self, case: Any) -> None:
        """Gives an input to the code that a user's input reaches. What it raises must be an `AssistantError`."""
        raise NotImplementedError

    def enter_contained(self, case: Any) -> None:
        """Gives an input to the process that the product lets it harm; only for a door whose `enter` has none.

        Raises:
            NotImplementedError: the product has no such process here, so that all harm is a fault.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Lets go of what it has open."""


def scratch(folder: Path, name: str, data: bytes) -> Path:
    """Writes a file for a door that takes paths."""
    path = folder / name
    path.write_bytes(data)
    return path
