"""Conditional generative adversarial network (Mirza and Osindero, 2014, arXiv 1411.1784): both players are conditioned on the
class.

The generator takes the class beside the latent and, if it has convolutions, in class-conditional batch normalisation; the discriminator by
projection (Miyato and Koyama, 2018, arXiv 1802.05637). Everything else is training.families.gan's.
"""

from __future__ import annotations

from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.families import gan
from manifold.training.families.gan import GAN, PRESETS, Config, draw, evaluate, exports, phases, report, resolve

__all__ = ["PRESETS", "Config", "build", "draw", "evaluate", "exports", "phases", "report", "resolve"]


def build(config: gan.Config, data: Data) -> GAN:
    """Return a model with fresh weights. Raises TrainingError for data without classes, or convolutions that cannot be conditioned."""
    if data.classes is None:
        raise TrainingError(
            f"data: {data.name} has no classes to condition on; the family `gan` needs none", field="data"
        )
    if config.body == "dcgan" and "normalise" not in config.rules:
        raise TrainingError(
            "rules: the class comes in by batch normalisation, so 'normalise' must be kept", field="rules"
        )
    return GAN(config, data, len(data.classes))
