"""A conditional VAE for rows of a table: scores given a class or over all classes, p(class | row), and sampling of rows of a class.

The recipe is that of the conditional VAE (Sohn, Lee and Yan, 2015) with the column likelihoods, sizes and schedule of `tabular_vae`. The encoder
is conditioned on the class too, q(z | x, y). If only the decoder received the label, as in ID-CVAE (Lopez-Martin et al., 2017, Sensors 17, 1967), a
sufficiently large latent would encode the class and the decoder would ignore the label. Classes have equal prior probabilities, because class
frequencies in training rows are rarely those of new rows.
"""

from __future__ import annotations

from typing import Any

from manifold.training.families import cvae, tabular_vae
from manifold.training.families.cvae import build, draw, evaluate, exports, monitor, phases, report
from manifold.training.families.tabular_vae import resolve

ITEMS = ("rows",)
NEEDS_CLASSES = True

__all__ = ["PRESETS", "Config", "build", "draw", "evaluate", "exports", "monitor", "phases", "report", "resolve"]


class Config(tabular_vae.Config, cvae.Config):
    """The options of the family, which are those of `tabular_vae` and `cvae`."""


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {**tabular_vae.PRESETS["smoke"], "class_k": 4},
    "cpu": tabular_vae.PRESETS["cpu"],
    "gpu": tabular_vae.PRESETS["gpu"],
}
