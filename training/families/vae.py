"""Variational autoencoder (Kingma and Welling, 2013, arXiv 1312.6114), and with `variational=False` its deterministic half.

The recipe: an MLP D-392-196-2L, or strided convolutions before it, its mirror image as the decoder, one of six likelihoods, KL in closed
form (appendix B of the paper).
The ELBO is eq. 3 with the analytic KL; the importance-weighted bound is Burda et al., 2015 (arXiv 1509.00519), eq. 8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.manifest import (
    COMBINED,
    Combination,
    GaussianPrior,
    InputSpec,
    LatentSpec,
    Likelihood,
    Metric,
    NormalPrior,
    Prior,
    Scoring,
    TensorSpec,
    Term,
)
from manifold.training import likelihoods
from manifold.training.batches import Batch, in_order
from manifold.training.data import Data, Part
from manifold.training.data.parts import subset
from manifold.training.errors import TrainingError
from manifold.training.exporting.tasks import Exports, Task
from manifold.training.networks import dcgan
from manifold.training.networks.layers import Neighbours, mlp, per_item
from manifold.training.phases import Losses, Phase, Player, Recipe

SCORE_DRAWS = 8  # draws from the posterior, fixed in the artifact, for the ELBO of the score task
# what is combined where nothing is said (benchmarks/anomaly.py and benchmarks/adbench.py have the figures)
AUTO_IMAGE = "fisher:squared_error,latent_neighbours"
AUTO_TABLE = "fisher:reconstruction,latent_neighbours,input_neighbours"
AUTO_MIXED = "fisher:reconstruction,negative_elbo,latent_distance,input_neighbours"  # training rows may hold anomalies
MAX_TRIM = 0.5
TRIM_AFTER = 1 / 3  # of the epochs: before, a minority of the normal items is as strange as an anomaly
# a unit is active where its posterior mean varies by more than this over the data (Burda et al., section 5.1)
ACTIVE = 0.01


@dataclass(frozen=True)
class Config(Recipe):
    """Options of the family."""

    latent_dim: int = 20
    hidden: tuple[int, ...] = (392, 196)  # sizes of the encoder's layers; the decoder mirrors them
    body: str = "mlp"  # or "conv": convolutions that halve the image before those layers, and mirror them after; "dcgan": by its rules
    widths: tuple[int, ...] = (32, 64)  # channels of the convolutions
    rules: tuple[str, ...] = dcgan.RULES  # of DCGAN, that its body keeps
    variational: bool = True  # False: a deterministic autoencoder, no KL, sampled from a Gaussian fitted to its latents
    likelihood: str = (
        "auto"  # bernoulli for images, columns for tables; or gaussian, gaussian-learned, laplace, logistic
    )
    noise: float = 0.1  # sigma of the Gaussian, b of the Laplace, the logistic's scale at first
    floor: float = 0.05  # smallest sigma where it is learned
    beta: float = 1.0  # weight of the KL (Higgins et al., 2017)
    samples: int = 1  # L, Monte-Carlo draws from the posterior for each item
    kl_warmup: float = 0.0  # epochs over which the KL's weight grows from 0 to beta
    iwae_k: int = 500  # importance samples of the reported bound
    references: int = 2000  # training items that the artifact carries, to measure distances to the nearest; 0 is none
    neighbours: int = 5  # k, of them
    score: str = "auto"  # a term, or terms to be combined: fisher:TERM,TERM or min-p:TERM,TERM
    trim: float = (
        0.0  # share of the training items that is taken for anomalies and left out, once a third of the epochs is over
    )

    least_latent = 1  # 0 where a family chooses the size by the data

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(
            latent_dim=self.least_latent, beta=0, samples=1, kl_warmup=0, iwae_k=1, references=0, neighbours=1
        )
        self.above_zero("noise", "floor")
        if not 0 <= self.trim <= MAX_TRIM:
            raise TrainingError(f"trim: {self.trim} must be from 0 to {MAX_TRIM}", field="trim")
        self.one_of("body", ("mlp", "conv", "dcgan"))
        dcgan.check_rules(self.rules)
        for key in ("hidden", "widths"):
            if min(getattr(self, key), default=1) < 1:
                raise TrainingError(f"{key}: {list(getattr(self, key))} must be sizes of at least 1", field=key)


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"epochs": 2, "hidden": (64, 32), "test_items": 200, "iwae_k": 5, "ema": 0.9},
    "cpu": {"epochs": 60},
    "gpu": {"epochs": 400, "schedule": "cosine"},
}


class VAE(nn.Module):
    """q(z | x) = N(mean, diag exp(log_variance)), p(z) = N(0, I), p(x | z) by likelihood. Arrays are (B, D) inside.

    Everything is given a condition c (B, `width`) where there is one: q(z | x, c) and p(x | z, c), by joining it to what goes in.
    """

    def __init__(self, config: Config, data: Data, width: int = 0) -> None:
        super().__init__()
        if config.likelihood == "auto":
            config = replace(config, likelihood="columns" if isinstance(data.spec, TableSpec) else "bernoulli")
        self.config, self.shape, self.width = config, data.spec.shape, width
        self.tabular = isinstance(data.spec, TableSpec)
        dimensions = math.prod(self.shape)
        self.likelihood = likelihoods.build(
            config.likelihood, data.spec, noise=config.noise, floor=config.floor, rows=len(data.train)
        )
        self.down: nn.Module = nn.Identity()
        self.up: nn.Module = nn.Identity()
        inside, outside = dimensions, self.likelihood.width
        if config.body != "mlp":
            rules = config.rules if config.body == "dcgan" else None
            outputs = self.likelihood.width // dimensions
            self.down, self.up, inside = convolutions(config.widths, self.shape, outputs, rules)
            outside = inside
        self.encoder = mlp([inside + width, *config.hidden, config.latent_dim * (2 if config.variational else 1)])
        self.decoder = mlp([config.latent_dim + width, *reversed(config.hidden), outside])

    def condition(self, labels: Tensor, factors: Tensor | None = None) -> Tensor | None:
        """What items of these classes (B,) and factors (B, F) are conditioned on: nothing here."""
        return None

    def condition_of_draws(self, n: int) -> Tensor | None:
        """What the n items of a sample sheet are conditioned on: nothing here."""
        return None

    def weights(self, labels: Tensor) -> Tensor | None:
        """What the losses of items of these classes (B,) are multiplied by, 1 on average over the training part; None: nothing."""
        return None

    def encode(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """x (B, D) to mean and log_variance (B, L); None without a posterior. Missing values of a row (NaN) tell nothing."""
        if self.tabular:
            x = likelihoods.filled(x)
        mean = self.encoder(joined(self.down(x), c))
        if not self.config.variational:
            return mean, None
        return mean[:, : self.config.latent_dim], mean[:, self.config.latent_dim :]

    def decode(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """z (B, L) to the parameters of p(x | z)."""
        parameters: Tensor = self.up(self.decoder(joined(z, c)))
        return parameters

    def terms(self, x: Tensor, noise: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Reconstruction NLL, averaged over the draws noise (S, B, L), and KL; nats, (B,) each."""
        mean, log_variance = self.encode(x, c)
        if log_variance is None:
            return per_item(self.likelihood.nll(self.decode(mean, c), x)), torch.zeros_like(mean[:, 0])
        draws = noise.shape[0]
        z = (mean + (0.5 * log_variance).exp() * noise).flatten(0, 1)  # (S B, L)
        nll = self.likelihood.nll(self.decode(z, repeated(c, draws)), x.repeat(draws, 1))
        return per_item(nll).view(draws, -1).mean(0), gaussian_kl(mean, log_variance).sum(1)

    def loss(self, batch: Batch) -> Losses:
        """-ELBO with the KL weighed, in nats, averaged over the batch."""
        x = self.likelihood.observe(batch.items.flatten(1), batch.generator)
        shape = (self.config.samples, len(x), self.config.latent_dim)
        reconstruction, kl = self.terms(
            x,
            torch.randn(shape, generator=batch.generator, device=x.device),
            self.condition(batch.labels, batch.factors),
        )
        warmup = min(1.0, batch.epoch / self.config.kl_warmup) if self.config.kl_warmup else 1.0
        if self.config.trim and batch.epoch >= TRIM_AFTER * self.config.epochs:
            usual = least_strange(reconstruction + kl, self.config.trim)
            reconstruction, kl, batch = reconstruction[usual], kl[usual], batch.some(usual)
        weights = self.weights(batch.labels)
        if weights is not None:
            reconstruction, kl = reconstruction * weights, kl * weights
        reconstruction, kl = reconstruction.mean(), kl.mean()
        return {"loss": reconstruction + warmup * self.config.beta * kl, "reconstruction": reconstruction, "kl": kl}


