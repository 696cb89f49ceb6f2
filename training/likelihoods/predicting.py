"""The task `predict`: log-probabilities of all levels of the pixels of an image, from a latent or from codes. Lossless compression uses it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from manifold.runtime.manifest import InputSpec, TensorSpec
from manifold.training.exporting.tasks import Task

ROWS = 64  # largest batch of a run
VALUES = 2**23  # log-probabilities of a run, about: a graph holds several arrays of this size, of 32 MiB each


class Predict(nn.Module):
    """Log-probabilities (B, K, C, H, W) from the inputs of a decoder, and from the data if the likelihood reads the earlier colours of a pixel."""

    def __init__(self, model: nn.Module, decode: str, shape: Sequence[int]) -> None:
        """Initialise. `decode` is the method of the model that maps its inputs to parameters (B, width)."""
        super().__init__()
        self.model, self.decode, self.shape = model, decode, tuple(shape)

    def forward(self, given: Tensor, *rest: Tensor) -> Tensor:
        """Take the inputs of the decoder in order, and then data (B, C, H, W) if it is read."""
        likelihood: Any = self.model.likelihood
        read = rest[-1:] if likelihood.reads_colours else ()
        parameters = getattr(self.model, self.decode)(given, *rest[: len(rest) - len(read)])
        x = (
            read[0].flatten(1) if read else parameters[:, :1].expand(-1, math.prod(self.shape))
        )  # the latter is not read
        logits: Tensor = likelihood.logits(parameters, x)
        return logits.reshape(-1, likelihood.levels, *self.shape)


def predicting(model: nn.Module, decode: str, shape: tuple[int, ...], inputs: Sequence[InputSpec]) -> dict[str, Task]:
    """Return the task `predict` of a model whose method `decode` has these inputs; nothing if its likelihood has no levels."""
    likelihood: Any = model.likelihood
    if not likelihood.levels:
        return {}
    data = [InputSpec(role="data", source="data", shape=shape)] if likelihood.reads_colours else []
    logits = TensorSpec(role="logits", shape=(likelihood.levels, *shape))
    rows = max(1, min(ROWS, VALUES // math.prod(logits.shape)))
    return {"predict": Task(Predict(model, decode, shape), [*inputs, *data], [logits], max_rows=rows)}
