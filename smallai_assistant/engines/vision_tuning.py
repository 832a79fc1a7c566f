"""Trains LoRA weights (Hu et al. 2021, arXiv:2106.09685) so that an image model's embedding separates given classes.

The classes may be new to the model. The backbone is trained against one prototype per class, by the cosine with it
(Gidaris and Komodakis 2018, section 3.2). The prototypes are dropped after training; the caller fits its own
classifier on the new embedding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallai_assistant.errors import TrainingFailed

if TYPE_CHECKING:
    from smallai_assistant.engines.training_run import TrainingRun

RANK, ALPHA = 8, 16
RATE = 1e-3
EPOCHS, BATCH = 8, 8
_SCALE = 10.0  # of the cosines before the softmax: without it, cosines in [-1, 1] cannot give a confident prediction
_CHECKPOINT = "lora.safetensors"


def linear_layers(network: Any) -> list[str]:
    """The names of the backbone's linear layers, which get LoRA weights. Convolutional networks have none."""
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
    training: TrainingRun,
    embed: Callable[[Any, dict[str, Any]], Any],
) -> None:
    """Trains LoRA weights and writes them into `training.folder` in the format of peft.

    Args:
        network: an image classifier of transformers that nobody else uses; it is changed.
        inputs: the processor's output for each picture, as a batch of one.
        classes: the class index of each picture, 0 and up.
        embed: computes the embeddings of a batch, shape (n, n_dimensions).

    Raises:
        TrainingFailed: the loss became NaN.
        Cancelled: `training.yield_to_serving()` raised it. The checkpoint stays.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=linear_layers(network), lora_dropout=0.0)
    device = next(network.parameters()).device
    batch = {key: torch.cat([picture[key] for picture in inputs]) for key in inputs[0]}
    truth = torch.tensor(list(classes), device=device)
    # fork_rng: seeding must not change the random numbers of the host. inference_mode(False): the caller may be inside
    # an inference block, in which no gradients are recorded.
    with torch.random.fork_rng(), torch.inference_mode(False):
        torch.manual_seed(training.seed)
        worn = get_peft_model(network, config)
        center, prototypes = _prototypes(worn, batch, truth, embed)
        named = {name: weight for name, weight in worn.named_parameters() if weight.requires_grad} | {"": prototypes}
        optimizer = torch.optim.AdamW(named.values(), lr=RATE)
        first = _resume(training.work_folder / _CHECKPOINT, named)
        n_batches = -(-len(truth) // BATCH)
        for epoch in range(first, EPOCHS):
            # Seeded per epoch, so that a run that continues from a checkpoint sees the same order.
            order = torch.randperm(len(truth), generator=torch.Generator().manual_seed(training.seed + epoch))
            for number, rows in enumerate(order.split(BATCH)):
                training.yield_to_serving()
                if training.is_out_of_time:
                    break
                picked = _flipped({key: tensor[rows] for key, tensor in batch.items()})
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
    (training.folder / "README.md").unlink(missing_ok=True)  # peft's model card, which only a hub needs


def _prototypes(
    worn: Any, batch: dict[str, Any], truth: Any, embed: Callable[[Any, dict[str, Any]], Any]
) -> tuple[Any, Any]:
    """The mean embedding of all pictures, and a prototype per class: the class mean minus that, of length 1."""
    import torch

    network = worn.get_base_model()
    with torch.no_grad():
        rows = [
            embed(network, _moved({key: rows[start : start + BATCH] for key, rows in batch.items()}, network)).float()
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
    """Mirrors about half of the pictures, chosen at random, so that the weights do not learn the orientation."""
    import torch

    pixels = batch["pixel_values"]
    is_mirrored = (torch.rand(len(pixels)) < 0.5)[:, None, None, None]
    return {**batch, "pixel_values": torch.where(is_mirrored, pixels.flip(-1), pixels)}


def _moved(batch: dict[str, Any], network: Any) -> dict[str, Any]:
    return {
        key: tensor.to(network.device, network.dtype) if tensor.is_floating_point() else tensor.to(network.device)
        for key, tensor in batch.items()
    }


def _keep(file: Path, named: dict[str, Any], epoch: int) -> None:
    """Writes a checkpoint atomically, because the process may be killed at any moment."""
    from safetensors.torch import save_file

    partial = file.with_suffix(".partial")
    tensors = {f"p.{name}": weight.detach().float().cpu().contiguous() for name, weight in named.items()}
    save_file(tensors, str(partial), metadata={"epoch": str(epoch)})
    os.replace(partial, file)


def _resume(file: Path, named: dict[str, Any]) -> int:
    """Loads the weights of a checkpoint. Returns the number of epochs done, 0 if there is no checkpoint that fits.

    The optimizer starts from scratch: its moments settle within a few steps.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        return 0
    try:
        with safe_open(str(file), framework="pt") as kept, torch.no_grad():
            tensors = {name: kept.get_tensor(f"p.{name}") for name in named}
            # All shapes first, so that a checkpoint of other examples changes nothing.
            if any(tensors[name].shape != weight.shape for name, weight in named.items()):
                return 0
            for name, weight in named.items():
                weight.copy_(tensors[name])
            return int((kept.metadata() or {}).get("epoch", "0"))
    except (SafetensorError, OSError, ValueError):
        return 0