def least_strange(nats: Tensor, trim: float) -> Tensor:
    """Indices of the items (N,) that are left when the share `trim` with the most nats is taken away.

    Trimmed by batch while training, this is iterative trimmed loss minimisation (Shen and Sanghavi, 2019, arXiv 1810.11874): trim and
    refit, in steps of one batch.
    """
    return nats.detach().topk(len(nats) - math.floor(trim * len(nats)), largest=False).indices.sort().values


def convolutions(
    widths: Sequence[int], shape: tuple[int, ...], outputs: int, rules: Sequence[str] | None = None
) -> tuple[nn.Sequential, nn.Sequential, int]:
    """Convolutions of stride 2 that take images (B, C H W) to features (B, F), their mirror image to (B, outputs C H W), and F.

    With `rules`, the two halves of a DCGAN, and as many of its rules.
    Raises TrainingError for data that cannot be halved so often.
    """
    if len(shape) != 3 or any(side % 2 ** len(widths) for side in shape[1:]):
        raise TrainingError(
            f"body: convolutions with {len(widths)} widths halves {len(widths)} times, which {list(shape)} cannot be; use 'mlp'",
            field="body",
        )
    channels, height, width = shape
    small = (widths[-1], height // 2 ** len(widths), width // 2 ** len(widths))
    if rules is not None:
        reads = nn.Sequential(nn.Unflatten(1, shape), dcgan.down(channels, widths, rules), nn.Flatten())
        makes = dcgan.Up(tuple(reversed(widths)), channels * outputs, rules)
        return reads, nn.Sequential(nn.Unflatten(1, small), makes, nn.Flatten()), math.prod(small)
    down: list[nn.Module] = [nn.Unflatten(1, shape)]
    up: list[nn.Module] = [nn.ReLU(), nn.Unflatten(1, small)]
    for before, after in pairwise([channels, *widths]):
        down += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
    for before, after in pairwise([*reversed(widths), channels * outputs]):
        up += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*down, nn.Flatten()), nn.Sequential(*up[:-1], nn.Flatten()), math.prod(small)


