"""The phases of a training, with their players and losses. A family defines them, and the training loop runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from manifold.training.batches import Batch
from manifold.training.loop.watching import Watch

Losses = dict[str, Tensor]  # scalars in nats; "loss" is minimised


@dataclass(frozen=True)
class Player:
    """A set of parameters with its own optimiser and loss. The players of a phase take turns in each step (an adversarial pair has two).

    With mixed precision the loop calls the loss under torch's autocast: matrix products and convolutions have half precision. The outputs of
    networks are converted to single precision before nats are computed (`networks.layers.exact`), and computations that need it throughout,
    such as the choice of a codebook's entries, turn autocast off. Batches, weights, averages and optimisers always have single precision.
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    loss: Callable[[Batch], Losses]
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)  # for the optimizer adam
    weight_decay: float = 0.0  # decoupled, for every optimizer (loop.optimizers)


@dataclass(frozen=True)
class Phase:
    """A set of players that are trained together, with an optional watch. Phases run one after another."""

    name: str
    players: tuple[Player, ...]
    epochs: int
    watch: Watch | None = None
