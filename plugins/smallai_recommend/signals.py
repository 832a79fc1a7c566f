"""What feedback on a recommendation says: of whom, for or against which item, and how much."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from smallai_assistant import Feedback, ItemPart, JudgedTurn, Turn

log = logging.getLogger(__name__)

Find = Callable[[str], "Found | None"]

# What each signal says, in choices: a choice that was imported with weight 1 is 1.0.
CLICK, CORRECTED, LIKED = 1.0, 1.5, 1.5
SKIP, DISLIKED = -0.5, -1.0
STARS = {1: -1.5, 2: -1.0, 3: 0.3, 4: 1.0, 5: 1.5}
ANSWER_LIKED, ANSWER_DISLIKED = 0.1, -0.4  # of each item that stood in it
MAX_ANSWER_ITEMS = 10
LEFT_SOON_S, STAYED_S = 5.0, 30.0  # 30 s is the usual line of a satisfied click (Fox et al. 2005, section 4)
MAX_AMOUNT = 1.5
REFUSED = -1.0  # from here on an item is not recommended to this user again

DEFAULT_SOURCE = "local"  # whoever sits at this machine, for any user


@dataclass(frozen=True, slots=True)
class Found:
    """An item of the catalogue."""

    id: str
    title: str


@dataclass(frozen=True, slots=True)
class Signal:
    """One item, and what one user thinks of it.

    Attributes:
        user: whose taste it tells; see `asker`.
        amount: in choices; below 0 against the item.
        is_choice: whether the user has had the item now.
        at: seconds since 1970.
        voter: whose opinions count as one person's for others.
        was_shown: whether the item stood in the answer.
    """

    user: str
    item: str
    amount: float
    is_choice: bool
    at: float
    voter: str
    turn_id: str
    feedback_id: str
    was_shown: bool


def asker(user_id: str | None, session_id: str) -> str:
    """Whose taste is asked for: the user's, or that of a session nobody has put a name to."""
    return user_id if user_id else f"session {session_id}"


def signals_of(judged_turn: JudgedTurn, find: Find) -> list[Signal]:
    """What a feedback says; nothing where it names no item that can be made out.

    Args:
        find: an item of the catalogue by its id or title, None where there is none.
    """
    given, turn = judged_turn.feedback, judged_turn.turn
    shown = {part.id: part.title for part in turn.response if isinstance(part, ItemPart)}
    said = list(_said(given, shown, find))
    user = asker(turn.user_id, turn.session_id)
    at = min(given.created_at.timestamp(), time.time())  # what claims to come later would keep its place for ever
    voter = user if given.source == DEFAULT_SOURCE else f"source {given.source}"
    return [
        Signal(
            user,
            item,
            min(amount, MAX_AMOUNT),
            is_choice,
            at,
            voter,
            turn.id,
            given.id,
            item in shown,
        )
        for item, amount, is_choice in said
    ]


def effect_of(judged_turn: JudgedTurn, signals: list[Signal], find: Find) -> str:
    """What changed, for people, one sentence."""
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
    found = found if found is not None and found.id == signals[0].item else None  # not another's title
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


def _said(given: Feedback, shown: dict[str, str], find: Find) -> Iterator[tuple[str, float, bool]]:
    """Items, amounts, and whether the user has had each now."""
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
    """0 where it says nothing of the item."""
    match given.signal:
        case "click":
            return CLICK
        case "skip":
            return SKIP
        case "stars":
            return STARS[round(given.value or 3.0)]
        case "dwell":
            seconds = given.value or 0.0
            # As the strength of an interaction: 1 after 30 seconds, never over 2.
            return SKIP / 2 if seconds < LEFT_SOON_S else 2.0 * seconds / (seconds + STAYED_S)
    return 0.0 if given.is_good is None else LIKED if given.is_good else DISLIKED


def _did(given: Feedback) -> str:
    """What was done, up to the title."""
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
    """The item of the answer that has this id or title; titles without case and year."""
    wanted = text.strip().casefold()
    for item, title in shown.items():
        if wanted in (item.casefold(), title.casefold(), title.casefold().rpartition(" (")[0]):
            return item
    return None


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."
