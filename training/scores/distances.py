"""Modules of graphs: distances of an item to where the training items lie, and the nearest of those."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from manifold.runtime.kinds import Kind
from manifold.training.likelihoods import DecoderLikelihood
from manifold.training.networks.layers import per_item
from manifold.training.scores.neighbours import Neighbours
from manifold.training.scores.placement import Placement, Posterior


class Distances(nn.Module):
    """The posterior means (B, L) and the items (B, D) to the distances of `terms.distances`, in that order, (B,) each.

    The encoder cannot place a value that training never saw, so such values add to the squared distances. In the whitened latent space a
    squared distance is twice the nats of a Gaussian above its centre: a value that costs c nats adds 2 c there. Among encoded columns two
    categories are at the squared distance 2, one for each of their columns, and so is an unseen one from every other.
    """

    centre: Tensor
    whitening: Tensor

    def __init__(self, place: Placement, k: int, likelihood: DecoderLikelihood) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.register_buffer("centre", place.centre.float())
        self.register_buffer("whitening", place.whitening.float())
        self.in_latent = None if place.latents is None else Neighbours(place.latents, k)
        self.in_input = None if place.inputs is None else Neighbours(place.inputs, k)

    def forward(self, mean: Tensor, x: Tensor) -> list[Tensor]:
        placed = (mean - self.centre) @ self.whitening
        in_latent = in_input = None
        if self.likelihood.unseen is not None:
            unseen, in_input = self.likelihood.unseen(x), added(self.likelihood, x)
            in_latent = per_item(2 * self.likelihood.unseen.nats * unseen)
        squared = per_item(placed**2)
        distances = [(squared if in_latent is None else squared + in_latent).sqrt()]
        if self.in_latent is not None:
            distances.append(self.in_latent(placed, in_latent))
        if self.in_input is not None:
            distances.append(self.in_input(self.likelihood.evidence(x), in_input))
        return distances


def added(likelihood: DecoderLikelihood, x: Tensor) -> Tensor | None:
    """Return what unseen values of items (B, D) add to their squared distances to other items, (B,); None if every value is possible."""
    return None if likelihood.unseen is None else per_item(likelihood.unseen.squares * likelihood.unseen(x))


class Places(Protocol):
    """A model that places items in a latent space."""

    shape: tuple[int, ...]
    spec: Kind
    likelihood: DecoderLikelihood

    def settled(self, data: Tensor) -> Tensor:
        """Return items (B, *shape) as the encoder takes them, (B, D)."""
        ...

    def encode(self, x: Tensor, c: Tensor | None = None) -> Posterior:
        """Return the posterior of settled items."""
        ...

    def decoded(self, latents: Tensor) -> Tensor:
        """Return the mean of p(x | z) for latents (B, L), (B, *shape)."""
        ...


class NearestItems(nn.Module):
    """data to the k nearest references (B, k, *shape) and their distances (B, k).

    If some references have missing values, a mask (B, k, D) of the others comes third.
    """

    known: Tensor
    usual: Tensor

    def __init__(self, model: Places, place: Placement, k: int) -> None:
        super().__init__()
        self.model, self.masked = model, place.known is not None
        assert place.inputs is not None
        self.nearest = Neighbours(place.inputs, k)
        self.register_buffer("usual", torch.from_numpy(model.spec.constants))
        if place.known is not None:
            self.register_buffer("known", place.known)

    def forward(self, data: Tensor) -> tuple[Tensor, ...]:
        x, likelihood = self.model.settled(data), self.model.likelihood
        nearest, distances = self.nearest.find(likelihood.evidence(x), added(likelihood, x))
        items = self.nearest.points[nearest] + self.usual
        return (items, distances, self.known[nearest]) if self.masked else (items, distances)


class NearestLatents(nn.Module):
    """data to the k references that are nearest in latent space, decoded (B, k, *shape), and their distances (B, k)."""

    centre: Tensor
    whitening: Tensor
    unwhitening: Tensor

    def __init__(self, model: Places, place: Placement, k: int) -> None:
        super().__init__()
        self.model, self.masked = model, False
        assert place.latents is not None
        self.nearest = Neighbours(place.latents, k)
        self.register_buffer("centre", place.centre.float())
        self.register_buffer("whitening", place.whitening.float())
        self.register_buffer("unwhitening", torch.linalg.inv(place.whitening).float())

    def forward(self, data: Tensor) -> tuple[Tensor, ...]:
        mean, _ = self.model.encode(self.model.settled(data))
        nearest, distances = self.nearest.find((mean - self.centre) @ self.whitening)
        latents = self.nearest.points[nearest] @ self.unwhitening + self.centre
        items = self.model.decoded(latents.flatten(0, 1))
        return items.view(-1, self.nearest.k, *self.model.shape), distances
