"""False positive rates of tables that are calibrated by folds, on 2000 new rows from the same distribution, over many tables.

    python benchmarks/fold_rates.py --rows 400 --tables 30

Prints for each requested rate the mean of the measured rates with its standard error, and the number of rates within the interval that holds for
exchangeable items.
"""

from __future__ import annotations

import argparse

import in_memory
import numpy as np
import torch
from numpy.typing import NDArray

from manifold.evaluation import rates
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.manifest import COMBINED, Calibration
from manifold.runtime.scores.scoring import Calibrated, cross_combined
from manifold.training.data import tables

SETTINGS = {"epochs": 4, "epoch_steps": 40, "hidden": (48,), "iwae_k": 5, "references": 1000}
NEW = 2000  # number of new rows


def made(n: int, generator: np.random.Generator) -> dict[str, NDArray[np.generic]]:
    """Return n rows of dependent, heavy-tailed and categorical columns."""
    a, b = generator.normal(size=(2, n))
    return {
        "a": a, "b": b, "sum": a + b + 0.1 * generator.normal(size=n), "amount": generator.pareto(1.5, n),
        "sign": np.where(a > 0, "up", "down"), "where": generator.choice(["x", "y", "z"], n, p=[0.8, 0.15, 0.05]),
    }  # fmt: skip


def measure(n: int, seed: int) -> list[dict[str, object]]:
    """Return the measured rates of a model that is fitted to a table of n rows."""
    generator = np.random.default_rng(1000 + seed)
    data = tables.from_table("made", made(n, generator), {})
    model = in_memory.fit("tabular_vae", data, seed=seed, **SETTINGS)
    about = model.manifest.scoring
    assert about is not None and about.combination is not None
    values = {**model.calibration, COMBINED: cross_combined(about.combination, model.calibration)}
    calibration = Calibration(id="folds", n=len(data.train), created="", source="")
    calibrated = Calibrated(calibration, {name: np.sort(term) for name, term in values.items()}, about.combination)
    new = TableSpec.of(data.spec, "made").encode(made(NEW, generator), missing=True).data
    placed = calibrated.place({name: term for name, term in model.score(new).items() if name != COMBINED})
    return rates.measure(calibrated, about.score, calibrated.p_values(about.score, placed[about.score]))


def main() -> None:
    """Fit the models, and print a line for each requested rate."""
    parser = argparse.ArgumentParser(description="Measure false positive rates after a calibration by folds.")
    parser.add_argument("--rows", type=int, default=400, help="rows of each table, fewer than 2000")
    parser.add_argument("--tables", type=int, default=30, help="number of tables")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[object, list[dict[str, object]]] = {}
    for seed in range(options.tables):
        for rate in measure(options.rows, seed):
            found.setdefault(rate["asked"], []).append(rate)
    for asked, measured in found.items():
        met = np.asarray([rate["met"] for rate in measured], float)
        inside = sum(not rates.outside(rate) for rate in measured)
        error = met.std(ddof=1) / np.sqrt(len(met)) if len(met) > 1 else float("nan")
        print(f"requested {asked}: measured {met.mean():.4f} ± {error:.4f}, {inside} of {len(met)} within the interval")


if __name__ == "__main__":
    main()
