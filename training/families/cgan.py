"""A conditional generative adversarial network (Mirza and Osindero, 2014, arXiv 1411.1784). Both players are conditioned on the class.

The generator takes the class as an input next to the latent and, if it is convolutional, in class-conditional batch normalisation. The
discriminator uses a projection (Miyato and Koyama, 2018, arXiv 1802.05637). The rest is that of training.families.gan.
"""

from __future__ import annotations

from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.families import gan
from manifold.training.families.gan import GAN, PRESETS, Config, draw, evaluate, exports, phases, report, resolve

NEEDS_CLASSES = True

__all__ = ["PRESETS", "Config", "build", "draw", "evaluate", "exports", "phases", "report", "resolve"]


def build(config: gan.Config, data: Data) -> GAN:
    """Return a model with initial weights. Raises TrainingError for data without classes, or convolutions that cannot be conditioned."""
    if data.classes is None:
        raise TrainingError(f"data: {data.name} has no classes to condition on; use the family `gan`", field="data")
    if config.body == "dcgan" and "normalise" not in config.rules:
        raise TrainingError(
            "rules: 'normalise' is missing, but the class is an input of batch normalisation; add it", field="rules"
        )
    return GAN(config, data, len(data.classes))
