"""Turns feedback into examples: what a user had chosen before, and what the user chose next."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from smallai_assistant import Example, Interaction, Item, JudgedTurn, TaskContext
from smallai_recommend.interactions import Choice, UserHistory, choice_of
from smallai_recommend.memory import FeedbackMemory, ReportedChoice
from smallai_recommend.query import TitleFinder, parse_query
from smallai_recommend.signals import FindItem, signals_of

log = logging.getLogger(__name__)

MAX_EXAMPLES = 20_000  # the newest are kept
# Control users give no feedback. With fewer of them, one lost point, which the gate accepts, would be within chance.
MIN_CONTROL, MAX_CONTROL = 100, 500
CONTROL_ONE_IN, MIN_CONTROL_CHOICES = 3, 3
_NAMED_IN_PROMPT = 3


@dataclass(frozen=True, slots=True)
class NextChoice:
    """A choice of a user to be predicted from the earlier ones.

    Attributes:
        past: all choices of the user by time; the examples of a user share the list.
        n_before: how many of them came before this one.
        choice: the choice to be predicted.
        wanted: what the user had asked for in words; empty for nothing in particular.
    """

    past: Sequence[Choice]
    n_before: int
    choice: Choice
    wanted: str = ""

    def before(self) -> Sequence[Choice]:
        """The choices that are known when the question is asked."""
        return self.past[: self.n_before]


def examples_of(judged_turns: Sequence[JudgedTurn], context: TaskContext, find: FindItem) -> list[Example]:
    """One example for each reported choice of an item that the user had not chosen before."""
    memory = FeedbackMemory(find)
    memory.replace(judged_turns)
    catalogue = {item.id: item for item in context.items.items()}
    reported = [choice for choice in memory.reported() if choice.first.item in catalogue]
    if len(reported) > MAX_EXAMPLES:
        log.info("of %d choices the newest %d are learned from", len(reported), MAX_EXAMPLES)
        reported = reported[-MAX_EXAMPLES:]
    wanted = _wanted(judged_turns)
    found: dict[int, Example] = {}
    for user, rows in _pasts(reported, context.items.interactions()).items():
        past = [choice for choice, _ in rows]
        had: set[str] = set()
        for n_before, (choice, number) in enumerate(rows):
            if number is not None and choice.item not in had:
                one = reported[number]
                words = wanted.get(one.first.turn_id, "")
                found[number] = Example(
                    id=one.feedback_ids[0],
                    prompt=_prompt(user, past[:n_before], catalogue, words),
                    expected=catalogue[choice.item].title or choice.item,
                    split_key=f"user {user}",
                    feedback_ids=tuple(dict.fromkeys(one.feedback_ids)),
                    payload=NextChoice(past, n_before, choice, words),
                )
            had.add(choice.item)
    return [found[number] for number in sorted(found)]


def control_examples(judged_turns: Sequence[JudgedTurn], context: TaskContext) -> list[Example]:
    """The last choices of some users who gave no feedback, kept from training; see `control_choices`."""
    gave_feedback = {signal.user for row in judged_turns for signal in signals_of(row, lambda _: None)}
    interactions = context.items.interactions()
    last = control_choices(interactions)
    catalogue = {item.id: item for item in context.items.items()}
    pasts: defaultdict[str, list[Choice]] = defaultdict(list)
    for place, interaction in enumerate(interactions):
        user = interaction.user
        if user in last and place <= last[user] and user not in gave_feedback:
            pasts[user].append(choice_of(interaction))
    examples = [
        Example(
            id=f"control {_hash(user)}",
            prompt=_prompt(user, past[:-1], catalogue, ""),
            expected=catalogue[past[-1].item].title or past[-1].item,
            split_key=f"control {user}",
            payload=NextChoice(past, len(past) - 1, past[-1]),
        )
        for user, past in pasts.items()
        if past[-1].item in catalogue and past[-1].item not in {choice.item for choice in past[:-1]}
    ]
    return examples if len(examples) >= MIN_CONTROL else []


def control_choices(interactions: Sequence[Interaction]) -> dict[str, int]:
    """By control user, the place in the log of the last choice, which is kept from training.

    What a user had and was against does not count as a choice: recommending it would not be a success.

    Control users are one user in three, at most 500, chosen by a hash: the same ones in every cycle as long as the
    users stay. The result is empty if there are too few to judge by.
    """
    n_choices: defaultdict[str, int] = defaultdict(int)
    last: dict[str, int] = {}
    for place, interaction in enumerate(interactions):
        if interaction.weight > 0:
            n_choices[interaction.user] += 1
            last[interaction.user] = place
    hashes = {user: _hash(user) for user, n in n_choices.items() if n >= MIN_CONTROL_CHOICES}
    chosen = [user for user, digest in hashes.items() if int(digest, 16) % CONTROL_ONE_IN == 0]
    chosen.sort(key=lambda user: hashes[user])
    return {user: last[user] for user in chosen[:MAX_CONTROL]} if len(chosen) >= MIN_CONTROL else {}


def history_of(choices: Sequence[Choice], find: Callable[[str], int | None]) -> UserHistory:
    """The choices as the history of a user; choices of unknown items are left out.

    Args:
        choices: oldest first.
        find: returns the index of an item, None if the item is unknown.
    """
    history = UserHistory()
    for choice in choices:
        place = find(choice.item)
        if place is not None:
            history.add(place, choice)
    return history


def _pasts(
    reported: Sequence[ReportedChoice], interactions: Sequence[Interaction]
) -> dict[str, list[tuple[Choice, int | None]]]:
    """By user, all choices by time; a reported one with its number, an imported one with None."""
    users = {choice.first.user for choice in reported}
    pasts: defaultdict[str, list[tuple[Choice, int | None]]] = defaultdict(list)
    for interaction in interactions:
        if interaction.user in users:
            pasts[interaction.user].append((choice_of(interaction), None))
    for number, one in enumerate(reported):
        first = one.first
        choice = Choice(first.user, first.item, one.amount, first.order.at, tie=first.order.tie)
        pasts[first.user].append((choice, number))
    for rows in pasts.values():
        rows.sort(key=lambda row: (row[0].at, row[0].tie))
    return pasts


def _prompt(user: str, before: Sequence[Choice], catalogue: Mapping[str, Item], wanted: str) -> str:
    """The question as people read it; the user appears as a hash, because reports are shown around."""
    last = [catalogue[row.item].title if row.item in catalogue else row.item for row in before[-_NAMED_IN_PROMPT:]]
    after = f"after {', '.join(f'“{title[:60]}”' for title in last)}" if last else "as the first one"
    asked = f"“{wanted[:100]}”" if wanted else "what next"
    return f"{asked}, {after}? (user {_hash(user)}, choice {len(before) + 1})"


def _wanted(judged_turns: Sequence[JudgedTurn]) -> dict[str, str]:
    """By turn id, what the request asked for. Titles are not looked for: the evaluation ranks by text only."""
    no_titles = TitleFinder({}, [])
    turns = {judged_turn.turn.id: judged_turn.turn for judged_turn in judged_turns}
    return {turn_id: parse_query(turn.request.text, no_titles).text for turn_id, turn in turns.items()}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:8]
