"""The sampler of a flow as one ONNX graph, compared with its network alone, with torch, and with one run for each step; steps, guidance, encoding.

    python benchmarks/flows.py speed MODEL [--rounds 7] [--batches 1 8 64]
    python benchmarks/flows.py quality MODEL [--n 2000] [-o flow-steps.png]
    python benchmarks/flows.py encoding MODEL [--n 200]

`speed`: one thread, interleaved, medians of CPU time by image, with guidance and the default number of steps. `network` is the sum of the
same evaluations of the network alone in ONNX Runtime, `torch` the same loop in eager PyTorch, and `by step` a loop in Python around runs of
the network, which a service could interrupt after each step. `quality`: distance, requested class and CPU time for numbers of steps and
strengths of guidance, with the classifier of the data set, on the selection split: the defaults of a model are chosen by these figures.
`encoding`: errors of images of the selection split that are encoded and decoded with the same number of steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manifold.evaluation import extractors
from manifold.evaluation.evaluate_images import evaluate_images
from manifold.evaluation.images import Generated
from manifold.evaluation.reference import of_source
from manifold.runtime import engine
from manifold.runtime.engine import Model
from manifold.training import datasets, families, judging
from manifold.training.networks import paths

Array = NDArray[np.float32]
GUIDANCE = 2.0
TIMED = 16  # images whose time is measured
SHIPPED = Path("models")


def speed(model: Model, rounds: int, batches: Iterable[int]) -> None:
    """Print CPU milliseconds by image of the graph and of the alternatives, and their ratios."""
    if model.manifest.path is None or model.manifest.path.objective != "flow" or not model.manifest.classes:
        raise SystemExit(
            f"{model.manifest.name}: the comparison needs a class-conditional model with the objective flow"
        )
    torch.set_num_threads(1)
    module, steps = in_torch(model)
    loop, config = module.loop(), module.config
    table = paths.loop_table(config.objective, config.noise_schedule, config.sampler, steps)
    print("| batch | graph, ms an image | graph / network | torch / graph | by step / graph |\n|---|---|---|---|---|")
    for n in batches:
        given = inputs(model, n, steps)
        tensors = {role: torch.from_numpy(array) for role, array in given.items()}

        def graph(given: Mapping[str, Any] = given) -> None:
            model.run("sample", given)

        def network(given: Mapping[str, Any] = given) -> None:
            two = {role: np.concatenate([array, array]) for role, array in doubled(given).items()}
            for _ in table:
                model.run("denoise", two)

        def eager(tensors: Mapping[str, torch.Tensor] = tensors) -> None:
            with torch.no_grad():
                loop(tensors["latent"], tensors["condition"], tensors["guidance"], tensors["steps"])

        def by_step(given: Mapping[str, Any] = given) -> None:
            stepwise(model, given, table)

        times = interleaved([graph, network, eager, by_step], rounds)
        whole, alone, of_torch, stepped = times
        print(
            f"| {n} | {1000 * whole / n:.2f} | {whole / alone:.2f} | {of_torch / whole:.2f} | {stepped / whole:.2f} |",
            flush=True,
        )


def in_torch(model: Model) -> tuple[Any, int]:
    """Return a module of the model's configuration with initial weights, and the default number of steps of the model."""
    manifest, family = model.manifest, families.get("flow")
    data = datasets.load(manifest.data_name or "")
    config = family.resolve(family.Config.model_validate(manifest.provenance["config"]), data)
    steps = next(int(each.default or 0) for each in manifest.tasks["sample"].inputs if each.role == "steps")
    return family.build(config, data).eval(), steps


def inputs(model: Model, n: int, steps: int) -> dict[str, Any]:
    """Return inputs of the task sample for n images."""
    generator = np.random.default_rng(0)
    shape = model.manifest.tasks["sample"].latents[0].shape
    classes = len(model.manifest.classes or ())
    return {
        "latent": generator.standard_normal((n, *shape)).astype(np.float32),
        "condition": np.eye(classes, dtype=np.float32)[np.arange(n) % classes],
        "guidance": np.full(n, GUIDANCE, np.float32),
        "steps": np.full(n, steps, np.int64),
    }


