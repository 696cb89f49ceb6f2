"""The cached sampler (one ONNX graph) against naive sampling (a full pass for every position), one thread, one process.

    python benchmarks/sampler.py [ARTIFACT]

Naive is the artifact's own score graph, run once for every position, in the same ONNX Runtime. Interleaved, medians of five; the codes
are compared too. Prints one JSON line a batch size.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import numpy as np

from runtime import sampling
from runtime.engine import Model, load

ROUNDS = 5


def naive(model: Model, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Codes (B, H, W), one full pass a position."""
    assert model.manifest.codes is not None
    height, width = model.manifest.codes.shape
    codes = np.zeros((len(inputs["uniforms"]), height, width), np.int64)
    for place in range(height * width):
        row, column = divmod(place, width)
        data = (codes[:, None] / (model.manifest.codes.levels - 1)).astype(np.float32)
        logits = model.run("score", {"data": data, "condition": inputs["condition"]})["logits"][:, :, row, column]
        logits = logits / inputs["temperature"][:, None]
        weights = np.exp(logits - logits.max(1, keepdims=True))
        codes[:, row, column] = sampling.pick(weights / weights.sum(1, keepdims=True), inputs["uniforms"][:, place])
    return codes


def main(path: str) -> None:
    model = load(path, device="cpu", threads=1)
    (classes,) = model.manifest.tasks["sample"].inputs[1].shape
    for batch in (1, 16, 64):
        inputs = {
            "uniforms": sampling.uniform(0, 0, batch, 2, model.manifest.tasks["sample"].inputs[0].shape),
            "condition": np.eye(classes, dtype=np.float32)[np.arange(batch) % classes],
            "temperature": np.ones(batch, np.float32),
        }
        times: dict[str, list[float]] = {"cached": [], "naive": []}
        same = True
        for _ in range(ROUNDS):
            began = time.perf_counter()
            cached = model.run("sample", inputs)["codes"]
            middle = time.perf_counter()
            same &= np.array_equal(naive(model, inputs), cached)
            times["cached"].append(middle - began)
            times["naive"].append(time.perf_counter() - middle)
        cached_ms, naive_ms = (1000 * statistics.median(times[key]) for key in ("cached", "naive"))
        print(
            json.dumps(
                {
                    "batch": batch,
                    "cached_ms": round(cached_ms, 2),
                    "naive_ms": round(naive_ms, 1),
                    "times_naive": round(naive_ms / cached_ms, 1),
                    "same_codes": same,
                }
            )
        )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "models/digits-pixelcnn")
