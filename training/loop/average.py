"""The moving average of a model's weights: what is evaluated and exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

UNIT_VECTORS = ("._u", "._v")  # torch's names for them


class Average:
    """Exponential moving average of weights and floating-point buffers (batch norm's too); others are copied, and so are the vectors
    of power iterations (spectral norms), as an average of unit vectors is none.

    The decay grows as (1 + step) / (10 + step) up to its value, so that short runs are not held back by their first weights.
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

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the model, for the block."""
        own = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.shadow)
        try:
            yield
        finally:
            self.model.load_state_dict(own)
