"""The engine llama.cpp beside llama.cpp's server and bare `generate`: `python -m bench.llama_cpp [--small]`.

All run in one process on the same file and take turns, and each figure is a ratio of medians. The server is that of
xllamacpp with eight slots and greedy decoding. `generate` is that of transformers on the nf4 model. Measured: one
stream, eight at once and one after the other, eight with adapters, the time to the first token of the fifth turn of a
conversation, the time from a cancel until the model is idle, and what the SDK costs over the engine called directly.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from smallai_assistant import Adapter, Assistant, GenerationOptions, ModelSpec, TextModel

TASK, QWEN, SMALL = "text-generation", "qwen2.5-coder-0.5b-instruct", "smollm2-135m-instruct"
N_TOKENS, N_SLOTS, N_ROUNDS, N_CONTEXT = 32, 8, 3, 16_384
QUESTIONS = tuple(f"Write a long story about {n} whales that live in the sea." for n in range(N_SLOTS))
WANTED = {
    "one_of_server": 0.97,
    "one_of_generate": 0.97,
    "eight_of_server": 0.97,
    "eight_of_in_turn": 1.4,
    "half_with_adapter": 0.8,
    "eight_adapters": 0.5,
}
MAX_TURN_OF_COLD, MAX_CANCEL_S, MAX_SDK_SHARE = 0.2, 0.2, 0.01


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def at_once(ask: Callable[[int], int], n: int) -> float:
    """Lets so many people ask at the same moment. Returns the tokens of a second, of all together."""
    ready = threading.Barrier(n)

    def one(number: int) -> int:
        ready.wait()
        return ask(number)

    begun = time.perf_counter()
    with ThreadPoolExecutor(n) as threads:
        n_tokens = sum(threads.map(one, range(n)))
    return n_tokens / (time.perf_counter() - begun)


class Peer:
    """llama.cpp's own server on a GGUF file."""

    def __init__(self, file: Path, n_threads: int) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_parallel, params.n_ctx, params.kv_unified = N_SLOTS, N_CONTEXT, True
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = n_threads
        params.warmup, params.ui, params.endpoint_slots, params.cors_origins = False, False, False, ""
        params.api_keys, params.verbosity = [os.urandom(16).hex()], -1
        self._server = xllamacpp.Server(params)

    def ask(self, text: str) -> int:
        """Answers, and returns the number of tokens."""
        request = {"messages": user(text), "max_tokens": N_TOKENS, "temperature": 0, "ignore_eos": True}
        return int(self._server.handle_chat_completions(request)["usage"]["completion_tokens"])


def asker(model: TextModel, adapters: Sequence[Adapter | None] = (None,)) -> Callable[[int], int]:
    """Asks the engine; the n-th person has the n-th adapter."""
    options = GenerationOptions(max_tokens=N_TOKENS)

    def ask(number: int) -> int:
        adapter = adapters[number % len(adapters)]
        stream = model.generate(user(QUESTIONS[number]), options, adapter=adapter)
        for _ in stream:
            pass
        return stream.facts.n_completion_tokens

    return ask


def make_adapters(folder: Path, base: Path, n: int) -> list[Adapter]:
    """Writes LoRA weights of the size that a cycle trains, small enough that answers stay long."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from smallai_chat.training import lora_config

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16), lora_config())
    made = []
    for number in range(n):
        torch.manual_seed(number)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=1e-4)
        model.save_pretrained(str(folder / f"adapter{number}"))
        made.append(Adapter(f"a{number}", TASK, "lora", folder / f"adapter{number}", {}, {}, datetime.now(UTC)))
    return made


def generate_speed(assistant: Assistant, name: str) -> Callable[[], float]:
    """The tokens of a second of transformers' own `generate` on the nf4 model."""
    import torch

    spec = ModelSpec(name, task=TASK, quantization="nf4", engine="transformers")
    lease = assistant.models.lease(spec, TextModel)
    model: Any = lease.__enter__()  # for the whole run
    ids = torch.tensor([model._tokenizer.encode_chat(user(QUESTIONS[0]))])

    def run() -> float:
        begun = time.perf_counter()
        with torch.inference_mode():
            out = model._module.generate(ids, max_new_tokens=N_TOKENS, min_new_tokens=N_TOKENS, do_sample=False)
        return (out.shape[1] - ids.shape[1]) / (time.perf_counter() - begun)

    return run


def turn_of_cold(model: TextModel) -> float:
    """The time to the first token of the fifth turn with 1,500 tokens of history, by that of the same text cold."""
    options = GenerationOptions(max_tokens=8)
    ratios = []
    for number in range(3):
        history: list[dict[str, str]] = []
        for turn in range(4):
            chat = [*history, *user(f"{number}, chapter {turn}: " + "the whale swims in the sea. " * 50)]
            history = [*chat, {"role": "assistant", "content": "".join(model.generate(chat, options))}]
        asked = [*history, *user("And then?")]
        cold = [{"role": "system", "content": f"You are brief, says {number}."}, *asked]
        ratios.append(first_token_s(model, asked) / first_token_s(model, cold))
    return statistics.median(ratios)


def first_token_s(model: TextModel, messages: list[dict[str, str]]) -> float:
    """The seconds to the first text of an answer."""
    begun = time.perf_counter()
    next(model.generate(messages, GenerationOptions(max_tokens=8)))
    return time.perf_counter() - begun


