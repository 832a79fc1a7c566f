"""Converts EfficientNet-Lite0 from its pinned .pth file to safetensors."""

from __future__ import annotations

import json
from pathlib import Path

from smallai_assistant.errors import ModelInvalid, UnsafeModelFormat
from smallai_assistant.models.files import file_sha256

# The only pickle that is ever read. A pickle can run code, so its hash, the catalogue's, is checked here again.
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# The inputs are (pixel - 127) / 128 of RGB values 0 to 255, as the TPU models were trained. With the usual mean and
# deviation of ImageNet, 3 of 20 photos were recognized less.
_CONFIG = {"model_type": "efficientnet-lite0", "image_size": 224, "mean": 127, "std": 128}


def convert(source: Path, target: Path) -> None:
    """Converts `model.pth` in `source` to `model.safetensors` and `config.json` in `target`.

    Raises:
        UnsafeModelFormat: the file is not the pinned one.
        ModelInvalid: it holds something other than tensors.
    """
    import torch
    from safetensors.torch import save_file

    path = source / "model.pth"
    if file_sha256(path) != _SHA256:
        raise UnsafeModelFormat(f"{path.name} is not the file that the catalogue pins")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelInvalid(f"{path.name}: not a state dict")
    # `num_batches_tracked` counts the batches of the training; inference does not need it.
    kept = {name: value.contiguous() for name, value in state.items() if not name.endswith("num_batches_tracked")}
    save_file(kept, target / "model.safetensors")
    (target / "config.json").write_text(json.dumps(_CONFIG, indent=2))
