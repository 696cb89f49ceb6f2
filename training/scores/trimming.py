"""Training without the most surprising items, which are treated as anomalies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manifold.training.batches import in_order
from manifold.training.data import Part


def least_surprising(nats: Tensor, trim: float) -> Tensor:
    """Return the indices of the items (N,) that remain after the share `trim` with the most nats is removed.

    Applied to each batch in training, this is iterative trimmed loss minimisation (Shen and Sanghavi, 2019, arXiv 1810.11874) in steps of one
    batch.
    """
    return nats.detach().topk(len(nats) - math.floor(trim * len(nats)), largest=False).indices.sort().values


def kept(model: Any, part: Part, trim: float, draws: int, seed: int) -> NDArray[np.int64]:
    """Return the indices of the items of a split that remain after the share `trim` with the highest -ELBO of a VAE is removed."""
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    nats = []
    for batch in in_order(part, 5000, generator):
        x = model.settled(batch.items)
        noise = torch.randn((draws, len(x), model.noise_size), generator=generator, device=x.device)
        reconstruction, kl = model.terms(x, noise, model.condition(batch.labels, batch.factors))
        nats.append(reconstruction + kl)
    return least_surprising(torch.cat(nats), trim).cpu().numpy()
