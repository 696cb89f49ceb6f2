"""The losses, the differentiable augmentation and the unrolled steps of adversarial pairs. This file contains no networks and no family.

Logits are those of the discriminator; above zero means "real". Losses are means over the batch, in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Loss = Literal["non-saturating", "minimax", "hinge"]
Policy = Literal["color", "translation", "cutout"]
SHIFT, HOLE = 1 / 8, 1 / 2  # largest shift and size of the cutout, as shares of the side

Weights = dict[str, Tensor]


def discriminator_loss(kind: str, real: Tensor, fake: Tensor, targets: Tensor | float = 1.0) -> Tensor:
    """Return the discriminator's loss for the logits (B,) of real and generated items.

    It is the cross-entropy with targets for the real items (Goodfellow et al., 2014, eq. 1, negated; targets below one are one-sided label
    smoothing, Salimans et al., 2016, section 3.4), or the hinge loss (Lim and Ye, 2017, arXiv 1705.02894), which does not use targets.
    """
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return (targets * F.softplus(-real) + (1 - targets) * F.softplus(real)).mean() + F.softplus(fake).mean()


def generator_loss(kind: str, fake: Tensor) -> Tensor:
    """Return the generator's loss for the logits (B,) of generated items.

    It is log(1 - D) (minimax), -log D (non-saturating; both Goodfellow et al., 2014, section 3), or -logit (hinge).
    """
    if kind == "minimax":
        return -F.softplus(fake).mean()
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def targets(bounds: Sequence[float], n: int, generator: torch.Generator) -> Tensor | float:
    """Return targets for n real items, drawn uniformly between the bounds. Equal bounds give one number."""
    low, high = bounds
    if low == high:
        return low
    drawn: Tensor = low + (high - low) * torch.rand(n, generator=generator, device=generator.device)
    return drawn


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Compute no gradients for the module's weights within the block. Gradients still flow through the module."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


# --- differentiable augmentation ----------------------------------------------------------------------------------------------


def augment(x: Tensor, policies: Sequence[str], generator: torch.Generator) -> Tensor:
    """Augment images (B, C, H, W) in [-1, 1], each with its own random numbers (DiffAugment, Zhao et al., 2020, arXiv 2006.10738).

    Gradients pass through. color: brightness, saturation, contrast; translation: by up to an eighth of the side; cutout: a square of half
    the side. Real and generated items are both augmented, so that the generator learns the data and not the augmentation.
    """
    for policy in policies:
        x = _CHANGES[policy](x, generator)
    return x


def _color(x: Tensor, generator: torch.Generator) -> Tensor:
    brightness, saturation, contrast = torch.rand((3, len(x), 1, 1, 1), generator=generator, device=x.device)
    x = x + (brightness - 0.5)
    mean = x.mean(1, keepdim=True)
    x = (x - mean) * (2 * saturation) + mean
    mean = x.mean((1, 2, 3), keepdim=True)
    changed: Tensor = (x - mean) * (contrast + 0.5) + mean
    return changed


def _translation(x: Tensor, generator: torch.Generator) -> Tensor:
    batch, _, height, width = x.shape
    rows = _shifted(batch, height, generator)  # (B, H); 0 and H + 1 are background
    columns = _shifted(batch, width, generator)
    padded = F.pad(x, (1, 1, 1, 1), value=-1.0 if x.shape[1] == 1 else 0.0)
    item = torch.arange(batch, device=x.device)[:, None, None, None]
    channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    moved: Tensor = padded[item, channel, rows[:, None, :, None], columns[:, None, None, :]]
    return moved


def _shifted(batch: int, size: int, generator: torch.Generator) -> Tensor:
    """Return shifted positions (B, size), one random shift per item, in a side with one more position at each end: 0 .. size + 1."""
    most = max(1, round(size * SHIFT))
    moves = torch.randint(-most, most + 1, (batch, 1), generator=generator, device=generator.device)
    return (torch.arange(size, device=generator.device) + moves + 1).clamp(0, size + 1)


def _cutout(x: Tensor, generator: torch.Generator) -> Tensor:
    batch, _, height, width = x.shape
    keep_rows, keep_columns = (_outside(batch, size, generator) for size in (height, width))
    return x * (keep_rows[:, None, :, None] | keep_columns[:, None, None, :]).to(x.dtype)


def _outside(batch: int, size: int, generator: torch.Generator) -> Tensor:
    """Return whether each position is outside the cutout, (B, size)."""
    length = round(size * HOLE)
    middle = torch.randint(0, size + 1, (batch, 1), generator=generator, device=generator.device)
    place = torch.arange(size, device=generator.device)
    return (place < middle - length // 2) | (place >= middle - length // 2 + length)


_CHANGES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "color": _color, "translation": _translation, "cutout": _cutout,
}  # fmt: skip


# --- unrolled steps -----------------------------------------------------------------------------------------------------------


def unrolled(
    weights: Mapping[str, Tensor],
    loss: Callable[[Weights], Tensor],
    steps: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> Weights:
    """Return the weights after `steps` steps of Adam on `loss`. Gradients pass through the result, including those of the steps themselves.

    Unrolled GANs (Metz et al., 2016, arXiv 1611.02163, eq. 7) evaluate the generator's loss at these weights. Adam's moments start at zero.
    """
    at = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    first = {name: torch.zeros_like(weight) for name, weight in at.items()}
    second = {name: torch.zeros_like(weight) for name, weight in at.items()}
    for step in range(1, steps + 1):
        gradients = torch.autograd.grad(loss(at), list(at.values()), create_graph=True)
        for (name, weight), gradient in zip(list(at.items()), gradients, strict=True):
            first[name] = betas[0] * first[name] + (1 - betas[0]) * gradient
            second[name] = betas[1] * second[name] + (1 - betas[1]) * gradient**2
            mean, square = first[name] / (1 - betas[0] ** step), second[name] / (1 - betas[1] ** step)
            # eps inside the root keeps its gradient finite at 0
            at[name] = weight - lr * mean / (square + eps**2).sqrt()
    return at
