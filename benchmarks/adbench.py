"""The family `tabular_detector` (or `tabular_vae`) with its default scores on ADBench's classical data sets, compared with PyOD's detectors on the same splits.

    python benchmarks/adbench_peers.py DATA --out runs/adbench-peers.jsonl      # in an environment with PyOD
    python benchmarks/adbench.py DATA --peers runs/adbench-peers.jsonl [--seeds 5] [--out runs/adbench.jsonl]

All data sets use the same settings, and every column is a number. Calibration works as in `manifold fit`: on a ninth of the training rows, or
by folds if there are fewer than 2000. `mixed` is set if the training rows contain anomalies. The scores are those of the exported tasks, computed
by torch. The output is Markdown: mean AUROC and average precision over the data sets (for each data set the mean over its seeds), the mean rank,
and for each peer a two-sided paired Wilcoxon test over the data sets.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import in_memory
import numpy as np
import torch
from adbench_peers import SPLITS, Split, figures, splits
from numpy.typing import NDArray
from scipy.stats import rankdata, wilcoxon

from manifold.runtime.manifest import COMBINED
from manifold.training.data import Data
from manifold.training.data.schema import ColumnSettings
from manifold.training.data.table_splits import FOLDS, SMALL
from manifold.training.data.tables import from_parts

Array = NDArray[Any]
FAMILIES = ("tabular_detector", "tabular_vae")
OURS = "Manifold"


def as_data(split: Split) -> Data:
    """Convert a split to the data type that the families read."""
    names = [f"x{place}" for place in range(split.train.shape[1])]
    order = np.random.Generator(np.random.Philox(split.seed)).permutation(len(split.train))
    small = len(order) < SMALL
    held_out = order[:0] if small else order[: len(order) // 9]
    train_rows = split.train[np.setdiff1d(order, held_out)]
    parts = {"train": train_rows, "calibration": split.train[held_out], "test": split.test}
    tables = {part: dict(zip(names, items.T, strict=True)) for part, items in parts.items()}
    kinds = ColumnSettings(kinds=dict.fromkeys(names, "numeric"))
    return from_parts(split.name, tables, {"source": "ADBench"}, kinds, folds=FOLDS if small else 0)


def scores(split: Split, family: str, score: str) -> dict[str, Array]:
    """Return the score terms of the test rows, and the score that the artifact would give."""
    data = as_data(split)
    trained = in_memory.fit(family, data, mixed=split.kind == "mixed", seed=split.seed, score=score)
    by_name = trained.score(data.inputs(data.test))
    assert trained.manifest.scoring is not None
    ours = by_name[trained.manifest.scoring.score]
    by_name.pop(COMBINED, None)
    return {**by_name, OURS: ours}


def run_all(options: argparse.Namespace) -> None:
    """Fit all splits and seeds that are missing in OUT. Raises SystemExit if OUT has results of another family or score."""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    before = [json.loads(line) for line in options.out.open()] if options.out.exists() else []
    used = {"family": options.family, "score": options.score}
    if others := [line for line in before if {name: line.get(name, used[name]) for name in used} != used]:
        raise SystemExit(
            f"{options.out} has results of {others[0]['family']}, score {others[0]['score']}; give another --out"
        )
    done = {tuple(line["key"][:3]) for line in before}
    with options.out.open("a") as out:
        for path in sorted(options.data.glob("*.npz")):
            for seed in range(options.seeds):
                for split in splits(path, seed):
                    if (split.name, split.kind, seed) in done:
                        continue
                    began = time.perf_counter()
                    by_name = scores(split, options.family, options.score)
                    seconds = round(time.perf_counter() - began, 2)
                    for name, values in by_name.items():
                        line = {
                            "key": (split.name, split.kind, seed, name),
                            **figures(split.labels, values),
                            "seconds": seconds,
                            **used,
                        }
                        out.write(json.dumps(line) + "\n")
                    out.flush()


def tables(paths: list[Path], seeds: int) -> None:
    """Print the results in the files. Detectors that lack a data set or seed of ours are left out."""
    results: dict[str, dict[str, dict[tuple[str, int], tuple[float, float]]]] = defaultdict(lambda: defaultdict(dict))
    for path in paths:
        for line in path.open():
            content = json.loads(line)
            name, kind, seed, detector = content["key"]
            if seed < seeds:
                results[kind][detector][name, seed] = content["auroc"], content["ap"]
    for kind in SPLITS:
        by, wanted = results[kind], set(results[kind][OURS])
        sets = sorted({name for name, _ in wanted})
        print(f"\n{kind}: {len(sets)} data sets, {len(wanted)} splits\n")
        whole = {detector: records for detector, records in by.items() if wanted <= set(records)}
        for detector in sorted(set(by) - set(whole)):
            print(f"left out: {detector} has results for only {len(wanted & set(by[detector]))} of these splits")
        if not sets:
            continue
        means = {
            detector: np.asarray([np.mean([records[key] for key in wanted if key[0] == name], axis=0) for name in sets])
            for detector, records in whole.items()
        }  # (data sets, 2): AUROC and average precision
        detectors = sorted(means, key=lambda detector: -means[detector][:, 0].mean())
        ranks = rankdata([-means[detector][:, 0] for detector in detectors], axis=0).mean(axis=1)
        print(
            "| detector | AUROC | average precision | mean rank | ours wins | p (Wilcoxon) |\n|---|---|---|---|---|---|"
        )
        for place, detector in enumerate(detectors):
            wins = p = ""
            if detector != OURS and (difference := means[OURS][:, 0] - means[detector][:, 0]).any():
                wins, p = f"{int((difference > 0).sum())} of {len(sets)}", f"{wilcoxon(difference).pvalue:.3g}"
            auroc, precision = means[detector].mean(axis=0)
            print(f"| {detector} | {auroc:.4f} | {precision:.4f} | {ranks[place]:.1f} | {wins} | {p} |")


def main() -> None:
    """Fit the models and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--family", choices=FAMILIES, default=FAMILIES[0])
    parser.add_argument("--score", default="auto", help="the option `score` of the family")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/adbench.jsonl"))
    parser.add_argument("--peers", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run_all(options)
    tables([options.out, *([options.peers] if options.peers else [])], options.seeds)


if __name__ == "__main__":
    main()
