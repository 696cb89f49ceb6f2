"""The building blocks that several families share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

LINE = 16  # number of float32 values in 64 bytes


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Return linear layers of the given sizes with ReLU between them (none after the last)."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def joined(x: Tensor, c: Tensor | None) -> Tensor:
    """Return x (B, D) and the condition (B, C), concatenated."""
    return x if c is None else torch.cat([x, c], 1)


def per_item(values: Tensor) -> Tensor:
    """Return the sum over all values of each item: (B, ...) to (B,).

    Each item is padded with zeros to a multiple of 64 bytes. Without it, ONNX Runtime's order of summation, and so the last bit, depends on
    the item's position in the batch, because the memory alignment of its row does.
    """
    flat = values.flatten(1)
    return nn.functional.pad(flat, (0, -flat.shape[1] % LINE)).sum(1)


def exact(x: Tensor) -> Tensor:
    """Convert to single precision at least.

    With mixed precision the outputs of networks have half precision. Nats are summed over hundreds of values, for which it is too coarse.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Affine(nn.Module):
    """A batch normalisation with fixed statistics: x scale + shift for each channel of images, or each unit of vectors (B, C)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None and norm.running_var is not None
        scale = torch.rsqrt(norm.running_var + norm.eps) * (1.0 if norm.weight is None else norm.weight)
        shift = (0.0 if norm.bias is None else norm.bias) - norm.running_mean * scale
        places = (
            (1, 1) if isinstance(norm, nn.BatchNorm2d) else ()
        )  # a channel of images has many values, a unit has one
        self.register_buffer("scale", scale.detach().view(-1, *places))
        self.register_buffer("shift", shift.detach().view(-1, *places))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def fix_norms(module: nn.Module) -> None:
    """Replace each batch normalisation below the module by an Affine.

    Otherwise the exporter folds batch normalisations into the convolutions before them. The folded weights are no longer exact in half
    precision, so weights that were rounded to float16 could not be stored as float16.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            setattr(module, name, Affine(child))
        else:
            fix_norms(child)


@torch.no_grad()
def round_weights(model: nn.Module, stored: str) -> None:
    """Round the parameters to the values of the stored precision. Their dtype stays float32."""
    if stored == "float16":
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
