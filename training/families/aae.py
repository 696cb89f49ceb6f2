"""An adversarial autoencoder (Makhzani et al., 2015, arXiv 1511.05644): an autoencoder whose codes are trained to have a given distribution.

The recipe: the deterministic autoencoder of `vae.py`, and a discriminator that tells codes from draws of the prior. Each step has three turns.
The autoencoder lowers the reconstruction loss, the discriminator its classification loss, and the encoder, as the generator of a GAN, makes its
codes look like draws of the prior. The prior needs a sampler only, not a density. The discriminator has no batch normalisation: its statistics
would differ between codes and draws, so that it could separate them by the batch.

The artifact contains the prior of the training. The export also fits priors to the codes, and makes the one with the highest density at held-out
codes the default, as for every autoencoder. If the codes have the distribution of the prior, the fitted ones are hardly denser.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from manifold.runtime.manifest import LatentSpec, Metric
from manifold.training.batches import Batch, in_order, to_float
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.exporting.tasks import Exports
from manifold.training.families import vae
from manifold.training.families.vae import VAE, finish, resolve
from manifold.training.loop import watching
from manifold.training.loop.watching import Watch
from manifold.training.networks import adversarial
from manifold.training.networks.adversarial import frozen
from manifold.training.networks.code_priors import code_prior, largest_gap
from manifold.training.networks.layers import exact
from manifold.training.networks.priors import Prior
from manifold.training.phases import Losses, Phase, Player
from manifold.training.recipes import Share, Size

__all__ = [
    "PRESETS",
    "Config",
    "build",
    "draw",
    "evaluate",
    "exports",
    "finish",
    "monitor",
    "phases",
    "report",
    "resolve",
]

SLOPE = 0.2  # negative slope of the discriminator's activations
OF_A_VAE = (
    "variational",
    "beta",
    "samples",
    "kl_warmup",
    "iwae_k",
    "trim",
    "posterior",
    "prior_components",
)  # options of `vae` that are refused here


class Config(vae.Config):
    """The options of the family."""

    variational: bool = False
    latent_dim: int = Field(8, ge=1)
    prior: Literal["gaussian", "mixture"] = "gaussian"  # type: ignore[assignment]  # distribution of the codes
    critic: tuple[Size, ...] = Field((256, 256), min_length=1)  # sizes of the discriminator's layers
    critic_lr: float = Field(5e-4, gt=0)  # learning rate of the discriminator
    encoder_lr: float = Field(5e-4, gt=0)  # learning rate of the encoder in its turn against the discriminator
    beta1: Share = 0.5  # first moment's decay of Adam in the two adversarial turns
    watch_steps: int = Field(500, ge=0)  # steps between inspections of generated items and gradients; 0: no inspections
    watch_after: int = Field(2000, ge=0)  # first step with alarms about generated items

    @model_validator(mode="after")
    def _check_laws(self) -> Self:
        """Replace the check of `vae`, as the prior here is that of an autoencoder."""
        return self

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in OF_A_VAE:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise TrainingError(
                    f"{name}: not an option of an adversarial autoencoder; remove it, or use the family `vae`",
                    field=name,
                )
        self.refuse_without_adam("beta1")
        if self.prior == "mixture" and self.latent_dim < 2:
            raise TrainingError(
                f"latent_dim: {self.latent_dim} is too small for prior 'mixture', whose components lie on a circle; use at least 2",
                field="latent_dim",
            )
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"epochs": 2, "hidden": (64, 32), "critic": (32, 32), "latent_dim": 4, "test_items": 200, "ema": 0.9},
    "cpu": {"epochs": 40, "schedule": "cosine"},
    "gpu": {"epochs": 200, "hidden": (1000, 1000), "schedule": "cosine"},
}


class Critic(nn.Module):
    """The discriminator of codes: (B, L) to logits (B,), above zero for draws of the prior."""

    def __init__(self, latent_dim: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((latent_dim, *sizes)):
            layers += [nn.Linear(before, after), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    def forward(self, codes: Tensor) -> Tensor:
        return exact(self.layers(codes)[:, 0])


class AAE(VAE):
    """The autoencoder with the discriminator of its codes. The terms "real" and "generated" mean draws of the prior and codes of items."""

    config: Config

    def __init__(self, config: Config, data: Data) -> None:
        super().__init__(config, data)
        self.code_prior = code_prior(config.prior, config.latent_dim)
        self.critic = Critic(config.latent_dim, config.critic)
        self.data = data

    def _prior(self, config: vae.Config, data: Data) -> Prior:
        """Return the prior of the latent, in whose coordinates the codes are those of the artifact."""
        return Prior(config.latent_dim)

    def codes(self, batch: Batch) -> Tensor:
        """Return the codes (B, L) of a batch in the form of training: grey pixels are binarised at random for binary pixels."""
        return self.encode(self.likelihood.observe(batch.items.flatten(1), batch.generator))[0]

    def reconstruction_loss(self, batch: Batch) -> Losses:
        """Return the autoencoder's loss: -log p(x | z) at z = f(x), in nats, averaged over the batch."""
        losses = self.loss(batch)
        return {"loss": losses["loss"], "reconstruction": losses["reconstruction"]}

    def critic_loss(self, batch: Batch) -> Losses:
        """Return the discriminator's cross-entropy in nats, and its mean logits for draws of the prior and for codes."""
        with torch.no_grad():
            codes = self.codes(batch)
        real, fake = self.critic(self.code_prior.draw(len(codes), batch.generator)), self.critic(codes)
        loss = adversarial.discriminator_loss("non-saturating", real, fake)
        return {"loss": loss, "real_logit": real.mean(), "fake_logit": fake.mean()}

    def encoder_loss(self, batch: Batch) -> Losses:
        """Return -log D(f(x)), which is low if the discriminator takes codes for draws of the prior."""
        with frozen(self.critic):
            return {"loss": adversarial.generator_loss("non-saturating", self.critic(self.codes(batch)))}


