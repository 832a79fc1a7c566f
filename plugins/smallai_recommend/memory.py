"""What feedback taught at once: a function of the lessons, folded signal by signal, lazily at first use."""

from __future__ import annotations

import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from smallai_assistant import JudgedTurn
from smallai_recommend.interactions import Choice
from smallai_recommend.push_attacks import Pushers
from smallai_recommend.signals import Find, Signal, signals_of

log = logging.getLogger(__name__)

MAX_LEANINGS = 100  # of a user; older ones are forgotten


@dataclass(slots=True)
class Given:
    """A choice that feedback tells of: all signals of one user on one item of one answer are one choice.

    Attributes:
        amount: of the strongest signal.
        told: of the first one; it is what counts for others, whatever follows.
        nth: how many choices of this item its voter had told of by then, this one counted.
    """

    user: str
    item: str
    amount: float
    told: float
    at: float
    voter: str
    nth: int
    turn_id: str
    feedback_ids: list[str]


@dataclass(frozen=True, slots=True)
class Step:
    """A choice that is new, or one that has become stronger."""

    choice: Choice
    is_new: bool


class FeedbackMemory:
    """All that feedback said, in the order it came.

    Args:
        find: an item of the catalogue by its id or title.

    Attributes:
        generation: changes where what was said before counts differently now: take everything in anew.
        n_against: changes where opinions against items do.
    """

    def __init__(self, find: Find) -> None:
        self.generation = 0
        self.n_against = 0
        self._find = find
        self._lock = threading.RLock()
        self._unread: Sequence[JudgedTurn] = ()
        self._clear()

    def replace(self, judged_turns: Sequence[JudgedTurn]) -> None:
        """Begins anew with these; they are read when they are first needed."""
        with self._lock:
            self._clear()
            self._unread = tuple(judged_turns)
            self.generation += 1
            self.n_against += 1

    def add(self, judged_turn: JudgedTurn) -> list[Signal]:
        """Takes in one more, and gives what it said."""
        with self._lock:
            self._read()
            signals = signals_of(judged_turn, self._find)
            for signal in signals:
                self._take(signal)
            return signals

    def given(self) -> list[Given]:
        """The choices, in the order they were told of."""
        with self._lock:
            self._read()
            return list(self._given)

    def choices(self) -> tuple[list[Choice], int, int]:
        """The same as they count now, from which step on to ask for what is new, and the generation."""
        with self._lock:
            self._read()
            return [self._choice(each) for each in self._given], len(self._steps), self.generation

    def steps(self, start: int) -> tuple[list[Step], int]:
        """What came from this step on, and the generation that it is of."""
        with self._lock:
            self._read()
            newer = self._steps[start:]
            return [Step(self._choice(self._given[place]), is_new) for place, is_new in newer], self.generation

    def leanings_of(self, user: str) -> list[tuple[str, float]]:
        """Items that the user did not choose, and how much speaks for or, below 0, against each; oldest first."""
        with self._lock:
            self._read()
            return list(self._leanings.get(user, {}).items())

    def against(self) -> dict[str, float]:
        """How many voters are against each item; each counts 1 at most."""
        with self._lock:
            self._read()
            return {item: amount for item, amount in self._against.items() if amount > 0}

    def n_voters(self, item: str) -> int:
        """How many voters told of choices of an item."""
        with self._lock:
            return len(self._n_told[item])

    def told_of(self, item: str) -> float:
        """How much the choices of an item that feedback told of count for others, together."""
        with self._lock:
            return sum(self._share(each) * each.told for each in self._of_item[item])

    def pushed(self) -> dict[str, list[str]]:
        """The items that voters are set aside for pushing, and these voters."""
        with self._lock:
            self._read()
            return self._pushers.pushed()

    def is_set_aside(self, voter: str) -> bool:
        """Whether a voter's choices count for its users alone."""
        with self._lock:
            return self._pushers.is_set_aside(voter)

    def _clear(self) -> None:
        self._unread = ()
        self._given: list[Given] = []
        self._of_item: defaultdict[str, list[Given]] = defaultdict(list)
        self._steps: list[tuple[int, bool]] = []
        self._by_answer: dict[tuple[str, str, str], int] = {}
        self._n_told: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by item: voters
        self._leanings: defaultdict[str, dict[str, float]] = defaultdict(dict)  # by user
        self._opinions: dict[tuple[str, str], float] = {}
        self._against: defaultdict[str, float] = defaultdict(float)
        self._pushers = Pushers()

    def _read(self) -> None:
        unread, self._unread = self._unread, ()
        for judged_turn in unread:
            try:
                signals = signals_of(judged_turn, self._find)
            except (ValueError, TypeError, OverflowError):  # one odd row must not cost all the others
                log.exception("the feedback %s could not be read", judged_turn.feedback.id)
                continue
            for signal in signals:
                self._take(signal)

    def _take(self, signal: Signal) -> None:
        leanings = self._leanings[signal.user]
        leanings.pop(signal.item, None)  # the last word counts
        self._oppose(signal)
        if not signal.is_choice:
            leanings[signal.item] = signal.amount
            while len(leanings) > MAX_LEANINGS:
                del leanings[next(iter(leanings))]
            return
        answer = (signal.user, signal.item, signal.turn_id)
        place = self._by_answer.get(answer)
        if place is not None:
            known = self._given[place]
            known.feedback_ids.append(signal.feedback_id)
            if signal.amount > known.amount:
                known.amount = signal.amount
                self._steps.append((place, False))
            return
        told = self._n_told[signal.item]
        told[signal.voter] += 1
        self._by_answer[answer] = len(self._given)
        self._steps.append((len(self._given), True))
        self._given.append(
            Given(
                signal.user,
                signal.item,
                signal.amount,
                signal.amount,
                signal.at,
                signal.voter,
                told[signal.voter],
                signal.turn_id,
                [signal.feedback_id],
            )
        )
        self._of_item[signal.item].append(self._given[-1])
        if self._pushers.count(signal.voter, signal.item, was_shown=signal.was_shown):
            self.generation += 1

    def _oppose(self, signal: Signal) -> None:
        """One voter is against an item once, whatever it does; the last word counts."""
        key = (signal.voter, signal.item)
        amount = min(1.0, max(0.0, -signal.amount))
        before = self._opinions.get(key, 0.0)
        if amount != before:
            self._opinions[key] = amount
            self._against[signal.item] += amount - before
            self.n_against += 1

    def _share(self, given: Given) -> float:
        """How much a choice counts for others."""
        return 0.0 if self._pushers.is_set_aside(given.voter) else 1.0 / given.nth**2

    def _choice(self, given: Given) -> Choice:
        return Choice(given.user, given.item, given.amount, given.at, self._share(given), given.told)
