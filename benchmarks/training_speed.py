"""Samples/s of training: our loop compared with pythae's trainer on the same networks, and with a plain PyTorch loop that does the same work.

    python -m venv PEER && PEER/bin/pip install torch==2.13.0 pythae==0.1.2
    python benchmarks/training_speed.py --pythae PEER/bin/python [--rounds 5] [--n 12800]

All run in float32 on the CPU with batch size 128, Adam and images of MNIST. Our loop and the plain loop binarise again at every step, clip gradients
and keep a moving average of the weights (the `cpu` preset). pythae's trainer does none of that, and uses grey values. The plain loop trains our
model. Each round runs every loop in a fresh process, for one epoch of warm-up and one measured epoch. The results are medians, and ratios of
medians. The output is one JSON line for each family.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from manifold.training import datasets, families, runs
from manifold.training.batches import Batch, to_float
from manifold.training.data import Arrays
from manifold.training.loop.steps import Loop

BATCH = 128


def loop_of(family: str, data: str, n: int) -> Loop:
    """Return a training loop at the start of its first phase."""
    module = families.get(family)
    whole = datasets.load(data)
    config = module.Config.model_validate({**module.PRESETS["cpu"], "batch_size": BATCH})
    run = runs.TrainingRun(Path(tempfile.mkdtemp()), family, data, "cpu", config)
    return Loop(run, replace(whole, train=Arrays.of(whole.train)[:n]), Fabric(accelerator="cpu"))


def ours(loop: Loop) -> float:
    """Return samples/s of one epoch of the loop's own steps."""
    began = time.perf_counter()
    for _ in range(loop.steps_per_epoch):
        loop.step(loop.batch())
    return loop.steps_per_epoch * BATCH / (time.perf_counter() - began)


class Plain:
    """The same work in plain PyTorch: shuffling, loss, clipping, Adam, average of the weights."""

    def __init__(self, loop: Loop) -> None:
        (player,) = loop.phases[0].players
        items = Arrays.of(loop.data.train)
        self.model, self.loss, self.config, self.items, self.labels = (
            loop.bare,
            player.loss,
            loop.config,
            torch.from_numpy(items.items),
            torch.from_numpy(items.labels),
        )
        self.parameters = list(player.parameters)
        self.optimiser = torch.optim.Adam(self.parameters, lr=self.config.lr, fused=True)
        self.weights = [value for value in self.model.state_dict().values() if value.is_floating_point()]
        self.average = [value.clone() for value in self.weights]
        self.generator = torch.Generator().manual_seed(0)

    def epoch(self) -> float:
        """Return samples/s."""
        began = time.perf_counter()
        order = torch.randperm(len(self.items))
        steps = len(order) // BATCH
        for step in range(steps):
            index = order[step * BATCH : (step + 1) * BATCH]
            batch = Batch(
                to_float(self.items[index], torch.device("cpu")), self.labels[index], self.generator, 0.0, None
            )
            loss = self.loss(batch)["loss"]
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
            self.optimiser.step()
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.weights, 1 - self.config.ema)
        return steps * BATCH / (time.perf_counter() - began)


def worker(way: str, family: str, data: str, n: int) -> None:
    """Time one loop in this process, and print its samples/s."""
    loop = loop_of(family, data, n)
    if way == "ours":
        ours(loop)
        rate = ours(loop)
    else:
        plain = Plain(loop)
        plain.epoch()
        rate = plain.epoch()
    nets = ("encoder", "decoder")
    counted = sum(p.numel() for name, p in loop.bare.named_parameters() if name.split(".")[0] in nets)
    print(json.dumps({"rate": rate, "parameters": counted}))


def run(command: list[str]) -> dict[str, Any]:
    """Return the JSON line of a process. Raise RuntimeError with its output if it failed."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def main() -> None:
    """Print samples/s and ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pythae", type=Path, help="Python of an environment with pythae (default: skip pythae)")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--n", type=int, default=12_800)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--family", choices=("vae", "vqvae"), help="run only this family")
    parser.add_argument("--worker", nargs=2, metavar=("WAY", "FAMILY"))
    options = parser.parse_args()
    if options.worker:
        worker(*options.worker, options.data, options.n)
        return
    images = to_float(
        torch.from_numpy(Arrays.of(datasets.load(options.data).train).items[: options.n]), torch.device("cpu")
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, images.numpy())
        for family in [options.family] if options.family else ["vae", "vqvae"]:
            own = [sys.executable, __file__, "--data", options.data, "--n", str(options.n), "--worker"]
            ways = {"ours": [*own, "ours", family], "plain": [*own, "plain", family]}
            if options.pythae:
                peer = Path(__file__).with_name("pythae_training.py")
                ways["pythae"] = [str(options.pythae), str(peer), family, str(path), str(BATCH), "2"]
            rates: dict[str, list[float]] = {way: [] for way in ways}
            parameters = set()
            for _ in range(options.rounds):
                for way, command in ways.items():
                    result = run(command)
                    rates[way].append(result["rate"] if "rate" in result else result["rates"][-1])
                    parameters.add(result["parameters"])
            if len(parameters) != 1:
                raise RuntimeError(f"the networks differ: {parameters} parameters")
            pace = {way: statistics.median(values) for way, values in rates.items()}
            print(
                json.dumps(
                    {
                        "family": family, "parameters": parameters.pop(), "threads": torch.get_num_threads(),
                        **{f"{way}_samples_per_second": round(value) for way, value in pace.items()},
                        **{f"ours_over_{way}": round(pace["ours"] / value, 2) for way, value in pace.items() if way != "ours"},
                    }
                ),
                flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
