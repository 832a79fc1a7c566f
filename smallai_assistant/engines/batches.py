"""Many prompts at once, for evaluation: answers, and how likely given answers are.

One forward of the whole batch a step, so that an answer that somebody waits for goes in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from smallai_assistant.engines.decoding import Network
from smallai_assistant.generation import GenerationOptions

BATCH = 16
Completion = tuple[Sequence[int], Sequence[int]]  # prompt and completion, in token ids


def complete(
    network: Network, prompts: Sequence[Sequence[int]], options: GenerationOptions, *, batch: int = BATCH
) -> Iterator[list[str] | None]:
    """The likeliest continuation of each prompt: yields None once a step, and the texts at the end.

    Args:
        options: `max_tokens` and `repetition_penalty` count; the rest is that of greedy decoding.
        batch: prompts at once.
    """
    texts = [""] * len(prompts)
    for rows in _batches([len(each) for each in prompts], batch):
        said: list[list[int]] = []
        for step in _complete_batch(network, [prompts[row] for row in rows], options):
            said = step
            yield None
        for row, ids in zip(rows, said, strict=True):
            texts[row] = network.detokenize(ids).rstrip("\ufffd")  # a character that never came whole
    yield texts


def log_likelihoods(network: Network, pairs: Sequence[Completion]) -> Iterator[list[float] | None]:
    """The log probability of each completion after its prompt, in nats, summed over its tokens; steps as above."""
    import torch

    found = [0.0] * len(pairs)
    for rows in _batches([len(prompt) + len(completion) for prompt, completion in pairs], BATCH):
        whole = [[*pairs[row][0], *pairs[row][1]] for row in rows]
        n_kept = max(len(pairs[row][1]) for row in rows) + 1
        with torch.inference_mode():
            out = _forward(network, *_padded(whole, network.device), logits_to_keep=n_kept)
            log_probabilities = out.logits.float().log_softmax(-1)
            for place, row in enumerate(rows):
                completion = torch.tensor(list(pairs[row][1]), device=network.device)
                scores = log_probabilities[place, -len(completion) - 1 : -1]
                found[row] = float(scores.gather(-1, completion[:, None]).sum()) if len(completion) else 0.0
        yield None
    yield found


def _complete_batch(
    network: Network, prompts: list[Sequence[int]], options: GenerationOptions
) -> Iterator[list[list[int]]]:
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
                penalty = options.repetition_penalty
                penalized = torch.where(scores > 0, scores / penalty, scores * penalty)
                scores = torch.where(seen, penalized, scores)
            chosen = scores.argmax(-1)
            seen.scatter_(1, chosen[:, None], value=True)
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
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    return network.module(input_ids=ids, attention_mask=mask, position_ids=positions, **options)


def _padded(rows: Sequence[Sequence[int]], device: str) -> tuple[Any, Any]:
    """Ids and mask, int64, shape (n_rows, longest), padded on the left."""
    import torch

    longest = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def _seen(prompts: Sequence[Sequence[int]], n_vocabulary: int, device: str) -> Any:
    """Which tokens stand in each prompt, bool, shape (n_prompts, n_vocabulary)."""
    import torch

    seen = torch.zeros(len(prompts), n_vocabulary, dtype=torch.bool, device=device)
    for row, prompt in enumerate(prompts):
        seen[row, list(set(prompt))] = True
    return seen


def _batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices of rows of like length together: padding is computed for nothing."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    return (order[start : start + size] for start in range(0, len(order), size))
