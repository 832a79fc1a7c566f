"""The memory budget: loading, lending and evicting, with an engine that only counts bytes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_text import save_tiny_llama

from smallai_assistant import Engine, GenerationOptions, LoadedModel, ModelRuntime, ModelSpec, TextModel
from smallai_assistant.engines.base import EmbeddingModel
from smallai_assistant.engines.transformers import TransformersEngine
from smallai_assistant.errors import Busy, ConfigError, ModelError, ModelInvalid, OutOfMemory
from smallai_assistant.models.integrity import HashCheck

MB = 2**20


class CountedModel(LoadedModel):
    def __init__(self, spec: ModelSpec, engine: CountingEngine, n_bytes: int) -> None:
        super().__init__(spec, device="cpu", n_bytes=n_bytes)
        self.engine = engine
        self.is_released = False

    def release(self) -> None:
        self.is_released = True
        with self.engine.lock:
            self.engine.alive -= self.n_bytes


class CountingEngine(Engine):
    """Loads nothing and counts bytes. The model `NAME:MB` takes that many megabytes."""

    name = "counting"

    def __init__(self, *, seconds: float = 0.0, surplus: float = 1.0) -> None:
        self.seconds, self.surplus = seconds, surplus
        self.lock = threading.Lock()
        self.alive = self.most = self.n_loads = 0
        self.failures: list[BaseException] = []

    def can_load(self, spec: ModelSpec, folder: Path) -> bool:
        return spec.task == "count"

    def estimate_bytes(self, spec: ModelSpec, folder: Path) -> int:
        share = {"none": 1.0, "int8": 0.5, "nf4": 0.25}[spec.quantization]
        return int(int(spec.name.split(":")[1]) * MB * share)

    def load(
        self, spec: ModelSpec, folder: Path, *, device: str, progress: Callable[[str, float], None]
    ) -> CountedModel:
        time.sleep(self.seconds)
        if self.failures:
            raise self.failures.pop()
        n_bytes = int(self.estimate_bytes(spec, folder) * self.surplus)
        with self.lock:
            self.n_loads += 1
            self.alive += n_bytes
            self.most = max(self.most, self.alive)
        return CountedModel(spec, self, n_bytes)


class Folders:
    def name_for(self, name: str, task: str) -> str:
        return name

    def resolve(self, name: str, *, task: str | None = None, revision: str | None = None) -> Path:
        return Path(name)

    def begin_check(
        self, name: str, *, task: str | None = None, revision: str | None = None, unread: Sequence[str] = ()
    ) -> HashCheck:
        return HashCheck(Path(name), {}, name)

    def end_check(self, check: HashCheck) -> None:
        check.finish()


def runtime(engine: Engine, budget_mb: int = 10) -> ModelRuntime:
    return ModelRuntime(Folders(), [engine], device="cpu", memory_budget_mb=budget_mb)


def spec(name: str, quantization: str = "none") -> ModelSpec:
    return ModelSpec(name, task="count", quantization=quantization)  # type: ignore[arg-type]


def names(models: ModelRuntime) -> list[str]:
    return [info.spec.name for info in models.loaded()]


def test_least_recently_used_model_is_evicted_first() -> None:
    models = runtime(CountingEngine())
    for name in ("a:4", "b:4"):
        with models.lease(spec(name), CountedModel):
            pass
    with models.lease(spec("a:4"), CountedModel):
        pass
    with models.lease(spec("c:4"), CountedModel):
        assert names(models) == ["a:4", "c:4"]
    models.close()


def test_lent_model_is_never_evicted() -> None:
    engine = CountingEngine()
    models = runtime(engine)
    with models.lease(spec("a:6"), CountedModel) as a:
        with pytest.raises(Busy, match="a:6"), models.lease(spec("b:6"), CountedModel, timeout_s=0.05):
            pass
        assert not a.is_released
    with models.lease(spec("b:6"), CountedModel):
        assert a.is_released
        assert names(models) == ["b:6"]
    models.close()
    assert engine.alive == 0


def test_too_large_model_names_what_would_fit() -> None:
    models = runtime(CountingEngine())
    with (
        pytest.raises(OutOfMemory, match=r"needs about 30 MB.*budget is 10 MB.*nf4 with about 7 MB"),
        models.lease(spec("a:30"), CountedModel),
    ):
        pass
    assert names(models) == []


def test_budget_counts_measured_bytes_not_estimates() -> None:
    engine = CountingEngine(surplus=1.5)
    models = runtime(engine)
    with models.lease(spec("a:4"), CountedModel):
        pass
    with models.lease(spec("b:4"), CountedModel):
        assert sum(info.n_bytes for info in models.loaded()) <= 10 * MB
        assert names(models) == ["b:4"]
    with pytest.raises(OutOfMemory), models.lease(spec("c:8"), CountedModel):
        pass
    assert engine.alive <= 10 * MB
    models.close()


def test_refused_memory_is_retried_once_after_evicting() -> None:
    engine = CountingEngine()
    models = runtime(engine)
    with models.lease(spec("a:1"), CountedModel):
        pass
    engine.failures = [MemoryError()]
    with models.lease(spec("b:1"), CountedModel):
        assert names(models) == ["b:1"]
    engine.failures = [MemoryError(), MemoryError()]
    with pytest.raises(OutOfMemory), models.lease(spec("c:1"), CountedModel):
        pass
    with models.lease(spec("c:1"), CountedModel):
        pass
    models.close()


def test_lease_after_a_failed_load_tries_again() -> None:
    engine = CountingEngine()
    models = runtime(engine)
    engine.failures = [ValueError("torn")]
    with pytest.raises(ModelInvalid, match="torn"), models.lease(spec("a:1"), CountedModel):
        pass
    with models.lease(spec("a:1"), CountedModel):
        assert names(models) == ["a:1"]
    models.close()


def test_wrong_kind_and_wrong_task_are_refused() -> None:
    models = runtime(CountingEngine())
    with pytest.raises(ModelError, match="needs EmbeddingModel"), models.lease(spec("a:1"), EmbeddingModel):
        pass
    assert models.loaded()[0].n_leases == 0
    with pytest.raises(ModelInvalid, match="counting"), models.lease(ModelSpec("a:1", task="other"), LoadedModel):
        pass
    models.close()
    with pytest.raises(ModelError, match="closed"), models.lease(spec("a:1"), CountedModel):
        pass


def test_unload_drops_idle_models_only() -> None:
    models = runtime(CountingEngine())
    with models.lease(spec("a:1"), CountedModel) as model:
        assert not models.unload(spec("a:1"))
    assert models.unload(spec("a:1"))
    assert model.is_released
    assert not models.unload(spec("a:1"))
    models.close()


def test_missing_cuda_falls_back_with_a_notice() -> None:
    import torch

    if torch.cuda.is_available():
        assert ModelRuntime(Folders(), []).device.startswith("cuda")
        return
    models = ModelRuntime(Folders(), [])
    assert models.device == "cpu"
    assert models.device_notice is not None
    assert models.device_notice.code == "cpu_fallback"
    with pytest.raises(ConfigError, match="no CUDA"):
        _ = ModelRuntime(Folders(), [], device="cuda").device


def test_hundred_threads_share_room_for_two_models() -> None:
    engine = CountingEngine(seconds=0.002)
    models = runtime(engine)
    faults: list[str] = []

    def use(n: int) -> None:
        for i in range(5):
            wanted = spec("abc"[(n + i) % 3] + ":5")
            with models.lease(wanted, CountedModel, timeout_s=60) as model:
                if model.is_released:
                    faults.append("lent after evict")
                time.sleep(0.0002)
                if model.is_released:
                    faults.append("evicted while lent")
                if model.call(lambda: 7) != 7:
                    faults.append("did not run")

    threads = [threading.Thread(target=use, args=(n,)) for n in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert faults == []
    assert engine.most <= 10 * MB
    assert all(info.n_leases == 0 for info in models.loaded())
    models.close()
    assert engine.alive == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 12), st.booleans()), max_size=25))
def test_budget_holds_for_any_sequence(steps: list[tuple[str, int, bool]]) -> None:
    engine = CountingEngine()
    models = runtime(engine)
    held = []
    for name, size, keep in steps:
        lease = models.lease(spec(f"{name}:{size}"), CountedModel, timeout_s=0.0)
        try:
            model = lease.__enter__()
        except (Busy, OutOfMemory):
            continue
        assert not model.is_released
        if keep:
            held.append((lease, model))
        else:
            lease.__exit__(None, None, None)
        assert sum(info.n_bytes for info in models.loaded()) <= models.budget_bytes
        assert engine.most <= models.budget_bytes
        assert not any(model.is_released for _, model in held)
    for lease, _ in held:
        lease.__exit__(None, None, None)
    models.close()
    assert engine.alive == 0


@pytest.mark.gpu
def test_evicted_model_frees_its_gpu_memory(tmp_path: Path) -> None:
    import torch

    class Here(Folders):
        def resolve(self, name: str, *, task: str | None = None, revision: str | None = None) -> Path:
            return tmp_path / name

    save_tiny_llama(tmp_path / "tiny", hidden=512)
    models = ModelRuntime(Here(), [TransformersEngine()], device="cuda")
    before = torch.cuda.memory_allocated()
    for quantization in ("none", "int8", "nf4"):
        wanted = ModelSpec("tiny", task="text-generation", quantization=quantization)  # type: ignore[arg-type]
        with models.lease(wanted, TextModel) as model:
            assert (
                list(model.generate([{"role": "user", "content": "hi"}], GenerationOptions(max_tokens=4))) is not None
            )
            assert torch.cuda.memory_allocated() > before
        models.unload(wanted)
        del model
        assert torch.cuda.memory_allocated() <= before + 9 * MB  # cuBLAS keeps its workspace
    models.close()