def build(config: Config, data: Data) -> AAE:
    """Return a model with initial weights."""
    return AAE(config, data)


def phases(model: AAE, config: Config) -> list[Phase]:
    """Return one phase with three players, of which two train the encoder's weights with optimisers of their own, and a watch."""
    encoder = (*model.down.parameters(), *model.encoder.parameters())
    coding = tuple(parameter for name, parameter in model.named_parameters() if not name.startswith("critic."))
    betas = (config.beta1, 0.999)
    players = (
        Player("autoencoder", coding, model.reconstruction_loss, config.lr),
        Player("discriminator", tuple(model.critic.parameters()), model.critic_loss, config.critic_lr, betas),
        Player("generator", encoder, model.encoder_loss, config.encoder_lr, betas),
    )
    return [Phase("aae", players, config.epochs, _watch(model, config) if config.watch_steps else None)]


def _watch(model: AAE, config: Config) -> Watch:
    """Return a watch that compares decoded draws of the prior with the same number of training items."""
    device = next(model.parameters()).device
    train = model.data.train
    rows = np.random.Generator(np.random.Philox(config.seed)).permutation(len(train))[: watching.ITEMS]
    return Watch(
        watching.watched(lambda generator, n: draw(model, n, generator), config.seed, device),
        to_float(train.batch(rows).items, device),
        every=config.watch_steps,
        after=config.watch_after,
    )


@torch.no_grad()
def evaluate(model: AAE, batch: Batch) -> dict[str, Tensor]:
    """Return the reconstruction in nats as the loss, and the share of right answers of the discriminator, (B,) each.

    An item's share is that of two answers: for its code, and for one draw of the prior. If codes have the distribution of the prior, the mean is
    one half.
    """
    x = model.likelihood.observe(batch.items.flatten(1), batch.generator)
    reconstruction, _ = model.terms(x, x)
    logits = model.critic(model.encode(x)[0])
    real = model.critic(model.code_prior.draw(len(x), batch.generator))
    right = ((real > 0).double() + (logits <= 0).double()) / 2
    return {"loss": reconstruction, "discriminator_accuracy": right}


@torch.no_grad()
def monitor(model: AAE, batch: Batch) -> dict[str, Any]:
    """Return the largest distance between the distribution functions of codes and of draws of the prior, over the dimensions."""
    codes = model.codes(batch)
    return {"code_distance": round(largest_gap(codes, model.code_prior.draw(len(codes), batch.generator)), 4)}


@torch.no_grad()
def draw(model: AAE, n: int, generator: torch.Generator) -> Tensor:
    """Return means of p(x | z) for z from the prior, (n, *shape)."""
    return model.decoded(model.code_prior.draw(n, generator))


@torch.no_grad()
def report(model: AAE, config: Config, data: Data) -> list[Metric]:
    """Return the reconstruction, and two figures that compare codes of test items with draws of the prior."""
    generator = torch.Generator(next(model.parameters()).device).manual_seed(config.seed)
    right, codes = 0.0, []
    for batch in in_order(data.test, 500, generator):
        right += float(evaluate(model, batch)["discriminator_accuracy"].sum())
        codes.append(model.codes(batch))
    found = torch.cat(codes)
    gap = largest_gap(found, model.code_prior.draw(len(found), generator))
    protocol = {**data.protocol, "n": 2 * len(found), "seed": config.seed, "prior": model.code_prior.description}
    rule = {
        "rule": "largest distance of two empirical distribution functions (Kolmogorov-Smirnov), over the dimensions"
    }
    return [
        *vae.report(model, config, data),
        Metric(
            name="discriminator_accuracy",
            value=round(right / len(found), 4),
            unit="fraction",
            protocol={**protocol, "weights": "moving average of encoder and discriminator"},
        ),
        Metric(name="code_distance", value=round(gap, 4), unit="fraction", protocol={**protocol, **rule}),
    ]


def exports(model: AAE, config: Config, data: Data) -> Exports:
    """Return the autoencoder's tasks, and a latent with the prior of the training as its first and default one."""
    exported = vae.exports(model, config, data)
    assert exported.latent is not None
    latent = LatentSpec(
        size=config.latent_dim,
        priors={model.code_prior.name: model.code_prior.stated(), **exported.latent.priors},
        default_prior=model.code_prior.name,
        interpolation=model.code_prior.interpolation,
    )
    kind = exported.description.replace("Deterministic", "Adversarial", 1)
    return replace(exported, latent=latent, description=f"{kind} Prior: {model.code_prior.description}.")
