"""The graph modules for distances from an item to the training items, and for the nearest of these."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from manifold.runtime.kinds import Kind
from manifold.runtime.manifest import InputSpec, TensorSpec
from manifold.training.exporting.tasks import Task
from manifold.training.likelihoods import DecoderLikelihood
from manifold.training.networks.layers import per_item
from manifold.training.scores.neighbours import Neighbours
from manifold.training.scores.placement import Placement, Posterior, References


class Distances(nn.Module):
    """The distances of `terms.distances`, in that order, (B,) each, computed from posterior means (B, L) and items (B, D).

    The encoder cannot place a value that did not occur in training (an unseen value), so such values add to the squared distances. In the
    whitened latent space a squared distance is twice the nats of a Gaussian relative to its centre, so an unseen value that costs c nats adds
    2 c. In encoded columns two different categories have the squared distance 2, so an unseen category also has 2 to all others.
    """

    centre: Tensor
    whitening: Tensor

    def __init__(self, place: Placement, k: int, likelihood: DecoderLikelihood) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.register_buffer("centre", place.centre.float())
        self.register_buffer("whitening", place.whitening.float())
        self.in_latent = None if place.latents is None else Neighbours(place.latents, k)
        self.in_input = None if place.held is None else Neighbours(place.held.inputs, k)

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
    """Return the amount (B,) that unseen values of items (B, D) add to squared distances; None if there can be no unseen values."""
    return None if likelihood.unseen is None else per_item(likelihood.unseen.squares * likelihood.unseen(x))


class HasRows(Protocol):
    """The interface of a model that encodes items as rows of numbers."""

    shape: tuple[int, ...]
    spec: Kind
    likelihood: DecoderLikelihood

    def settled(self, data: Tensor) -> Tensor:
        """Convert items (B, *shape) to the encoder's input, (B, D)."""
        ...

    def evidence(self, x: Tensor) -> Tensor:
        """Return items that `settled` returned without missing values, (B, D)."""
        ...


class Places(HasRows, Protocol):
    """The interface of a model that maps items into a latent space."""

    def encode(self, x: Tensor, c: Tensor | None = None) -> Posterior:
        """Return the posterior of items that `settled` returned."""
        ...

    def decoded(self, latents: Tensor) -> Tensor:
        """Return the mean of p(x | z), (B, *shape), for latents (B, L)."""
        ...


class NearestItems(nn.Module):
    """The k reference items that are nearest to each item, (B, k, *shape), and their distances (B, k).

    If some references have missing values, the third output is a mask (B, k, D) of the values that are present.
    """

    known: Tensor
    usual: Tensor

    def __init__(self, model: HasRows, held: References, k: int) -> None:
        super().__init__()
        self.model, self.masked = model, held.known is not None
        self.nearest = Neighbours(held.inputs, k)
        self.register_buffer("usual", torch.from_numpy(model.spec.constants))
        if held.known is not None:
            self.register_buffer("known", held.known)

    def forward(self, data: Tensor) -> tuple[Tensor, ...]:
        x = self.model.settled(data)
        nearest, distances = self.nearest.find(self.model.evidence(x), added(self.model.likelihood, x))
        items = self.nearest.points[nearest] + self.usual
        return (items, distances, self.known[nearest]) if self.masked else (items, distances)


class NearestLatents(nn.Module):
    """The k references that are nearest to each item in latent space, decoded (B, k, *shape), and their distances (B, k)."""

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


def task(module: NearestItems | NearestLatents, items: InputSpec) -> Task:
    """Return the task `neighbours` of a module, with the nearest items, their distances and, if some lack values, the mask of present values."""
    shape = (module.nearest.k, *items.shape)
    near = [TensorSpec(role="nearest", shape=shape), TensorSpec(role="distance", shape=shape[:1])]
    known = [TensorSpec(role="known", shape=shape)] if module.masked else []
    return Task(module, [items], [*near, *known], max_rows=256)
