"""A variational autoencoder (Kingma and Welling, 2013, arXiv 1312.6114), or with `variational=False` a deterministic autoencoder.

The recipe: an MLP D-392-196-2L, optionally after strided convolutions; the reverse as the decoder; one of ten likelihoods; the KL in closed
form (appendix B of the paper). The ELBO is eq. 3 with this KL. The importance-weighted bound is Burda et al., 2015 (arXiv 1509.00519), eq. 8.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from manifold.runtime.kinds import Kind
from manifold.runtime.manifest import (
    GaussianPrior,
    InputSpec,
    LatentSpec,
    Likelihood,
    Metric,
    NormalPrior,
    Prior,
    TensorSpec,
    Term,
    figures,
)
from manifold.training import likelihoods
from manifold.training.batches import Batch, in_order
from manifold.training.bounds import ACTIVE, active_units, drawn, fixed_draws, gaussian_kl, iwae, repeated
from manifold.training.data import Data, Part
from manifold.training.data.parts import scattered, subset
from manifold.training.exporting.tasks import Exports, Task
from manifold.training.likelihoods import FITTED, Histogram
from manifold.training.likelihoods.predicting import predicting
from manifold.training.means import Means, bits_per_dim
from manifold.training.networks import dcgan
from manifold.training.networks.convolutions import convolutions
from manifold.training.networks.layers import exact, joined, mlp, per_item
from manifold.training.phases import Losses, Phase, Player
from manifold.training.recipes import Size, WithoutBlanks
from manifold.training.scores import distances, rules, terms
from manifold.training.scores.options import ScoreOptions
from manifold.training.scores.placement import Placement, carries, place
from manifold.training.scores.trimming import kept, least_surprising

SCORE_DRAWS = 8  # number of draws from the posterior, fixed in the artifact, for the ELBO of the score task
TRIM_AFTER = 1 / 3  # share of the epochs before trimming, as rare normal items cost as many nats as anomalies at first


class Config(ScoreOptions):
    """The options of the family."""

    latent_dim: int = Field(20, ge=1)
    hidden: tuple[Size, ...] = (392, 196)  # sizes of the encoder's layers; the decoder mirrors them
    # conv: convolutions before these layers halve the image, and the decoder mirrors them; dcgan: the same with DCGAN's rules
    body: Literal["mlp", "conv", "dcgan"] = "mlp"
    widths: tuple[Size, ...] = (32, 64)  # channels of the convolutions
    rules: Annotated[tuple[dcgan.Rule, ...], WithoutBlanks] = dcgan.RULES  # the rules of DCGAN to apply, for body dcgan
    variational: bool = True  # False: a deterministic autoencoder without KL, whose prior is fitted to its latents
    likelihood: str = "auto"  # a name of training.likelihoods; auto: the default of the kind of data
    components: int = Field(5, ge=1)  # number of components of the logistic-mixture
    noise: float = Field(0.1, gt=0)  # sigma of the Gaussian, b of the Laplace, or initial scale of the logistics
    floor: float = Field(0.05, gt=0)  # smallest sigma, if it is learned
    beta: float = Field(1.0, ge=0)  # weight of the KL (Higgins et al., 2017)
    samples: int = Field(1, ge=1)  # L: number of Monte Carlo draws from the posterior for each item
    kl_warmup: float = Field(0.0, ge=0)  # epochs over which the KL's weight grows from 0 to beta
    iwae_k: int = Field(500, ge=1)  # number of importance samples of the reported bound
    # share of the training items that is left out as anomalies, after a third of the epochs
    trim: float = Field(0.0, ge=0, le=0.5)


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"epochs": 2, "hidden": (64, 32), "test_items": 200, "iwae_k": 5, "ema": 0.9},
    "cpu": {"epochs": 60},
    "gpu": {"epochs": 400, "schedule": "cosine"},
}


C = TypeVar("C", bound=Config)


def resolve(config: C, data: Data) -> C:
    """Return the config with the likelihood and the score that fit the data. Raises TrainingError for a score of unknown terms."""
    likelihood, score = config.likelihood, config.score
    found = config.changed(
        likelihood=data.spec.likelihoods[0] if likelihood == "auto" else likelihood,
        score=rules.default(data.spec, config.references, config.variational) if score == "auto" else score,
    )
    rules.parsed(found.score, [term.name for term in _terms(found, data.spec)])
    return found


class VAE(nn.Module):
    """The model q(z | x) = N(mean, diag exp(log_variance)), p(z) = N(0, I), p(x | z) by likelihood. Inside, arrays are (B, D).

    An optional condition c (B, `width`) is joined to the inputs of both networks: q(z | x, c) and p(x | z, c). `given` names it in figures.
    """

    given: figures.Given = ""

    def __init__(self, config: Config, data: Data, width: int = 0) -> None:
        super().__init__()
        self.config, self.spec, self.shape, self.width = config, data.spec, data.spec.shape, width
        dimensions = math.prod(self.shape)
        self.likelihood = likelihoods.build(
            config.likelihood, data.spec, noise=config.noise, floor=config.floor, components=config.components, train=data.train
        )  # fmt: skip
        self.down: nn.Module = nn.Identity()
        self.up: nn.Module = nn.Identity()
        inside, outside = dimensions, self.likelihood.width
        if config.body != "mlp":
            kept = config.rules if config.body == "dcgan" else None
            outputs = self.likelihood.width // math.prod(self.shape[1:])
            self.down, self.up, inside = convolutions(config.widths, self.shape, outputs, kept)
            outside = inside
            if config.body == "conv":
                likelihoods.start_at_mean(self.up[-2], self.likelihood, data.train)
        self.encoder = mlp([inside + width, *config.hidden, config.latent_dim * (2 if config.variational else 1)])
        self.decoder = mlp([config.latent_dim + width, *reversed(config.hidden), outside])

    def condition(self, labels: Tensor, factors: Tensor | None = None) -> Tensor | None:
        """Return the condition of items with classes (B,) and factors (B, F): None in this class."""
        return None

    def condition_of_draws(self, n: int) -> Tensor | None:
        """Return the condition of the n items in the grid of samples: None in this class."""
        return None

    def weights(self, labels: Tensor) -> Tensor | None:
        """Return the loss weights of items with classes (B,), with mean 1 over the training split; None for no weights."""
        return None

    def encode(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Map x (B, D) to mean and log_variance (B, L), which is None if not variational. Missing values (NaN) have no influence."""
        mean = exact(self.encoder(joined(self.down(self.likelihood.evidence(x)), c)))
        if not self.config.variational:
            return mean, None
        return mean[:, : self.config.latent_dim], mean[:, self.config.latent_dim :]

    def decode(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Map z (B, L) to the parameters of p(x | z)."""
        return exact(self.up(self.decoder(joined(z, c))))

    def settled(self, data: Tensor) -> Tensor:
        """Convert items (B, *shape) to the networks' input (B, D), as in graphs, without random numbers."""
        return self.likelihood.settle(data.flatten(1))

    def evidence(self, x: Tensor) -> Tensor:
        """Return items (B, D) with 0 for missing values, as the encoder sees them."""
        return self.likelihood.evidence(x)

    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return mean and log_variance (B, L) of a batch, as in graphs."""
        return self.encode(self.settled(batch.items), self.condition(batch.labels, batch.factors))

    def decoded(self, latents: Tensor, c: Tensor | None = None) -> Tensor:
        """Return the mean of p(x | z), (B, *shape), for latents (B, L)."""
        return self.likelihood.mean(self.decode(latents, c)).view(-1, *self.shape)

    def seen(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return the encoder's input (B, D) in losses of items x: x itself in this class."""
        return x

    def terms(
        self, x: Tensor, noise: Tensor, c: Tensor | None = None, seen: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the NLL of x, averaged over the draws noise (S, B, L), and the KL, in nats (B,). `seen` is the encoder's input, by default x."""
        mean, log_variance = self.encode(x if seen is None else seen, c)
        if log_variance is None:
            return per_item(self.likelihood.nll(self.decode(mean, c), x)), torch.zeros_like(mean[:, 0])
        draws = noise.shape[0]
        z = (mean + (0.5 * log_variance).exp() * noise).flatten(0, 1)  # (S B, L)
        nll = self.likelihood.nll(self.decode(z, repeated(c, draws)), x.repeat(draws, 1))
        return per_item(nll).view(draws, -1).mean(0), gaussian_kl(mean, log_variance).sum(1)

    def loss(self, batch: Batch) -> Losses:
        """Return -ELBO with a weighted KL, in nats, averaged over the batch."""
        x = self.likelihood.observe(batch.items.flatten(1), batch.generator)
        shape = (self.config.samples, len(x), self.config.latent_dim)
        noise = torch.randn(shape, generator=batch.generator, device=x.device)
        c = self.condition(batch.labels, batch.factors)
        reconstruction, kl = self.terms(x, noise, c, self.seen(x, batch.generator))
        warmup = min(1.0, batch.epoch / self.config.kl_warmup) if self.config.kl_warmup else 1.0
        if self.config.trim and batch.epoch >= TRIM_AFTER * self.config.epochs:
            kept = least_surprising(reconstruction + kl, self.config.trim)
            reconstruction, kl, x, batch = reconstruction[kept], kl[kept], x[kept], batch.some(kept)
        weights = self.weights(batch.labels)
        if weights is not None:
            reconstruction, kl = reconstruction * weights, kl * weights
        reconstruction, kl = reconstruction.mean(), kl.mean()
        loss = reconstruction + warmup * self.config.beta * kl
        return self.extended({"loss": loss, "reconstruction": reconstruction, "kl": kl}, x, batch)

    def extended(self, losses: Losses, x: Tensor, batch: Batch) -> Losses:
        """Return the losses with further ones of the items x (B, D) of a batch, without trimmed items: none in this class."""
        return losses


def build(config: Config, data: Data) -> VAE:
    """Return a model with initial weights."""
    return VAE(config, data)


def phases(model: Any, config: Config) -> list[Phase]:
    """Return one phase with one player."""
    return [Phase("vae", (Player("vae", tuple(model.parameters()), model.loss, config.lr),), config.epochs)]


@torch.no_grad()
def finish(model: VAE, config: Config, data: Data) -> None:
    """Fit the histograms, if the likelihood has them, to the training items at one draw from their posteriors."""
    if isinstance(model.likelihood, Histogram):
        generator = torch.Generator(next(model.parameters()).device).manual_seed(config.seed)
        seen = (
            (model.settled(batch.items), batch) for batch in in_order(scattered(data.train, FITTED), 500, generator)
        )
        model.likelihood.fit((drawn(model, x, generator, model.condition(of.labels, of.factors)), x) for x, of in seen)


def evaluate(model: VAE, batch: Batch) -> dict[str, Tensor]:
    """Return -ELBO and its parts, in nats (B,), without warm-up and with beta 1, so that it is the bound and not the training loss."""
    x = model.likelihood.observe(batch.items.flatten(1), batch.generator)
    noise = torch.randn((1, len(x), model.config.latent_dim), generator=batch.generator, device=x.device)
    c = model.condition(batch.labels, batch.factors)
    reconstruction, kl = model.terms(x, noise, c, model.seen(x, batch.generator))
    return {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}


def monitor(model: VAE, batch: Batch) -> dict[str, Any]:
    """Return the number of active units and the KL by dimension: how much of the latent is used."""
    x = model.likelihood.observe(batch.items.flatten(1), batch.generator)
    mean, log_variance = model.encode(x, model.condition(batch.labels, batch.factors))
    if log_variance is None:
        return {}
    kl = gaussian_kl(mean, log_variance).mean(0)
    return {"active_units": active_units(mean), "kl_by_dimension": [round(nats, 4) for nats in kl.tolist()]}


@torch.no_grad()
def draw(model: VAE, n: int, generator: torch.Generator) -> Tensor:
    """Return means of p(x | z) for z from N(0, I), (n, *shape)."""
    device = next(model.parameters()).device
    z = torch.randn((n, model.config.latent_dim), generator=generator, device=device)
    return model.likelihood.mean(model.decode(z, model.condition_of_draws(n))).view(n, *model.shape)


# --- figures ---


@torch.no_grad()
def report(model: VAE, config: Config, data: Data) -> list[Metric]:
    """Return test ELBO, IWAE-k, KL and active units; for the autoencoder only the reconstruction."""
    generator = torch.Generator(next(model.parameters()).device).manual_seed(config.seed)
    form = likelihoods.form_of(config.likelihood, data.spec, by_chance=True)
    protocol = {
        **data.protocol, "likelihood": config.likelihood, "observed": likelihoods.SEEN[form], "n": len(data.test), "seed": config.seed
    }  # fmt: skip
    elbo, tight = (figures.name_of(bound, form, config.iwae_k, model.given) for bound in ("elbo", "iwae"))
    of = f"p(x | {model.given})" if model.given else "p(x)"
    means, by_dimension, places = Means(), Means(), []
    size = max(1, min(1000, 50_000 // config.iwae_k))
    for batch in in_order(data.test, size, generator):
        x = model.likelihood.observe(batch.items.flatten(1), generator)
        c = model.condition(batch.labels, batch.factors)
        noise = torch.randn((1, len(x), config.latent_dim), generator=generator, device=x.device)
        reconstruction, kl = model.terms(x, noise, c)
        means.add({"reconstruction": reconstruction})
        if config.variational:
            mean, log_variance = model.encode(x, c)
            assert log_variance is not None
            places.append(mean)
            many = torch.randn((config.iwae_k, len(x), config.latent_dim), generator=generator, device=x.device)
            means.add({"kl": kl, elbo: -(reconstruction + kl), tight: iwae(model, x, many, c)})
            by_dimension.add({str(i): column for i, column in enumerate(gaussian_kl(mean, log_variance).T)})
    bounds = {"reconstruction": "-E log p(x | z), one draw"}
    if not config.variational:
        return list(means.metrics({name: {**protocol, "bound": bound} for name, bound in bounds.items()}))
    bounds |= {
        "kl": "KL(q(z | x) || p(z))",
        elbo: f"lower bound on log {of}, one draw, analytic KL",
        tight: f"importance-weighted lower bound on log {of}, k = {config.iwae_k}",
    }
    active = Metric(
        name="active_units",
        value=active_units(torch.cat(places)),
        unit=f"of {config.latent_dim}",
        protocol={
            **protocol,
            "rule": f"variance of the posterior mean over the test split above {ACTIVE}",
            "kl_by_dimension": [round(by_dimension[str(i)], 4) for i in range(config.latent_dim)],
        },
    )
    found = [*means.metrics({name: {**protocol, "bound": bound} for name, bound in bounds.items()}), active]
    if config.likelihood in likelihoods.DISCRETE:
        bound = {"bound": f"upper bound on -log2 {of}: from the ELBO"}
        found.append(bits_per_dim(means, elbo, math.prod(data.spec.shape), {**protocol, **bound}))
    return found


# --- exports ---


class Decode(nn.Module):
    """The task `decode`: latent (B, L) and an optional condition (B, C) to the mean of p(x | z), (B, *shape)."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, latent: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.model.decoded(latent, condition)


class Sample(nn.Module):
    """The task `sample`: latent (B, L), an optional condition (B, C) and noise to x, drawn from p(x | z)."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, latent: Tensor, *rest: Tensor) -> Tensor:
        c, noise = (rest[0], rest[1:]) if self.model.width else (None, rest)
        return self.model.likelihood.sample(self.model.decode(latent, c), *noise).view(-1, *self.model.shape)


class Encode(nn.Module):
    """The task `encode`: data (B, *shape) and an optional condition (B, C) to mean and, if variational, log_variance (B, L)."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, data: Tensor, condition: Tensor | None = None) -> Any:
        mean, log_variance = self.model.encode(self.model.settled(data), condition)
        return mean if log_variance is None else (mean, log_variance)


class Score(nn.Module):
    """The task `score`: data to the terms of `_terms`, in that order, and nats by pixel or column.

    The ELBO uses SCORE_DRAWS antithetic draws that are fixed here, so that scores are reproducible.
    """

    noise: Tensor

    def __init__(self, model: VAE, place: Placement, seed: int) -> None:
        super().__init__()
        self.model, self.place = model, place
        self.register_buffer("noise", fixed_draws(SCORE_DRAWS, model.config.latent_dim, seed))
        self.distances = distances.Distances(place, model.config.neighbours, model.likelihood)
        self.edges = place.edges

    def forward(self, data: Tensor, condition: Tensor | None = None) -> tuple[Tensor, ...]:
        model = self.model
        x = model.settled(data)
        mean, log_variance = model.encode(x, condition)
        placed = self.distances(mean, x)
        if log_variance is None:
            parameters = model.decode(mean, condition)
            nll = model.likelihood.charged(parameters, x)
            return per_item(nll), *placed, *self._of_pixels(data, parameters), self._shaped(nll)
        if model.spec.one_unit:
            placed += self._of_pixels(data, model.decode(mean, condition))
        deviation = (0.5 * log_variance).exp()
        # (draws, B, ...): one run of the decoder for all draws
        z = mean[None] + deviation[None] * self.noise
        nll = model.likelihood.charged(
            model.decode(z.flatten(0, 1), repeated(condition, SCORE_DRAWS)), x.repeat(SCORE_DRAWS, 1)
        )
        nll = nll.view(SCORE_DRAWS, -1, nll.shape[1]).mean(0)
        reconstruction, kl = per_item(nll), per_item(gaussian_kl(mean, log_variance))
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


def placement(model: VAE, config: Config, part: Part) -> Placement:
    """Return the placement of a split's items, without trimmed items."""
    device = next(model.parameters()).device
    if config.trim:
        part = subset(part, kept(model, part, config.trim, SCORE_DRAWS, config.seed))
    return place(model.posterior, part, model.spec, config, device)


def exports(model: VAE, config: Config, data: Data) -> Exports:
    """Return the tasks `decode`, `encode`, `score`, and for tables `sample`, which draws x. All take the condition if there is one."""
    where = placement(model, config, data.train)
    listed = _terms(config, data.spec)
    return Exports(
        _tasks(model, config, where, listed),
        latent=_latent(config, where),
        scoring=rules.scoring(config.score, listed, "kl" if config.variational else None),
        description=_describe(config, data),
    )


def _tasks(model: VAE, config: Config, where: Placement, listed: list[Term]) -> dict[str, Task]:
    spec, size = model.spec, config.latent_dim
    items = InputSpec(role="data", source="data", shape=spec.shape, missing=spec.nullable)
    latent = InputSpec(role="latent", source="latent", shape=(size,))
    given = [InputSpec(role="condition", source="condition", shape=(model.width,))] if model.width else []
    output = TensorSpec(role="data", shape=spec.shape)
    roles = ["mean", "log_variance"] if config.variational else ["mean"]
    scores = [*(TensorSpec(role=term.name) for term in listed), TensorSpec(role="surprise", shape=spec.nats_shape)]
    tasks = {
        "decode": Task(Decode(model), [latent, *given], [output]),
        "encode": Task(Encode(model), [items, *given], [TensorSpec(role=role, shape=(size,)) for role in roles]),
        "score": Task(Score(model, where, config.seed), [items, *given], scores, max_rows=256),
    }
    if config.references and (carries(spec) or not model.width):
        k, held = config.neighbours, where.held
        module = distances.NearestLatents(model, where, k) if held is None else distances.NearestItems(model, held, k)
        tasks["neighbours"] = distances.task(module, items)
    if config.variational:
        tasks |= predicting(model, "decode", spec.shape, [latent, *given])
    if model.likelihood.noise:
        tasks["sample"] = Task(Sample(model), [latent, *given, *model.likelihood.noise], [output])
    return tasks


def _latent(config: Config, where: Placement) -> LatentSpec:
    cholesky = torch.linalg.cholesky(where.covariance).tolist()
    priors: dict[str, Prior] = {"normal": NormalPrior()} if config.variational else {}
    priors["gaussian"] = GaussianPrior(mean=tuple(where.centre.tolist()), cholesky=tuple(map(tuple, cholesky)))
    return LatentSpec(
        size=config.latent_dim,
        priors=priors,
        default_prior=next(iter(priors)),
        interpolation="slerp" if config.variational else "lerp",
    )


def _terms(config: Config, spec: Kind) -> list[Term]:
    """Return the terms of Score, in the same order."""
    others = [*terms.distances(config, spec), *terms.squared_error(spec), *terms.edges(config, spec)]
    if not config.variational:
        return [terms.reconstruction("-log p(x | z) in nats at z = f(x)"), *others]
    likelihood = Likelihood(
        bound="elbo",
        k=SCORE_DRAWS,
        observed=likelihoods.OBSERVED[config.likelihood],
        form=likelihoods.form_of(config.likelihood, spec, by_chance=False),
        discrete=config.likelihood in likelihoods.DISCRETE,
    )
    first = terms.reconstruction("-log p(x | z) in nats, over draws fixed in the artifact")
    return [first, *terms.elbo(likelihood), *others]


def _describe(config: Config, data: Data) -> str:
    kind = "Variational autoencoder" if config.variational else "Deterministic autoencoder"
    sizes = "-".join(map(str, [math.prod(data.spec.shape), *config.hidden]))
    body = f"MLP {sizes}"
    if config.body != "mlp":
        layers = "convolutions" if config.body == "conv" else "DCGAN's convolutions"
        body = f"{layers} {'-'.join(map(str, config.widths))}, MLP {'-'.join(map(str, config.hidden))}"
    rule = " Grey pixels are binarised at 1/2." if config.likelihood == "bernoulli" else ""
    return f"{kind} on {data.name}: {body}, latent size {config.latent_dim}, {config.likelihood} likelihood.{rule}"
