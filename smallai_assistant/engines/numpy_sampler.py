"""Chooses tokens with numpy, for engines that give their scores as arrays. No torch is imported.

The order is that of `decoding.Sampler`, and of transformers: penalty, steering, then temperature, top-k and top-p.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from smallai_assistant.engines.generation import GenerationOptions
from smallai_assistant.engines.steering import Steer
from smallai_assistant.errors import ModelInvalid

if TYPE_CHECKING:
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]
    IntArray = npt.NDArray[np.int64]


class NumpySampler:
    """Chooses the next token of one answer.

    Args:
        prompt: the token ids that the answer follows.
    """

    def __init__(self, options: GenerationOptions, prompt: Sequence[int], *, steer: Steer | None = None) -> None:
        self._options = options
        self._steer = steer
        self._said: list[int] = []
        self._random = np.random.default_rng(options.seed) if options.temperature > 0 else None
        # With steering, the texts to copy are in the prompt. A penalty on their words would work against it.
        self._seen = set(prompt) if steer is None else set()

    def choose(self, scores: FloatArray) -> int:
        """Chooses a token.

        Args:
            scores: float32, shape (n_words,); they are changed.

        Raises:
            ModelInvalid: the scores are NaN.
        """
        self._penalize(scores)
        for token, value in (self._steer.added(self._said) if self._steer is not None else {}).items():
            scores[token] += value
        if self._random is None:
            token = int(scores.argmax())  # the place of a NaN, if there is one
            if np.isnan(scores[token]):
                raise _not_a_number()
        else:
            probabilities, tokens = self.probabilities(scores)
            if np.isnan(probabilities[0]):
                raise _not_a_number()
            # The Gumbel-max trick (Maddison et al. 2014): each word gets its own noise. Scores that differ a little, as
            # those of two passes do, then change the choice only if two words are nearly equal. Drawing from the sum of
            # the probabilities would move every word that is less likely than the changed one.
            noise = self._random.gumbel(size=len(scores))[tokens]
            with np.errstate(divide="ignore"):  # of a word outside of top-p
                token = int(tokens[(np.log(probabilities) + noise).argmax()])
        self._said.append(token)
        self._seen.add(token)
        return token

    def probabilities(self, scores: FloatArray) -> tuple[npt.NDArray[np.float64], IntArray]:
        """The probabilities of the tokens that may be chosen, float64, and the tokens, most likely first."""
        n = min(self._options.top_k or len(scores), len(scores))
        best = np.argpartition(-scores, n - 1)[:n] if n < len(scores) else np.arange(n)
        tokens = best[np.argsort(-scores[best], kind="stable")]
        values = scores[tokens].astype(np.float64) / self._options.temperature
        probabilities = np.exp(values - values[0])
        probabilities /= probabilities.sum()
        if self._options.top_p < 1.0:
            # The token that crosses the threshold stays (Holtzman et al. 2020).
            probabilities[probabilities.cumsum() - probabilities >= self._options.top_p] = 0.0
        return probabilities, tokens

    def _penalize(self, scores: FloatArray) -> None:
        """Lowers the scores of tokens that occurred before (Keskar et al. 2019)."""
        penalty = self._options.repetition_penalty
        if penalty == 1.0 or not self._seen:
            return
        places = np.fromiter(self._seen, np.int64, len(self._seen))
        seen = scores[places]
        scores[places] = np.where(seen > 0, seen / penalty, seen * penalty)


def _not_a_number() -> ModelInvalid:
    return ModelInvalid("the model computes NaN", hint="verify it, or try another dtype")
