"""The strided convolutions of an autoencoder, which map images to features and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from manifold.training.errors import TrainingError
from manifold.training.networks import dcgan


def convolutions(
    widths: Sequence[int], shape: tuple[int, ...], outputs: int, rules: Sequence[str] | None = None
) -> tuple[nn.Sequential, nn.Sequential, int]:
    """Return layers of stride 2 from images (B, C H W) to features (B, F), the reverse layers to (B, outputs H W), and F.

    With `rules`, they are the two halves of a DCGAN with those rules. Raises TrainingError if the image size cannot be halved often enough.
    """
    if len(shape) != 3 or any(side % 2 ** len(widths) for side in shape[1:]):
        raise TrainingError(
            f"body: {len(widths)} widths halve the image size {len(widths)} times, but {list(shape)} does not allow it; use fewer widths, or body 'mlp'",
            field="body",
        )
    channels, height, width = shape
    small = (widths[-1], height // 2 ** len(widths), width // 2 ** len(widths))
    if rules is not None:
        reads = nn.Sequential(nn.Unflatten(1, shape), dcgan.down(channels, widths, rules), nn.Flatten())
        makes = dcgan.Up(tuple(reversed(widths)), outputs, rules)
        return reads, nn.Sequential(nn.Unflatten(1, small), makes, nn.Flatten()), math.prod(small)
    down: list[nn.Module] = [nn.Unflatten(1, shape)]
    up: list[nn.Module] = [nn.ReLU(), nn.Unflatten(1, small)]
    for before, after in pairwise([channels, *widths]):
        down += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
    for before, after in pairwise([*reversed(widths), outputs]):
        up += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*down, nn.Flatten()), nn.Sequential(*up[:-1], nn.Flatten()), math.prod(small)
