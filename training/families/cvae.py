"""A conditional variational autoencoder (Sohn, Lee and Yan, 2015, "Learning structured output representation using deep conditional
generative models"; Kingma et al., 2014, arXiv 1406.5298, model M2 with the class observed).

The recipe is that of the VAE. The class (float weights, one-hot in training), or real-valued factors of the data, are joined to the encoder's
input and to the latent code. Training maximises the conditional ELBO, E log p(x | z, y) - KL(q(z | x, y) || p(z)). The bounds for each class
give p(y | x) by Bayes' rule. They are importance-weighted bounds, as the gap of an ELBO differs between classes.

A model of p(x | y) is not trained to tell classes apart. `discriminative` adds -log p(y | x) to the loss, with p(y | x) from the ELBOs of all
classes: a hybrid of generative and discriminative training (Lasserre, Bishop and Minka, 2006, "Principled hybrids of generative and
discriminative models"). A step then takes one pass through the networks for each class, and one more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from manifold.runtime.manifest import Classification, Conditions, Likelihood, TensorSpec, Term
from manifold.training.batches import Batch
from manifold.training.bounds import fixed_draws, iwae
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.exporting.autoencoders import Score
from manifold.training.exporting.tasks import Exports, Task
from manifold.training.families import vae
from manifold.training.families.vae import VAE, draw, evaluate, finish, monitor, phases, report, resolve
from manifold.training.phases import Losses
from manifold.training.scores.placement import Placement

NEEDS_CLASSES = True
INSTEAD_OF_CLASSES = "given"

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


CLASS = "class"
EXAMPLES = 64  # number of training factors in the artifact, from which a request without a condition draws


class Config(vae.Config):
    """The options of the family."""

    given: tuple[str, ...] = ("class",)  # the condition: the class, or names of factors of the data set
    discriminative: float = Field(
        0.0, ge=0
    )  # weight of -log p(y | x) in the loss, in nats as the ELBO; 0: not computed
    balance: float = Field(0.0, ge=0, le=1)  # 0: all items have the same weight; 1: all classes have the same weight
    class_k: int = Field(32, ge=2)  # number of importance samples, fixed in the artifact, of the bound for p(y | x)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.variational:
            raise TrainingError(
                "variational: False is not possible for a conditional model; remove it", field="variational"
            )
        if self.discriminative and self.given != (CLASS,):
            raise TrainingError(
                "discriminative: a model of factors has no classes to tell apart; remove it, or remove `given`",
                field="discriminative",
            )
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {**vae.PRESETS["smoke"], "class_k": 4},
    "cpu": {"epochs": 60},
    "gpu": {"epochs": 400, "schedule": "cosine"},
}


class CVAE(VAE):
    """A VAE whose posterior and decoder are conditioned on the class (B, C), or on factors (B, C) in their own units."""

    config: Config
    centre: Tensor
    scale: Tensor
    examples: Tensor
    class_weights: Tensor
    log_shares: Tensor  # (C,), logs of the shares of the classes in the loss, with their weights

    def __init__(self, config: Config, data: Data) -> None:
        by_class = config.given == (CLASS,)
        if by_class and data.classes is None:
            raise TrainingError(f"data: {data.name} has no classes to condition on; use the family `vae`", field="data")
        super().__init__(config, data, len(data.classes or ()) if by_class else len(config.given))
        self.by_class = by_class
        self.given = "class" if by_class else "condition"
        self.columns = [] if by_class else [data.factors.index(name) for name in config.given if name in data.factors]
        factors = np.zeros((2, self.width), np.float32) if by_class else data.of_factors(data.train, config.given)
        self.register_buffer("centre", torch.from_numpy(factors.mean(0)), persistent=False)
        self.register_buffer("scale", torch.from_numpy(factors.std(0)).clamp(min=1e-6), persistent=False)
        rows = np.random.Generator(np.random.Philox(config.seed)).integers(0, len(factors), EXAMPLES)
        self.register_buffer("examples", torch.from_numpy(factors[rows]), persistent=False)
        if self.by_class:
            counts = np.bincount(data.train.labels, minlength=self.width)
            weights = np.maximum(counts, 1.0) ** -config.balance
            weights *= len(data.train) / (weights * counts).sum()
            shares = torch.from_numpy((weights * np.maximum(counts, 1.0) / len(data.train)).astype(np.float32))
            self.register_buffer("log_shares", shares.log(), persistent=False)
            self.register_buffer("class_weights", torch.from_numpy(weights.astype(np.float32)), persistent=False)

    def condition(self, labels: Tensor, factors: Tensor | None = None) -> Tensor:
        """Return the condition of items, (B, C): one-hot classes, or the factors in `given`."""
        if self.by_class:
            return F.one_hot(labels, self.width).float()
        assert factors is not None
        return factors[:, self.columns]

    def condition_of_draws(self, n: int) -> Tensor:
        """Return the condition of the grid of samples: the classes in turn, or factors of training items."""
        turns = torch.arange(n, device=self.centre.device)
        return self.condition(turns % self.width) if self.by_class else self.examples[turns % EXAMPLES]

    def weights(self, labels: Tensor) -> Tensor | None:
        return self.class_weights[labels] if self.by_class and self.config.balance else None

    def extended(self, losses: Losses, x: Tensor, batch: Batch) -> Losses:
        """Return the losses with `discriminative` times -log p(y | x) in nats, if this weight is set."""
        if not self.config.discriminative:
            return losses
        shape = (self.config.samples, len(x), self.noise_size)
        noise = torch.randn(shape, generator=batch.generator, device=x.device)
        # the shares are the prior probabilities in training, so that the ELBOs do not learn them: later, priors are equal
        logits = self.log_shares - self.class_energies(x, noise)
        surprise = F.cross_entropy(logits, batch.labels, reduction="none")
        weights = self.weights(batch.labels)
        mean = (surprise if weights is None else surprise * weights).mean()
        return {**losses, "loss": losses["loss"] + self.config.discriminative * mean, "discriminative": mean}

    def class_energies(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return -ELBO of x (B, D) given each class, (B, C), in nats, at the same draws noise (S, B, L) for all classes."""
        each = torch.eye(self.width, device=x.device).repeat_interleave(len(x), 0)  # (C B, C)
        reconstruction, kl = self.terms(x.repeat(self.width, 1), noise.repeat(1, self.width, 1), each)
        return (reconstruction + kl).view(self.width, -1).T

    def outputs(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        return super().outputs(x, self._scaled(c))

    def decode(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return super().decode(z, self._scaled(c))

    def _scaled(self, c: Tensor | None) -> Tensor | None:
        """Return factors in units of their standard deviation over the training split. Class weights are unchanged."""
        return c if c is None or self.by_class else (c - self.centre) / self.scale


class ScoreAndBound(Score):
    """The task `score`: the VAE's terms and -IWAE-k in nats, all given the class."""

    draws: Tensor

    def __init__(self, model: VAE, place: Placement, k: int, seed: int) -> None:
        super().__init__(model, place, seed)
        self.register_buffer("draws", fixed_draws(k, model.noise_size, seed + 1))

    def forward(self, data: Tensor, condition: Tensor | None = None) -> tuple[Tensor, ...]:
        *terms, surprise = super().forward(data, condition)
        x = self.model.settled(data)
        noise = self.draws.expand(-1, x.shape[0], -1)
        return *terms, -iwae(self.model, x, noise, condition), surprise


def build(config: Config, data: Data) -> CVAE:
    """Return a model with initial weights. Raises TrainingError for data without classes, or without the factors in `given`."""
    return CVAE(config, data)


def exports(model: CVAE, config: Config, data: Data) -> Exports:
    """Return the VAE's tasks with a condition. The task `score` also has the bound for /classify."""
    exported = vae.exports(model, config, data)
    suffix = "" if model.by_class else f" Conditioned on {', '.join(config.given)}."
    description = exported.description.replace("Variational", "Conditional variational", 1) + suffix
    plain, scoring = exported.tasks["score"], exported.scoring
    assert isinstance(plain.module, Score)
    assert scoring is not None
    if not model.by_class:  # there are no classes to marginalise over or to predict
        examples = tuple(tuple(round(value, 6) for value in row) for row in model.examples.tolist())
        return replace(exported, conditions=Conditions(names=config.given, examples=examples), description=description)
    module = ScoreAndBound(model, plain.module.place, config.class_k, config.seed)
    *outputs, surprise = plain.outputs
    score = Task(module, plain.inputs, [*outputs, TensorSpec(role="negative_iwae"), surprise], max_rows=128)
    likelihood = next(term.likelihood for term in scoring.terms if term.likelihood)
    term = Term(
        name="negative_iwae",
        kind="nll",
        description=f"-log p(x | y), importance-weighted bound over {config.class_k} draws fixed in the artifact, in nats",
        likelihood=Likelihood(
            bound="iwae", k=config.class_k, observed=likelihood.observed, discrete=likelihood.discrete
        ),
    )
    return replace(
        exported,
        tasks={**exported.tasks, "score": score},
        scoring=scoring.model_copy(update={"terms": (*scoring.terms, term)}),
        classes=True,
        classification=Classification(term=term.name),
        description=description,
    )
