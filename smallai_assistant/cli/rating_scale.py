"""Reads the ratings of a file as stars, so that an import and a feedback mean the same by them."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from smallai_assistant.errors import InvalidInput
from smallai_assistant.types import Interaction

_HINT = "say what the ratings go from and to, such as --scale 1-5"
# A number, a separator and a number, where the first number may have a sign: 1-5, 0.5-5, -1:1.
_SCALE = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*[-:]\s*(-?\d+(?:\.\d+)?)\s*")


@dataclass(frozen=True, slots=True)
class RatingScale:
    """The worst and the best rating that a file may hold.

    Attributes:
        low: the worst; it means one star.
        high: the best; it means five stars.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InvalidInput(f"a rating scale from {self.low:g} to {self.high:g}", hint=_HINT)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"

    @classmethod
    def parse(cls, text: str) -> RatingScale:
        """Reads `1-5` or `-1:1`.

        Raises:
            InvalidInput: it is something else.
        """
        match = _SCALE.fullmatch(text)
        if match is None:
            raise InvalidInput(f"{text[:60]!r} is not a rating scale", hint=_HINT)
        return cls(float(match[1]), float(match[2]))

    @classmethod
    def recognize(cls, ratings: Collection[float]) -> RatingScale:
        """The scale that all ratings of a file fit: 1 to 5, 0 to 5, 1 to 10, 0 to 10 or 0 to 100.

        Raises:
            InvalidInput: there is none, or all ratings are at most 1, which may be one star as well as a yes.
        """
        low, high = min(ratings), max(ratings)
        if low < 0 or high > 100 or high <= 1:
            raise InvalidInput(f"the ratings go from {low:g} to {high:g}, which may mean anything", hint=_HINT)
        if high > 10:
            return cls(0.0, 100.0)
        if high > 5:
            return cls(1.0 if low >= 1 else 0.0, 10.0)
        # MovieLens has half a star and no zero: there, 3 of 5 is still the middle.
        return cls(1.0 if low >= 0.5 else 0.0, 5.0)

    def check(self, rating: float) -> None:
        """Raises InvalidInput if a rating is outside of the scale."""
        if not self.low <= rating <= self.high:
            raise InvalidInput(f"the rating is {rating:g}, the scale is {self}", hint=_HINT)

    def weight(self, rating: float) -> float:
        """The weight of an interaction with this rating; negative if it speaks against the item."""
        stars = 1.0 + 4.0 * (rating - self.low) / (self.high - self.low)
        return Interaction.weight_of_stars(min(5.0, max(1.0, stars)))
