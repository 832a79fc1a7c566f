"""Translates feedback on a recommendation into signals: which user, which item, for or against, and how strongly."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from smallai_assistant import Feedback, Interaction, ItemPart, JudgedTurn, Turn
from smallai_recommend.interactions import Tie, strength

log = logging.getLogger(__name__)

FindItem = Callable[[str], "CatalogueItem | None"]

# Strengths are in choices: an imported interaction of weight 1 is 1.0. They are set by judgement, not fitted:
# MovieLens has ratings only, no clicks, skips or times.
CLICK, CORRECTED, LIKED = 1.0, 1.5, 1.5
SKIP, DISLIKED = -0.5, -1.0
# From -1.5 to 1.5; the same as an imported rating.
STARS = {stars: strength(Interaction.weight_of_stars(stars)) for stars in range(1, 6)}
ANSWER_LIKED, ANSWER_DISLIKED = 0.1, -0.4  # for each item of a rated answer
MAX_ANSWER_ITEMS = 10  # a rating of an answer speaks of its first items: few people read further
LEFT_SOON_S, STAYED_S = 5.0, 30.0  # 30 s is the usual threshold of a satisfied click (Fox et al. 2005, section 4)
MAX_AMOUNT = 1.5
REFUSED = -1.0  # at this strength or below, the item is not recommended to the user again

DEFAULT_SOURCE = "local"  # feedback without a named source: whoever sits at this machine, for any user


@dataclass(frozen=True, slots=True)
class CatalogueItem:
    """The id and title of an item in the catalogue."""

    id: str
    title: str


class Order(NamedTuple):
    """The place of a signal among all others; no two signals have the same.

    Attributes:
        at: seconds since 1970.
        tie: the time that the feedback claims, then its id.
        position: among the signals of the feedback: 0 for the first item of a rated answer.
    """

    at: float
    tie: Tie
    position: int


@dataclass(frozen=True, slots=True)
class Signal:
    """What one feedback says about one item.

    Attributes:
        user: whose profile it belongs to, see `profile_id`.
        item: the item's id.
        amount: in choices; negative if it speaks against the item.
        is_choice: whether the user has now consumed the item.
        order: when it was given; decides which signal is the first or the last.
        voter: who gave it. For other users, all signals of one voter count as one person's.
        turn_id: the answer it is about.
        feedback_id: the feedback it comes from.
        was_shown: whether the item was part of the answer.
        is_for_everyone: whether it may count for other users at once; else only if several people say the same.
    """

    user: str
    item: str
    amount: float
    is_choice: bool
    order: Order
    voter: str
    turn_id: str
    feedback_id: str
    was_shown: bool
    is_for_everyone: bool = True


def profile_id(user_id: str | None, session_id: str) -> str:
    """The id of the profile that a request reads and its feedback writes: the user's, else that of the session."""
    return user_id if user_id else f"session {session_id}"


def signals_of(judged_turn: JudgedTurn, find: FindItem) -> list[Signal]:
    """The signals of one feedback, one per item; empty if it names no item that can be identified.

    Args:
        find: returns the catalogue's item with this id or title, None if there is none.
    """
    given, turn = judged_turn.feedback, judged_turn.turn
    shown = {part.id: part.title for part in turn.response if isinstance(part, ItemPart)}
    at = _time_of(given, turn)
    # Without a source, each user is one voter. A named source is one voter for however many users it speaks.
    voter = profile_id(turn.user_id, turn.session_id)
    if given.source != DEFAULT_SOURCE:
        voter = f"source {given.source}"
    return [
        Signal(
            user=profile_id(turn.user_id, turn.session_id),
            item=item,
            amount=min(amount, MAX_AMOUNT),
            is_choice=is_choice,
            order=Order(at, (given.created_at.timestamp(), given.id), position),
            voter=voter,
            turn_id=turn.id,
            feedback_id=given.id,
            was_shown=item in shown,
            is_for_everyone=judged_turn.audience == "everyone",
        )
        for position, (item, amount, is_choice) in enumerate(_said(given, shown, find))
    ]