def joined(x: Tensor, c: Tensor | None) -> Tensor:
    """x (B, D) with the condition (B, C) at its side."""
    return x if c is None else torch.cat([x, c], 1)


def repeated(c: Tensor | None, times: int) -> Tensor | None:
    """The condition (B, C) for so many draws, (times B, C)."""
    return None if c is None else c.repeat(times, 1)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, diag exp(log_variance)) || N(0, I)) by dimension, in nats: ½ (σ² + μ² - 1 - log σ²)."""
    return 0.5 * (log_variance.exp() + mean**2 - 1 - log_variance)


def iwae(model: VAE, x: Tensor, noise: Tensor, c: Tensor | None = None) -> Tensor:
    """log of the mean of k importance weights, nats (B,), for noise (k, B, L): a lower bound on log p(x) that tightens with k."""
    mean, log_variance = model.encode(x, c)
    assert log_variance is not None
    k, batch, _ = noise.shape
    z = mean + (0.5 * log_variance).exp() * noise  # (k, B, L)
    log_likelihood = -per_item(model.likelihood.nll(model.decode(z.flatten(0, 1), repeated(c, k)), x.repeat(k, 1)))
    log_likelihood = log_likelihood.view(k, batch)
    # log p(z) - log q(z | x): the ½ log 2π cancel
    log_ratio = 0.5 * per_item((noise**2 + log_variance - z**2).flatten(0, 1)).view(k, batch)
    return (log_likelihood + log_ratio).logsumexp(0) - math.log(k)


def build(config: Config, data: Data) -> VAE:
    """A model with fresh weights."""
    return VAE(config, data)


def phases(model: Any, config: Config) -> list[Phase]:
    """One phase, one player."""
    return [Phase("vae", (Player("vae", tuple(model.parameters()), model.loss, config.lr),), config.epochs)]


def evaluate(model: VAE, batch: Batch) -> dict[str, Tensor]:
    """-ELBO and its parts, in nats (B,), without warm-up and with beta 1: what the bound is, not what was minimised."""
    x = model.likelihood.observe(batch.items.flatten(1), batch.generator)
    noise = torch.randn((1, len(x), model.config.latent_dim), generator=batch.generator, device=x.device)
    reconstruction, kl = model.terms(x, noise, model.condition(batch.labels, batch.factors))
    return {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}


def monitor(model: VAE, batch: Batch) -> dict[str, Any]:
    """Active units and KL by dimension: which of the latent is used."""
    x = model.likelihood.observe(batch.items.flatten(1), batch.generator)
    mean, log_variance = model.encode(x, model.condition(batch.labels, batch.factors))
    if log_variance is None:
        return {}
    kl = gaussian_kl(mean, log_variance).mean(0)
    return {"active_units": active_units(mean), "kl_by_dimension": [round(nats, 4) for nats in kl.tolist()]}


def active_units(mean: Tensor) -> int:
    """Dimensions whose posterior mean (N, L) varies over the data by more than ACTIVE."""
    return int((mean.var(0) > ACTIVE).sum())


@torch.no_grad()
def draw(model: VAE, n: int, generator: torch.Generator) -> Tensor:
    """Means of p(x | z) at z from N(0, I), (n, *shape)."""
    device = next(model.parameters()).device
    z = torch.randn((n, model.config.latent_dim), generator=generator, device=device)
    return model.likelihood.mean(model.decode(z, model.condition_of_draws(n))).view(n, *model.shape)


# --- figures ------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def report(model: VAE, config: Config, data: Data) -> list[Metric]:
    """Test ELBO and IWAE-k, KL by dimension and active units; reconstruction alone for the autoencoder."""
    config = model.config
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(config.seed)
    binarised = {"binarisation": "dynamic, one draw an item"} if config.likelihood == "bernoulli" else {}
    protocol = {**data.protocol, **binarised, "likelihood": config.likelihood, "n": len(data.test), "seed": config.seed}
    sums: dict[str, float] = {}
    means = []
    size = max(1, min(1000, 50_000 // config.iwae_k))
    for batch in in_order(data.test, size, generator):
        x = model.likelihood.observe(batch.items.flatten(1), generator)
        c = model.condition(batch.labels, batch.factors)
        noise = torch.randn((1, len(x), config.latent_dim), generator=generator, device=device)
        reconstruction, kl = model.terms(x, noise, c)
        figures = {"reconstruction": reconstruction}
        if config.variational:
            mean, log_variance = model.encode(x, c)
            assert log_variance is not None
            means.append(mean)
            many = torch.randn((config.iwae_k, len(x), config.latent_dim), generator=generator, device=device)
            figures |= {"kl": kl, "elbo": -(reconstruction + kl), f"iwae_{config.iwae_k}": iwae(model, x, many, c)}
            figures |= {f"kl_{i:02d}": column for i, column in enumerate(gaussian_kl(mean, log_variance).T)}
        for name, values in figures.items():
            sums[name] = sums.get(name, 0.0) + float(values.double().sum()) / len(data.test)
    per_dimension = [round(sums.pop(name), 4) for name in sorted(sums) if name.startswith("kl_")]
    metrics = [
        Metric(name=name, value=round(value, 4), unit="nats", protocol={**protocol, "bound": _bound(name)})
        for name, value in sums.items()
    ]
    if config.variational:
        active = active_units(torch.cat(means))
        rule = f"variance of the posterior mean over the test part above {ACTIVE}"
        metrics.append(
            Metric(
                name="active_units",
                value=active,
                unit=f"of {config.latent_dim}",
                protocol={**protocol, "rule": rule, "kl_by_dimension": per_dimension},
            )
        )
    return metrics


def _bound(name: str) -> str:
    k = name.removeprefix("iwae_")
    return {
        "elbo": "lower bound on log p(x), one draw, analytic KL",
        "reconstruction": "-E log p(x | z)",
        "kl": "KL(q(z | x) || p(z))",
    }.get(name, f"importance-weighted lower bound on log p(x), k = {k}")


# --- exports ------------------------------------------------------------------------------------------------------------------


class Decode(nn.Module):
    """latent (B, L), and the condition (B, C) where there is one, to the mean of p(x | z), (B, *shape)."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, latent: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.model.likelihood.mean(self.model.decode(latent, condition)).view(-1, *self.model.shape)


