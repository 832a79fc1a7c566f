"""Lets the model judge whether a word of the vocabulary was meant: the text with it against the text without it.

Both are scored on the same sound after a prompt that names the words in question, so that the model expects them as
much as it expects any other word. Everything here runs on the model's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from smallai_speech.vocabulary import Suspect, Vocabulary, replaced

Repairs = tuple[tuple[str, str], ...]  # (what was heard, the word that was put there)
Score = Callable[[str, Sequence[Sequence[str]]], list[float]]

# Nats that a word may lose against the text without it: more if it sounds more like what was heard. Misheard words of
# espeak-ng's voices gained 5 to 14 at a likeness of 0.6 to 0.8 and lost up to 4.7 at 0.95; words that are only alike
# lost 6 and more at 0.6. A stretch of ordinary words alone must do better. A single ordinary word that the user
# corrected before must itself be less probable: said on purpose, such words lost 6.4 to gained 2.2.
_NATS_PER_LIKENESS, _EVEN_LIKENESS = 16.0, 0.6
_ORDINARY_NATS, _ONE_ORDINARY_NATS = 1.0, 4.0
_MAX_LIKENESS = 0.9  # a learned form counts no more than a very similar one
_MAX_SUSPECTS = 16  # each is one more row in the batch that the decoder scores
_MAX_WORDS = 12  # named in the prompt


@dataclass(frozen=True, slots=True)
class _Placed:
    """A suspect, the index of the run that it was found in, and by how many nats it may be replaced."""

    run: int
    suspect: Suspect
    gain: float = 0.0

    def overlaps(self, other: _Placed) -> bool:
        one, two = self.suspect, other.suspect
        return self.run == other.run and one.end > two.start and one.start < two.end


def rescore(runs: Sequence[str], vocabulary: Vocabulary, score: Score) -> tuple[list[str], Repairs]:
    """Replaces what was heard by the words of the vocabulary that were meant.

    Args:
        runs: texts between time stamps.
        score: returns the natural logarithms of the probabilities of several versions of the runs, after a prompt.

    Returns:
        The runs with the words, and the repairs in order.
    """
    found = [
        _Placed(i, suspect) for i, text in enumerate(runs) for suspect in vocabulary.suspects(text, limit=_MAX_SUSPECTS)
    ]
    found.sort(key=lambda placed: -placed.suspect.likeness)
    found = _of_few_words(found[:_MAX_SUSPECTS])
    if not found:
        return list(runs), ()
    versions = [list(runs)]
    for placed in found:
        i = placed.run
        versions.append([*runs[:i], replaced(runs[i], placed.suspect), *runs[i + 1 :]])
    prompt = ", ".join(dict.fromkeys(placed.suspect.entry.word for placed in found))
    before, *after = score(prompt, versions)
    gaining = [
        _Placed(placed.run, placed.suspect, gain)
        for logprob, placed in zip(after, found, strict=True)
        if (gain := logprob - before + _allowed_loss(placed.suspect)) > 0 or placed.suspect.is_sure
    ]
    return _applied(list(runs), gaining)


def _of_few_words(found: list[_Placed]) -> list[_Placed]:
    """The suspects of the words that the prompt can name."""
    words = list(dict.fromkeys(placed.suspect.entry.word for placed in found))[:_MAX_WORDS]
    return [placed for placed in found if placed.suspect.entry.word in words]


def _allowed_loss(suspect: Suspect) -> float:
    """Nats that the text may lose by the replacement; negative if it must gain."""
    if suspect.n_ordinary == 1:
        return -_ONE_ORDINARY_NATS
    allowed = _NATS_PER_LIKENESS * (min(suspect.likeness, _MAX_LIKENESS) - _EVEN_LIKENESS)
    return allowed - (_ORDINARY_NATS if suspect.n_ordinary else 0.0)


def _applied(runs: list[str], gaining: list[_Placed]) -> tuple[list[str], Repairs]:
    """Replaces the suspects; of those that overlap, the one that gains most."""
    kept: list[_Placed] = []
    for placed in sorted(gaining, key=lambda placed: -placed.gain):
        if not any(placed.overlaps(other) for other in kept):
            kept.append(placed)
    kept.sort(key=lambda placed: (placed.run, placed.suspect.start))
    repairs = tuple(
        (runs[placed.run][placed.suspect.start : placed.suspect.end], placed.suspect.entry.word) for placed in kept
    )
    # From the end, so that the positions before stay right.
    for placed in reversed(kept):
        runs[placed.run] = replaced(runs[placed.run], placed.suspect)
    return runs, repairs


def score_texts(network: Any, features: Any, prefix: Sequence[int], texts: Sequence[Sequence[int]]) -> list[float]:
    """The natural logarithm of the probability of each token sequence, given the sound and the tokens before it.

    Args:
        network: a `whisper.model.Whisper`.
        features: the encoder's output, shape (1, n_audio_ctx, n_audio_state).
        prefix: the prompt's tokens, if there is a prompt, and the start sequence.
        texts: the tokens that follow, the end token included; all are computed as one batch.
    """
    import torch

    longest = max(map(len, texts))
    # Padding repeats the last token; the sums below leave it out.
    rows = [[*prefix, *text, *[text[-1]] * (longest - len(text))] for text in texts]
    tokens = torch.tensor(rows, device=features.device)
    hidden = _hidden(network.decoder, tokens[:, :-1], features)[:, len(prefix) - 1 :]
    logits = (hidden @ network.decoder.token_embedding.weight.to(hidden.dtype).T).float()
    picked = logits.gather(2, tokens[:, len(prefix) :, None])[:, :, 0] - torch.logsumexp(logits, dim=-1)
    return [float(picked[i, : len(text)].sum()) for i, text in enumerate(texts)]


def _hidden(decoder: Any, tokens: Any, features: Any) -> Any:
    """The states of whisper's decoder before its output matrix, shape (n_rows, n_tokens, n_text_state).

    All rows hear the same sound, and the attention to the sound has no order. So the rows pass through it as one long
    row and share its keys and values, which whisper's own `forward` would compute for each row.
    """
    x = decoder.token_embedding(tokens) + decoder.positional_embedding[: tokens.shape[1]]
    x = x.to(features.dtype)
    for block in decoder.blocks:
        x = x + block.attn(block.attn_ln(x), mask=decoder.mask)[0]
        as_one = x.reshape(1, -1, x.shape[-1])
        x = x + block.cross_attn(block.cross_attn_ln(as_one), features)[0].reshape(x.shape)
        x = x + block.mlp(block.mlp_ln(x))
    return decoder.ln(x)
