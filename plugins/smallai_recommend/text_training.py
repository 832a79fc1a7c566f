"""Learns a linear map on top of the sentence vectors: items that the same users choose come nearer to each other."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from smallai_assistant import Example, Training, errors
from smallai_recommend.cold_start import Bools, nearest
from smallai_recommend.evaluation import Judge
from smallai_recommend.examples import Next
from smallai_recommend.interactions import Floats, Ints
from smallai_recommend.weights import TextMap

log = logging.getLogger(__name__)

MIN_PAIRS = 200
MAX_PAIRS = 200_000
SPAN = 3  # choices of a user that lie so near are a pair
HIDDEN_ONE_IN = 10  # items that no pair holds, to judge by
# MovieLens 100K, a tenth of the films hidden: they stand in order in 64 to 65 % of pairs without a map, 66 to 67 % with
# one. Without dropout it learns the films by heart and that falls to 59 % in 1,000 steps; so do thinner maps (rank 4
# and 16: 62 and 65 %).
N_STEPS, JUDGE_EVERY, BATCH, RATE, DROPOUT, TEMPERATURE = 200, 40, 128, 3e-4, 0.5, 0.1
MIN_GAIN = 0.005
MIN_WISHES = 20
MAX_USERS = 300


@dataclass(frozen=True, slots=True)
class _Material:
    """What there is to learn from and to judge by.

    Attributes:
        vectors: of the items, then of the wishes.
        pairs: shape (n_pairs, 2): what was chosen or wished for, and the item chosen next.
        histories: item indices by user, oldest first.
        chosen_by, judged: the items that no pair holds: those by which the best step is chosen, and the others.
        has: which items have vectors.
        wishes: shape (n_wishes, 2): pairs of a wish and the item, that are kept to judge by.
    """

    vectors: Floats
    pairs: Ints
    histories: list[Ints]
    chosen_by: Bools
    judged: Bools
    has: Bools
    wishes: Ints

    @property
    def n_items(self) -> int:
        return len(self.has)

    def in_order(self, vectors: Floats, hidden: Bools) -> Floats:
        """See `order_of_hidden`."""
        known = self.has & ~self.chosen_by & ~self.judged
        return order_of_hidden(vectors, self.histories, hidden & self.has, known)


def train_text_map(training: Training, judge: Judge, examples: Sequence[Example]) -> TextMap | None:
    """In-batch InfoNCE (van den Oord et al. 2018, equation 4) over pairs of choices, corrected for popularity.

    Returns:
        None where no map places hidden items, or finds what was wished for, better than the bare vectors do.
    """
    material = _material(judge, examples, training.seed)
    if len(material.pairs) < MIN_PAIRS:
        return None
    whole = material.vectors[: material.n_items]
    training.progress("the texts", 0.65)
    found = TextMap(_fit(training, material), judge.index.texts_maker, for_cold=False, for_wishes=False)
    # By other items than those that the best step was chosen by.
    bare, mapped = (material.in_order(each, material.judged) for each in (whole, found(whole)))
    gain, error = mapped.mean() - bare.mean(), (mapped - bare).std() / np.sqrt(len(bare))
    for_cold = bool(gain >= max(MIN_GAIN, 2.0 * error))
    found = replace(found, for_cold=for_cold, for_wishes=_is_better_for_wishes(material, found))
    log.info("texts: hidden items in order %.4f, %+.4f with the map (error %.4f)", bare.mean(), gain, error)
    return found if found.for_cold or found.for_wishes else None


def order_of_hidden(vectors: Floats, histories: Sequence[Ints], hidden: Bools, known: Bools) -> Floats:
    """By user, how often a hidden item that was chosen stands before one that was not; 0.5 is chance.

    Hidden items are placed as new ones are: by the known items that read most like them.
    """
    cold = np.flatnonzero(hidden)
    near = nearest(vectors, cold, np.flatnonzero(known))
    shares = []
    for history in histories[:MAX_USERS]:
        had = np.zeros(len(hidden), dtype=np.float32)
        had[history] = 1.0
        wanted = had[cold] > 0
        if wanted.any() and not wanted.all():
            score = (near.weights * had[near.near]).sum(axis=1)
            good, bad = score[wanted][:, None], score[~wanted][None, :]
            shares.append(float(((good > bad) + (good == bad) / 2).mean()))
    return np.array(shares or [0.5], dtype=np.float32)


def _material(judge: Judge, examples: Sequence[Example], seed: int) -> _Material:
    texts, stats = judge.index.texts, judge.index.stats
    assert texts is not None
    chosen: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for user, known in stats.users.items():
        chosen[user] += zip(known.times, known.items, strict=True)
    vectors = [texts.whole]
    left: list[tuple[int, int]] = []  # a wish and the item
    right: list[tuple[int, int]] = []  # two items
    kept: list[tuple[int, int]] = []
    n_wishes = 0
    for example in examples:
        asked: Next = example.payload
        item = stats.find(asked.choice.item)
        if item is None:
            continue
        chosen[asked.choice.user].append((asked.choice.at, item))
        wish = judge.vector_of(asked.wish)
        if wish is not None and texts.has[item]:
            vectors.append(wish[None])
            pair = (len(texts.has) + n_wishes, item)
            (kept if _is_in(0, 4, asked.wish) else left).append(pair)  # equal wishes stay together
            n_wishes += 1
    chosen_by, judged = (
        np.array([_is_in(part, HIDDEN_ONE_IN, item_id) for item_id in stats.item_ids], dtype=np.bool_)
        for part in (0, 1)
    )
    hidden = chosen_by | judged
    histories = []
    for rows in chosen.values():
        items = [item for _, item in sorted(rows) if texts.has[item]]
        histories.append(np.array(list(dict.fromkeys(items)), dtype=np.intp))
    for history in histories:
        seen = history[~hidden[history]]
        right += [(int(a), int(b)) for gap in range(1, SPAN + 1) for a, b in zip(seen[:-gap], seen[gap:], strict=True)]
    pairs = np.array([*left, *right], dtype=np.intp).reshape(-1, 2)
    pairs = pairs[~hidden[pairs[:, 1]]]
    random = np.random.default_rng(seed)
    if len(pairs) > MAX_PAIRS:
        pairs = pairs[random.choice(len(pairs), MAX_PAIRS, replace=False)]
    order = random.permutation(len(histories))
    return _Material(
        np.concatenate(vectors).astype(np.float32),
        pairs,
        [histories[place] for place in order],
        chosen_by,
        judged,
        texts.has,
        np.array(kept, dtype=np.intp).reshape(-1, 2),
    )


def _fit(training: Training, material: _Material) -> Floats:
    """The map by which hidden items stood best in order on the way."""
    import torch
    from torch.nn.functional import cross_entropy, dropout, normalize

    made = torch.Generator().manual_seed(training.seed)
    torch.manual_seed(training.seed)  # of the dropout
    vectors = torch.from_numpy(material.vectors)
    pairs = torch.from_numpy(material.pairs)
    share = torch.bincount(pairs[:, 1], minlength=len(vectors)).float() + 1.0
    log_share = torch.log(share / share.sum())
    n_dimensions = vectors.shape[1]
    matrix = torch.zeros(n_dimensions, n_dimensions, requires_grad=True)
    optimizer = torch.optim.Adam([matrix], lr=RATE)
    best, best_matrix = 0.0, np.zeros((n_dimensions, n_dimensions), dtype=np.float32)
    for step in range(1, N_STEPS + 1):
        if training.is_out_of_time:
            break
        training.yield_to_serving()
        batch = pairs[torch.randint(len(pairs), (BATCH,), generator=made)]
        first, second = (dropout(vectors[batch[:, side]], DROPOUT) for side in (0, 1))
        first, second = (normalize(each + each @ matrix, dim=1) for each in (first, second))
        # What is chosen often is drawn often as the wrong answer of others (Bengio and Senecal 2008).
        logits = first @ second.T / TEMPERATURE - log_share[batch[:, 1]][None, :]
        is_same = (batch[:, 1][:, None] == batch[:, 1][None, :]) & ~torch.eye(len(batch), dtype=torch.bool)
        loss = cross_entropy(logits.masked_fill(is_same, -1e9), torch.arange(len(batch)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        value = float(loss.detach())
        if not np.isfinite(value):
            raise errors.TrainingFailed(f"the loss of the text map became {value}")
        if step % JUDGE_EVERY == 0:
            now = matrix.detach().numpy().copy()
            mapped = TextMap(now, "", for_cold=True, for_wishes=False)(material.vectors[: material.n_items])
            order = float(material.in_order(mapped, material.chosen_by).mean())
            training.progress(f"the texts, step {step}", 0.65 + 0.3 * step / N_STEPS, loss=value)
            if order > best:
                best, best_matrix = order, now
    return best_matrix


def _is_better_for_wishes(material: _Material, text_map: TextMap) -> bool:
    """Whether the items that were chosen for a wish stand further up by the mapped vectors."""
    if len(material.wishes) < MIN_WISHES:
        return False
    ranks = []
    for vectors in (material.vectors, text_map(material.vectors)):
        cosines = vectors[material.wishes[:, 0]] @ vectors[: material.n_items].T
        right = np.take_along_axis(cosines, material.wishes[:, 1:], axis=1)
        ranks.append(1 + (cosines > right).sum(axis=1))
    gain = 1.0 / ranks[1] - 1.0 / ranks[0]
    # Beyond doubt, not by one lucky wish: two standard errors.
    return bool(gain.mean() > 2.0 * gain.std() / np.sqrt(len(gain)))


def _is_in(part: int, n: int, text: str) -> bool:
    """Whether a text belongs to this part of n, by its hash."""
    return int(hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:8], 16) % n == part
