"""The CPU time of a feature extractor that was not made with this project, compared with ONNX Runtime alone on the same arrays.

    python benchmarks/extractor_cost.py [--n 1000] [--size 64] [--image 64] [--channels 3] [--rounds 5]

The extractor is a ResNet-18 (He et al., 2016, arXiv 1512.03385) with random weights, exported from torch with a hand-written manifest. One round
runs three passes over n random images: ONNX Runtime on arrays that are converted beforehand, in one thread; the same in as many threads as the
process may use cores, as the evaluator uses; and the extraction of the evaluator, which converts the images, runs the graph, sums up the moments
of the features, and looks for copies. The passes are interleaved, and their order changes with each round. The ratios are medians over the rounds.
Threads that share a core or a cache cost more CPU time for the same work. `taskset -c 0` leaves one core, so that all passes use one thread.

`--image` and `--channels` give the size and the channels of the images. Images of another size than the extractor's are resized by the rule
torch-bilinear, and grey images are repeated for its three channels.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from manifold.evaluation import extractors
from manifold.evaluation.extractors import BATCH
from manifold.evaluation.images import ImageArray

CLASSES = 10
WIDTHS = (64, 128, 256, 512)


class Block(nn.Module):
    """Two convolutions, and a shortcut past both."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        same = stride == 1 and before == width
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (B, width, H / stride, W / stride)."""
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet18(nn.Module):
    """The network, with the mean of its last maps as features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, WIDTHS[0], 7, 2, 3, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        pairs = zip((WIDTHS[0], *WIDTHS[:-1]), WIDTHS, (1, 2, 2, 2), strict=True)
        self.stages = nn.Sequential(
            *(nn.Sequential(Block(before, width, stride), Block(width, width, 1)) for before, width, stride in pairs)
        )
        self.head = nn.Linear(WIDTHS[-1], CLASSES)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, 512) and logits (B, 10)."""
        features = self.stages(self.stem(pixels)).mean(dim=(2, 3))
        return features, self.head(features)


def write(folder: Path, size: int) -> Path:
    """Write the artifact. Return its graph."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    graph, shape = folder / "resnet18.onnx", [3, size, size]
    torch.onnx.export(
        ResNet18().eval(), (torch.zeros(2, *shape),), str(graph), input_names=["pixels"], output_names=["features", "logits"],
        dynamic_axes={name: {0: "batch"} for name in ("pixels", "features", "logits")}, opset_version=17, dynamo=False,
    )  # fmt: skip
    task = {
        "graph": graph.name,
        "inputs": [{"role": "data", "name": "pixels", "source": "data", "shape": shape}],
        "outputs": [{"role": "features", "shape": [WIDTHS[-1]]}, {"role": "logits", "shape": [CLASSES]}],
    }
    data = {"kind": "image", "height": size, "width": size, "channels": 3, "range": [-1, 1]}
    manifest = {"name": "resnet18", "version": 1, "data": data, "tasks": {"features": task}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return graph


def cpu(step: Callable[[], object]) -> float:
    """Return the CPU seconds of a step, of all threads."""
    began = time.process_time()
    step()
    return time.process_time() - began


def main() -> None:
    """Print CPU milliseconds per image, and the ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--image", type=int, default=64)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        graph = write(Path(root) / "resnet18/1", options.size)
        extractor = extractors.load("resnet18", Path(root), "torch-bilinear", device="cpu")
        shape = (options.n, options.channels, options.image, options.image)
        source = ImageArray.of(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
        arrays = [extractor.edge(source.pixels[start : start + BATCH]) for start in range(0, options.n, BATCH)]
        chosen = onnxruntime.SessionOptions()
        chosen.intra_op_num_threads = chosen.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(graph), chosen, providers=["CPUExecutionProvider"])
        steps: dict[str, Callable[[], object]] = {
            "engine, one thread": lambda: [session.run(None, {"pixels": array}) for array in arrays],
            "engine, all cores": lambda: list(pool.map(lambda array: session.run(None, {"pixels": array}), arrays)),
            "extraction": lambda: extractors.extract(extractor, source),
        }
        pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        for step in steps.values():
            step()  # the first pass allocates memory
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(options.rounds):
            for name in sorted(steps, reverse=bool(turn % 2)):
                seconds[name].append(cpu(steps[name]))
    print(
        f"{options.n} images {options.image}x{options.image}x{options.channels}, ResNet-18 at {options.size}x{options.size}x3, {options.rounds} rounds"
    )
    for name, each in seconds.items():
        print(f"  {name:18} {1000 * np.median(each) / options.n:7.2f} ms of CPU time per image")
    for name in [name for name in seconds if name != "extraction"]:
        ratios = np.divide(seconds["extraction"], seconds[name])
        print(f"  extraction / {name}: {np.median(ratios):.3f} (from {ratios.min():.3f} to {ratios.max():.3f})")


if __name__ == "__main__":
    main()
