"""A detector of foreign vectors (embeddings): the cost of `manifold fit` and `manifold score`, and AUROC beside detectors of scikit-learn.

    python benchmarks/vectors.py speed [--rows 100000] [--width 384]
    MANIFOLD_DATA=... python benchmarks/vectors.py quality [--rows 2000] [--held-out]

`speed` generates unit vectors: clusters in subspaces of few dimensions, with noise in all directions. It plants anomalies of three kinds: vectors
of unknown clusters, vectors between two clusters, and vectors of known clusters outside of their subspaces. It runs the two commands as processes and
prints their CPU seconds, their peak memory and the size of the artifact.

`quality` makes vectors of real images: pixels, or random convolutions with pooling, scaled to unit length. One class, or half of the classes, is
normal and all others are anomalies. The choices were made on the classes 0 to 4; `--held-out` takes the classes 5 to 9 as normal.
Both print Markdown. The peers are fitted to the same rows, at most PEER_ROWS of them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import in_memory
import numpy as np
import pyarrow.csv
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

from manifold.runtime.manifest import COMBINED
from manifold.training import datasets
from manifold.training.data.parts import Arrays
from manifold.training.data.schema import ColumnSettings
from manifold.training.data.tables import from_parts

Array = NDArray[Any]
CLUSTERS, DIMENSIONS, NOISE = 36, 12, 0.3
ANOMALIES = 300  # number of anomalies of each kind
KINDS = ("unknown clusters", "between clusters", "outside the subspace")
PEER_ROWS, TESTED = 5000, 2000
SETS = ("mnist", "fashion_mnist", "cifar10")
FILTERS, POOLED = {1: 64, 3: 96}, 4  # number of filters by number of channels, and the size of their pooled outputs


def unit(vectors: Array) -> Array:
    """Scale vectors (n, D) to length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


class Generated:
    """Clusters of vectors of some width. The clusters after the first CLUSTERS are unknown ones."""

    def __init__(self, width: int) -> None:
        self.width, self.random = width, np.random.default_rng(0)
        self.centres = unit(self.random.normal(size=(CLUSTERS + 4, width)))
        self.bases = np.stack([np.linalg.qr(self.random.normal(size=(width, DIMENSIONS)))[0].T for _ in self.centres])
        self.sizes = np.linspace(0.25, 0.05, DIMENSIONS)

    def around(self, clusters: Array, noise: float = NOISE) -> Array:
        """Return one vector around each of these clusters (n,)."""
        found = np.empty((len(clusters), self.width), np.float32)
        for cluster in np.unique(clusters):
            places = np.flatnonzero(clusters == cluster)
            inside = (self.sizes * self.random.normal(size=(len(places), DIMENSIONS))) @ self.bases[cluster]
            spread = noise / np.sqrt(self.width) * self.random.standard_normal((len(places), self.width), np.float32)
            found[places] = self.centres[cluster] + inside + spread
        return unit(found)

    def known(self, n: int) -> Array:
        """Return n normal vectors."""
        return self.around(self.random.integers(0, CLUSTERS, n))

    def anomalies(self) -> Array:
        """Return ANOMALIES vectors of each of KINDS, in this order."""
        unknown = self.around(self.random.integers(CLUSTERS, len(self.centres), ANOMALIES))
        between = unit(self.known(ANOMALIES) + self.known(ANOMALIES))
        outside = self.around(self.random.integers(0, CLUSTERS, ANOMALIES), 1.6 * NOISE)
        return np.concatenate([unknown, between, outside])


def peers(train: Array) -> dict[str, Callable[[Array], Array]]:
    """Return the scores of detectors of scikit-learn that are fitted to some training rows."""
    rows = train[:PEER_ROWS]
    nearest = {k: NearestNeighbors(n_neighbors=k).fit(rows) for k in (1, 5)}
    factor = LocalOutlierFactor(20, novelty=True).fit(rows)
    forest = IsolationForest(random_state=0).fit(rows)
    components = PCA(0.95, svd_solver="full").fit(rows)

    def outside(items: Array) -> Array:
        return np.asarray(((items - components.inverse_transform(components.transform(items))) ** 2).sum(1))

    return {
        "kNN, k = 1": lambda items: nearest[1].kneighbors(items)[0].mean(1),
        "kNN, k = 5": lambda items: nearest[5].kneighbors(items)[0].mean(1),
        "LOF": lambda items: -factor.score_samples(items),
        "IForest": lambda items: -forest.score_samples(items),
        "PCA": outside,
    }


