"""EfficientNet-Lite0 from its pinned .pth to safetensors."""

from __future__ import annotations

import json
from pathlib import Path

from smallai_assistant.errors import ModelInvalid, UnsafeModelFormat
from smallai_assistant.models.files import file_sha256

# The only pickle that is ever read; its hash is the catalogue's.
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# Pixels are (x - 127) / 128 of 0..255 RGB, the TPU models' way; ImageNet's mean and deviation cost 3 of 20 photos.
_CONFIG = {"model_type": "efficientnet-lite0", "image_size": 224, "mean": 127, "std": 128}


def convert(source: Path, target: Path) -> None:
    """Converts `model.pth` in `source`.

    Raises:
        UnsafeModelFormat: the file is not the pinned one.
        ModelInvalid: it holds anything but tensors.
    """
    import torch
    from safetensors.torch import save_file

    path = source / "model.pth"
    if file_sha256(path) != _SHA256:
        raise UnsafeModelFormat(f"{path.name} is not the file that the catalogue pins")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelInvalid(f"{path.name}: not a state dict")
    # Counters of batches seen; they matter to training alone.
    kept = {name: value.contiguous() for name, value in state.items() if not name.endswith("num_batches_tracked")}
    save_file(kept, target / "model.safetensors")
    (target / "config.json").write_text(json.dumps(_CONFIG, indent=2))