class Sample(nn.Module):
    """latent (B, L), the condition (B, C) where there is one, and noise to x drawn from p(x | z)."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, latent: Tensor, *rest: Tensor) -> Tensor:
        c, noise = (rest[0], rest[1:]) if self.model.width else (None, rest)
        return self.model.likelihood.sample(self.model.decode(latent, c), *noise).view(-1, *self.model.shape)


class Encode(nn.Module):
    """data (B, *shape), and the condition (B, C) where there is one, to mean (and log_variance) (B, L)."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, data: Tensor, condition: Tensor | None = None) -> Any:
        mean, log_variance = self.model.encode(self.model.likelihood.settle(data.flatten(1)), condition)
        return mean if log_variance is None else (mean, log_variance)


class Nearest(nn.Module):
    """data to the k nearest of the references (B, k, *shape) and their distances (B, k), for explanations.

    Rows are the training rows themselves, nearest in encoded columns; where some have missing values, a mask (B, k, D) of those that are
    there comes third. Of images the artifact carries latents alone: they are decoded.
    """

    centre: Tensor
    whitening: Tensor
    unwhitening: Tensor
    there: Tensor

    def __init__(self, model: VAE, place: Placement) -> None:
        super().__init__()
        self.model, self.masked = model, place.there is not None
        points = place.inputs if model.tabular else place.latents
        assert points is not None
        self.nearest = Neighbours(points, model.config.neighbours)
        self.register_buffer("centre", place.centre.float())
        self.register_buffer("whitening", place.whitening.float())
        self.register_buffer("unwhitening", torch.linalg.inv(place.whitening).float())
        if place.there is not None:
            self.register_buffer("there", place.there)

    def forward(self, data: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        x = model.likelihood.settle(data.flatten(1))
        if model.tabular:
            found, distances = self.nearest.find(likelihoods.filled(x))
            rows = self.nearest.points[found]
            return (rows, distances, self.there[found]) if self.masked else (rows, distances)
        mean, _ = model.encode(x)
        found, distances = self.nearest.find((mean - self.centre) @ self.whitening)
        latents = self.nearest.points[found] @ self.unwhitening + self.centre
        images = model.likelihood.mean(model.decode(latents.flatten(0, 1)))
        return images.view(-1, self.nearest.k, *model.shape), distances


class Score(nn.Module):
    """data to the terms of `_terms`, in that order, and nats a pixel or column.

    The ELBO is over SCORE_DRAWS draws, antithetic and fixed here, so that a score is the same each time.
    """

    noise: Tensor
    centre: Tensor
    whitening: Tensor

    def __init__(self, model: VAE, place: Placement, seed: int) -> None:
        super().__init__()
        self.model, self.place = model, place
        half = torch.randn(
            (SCORE_DRAWS // 2, 1, model.config.latent_dim), generator=torch.Generator().manual_seed(seed)
        )
        self.register_buffer("noise", torch.cat([half, -half]))
        self.register_buffer("centre", place.centre.float())
        self.register_buffer("whitening", place.whitening.float())
        k = model.config.neighbours
        self.in_latent = None if place.latents is None else Neighbours(place.latents, k)
        self.in_input = None if place.inputs is None else Neighbours(place.inputs, k)

    def forward(self, data: Tensor, condition: Tensor | None = None) -> tuple[Tensor, ...]:
        model = self.model
        x = model.likelihood.settle(data.flatten(1))
        mean, log_variance = model.encode(x, condition)
        placed = (mean - self.centre) @ self.whitening
        distances = [per_item(placed**2).sqrt()]
        if self.in_latent is not None:
            distances.append(self.in_latent(placed))
        if self.in_input is not None:
            distances.append(self.in_input(likelihoods.filled(x)))
        if log_variance is None:
            parameters = model.decode(mean, condition)
            nll = model.likelihood.nll(parameters, x)
            return per_item(nll), *distances, *self._squared_error(data, parameters), self._shaped(nll)
        if not model.tabular:
            distances += self._squared_error(data, model.decode(mean, condition))
        deviation = (0.5 * log_variance).exp()
        # (draws, B, ...): one decoder run for all draws
        z = mean[None] + deviation[None] * self.noise
        nll = model.likelihood.nll(
            model.decode(z.flatten(0, 1), repeated(condition, SCORE_DRAWS)), x.repeat(SCORE_DRAWS, 1)
        )
        nll = nll.view(SCORE_DRAWS, -1, nll.shape[1]).mean(0)
        reconstruction, kl = per_item(nll), per_item(gaussian_kl(mean, log_variance))
        return reconstruction, kl, reconstruction + kl, *distances, self._shaped(nll)

    def _squared_error(self, data: Tensor, parameters: Tensor) -> list[Tensor]:
        """Of images alone: columns have units of their own."""
        if self.model.tabular:
            return []
        differences = data.flatten(1) - self.model.likelihood.mean(parameters)
        return [per_item(differences**2) / differences.shape[1]]

    def _shaped(self, nll: Tensor) -> Tensor:
        return nll if self.model.tabular else nll.view(-1, *self.model.shape)


@dataclass(frozen=True)
class Placement:
    """Where the training items lie, float64 but for the references."""

    centre: Tensor  # (L,) mean of the posterior means
    covariance: Tensor  # (L, L) of the posterior means
    whitening: Tensor  # (L, L) of q(z) = E q(z | x), whose covariance adds the mean variance
    latents: Tensor | None  # (N, L) posterior means of the references, whitened
    inputs: Tensor | None  # (N, D) the references themselves, of tables
    there: Tensor | None = None  # (N, D) 0 where a value of theirs is missing, 1 elsewhere; None where none is


def placement(model: VAE, config: Config, part: Part) -> Placement:
    """The aggregate posterior of a part, and its references: rows of it, drawn with the run's seed."""
    device = next(model.parameters()).device
    if config.trim:
        part = subset(part, _usual(model, config, part))
    means, variance = [], torch.zeros(model.config.latent_dim, device=device, dtype=torch.float64)
    for batch in in_order(part, 5000, torch.Generator(device)):
        x = model.likelihood.settle(batch.items.flatten(1))
        mean, log_variance = model.encode(x, model.condition(batch.labels, batch.factors))
        means.append(mean)
        if log_variance is not None:
            variance += log_variance.double().exp().sum(0) / len(part)
    z = torch.cat(means).double()
    covariance = torch.cov(z.T).reshape(z.shape[1], z.shape[1])
    whitening = torch.linalg.inv(torch.linalg.cholesky(covariance + variance.diag())).T
    latents = inputs = there = None
    if config.references:
        rows = np.random.Generator(np.random.Philox(config.seed)).permutation(len(part))[: config.references]
        latents = ((z[torch.from_numpy(rows).to(device)] - z.mean(0)) @ whitening).float().cpu()
        if model.tabular:
            held = torch.from_numpy(part.batch(rows).items)
            inputs, there = likelihoods.filled(held), (held == held).float()
            there = None if bool(there.all()) else there
    if config.stored == "float16":  # as the weights are
        latents, inputs = (None if each is None else each.half().float() for each in (latents, inputs))
    return Placement(z.mean(0).cpu(), covariance.cpu(), whitening.cpu(), latents, inputs, there)


def _usual(model: VAE, config: Config, part: Part) -> NDArray[np.int64]:
    """Indices of the training items that are not trimmed, by -ELBO."""
    generator = torch.Generator(next(model.parameters()).device).manual_seed(config.seed)
    nats = []
    for batch in in_order(part, 5000, generator):
        x = model.likelihood.settle(batch.items.flatten(1))
        noise = torch.randn((SCORE_DRAWS, len(x), model.config.latent_dim), generator=generator, device=x.device)
        reconstruction, kl = model.terms(x, noise, model.condition(batch.labels, batch.factors))
        nats.append(reconstruction + kl)
    return least_strange(torch.cat(nats), config.trim).cpu().numpy()


def exports(model: VAE, config: Config, data: Data) -> Exports:
    """decode, encode, score; sample too where x itself is drawn (tables). All take the condition where there is one."""
    config = model.config
    place = placement(model, config, data.train)
    surprise = (len(data.spec.columns),) if isinstance(data.spec, TableSpec) else data.spec.shape
    items = InputSpec(role="data", source="data", shape=data.spec.shape, missing=model.tabular)
    latent = InputSpec(role="latent", source="latent", shape=(config.latent_dim,))
    given = [InputSpec(role="condition", source="condition", shape=(model.width,))] if model.width else []
    output = TensorSpec(role="data", shape=data.spec.shape)
    posterior = [
        TensorSpec(role=role, shape=(config.latent_dim,))
        for role in (["mean", "log_variance"] if config.variational else ["mean"])
    ]
    terms = _terms(config, _observed(config, data), model.tabular)
    scores = [*(TensorSpec(role=term.name) for term in terms), TensorSpec(role="surprise", shape=surprise)]
    tasks = {
        "decode": Task(Decode(model), [latent, *given], [output]),
        "encode": Task(Encode(model), [items, *given], posterior),
        "score": Task(Score(model, place, config.seed), [items, *given], scores, max_rows=256),
    }
    if config.references and (model.tabular or not model.width):
        nearest = Nearest(model, place)
        k = nearest.nearest.k
        near = [TensorSpec(role="nearest", shape=(k, *data.spec.shape)), TensorSpec(role="distance", shape=(k,))]
        if nearest.masked:
            near.append(TensorSpec(role="known", shape=(k, *data.spec.shape)))
        tasks["neighbours"] = Task(nearest, [items], near, max_rows=256)
    if model.likelihood.noise:
        tasks["sample"] = Task(Sample(model), [latent, *given, *model.likelihood.noise], [output])
    fitted = GaussianPrior(
        mean=tuple(place.centre.tolist()), cholesky=tuple(map(tuple, torch.linalg.cholesky(place.covariance).tolist()))
    )
    priors: dict[str, Prior] = (
        {"normal": NormalPrior(), "gaussian": fitted} if config.variational else {"gaussian": fitted}
    )
    return Exports(
        tasks,
        latent=LatentSpec(
            size=config.latent_dim,
            priors=priors,
            default_prior=next(iter(priors)),
            interpolation="slerp" if config.variational else "lerp",
        ),
        scoring=_scoring(config, tuple(terms), model.tabular),
        description=_describe(config, data),
    )


def _terms(config: Config, observed: str, tabular: bool) -> list[Term]:
    """What Score gives, in its order."""
    reconstruction = Term(
        name="reconstruction", kind="nll", description="-log p(x | z) in nats, over draws fixed in the artifact"
    )
    distances = [
        Term(
            name="latent_distance",
            kind="distance",
            description="Mahalanobis distance of the posterior mean to the aggregate posterior",
        )
    ]
    if config.references:
        nearest = f"mean distance to the {config.neighbours} nearest of {config.references} training items"
        distances.append(
            Term(
                name="latent_neighbours",
                kind="distance",
                description=f"{nearest}, in latent space whitened by the aggregate posterior",
            )
        )
        if tabular:
            distances.append(Term(name="input_neighbours", kind="distance", description=f"{nearest}, encoded columns"))
    if not tabular:
        text = "mean squared error of the reconstruction at the posterior mean, of pixels in [0, 1]"
        distances.append(Term(name="squared_error", kind="distance", description=text))
    if not config.variational:
        return [reconstruction.model_copy(update={"description": "-log p(x | z) in nats at z = f(x)"}), *distances]
    kl = Term(name="kl", kind="nll", description="KL(q(z | x) || p(z)) in nats")
    return [
        reconstruction,
        kl,
        Term(
            name="negative_elbo",
            kind="nll",
            description="reconstruction + kl: an upper bound on -log p(x), in nats",
            likelihood=Likelihood(
                bound="elbo", k=SCORE_DRAWS, observed=observed, discrete=config.likelihood in likelihoods.DISCRETE
            ),
        ),
        *distances,
    ]


def _scoring(config: Config, terms: tuple[Term, ...], tabular: bool) -> Scoring:
    """The rule that `score` names. Raises TrainingError for terms that are not there."""
    rule = config.score
    if rule == "auto":
        rule = AUTO_TABLE if tabular else AUTO_IMAGE
        if not config.references:
            rule = "negative_elbo" if config.variational else "reconstruction"
    method, _, names = rule.rpartition(":")
    chosen, valid = tuple(names.split(",")), [term.name for term in terms]
    if not set(chosen) <= set(valid) or method not in ("", "fisher", "min-p") or (not method and len(chosen) > 1):
        raise TrainingError(
            f"score: {config.score!r} is neither a term nor fisher:TERM,TERM nor min-p:TERM,TERM; terms are {', '.join(valid)}",
            field="score",
            valid=valid,
        )
    latent = "kl" if config.variational else None
    if not method:
        return Scoring(score=chosen[0], terms=terms, surprise="surprise", latent=latent)
    combination = Combination.model_validate({"method": method, "terms": chosen})
    return Scoring(score=COMBINED, terms=terms, combination=combination, surprise="surprise", latent=latent)


def _observed(config: Config, data: Data) -> str:
    """What x is in log p(x)."""
    if isinstance(data.spec, TableSpec):
        return "encoded columns, in scaled units"
    return likelihoods.OBSERVED[config.likelihood]


def _describe(config: Config, data: Data) -> str:
    kind = "Variational autoencoder" if config.variational else "Deterministic autoencoder"
    sizes = "-".join(map(str, [math.prod(data.spec.shape), *config.hidden]))
    body = f"MLP {sizes}"
    if config.body != "mlp":
        kind_of = "convolutions" if config.body == "conv" else "DCGAN's convolutions"
        body = f"{kind_of} {'-'.join(map(str, config.widths))}, MLP {'-'.join(map(str, config.hidden))}"
    rule = (
        " Grey pixels are binarised at 1/2."
        if config.likelihood == "bernoulli" and isinstance(data.spec, ImageSpec)
        else ""
    )
    return f"{kind} on {data.name}: {body}, latent size {config.latent_dim}, {config.likelihood} likelihood.{rule}"
