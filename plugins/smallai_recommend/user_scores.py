"""Scores all items for one user, and tells which of the user's items contribute to a score."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from smallai_recommend.ease import MAX_HISTORY, RECENT_ITEMS, EaseModel, fade_next, fade_together
from smallai_recommend.interactions import Bools, Floats, Ints, UserHistory
from smallai_recommend.memory import MAX_REACTIONS
from smallai_recommend.opinions import Support, counted, weighed
from smallai_recommend.signals import REFUSED
from smallai_recommend.snapshot import SHORT_HISTORY, Snapshot

# Weights of the standardized parts, in addition to those in `Settings`; ease.py says how they were chosen.
TEXT = 0.5  # for a user with one item; it falls with each further item, to 0 at `SHORT_HISTORY`
# How skips and dislikes count. No data was available to choose these: MovieLens has no skips.
ITSELF = 6.0  # standard deviations that an item loses by a whole choice against it; a skip, half of it, is enough
REACTION = 0.5  # weight of what goes with the items that a user reacted to, if the user has chosen nothing
AGAINST = 0.25  # popularity, in choices, that an item loses for everybody by one voter who is against it
# Recent choices count as much as all choices once there are many more of them than this. By judgement: one choice moves
# its item by less than a tenth of a standard deviation in a catalogue of any size.
LATELY, LATELY_PER_ITEM = 30.0, 0.1
COLD_SCALE = 2.5  # a cold item's score is a mean over neighbours, which varies less than the scores it is a mean of


@dataclass(frozen=True, slots=True)
class UserScores:
    """A user's scores and what they consist of.

    Attributes:
        scores: weighted standard deviations above the mean item, float32, shape (n_items,).
        popular: the contribution of popularity to `scores`, float32, shape (n_items,).
        history: the user's distinct items by their last choice, oldest first, shape (n_history,).
        strengths: how much each of these says, negative if the user was against it later, float32, shape (n_history,).
        is_cold: whether the user has chosen nothing.
        refused: items that the user does not want to see again, shape (n_refused,).
        model: the item-item weights that `scores` used; None if the user has chosen nothing.
        together: the contribution of each item of the history by those weights, float32, shape (n_history,); 0 for what
            the user was against, which is never a reason.
        following: the contribution of the latest items by transitions, float32, shape (n_recent, n_items); 0 likewise.
        read: the contribution of the items by their texts, float32, shape (n_read, n_items).
    """

    scores: Floats
    popular: Floats
    history: Ints
    strengths: Floats
    is_cold: bool
    refused: Ints
    model: EaseModel | None
    together: Floats
    following: Floats
    read: Floats

    def because(self, items: Ints, weights: Floats) -> Floats:
        """What each item of the history contributes to the weighted score of `items`: float32, shape (n_history,).

        Args:
            items: item indices, shape (n,).
            weights: float32, shape (n,).
        """
        if self.model is None:
            return np.zeros(0, dtype=np.float32)
        parts = self.model.block(self.history, items) @ weights * self.together
        # The rows of both blocks belong to the latest items of the history.
        for block in (self.following, self.read):
            if len(block):
                parts[-len(block) :] += block[:, items] @ weights
        return np.asarray(parts, dtype=np.float32)


def user_scores(snapshot: Snapshot, user: str | None, history: UserHistory | None = None) -> UserScores:
    """Scores all items.

    Args:
        snapshot: what is known.
        user: the profile to score for; None or an unknown one scores by popularity.
        history: used instead of the history known of the user.
    """
    n, settings, warm = snapshot.n_items, snapshot.settings, snapshot.is_warm
    popular = _popular(snapshot)
    if history is None and user is not None:
        history = snapshot.stats.users.get(user)
    reactions = _reactions(snapshot, user, history)
    # All of them, before the oldest are left out: an imported dislike is also an item that the user has had.
    refused = np.array([item for item, amount in reactions.items() if amount <= REFUSED], dtype=np.intp)
    items, strengths = history.latest() if history is not None else (np.zeros(0, np.intp), np.zeros(0, np.float32))
    items, strengths = items[-MAX_HISTORY:], strengths[-MAX_HISTORY:]
    if not (strengths > 0).any():
        # An evaluation has a history, and no words of the user.
        reactions = dict(zip(items.tolist(), strengths.tolist(), strict=True)) | reactions
        refused = np.union1d(refused, items)
    reactions = dict(list(reactions.items())[-MAX_REACTIONS:])
    if not (strengths > 0).any():
        none = np.zeros((0, n), dtype=np.float32)
        scores = _with_cold_items(snapshot, popular + _by_reactions_alone(snapshot, reactions))
        _shift(scores, reactions)
        return UserScores(
            scores=scores,
            popular=popular,
            history=np.zeros(0, np.intp),
            strengths=none[:, 0],
            is_cold=True,
            refused=refused,
            model=None,
            together=none[:, 0],
            following=none,
            read=none,
        )
    if reactions:  # the last word on an item decides: a choice that was disliked later counts against similar items
        known = zip(items.tolist(), strengths.tolist(), strict=True)
        strengths = np.array([reactions.get(item, amount) for item, amount in known], dtype=np.float32)

    # Each part is standardized over the warm items, so that the weights in `settings` mean the same in every store.
    own, is_liked = counted(strengths), strengths > 0
    share = float(np.mean(~is_liked))
    amounts = fade_together(own)
    together = np.zeros(n, dtype=np.float32)
    found = _together(snapshot.model, items, amounts, is_liked, share)
    together[: len(found)] = found
    unchosen, against = _unchosen(reactions, items)
    if len(unchosen):
        together[: len(found)] += snapshot.model.score(unchosen, against)
    spread = _spread(together, warm)
    scores = (together - _mean(together, warm)) / spread
    amounts *= is_liked / spread

    recent, is_liked = items[-RECENT_ITEMS:], is_liked[-RECENT_ITEMS:]
    following = snapshot.stats.transitions_from(recent) * fade_next(own)[:, None]
    total = weighed(Support.of(following[is_liked]), Support.of(following[~is_liked]), share)
    following *= is_liked[:, None]
    following *= settings.next / _spread(total, warm)
    scores += settings.next * (total - _mean(total, warm)) / _spread(total, warm)

    read = _by_texts(snapshot, items, strengths)
    scores += read.sum(axis=0) + settings.popular * popular
    scores = _with_cold_items(snapshot, np.asarray(scores, np.float32))
    _shift(scores, reactions)
    return UserScores(
        scores=scores,
        popular=np.asarray(settings.popular * popular),
        history=items,
        strengths=strengths,
        is_cold=False,
        refused=refused,
        model=snapshot.model,
        together=amounts,
        following=following,
        read=read,
    )


def _together(model: EaseModel, items: Ints, amounts: Floats, is_liked: Bools, share: float) -> Floats:
    """What the items of a history say by the item-item weights, for each item that has weights."""
    if is_liked.all():
        return model.score(items, amounts)
    liked = model.support(items[is_liked], amounts[is_liked])
    return weighed(liked, model.support(items[~is_liked], amounts[~is_liked]), share)


def standardize(values: Floats, among: Bools) -> Floats:
    """Standard deviations above the mean of the items in `among`; zeros if all of these have the same value."""
    if not among.any():
        return np.zeros_like(values)
    return np.asarray((values - values[among].mean()) / _spread(values, among), dtype=np.float32)


def _mean(values: Floats, among: Bools) -> float:
    return float(values[among].mean()) if among.any() else 0.0


def _spread(values: Floats, among: Bools) -> float:
    """The standard deviation, or 1 if it is 0, so that it can divide."""
    spread = float(values[among].std()) if among.any() else 0.0
    return spread if spread > 1e-12 else 1.0


def _popular(snapshot: Snapshot) -> Floats:
    """Popularity, half of it over all time and half of it lately, standardized: float32, shape (n_items,)."""
    stats, warm = snapshot.stats, snapshot.is_warm
    # Voters against an item take away a share of its popularity, never more than all of it.
    kept = np.clip(1.0 - AGAINST * snapshot.against / (stats.popularity + 1.0), 0.0, 1.0)
    ever = np.log1p(kept * stats.popularity).astype(np.float32)
    # In a store that nobody has used for a year, the newest interactions are the latest there is.
    trend = kept * stats.trend(min(stats.newest_at, time.time()))
    lately = np.log1p(trend).astype(np.float32)
    # A single choice after a quiet year is many standard deviations above all other items, and says next to nothing.
    n_lately = float(trend[warm].sum())
    share = n_lately / (n_lately + LATELY + LATELY_PER_ITEM * float(warm.sum()))
    both = ((2.0 - share) * standardize(ever, warm) + share * standardize(lately, warm)) / 2.0
    return np.asarray(both, dtype=np.float32)


def _reactions(snapshot: Snapshot, user: str | None, history: UserHistory | None) -> dict[int, float]:
    """What the user said about items without choosing them, by item index, oldest first.

    Feedback and imported interactions have one order: of all that a user said and did, the last word on an item counts.
    """
    if user is None:
        return {}
    # Imports come before feedback of the same time, as in the order of choices.
    said = [(at, item_id, amount) for at, item_id, amount in snapshot.dislikes.of_user(user)]
    said += [(word.order.at, word.item, word.amount) for word in snapshot.memory.words_of(user) if not word.is_choice]
    found: dict[int, float] = {}
    for at, item_id, amount in sorted(said, key=lambda word: word[0]):
        place = snapshot.stats.find(item_id)
        if place is None or (history is not None and history.last_time(place) > at):
            continue
        found.pop(place, None)  # the later word also has the later place
        found[place] = amount
    return found


def _unchosen(reactions: dict[int, float], history: Ints) -> tuple[Ints, Floats]:
    """The reactions to items outside the history: item indices, and amounts that fade as those of choices do."""
    chosen = set(history.tolist())
    left = {item: amount for item, amount in reactions.items() if item not in chosen}
    amounts = fade_together(np.array(list(left.values()), dtype=np.float32))
    return np.array(list(left), dtype=np.intp), amounts


def _by_reactions_alone(snapshot: Snapshot, reactions: dict[int, float]) -> Floats:
    """What the reactions of a user without choices say about similar items: float32, shape (n_items,)."""
    total = np.zeros(snapshot.n_items, dtype=np.float32)
    items, amounts = _unchosen(reactions, np.zeros(0, np.intp))
    if len(items):
        found = snapshot.model.score(items, amounts)
        total[: len(found)] = found
    # Standardizing would make a single skip as strong as many, so the weight grows with what was said.
    return REACTION * min(1.0, float(np.abs(amounts).sum())) * standardize(total, snapshot.is_warm)


def _shift(scores: Floats, reactions: dict[int, float]) -> None:
    """Moves the scores of the items that the user reacted to, in place; older reactions move them less."""
    if not reactions:
        return
    scores[list(reactions)] += ITSELF * fade_together(np.array(list(reactions.values()), dtype=np.float32))


def _by_texts(snapshot: Snapshot, items: Ints, strengths: Floats) -> Floats:
    """What the texts of a short history contribute: float32, shape (n_read, n_items)."""
    weight = TEXT * max(0.0, 1.0 - len(items) / SHORT_HISTORY)
    texts = snapshot.texts
    if not weight or texts is None or not texts.has[items].any():
        return np.zeros((0, snapshot.n_items), dtype=np.float32)
    cosines = texts.whole[items] @ texts.whole.T
    # What the user was against later makes similar texts worse, not better.
    signs = texts.has[items] * np.where(strengths < 0, -1.0, 1.0)
    cosines *= fade_together(signs.astype(np.float32))[:, None]
    total = cosines.sum(axis=0)
    scale = weight / _spread(total, texts.has)
    cosines -= cosines[:, texts.has].mean(axis=1, keepdims=True)
    cosines[:, ~texts.has] = 0.0  # an item without a text gets the mean
    return np.asarray(cosines * scale, dtype=np.float32)


def _with_cold_items(snapshot: Snapshot, scores: Floats) -> Floats:
    """Scores cold items by the warm items that read like them; those without a text come last."""
    warm = snapshot.is_warm
    scores = scores.copy()
    if not warm.any():
        return scores
    scores[~warm] = scores[warm].min() - 1.0
    near = snapshot.neighbours
    if near is not None and near.near.size:
        scores[near.cold] = COLD_SCALE * (scores[near.near] * near.weights).sum(axis=1)
    return scores
