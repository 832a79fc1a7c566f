"""Runs EfficientNet-Lite0 as an `ImageModel`: class probabilities and a 1280-dimensional embedding."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallai_assistant import Engine, ImageModel, LoadedModel, ModelSpec, errors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MODEL_TYPE = "efficientnet-lite0"

# Divides the logits. The network was trained with label smoothing, so its probabilities are too low on photographs. By
# `python -m bench.image --stamps` the likelihood of the true class is best at 0.75 on 20 ImageNet photos, and at 0.9 on
# 79 cut-outs on white, which are unlike its training data. At the value in between both lose less than 0.02 nats.
# A `temperature` in config.json overrides it.
TEMPERATURE = 0.85

# The crop with which the weights were trained and evaluated: the middle square of the picture, without a margin of 32
# pixels in 256 (CROP_PADDING in the TPU model garden's preprocessing.py).
_CROP = 224 / (224 + 32)
# Pictures in one step of the model's thread: other callers are served between two steps.
_BATCH = 16


@functools.cache
def imagenet_classes() -> tuple[tuple[str, str], ...]:
    """Returns the names and WordNet definitions of the 1000 ImageNet classes, in the order of their indexes."""
    text = (resources.files(__package__) / "imagenet_classes.txt").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines() if not line.startswith("#"))
    return tuple((name, definition) for name, definition in rows)


def _read_config(folder: Path) -> dict[str, Any]:
    """Returns config.json; empty if it is missing or damaged, which means that the folder is not for this engine."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


class EfficientNetLiteEngine(Engine):
    """Loads the folders that have `"model_type": "efficientnet-lite0"` in config.json."""

    name = "efficientnet-lite"

    def can_load(self, spec: ModelSpec, folder: Path) -> bool:
        return spec.task == "image-classification" and _read_config(folder).get("model_type") == MODEL_TYPE

    def estimate_bytes(self, spec: ModelSpec, folder: Path) -> int:  # noqa: ARG002
        return (folder / "model.safetensors").stat().st_size

    def load(
        self, spec: ModelSpec, folder: Path, *, device: str, progress: Callable[[str, float], None]
    ) -> LoadedModel:
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from smallai_image.efficientnet_lite import build

        if spec.quantization != "none":
            raise errors.ModelInvalid(
                f"{spec}: {MODEL_TYPE} consists of convolutions, which cannot be quantized",
                hint="load it without quantization: it has 19 MB",
            )
        config = _read_config(folder)
        scale = {}
        for key, default in (("mean", 127.0), ("std", 128.0), ("temperature", TEMPERATURE)):
            value = config.get(key, default)
            # True is an int in Python, and NaN fails every comparison.
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1000:
                raise errors.ModelInvalid(f"{folder / 'config.json'}: {key} is {value!r}", hint="pull the model again")
            scale[key] = float(value)
        dtype = torch.float32 if spec.dtype == "auto" else getattr(torch, spec.dtype)
        progress(f"reading {spec.name}", 0.0)
        try:
            state = load_file(folder / "model.safetensors")
            network = build(state).to(device=device, dtype=dtype, memory_format=torch.channels_last)
        except (SafetensorError, FileNotFoundError) as error:
            raise errors.ModelInvalid(f"{folder}: {error}", hint="pull the model again") from error
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise  # the weights are fine; the runtime handles it
            raise errors.ModelInvalid(f"{folder}: not the weights of {MODEL_TYPE}: {error}") from error
        progress(f"reading {spec.name}", 1.0)
        return EfficientNetLite(spec, network, device=device, scale=scale)


class EfficientNetLite(ImageModel):
    """The loaded network. Pictures are cropped and scaled on the callers' threads, several at once."""

    n_dimensions = 1280

    def __init__(self, spec: ModelSpec, network: Any, *, device: str, scale: dict[str, float]) -> None:
        tensors = [*network.parameters(), *network.buffers()]
        super().__init__(spec, device=device, n_bytes=LoadedModel.measure(tensors))
        self.labels = tuple(name for name, _ in imagenet_classes())
        self._network: Any = network
        self._scale = scale

    def classify(self, images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        return self._run(
            images, lambda network, x: (network(x).float() / self._scale["temperature"]).softmax(-1), len(self.labels)
        )

    def embed(self, images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        return self._run(images, lambda network, x: network.features(x).float(), self.n_dimensions)

    def classify_and_embed(
        self, images: Sequence[npt.NDArray[np.uint8]]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Returns what `classify` and `embed` return, in one pass through the network instead of two."""
        import torch

        def compute(network: Any, x: Any) -> Any:
            features = network.features(x)
            probabilities = (network._fc(features).float() / self._scale["temperature"]).softmax(-1)
            return torch.cat([probabilities, features.float()], dim=1)

        both = self._run(images, compute, len(self.labels) + self.n_dimensions)
        return both[:, : len(self.labels)], both[:, len(self.labels) :]

    def release(self) -> None:
        self._network = None

    def _run(
        self, images: Sequence[npt.NDArray[np.uint8]], compute: Callable[[Any, Any], Any], n_columns: int
    ) -> npt.NDArray[np.float32]:
        import numpy as np

        rows = [np.zeros((0, n_columns), np.float32)]
        for start in range(0, len(images), _BATCH):
            pixels = np.stack([self._prepare(image) for image in images[start : start + _BATCH]])
            rows.append(self.call(functools.partial(self._forward, pixels, compute)))
        return np.concatenate(rows)

    def _prepare(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Returns the picture as the network was trained on it: cropped, scaled, float32, shape (224, 224, 3)."""
        import numpy as np
        from PIL import Image

        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(f"a picture must be uint8 (height, width, 3), not {image.dtype} {image.shape}")
        height, width = image.shape[:2]
        side = _CROP * min(height, width)
        left, top = (width - side) / 2, (height - side) / 2
        small = Image.fromarray(image).resize(
            (224, 224), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
        )
        return (np.asarray(small, np.float32) - self._scale["mean"]) / self._scale["std"]

    def _forward(self, pixels: npt.NDArray[np.float32], compute: Callable[[Any, Any], Any]) -> Any:
        import torch

        with torch.inference_mode():
            # Permuting copies nothing: the result is channels-last in memory, as the weights are.
            x = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.device, self._network._fc.weight.dtype)
            return compute(self._network, x).cpu().numpy()
