"""LoRA weights (Hu et al. 2021, arXiv:2106.09685) that let an image model's embedding tell given classes apart.

The classes may be new to the model: what is trained is the backbone, against one prototype a class and by the cosine
with it (Gidaris and Komodakis 2018, section 3.2). The prototypes are thrown away; a classifier on the new embedding
is the caller's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallai_assistant.errors import TrainingFailed

if TYPE_CHECKING:
    from smallai_assistant.task import Training

RANK, ALPHA = 8, 16
RATE = 1e-3
EPOCHS, BATCH = 8, 8
_SCALE = 10.0  # of the cosines, before the softmax
_CHECKPOINT = "lora.safetensors"


def linear_layers(network: Any) -> list[str]:
    """The names of the backbone's linear layers, which LoRA is put beside; empty for one of convolutions alone."""
    import torch

    prefix = f"{network.base_model_prefix}."
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith(prefix)
    ]


def tune(
    network: Any,
    inputs: Sequence[dict[str, Any]],
    classes: Sequence[int],
    training: Training,
    embed: Callable[[Any, dict[str, Any]], Any],
) -> None:
    """Trains LoRA weights and writes them into `training.folder` as PEFT does.

    Args:
        network: an image classifier of transformers that nobody else uses; it is changed.
        inputs: of each picture, what its processor makes, a batch of one.
        classes: of each picture, 0 and up.
        embed: what the network makes of a batch, shape (n, n_dimensions); `pooled` of the engine.

    Raises:
        TrainingFailed: the loss became NaN.
        Cancelled: `training.yield_to_serving()` raised it; the checkpoint stays.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=linear_layers(network), lora_dropout=0.0)
    device = next(network.parameters()).device
    batch = {key: torch.cat([each[key] for each in inputs]) for key in inputs[0]}
    truth = torch.tensor(list(classes), device=device)
    with torch.random.fork_rng(), torch.inference_mode(False):
        torch.manual_seed(training.seed)
        worn = get_peft_model(network, config)
        center, prototypes = _prototypes(worn, batch, truth, embed)
        named = {name: each for name, each in worn.named_parameters() if each.requires_grad} | {"": prototypes}
        optimizer = torch.optim.AdamW(named.values(), lr=RATE)
        first = _resume(training.work_folder / _CHECKPOINT, named)
        n_batches = -(-len(truth) // BATCH)
        for epoch in range(first, EPOCHS):
            order = torch.randperm(len(truth), generator=torch.Generator().manual_seed(training.seed + epoch))
            for number, rows in enumerate(order.split(BATCH)):
                training.yield_to_serving()
                if training.is_out_of_time:
                    break
                picked = _flipped({key: each[rows] for key, each in batch.items()})
                cosines = _cosines(embed(network, _moved(picked, network)) - center, prototypes)
                loss = torch.nn.functional.cross_entropy(_SCALE * cosines, truth[rows.to(device)])
                if not loss.isfinite():
                    raise TrainingFailed(f"the loss became {loss.item()} in epoch {epoch + 1}")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                share = (epoch * n_batches + number + 1) / (EPOCHS * n_batches)
                training.progress("tuning the model", 0.6 * share, loss=loss.item())
            _keep(training.work_folder / _CHECKPOINT, named, epoch + 1)
        worn.save_pretrained(str(training.folder))
    (training.folder / "README.md").unlink(missing_ok=True)  # peft writes a model card for hubs


def _prototypes(
    worn: Any, batch: dict[str, Any], truth: Any, embed: Callable[[Any, dict[str, Any]], Any]
) -> tuple[Any, Any]:
    """The mean embedding, and each class's mean less that, to be trained along."""
    import torch

    network = worn.get_base_model()
    with torch.no_grad():
        rows = [
            embed(network, _moved({key: each[start : start + BATCH] for key, each in batch.items()}, network)).float()
            for start in range(0, len(truth), BATCH)
        ]
        vectors = torch.cat(rows)
        center = vectors.mean(0)
        means = torch.stack([vectors[truth == c].mean(0) - center for c in range(int(truth.max()) + 1)])
    return center, torch.nn.Parameter(torch.nn.functional.normalize(means, dim=-1))


def _cosines(vectors: Any, prototypes: Any) -> Any:
    from torch.nn.functional import normalize

    return normalize(vectors.float(), dim=-1) @ normalize(prototypes, dim=-1).T


def _flipped(batch: dict[str, Any]) -> dict[str, Any]:
    """Each picture mirrored or not."""
    import torch

    pixels = batch["pixel_values"]
    is_mirrored = (torch.rand(len(pixels)) < 0.5)[:, None, None, None]
    return {**batch, "pixel_values": torch.where(is_mirrored, pixels.flip(-1), pixels)}


def _moved(batch: dict[str, Any], network: Any) -> dict[str, Any]:
    return {
        key: each.to(network.device, network.dtype) if each.is_floating_point() else each.to(network.device)
        for key, each in batch.items()
    }


def _keep(file: Path, named: dict[str, Any], epoch: int) -> None:
    """Whole or not at all: a kill may come at any moment."""
    from safetensors.torch import save_file

    partial = file.with_suffix(".partial")
    tensors = {f"p.{name}": each.detach().float().cpu().contiguous() for name, each in named.items()}
    save_file(tensors, str(partial), metadata={"epoch": str(epoch)})
    os.replace(partial, file)


def _resume(file: Path, named: dict[str, Any]) -> int:
    """Puts a checkpoint's weights in place. Returns how many epochs are done, 0 where there is none that fits.

    The optimizer begins anew: its moments settle within some steps.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        return 0
    try:
        with safe_open(str(file), framework="pt") as kept, torch.no_grad():
            tensors = {name: kept.get_tensor(f"p.{name}") for name in named}
            if any(tensors[name].shape != each.shape for name, each in named.items()):
                return 0
            for name, each in named.items():
                each.copy_(tensors[name])
            return int((kept.metadata() or {}).get("epoch", "0"))
    except (SafetensorError, OSError, ValueError):
        return 0
