"""Evaluation of many prompts at once: greedy answers, and the log probabilities of given answers.

Both are generators that yield after every forward pass of a batch. Between two passes the model's thread can compute
the steps of an answer that somebody waits for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from smallai_assistant.engines.decoding import Network
from smallai_assistant.engines.generation import GenerationOptions

BATCH = 16  # prompts in one forward pass; more of them make the pass longer than an answer's step should wait
_CHOICES = 8  # completions of one prompt in one forward pass
Completion = tuple[Sequence[int], Sequence[int]]  # token ids of a prompt and of its completion


def complete(
    network: Network, prompts: Sequence[Sequence[int]], options: GenerationOptions, *, batch: int = BATCH
) -> Iterator[list[str] | None]:
    """Continues each prompt with greedy decoding. Yields None after every step, and the texts at the end.

    Args:
        options: only `max_tokens` and `repetition_penalty` count.
        batch: the number of prompts in one forward pass.
    """
    texts = [""] * len(prompts)
    for rows in _batches([len(prompt) for prompt in prompts], batch):
        said: list[list[int]] = []
        for step in _complete_batch(network, [prompts[row] for row in rows], options):
            said = step
            yield None
        for row, ids in zip(rows, said, strict=True):
            texts[row] = network.detokenize(ids).rstrip("\ufffd")  # the last character may be incomplete
    yield texts


def log_likelihoods(network: Network, pairs: Sequence[Completion]) -> Iterator[list[float] | None]:
    """The log probability of each completion given its prompt, in nats, summed over its tokens.

    Yields None after every step, and the values at the end. Completions that share a prompt, such as the choices of a
    question, are computed together: up to 8 of them share one pass over the prompt.
    """
    found = [0.0] * len(pairs)  # an empty completion has probability 1
    places: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, (prompt, completion) in enumerate(pairs):
        if completion:
            places[tuple(prompt)].append(place)
    groups = [same[start : start + _CHOICES] for same in places.values() for start in range(0, len(same), _CHOICES)]
    alone = [group[0] for group in groups if len(group) == 1]
    shared = [group for group in groups if len(group) > 1]
    for rows in _batches([len(pairs[place][0]) + len(pairs[place][1]) for place in alone], BATCH):
        batch = [alone[row] for row in rows]
        for place, value in zip(batch, _likelihoods(network, [pairs[place] for place in batch]), strict=True):
            found[place] = value
        yield None
    # Half as many prompts, because each of them is repeated for its completions.
    for rows in _batches([len(pairs[group[0]][0]) for group in shared], BATCH // 2):
        batches = [shared[row] for row in rows]
        values = _likelihoods_of_choices(network, [[pairs[place] for place in group] for group in batches])
        for place, value in zip([place for group in batches for place in group], values, strict=True):
            found[place] = value
        yield None
    yield found


def _likelihoods(network: Network, pairs: Sequence[Completion]) -> list[float]:
    import torch

    # Logits of the whole prompt would take n_tokens x n_vocabulary floats; only the completions' places are needed.
    # Padding is on the left, so that every completion ends in the last column.
    n_kept = max(len(completion) for _, completion in pairs) + 1
    with torch.inference_mode():
        whole = [[*prompt, *completion] for prompt, completion in pairs]
        out = _forward(network, *_padded(whole, network.device), logits_to_keep=n_kept)
        logits = [out.logits[row, -len(completion) - 1 : -1] for row, (_, completion) in enumerate(pairs)]
        return [_summed(rows, completion) for rows, (_, completion) in zip(logits, pairs, strict=True)]


def _likelihoods_of_choices(network: Network, groups: Sequence[Sequence[Completion]]) -> list[float]:
    """The log probability of each pair, in order. The pairs of a group share their prompt."""
    import torch

    pairs = [pair for group in groups for pair in group]
    prompt_of = torch.tensor([n for n, group in enumerate(groups) for _ in group], device=network.device)
    with torch.inference_mode():
        ids, mask = _padded([group[0][0] for group in groups], network.device)
        out = _forward(network, ids, mask, use_cache=True, logits_to_keep=1)
        logits = out.logits[prompt_of]
        if any(len(completion) > 1 for _, completion in pairs):
            out.past_key_values.batch_select_indices(prompt_of)
            # Padded on the right with token 0: attention is causal, so no token of the completion sees the padding.
            # The last token of a completion is left out, because nothing is predicted from it.
            longest = max(len(completion) for _, completion in pairs) - 1
            rest = [[*completion[:-1], *[0] * (longest + 1 - len(completion))] for _, completion in pairs]
            more = torch.tensor(rest, device=network.device)
            mask = torch.cat([mask[prompt_of], mask.new_ones(more.shape)], dim=1)
            out = _forward(network, more, mask, past_key_values=out.past_key_values, use_cache=True)
            logits = torch.cat([logits, out.logits], dim=1)
        return [_summed(logits[row], completion) for row, (_, completion) in enumerate(pairs)]


def _summed(logits: Any, completion: Sequence[int]) -> float:
    """The log probability of the tokens, summed.

    Args:
        logits: the predictions of the tokens, shape (at least len(completion), n_vocabulary).
    """
    import torch

    tokens = torch.tensor(list(completion), device=logits.device)
    scores = logits[: len(completion)].float().log_softmax(-1)
    return float(scores.gather(-1, tokens[:, None]).sum())


def _complete_batch(
    network: Network, prompts: list[Sequence[int]], options: GenerationOptions
) -> Iterator[list[list[int]]]:
    """Yields the tokens so far of every prompt, after every step."""
    import torch

    ids, mask = _padded(prompts, network.device)
    said: list[list[int]] = [[] for _ in prompts]
    running = set(range(len(prompts)))
    with torch.inference_mode():
        out = _forward(network, ids, mask, use_cache=True, logits_to_keep=1)
        seen = _seen(prompts, out.logits.shape[-1], network.device)
    for n in range(options.max_tokens):
        with torch.inference_mode():
            scores = out.logits[:, -1].float()
            if options.repetition_penalty != 1.0:
                # As in `Sampler`: a negative score is multiplied, so that it becomes smaller too.
                penalty = options.repetition_penalty
                penalized = torch.where(scores > 0, scores / penalty, scores * penalty)
                scores = torch.where(seen, penalized, scores)
            chosen = scores.argmax(-1)
            seen.scatter_(1, chosen[:, None], value=True)
        # Rows that have ended stay in the batch, because taking them out would copy the whole cache.
        for row, token in enumerate(chosen.tolist()):
            if row not in running:
                continue
            if token in network.end_ids:
                running.discard(row)
            else:
                said[row].append(token)
        yield said
        if not running or n + 1 == options.max_tokens:
            return
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        with torch.inference_mode():
            out = _forward(network, chosen[:, None], mask, past_key_values=out.past_key_values, use_cache=True)


def _forward(network: Network, ids: Any, mask: Any, **options: Any) -> Any:
    network.activate()
    # Positions count from each row's first real token, so that left padding does not shift the rotary embedding.
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    return network.module(input_ids=ids, attention_mask=mask, position_ids=positions, **options)


def _padded(rows: Sequence[Sequence[int]], device: str) -> tuple[Any, Any]:
    """Token ids and attention mask, int64, shape (n_rows, longest), padded on the left."""
    import torch

    longest = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def _seen(prompts: Sequence[Sequence[int]], n_vocabulary: int, device: str) -> Any:
    """Which tokens occur in each prompt: bool, shape (n_prompts, n_vocabulary)."""
    import torch

    seen = torch.zeros(len(prompts), n_vocabulary, dtype=torch.bool, device=device)
    for row, prompt in enumerate(prompts):
        seen[row, list(set(prompt))] = True
    return seen


def _batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Batches of row indices. Rows of similar length go together, because padding costs as much as real tokens."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    return (order[start : start + size] for start in range(0, len(order), size))
