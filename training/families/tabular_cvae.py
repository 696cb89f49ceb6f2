"""Conditional VAE for rows of a table: scores under a class or over all of them, p(class | row), and rows made of a class.

The recipe: the conditional VAE's (Sohn, Lee and Yan, 2015) with the columns' likelihoods, sizes and schedule of `tabular_vae`. The encoder is
told the class too, q(z | x, y): with the label in the decoder alone, as in ID-CVAE (Lopez-Martin et al., 2017, Sensors 17, 1967), a latent
of some size carries the class by itself and the decoder stops listening. Classes have equal prior weights: those of the training rows are
rarely those of the rows to come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from manifold.training.data import Data
from manifold.training.exporting.tasks import Exports
from manifold.training.families import cvae, tabular_vae
from manifold.training.families.cvae import CVAE, draw, evaluate, monitor, phases, report

__all__ = ["PRESETS", "Config", "build", "draw", "evaluate", "exports", "monitor", "phases", "report"]


@dataclass(frozen=True)
class Config(cvae.Config):
    """Options of the family. A latent size of 0 is chosen by the number of columns."""

    latent_dim: int = 0
    mixed: bool = False  # the training rows may hold anomalies; a trim of 0 is tabular_vae.TRIM then

    least_latent = 0


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {**tabular_vae.PRESETS["smoke"], "class_k": 4},
    "cpu": tabular_vae.PRESETS["cpu"],
    "gpu": tabular_vae.PRESETS["gpu"],
}


def build(config: Config, data: Data) -> CVAE:
    """A model with fresh weights. Raises TrainingError for data that is no table, or has no classes."""
    return cvae.build(tabular_vae.resolved(config, data), data)


def exports(model: CVAE, config: Config, data: Data) -> Exports:
    """The conditional VAE's tasks."""
    return cvae.exports(model, model.config, data)
