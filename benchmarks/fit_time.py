"""CPU seconds of `manifold fit` with each detector, interleaved.

    python benchmarks/fit_time.py [--rows 720 5000] [--rounds 3]

The tables are generated: six numbers and two categories that depend on each other. The figures are CPU seconds (user and system) of the whole command and its
children, with one thread for each library, and the ratio to `tabular_vae`. Below 2000 rows, calibration fits the model six times. The output is Markdown.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

DETECTORS = ("tabular_vae", "tabular_detector")


def write(path: Path, rows: int) -> None:
    """Write a table of normal rows."""
    random = np.random.default_rng(0)
    kind = random.integers(0, 3, rows)
    hidden = random.normal(size=(rows, 2)) + kind[:, None]
    numbers = hidden @ random.normal(size=(2, 6)) + 0.3 * random.normal(size=(rows, 6))
    with path.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow([*(f"number{place}" for place in range(6)), "kind", "channel"])
        channels = np.asarray(["web", "app"])[(random.random(rows) < 0.3 + 0.2 * kind).astype(int)]
        writer.writerows(
            [*(f"{value:.4f}" for value in row), f"kind{one}", channel]
            for row, one, channel in zip(numbers, kind.tolist(), channels.tolist(), strict=True)
        )


def seconds(table: Path, detector: str, folder: Path) -> float:
    """Fit a detector and return the CPU seconds of the command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [
        sys.executable,
        "-m",
        "manifold.cli",
        "fit",
        str(table),
        "--name",
        "timed",
        "--detector",
        detector,
        "--quiet",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the CPU seconds of each round."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[720, 5000])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print("| rows | detector | CPU seconds by round | median | ratio |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for rows in options.rows:
            table = Path(scratch) / f"rows{rows}.csv"
            write(table, rows)
            found: dict[str, list[float]] = {detector: [] for detector in DETECTORS}
            for place in range(options.rounds):
                for detector in DETECTORS:
                    folder = Path(scratch) / f"{rows}-{place}-{detector}"
                    folder.mkdir()
                    found[detector].append(seconds(table, detector, folder))
            base = float(np.median(found[DETECTORS[0]]))
            for detector, each in found.items():
                median = float(np.median(each))
                listed = ", ".join(f"{one:.1f}" for one in each)
                print(f"| {rows} | {detector} | {listed} | {median:.1f} | {median / base:.2f} |", flush=True)


if __name__ == "__main__":
    main()
