"""1 754 155 simulated card transactions from a file to scores: speed compared with the bare engine, memory, and detected frauds.

    python benchmarks/fraud.py [--model models/transactions-vae] [--rows N] [--work DIR]

The features of every transaction are written to a Parquet file; they are computed from the past of its card and terminal, without labels.
`manifold score` turns this file into a Parquet file of scores, in its own process, whose peak memory is read. The bare engine is measured on the
same rows, already encoded, in the same chunks. Each is run twice, in turn, and the better time counts.

Quality is measured on the days after the model's calibration days, frauds included: average precision, precision among each day's 100 highest
scores, and for each scenario the share of frauds above the 99% quantile of the genuine rows. For comparison, an isolation forest is fitted on
the model's own training rows. The output is Markdown.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score

from manifold.runtime import engine, repository
from manifold.runtime.engine import Model
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables import columns, files
from manifold.training import datasets
from manifold.training.data import Arrays
from manifold.training.data.remote import fetch
from manifold.training.datasets import transactions

Array = NDArray[Any]
A_DAY = 100  # number of alerts that a team checks in a day
SCENARIOS = (
    1,
    2,
    3,
)  # 1: amounts above 220; 2: compromised terminals, for 28 days; 3: cards whose amounts grow fivefold, for 14 days


# run the command, then print its own peak as Linux reports it: the peak that a parent reads for a child includes the
# parent's size at the start
PEAK = """
from manifold import cli
try:
    cli.main()
finally:
    print(next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def score_file(model: Path, source: Path, out: Path) -> tuple[float, float]:
    """Return the seconds and the peak resident MiB of `manifold score` in its own process. Start and loading are included."""
    began = time.perf_counter()
    command = [sys.executable, "-c", PEAK, "score", str(source), "--model", str(model), "-o", str(out), "--quiet"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - began, float(done.stdout.split()[-1])


def run_engine(model: Model, data: Array) -> tuple[float, dict[str, Array]]:
    """Return the seconds of the score task alone, and its outputs."""
    began, scores = time.perf_counter(), []
    for start in range(0, len(data), files.CHUNK_ROWS):
        scores.append(model.run("score", {"data": data[start : start + files.CHUNK_ROWS]}))
    terms = {role: np.concatenate([part[role] for part in scores]) for role in scores[0] if scores[0][role].ndim == 1}
    return time.perf_counter() - began, terms


def quality(name: str, scores: Array, scenario: Array, day: Array) -> str:
    """Return a row of the table."""
    fraud = scenario > 0
    line = np.quantile(scores[~fraud], 0.99)
    top = []
    for date in np.unique(day):
        here = np.flatnonzero(day == date)
        top.append(float(fraud[here[np.argsort(-scores[here], kind="stable")[:A_DAY]]].mean()))
    recall = " | ".join(f"{(scores[scenario == number] > line).mean():.3f}" for number in SCENARIOS)
    return (
        f"| {name} | {roc_auc_score(fraud, scores):.3f} | {average_precision_score(fraud, scores):.3f} | {np.mean(top):.3f} | "
        f"{(scores[fraud] > line).mean():.3f} | {recall} |"
    )


def main() -> None:
    """Score everything and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="transactions-vae")
    parser.add_argument("--rows", type=int, help="number of rows, from the beginning of the file (default: all)")
    parser.add_argument("--work", type=Path, help="folder for the files (default: a temporary folder)")
    options = parser.parse_args()
    model = engine.load(repository.find(options.model, Path("models")), device="cpu", threads=1)
    spec = TableSpec.of(model.manifest.spec, options.model)
    table, scenario, day = transactions.read(fetch(transactions.FILE))
    table = {name: values[: options.rows] for name, values in table.items()}
    n = len(table["amount"])
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        source, out = work / "transactions.parquet", work / "scores.parquet"
        parquet.write_table(pa.table({name: pa.array(values) for name, values in table.items()}), source)
        data = columns.encode(table, spec, unknown=True, missing=True).data
        times: dict[str, list[float]] = {"engine": [], "file": []}
        for _ in range(2):
            seconds, terms = run_engine(model, data)
            times["engine"].append(seconds)
            seconds, peak = score_file(model.folder, source, out)
            times["file"].append(seconds)
        scored = parquet.read_table(out)
    assert scored["row"].to_numpy().tolist() == list(range(1, n + 1))
    for role, values in terms.items():
        assert np.array_equal(scored[f"part.{role}"].to_numpy(), values.astype(np.float64)), role
    rate = {name: n / min(seconds) for name, seconds in times.items()}
    print(f"{model.manifest.name} {model.manifest.version}, {n:,} transactions, one thread\n")
    print("| run | rows/s | peak memory |\n|---|---|---|")
    print(f"| the engine alone, encoded rows in memory | {rate['engine']:,.0f} | |")
    print(
        f"| `manifold score` from Parquet to Parquet, start included | {rate['file']:,.0f} ({rate['file'] / rate['engine']:.2f} of that) | {peak:.0f} MiB |"
    )
    after = day[:n] >= transactions.DAYS["test"][0]
    if not (after & (scenario[:n] > 0)).any():
        return
    # exactly the rows that the model was trained on
    trained = np.nan_to_num(Arrays.of(datasets.load("transactions").train).items)
    forest = IsolationForest(random_state=0).fit(trained)
    print(
        f"\nDays {day[:n][after].min()} to {day[:n][after].max()}: {after.sum():,} transactions, {(after & (scenario[:n] > 0)).sum():,} frauds\n"
    )
    print(
        f"| score | AUROC | average precision | precision of {A_DAY} alerts a day | recall at 1% | scenario 1 | 2 | 3 |\n|---|---|---|---|---|---|---|---|"
    )
    judged = scenario[:n][after], day[:n][after]
    print(quality("the combined score", scored["score"].to_numpy()[after], *judged))
    for role in terms:
        print(quality(role, scored[f"part.{role}"].to_numpy()[after], *judged))
    print(quality("IForest", -forest.score_samples(np.nan_to_num(data[after])), *judged))
    print(quality("amount alone", table["amount"][after], *judged))


if __name__ == "__main__":
    main()
