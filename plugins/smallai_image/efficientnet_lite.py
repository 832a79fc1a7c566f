"""EfficientNet-Lite0 (Tan and Le 2019, arXiv:1905.11946; the Lite variant of the TPU model garden), inference only.

Modules are named as in the efficientnet-lite-pytorch package, so that its state dict loads strictly. The Lite variant
has no squeeze-and-excitation, uses ReLU6 instead of swish, and does not scale the stem and the head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping

IMAGE_SIZE = 224
N_CLASSES = 1000
N_FEATURES = 1280

_STEM_CHANNELS = 32
# (repeats, kernel, stride, expansion, channels), from efficientnet_lite_builder.py
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SameConv(nn.Conv2d):  # type: ignore[misc]  # torch is untyped here
    """A convolution with TensorFlow's SAME padding: an odd pixel of padding goes to the right and to the bottom."""

    def __init__(self, n_in: int, n_out: int, *, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(n_in, n_out, kernel, stride, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        # Pixels of padding in all, so that the output has ceil(n / stride) pixels; -(-n // stride) is that ceiling.
        rows, columns = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
        if rows % 2 == 0 and columns % 2 == 0:
            padding = (rows // 2, columns // 2)  # the convolution pads by itself, which saves a copy
        else:
            x = functional.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
            padding = (0, 0)
        return functional.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


def _norm(n_channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(n_channels, eps=1e-3)  # TensorFlow's epsilon, not torch's


class Block(nn.Module):  # type: ignore[misc]
    """The inverted residual of MobileNetV2 (Sandler et al. 2018): expand, filter each channel, project."""

    def __init__(self, n_in: int, n_out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        n_mid = n_in * expansion
        self.expands = expansion != 1
        self.is_residual = stride == 1 and n_in == n_out
        if self.expands:
            self._expand_conv = SameConv(n_in, n_mid)
            self._bn0 = _norm(n_mid)
        self._depthwise_conv = SameConv(n_mid, n_mid, kernel=kernel, stride=stride, groups=n_mid)
        self._bn1 = _norm(n_mid)
        self._project_conv = SameConv(n_mid, n_out)
        self._bn2 = _norm(n_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.is_residual else y


class EfficientNetLite0(nn.Module):  # type: ignore[misc]
    """4.65 million parameters; 75.1 % top-1 on ImageNet-1k."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, _STEM_CHANNELS, kernel=3, stride=2)
        self._bn0 = _norm(_STEM_CHANNELS)
        blocks, n_in = [], _STEM_CHANNELS
        for repeats, kernel, stride, expansion, n_out in _STAGES:
            for repeat in range(repeats):
                first = stride if repeat == 0 else 1  # only the first block of a stage reduces the resolution
                blocks.append(Block(n_in, n_out, kernel=kernel, stride=first, expansion=expansion))
                n_in = n_out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SameConv(n_in, N_FEATURES)
        self._bn1 = _norm(N_FEATURES)
        self._fc = nn.Linear(N_FEATURES, N_CLASSES)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the pooled features, shape (n, 1280).

        Args:
            x: pictures as `(rgb - 127) / 128`, shape (n, 3, 224, 224).
        """
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return functional.relu6(self._bn1(self._conv_head(x))).mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits, shape (n, 1000), of the same input as `features`."""
        return self._fc(self.features(x))


def build(state: Mapping[str, torch.Tensor]) -> EfficientNetLite0:
    """Returns the network with these weights, ready for inference.

    Raises:
        RuntimeError: a name is missing or unknown, or a shape differs.
    """
    # On the meta device the layers have no memory; `assign` puts the given tensors in their place without a copy.
    with torch.device("meta"):
        network = EfficientNetLite0()
    network.load_state_dict(dict(state), strict=True, assign=True)
    network.eval().requires_grad_(False)
    return network
