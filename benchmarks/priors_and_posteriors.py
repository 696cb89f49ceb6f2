"""The bounds of a VAE with each prior and each posterior: the same encoder and decoder, data, seed and number of epochs.

    python benchmarks/priors_and_posteriors.py [--data mnist] [--epochs 60] [--only gamma vamp ...] --runs FOLDER

One law is changed at a time; `baseline` has the prior N(0, I) and diagonal Gaussian posteriors. The ELBO and IWAE-500 are those of the report, on
the test split. Bernoulli likelihoods see each pixel binarised at random, with the same bits for all laws. The standard error of a gain over the
baseline is that of the paired differences of IWAE-PAIRED over the test images. CPU seconds are those of the training and of the report.
FOLDER keeps the runs, which `manifold export` can export, and the figures of each in result.json. Finished ones are read again; a run that was
interrupted is resumed. MANIFOLD_DATA names the folder of the data sets.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manifold.runtime.files import replaced
from manifold.training import datasets, families, runs
from manifold.training.batches import in_order
from manifold.training.bounds import iwae
from manifold.training.data import Data
from manifold.training.train import train, trained_model

LAWS: dict[str, dict[str, str]] = {
    "baseline": {},
    **{name: {"prior": name} for name in ("mixture", "vamp", "hierarchical")},
    "flow": {"prior": "flow"},
    **{name: {"posterior": name} for name in ("full", "iaf", "logistic", "log-normal", "gamma")},
}
PAIRED, BATCH, SEED = 50, 200, 1  # draws for each image in paired differences
RESULT = "result.json"


@torch.no_grad()
def bounds(model: Any, data: Data) -> list[float]:
    """Return IWAE-PAIRED of each test image, in nats. Binary pixels and noise do not depend on the law, if the size of the noise is the same."""
    found: list[float] = []
    for place, batch in enumerate(in_order(data.test, BATCH, torch.Generator().manual_seed(SEED))):
        generator = torch.Generator().manual_seed(SEED + place)
        x = model.likelihood.observe(batch.items.flatten(1), generator)
        noise = torch.randn((PAIRED, len(x), model.noise_size), generator=generator)
        found += iwae(model, x, noise).tolist()
    return found


def measured(name: str, data: Data, epochs: int, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the figures of a law, from the folder if they are there. Train the run, or resume it, if it is not finished."""
    file = folder / RESULT
    if file.exists():
        found: dict[str, Any] = json.loads(file.read_bytes())
        return found
    family = families.get("vae")
    config = family.Config.model_validate({"epochs": epochs, "references": 0, **options, **LAWS[name]})
    run = runs.TrainingRun(folder, "vae", data.name, "cpu", config)
    began = time.process_time()
    if not (folder / runs.METRICS).exists():
        train(run, data, resume=run.checkpoint.exists(), device="cpu", quiet=True)
    seconds = time.process_time() - began
    model: Any = trained_model(run.resolved(data), data)
    metrics = {each["name"]: each for each in json.loads((folder / runs.METRICS).read_bytes())}
    result = {
        "law": name, "data": data.name, "epochs": epochs, "cpu_seconds": round(seconds),
        "parameters": sum(each.numel() for each in model.parameters()),
        "metrics": {key: each["value"] for key, each in metrics.items()},
        "images": [round(each, 3) for each in bounds(model, data)],
    }  # fmt: skip
    replaced(file, json.dumps(result).encode())
    return result
