"""Conditional variational autoencoder (Sohn, Lee and Yan, 2015, "Learning structured output representation using deep conditional
generative models"; Kingma et al., 2014, arXiv 1406.5298, model M2 with the class observed).

The recipe: the VAE's, with the class (float weights, one-hot in training) joined to the encoder's input and to the latent code. What is
maximised is the conditional ELBO, E log p(x | z, y) - KL(q(z | x, y) || p(z)). Bounds for every class give p(y | x) by Bayes' rule: by the
importance-weighted bound, as an ELBO's gap differs between classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.manifest import Classification, Likelihood, TensorSpec, Term
from training.data import Data
from training.errors import TrainingError
from training.exports import Exports, Task
from training.families import vae
from training.families.vae import VAE, Score, draw, evaluate, iwae, monitor, phases, report

__all__ = ["PRESETS", "Config", "build", "draw", "evaluate", "exports", "monitor", "phases", "report"]


@dataclass(frozen=True)
class Config(vae.Config):
    """Options of the family."""

    class_k: int = 32  # importance samples, fixed in the artifact, of the bound that p(y | x) is made of

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(class_k=2)
        if not self.variational:
            raise TrainingError("variational: a conditional model of this family has a posterior", field="variational")


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {**vae.PRESETS["smoke"], "class_k": 4},
    "cpu": {"epochs": 60},
    "gpu": {"epochs": 400, "schedule": "cosine"},
}


class CVAE(VAE):
    """A VAE whose posterior and decoder are told the class."""

    def condition(self, labels: Tensor) -> Tensor:
        """One-hot rows (B, C)."""
        return F.one_hot(labels, self.width).float()


class ScoreAndBound(Score):
    """The VAE's terms and -IWAE-k in nats, all given the class."""

    draws: Tensor

    def __init__(self, model: VAE, centre: Tensor, whitening: Tensor, k: int, seed: int) -> None:
        super().__init__(model, centre, whitening, seed)
        size = self.model.config.latent_dim
        self.register_buffer("draws", torch.randn((k, 1, size), generator=torch.Generator().manual_seed(seed + 1)))

    def forward(self, data: Tensor, condition: Tensor | None = None) -> tuple[Tensor, ...]:
        *terms, surprise = super().forward(data, condition)
        x = self.model.likelihood.settle(data.flatten(1))
        noise = self.draws.expand(-1, x.shape[0], -1)
        return *terms, -iwae(self.model, x, noise, condition), surprise


def build(config: Config, data: Data) -> CVAE:
    """A model with fresh weights. Raises TrainingError for data without classes."""
    if data.classes is None:
        raise TrainingError(
            f"data: {data.name} has no classes to condition on; the family `vae` needs none", field="data"
        )
    return CVAE(config, data, len(data.classes))


def exports(model: CVAE, config: Config, data: Data) -> Exports:
    """The VAE's tasks with a condition; score has the bound that /classify is made of."""
    exported = vae.exports(model, config, data)
    plain, scoring = exported.tasks["score"], exported.scoring
    assert isinstance(plain.module, Score)
    assert scoring is not None
    module = ScoreAndBound(model, plain.module.centre, plain.module.whitening, config.class_k, config.seed)
    *outputs, surprise = plain.outputs
    score = Task(module, plain.inputs, [*outputs, TensorSpec(role="negative_iwae"), surprise], max_rows=128)
    about = next(term.likelihood for term in scoring.terms if term.likelihood)
    term = Term(
        name="negative_iwae",
        kind="nll",
        description=f"-log p(x | y), importance-weighted bound over {config.class_k} draws fixed in the artifact, in nats",
        likelihood=Likelihood(bound="iwae", k=config.class_k, observed=about.observed, discrete=about.discrete),
    )
    return replace(
        exported,
        tasks={**exported.tasks, "score": score},
        scoring=scoring.model_copy(update={"terms": (*scoring.terms, term)}),
        classes=True,
        classification=Classification(term=term.name),
        description=exported.description.replace("Variational", "Conditional variational", 1),
    )
