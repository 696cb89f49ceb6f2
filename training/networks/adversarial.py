"""Losses in logits, differentiable augmentation and unrolled steps, for all adversarial pairs. No networks and no family here.

Logits are the discriminator's, above zero for "real"; losses are in nats, means over the batch.
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
SHIFT, HOLE = 1 / 8, 1 / 2  # shares of the side

Weights = dict[str, Tensor]


def discriminator_loss(kind: str, real: Tensor, fake: Tensor, targets: Tensor | float = 1.0) -> Tensor:
    """Return the loss of logits (B,) on real and made items.

    Cross-entropy with targets of the real items (Goodfellow et al., 2014, eq. 1, negated; targets below one are one-sided label smoothing,
    Salimans et al., 2016, section 3.4), or the hinge (Lim and Ye, 2017, arXiv 1705.02894), which knows no targets.
    """
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return (targets * F.softplus(-real) + (1 - targets) * F.softplus(real)).mean() + F.softplus(fake).mean()


def generator_loss(kind: str, fake: Tensor) -> Tensor:
    """Return the loss of the logits (B,) of made items: log(1 - D) itself (minimax), -log D (non-saturating; both Goodfellow et al., 2014, section 3),
    or -logit (hinge)."""
    if kind == "minimax":
        return -F.softplus(fake).mean()
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def targets(bounds: Sequence[float], n: int, generator: torch.Generator) -> Tensor | float:
    """Return targets of n real items, drawn evenly between the bounds; one number where they are equal."""
    low, high = bounds
    if low == high:
        return low
    drawn: Tensor = low + (high - low) * torch.rand(n, generator=generator, device=generator.device)
    return drawn


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Compute no gradient of the module's weights within the block. Gradients still flow through the module."""
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
    """Return images (B, C, H, W) in [-1, 1], each changed by draws of its own; gradients pass. DiffAugment, Zhao et al., 2020, arXiv 2006.10738.

    color: brightness, saturation, contrast; translation: by up to an eighth of the side; cutout: a square of half the side. Real and made
    items are both changed, so that the generator learns the data and not the changes.
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
    rows = _shifted(batch, height, generator)  # (B, H), one beyond the ends is background
    columns = _shifted(batch, width, generator)
    padded = F.pad(x, (1, 1, 1, 1), value=-1.0 if x.shape[1] == 1 else 0.0)
    item = torch.arange(batch, device=x.device)[:, None, None, None]
    channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    moved: Tensor = padded[item, channel, rows[:, None, :, None], columns[:, None, None, :]]
    return moved


def _shifted(batch: int, size: int, generator: torch.Generator) -> Tensor:
    """Return places 0 .. size + 1 of a side with one more at each end, moved by a draw for each item."""
    most = max(1, round(size * SHIFT))
    moves = torch.randint(-most, most + 1, (batch, 1), generator=generator, device=generator.device)
    return (torch.arange(size, device=generator.device) + moves + 1).clamp(0, size + 1)


def _cutout(x: Tensor, generator: torch.Generator) -> Tensor:
    batch, _, height, width = x.shape
    keep_rows, keep_columns = (_outside(batch, size, generator) for size in (height, width))
    return x * (keep_rows[:, None, :, None] | keep_columns[:, None, None, :]).to(x.dtype)


def _outside(batch: int, size: int, generator: torch.Generator) -> Tensor:
    """Return whether, (B, size), a place lies outside the hole."""
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
    """Return the weights after so many steps of Adam on `loss`, as a function that gradients pass through, the steps' own included.

    Unrolled GANs, Metz et al., 2016, arXiv 1611.02163, eq. 7: the generator's loss is taken at these weights. The moments start at zero.
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
            at[name] = weight - lr * mean / (square + eps**2).sqrt()  # the root's gradient is finite where it is zero
    return at
