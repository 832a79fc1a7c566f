"""Measures what quantization saves and what our decode loop costs: `python -m bench.decode [--device cuda]`.

The memory is the size that the runtime measures for each loaded model. The speed is that of whole turns through the
SDK, compared with a bare `model.generate` of transformers on the same weights, with the same prompt, penalty and number
of tokens. The two take turns in one process, and the figure is the median ratio of the pairs. Both must generate the
same text, or there is no figure.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from smallai_assistant import Assistant, AssistantConfig, ModelSpec, TextModel
from smallai_assistant.config import ModelsConfig, load_config

CHAT = "qwen2.5-coder-0.5b-instruct"
TASK = "text-generation"
QUESTION = "Explain in detail how a bicycle stays upright."
N_TOKENS = 64
N_PAIRS = 5
PENALTY = 1.1  # the default of the chat task
MAX_MEMORY, MIN_SPEED = 0.60, 0.95  # of nf4 compared with bf16, and of the SDK compared with a bare `generate`
Quantization = Literal["none", "int8", "nf4"]


def measure(quantization: Quantization, *, device: str, n_pairs: int = N_PAIRS) -> dict[str, float]:
    """Loads the chat model with that quantization and runs both loops."""
    models = ModelsConfig(chat=CHAT, chat_quantization=quantization)
    base = load_config()
    with tempfile.TemporaryDirectory() as folder:
        config = AssistantConfig(data_dir=Path(folder), models_dir=base.models_dir, device=device, models=models)
        with Assistant(config) as assistant:
            spec = ModelSpec(CHAT, task=TASK, quantization=quantization)
            with assistant.models.lease(spec, TextModel) as model:
                figures = _speeds(assistant, model, n_pairs)
                figures["footprint_mb"] = round(model.n_bytes / 2**20, 1)
    return figures


def _speeds(assistant: Assistant, model: Any, n_pairs: int) -> dict[str, float]:
    options = {"max_tokens": N_TOKENS, "repetition_penalty": PENALTY, "system_prompt": ""}

    def ours() -> str:
        # A kept cache would save us the prompt, which `generate` has to compute.
        model.call(model._prefixes[None].clear)
        return assistant.ask(QUESTION, task=TASK, options=options).text

    # The bare loop runs on the weights inside our model, because two copies in memory would not be the same test. The
    # public interface hides them, so this bench reaches into private attributes.
    tokenizer = model._tokenizer._tokenizer
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).to(model.device)

    def bare() -> str:
        out = model._module.generate(
            **ids, max_new_tokens=N_TOKENS, do_sample=False, repetition_penalty=PENALTY, top_k=None, top_p=None
        )
        return str(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))

    if (text := ours()) != (expected := bare()):  # this is also the warm-up
        raise SystemExit(f"the two texts differ:\n{text!r}\n{expected!r}")
    pairs = [(seconds(ours), seconds(bare)) for _ in range(n_pairs)]
    return {
        "sdk_tokens_per_s": round(N_TOKENS / statistics.median(first for first, _ in pairs), 2),
        "bare_tokens_per_s": round(N_TOKENS / statistics.median(second for _, second in pairs), 2),
        "ratio": round(statistics.median(second / first for first, second in pairs), 3),
    }


def seconds(work: Callable[[], object]) -> float:
    """The duration of a call, in seconds."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    """Prints the table and the JSON line. Exits with 1 if a figure is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    kinds: tuple[Quantization, ...] = ("none", "int8", "nf4")
    for quantization in kinds:
        found[quantization] = measure(quantization, device=args.device)
        row = found[quantization]
        print(
            f"{'bf16' if quantization == 'none' else quantization:5} {row['footprint_mb']:7.0f} MB"
            f"   SDK {row['sdk_tokens_per_s']:6.1f} tokens/s   bare generate {row['bare_tokens_per_s']:6.1f} tokens/s"
            f"   ratio {row['ratio']:.3f}"
        )
    memory = found["nf4"]["footprint_mb"] / found["none"]["footprint_mb"]
    speed = found["nf4"]["ratio"]
    print(f"nf4 takes {memory:.1%} of the memory of bf16   (at most {MAX_MEMORY:.0%})")
    print(f"nf4 through the SDK runs at {speed:.3f} of a bare generate   (at least {MIN_SPEED})")
    print(json.dumps({"bench": "decode", "device": args.device, "memory": round(memory, 4), **found}))
    if memory > MAX_MEMORY or speed < MIN_SPEED:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