def effect_of(judged_turn: JudgedTurn, signals: list[Signal], find: FindItem) -> str:
    """One sentence for people that says what changed."""
    given = judged_turn.feedback
    if not signals:
        named = given.item or given.correction
        return f"“{_short(named)}” is not in the catalogue: nothing changes until it is." if named else ""
    is_for = signals[0].amount > 0
    more = "more" if is_for else "less"
    if given.item is None and given.correction is None:
        liked = "liked" if is_for else "did not like"
        return f"You {liked} this answer: what was in it counts a little {more} from now on."
    found = find(signals[0].item)
    # `find` also searches titles: an item whose title happens to be this id is a different one.
    found = found if found is not None and found.id == signals[0].item else None
    title = (
        f"“{_short(_shown_title(judged_turn.turn, signals[0].item) or (found.title if found else signals[0].item))}”"
    )
    if found is None:
        return f"{title} is not in the catalogue: nothing changes until it is."
    what = f"{_did(given)} {title}"
    if is_for:
        return f"{what}: it and what goes with it count for more from now on."
    if signals[0].amount <= REFUSED:
        return f"{what}: you will not see it again, and what goes with it counts for less from now on."
    return f"{what}: it and what goes with it count for less from now on."


def _time_of(given: Feedback, turn: Turn) -> float:
    """When the feedback was given, in seconds since 1970; the time of its turn if it claims to be from the future."""
    claimed, now = given.created_at.timestamp(), time.time()
    # A time in the future would make the choice the user's newest for good. The turn's time is from the host's clock,
    # and it is the same at every reading, so the order stays the same when the memory is rebuilt.
    return claimed if claimed <= now else min(turn.created_at.timestamp(), now)


def _said(given: Feedback, shown: dict[str, str], find: FindItem) -> Iterator[tuple[str, float, bool]]:
    """The items, the amounts, and whether the user has now consumed each item."""
    if given.correction is not None:
        wanted = given.item or _shown_id(shown, given.correction)
        found = find(given.correction) if wanted is None else None
        wanted = found.id if found is not None else wanted
        if wanted is None:
            log.info("the correction %s names no item of the catalogue", given.id)
        else:
            yield wanted, CORRECTED, True
    elif given.item is not None:
        amount = _amount(given)
        if amount and given.item.strip():
            yield given.item, amount, amount > 0
    elif given.is_good is not None and given.signal is None:
        for item in list(shown)[:MAX_ANSWER_ITEMS]:
            yield item, ANSWER_LIKED if given.is_good else ANSWER_DISLIKED, False


def _amount(given: Feedback) -> float:
    """The amount of a feedback on one item; 0 if it says nothing about it."""
    match given.signal:
        case "click":
            return CLICK
        case "skip":
            return SKIP
        case "stars":
            return strength(Interaction.weight_of_stars(given.value or 3.0))
        case "dwell":
            seconds = given.value or 0.0
            # The same curve as `strength`: 1 after 30 seconds, always below 2.
            return SKIP / 2 if seconds < LEFT_SOON_S else 2.0 * seconds / (seconds + STAYED_S)
    return 0.0 if given.is_good is None else LIKED if given.is_good else DISLIKED


def _did(given: Feedback) -> str:
    """The start of a sentence: what the user did, up to the title."""
    seconds = given.value or 0.0
    if given.correction is not None:
        return "You would have chosen"
    match given.signal:
        case "click":
            return "You clicked"
        case "skip":
            return "You skipped"
        case "stars":
            return f"You gave {seconds:g} star{'' if seconds == 1 else 's'} to"
        case "dwell":
            return "You soon left" if seconds < LEFT_SOON_S else f"You spent {seconds:.0f} seconds with"
    return "You liked" if given.is_good else "You did not like"


def _shown_title(turn: Turn, item: str) -> str:
    return next((part.title for part in turn.response if isinstance(part, ItemPart) and part.id == item), "")


def _shown_id(shown: dict[str, str], text: str) -> str | None:
    """The item of the answer with this id or title. Case and a year in brackets are ignored."""
    wanted = text.strip().casefold()
    for item, title in shown.items():
        if wanted in (item.casefold(), title.casefold(), title.casefold().rpartition(" (")[0]):
            return item
    return None


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."
