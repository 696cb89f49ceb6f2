"""VAE for rows of a table, made to score them: "my training rows are normal, how anomalous is this one?"

The recipe: the VAE's (Kingma and Welling, 2013), with one likelihood a column (a Gaussian with learned variance and a floor, after Dai and
Wipf, 2019, arXiv 1903.05789, or a categorical), a small latent, few steps and a cosine schedule: a longer training reconstructs anomalies
too. Distances to the nearest training rows, in latent and input space, stand beside the likelihood, as neither wins everywhere
(benchmarks/adbench.py). `mixed` says that the training rows hold anomalies themselves: other terms are combined then, and the most
anomalous fifth is trimmed.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import Field

from manifold.runtime.kinds.table import TableSpec
from manifold.training.data import Data
from manifold.training.families import vae
from manifold.training.families.vae import build, draw, evaluate, exports, monitor, phases, report
from manifold.training.scores import rules

__all__ = ["PRESETS", "Config", "build", "draw", "evaluate", "exports", "monitor", "phases", "report", "resolve"]

TRIM = 0.2  # of training rows that may hold anomalies, if no share is stated
LATENT = (2, 8)  # least and largest size of the latent, which is half of the encoded columns that vary in between


class Config(vae.Config):
    """Options of the family."""

    latent_dim: int = Field(0, ge=0)  # 0: by the number of columns
    mixed: bool = False  # the training rows may hold anomalies; a trim of 0 is TRIM then


RECIPE: dict[str, Any] = {
    "epochs": 15, "epoch_steps": 100, "batch_size": 256, "schedule": "cosine", "ema": 0.99, "hidden": (128, 128), "iwae_k": 100, "references": 5000,
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {**RECIPE, "epochs": 2, "epoch_steps": 20, "hidden": (32,), "references": 100, "iwae_k": 5},
    "cpu": RECIPE,
    "gpu": {**RECIPE, "epochs": 30},
}


C = TypeVar("C", bound=Config)


def resolve(config: C, data: Data) -> C:
    """Return the config with what depends on the data filled in. Raises InvalidValue for data that is no table."""
    spec = TableSpec.of(data.spec, f"data: {data.name}")
    varying = spec.shape[0] - int(spec.constants.sum())
    size = config.latent_dim or min(max((varying + 1) // 2, LATENT[0]), LATENT[1])
    config = config.changed(latent_dim=size)
    if config.mixed:
        score = rules.MIXED if config.score == "auto" and config.references else config.score
        config = config.changed(score=score, trim=config.trim or TRIM)
    return vae.resolve(config, data)
