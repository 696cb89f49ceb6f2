"""Phases of players, with their losses: a family defines them, the loop runs them. No loop here, and no family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from manifold.training.batches import Batch
from manifold.training.loop.watching import Watch

Losses = dict[str, Tensor]  # scalars in nats; "loss" is the one that is minimised


@dataclass(frozen=True)
class Player:
    """Parameters with their own optimiser and loss. Players of one phase take turns within each step (an adversarial pair has two)."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    loss: Callable[[Batch], Losses]
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0  # decoupled, AdamW's


@dataclass(frozen=True)
class Phase:
    """Players that train together, and who watches them. Phases run one after another."""

    name: str
    players: tuple[Player, ...]
    epochs: int
    watch: Watch | None = None
