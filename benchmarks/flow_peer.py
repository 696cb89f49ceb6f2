"""The sampler of a flow compared with a pipeline of diffusers that has a network of the same size.

    python benchmarks/flow_peer.py MODEL --peer PYTHON [--rounds 5] [--batches 1 8 64]

PYTHON is an interpreter of an environment with torch and diffusers. The peer is DDIMPipeline with UNet2DModel, with the same levels as the
network of MODEL, the channels that give the nearest number of parameters, and random weights, which do not change its speed. It runs twice:
on whole images, as in the examples of diffusers, and on images whose squares of 2x2 pixels are channels, as in the family `flow` (for MNIST
16x16 squares instead of 14x14, because UNet2DModel halves sizes without rest). Both samplers evaluate their network equally often, without
guidance. One thread, interleaved, medians of CPU time; the time includes the conversion to arrays.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import flows
import numpy as np

from manifold.runtime import engine
from manifold.training.networks.paths import ROWS

PEER = """
import sys, time
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
torch.set_num_threads(1)
channels, side, width, evaluations, wanted, patch = (int(each) for each in sys.argv[1:7])
multiples = [int(each) for each in sys.argv[7:]]
last = len(multiples) - 1
fold = 2 ** last
size = -(-side // patch // fold) * fold  # UNet2DModel needs sizes that can be halved at each level
def network(unit):
    return UNet2DModel(
        sample_size=size, in_channels=channels * patch**2, out_channels=channels * patch**2, layers_per_block=1,
        block_out_channels=[unit * multiple for multiple in multiples], norm_num_groups=8, attention_head_dim=32,
        down_block_types=["AttnDownBlock2D" if place == last else "DownBlock2D" for place in range(last + 1)],
        up_block_types=["AttnUpBlock2D" if place == 0 else "UpBlock2D" for place in range(last + 1)],
    )
def size_of(unit):
    return sum(each.numel() for each in network(unit).parameters())
unit = min(range(8, 257, 8), key=lambda unit: abs(size_of(unit) - wanted))
net = network(unit).eval()
pipeline = DDIMPipeline(net, DDIMScheduler())
pipeline.set_progress_bar_config(disable=True)
print(unit, sum(each.numel() for each in net.parameters()), flush=True)
for line in sys.stdin:
    began = time.process_time()
    pipeline(batch_size=int(line), num_inference_steps=evaluations, output_type="np").images
    print(time.process_time() - began, flush=True)
"""


class Peer:
    """A process of diffusers."""

    def __init__(self, python: Path, *arguments: int) -> None:
        self.process = subprocess.Popen(
            [str(python), "-c", PEER, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.width, self.parameters = map(int, self._line().split())

    def run(self, n: int) -> float:
        """Return the CPU seconds for a batch of n images."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{n}\n")
        self.process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit("the process of diffusers has ended; its error is above")
        return line


def main() -> None:
    """Print a table for each size of a batch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    options = parser.parse_args()
    model = engine.load(options.models / options.model, device="cpu", threads=1)
    module, _ = flows.in_torch(model)
    config, (channels, side, _) = module.config, module.shape
    parameters = sum(each.numel() for each in module.network.parameters())
    evaluations = config.default_steps * ROWS[config.sampler]
    peers = [
        Peer(options.peer, channels, side, config.channels, evaluations, parameters, patch, *config.multiples)
        for patch in (1, config.patch)
    ]
    print(f"{model.manifest.name}: {parameters} parameters, {evaluations} evaluations of the network, without guidance")
    for peer, what in zip(peers, ("whole images", "squares as channels"), strict=True):
        print(f"diffusers, {what}: {peer.parameters} parameters, {peer.width} channels at the largest size")
    print(
        "\n| batch | images/s | diffusers, whole images | ratio | diffusers, squares as channels | ratio |\n|---|---|---|---|---|---|"
    )
    for n in options.batches:
        given = flows.inputs(model, n, config.default_steps)
        given = {**given, "guidance": np.ones(n, np.float32)} if "guidance" in given else given
        times: list[list[float]] = [[], [], []]
        for turn in range(options.rounds + 1):
            began = time.process_time()
            model.run("sample", given)
            found = [time.process_time() - began, *(peer.run(n) for peer in peers)]
            if turn:  # the first turn allocates memory
                for each, seconds in zip(times, found, strict=True):
                    each.append(seconds)
        own, *others = (n / statistics.median(each) for each in times)
        cells = [cell for other in others for cell in (f"{other:.1f}", f"{own / other:.1f}")]
        print(f"| {n} | {own:.1f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
