"""The tasks of autoencoders, as torch modules with descriptions: decode, encode, score, sample and neighbours.

A model is a families.vae.VAE, or a subclass. Its latents here are those of the artifact (see VAE).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from manifold.runtime.manifest import GaussianPrior, InputSpec, LatentSpec, Prior, TensorSpec, Term
from manifold.training.bounds import fixed_draws, repeated
from manifold.training.exporting.tasks import Task
from manifold.training.likelihoods.predicting import predicting
from manifold.training.networks.layers import per_item
from manifold.training.scores import distances
from manifold.training.scores.placement import Placement, carries

SCORE_DRAWS = 8  # number of draws from the posterior, fixed in the artifact, for the ELBO of the score task


class Decode(nn.Module):
    """The task `decode`: latent (B, L) and an optional condition (B, C) to the mean of p(x | z), (B, *shape)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, latent: Tensor, condition: Tensor | None = None) -> Tensor:
        data: Tensor = self.model.decoded(latent, condition)
        return data


class Sample(nn.Module):
    """The task `sample`: latent (B, L), an optional condition (B, C) and noise to x, drawn from p(x | z)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, latent: Tensor, *rest: Tensor) -> Tensor:
        c, noise = (rest[0], rest[1:]) if self.model.width else (None, rest)
        drawn: Tensor = self.model.likelihood.sample(self.model.generate(latent, c), *noise).view(-1, *self.model.shape)
        return drawn


class Encode(nn.Module):
    """The task `encode`: data (B, *shape) and an optional condition (B, C) to mean and, if it is defined, log_variance (B, L)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, data: Tensor, condition: Tensor | None = None) -> Any:
        mean, log_variance = self.model.encode(self.model.settled(data), condition)
        return mean if log_variance is None else (mean, log_variance)


class EncodeAndDraw(nn.Module):
    """The task `encode` of a model whose networks draw from the posterior: data, an optional condition and normals (B, N) to mean and draw (B, L).

    If the variance of each dimension is defined, log_variance (B, L) is the second output.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, data: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        x, c = self.model.settled(data), rest[0] if self.model.width else None
        mean, log_variance = self.model.encode(x, c)
        draw = self.model.drawn(x, rest[-1], c)
        return (mean, draw) if log_variance is None else (mean, log_variance, draw)


class Score(nn.Module):
    """The task `score`: data to the terms of `_terms`, in that order, and nats by pixel or column.

    The ELBO uses SCORE_DRAWS antithetic draws that are fixed here, so that scores are reproducible.
    """

    noise: Tensor

    def __init__(self, model: Any, place: Placement, seed: int) -> None:
        super().__init__()
        self.model, self.place = model, place
        self.register_buffer("noise", fixed_draws(SCORE_DRAWS, model.noise_size, seed))
        self.distances = distances.Distances(place, model.config.neighbours, model.likelihood)
        self.edges = place.edges

    def forward(self, data: Tensor, condition: Tensor | None = None) -> tuple[Tensor, ...]:
        model = self.model
        x = model.settled(data)
        mean, _ = model.encode(x, condition)
        placed = self.distances(mean, x)
        if not model.config.variational:
            parameters = model.generate(mean, condition)
            nll = model.likelihood.charged(parameters, x)
            return per_item(nll), *placed, *self._of_pixels(data, parameters), self._shaped(nll)
        if model.spec.one_unit:
            placed += self._of_pixels(data, model.generate(mean, condition))
        draws = model.draws(x, self.noise.expand(-1, x.shape[0], -1), condition)
        # (draws, B, ...): one run of the decoder for all draws
        nll = model.likelihood.charged(
            model.decode(draws.z, repeated(condition, SCORE_DRAWS)), x.repeat(SCORE_DRAWS, 1)
        )
        nll = nll.view(SCORE_DRAWS, -1, nll.shape[1]).mean(0)
        reconstruction, kl = per_item(nll), draws.divergence()
        return reconstruction, kl, reconstruction + kl, *placed, self._shaped(nll)

    def _of_pixels(self, data: Tensor, parameters: Tensor) -> list[Tensor]:
        """Return the mean squared error, if all values of the data have the same unit, and the terms of edges, for images."""
        if not self.model.spec.one_unit:
            return []
        differences = data.flatten(1) - self.model.likelihood.mean(parameters)
        edges = [] if self.edges is None else self.edges(data)
        return [per_item(differences**2) / differences.shape[1], *edges]

    def _shaped(self, nll: Tensor) -> Tensor:
        shape = self.model.spec.nats_shape
        return nll if len(shape) == 1 else nll.view(-1, *shape)


def tasks(model: Any, where: Placement, listed: list[Term]) -> dict[str, Task]:
    """Return the tasks of an autoencoder. `listed` are the terms of Score, in the same order."""
    config, spec, size = model.config, model.spec, model.latent_size
    items = InputSpec(role="data", source="data", shape=spec.shape, missing=spec.nullable)
    given = [InputSpec(role="condition", source="condition", shape=(model.width,))] if model.width else []
    output = TensorSpec(role="data", shape=spec.shape)
    latent_input = InputSpec(role="latent", source="latent", shape=(size,))
    scores = [*(TensorSpec(role=term.name) for term in listed), TensorSpec(role="surprise", shape=spec.nats_shape)]
    made = {
        "decode": Task(Decode(model), [latent_input, *given], [output]),
        "encode": encoding(model, [items, *given]),
        "score": Task(Score(model, where, config.seed), [items, *given], scores, max_rows=256),
    }
    if config.references and (carries(spec) or not model.width):
        k, held = config.neighbours, where.held
        module = distances.NearestLatents(model, where, k) if held is None else distances.NearestItems(model, held, k)
        made["neighbours"] = distances.task(module, items)
    if config.variational and not model.draws_in_graph and model.prior.normal:  # bits-back coding needs p(z) = N(0, I)
        made |= predicting(model, "generate", spec.shape, [latent_input, *given])
    if model.likelihood.noise:
        made["sample"] = Task(Sample(model), [latent_input, *given, *model.likelihood.noise], [output])
    return made


def encoding(model: Any, inputs: list[InputSpec]) -> Task:
    """Return the task `encode` of an autoencoder."""
    roles = ["mean"]
    if model.config.variational and model.has_variance:
        roles.append("log_variance")
    if not model.draws_in_graph:
        return Task(Encode(model), inputs, [TensorSpec(role=role, shape=(model.latent_size,)) for role in roles])
    noise = InputSpec(role="noise", source="normal", shape=(model.noise_size,))
    outputs = [TensorSpec(role=role, shape=(model.latent_size,)) for role in (*roles, "draw")]
    return Task(EncodeAndDraw(model), [*inputs, noise], outputs)


def latent(model: Any, where: Placement) -> LatentSpec:
    """Return the latent of the artifact with its priors: those that were trained, and a Gaussian fitted to the posterior means."""
    size = model.latent_size
    jitter = (
        1e-9 * where.covariance.diag().mean()
    )  # needed if an unused dimension has no variance, or if there are few items
    cholesky = torch.linalg.cholesky(where.covariance + jitter * torch.eye(size)).tolist()
    variational = model.config.variational
    priors: dict[str, Prior] = model.prior.specs(model.encode_inputs) if variational else {}
    priors["gaussian"] = GaussianPrior(mean=tuple(where.centre.tolist()), cholesky=tuple(map(tuple, cholesky)))
    return LatentSpec(
        size=model.latent_size,
        priors=priors,
        default_prior=next(iter(priors)),
        # a mixture does not lie on a sphere around 0
        interpolation="slerp" if variational and (model.prior.normal or model.prior.moved) else "lerp",
    )
