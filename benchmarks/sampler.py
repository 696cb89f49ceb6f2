"""The cached sampler (one ONNX graph) compared with naive sampling (a full pass for every position), in one thread and one process.

    python benchmarks/sampler.py [--rounds 5] [--only 28x28]

The networks have the sizes of the shipped models, with fresh weights, because the time does not depend on them. Both methods run in the same ONNX
Runtime, interleaved; times are medians. Up to 14x14 the codes are compared with the naive ones. At 28x28 naive sampling runs only twice, and one
parallel pass over the finished image must pick the same level everywhere. `by rows` is the sampler split into one graph for each row of the grid:
between these runs the host can drop items. The output is one JSON line for each size and batch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from manifold.runtime import sampling
from manifold.training.exporting import graphs, loops
from manifold.training.networks.emissions import Levels
from manifold.training.networks.gated import GatedNetwork
from manifold.training.networks.sampler import Sampler

Arrays = Mapping[str, np.ndarray]


class Codes(torch.nn.Module):
    """A `finish` that returns the codes unchanged, so that only the sampler is timed."""

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        codes = rows[..., 0].permute(1, 0, 2).contiguous()
        return codes, codes.float()


SIZES: dict[str, dict[str, Any]] = {
    "7x7": {"grid": (7, 7), "levels": 128, "channels": 32, "layers": 6, "head": 64, "batches": (1, 16, 64)},
    "14x14": {"grid": (14, 14), "levels": 128, "channels": 32, "layers": 6, "head": 64, "batches": (1, 16)},
    "28x28": {"grid": (28, 28), "levels": 2, "channels": 64, "layers": 8, "head": 64, "batches": (1, 16)},
}
CLASSES = 10


class Graphs:
    """The network's parallel pass, its sampler, and the sampler split by rows, in ONNX Runtime."""

    def __init__(self, size: Mapping[str, Any], folder: Path) -> None:
        torch.manual_seed(0)
        emission = Levels(size["levels"], 1, size["channels"], size["head"])
        options = {key: size[key] for key in ("channels", "layers")}
        network = GatedNetwork(emission, size["grid"], CLASSES, dropout=0.0, **options).eval()
        sampler = Sampler(network, Codes()).eval()
        codes, condition = torch.zeros(2, *size["grid"], dtype=torch.int64), torch.zeros(2, CLASSES)
        batch = torch.export.Dim("batch", min=1, max=65536)
        whole = graphs.to_onnx(
            network, (codes, condition), ["codes", "condition"], ["logits"], ({0: batch}, {0: batch})
        )
        graphs.save_onnx({"whole": whole, "sample": sampler.to_onnx(), **sampler.to_onnx_by_rows()}, folder)
        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = session.inter_op_num_threads = 1
        session.log_severity_level = 3
        names = ("whole", "sample", "setup", "row", "finish")
        self.sessions = {name: onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), session) for name in names}
        self.outputs = {name: [value.name for value in s.get_outputs()] for name, s in self.sessions.items()}
        self.inputs = {name: {value.name for value in s.get_inputs()} for name, s in self.sessions.items()}
        self.grid = size["grid"]
        self.levels = size["levels"]

    def run(self, name: str, inputs: Arrays) -> dict[str, np.ndarray]:
        """Run one graph."""
        values = self.sessions[name].run(self.outputs[name], {key: inputs[key] for key in self.inputs[name]})
        return dict(zip(self.outputs[name], values, strict=True))

    def cached(self, inputs: Arrays) -> np.ndarray:
        """Sample codes with the cached sampler."""
        return self.run("sample", inputs)["codes"]

    def by_rows(self, inputs: Arrays) -> np.ndarray:
        """Sample codes with the sampler that the host runs row by row."""
        return loops.by_rows(self.run, inputs, self.grid[0])[0]

    def half_let_go(self, inputs: Arrays) -> np.ndarray:
        """Sample codes row by row, with every other item cancelled half way."""
        n, middle = len(inputs["uniforms"]), self.grid[0] // 2
        return loops.by_rows(self.run, inputs, self.grid[0], lambda row: (np.arange(n) % 2 == 0) | (row < middle - 1))[
            0
        ]

    def naive(self, inputs: Arrays) -> np.ndarray:
        """Sample codes with one full pass for each position."""
        height, width = self.grid
        codes = np.zeros((len(inputs["uniforms"]), height, width), np.int64)
        for place in range(height * width):
            row, column = divmod(place, width)
            logits = self.run("whole", {"codes": codes, "condition": inputs["condition"]})["logits"][:, :, row, column]
            codes[:, row, column] = sampling.pick(_softmax(logits), inputs["uniforms"][:, place])
        return codes

    def follows_one_pass(self, codes: np.ndarray, inputs: Arrays) -> bool:
        """Return whether one parallel pass over the finished codes picks the same codes."""
        logits = self.run("whole", {"codes": codes, "condition": inputs["condition"]})["logits"]
        flat = np.moveaxis(logits, 1, -1).reshape(-1, self.levels)
        return bool(np.array_equal(sampling.pick(_softmax(flat), inputs["uniforms"].reshape(-1)), codes.reshape(-1)))


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(1, keepdims=True))
    shares: np.ndarray = weights / weights.sum(1, keepdims=True)
    return shares


def timed(work: Callable[[Arrays], np.ndarray], inputs: Arrays) -> tuple[np.ndarray, float]:
    """Run the work. Return the result, and milliseconds."""
    began = time.perf_counter()
    outputs = work(inputs)
    return outputs, 1000 * (time.perf_counter() - began)


def main() -> None:
    """Print times and ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=list(SIZES))
    options = parser.parse_args()
    for name, size in SIZES.items():
        if options.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            made = Graphs(size, Path(folder))
        places = size["grid"][0] * size["grid"][1]
        for batch in size["batches"]:
            inputs = {
                "uniforms": sampling.uniform(0, 0, batch, 2, (places,)),
                "condition": np.eye(CLASSES, dtype=np.float32)[np.arange(batch) % CLASSES],
                "temperature": np.ones(batch, np.float32),
            }
            ways = {
                "cached": made.cached,
                "naive": made.naive,
                "by_rows": made.by_rows,
                "half_let_go": made.half_let_go,
            }
            times: dict[str, list[float]] = {way: [] for way in ways}
            codes = {way: work(inputs) for way, work in ways.items() if way != "naive"}
            same = np.array_equal(codes["cached"], codes["by_rows"])
            for round_ in range(options.rounds):
                for way, work in ways.items():
                    if way == "naive" and places > 200 and round_ > 1:  # these rounds would take minutes
                        continue
                    outputs, taken = timed(work, inputs)
                    times[way].append(taken)
                    if way == "naive":
                        same &= np.array_equal(outputs, codes["cached"])
            ms = {way: statistics.median(values) for way, values in times.items()}
            print(
                json.dumps(
                    {
                        "grid": name, "batch": batch, **{f"{way}_ms": round(value, 2) for way, value in ms.items()},
                        "times_naive": round(ms["naive"] / ms["cached"], 1), "by_rows_over_cached": round(ms["by_rows"] / ms["cached"], 3),
                        "half_over_cached": round(ms["half_let_go"] / ms["cached"], 3), "same_codes": bool(same),
                        "follows_one_pass": made.follows_one_pass(codes["cached"], inputs),
                    }
                ),
                flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
