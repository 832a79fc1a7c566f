"""The fast memory: what all feedback says, known from the next answer on.

Its state is a function of the set of feedback. The order of arrival and repeated deliveries do not change it, so
learning one by one and rebuilding give the same. Everything is merged by the time of the signals, ties by their ids:
the first signal of a choice, the last word on an item and the number of a repetition are defined by that order. If a
signal arrives too late to be appended, the memory counts again in order and starts a new generation.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple, TypeVar

from smallai_assistant import JudgedTurn
from smallai_recommend.interactions import Choice
from smallai_recommend.push_attacks import PushDetector
from smallai_recommend.signals import FindItem, Order, Signal, signals_of

log = logging.getLogger(__name__)

MAX_REACTIONS = 100  # per user, the newest: a robot that skips everything must not slow down its own queries
# Opinions are added up as integers: a sum of floats depends on the order of its terms.
_OPINION_UNITS = 100

_BY_ORDER = attrgetter("order")
_Key = TypeVar("_Key")


@dataclass(slots=True)
class ReportedChoice:
    """A choice that feedback reports. All signals of one user on one item of one answer report the same choice.

    Attributes:
        signals: in order, at least one. The first one decides what counts for other users.
        amount: of the strongest signal; it counts for the user.
        nth: 1 for the voter's first choice of this item, 2 for the second.
    """

    signals: list[Signal]
    amount: float
    nth: int = 0

    @property
    def first(self) -> Signal:
        """The earliest signal."""
        return self.signals[0]

    @property
    def order(self) -> Order:
        """When the choice was made."""
        return self.first.order

    @property
    def feedback_ids(self) -> tuple[str, ...]:
        """The feedback that reports the choice, oldest first."""
        return tuple(signal.feedback_id for signal in self.signals)

    def merge(self, signal: Signal) -> None:
        """Adds a signal; one that is known already changes nothing."""
        place = bisect_left(self.signals, signal.order, key=_BY_ORDER)
        if place < len(self.signals) and self.signals[place].order == signal.order:
            return
        self.signals.insert(place, signal)
        self.amount = max(self.amount, signal.amount)


@dataclass(frozen=True, slots=True)
class Step:
    """A change since an earlier state: a new choice, or a known one that became stronger."""

    choice: Choice
    is_new: bool


class Cursor(NamedTuple):
    """How far a reader has followed the memory.

    Attributes:
        generation: the reader's state is void if the memory has another one.
        n_steps: number of steps of this generation that the reader has taken.
    """

    generation: int
    n_steps: int


class FeedbackMemory:
    """What all feedback says. Thread-safe.

    Args:
        find: returns the catalogue's item with this id or title.
        min_people: what is for one person or a group counts for other users once so many people chose the item, or are
            against it.

    Attributes:
        generation: increases if earlier choices count differently now. Readers then have to start again.
        opinions_revision: increases if somebody's opinion against an item changes.
    """

    def __init__(self, find: FindItem, *, min_people: int = 3) -> None:
        self._min_people = min_people
        self.generation = 0
        self.opinions_revision = 0
        self._find = find
        self._lock = threading.RLock()
        self._unread: Sequence[JudgedTurn] = ()
        self._clear()

    def replace(self, judged_turns: Sequence[JudgedTurn]) -> None:
        """Replaces the content. The judged turns are read on first use, so that the start of a program stays fast."""
        with self._lock:
            self._clear()
            self._unread = tuple(judged_turns)
            self.generation += 1
            self.opinions_revision += 1

    def add(self, judged_turn: JudgedTurn) -> list[Signal]:
        """Takes in one more feedback and returns its signals."""
        with self._lock:
            self._read()
            signals = signals_of(judged_turn, self._find)
            for signal in signals:
                self._take(signal)
            return signals

    def reported(self) -> list[ReportedChoice]:
        """All choices in order, oldest first."""
        with self._lock:
            self._read()
            return sorted(self._choices.values(), key=_BY_ORDER)

    def choices(self) -> tuple[list[Choice], Cursor]:
        """All choices in order as they count now, and the cursor from which `steps_since` continues."""
        with self._lock:
            return [self._choice(reported) for reported in self.reported()], Cursor(self.generation, len(self._steps))

    def steps_since(self, cursor: Cursor) -> list[Step] | None:
        """The changes after `cursor`; None if the generation has changed and the reader has to start again."""
        with self._lock:
            self._read()
            if cursor.generation != self.generation:
                return None
            return [Step(self._choice(reported), is_new) for reported, is_new in self._steps[cursor.n_steps :]]

    def reactions_of(self, user: str) -> list[tuple[str, float]]:
        """The user's opinions on items without choosing them: ids and amounts, negative if against; oldest first."""
        return [(word.item, word.amount) for word in self.words_of(user) if not word.is_choice][-MAX_REACTIONS:]

    def words_of(self, user: str) -> list[Signal]:
        """The user's last word on each item, oldest first."""
        with self._lock:
            self._read()
            return sorted(self._last_words.get(user, {}).values(), key=_BY_ORDER)

    def against(self) -> dict[str, float]:
        """By item id, how many voters are against it. Each counts at most 1; items that nobody opposes are left out."""
        with self._lock:
            self._read()
            found = {item: self._units_for_others(by_voter.values()) for item, by_voter in self._against.items()}
            return {item: units / _OPINION_UNITS for item, units in found.items() if units}

    def n_voters(self, item: str) -> int:
        """Number of voters that chose an item."""
        with self._lock:
            self._read()
            return len(self._of_item.get(item, ()))

    def public_amount_of(self, item: str) -> float:
        """How much all choices of an item count for other users, in total."""
        with self._lock:
            self._read()
            choices = (reported for choices in self._of_item.get(item, {}).values() for reported in choices)
            return sum(self._share(reported) * reported.first.amount for reported in choices)

    def pushed(self) -> dict[str, list[str]]:
        """The items under a push attack, and the voters who take part in it."""
        with self._lock:
            self._read()
            return self._push_detector.pushed()

    def is_set_aside(self, voter: str) -> bool:
        """Whether a voter's choices count for its own users only."""
        with self._lock:
            self._read()
            return self._push_detector.is_set_aside(voter)

    def _clear(self) -> None:
        self._unread = ()
        self._choices: dict[tuple[str, str, str], ReportedChoice] = {}  # by user, item and answer
        self._of_item: defaultdict[str, defaultdict[str, list[ReportedChoice]]] = _by_item_and_voter()
        self._steps: list[tuple[ReportedChoice, bool]] = []
        self._last_words: defaultdict[str, dict[str, Signal]] = defaultdict(dict)  # by user and item
        self._opinions: dict[tuple[str, str], Signal] = {}  # the last words by voter and item
        self._against: defaultdict[str, dict[str, Signal]] = defaultdict(dict)  # by item and voter
        self._push_detector = PushDetector()

    def _read(self) -> None:
        """Reads what `replace` was given, in order, so that nothing has to be counted twice."""
        unread, self._unread = self._unread, ()
        signals: list[Signal] = []
        for judged_turn in unread:
            try:
                signals += signals_of(judged_turn, self._find)
            except (ValueError, TypeError, OverflowError):  # one malformed row must not cost all the others
                log.exception("the feedback %s could not be read", judged_turn.feedback.id)
        for signal in sorted(signals, key=_BY_ORDER):
            self._take(signal)

    def _take(self, signal: Signal) -> None:
        _keep_later(self._last_words[signal.user], signal.item, signal)
        self._oppose(signal)
        if not signal.is_choice:
            return
        key = (signal.user, signal.item, signal.turn_id)
        reported = self._choices.get(key)
        if reported is None:
            reported = self._choices[key] = ReportedChoice([signal], signal.amount)
            if self._count(reported):
                self._steps.append((reported, True))
            else:
                self._count_again(self._choices.values())
            return
        first, amount = reported.first, reported.amount
        reported.merge(signal)
        if reported.first is not first:  # time, voter or public amount of the choice may be different now
            self._count_again(self._choices.values())
        elif reported.amount > amount:
            self._steps.append((reported, False))

    def _count(self, reported: ReportedChoice) -> bool:
        """Numbers a choice among its voter's choices of the item.

        Returns:
            False, with nothing changed, if a later one has a number already.
        """
        first = reported.first
        earlier = self._of_item[first.item][first.voter]
        if earlier and reported.order < earlier[-1].order:
            return False
        earlier.append(reported)
        reported.nth = len(earlier)
        if self._push_detector.count(first.voter, first.item, was_shown=first.was_shown):
            self._start_generation()
        # With this voter there are enough: choices that counted for their own users only now count for all. If there
        # are no such choices, readers need not count everything again.
        by_voter = self._of_item[first.item]
        if len(earlier) == 1 and len(by_voter) == self._min_people and not _are_for_everyone(by_voter):
            self._start_generation()
        return True

    def _count_again(self, choices: Iterable[ReportedChoice]) -> None:
        self._of_item, self._push_detector = _by_item_and_voter(), PushDetector()
        for reported in sorted(choices, key=_BY_ORDER):
            self._count(reported)
        self._start_generation()

    def _start_generation(self) -> None:
        self.generation += 1
        self._steps.clear()  # readers of an older generation do not ask for them

    def _oppose(self, signal: Signal) -> None:
        """A voter is against an item at most once, and its last word decides how much."""
        key = (signal.voter, signal.item)
        before = _units_against(self._opinions.get(key))
        _keep_later(self._opinions, key, signal)
        word = self._opinions[key]
        if _units_against(word):
            self._against[signal.item][signal.voter] = word
        else:
            self._against[signal.item].pop(signal.voter, None)
        if _units_against(word) != before:
            self.opinions_revision += 1

    def _units_for_others(self, words: Collection[Signal]) -> int:
        """How much opinions against an item count for other users."""
        is_agreed = len(words) >= self._min_people
        return sum(_units_against(word) for word in words if word.is_for_everyone or is_agreed)

    def _share(self, reported: ReportedChoice) -> float:
        """The share of a choice that counts for other users."""
        if not reported.first.is_for_everyone and len(self._of_item[reported.first.item]) < self._min_people:
            return 0.0
        return 0.0 if self._push_detector.is_set_aside(reported.first.voter) else 1.0 / reported.nth**2

    def _choice(self, reported: ReportedChoice) -> Choice:
        first = reported.first
        return Choice(
            user=first.user,
            item=first.item,
            amount=reported.amount,
            at=first.order.at,
            share=self._share(reported),
            public_amount=first.amount,
            tie=first.order.tie,
        )


def _by_item_and_voter() -> defaultdict[str, defaultdict[str, list[ReportedChoice]]]:
    return defaultdict(lambda: defaultdict(list))


def _are_for_everyone(by_voter: Mapping[str, Sequence[ReportedChoice]]) -> bool:
    return all(choice.first.is_for_everyone for choices in by_voter.values() for choice in choices)


def _keep_later(words: dict[_Key, Signal], key: _Key, signal: Signal) -> None:
    """Keeps the later one of two signals."""
    known = words.get(key)
    if known is None or signal.order > known.order:
        words[key] = signal


def _units_against(word: Signal | None) -> int:
    return 0 if word is None else round(_OPINION_UNITS * min(1.0, max(0.0, -word.amount)))
