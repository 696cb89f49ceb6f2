"""Anomalies that differ from normal rows only in columns that are constant in training. The output is Markdown.

    python benchmarks/constant_columns.py made                   # a table of six related columns and up to twenty constant ones
    python benchmarks/constant_columns.py nslkdd                 # normal connections, and those of one service

`made` draws rows of a network-like table. Its anomalies are new normal rows with another value in one or in five of the constant columns.
`nslkdd` trains on the normal rows of KDDTrain+, or on those of one service. It tests on normal rows of KDDTest+, which get the values that
attacks of KDDTrain+ have in the columns that are constant in training. The score of `manifold fit` (`tabular_vae` with its defaults) is compared
with an isolation forest and with the mean distance to the five nearest training rows, both on the same encoded rows. `recall` is the share of
anomalies above the 99% quantile of the normal test rows; `flagged` is the share above the 99% quantile of the calibration rows. With
`--mixed` a hundredth of the training rows are other anomalies, and the model is trained with `mixed`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import in_memory
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from manifold.runtime.kinds.table import TableSpec
from manifold.training.data import Arrays, Data, tables
from manifold.training.datasets import nslkdd

Array = NDArray[Any]
Table = dict[str, Array]
Figures = tuple[float, float, float]  # recall at 1% false positives, share flagged at 1%, AUROC
SEEDS = range(3)
ROWS = {"train": 20_000, "calibration": 4_000, "test": 5_000, "anomalies": 2_000}
VARYING = ("protocol", "service", "duration", "sent", "received", "rate")
SERVICES = ("http", "smtp", "ftp", "dns", "ssh", "ntp")
MIXED = 0.01  # share of the training rows that are anomalies


def made(constant: int, changed: int, mixed: bool, seed: int) -> Data:
    """Return a table with `constant` columns of one value; each anomaly has another value in `changed` of them."""
    generator = np.random.default_rng(seed)
    parts = {part: {**_connections(generator, n), **_constants(constant, n)} for part, n in ROWS.items()}
    _change(parts["anomalies"], generator, constant, changed)
    if mixed:
        strange = {
            **_connections(generator, int(MIXED * ROWS["train"])),
            **_constants(constant, int(MIXED * ROWS["train"])),
        }
        strange["sent"], strange["rate"] = strange["sent"] * 50, 1 - strange["rate"]
        parts["train"] = {name: np.concatenate([values, strange[name]]) for name, values in parts["train"].items()}
    return tables.from_parts("made", parts, {"source": "benchmarks/constant_columns.py"})


def _connections(generator: np.random.Generator, n: int) -> Table:
    """Return n rows of related columns: a service has its protocol, its usual sizes and its usual rate."""
    service = generator.choice(len(SERVICES), n, p=(0.5, 0.2, 0.12, 0.1, 0.05, 0.03))
    duration = generator.lognormal(service / 3, 0.8)
    sent = np.round(generator.lognormal(5 + service / 4, 0.9))
    return {
        "protocol": np.where(np.isin(service, (3, 5)), "udp", "tcp"),
        "service": np.asarray(SERVICES)[service],
        "duration": duration,
        "sent": sent,
        "received": np.round(sent * generator.lognormal(1 - service / 5, 0.5)),
        "rate": generator.beta(2 + service, 6),
    }


def _constants(columns: int, n: int) -> Table:
    """Return columns of texts, truth values, integers and numbers, each with one value."""
    values: tuple[Any, ...] = ("no", False, 0.0, 2.5)
    return {f"c{place}": np.full(n, values[place % len(values)]) for place in range(columns)}


def _change(table: Table, generator: np.random.Generator, constant: int, changed: int) -> None:
    """Give each row another value in `changed` of the constant columns."""
    others: tuple[Any, ...] = ("yes", True, 1.0, 3.5)
    n = len(table["rate"])
    chosen = generator.random((n, constant)).argsort(axis=1)[:, :changed]
    for place in range(constant):
        rows = (chosen == place).any(axis=1)
        table[f"c{place}"] = np.where(rows, others[place % len(others)], table[f"c{place}"])


def network(service: str | None, changed: int, seed: int) -> tuple[Data, list[str]]:
    """Return normal connections with anomalies that differ in `changed` constant columns at most, and the names of these columns."""
    (train, kinds), (test, test_kinds) = (nslkdd.connections(remote) for remote in nslkdd.FILES)
    here = np.ones(len(kinds), bool) if service is None else train["service"] == service
    normal = np.random.default_rng(seed).permutation(np.flatnonzero((kinds == "normal") & here))
    held_out = len(normal) // 8
    usual = test_kinds == "normal" if service is None else (test_kinds == "normal") & (test["service"] == service)
    fitted, attacks = tables.take(train, normal[held_out:]), tables.take(train, kinds != "normal")
    constant = [
        name
        for name, values in fitted.items()
        if len(np.unique(values)) == 1 and name not in ("service", "protocol_type")
    ]
    differ = np.stack([attacks[name] != fitted[name][0] for name in constant], axis=1)
    constant = [name for name, any_differ in zip(constant, differ.any(axis=0), strict=True) if any_differ]
    anomalies = tables.take(test, usual)
    generator = np.random.default_rng(seed)
    n = len(anomalies["service"])
    chosen = generator.random((n, len(constant))).argsort(axis=1)[:, :changed]
    for place, name in enumerate(constant):
        values = attacks[name][attacks[name] != fitted[name][0]]
        anomalies[name] = np.where((chosen == place).any(axis=1), generator.choice(values, n), anomalies[name])
    parts = {
        "train": fitted, "calibration": tables.take(train, normal[:held_out]), "test": tables.take(test, usual), "anomalies": anomalies,
    }  # fmt: skip
    return tables.from_parts("nslkdd", parts, {"source": "NSL-KDD"}, nslkdd.KINDS), constant


def figures(data: Data, mixed: bool, seed: int) -> dict[str, Figures]:
    """Return the results of each score."""
    assert data.anomalies is not None
    train, held_out, usual, other = (
        Arrays.of(part).items for part in (data.train, data.calibration, data.test, data.anomalies)
    )
    trained = in_memory.fit("tabular_vae", data, seed=seed, mixed=mixed)
    assert trained.manifest.scoring is not None
    ours = [trained.score(items) for items in (usual, other, held_out)]
    by = {
        ("**score**" if name == trained.manifest.scoring.score else name): [part[name] for part in ours]
        for name in ours[0]
    }
    forest = IsolationForest(random_state=seed).fit(train)
    nearest = NearestNeighbors(n_neighbors=5).fit(train[np.random.default_rng(seed).permutation(len(train))[:10_000]])
    by["isolation forest"] = [-forest.score_samples(items) for items in (usual, other, held_out)]
    by["nearest neighbours"] = [nearest.kneighbors(items)[0].mean(axis=1) for items in (usual, other, held_out)]
    labels = np.repeat([0, 1], [len(usual), len(other)])
    return {
        name: (
            float((b > np.quantile(a, 0.99)).mean()),
            float((b > np.quantile(c, 0.99)).mean()),
            float(roc_auc_score(labels, np.concatenate([a, b]))),
        )
        for name, (a, b, c) in by.items()
    }


def show(title: str, runs: list[dict[str, Figures]]) -> None:
    """Print the mean results over the seeds."""
    print(f"\n{title}\n\n| score | recall at 1% | flagged | AUROC |\n|---|---|---|---|")
    for name in runs[0]:
        recall, flagged, auroc = np.mean([run[name] for run in runs], axis=0)
        print(f"| {name} | {recall:.3f} | {flagged:.3f} | {auroc:.3f} |", flush=True)


def cases(options: argparse.Namespace) -> Iterator[tuple[str, list[dict[str, Figures]]]]:
    """Yield titles and figures by seed."""
    seeds = range(options.seeds)
    if options.part == "made":
        for constant, changed in ((5, 1), (5, 5), (20, 1), (20, 5)):
            runs = [figures(made(constant, changed, options.mixed, seed), options.mixed, seed) for seed in seeds]
            yield f"{constant} constant columns, {changed} of them changed", runs
        return
    for service in (None, "http", "smtp"):
        for changed in (
            (1,) if service is None else (1, 5)
        ):  # one column is constant in all normal rows and changed by attacks
            datasets = [network(service, changed, seed) for seed in seeds]
            runs = [figures(data, options.mixed, seed) for seed, (data, _) in zip(seeds, datasets, strict=True)]
            names = datasets[0][1]
            kept = len(TableSpec.of(datasets[0][0].spec, "nslkdd").columns)
            yield (
                f"{service or 'all services'}: at most {changed} of {', '.join(names)} changed ({kept} columns kept)",
                runs,
            )


def main() -> None:
    """Print one of the two benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("made", "nslkdd"))
    parser.add_argument("--mixed", action="store_true")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    torch.set_num_threads(1)
    for title, runs in cases(parser.parse_args()):
        show(title, runs)


if __name__ == "__main__":
    main()
