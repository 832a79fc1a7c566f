"""Learns a linear map of the sentence vectors that brings items of the same users nearer to each other."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from smallai_assistant import Example, Training, errors
from smallai_recommend.cold_start import nearest_warm
from smallai_recommend.evaluation import Evaluator
from smallai_recommend.examples import NextChoice
from smallai_recommend.interactions import Bools, Floats, Ints
from smallai_recommend.weights import TextMap

log = logging.getLogger(__name__)

MIN_PAIRS = 200  # with fewer there is nothing to generalize from
MAX_PAIRS = 200_000
SPAN = 3  # two choices of a user are a pair if they are at most this far apart
HIDDEN_ONE_IN = 10  # items that no pair contains, to evaluate by
# MovieLens 100K, a tenth of the films hidden: 64 to 65 % of the pairs of hidden films are in the right order without a
# map, 66 to 67 % with one. Without dropout the map memorizes the films, and the share falls to 59 % in 1,000 steps.
# Maps of low rank are worse: 62 % with rank 4, 65 % with rank 16.
N_STEPS, JUDGE_EVERY, BATCH, RATE, DROPOUT, TEMPERATURE = 200, 40, 128, 3e-4, 0.5, 0.1
MIN_GAIN = 0.005  # in the share of pairs in the right order; less is not worth another ranking
MIN_QUERIES = 20
MAX_USERS = 300  # by whom the order is evaluated; more make the standard error hardly smaller


@dataclass(frozen=True, slots=True)
class _Material:
    """What the map is learned from and evaluated by.

    Attributes:
        vectors: of the items, then of the queries, float32, shape (n_items + n_queries, n_dimensions).
        pairs: row numbers in `vectors`, shape (n_pairs, 2): an item or a query, and the item that was chosen next.
        histories: distinct item indices by user, oldest first.
        validation: items that no pair contains, by which the best step is chosen, shape (n_items,).
        test: items that no pair contains, by which the result is evaluated, shape (n_items,).
        has: which items have vectors, shape (n_items,).
        queries: row numbers in `vectors`, shape (n_kept, 2): pairs of a query and an item, kept for the evaluation.
    """

    vectors: Floats
    pairs: Ints
    histories: list[Ints]
    validation: Bools
    test: Bools
    has: Bools
    queries: Ints

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.has)

    def in_order(self, vectors: Floats, hidden: Bools) -> Floats:
        """See `order_of_hidden`."""
        known = self.has & ~self.validation & ~self.test
        return order_of_hidden(vectors, self.histories, hidden & self.has, known)


def train_text_map(training: Training, evaluator: Evaluator, examples: Sequence[Example]) -> TextMap | None:
    """Minimizes in-batch InfoNCE (van den Oord et al. 2018, equation 4) over pairs of choices.

    Returns:
        None if the map is better than the plain vectors neither for hidden items nor for queries.

    Raises:
        TrainingFailed: the loss is not finite.
    """
    material = _material(evaluator, examples, training.seed)
    if len(material.pairs) < MIN_PAIRS:
        return None
    whole = material.vectors[: material.n_items]
    training.progress("the texts", 0.65)
    found = TextMap(_fit(training, material), evaluator.index.read_texts.maker, for_cold=False, for_queries=False)
    # By other items than those by which the best step was chosen: the choice would flatter the result.
    plain, mapped = (material.in_order(vectors, material.test) for vectors in (whole, found(whole)))
    gain, error = mapped.mean() - plain.mean(), (mapped - plain).std() / np.sqrt(len(plain))
    for_cold = bool(gain >= max(MIN_GAIN, 2.0 * error))
    found = replace(found, for_cold=for_cold, for_queries=_is_better_for_queries(material, found))
    log.info("texts: hidden items in order %.4f, %+.4f with the map (error %.4f)", plain.mean(), gain, error)
    return found if found.for_cold or found.for_queries else None


def order_of_hidden(vectors: Floats, histories: Sequence[Ints], hidden: Bools, known: Bools) -> Floats:
    """How often a hidden item that the user chose ranks before a hidden one that the user did not choose.

    Hidden items are scored as new ones are: by the known items that read most like them.

    Args:
        vectors: of the items, float32, shape (n_items, n_dimensions).
        histories: item indices by user.
        hidden: the items to rank, shape (n_items,).
        known: the items to rank them by, shape (n_items,).

    Returns:
        The share by user, float32, shape (n_users,); 0.5 is chance.
    """
    cold = np.flatnonzero(hidden)
    near = nearest_warm(vectors, cold, np.flatnonzero(known))
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


def _material(evaluator: Evaluator, examples: Sequence[Example], seed: int) -> _Material:
    texts, stats = evaluator.index.read_texts.vectors, evaluator.index.stats
    assert texts is not None
    chosen: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for user, known in stats.users.items():
        chosen[user] += zip(known.times, known.items, strict=True)
    vectors = [texts.whole]
    of_queries: list[tuple[int, int]] = []  # a query and an item
    of_items: list[tuple[int, int]] = []  # two items
    kept: list[tuple[int, int]] = []
    n_queries = 0
    for example in examples:
        asked: NextChoice = example.payload
        item = stats.find(asked.choice.item)
        if item is None:
            continue
        chosen[asked.choice.user].append((asked.choice.at, item))
        vector = evaluator.vector_of(asked.wanted)
        if vector is not None and texts.has[item]:
            vectors.append(vector[None])
            pair = (len(texts.has) + n_queries, item)
            # By the text: equal queries must lie on one side, or the evaluation would know the answers.
            (kept if _is_in(0, 4, asked.wanted) else of_queries).append(pair)
            n_queries += 1
    validation, test = (
        np.array([_is_in(part, HIDDEN_ONE_IN, item_id) for item_id in stats.item_ids], dtype=np.bool_)
        for part in (0, 1)
    )
    hidden = validation | test
    histories = []
    for rows in chosen.values():
        items = [item for _, item in sorted(rows) if texts.has[item]]
        histories.append(np.array(list(dict.fromkeys(items)), dtype=np.intp))
    for history in histories:
        seen = history[~hidden[history]]
        for gap in range(1, SPAN + 1):
            of_items += [(int(a), int(b)) for a, b in zip(seen[:-gap], seen[gap:], strict=True)]
    pairs = np.array([*of_queries, *of_items], dtype=np.intp).reshape(-1, 2)
    pairs = pairs[~hidden[pairs[:, 1]]]
    random = np.random.default_rng(seed)
    if len(pairs) > MAX_PAIRS:
        pairs = pairs[random.choice(len(pairs), MAX_PAIRS, replace=False)]
    order = random.permutation(len(histories))
    return _Material(
        vectors=np.concatenate(vectors).astype(np.float32),
        pairs=pairs,
        histories=[histories[place] for place in order],
        validation=validation,
        test=test,
        has=texts.has,
        queries=np.array(kept, dtype=np.intp).reshape(-1, 2),
    )


def _fit(training: Training, material: _Material) -> Floats:
    """The map of the step that ordered the validation items best: float32, shape (n_dimensions, n_dimensions)."""
    import torch
    from torch.nn.functional import cross_entropy, dropout, normalize

    generator = torch.Generator().manual_seed(training.seed)
    torch.manual_seed(training.seed)  # for the dropout, which takes no generator
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
        batch = pairs[torch.randint(len(pairs), (BATCH,), generator=generator)]
        first, second = (dropout(vectors[batch[:, side]], DROPOUT) for side in (0, 1))
        first, second = (normalize(side + side @ matrix, dim=1) for side in (first, second))
        # Popular items are drawn often as wrong answers of others; the logarithm corrects for that (Bengio and
        # Senecal 2008).
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
            mapped = TextMap(now, "", for_cold=True, for_queries=False)(material.vectors[: material.n_items])
            order = float(material.in_order(mapped, material.validation).mean())
            training.progress(f"the texts, step {step}", 0.65 + 0.3 * step / N_STEPS, loss=value)
            if order > best:
                best, best_matrix = order, now
    return best_matrix


def _is_better_for_queries(material: _Material, text_map: TextMap) -> bool:
    """Whether the items that were chosen for a query rank higher by the mapped vectors."""
    if len(material.queries) < MIN_QUERIES:
        return False
    ranks = []
    for vectors in (material.vectors, text_map(material.vectors)):
        cosines = vectors[material.queries[:, 0]] @ vectors[: material.n_items].T
        right = np.take_along_axis(cosines, material.queries[:, 1:], axis=1)
        ranks.append(1 + (cosines > right).sum(axis=1))
    gain = 1.0 / ranks[1] - 1.0 / ranks[0]
    # Two standard errors: one lucky query must not decide.
    return bool(gain.mean() > 2.0 * gain.std() / np.sqrt(len(gain)))


def _is_in(part: int, n: int, text: str) -> bool:
    """Whether a text belongs to this part of n, by its hash."""
    return int(hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:8], 16) % n == part