def cancel_s(model: TextModel) -> float:
    """The seconds from a cancel in the middle of a long prompt until another call runs on the model's thread."""
    found = []
    for number in range(5):
        cancel = threading.Event()
        chat = user(f"{number} " + "the whale swims in the sea. " * 200)
        stream = model.generate(chat, GenerationOptions(max_tokens=5), cancel=cancel)
        time.sleep(0.3)
        cancel.set()
        begun = time.perf_counter()
        for _ in stream:
            pass
        model.call(lambda: None)
        found.append(time.perf_counter() - begun)
    return max(found)


def sdk_share(assistant: Assistant, model: TextModel, system: str) -> float:
    """What a turn through the SDK takes more than the engine with the same prompt, as a share."""
    ratios = []
    for number in range(7):
        question = f"Tell me about the number {number}."
        messages = [{"role": "system", "content": system}, *user(question)]
        options = {"max_tokens": N_TOKENS, "repetition_penalty": 1.0, "use_memory": False}
        begun = time.perf_counter()
        assistant.session().send(question, task=TASK, options=options).text  # noqa: B018  (it is made by this)
        middle = time.perf_counter()
        "".join(model.generate(messages, GenerationOptions(max_tokens=N_TOKENS)))
        ratios.append((middle - begun) / (time.perf_counter() - middle))
    return statistics.median(ratios) - 1


def measure(name: str) -> dict[str, Any]:
    """The figures of a model."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        models = {"chat": name, "chat_engine": "llama.cpp"}
        with Assistant(data_dir=root / "data", device="cpu", models=models, memory_budget_mb=12_000) as assistant:
            spec = ModelSpec(name, task=TASK, quantization="nf4", engine="llama.cpp")
            with assistant.models.lease(spec, TextModel) as model:
                base = assistant.models.folder_of(spec)
                peer = Peer(base / "model.gguf", len(os.sched_getaffinity(0)))
                generate = generate_speed(assistant, name)
                adapters = make_adapters(root, base, N_SLOTS)
                plain, half, all_of_them = asker(model), asker(model, [None, adapters[0]]), asker(model, adapters)
                runs: dict[str, Callable[[], float]] = {
                    "one": lambda: at_once(plain, 1),
                    "one, server": lambda: at_once(lambda n: peer.ask(QUESTIONS[n]), 1),
                    "one, generate": generate,
                    "eight": lambda: at_once(plain, N_SLOTS),
                    "eight, server": lambda: at_once(lambda n: peer.ask(QUESTIONS[n]), N_SLOTS),
                    "eight, in turn": lambda: in_turn(plain),
                    "eight, half with an adapter": lambda: at_once(half, N_SLOTS),
                    "eight, an adapter each": lambda: at_once(all_of_them, N_SLOTS),
                }
                speeds: dict[str, list[float]] = {run: [] for run in runs}
                for number in range(N_ROUNDS + 1):
                    for run, speed in runs.items():
                        found = speed()
                        if number:  # the first round loads adapters and fills caches
                            speeds[run].append(found)
                    print(f"  round {number} of {N_ROUNDS}", flush=True)
                of = {run: statistics.median(found) for run, found in speeds.items()}
                system = assistant.tasks[TASK].context.options.whole_system_prompt
                return {
                    "model": name,
                    "speeds": {run: [round(value, 1) for value in sorted(found)] for run, found in speeds.items()},
                    "one_of_server": of["one"] / of["one, server"],
                    "one_of_generate": of["one"] / of["one, generate"],
                    "eight_of_server": of["eight"] / of["eight, server"],
                    "eight_of_in_turn": of["eight"] / of["eight, in turn"],
                    "half_with_adapter": of["eight, half with an adapter"] / of["eight"],
                    "eight_adapters": of["eight, an adapter each"] / of["eight"],
                    "turn_of_cold": turn_of_cold(model),
                    "cancel_s": cancel_s(model),
                    "sdk_share": sdk_share(assistant, model, system),
                }


def in_turn(ask: Callable[[int], int]) -> float:
    """Asks one after the other. Returns the tokens of a second."""
    begun = time.perf_counter()
    n_tokens = sum(ask(number) for number in range(N_SLOTS))
    return n_tokens / (time.perf_counter() - begun)


def main() -> int:
    """Prints the figures and a JSON line. Returns 1 if a figure is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="SmolLM2-135M instead of Qwen 0.5B")
    figures = measure(SMALL if parser.parse_args().small else QWEN)
    for run, speeds in figures["speeds"].items():
        print(f"{run:28} {statistics.median(speeds):7.1f} tokens/s ({speeds[0]} to {speeds[-1]})")
    for name, wanted in WANTED.items():
        print(f"{name:28} {figures[name]:7.2f} (at least {wanted})")
    for name, wanted in (
        ("turn_of_cold", MAX_TURN_OF_COLD),
        ("cancel_s", MAX_CANCEL_S),
        ("sdk_share", MAX_SDK_SHARE),
    ):
        print(f"{name:28} {figures[name]:7.3f} (at most {wanted})")
    rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps({"bench": "llama_cpp", **rounded}))
    is_met = all(figures[name] >= wanted for name, wanted in WANTED.items())
    is_met &= figures["turn_of_cold"] <= MAX_TURN_OF_COLD and figures["cancel_s"] <= MAX_CANCEL_S
    return 0 if is_met and figures["sdk_share"] <= MAX_SDK_SHARE else 1


if __name__ == "__main__":
    raise SystemExit(main())
