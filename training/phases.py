"""What a family hands to the loop: recipes, batches, and phases of players. No loop here, and no family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from manifold.training.batches import Batch
from manifold.training.errors import TrainingError
from manifold.training.loop.watching import Watch

SCHEDULES = ("constant", "cosine")
STORED = ("float32", "float16")


@dataclass(frozen=True)
class Recipe:
    """Options that every family has. A family's `Config` adds its own; unknown keys are refused."""

    epochs: int = 10
    epoch_steps: int = 0  # steps of an epoch; 0 is one pass over the data, which of a small table is over in a moment
    batch_size: int = 128
    lr: float = 1e-3  # Adam's
    schedule: str = "constant"  # or "cosine", to a hundredth of lr over the phase
    clip_norm: float = 1.0  # of the gradient; 0 is off
    ema: float = 0.999  # decay of the weights' moving average, which is what gets exported; 0 is off
    stored: str = (
        "float32"  # or "float16": weights are rounded to it before they are judged and exported, at half the size
    )
    test_items: int = 10_000  # at most so many of the test part for the curve
    seed: int = 0

    def __post_init__(self) -> None:
        self.at_least(epochs=1, epoch_steps=0, batch_size=1, clip_norm=0, ema=0, test_items=1, seed=0)
        self.above_zero("lr")
        if self.ema >= 1:
            raise TrainingError(f"ema: {self.ema} is not below 1", field="ema")
        self.one_of("schedule", SCHEDULES)
        self.one_of("stored", STORED)

    def at_least(self, **least: float) -> None:
        """Raises TrainingError for the first of the named options that is below its least value."""
        for key, value in least.items():
            if not getattr(self, key) >= value:
                raise TrainingError(f"{key}: {getattr(self, key)} is below {value}", field=key)

    def one_of(self, key: str, valid: Sequence[str]) -> None:
        """Raises TrainingError where the named option is none of the valid ones."""
        if getattr(self, key) not in valid:
            raise TrainingError(
                f"{key}: unknown {getattr(self, key)!r}; valid are {', '.join(valid)}", field=key, valid=list(valid)
            )

    def above_zero(self, *keys: str) -> None:
        """Raises TrainingError for the first of the named options that is not above zero."""
        for key in keys:
            if not getattr(self, key) > 0:
                raise TrainingError(f"{key}: {getattr(self, key)} is not above 0", field=key)


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
