"""Lessons -> examples: what a user had chosen before, and what came next."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from smallai_assistant import Example, Interaction, Item, JudgedTurn, TaskContext
from smallai_recommend.interactions import Choice, UserHistory, choice_of
from smallai_recommend.memory import FeedbackMemory
from smallai_recommend.query import Titles, read_wish
from smallai_recommend.signals import Find, signals_of

log = logging.getLogger(__name__)

MAX_EXAMPLES = 20_000  # the newest
# With fewer of them the point that the gate lets a protected slice lose is less than chance.
MIN_WATCHED, MAX_WATCHED, WATCHED_ONE_IN, MIN_WATCHED_CHOICES = 100, 500, 3, 3
_NAMED_IN_PROMPT = 3


@dataclass(frozen=True, slots=True)
class Next:
    """A user's choices up to one, and that one.

    Attributes:
        past: all choices of the user by time, shared by the examples of the user.
        n_before: how many of them came before this one.
        choice: the one to be found.
        wish: what the user had asked for, empty for nothing in particular.
    """

    past: Sequence[Choice]
    n_before: int
    choice: Choice
    wish: str = ""

    def before(self) -> Sequence[Choice]:
        """What is known when it is asked."""
        return self.past[: self.n_before]


def examples_of(judged_turns: Sequence[JudgedTurn], context: TaskContext, find: Find) -> list[Example]:
    """One example for each choice that feedback tells of, of an item that the user had not had before.

    All of a user lie on one side of the split. Were they parted, the weights would know what the user chose after the
    choice that is asked for, and put that before it: on MovieLens 100K learning then looks like a loss of 0.9 points.
    """
    memory = FeedbackMemory(find)
    memory.replace(judged_turns)
    catalogue = {item.id: item for item in context.items.items()}
    given = [each for each in memory.given() if each.item in catalogue]
    if len(given) > MAX_EXAMPLES:
        log.info("of %d choices the newest %d are learned from", len(given), MAX_EXAMPLES)
        given = given[-MAX_EXAMPLES:]
    users = {each.user for each in given}
    pasts: defaultdict[str, list[tuple[Choice, int]]] = defaultdict(list)
    for interaction in context.items.interactions():
        if interaction.user in users:
            pasts[interaction.user].append((choice_of(interaction), -1))
    for number, one in enumerate(given):
        pasts[one.user].append((Choice(one.user, one.item, one.amount, one.at), number))
    wishes = _wishes(judged_turns)
    found: dict[int, Example] = {}
    for user, rows in pasts.items():
        rows.sort(key=lambda row: row[0].at)
        past = [choice for choice, _ in rows]
        had: set[str] = set()
        for n_before, (choice, number) in enumerate(rows):
            if number >= 0 and choice.item not in had:
                one = given[number]
                found[number] = Example(
                    id=one.feedback_ids[0],
                    prompt=_prompt(user, past[:n_before], catalogue, wishes.get(one.turn_id, "")),
                    expected=catalogue[choice.item].title or choice.item,
                    split_key=f"user {user}",  # see above
                    feedback_ids=tuple(dict.fromkeys(one.feedback_ids)),
                    payload=Next(past, n_before, choice, wishes.get(one.turn_id, "")),
                )
            had.add(choice.item)
    return [found[number] for number in sorted(found)]


def watched_examples(judged_turns: Sequence[JudgedTurn], context: TaskContext) -> list[Example]:
    """The last choices of some users who gave no feedback, which no training has seen; see `watched`."""
    judged = {each.user for judged_turn in judged_turns for each in signals_of(judged_turn, lambda _: None)}
    interactions = context.items.interactions()
    last = watched(interactions)
    catalogue = {item.id: item for item in context.items.items()}
    pasts: defaultdict[str, list[Choice]] = defaultdict(list)
    for interaction in interactions:
        if interaction.user in last and interaction.user not in judged:
            pasts[interaction.user].append(choice_of(interaction))
    examples = [
        Example(
            id=f"watched {_hash(user)}",
            prompt=_prompt(user, past[:-1], catalogue, ""),
            expected=catalogue[past[-1].item].title or past[-1].item,
            split_key=f"watched {user}",
            payload=Next(past, len(past) - 1, past[-1]),
        )
        for user, past in pasts.items()
        if past[-1].item in catalogue and past[-1].item not in {each.item for each in past[:-1]}
    ]
    return examples if len(examples) >= MIN_WATCHED else []


def watched(interactions: Sequence[Interaction]) -> dict[str, int]:
    """By user, the place in the log of a last choice that is kept from training: of one user in three, 500 at most.

    The same ones in every cycle, as far as the users stay; nobody's where there are too few to judge by.
    """
    n_choices: defaultdict[str, int] = defaultdict(int)
    last: dict[str, int] = {}
    for place, each in enumerate(interactions):
        n_choices[each.user] += 1
        last[each.user] = place
    hashes = {user: _hash(user) for user, n in n_choices.items() if n >= MIN_WATCHED_CHOICES}
    chosen = [user for user, digest in hashes.items() if int(digest, 16) % WATCHED_ONE_IN == 0]
    chosen.sort(key=lambda user: hashes[user])
    return {user: last[user] for user in chosen[:MAX_WATCHED]} if len(chosen) >= MIN_WATCHED else {}


def history_of(choices: Sequence[Choice], find: Callable[[str], int | None]) -> UserHistory:
    """The choices as the history of a user.

    Args:
        find: gives the index of an item, None where it is unknown.
    """
    history = UserHistory()
    for choice in choices:
        place = find(choice.item)
        if place is not None:
            history.add(place, choice)
    return history


def _prompt(user: str, before: Sequence[Choice], catalogue: dict[str, Item], wish: str) -> str:
    """What is asked, as people read it; who asks is a hash."""
    last = [catalogue[each.item].title if each.item in catalogue else each.item for each in before[-_NAMED_IN_PROMPT:]]
    after = f"after {', '.join(f'“{title[:60]}”' for title in last)}" if last else "as the first one"
    asked = f"“{wish[:100]}”" if wish else "what next"
    return f"{asked}, {after}? (user {_hash(user)}, choice {len(before) + 1})"


def _wishes(judged_turns: Sequence[JudgedTurn]) -> dict[str, str]:
    """By turn, the words of what was asked for."""
    no_titles = Titles({}, [])
    turns = {judged_turn.turn.id: judged_turn.turn for judged_turn in judged_turns}
    return {id_: read_wish(turn.request.text, no_titles).text for id_, turn in turns.items()}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:8]
