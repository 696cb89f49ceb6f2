"""A picture of the pseudo-inputs of a VampPrior, and of the images in the middle of the components that they define.

    python benchmarks/pseudo_inputs.py RUN [-o docs/images/pseudo-inputs.png]     # MANIFOLD_DATA names the folder of the data sets

RUN is a run of the family vae with prior=vamp on images. Rows alternate: pseudo-inputs, and below them the mean of p(x | z) at the mean of
q(z | u). The mean and the smallest Euclidean distance of two pseudo-inputs are printed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manifold.runtime import imaging
from manifold.training import datasets, runs
from manifold.training.networks.priors import Vamp
from manifold.training.train import trained_model

COLUMNS, ROWS = 20, 3


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("-o", "--out", type=Path)
    asked = parser.parse_args()
    run = runs.open_run(asked.run)
    data = datasets.load(run.data)
    model: Any = trained_model(run.resolved(data), data)
    if not isinstance(model.prior, Vamp):
        raise SystemExit(f"{asked.run}: its prior has no pseudo-inputs; give a run of the family vae with prior=vamp")
    inputs = model.prior.inputs()
    decoded = model.decoded(model.prior.components(model.encode_inputs)[1]).flatten(1)
    apart = torch.pdist(inputs)
    print(
        json.dumps(
            {"pseudo_inputs": len(inputs), "mean_distance": float(apart.mean()), "least_distance": float(apart.min())}
        )
    )
    if asked.out:
        rows = [
            each[start : start + COLUMNS] for start in range(0, COLUMNS * ROWS, COLUMNS) for each in (inputs, decoded)
        ]
        pixels = (torch.cat(rows).clamp(0, 1) * 255).round().to(torch.uint8).view(-1, *model.shape).numpy()
        asked.out.write_bytes(imaging.to_png(imaging.grid(np.ascontiguousarray(pixels), columns=COLUMNS, scale=2)))


if __name__ == "__main__":
    main()
