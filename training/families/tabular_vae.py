"""VAE for rows of a table, made to score them: "my training rows are normal, how strange is this one?"

The recipe: the VAE's (Kingma and Welling, 2013), with one likelihood a column (a Gaussian with learned variance and a floor, after Dai and
Wipf, 2019, arXiv 1903.05789, or a categorical), a small latent, few steps and a cosine schedule: a longer training reconstructs anomalies
too. Distances to the nearest training rows, in latent and input space, stand beside the likelihood, as neither wins everywhere
(benchmarks/adbench.py). `mixed` says that the training rows hold anomalies themselves: other terms are combined then, and the strangest fifth
is trimmed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from manifold.runtime.kinds.table import TableSpec
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.exporting.tasks import Exports
from manifold.training.families import vae
from manifold.training.families.vae import VAE, draw, evaluate, monitor, phases, report

__all__ = ["PRESETS", "Config", "build", "draw", "evaluate", "exports", "monitor", "phases", "report"]

TRIM = 0.2  # of training rows that may hold anomalies, where no share is named
LATENT = (2, 8)  # sizes of the latent: half of the encoded columns, held to this


@dataclass(frozen=True)
class Config(vae.Config):
    """Options of the family. A latent size of 0 is chosen by the number of columns."""

    latent_dim: int = 0
    mixed: bool = False  # the training rows may hold anomalies; a trim of 0 is TRIM then

    least_latent = 0


RECIPE: dict[str, Any] = {
    "epochs": 15, "epoch_steps": 100, "batch_size": 256, "schedule": "cosine", "ema": 0.99, "hidden": (128, 128), "iwae_k": 100, "references": 5000,
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {**RECIPE, "epochs": 2, "epoch_steps": 20, "hidden": (32,), "references": 100, "iwae_k": 5},
    "cpu": RECIPE,
    "gpu": {**RECIPE, "epochs": 30},
}


def resolved(config: Any, data: Data) -> Any:
    """The config with what depends on the data filled in. Raises TrainingError for data that is no table."""
    if not isinstance(data.spec, TableSpec):
        raise TrainingError(f"data: {data.name} holds images; the family `vae` is for those", field="data")
    size = config.latent_dim or min(max((data.spec.shape[0] + 1) // 2, LATENT[0]), LATENT[1])
    score = (
        config.score
        if config.score != "auto" or not config.references
        else vae.AUTO_MIXED
        if config.mixed
        else vae.AUTO_TABLE
    )
    trim = config.trim or (TRIM if config.mixed else 0.0)
    return replace(config, latent_dim=size, score=score, trim=trim)


def build(config: Config, data: Data) -> VAE:
    """A model with fresh weights. Raises TrainingError for data that is no table."""
    return VAE(resolved(config, data), data)


def exports(model: VAE, config: Config, data: Data) -> Exports:
    """The VAE's tasks."""
    return vae.exports(model, model.config, data)