def measured(*arguments: str) -> tuple[float, float]:
    """Run a command of Manifold. Return its CPU seconds, and its peak memory in MiB."""
    command = [sys.executable, "-m", "manifold.cli", *arguments]
    process = os.spawnv(os.P_NOWAIT, sys.executable, command)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)}: failed with status {status}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def speed(options: argparse.Namespace) -> None:
    """Print the cost of both commands, and the AUROC for each kind of anomaly."""
    made = Generated(options.width)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        train = made.known(options.rows)
        np.save(root / "known.npy", train)
        tested = np.concatenate([made.known(TESTED), made.anomalies()])
        more = np.concatenate([tested, made.known(max(0, options.rows - len(tested)))])
        np.save(root / "new.npy", more)
        models = ("--models", str(root / "models"))
        files = ("--run", str(root / "run"), "--html", str(root / "report.html"))
        out = root / "scores.csv"
        fit = measured("fit", str(root / "known.npy"), "--name", "vectors", *models, *files, "--quiet")
        score = measured("score", str(root / "new.npy"), "--model", "vectors", *models, "-o", str(out), "--quiet")
        size = sum(each.stat().st_size for each in (root / "models").rglob("*") if each.is_file())
        print(f"| {options.rows} rows of {options.width} | CPU s | peak memory, MiB |\n|---|---|---|")
        for name, (seconds, memory) in (("fit", fit), (f"score {len(more)} rows", score)):
            print(f"| {name} | {seconds:.0f} | {memory:.0f} |")
        print(f"\nartifact: {size / 2**20:.1f} MiB\n")
        own = pyarrow.csv.read_csv(out)["score"].to_numpy()[: len(tested)]
    found = {"Manifold": own, **{name: peer(tested) for name, peer in peers(train).items()}}
    print(f"| detector | {' | '.join(KINDS)} |\n|---|{'---|' * len(KINDS)}")
    for name, values in found.items():
        kinds = values[TESTED:].reshape(len(KINDS), ANOMALIES)
        print(f"| {name} | {' | '.join(f'{auroc(values[:TESTED], each):.4f}' for each in kinds)} |")


def auroc(normal: Array, anomalous: Array) -> float:
    """Return the AUROC of scores of normal rows and of anomalies."""
    labels = np.arange(len(normal) + len(anomalous)) >= len(normal)
    return float(roc_auc_score(labels, np.concatenate([normal, anomalous])))


def vectors_of(images: Array, form: str) -> Array:
    """Return images (n, C, H, W) as unit vectors: their pixels, or pooled outputs of random filters."""
    import torch
    from torch.nn import functional as F

    if form == "pixels":
        return unit(images.reshape(len(images), -1).astype(np.float32) + 1e-3)
    torch.manual_seed(0)
    channels = images.shape[1]
    filters = torch.randn(FILTERS[channels], channels, 5, 5)
    filters -= filters.mean((1, 2, 3), keepdim=True)
    made = [
        F.adaptive_avg_pool2d(F.conv2d(piece.float() / 255, filters, stride=2).relu(), POOLED).flatten(1)
        for piece in torch.from_numpy(images).split(500)
    ]
    return unit(torch.cat(made).numpy())


def quality(options: argparse.Namespace) -> None:
    """Print the mean AUROC over the tasks of each set of vectors."""
    import torch

    torch.set_num_threads(1)
    means: dict[str, dict[str, float]] = {}
    for name in SETS:
        data = datasets.load(name)
        held = Arrays.of(data.train)
        for form in ("pixels", "convolutions"):
            random, by_name = np.random.default_rng(0), defaultdict[str, list[float]](list)
            first = 5 if options.held_out else 0
            for normal in ([first], [first + 1], [first + 3], list(range(first, first + 5))):
                inside = random.permutation(np.flatnonzero(np.isin(held.labels, normal)))
                outside = random.permutation(np.flatnonzero(~np.isin(held.labels, normal)))[:1000]
                chosen = np.concatenate([inside[: options.rows + 1000], outside])
                found = vectors_of(held.items[chosen], form)
                train, test = found[: options.rows], found[-2000:]
                for detector, values in task(train, test).items():
                    by_name[detector].append(auroc(values[:1000], values[1000:]))
            means[f"{name}, {form}"] = {detector: float(np.mean(each)) for detector, each in by_name.items()}
            print(f"{name}, {form}: done", file=sys.stderr)
    print(f"| detector | {' | '.join(means)} | mean |\n|---|{'---|' * (len(means) + 1)}")
    for detector in next(iter(means.values())):
        row = [each[detector] for each in means.values()]
        print(f"| {detector} | {' | '.join(f'{value:.4f}' for value in [*row, np.mean(row)])} |")


def task(train: Array, test: Array) -> dict[str, Array]:
    """Return the scores of test rows by detector. A ninth of the training rows calibrates the combination, as in `manifold fit`."""
    names = [f"x{place}" for place in range(train.shape[1])]
    held = len(train) // 9
    parts = {"train": train[held:], "calibration": train[:held], "test": test}
    columns = {part: dict(zip(names, rows.T, strict=True)) for part, rows in parts.items()}
    data = from_parts("vectors", columns, {}, ColumnSettings(vectors=tuple(names)))
    scores = in_memory.fit("tabular_detector", data).score(data.inputs(data.test))
    own = {"Manifold": scores.pop(COMBINED), **{f"its term {name}": values for name, values in scores.items()}}
    return {**own, **{name: peer(test) for name, peer in peers(train).items()}}


def main() -> None:
    """Run one of the two benchmarks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("which", choices=("speed", "quality"))
    parser.add_argument("--rows", type=int)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--held-out", action="store_true")
    options = parser.parse_args()
    options.rows = options.rows or (100_000 if options.which == "speed" else 2000)
    speed(options) if options.which == "speed" else quality(options)


if __name__ == "__main__":
    main()
