"""Runs models of sentence-transformers, which turn texts into vectors of length 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallai_assistant.engines.base import EmbeddingModel, Engine, LoadedModel, ModelSpec
from smallai_assistant.engines.loading import bounded_building, own_weights
from smallai_assistant.engines.quiet import quiet_loading
from smallai_assistant.engines.tokenizer_process import TokenizerProcess
from smallai_assistant.models.boundary import model_errors
from smallai_assistant.models.entries import is_pinned
from smallai_assistant.models.files import check_model_folder

if TYPE_CHECKING:
    from smallai_assistant.engines.base import FloatArray

_BATCH = 64  # texts in one forward pass


class SentenceTransformersEngine(Engine):
    """Loads local folders with `modules.json` and safetensors."""

    name = "sentence-transformers"

    def can_load(self, spec: ModelSpec, folder: Path) -> bool:
        return spec.task == "feature-extraction" and (folder / "modules.json").is_file()

    def estimate_bytes(self, _spec: ModelSpec, folder: Path) -> int:
        return sum(path.stat().st_size for path in folder.glob("*.safetensors"))

    def load(
        self, spec: ModelSpec, folder: Path, *, device: str, progress: Callable[[str, float], None]
    ) -> EmbeddingModel:
        check_model_folder(folder)  # before any library reads the files
        progress(f"loading {spec}", 0.1)
        process = None if is_pinned(spec.name) else TokenizerProcess(folder, spec.name, is_chat=False)
        try:
            with quiet_loading(), model_errors(str(spec)), bounded_building(folder):
                from sentence_transformers import SentenceTransformer

                progress(f"loading {spec}", 0.6)
                if process is not None:
                    process.wait()  # before a tokenizer that takes too much is loaded here
                model = SentenceTransformer(str(folder), device=device, local_files_only=True, trust_remote_code=False)
                own_weights(model)
                if process is not None:
                    process.replace_calls(model.tokenizer)
                return _SentenceModel(spec, model, process, device=device)
        except BaseException:
            if process is not None:
                process.close()
            raise


class _SentenceModel(EmbeddingModel):
    """A SentenceTransformer on the model's thread."""

    def __init__(self, spec: ModelSpec, model: Any, process: TokenizerProcess | None, *, device: str) -> None:
        super().__init__(spec, device=device, n_bytes=LoadedModel.measure([*model.parameters(), *model.buffers()]))
        self._model: Any = model.eval()
        self._process = process
        self.n_dimensions = int(model.get_embedding_dimension())

    def embed(self, texts: Sequence[str]) -> FloatArray:
        import numpy as np

        # The tokenizer is written in Rust and takes UTF-8 only. Half a surrogate pair becomes a question mark.
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        if not clean:
            return np.zeros((0, self.n_dimensions), dtype=np.float32)
        vectors = self.call(
            lambda: self._model.encode(clean, batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False)
        )
        return np.asarray(vectors, dtype=np.float32)

    def release(self) -> None:
        self._model = None
        if self._process is not None:
            self._process.close()
