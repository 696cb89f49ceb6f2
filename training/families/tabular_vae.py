"""A VAE for anomaly scores of table rows. It answers: "My training rows are normal. How anomalous is this row?"

The recipe is that of the VAE (Kingma and Welling, 2013), with one likelihood per column (a Gaussian with learned variance and a floor, after
Dai and Wipf, 2019, arXiv 1903.05789, or a categorical), a small latent, few steps and a cosine schedule. After a longer training the model
would also reconstruct anomalies. The score combines the likelihood with distances to the nearest training rows, in latent and input space,
as none of them is best on all data (benchmarks/adbench.py). `mixed` means that the training rows may include anomalies. Then other terms are
combined, and the most anomalous fifth of the rows is trimmed.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import Field

from manifold.runtime.kinds.table import TableSpec
from manifold.training.data import Data
from manifold.training.families import vae
from manifold.training.families.vae import build, draw, evaluate, exports, monitor, phases, report
from manifold.training.scores import rules

ITEMS = ("rows",)
TERMS = ("reconstruction", "kl", "negative_elbo", "latent_distance", "latent_neighbours", "input_neighbours")

__all__ = ["PRESETS", "Config", "build", "draw", "evaluate", "exports", "monitor", "phases", "report", "resolve"]

# smallest and largest default size of the latent; between them it is half of the encoded columns that vary
LATENT = (2, 8)


class Config(vae.Config):
    """The options of the family."""

    latent_dim: int = Field(0, ge=0)  # 0: chosen by the number of columns
    mixed: bool = False  # whether the training rows may include anomalies; if so, a trim of 0 means a fifth


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
    """Return the config with the options that depend on the data. Raises InvalidValue for data that is not a table."""
    spec = TableSpec.of(data.spec, f"data: {data.name}")
    varying = spec.shape[0] - int(spec.constants.sum())
    size = config.latent_dim or min(max((varying + 1) // 2, LATENT[0]), LATENT[1])
    config = config.changed(latent_dim=size)
    if config.mixed:
        score = rules.MIXED if config.score == "auto" and config.references else config.score
        config = config.changed(score=score, trim=config.trim or rules.TRIM)
    return vae.resolve(config, data)
