"""The task `predict`: log-probabilities of all levels of the pixels of an image, from a latent or from codes. Lossless compression uses it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from manifold.runtime.manifest import InputSpec, TensorSpec
from manifold.training.exporting.tasks import Task
from manifold.training.likelihoods.base import DecoderLikelihood


class Predict(nn.Module):
    """Log-probabilities (B, K, C, H, W) from the inputs of a decoder, and from the data if the likelihood reads the earlier colours of a pixel."""

    def __init__(self, decoder: nn.Module, likelihood: DecoderLikelihood, shape: Sequence[int]) -> None:
        super().__init__()
        self.decoder, self.likelihood, self.shape = decoder, likelihood, tuple(shape)

    def forward(self, given: Tensor, *rest: Tensor) -> Tensor:
        """Take the inputs of the decoder in order, and then data (B, C, H, W) if it is read."""
        if self.likelihood.reads_colours:
            parameters, x = self.decoder(given, *rest[:-1]), rest[-1].flatten(1)
        else:
            parameters = self.decoder(given, *rest)
            x = parameters[:, :1].expand(-1, math.prod(self.shape))  # it is not read
        return self.likelihood.logits(parameters, x).reshape(-1, self.likelihood.levels, *self.shape)


def predicting(
    decoder: nn.Module, likelihood: DecoderLikelihood, shape: tuple[int, ...], inputs: Sequence[InputSpec]
) -> dict[str, Task]:
    """Return the task `predict` for a decoder with these inputs to parameters (B, width); nothing if the likelihood has no levels."""
    if not likelihood.levels:
        return {}
    data = [InputSpec(role="data", source="data", shape=shape)] if likelihood.reads_colours else []
    logits = TensorSpec(role="logits", shape=(likelihood.levels, *shape))
    return {"predict": Task(Predict(decoder, likelihood, shape), [*inputs, *data], [logits], max_rows=64)}
