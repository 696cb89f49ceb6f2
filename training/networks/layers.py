"""Building blocks that more than one family uses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

LINE = 16  # float32 numbers in 64 bytes


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Return linear layers of the given sizes with ReLU between them (none after the last)."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def per_item(values: Tensor) -> Tensor:
    """Return the sum over all dimensions of an item: (B, ...) to (B,).

    Every item is filled up with zeros to a multiple of 64 bytes: ONNX Runtime adds up in another order where a row begins elsewhere, and the
    last bit would depend on an item's place in the batch.
    """
    flat = values.flatten(1)
    return nn.functional.pad(flat, (0, -flat.shape[1] % LINE)).sum(1)


class Affine(nn.Module):
    """A batch normalisation with fixed statistics: x scale + shift by channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None and norm.running_var is not None
        scale = torch.rsqrt(norm.running_var + norm.eps) * (1.0 if norm.weight is None else norm.weight)
        shift = (0.0 if norm.bias is None else norm.bias) - norm.running_mean * scale
        self.register_buffer("scale", scale.detach()[:, None, None])
        self.register_buffer("shift", shift.detach()[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def fix_norms(module: nn.Module) -> None:
    """Put an Affine in the place of each batch normalisation below the module.

    An exporter folds batch normalisations into the convolutions before them, whose weights, rounded to half precision to be stored so, are then
    none that half precision holds.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, Affine(child))
        else:
            fix_norms(child)


@torch.no_grad()
def round_weights(model: nn.Module, stored: str) -> None:
    """Round the parameters, which stay float32, to the values that are stored."""
    if stored == "float16":
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
