"""Real card fraud: `tabular_vae` trained on genuine rows, compared with PyOD's detectors and an isolation forest on the same rows.

    python benchmarks/creditcard.py ours SCORES.npz       # trains five models, and keeps rows and scores
    python benchmarks/creditcard.py peers SCORES.npz      # in an environment with PyOD: adds its detectors, prints the table

The test rows hold 3.5% frauds, the whole data set 0.17%: average precision is computed with weights that restore this share. Recall is measured at
the threshold that 1% of the genuine test rows exceed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score

Array = NDArray[Any]
FRAUD_RATE = 0.0017
SEEDS = range(5)


def ours(path: Path) -> None:
    """Score the test rows with models of five seeds."""
    import in_memory
    import torch

    from manifold.training import datasets
    from manifold.training.data import Arrays

    torch.set_num_threads(1)
    data = datasets.load("creditcard")
    assert data.anomalies is not None
    judged = np.concatenate([Arrays.of(data.test).items, Arrays.of(data.anomalies).items])
    made: dict[str, Array] = {
        "train": np.concatenate([Arrays.of(data.train).items, Arrays.of(data.calibration).items]),
        "judged": judged,
    }
    made["labels"] = np.arange(len(judged)) >= len(data.test)
    for seed in SEEDS:
        made[f"tabular_vae-{seed}"] = in_memory.fit("tabular_vae", data, seed=seed).rank(judged)
    np.savez(path, **made)


def peers(path: Path) -> None:
    """Fit the other detectors on the same rows, and print the table. Rows that calibrate our model are training rows of the others."""
    from pyod.models.copod import COPOD
    from pyod.models.ecod import ECOD
    from pyod.models.gmm import GMM
    from pyod.models.knn import KNN
    from pyod.models.lof import LOF

    with np.load(path) as content:
        held = dict(content)
    train, judged, labels = held.pop("train"), held.pop("judged"), held.pop("labels")
    scores: dict[str, list[Array]] = {"tabular_vae": [held[f"tabular_vae-{seed}"] for seed in SEEDS]}
    scores["isolation forest"] = [
        -IsolationForest(random_state=seed).fit(train).score_samples(judged) for seed in SEEDS
    ]
    for detector in (ECOD(), COPOD(), KNN(), LOF(), GMM(random_state=0)):
        scores[type(detector).__name__] = [detector.fit(train).decision_function(judged)]
    weights = np.where(labels, FRAUD_RATE / labels.sum(), (1 - FRAUD_RATE) / (~labels).sum())
    print(
        f"{len(train)} genuine training rows (ours calibrates on a ninth of them); test rows: {(~labels).sum()} genuine, {labels.sum()} frauds\n"
    )
    print(f"| method | AUROC | average precision at {FRAUD_RATE:.2%} | recall at 1% false alarms |\n|---|---|---|---|")
    for name, runs in scores.items():
        rows = []
        for run in runs:
            line = np.quantile(run[~labels], 0.99)
            precision = average_precision_score(labels, run, sample_weight=weights)
            rows.append((roc_auc_score(labels, run), precision, (run[labels] > line).mean()))
        mean, spread = np.mean(rows, axis=0), np.std(rows, axis=0)
        print(
            f"| {name} | "
            + " | ".join(
                f"{m:.3f} ± {s:.3f}" if len(rows) > 1 else f"{m:.3f}" for m, s in zip(mean, spread, strict=True)
            )
            + " |"
        )


def main() -> None:
    """Run one of the two steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("ours", "peers"))
    parser.add_argument("scores", type=Path)
    options = parser.parse_args()
    {"ours": ours, "peers": peers}[options.step](options.scores)


if __name__ == "__main__":
    main()
