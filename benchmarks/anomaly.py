"""Out-of-distribution images scored by each term and by the combined score of shipped models; and one digit against the other nine.

    python benchmarks/anomaly.py [--n 10000] [--models models] [--one-class --epochs 20 --out runs/one-class]

Pairs: each model in the folder `--models` scores its own test split and another data set, whose images are fitted to the model as the service
fits them. Models that are not in the folder are left out. The default score of VAEs was chosen on training splits, also of the other data sets,
and on synthetic anomalies; that of VQ-VAEs on their first two pairs. One-class: for each digit, a VAE is trained on that digit's training items and
scores the whole test split with the default score. Runs and models in OUT are used again; remove OUT/models to export the runs anew. The output is
Markdown: AUROC, the recall at a threshold for 1% false alarms that was set on the calibration split, and the measured false-alarm rate.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from manifold.evaluation.anomaly import fitted
from manifold.runtime import engine, repository
from manifold.runtime.engine import Model
from manifold.runtime.kinds.image import ImageSpec
from manifold.training import datasets, families, runs
from manifold.training.data import Arrays, Data
from manifold.training.export import export
from manifold.training.train import train

Array = NDArray[Any]
PAIRS = (
    ("fashion-vae", "mnist"), ("mnist-vae", "fashion_mnist"), ("mnist-vae", "cifar10"), ("fashion-vae", "frey_face"),
    ("fashion-vqvae", "mnist"), ("mnist-vqvae", "fashion_mnist"), ("mnist-vqvae", "cifar10"), ("fashion-vqvae", "frey_face"),
)  # fmt: skip


def rows(model: Model, usual: Array, strange: Array) -> dict[str, tuple[float, float, float]]:
    """Return for each term the AUROC, the recall at the calibrated threshold for 1%, and the share of usual items above the threshold."""
    both = [model.calibrated.place(model.score(items).terms) for items in (usual, strange)]
    labels = np.repeat([False, True], [len(usual), len(strange)])
    by_term = {}
    for name in both[0]:
        values = np.concatenate([part[name] for part in both])
        flagged = model.calibrated.p_values(name, values) <= 0.01
        by_term[name] = (
            float(roc_auc_score(labels, values)),
            float(flagged[labels].mean()),
            float(flagged[~labels].mean()),
        )
    return by_term


def pairs(models: Path, n: int) -> None:
    """Print the table of pairs."""
    print("| model, other data | " + "term | AUROC | recall at 1% | measured false alarms |\n|---|---|---|---|---|")
    for name, other in PAIRS:
        if not (models / name).exists():
            print(f"| {name}, {other} | no such model in {models} | | | |", flush=True)
            continue
        model = engine.load(repository.find(name, models), device="cpu")
        own, strange = datasets.load(model.manifest.data_name or ""), datasets.load(other)
        spec = ImageSpec.of(model.manifest.spec, name)
        items = Arrays.of(strange.test).items if len(strange.test) >= 1000 else Arrays.of(strange.train).items
        by_term = rows(model, own.inputs(own.test)[:n], fitted(items[:n], spec))
        assert model.manifest.scoring is not None
        for term, (auroc, tpr, fpr) in by_term.items():
            mark = "**" if term == model.manifest.scoring.score else ""
            print(f"| {name}, {other} | {mark}{term}{mark} | {auroc:.3f} | {tpr:.3f} | {fpr:.4f} |", flush=True)


def only(data: Data, digit: int) -> Data:
    """Return the training and calibration items of one class, and the whole test split."""
    parts = {name: getattr(data, name)[getattr(data, name).labels == digit] for name in ("train", "calibration")}
    return dataclasses.replace(data, name=f"{data.name}-{digit}", classes=None, **parts)


def one_class(out: Path, epochs: int) -> None:
    """Print the table of digits."""
    data, family = datasets.load("mnist"), families.get("vae")
    means: dict[str, list[float]] = {}
    print("| digit | " + "term: AUROC |\n|---|---|")
    for digit in range(10):
        part = only(data, digit)
        config = family.Config.model_validate(
            {"epochs": epochs, "latent_dim": 16, "schedule": "cosine", "ema": 0.99, "iwae_k": 2}
        )
        run = runs.TrainingRun(out / str(digit), "vae", part.name, "cpu", config)
        if not run.checkpoint.exists():
            train(run, part, device="cpu", quiet=True)
        if not (out / "models" / f"digit-{digit}").exists():
            export(run, f"digit-{digit}", out / "models", data=part)
        model = engine.load(out / "models" / f"digit-{digit}", device="cpu")
        edge, own = data.inputs(data.test), data.test.labels == digit
        by_term = rows(model, edge[own], edge[~own])
        for term, (auroc, _, _) in by_term.items():
            means.setdefault(term, []).append(auroc)
        print(
            f"| {digit} | " + ", ".join(f"{term} {auroc:.3f}" for term, (auroc, _, _) in by_term.items()) + " |",
            flush=True,
        )
    print("| mean | " + ", ".join(f"{term} {np.mean(values):.4f}" for term, values in means.items()) + " |")


def main() -> None:
    """Print both tables, or only the requested one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--one-class", action="store_true")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/one-class"))
    options = parser.parse_args()
    if options.one_class:
        one_class(options.out, options.epochs)
    else:
        pairs(options.models, options.n)


if __name__ == "__main__":
    main()
