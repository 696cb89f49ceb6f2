"""Conditional VAE for rows of a table: scores under a class or over all of them, p(class | row), and rows made of a class.

The recipe: the conditional VAE's (Sohn, Lee and Yan, 2015) with the columns' likelihoods, sizes and schedule of `tabular_vae`. The encoder is
conditioned on the class too, q(z | x, y): with the label in the decoder alone, as in ID-CVAE (Lopez-Martin et al., 2017, Sensors 17, 1967), a latent
of some size carries the class by itself and the decoder ignores the label. Classes have equal prior weights: those of the training rows are
rarely those of the rows to come.
"""

from __future__ import annotations

from typing import Any

from manifold.training.families import cvae, tabular_vae
from manifold.training.families.cvae import build, draw, evaluate, exports, monitor, phases, report
from manifold.training.families.tabular_vae import resolve

__all__ = ["PRESETS", "Config", "build", "draw", "evaluate", "exports", "monitor", "phases", "report", "resolve"]


class Config(tabular_vae.Config, cvae.Config):
    """Options of the family: those of both."""


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {**tabular_vae.PRESETS["smoke"], "class_k": 4},
    "cpu": tabular_vae.PRESETS["cpu"],
    "gpu": tabular_vae.PRESETS["gpu"],
}