def doubled(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the network's inputs for one evaluation."""
    n = len(given["latent"])
    return {"noisy": given["latent"], "time": np.full(n, 0.5, np.float32), "condition": given["condition"]}


def stepwise(model: Model, given: Mapping[str, Any], table: paths.Table) -> Array:
    """Follow a table in Python, with a run of the network for each row."""
    point = base = given["latent"]
    before, nothing = np.zeros_like(point), np.zeros_like(given["condition"])
    condition = np.concatenate([given["condition"], nothing])
    excess = (given["guidance"] - 1)[:, None, None, None]
    for row in table:
        at = dict(zip(paths.LOOP_COLUMNS, row.astype(np.float32), strict=True))
        x = np.concatenate([point, point])
        run = {"noisy": x, "time": np.full(len(x), at["time"], np.float32), "condition": condition}
        with_class, without = np.split(model.run("denoise", run)["prediction"], 2)
        d = with_class + excess * (with_class - without)
        point = at["keep"] * base + at["now"] * d + at["before"] * before
        if at["moves"] > 0:
            base = point
        before = d
    return point


def interleaved(calls: list[Callable[[], None]], rounds: int) -> list[float]:
    """Return the median CPU seconds of each call. They run in turn."""
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for place, call in enumerate(calls):
            began = time.process_time()
            call()
            times[place].append(time.process_time() - began)
    return [statistics.median(each) for each in times]


def quality(model: Model, n: int, out: Path | None) -> None:
    """Print, and draw, distance and requested class for numbers of steps and strengths of guidance, and CPU time of the sampler."""
    name = model.manifest.data_name or ""
    extractor = extractors.load(extractors.for_data(name, SHIPPED), SHIPPED, device="cpu")
    real = judging.real_data(name).on("selection")
    reference = of_source(extractor, real.test, real.part)
    given = {each.role: each for each in model.manifest.tasks["sample"].inputs if each.role in ("steps", "guidance")}
    offered, chosen = given["steps"].choices or (), {role: each.default or 0.0 for role, each in given.items()}
    found: dict[str, list[tuple[float, float, float]]] = {"steps": [], "guidance": []}
    print("| steps | guidance | distance | requested class | CPU ms an image |\n|---|---|---|---|---|")
    for key, values in {"steps": offered, "guidance": (0.0, 1.0, 1.5, 2.0, 3.0, 4.0)}.items():
        for value in values:
            numbers = {**chosen, key: value}
            report, _, _ = evaluate_images(Generated(model, n, 0, None, numbers), reference, extractor)
            began = time.process_time()
            model.sample(TIMED, seed=0, numbers=numbers)
            seconds = (time.process_time() - began) / TIMED
            distance, right = report.metrics["fd_classifier"], report.metrics.get("class_accuracy", float("nan"))
            found[key].append((value, distance, right))
            print(f"| {numbers['steps']:g} | {numbers['guidance']:g} | {distance:.3f} | {right:.3f} | {1000 * seconds:.1f} |", flush=True)  # fmt: skip
    if out is not None:
        draw(found, out)


def encoding(model: Model, n: int) -> None:
    """Print errors, of values from 0 to 1, of images that are encoded and decoded, for each number of steps."""
    items = judging.real_data(model.manifest.data_name or "").on("selection").test.at(np.arange(n)) / np.float32(255)
    (steps,) = (each for each in model.manifest.tasks["encode"].inputs if each.role == "steps")
    print("| steps | root mean square | 99th percentile | maximum |\n|---|---|---|---|")
    for value in steps.choices or ():
        back = model.reconstruct(items, numbers={"steps": value}).data
        errors = np.abs(back - items)
        print(f"| {value:g} | {np.sqrt((errors**2).mean()):.4f} | {np.quantile(errors, 0.99):.4f} | {errors.max():.4f} |", flush=True)  # fmt: skip


def draw(found: Mapping[str, list[tuple[float, float, float]]], out: Path) -> None:
    """Draw both curves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for axis, (key, points) in zip(axes, found.items(), strict=True):
        x, distance, right = (np.asarray(each) for each in zip(*points, strict=True))
        axis.plot(x, distance, "o-", label="distance (lower is better)")
        axis.set_xlabel(key)
        axis.set_ylabel("fd_classifier")
        if key == "steps":
            axis.set_xscale("log", base=2)
            axis.set_xticks(x, [f"{each:g}" for each in x])
        other = axis.twinx()
        other.plot(x, 100 * right, "s--", color="tab:green", label="requested class, %")
        other.set_ylabel("requested class, %")
        axis.set_ylim(0, 1.15 * distance.max())
        other.set_ylim(0, 105)
        axis.grid(alpha=0.3)
    figure.legend(handles=[*axis.lines, *other.lines], loc="outside upper center", ncols=2)
    figure.savefig(out, dpi=110)


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("speed", "quality", "encoding"))
    parser.add_argument("model")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("-o", "--out", type=Path)
    options = parser.parse_args()
    model = engine.load(options.models / options.model, device="cpu", threads=1)
    if options.what == "speed":
        speed(model, options.rounds, options.batches)
    elif options.what == "quality":
        quality(model, options.n, options.out)
    else:
        encoding(model, options.n)


if __name__ == "__main__":
    main()
