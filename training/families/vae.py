"""A variational autoencoder (Kingma and Welling, 2013, arXiv 1312.6114), or with `variational=False` a deterministic autoencoder.

The recipe: an MLP D-392-196-2L, optionally after strided convolutions; the reverse as the decoder; one of ten likelihoods; the KL in closed
form (appendix B of the paper), if posterior and prior are Gaussian. The ELBO is eq. 3. The importance-weighted bound is Burda et al., 2015
(arXiv 1509.00519), eq. 8. Other posteriors are in training.networks.posteriors and other priors in training.networks.priors, with their papers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal, Self, TypeVar, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from manifold.runtime.kinds import Kind
from manifold.runtime.manifest import Likelihood, Term, figures
from manifold.training import likelihoods
from manifold.training.batches import Batch, in_order
from manifold.training.bounds import active_units, drawn, gaussian_kl, repeated
from manifold.training.data import Data, Part
from manifold.training.data.parts import scattered, subset
from manifold.training.elbo import report as report
from manifold.training.elbo import rounded
from manifold.training.errors import TrainingError
from manifold.training.exporting import autoencoders
from manifold.training.exporting.autoencoders import SCORE_DRAWS
from manifold.training.exporting.tasks import Exports
from manifold.training.likelihoods import FITTED, Histogram
from manifold.training.networks import dcgan, posteriors, priors
from manifold.training.networks.convolutions import convolutions
from manifold.training.networks.layers import exact, joined, mlp, per_item
from manifold.training.networks.posteriors import POSTERIORS
from manifold.training.networks.priors import Flow, Hierarchical, Mixture, Prior, Vamp
from manifold.training.phases import Losses, Phase, Player
from manifold.training.recipes import Size, WithoutBlanks
from manifold.training.scores import rules, terms
from manifold.training.scores.options import ScoreOptions
from manifold.training.scores.placement import Placement, place
from manifold.training.scores.trimming import kept, least_surprising

TRIM_AFTER = 1 / 3  # share of the epochs before trimming, as rare normal items cost as many nats as anomalies at first


class BoundOptions(ScoreOptions):
    """The options of a model that is trained by the ELBO."""

    likelihood: str = "auto"  # a name of training.likelihoods; auto: the default of the kind of data
    components: int = Field(5, ge=1)  # number of components of the logistic-mixture
    noise: float = Field(0.1, gt=0)  # sigma of the Gaussian, b of the Laplace, or initial scale of the logistics
    floor: float = Field(0.05, gt=0)  # smallest sigma, if it is learned
    beta: float = Field(1.0, ge=0)  # weight of the KL (Higgins et al., 2017)
    samples: int = Field(1, ge=1)  # L: number of Monte Carlo draws from the posterior for each item
    kl_warmup: float = Field(0.0, ge=0)  # epochs over which the KL's weight grows from 0 to beta
    iwae_k: int = Field(500, ge=1)  # number of importance samples of the reported bound
    # share of the training items that is treated as anomalies and left out, after a third of the epochs
    trim: float = Field(0.0, ge=0, le=0.5)


class Config(BoundOptions):
    """The options of the family."""

    latent_dim: int = Field(20, ge=1)
    hidden: tuple[Size, ...] = (392, 196)  # sizes of the encoder's layers; the decoder mirrors them
    # conv: convolutions before these layers halve the image, and the decoder mirrors them; dcgan: the same with DCGAN's rules
    body: Literal["mlp", "conv", "dcgan"] = "mlp"
    widths: tuple[Size, ...] = (32, 64)  # channels of the convolutions
    rules: Annotated[tuple[dcgan.Rule, ...], WithoutBlanks] = dcgan.RULES  # the rules of DCGAN to apply, for body dcgan
    variational: bool = True  # False: a deterministic autoencoder without KL, whose prior is fitted to its latents
    # full: a Gaussian with a full covariance; iaf: an inverse autoregressive flow; the last three: by dimension
    # with log-normal and gamma, z is not negative, and the prior `normal` stands for LogNormal(0, 1) and Gamma(1, 1)
    posterior: Literal["gaussian", "full", "iaf", "logistic", "log-normal", "gamma"] = "gaussian"
    # mixture: of Gaussians; vamp: of posteriors of pseudo-inputs; hierarchical: one more level of latents; flow: affine couplings. All are learned
    prior: Literal["normal", "mixture", "vamp", "hierarchical", "flow"] = "normal"
    prior_components: int = Field(50, ge=1)  # number of components of the prior, for mixture and vamp

    @model_validator(mode="after")
    def _check_laws(self) -> Self:
        for name, usual in (("posterior", "gaussian"), ("prior", "normal")):
            if getattr(self, name) != usual and not self.variational:
                raise TrainingError(f"{name}: an autoencoder that is not variational has none; remove it", field=name)
        if self.prior == "vamp" and not POSTERIORS[self.posterior].diagonal:
            raise TrainingError(
                f"prior: vamp is a mixture of posteriors, which must be gaussian or log-normal, not {self.posterior}; change one of them",
                field="prior",
            )
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"epochs": 2, "hidden": (64, 32), "test_items": 200, "iwae_k": 5, "ema": 0.9},
    "cpu": {"epochs": 60},
    "gpu": {"epochs": 400, "schedule": "cosine"},
}


C = TypeVar("C", bound=BoundOptions)


def resolve(config: C, data: Data) -> C:
    """Return the config with the likelihood and the score that fit the data. Raises TrainingError for a score of unknown terms."""
    likelihood, score = config.likelihood, config.score
    variational: bool = cast("Any", config).variational
    found = config.changed(
        likelihood=data.spec.likelihoods[0] if likelihood == "auto" else likelihood,
        score=rules.default(data.spec, config.references, variational) if score == "auto" else score,
    )
    rules.parsed(found.score, [term.name for term in _terms(found, data.spec)])
    return found


@dataclass(frozen=True)
class Draws:
    """Draws z from q(z | x) of a batch."""

    z: Tensor  # (S B, ...) inputs of `VAE.decode`
    log_ratio: Tensor  # (S, B) log p(z) - log q(z | x), in nats
    kl: Tensor | None  # (B,) KL(q(z | x) || p(z)) in nats, if it has a closed form

    def divergence(self) -> Tensor:
        """Return the KL, or its estimate from the draws, (B,)."""
        return -self.log_ratio.mean(0) if self.kl is None else self.kl


def likelihood_of(config: BoundOptions, data: Data) -> likelihoods.DecoderLikelihood:
    """Return the likelihood of the options."""
    return likelihoods.build(
        config.likelihood,
        data.spec,
        noise=config.noise,
        floor=config.floor,
        components=config.components,
        train=data.train,
    )


class VAE(nn.Module):
    """The model q(z | x), by default N(mean, diag exp(log_variance)), p(z), by default N(0, I), and p(x | z). Inside, arrays are (B, D).

    Here z is in the coordinates u of training.networks.posteriors. `decode` maps it to the decoder's input, which is another value for posteriors
    of positive values only. The latent of the artifact is z, unless the prior defines other coordinates (training.networks.priors).

    An optional condition c (B, `width`) is joined to the inputs of both networks: q(z | x, c) and p(x | z, c). `given` names it in figures.
    """

    given: figures.Given = ""
    prior: Prior

    def __init__(self, config: Config, data: Data, width: int = 0) -> None:
        super().__init__()
        self.config, self.spec, self.shape, self.width = config, data.spec, data.spec.shape, width
        dimensions = math.prod(self.shape)
        self.likelihood = likelihood_of(config, data)
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
        self.posterior_law = POSTERIORS[config.posterior](config.latent_dim)
        size = self.posterior_law.outputs if config.variational else config.latent_dim
        self.encoder = mlp([inside + width, *config.hidden, size])
        self.decoder = mlp([config.latent_dim + width, *reversed(config.hidden), outside])
        self.prior = self._prior(config, data)

    def _prior(self, config: Config, data: Data) -> Prior:
        if config.prior != "vamp":
            mixture = partial(Mixture, components=config.prior_components)
            made: dict[str, Callable[[int], Prior]] = {
                "normal": Prior, "mixture": mixture, "hierarchical": Hierarchical, "flow": Flow,
            }  # fmt: skip
            return made[config.prior](config.latent_dim)
        if self.width or not data.spec.pictures:
            raise TrainingError(
                "prior: vamp has pseudo-inputs that are images without a condition; use mixture", field="prior"
            )
        if config.prior_components > len(data.train):
            raise TrainingError(
                f"prior_components: the pseudo-inputs start at training items, of which there are {len(data.train)}; use at most as many",
                field="prior_components",
            )
        generator = torch.Generator().manual_seed(config.seed)
        some = in_order(scattered(data.train, config.prior_components), config.prior_components, generator)
        return Vamp(config.latent_dim, torch.cat([batch.items.flatten(1) for batch in some]))

    @property
    def latent_size(self) -> int:
        """The number of values of a latent of the artifact."""
        return self.prior.latent

    @property
    def noise_size(self) -> int:
        """The number of normals for one draw from the posterior."""
        return self.posterior_law.noise + self.prior.noise

    @property
    def draws_in_graph(self) -> bool:
        """Whether a draw from the posterior in the latent of the artifact needs the networks, and not only a mean and a variance."""
        return self.config.variational and (self.prior.moved or not self.posterior_law.diagonal)

    @property
    def has_variance(self) -> bool:
        """Whether `encode` returns a log-variance."""
        return self.config.variational and self.posterior_law.has_variance and not self.prior.moved

    def condition(self, labels: Tensor, factors: Tensor | None = None) -> Tensor | None:
        """Return the condition of items with these classes (B,) and factors (B, F). It is None in this class."""
        return None

    def condition_of_draws(self, n: int) -> Tensor | None:
        """Return the condition of the n items in the grid of samples. It is None in this class."""
        return None

    def weights(self, labels: Tensor) -> Tensor | None:
        """Return the loss weights of items with these classes (B,). Their mean over the training split is 1; None means no weights."""
        return None

    def outputs(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Map x (B, D) to the parameters of q(z | x). Missing values (NaN) have no influence."""
        return exact(self.encoder(joined(self.down(self.likelihood.evidence(x)), c)))

    def encode(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Map x (B, D) to the mean and log_variance of the latent of the artifact (B, latent_size).

        There is no log_variance if the model is not variational. If it is not defined, the mean is the draw whose noise is 0.
        """
        outputs = self.outputs(x, c)
        if not self.config.variational:
            return outputs, None
        mean, log_variance = self.posterior_law.moments(outputs)
        if not self.prior.moved:
            return mean, log_variance
        return self.prior.to_latent(mean, torch.zeros_like(mean)), None

    def drawn(self, x: Tensor, noise: Tensor, c: Tensor | None = None) -> Tensor:
        """Return a draw from the posterior of each x (B, D), in the latent of the artifact (B, latent_size), with noise (B, noise_size)."""
        z, _ = self.posterior_law.draw(self.outputs(x, c), noise[None, :, : self.posterior_law.noise])
        return self.prior.to_latent(z[0], noise[:, self.posterior_law.noise :])

    def draws(self, x: Tensor, noise: Tensor, c: Tensor | None = None) -> Draws:
        """Return draws from the posteriors of x (B, D) for noise (S, B, noise_size)."""
        outputs, own = self.outputs(x, c), self.posterior_law.noise
        if not self.config.variational:
            zeros = torch.zeros_like(outputs[:, 0])
            return Draws(outputs.repeat(noise.shape[0], 1), zeros.expand(noise.shape[0], -1), zeros)
        z, log_q = self.posterior_law.draw(outputs, noise[..., :own])
        z = z.flatten(0, 1)
        log_p = self.prior.log_density(z, noise[..., own:].flatten(0, 1), self.encode_inputs).view(log_q.shape)
        kl = self.posterior_law.kl(outputs) if self.prior.normal and self.posterior_law.closed else None
        return Draws(z, log_p - log_q, None if kl is None else per_item(kl))

    def by_dimension(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the posterior means (B, latent_size), and the KL of each dimension, if it has a closed form."""
        mean, log_variance = self.encode(x, c)
        closed = log_variance is not None and self.posterior_law.diagonal and self.prior.normal
        return mean, gaussian_kl(mean, log_variance) if closed and log_variance is not None else None

    def encode_inputs(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and log-variances (K, L) of pseudo-inputs (K, D), for the prior."""
        mean, log_variance = self.posterior_law.moments(self.outputs(inputs))
        assert log_variance is not None
        return mean, log_variance

    def decode(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Map z (B, L) to the parameters of p(x | z)."""
        return exact(self.up(self.decoder(joined(self.posterior_law.to_decoder(z), c))))

    def generate(self, latents: Tensor, c: Tensor | None = None) -> Tensor:
        """Map latents of the artifact (B, latent_size) to the parameters of p(x | z)."""
        return self.decode(self.prior.from_latent(latents), c)

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
        """Return the mean of p(x | z), (B, *shape), for latents of the artifact (B, latent_size)."""
        return self.likelihood.mean(self.generate(latents, c)).view(-1, *self.shape)

    def seen(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return the encoder's input (B, D) in losses of items x: x itself in this class."""
        return x

    def terms(
        self, x: Tensor, noise: Tensor, c: Tensor | None = None, seen: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the NLL of x, averaged over the draws noise (S, B, noise_size), and the KL, in nats, (B,) each.

        `seen` is the encoder's input, by default x.
        """
        seen = x if seen is None else seen
        if not self.config.variational:
            nll = self.likelihood.nll(self.decode(self.outputs(seen, c), c), x)
            return per_item(nll), torch.zeros_like(nll[:, 0])
        count, draws = noise.shape[0], self.draws(seen, noise, c)
        nll = self.likelihood.nll(self.decode(draws.z, repeated(c, count)), x.repeat(count, 1))
        return per_item(nll).view(count, -1).mean(0), draws.divergence()

    def loss(self, batch: Batch) -> Losses:
        """Return -ELBO with a weighted KL, in nats, averaged over the batch."""
        x = self.likelihood.observe(batch.items.flatten(1), batch.generator)
        shape = (self.config.samples, len(x), self.noise_size)
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
        """Return the losses with further ones of the items x (B, D) of a batch, without trimmed items. This class has none."""
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
    noise = torch.randn((1, len(x), model.noise_size), generator=batch.generator, device=x.device)
    c = model.condition(batch.labels, batch.factors)
    reconstruction, kl = model.terms(x, noise, c, model.seen(x, batch.generator))
    return {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}


def monitor(model: VAE, batch: Batch) -> dict[str, Any]:
    """Return the number of active units and the KL by dimension, which show how much of the latent is used."""
    x = model.likelihood.observe(batch.items.flatten(1), batch.generator)
    if not model.config.variational:
        return {}
    mean, kl = model.by_dimension(x, model.condition(batch.labels, batch.factors))
    return {"active_units": active_units(mean)} | ({} if kl is None else {"kl_by_dimension": rounded(kl.mean(0))})


@torch.no_grad()
def draw(model: VAE, n: int, generator: torch.Generator) -> Tensor:
    """Return means of p(x | z) for z from the prior, (n, *shape)."""
    return model.decoded(model.prior.draw(n, model.encode_inputs, generator), model.condition_of_draws(n))


# --- exports ------------------------------------------------------------------------------------------------------------------


def placement(model: VAE, config: Any, part: Part) -> Placement:
    """Return the placement of a split's items, without trimmed items."""
    device = next(model.parameters()).device
    if config.trim:
        part = subset(part, kept(model, part, config.trim, SCORE_DRAWS, config.seed))
    return place(model.posterior, part, model.spec, config, device)


def exports(model: VAE, config: Config, data: Data) -> Exports:
    """Return the tasks `decode`, `encode`, `score`, and for tables `sample`, which draws x. All take the condition if there is one."""
    return replace(exported(model, config, data), description=_describe(config, data))


def exported(model: VAE, config: Any, data: Data) -> Exports:
    """Return the tasks of any autoencoder, with an empty description."""
    where = placement(model, config, data.train)
    listed = _terms(config, data.spec)
    return Exports(
        autoencoders.tasks(model, where, listed),
        latent=autoencoders.latent(model, where),
        scoring=rules.scoring(config.score, listed, "kl" if config.variational else None),
    )


def _terms(config: Any, spec: Kind) -> list[Term]:
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
    closed = getattr(config, "prior", "") == "normal" and POSTERIORS[config.posterior].closed
    return [first, *terms.elbo(likelihood, closed), *others]


def _describe(config: Config, data: Data) -> str:
    kind = "Variational autoencoder" if config.variational else "Deterministic autoencoder"
    sizes = "-".join(map(str, [math.prod(data.spec.shape), *config.hidden]))
    body = f"MLP {sizes}"
    if config.body != "mlp":
        layers = "convolutions" if config.body == "conv" else "DCGAN's convolutions"
        body = f"{layers} {'-'.join(map(str, config.widths))}, MLP {'-'.join(map(str, config.hidden))}"
    rule = " Grey pixels are binarised at 1/2." if config.likelihood == "bernoulli" else ""
    laws = priors.words_of(config.prior, config.prior_components) + posteriors.WORDS.get(config.posterior, "")
    return (
        f"{kind} on {data.name}: {body}, latent size {config.latent_dim}, {config.likelihood} likelihood{laws}.{rule}"
    )
