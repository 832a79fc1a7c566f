"""The sampler of numpy, compared with that of torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from smallai_assistant import GenerationOptions, Steering
from smallai_assistant.engines.decoding import Sampler
from smallai_assistant.engines.numpy_sampler import NumpySampler
from smallai_assistant.engines.steering import Steer
from smallai_assistant.errors import ModelInvalid

N_WORDS = 500
PROMPT = [3, 5, 5, 400]


def scores(seed: int) -> Any:
    return np.random.default_rng(seed).normal(0, 3, N_WORDS).astype(np.float32)


def steer() -> Steer:
    return Steer(Steering(copy=("x",), bias=9.0), lambda text: [7, 8] if text == "x" else [9, 8], frozenset({0}))


@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("is_steered", [False, True])
def test_greedy_choices_are_those_of_torch(penalty: float, is_steered: bool) -> None:
    import torch

    options = GenerationOptions(repetition_penalty=penalty)
    ours = NumpySampler(options, PROMPT, steer=steer() if is_steered else None)
    theirs = Sampler(options, PROMPT, "cpu", steer=steer() if is_steered else None)
    chosen = [(ours.choose(scores(n)), theirs.choose(torch.from_numpy(scores(n)))) for n in range(40)]
    assert [a for a, _ in chosen] == [b for _, b in chosen]
    assert len({a for a, _ in chosen}) > 20


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.7), (20, 0.5)])
def test_probabilities_are_those_of_torch(top_k: int, top_p: float) -> None:
    import torch

    options = GenerationOptions(temperature=0.8, top_k=top_k, top_p=top_p, seed=0)
    found, tokens = NumpySampler(options, []).probabilities(scores(1))
    wanted, wanted_tokens = Sampler(options, [], "cpu").probabilities(torch.from_numpy(scores(1)))
    assert tokens.tolist() == wanted_tokens.tolist()
    assert found == pytest.approx(wanted.numpy(), abs=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nan_is_a_typed_error(temperature: float) -> None:
    broken = scores(0)
    broken[17] = np.nan
    with pytest.raises(ModelInvalid, match="NaN"):
        NumpySampler(GenerationOptions(temperature=temperature), []).choose(broken)
