"""The cost of a whole evaluation, compared with the engine's own work in it: sampling the images, and the extractor's pass.

    python benchmarks/evaluator.py MODEL [--n 10000] [--rounds 3]

One run interleaves three parts: the engine samples n images in batches on all cores; the engine computes their features; and the evaluation runs
with its metrics, likelihoods, reconstructions and anchors. Reference features come from the cache, as for every model but the first.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from manifold.evaluation import evaluate_model as models
from manifold.evaluation import extractors, reference
from manifold.evaluation.extractors import BATCH, map_batches
from manifold.evaluation.images import Generated
from manifold.runtime import engine
from manifold.training.judging import real_data


def main() -> None:
    """Print images per second and ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", type=Path, default=Path("models"))
    options = parser.parse_args()
    model = engine.load(options.models / options.model, device="cpu")
    data = model.manifest.provenance["data"]["data"]
    real = real_data(data)
    extractor = extractors.load(extractors.for_data(data, options.models), options.models, device="cpu")
    held = reference.of_source(extractor, real.test, "test")
    models.anchors(real, held, extractor, options.n, 0)  # from here on the cache is warm
    source = Generated(model, options.n, 0)
    pixels = np.concatenate(
        [np.asarray(source.batch(start, min(start + BATCH, options.n)).pixels) for start in range(0, options.n, BATCH)]
    )

    def drawing() -> None:
        map_batches(source.batch, options.n)

    def looking() -> None:
        map_batches(lambda start, stop: extractor(pixels[start:stop]), options.n)

    def extraction() -> None:
        extractors.extract(extractor, source)

    def whole() -> None:
        models.evaluate(model, held, extractor, real, n=options.n)

    steps = {
        "engine samples": drawing,
        "extractor": looking,
        "all three steps": extraction,
        "whole evaluation": whole,
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - began)
    median = {name: float(np.median(seconds)) for name, seconds in times.items()}
    engine_alone = median["engine samples"] + median["extractor"]
    print(f"{options.model}, {options.n} images, extractor {extractor.name}, medians of {options.rounds}")
    for name, seconds in median.items():
        print(
            f"  {name:18} {seconds:7.2f} s  {options.n / seconds:9.0f} images/s  {engine_alone / seconds:5.2f} of the engine alone (sampling and features)"
        )


if __name__ == "__main__":
    main()
