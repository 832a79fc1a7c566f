"""Lets the model judge whether a word of the vocabulary was meant: the text with it against the text without.

Both are scored on the same sound after a prompt that names the words in question, which makes the model expect them
as much as it expects any other word. On the model's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from smallai_speech.vocabulary import Suspect, Vocabulary, replaced

Repairs = tuple[tuple[str, str], ...]  # (what was heard, the word that was put there)

# Nats that a word may lose against the text without it: the more, the more it sounds like what was heard. Misheard
# words of espeak-ng's voices gained 5 to 14 at a likeness of 0.6 to 0.8 and lost up to 4.7 at 0.95; others that are
# only alike lost 6 and more at 0.6. What holds ordinary words alone must do better; one ordinary word that was taken
# for a word of the user must itself be less probable: said on purpose, such words lost 6.4 to gained 2.2.
_NATS_PER_LIKENESS, _EVEN_LIKENESS = 16.0, 0.6
_ORDINARY_NATS, _ONE_ORDINARY_NATS = 1.0, 4.0
_MAX_LIKENESS = 0.9  # a learnt form counts no more than a very like one
_MAX_SUSPECTS = 16
_MAX_WORDS = 12  # in the prompt


def meant(
    runs: Sequence[str], vocabulary: Vocabulary, score: Callable[[str, Sequence[Sequence[str]]], list[float]]
) -> tuple[list[str], Repairs]:
    """The runs of a window with the words that were meant in them, and what was put there.

    Args:
        runs: texts between time stamps.
        score: natural logarithms of the probabilities of several versions of the runs, after a prompt.
    """
    found = [(i, each) for i, text in enumerate(runs) for each in vocabulary.suspects(text, most=_MAX_SUSPECTS)]
    found.sort(key=lambda each: -each[1].likeness)
    found = _of_few_words(found[:_MAX_SUSPECTS])
    if not found:
        return list(runs), ()
    versions = [list(runs)]
    for i, suspect in found:
        versions.append([*runs[:i], replaced(runs[i], suspect), *runs[i + 1 :]])
    prompt = ", ".join(dict.fromkeys(suspect.entry.word for _, suspect in found))
    before, *after = score(prompt, versions)
    gains = [
        (logprob - before + _allowed(suspect), i, suspect)
        for logprob, (i, suspect) in zip(after, found, strict=True)
        if logprob - before + _allowed(suspect) > 0 or suspect.is_sure
    ]
    return _applied(list(runs), gains)


def _of_few_words(found: list[tuple[int, Suspect]]) -> list[tuple[int, Suspect]]:
    words = list(dict.fromkeys(suspect.entry.word for _, suspect in found))[:_MAX_WORDS]
    return [each for each in found if each[1].entry.word in words]


def _allowed(suspect: Suspect) -> float:
    if suspect.n_ordinary == 1:
        return -_ONE_ORDINARY_NATS
    allowed = _NATS_PER_LIKENESS * (min(suspect.likeness, _MAX_LIKENESS) - _EVEN_LIKENESS)
    return allowed - (_ORDINARY_NATS if suspect.n_ordinary else 0.0)


def _applied(runs: list[str], gains: list[tuple[float, int, Suspect]]) -> tuple[list[str], Repairs]:
    """The best of those that overlap, from the end, so that positions before stay right."""
    kept: list[tuple[int, Suspect]] = []
    for _, i, each in sorted(gains, key=lambda gain: -gain[0]):
        if all(i != other or each.end <= one.start or each.start >= one.end for other, one in kept):
            kept.append((i, each))
    kept.sort(key=lambda one: (one[0], one[1].start))
    repairs = tuple((runs[i][each.start : each.end], each.entry.word) for i, each in kept)
    for i, each in reversed(kept):
        runs[i] = replaced(runs[i], each)
    return runs, repairs


def score_texts(network: Any, features: Any, prefix: Sequence[int], texts: Sequence[Sequence[int]]) -> list[float]:
    """The natural logarithm of the probability of each token sequence, given the sound and what precedes it.

    Args:
        features: the encoder's output, shape (1, n_audio_ctx, n_audio_state).
        prefix: the prompt's tokens, where there is one, and the start sequence.
        texts: what follows, the end token included; all are computed as one batch.
    """
    import torch

    longest = max(map(len, texts))
    rows = [[*prefix, *text, *[text[-1]] * (longest - len(text))] for text in texts]
    tokens = torch.tensor(rows, device=features.device)
    hidden = _hidden(network.decoder, tokens[:, :-1], features)[:, len(prefix) - 1 :]
    logits = (hidden @ network.decoder.token_embedding.weight.to(hidden.dtype).T).float()
    picked = logits.gather(2, tokens[:, len(prefix) :, None])[:, :, 0] - torch.logsumexp(logits, dim=-1)
    return [float(picked[i, : len(text)].sum()) for i, text in enumerate(texts)]


def _hidden(decoder: Any, tokens: Any, features: Any) -> Any:
    """What whisper's decoder computes before its output matrix, shape (n_rows, n_tokens, n_text_state).

    All rows hear the same sound, and attention to the sound has no order: as one long row they share its keys and
    values, which whisper's own forward would compute for each.
    """
    x = decoder.token_embedding(tokens) + decoder.positional_embedding[: tokens.shape[1]]
    x = x.to(features.dtype)
    for block in decoder.blocks:
        x = x + block.attn(block.attn_ln(x), mask=decoder.mask)[0]
        as_one = x.reshape(1, -1, x.shape[-1])
        x = x + block.cross_attn(block.cross_attn_ln(as_one), features)[0].reshape(x.shape)
        x = x + block.mlp(block.mlp_ln(x))
    return decoder.ln(x)
