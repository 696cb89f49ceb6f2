"""What a family hands to the loop: recipes, batches, and phases of players. No loop here, and no family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Recipe:
    """Options that every family has. A family's `Config` adds its own; unknown keys are refused."""

    epochs: int = 10
    batch_size: int = 128
    lr: float = 1e-3  # Adam's
    schedule: str = "constant"  # or "cosine", to a hundredth of lr over the phase
    clip_norm: float = 1.0  # of the gradient; 0 is off
    ema: float = 0.999  # decay of the weights' moving average, which is what gets exported; 0 is off
    test_items: int = 10_000  # at most so many of the test part for the curve
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """A batch on the device. The generator is the only source of chance in a loss."""

    items: Tensor  # float32 (B, *shape): images in [0, 1], or encoded rows
    labels: Tensor  # int64 (B,), -1 where there are none
    generator: torch.Generator
    epoch: float  # how far training is, for warm-ups


Losses = dict[str, Tensor]  # scalars in nats; "loss" is the one that is minimised


@dataclass(frozen=True)
class Player:
    """Parameters with their own optimiser and loss. Players of one phase take turns within each step (an adversarial pair has two)."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    loss: Callable[[Batch], Losses]
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class Phase:
    """Players that train together. Phases run one after another."""

    name: str
    players: tuple[Player, ...]
    epochs: int
