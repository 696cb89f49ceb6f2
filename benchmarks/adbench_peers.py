"""The peers of benchmarks/adbench.py, in their own environment: `pip install pyod torch tqdm`.

    python benchmarks/adbench_peers.py DATA [--seeds 5] [--out runs/adbench-peers.jsonl]

DATA holds the .npz files of ADBench's classical data sets (Han et al., 2022, arXiv 2206.09426): arrays `X` and `y`, with y = 1 for anomalies.
PyOD's detectors run with their default settings. Min-max scaling is fitted on the training rows, as in ADBench. The output has one JSON line for
each data set, split, seed and detector. This file also makes the splits: it needs only numpy and scikit-learn until a detector is fitted.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler

Array = NDArray[Any]
CAP = 10_000  # most rows of a data set; larger ones are sampled, stratified, with seed 0
SPLITS = ("normals", "mixed")  # trained on half of the normal rows; on 70% of all rows, with anomalies


@dataclass(frozen=True)
class Split:
    """One split of a data set with one seed."""

    name: str
    kind: str
    seed: int
    train: Array  # float64 (N, D)
    test: Array
    labels: Array  # labels of the test rows, 1 for anomalies


def read(path: Path) -> tuple[Array, Array]:
    """Read X and y of a data set, and draw at most CAP rows."""
    with np.load(path, allow_pickle=False) as content:
        x, y = content["X"].astype(np.float64), content["y"].astype(np.int64)
    if len(x) > CAP:
        _, x, _, y = train_test_split(x, y, test_size=CAP, random_state=0, stratify=y)
    return x, y


def splits(path: Path, seed: int) -> Iterator[Split]:
    """Split a data set in both ways. Rows are not duplicated, and no test row is in the training rows."""
    x, y = read(path)
    normals = np.random.default_rng(seed).permutation(np.flatnonzero(y == 0))
    train, rest = normals[: len(normals) // 2], normals[len(normals) // 2 :]
    test = np.concatenate([rest, np.flatnonzero(y == 1)])
    yield Split(path.stem, "normals", seed, x[train], x[test], y[test])
    train_x, test_x, _, test_y = train_test_split(x, y, test_size=0.3, random_state=seed, stratify=y)
    yield Split(path.stem, "mixed", seed, train_x, test_x, test_y)


def figures(labels: Array, scores: Array) -> dict[str, float]:
    """Return AUROC and average precision."""
    return {"auroc": float(roc_auc_score(labels, scores)), "ap": float(average_precision_score(labels, scores))}


def detectors(seed: int) -> dict[str, Any]:
    """Return PyOD's detectors with their own defaults."""
    from pyod.models.auto_encoder import AutoEncoder
    from pyod.models.cblof import CBLOF
    from pyod.models.copod import COPOD
    from pyod.models.ecod import ECOD
    from pyod.models.gmm import GMM
    from pyod.models.hbos import HBOS
    from pyod.models.iforest import IForest
    from pyod.models.knn import KNN
    from pyod.models.lof import LOF
    from pyod.models.mcd import MCD
    from pyod.models.ocsvm import OCSVM
    from pyod.models.pca import PCA
    from pyod.models.vae import VAE

    return {
        "IForest": IForest(random_state=seed), "ECOD": ECOD(), "COPOD": COPOD(), "HBOS": HBOS(), "KNN": KNN(), "LOF": LOF(),
        "CBLOF": CBLOF(random_state=seed), "PCA": PCA(random_state=seed), "OCSVM": OCSVM(), "MCD": MCD(random_state=seed),
        "GMM": GMM(random_state=seed), "AutoEncoder": AutoEncoder(random_state=seed, verbose=0), "VAE": VAE(random_state=seed, verbose=0),
    }  # fmt: skip


def main() -> None:
    """Fit the detectors and score the test rows. A failure is written to the output with its reason, and counts as 0.5 in the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--only", nargs="*", help="detectors to run (default: all); results in OUT are not computed again"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/adbench-peers.jsonl"))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    done = {tuple(json.loads(line)["key"]) for line in options.out.open()} if options.out.exists() else set()
    with options.out.open("a") as out:
        for path in sorted(options.data.glob("*.npz")):
            for seed in range(options.seeds):
                for split in splits(path, seed):
                    scaler = MinMaxScaler().fit(split.train)
                    train, test = scaler.transform(split.train), scaler.transform(split.test)
                    for name, detector in detectors(seed).items():
                        key = (split.name, split.kind, seed, name)
                        if key in done or (options.only and name not in options.only):
                            continue
                        began = time.perf_counter()
                        try:
                            detector.fit(train)
                            numbers: dict[str, Any] = figures(split.labels, detector.decision_function(test))
                        except Exception as error:  # a detector that fails on a data set is a result too
                            numbers = {
                                "auroc": 0.5,
                                "ap": float(split.labels.mean()),
                                "error": f"{type(error).__name__}: {error}",
                            }
                        numbers["seconds"] = round(time.perf_counter() - began, 3)
                        out.write(json.dumps({"key": key, **numbers}) + "\n")
                        out.flush()


if __name__ == "__main__":
    main()
