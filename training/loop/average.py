"""The moving average of a model's weights, which is evaluated and exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

UNIT_VECTORS = ("._u", "._v")  # torch's names for the vectors of power iterations


class Average:
    """An exponential moving average of weights and floating-point buffers, including those of batch normalisation.

    Other buffers are copied. The vectors of power iterations (spectral norms) are copied too, as an average of unit vectors is not a unit
    vector. The decay grows as (1 + step) / (10 + step) up to its value, so that the first weights have little influence in short runs.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.shadow = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the model's weights."""
        decay = min(self.decay, (1 + step) / (10 + step))
        floats, weights = [], []
        for name, value in self.model.state_dict().items():
            if value.is_floating_point() and not name.endswith(UNIT_VECTORS):
                floats.append(self.shadow[name])
                weights.append(value.detach())
            else:
                self.shadow[name].copy_(value)
        torch._foreach_lerp_(floats, weights, 1 - decay)

    def exchange(self, other: Average) -> None:
        """Exchange weights and decay with another average of the same model."""
        self.shadow, other.shadow = other.shadow, self.shadow
        self.decay, other.decay = other.decay, self.decay

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Replace the model's weights by the average within the block."""
        own = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.shadow)
        try:
            yield
        finally:
            self.model.load_state_dict(own)
