"""The diagnoses of `manifold check`: what the outputs of a model say about mistakes that its manifest cannot show.

A wrong range or polarity gives a valid manifest, graphs that run, and wrong pictures. So every endpoint is called as a request calls it, and the
items are looked at: their values against the declared range, whether they depend on the inputs, and whether different seeds give different items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.engine import Model
from manifold.runtime.errors import ManifoldError, shown
from manifold.runtime.manifest import NUMBERS, InputSpec, Manifest, TaskSpec
from manifold.runtime.operations import draws_items, makes_items
from manifold.runtime.runner import example_inputs

Array = NDArray[Any]
ITEMS = 64  # number of items that are sampled, if they are small
VALUES = 2**22  # largest number of values of these items
RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-0.5, 0.5), (-127.5, 127.5))  # the usual ranges of images
SLACK = 0.05  # share of a range by which values may lie outside, as the output of a decoder without a squashing function does
CLIPPED = 0.2  # share of clipped values above which the range is wrong
MOST = 0.5  # share of clipped values above which the range is wrong, although no usual one fits
FAR = 0.005  # share of values far outside the range above which another usual range is the right one
END = 0.4  # share of a range at each end, in which the smallest or the largest value must be
LITTLE = 0.05  # share of the range that is used, below which it is wrong
MANY = 0.3  # share of the values of a column outside its range above which they are probably scaled
CLASSES = 32  # number of classes, the last ones, that are compared with no class
EDGE = 0.9  # share of white pixels at the corners above which grey images look inverted
WHITE = 0.9  # value from 0 (black) to 1 above which a pixel counts as white
VARIED = (
    "latent",
    "normal",
    "uniform",
    "condition",
    "data",
    "codes",
    "tokens",
)  # the sources of inputs on which outputs should depend


@dataclass
class Diagnosis:
    """The findings: problems, and warnings that need a look at the sheet. `items` are the sampled items, to be shown."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    items: Array | None = None


def of(model: Model, broken: set[str]) -> Diagnosis:
    """Return the diagnosis of a model. `broken` are the tasks that cannot run; nothing is said about them."""
    found = Diagnosis()
    if not model.endpoints and "features" in model.manifest.tasks:
        found.warnings.append(
            f"tasks: no endpoint uses the task features; `manifold evaluate` takes the model as an extractor, --extractor {model.name}"
        )
    elif not model.endpoints:
        found.problems.append(
            f"tasks: no endpoint uses the task{'s' * (len(model.manifest.tasks) > 1)} {', '.join(model.manifest.tasks)}, so that it is served over /v2 only; "
            "add a task that makes, encodes or scores items"
        )
    if broken:
        return found
    for endpoint, call in _requests(model).items():
        try:
            made = call()
        except ManifoldError as error:
            found.problems.append(f"/{endpoint}: the request fails: {error.message}")
            continue
        if endpoint == "sample":
            found.items = made.data
    for name, task in model.manifest.served.items():
        if name not in model.manifest.drawing:
            found.problems += (ignored := [f"tasks.{name}: {line}" for line in _ignored(model, name, task)])
            found.warnings += [] if ignored else [f"tasks.{name}: {line}" for line in _no_class(model, name, task)]
    if found.items is not None:
        _look(model, found.items, found)
    return found


def _requests(model: Model) -> dict[str, Callable[[], Any]]:
    """Return a request for each endpoint of a model, by the endpoint's name."""
    manifest = model.manifest
    n = max(2, min(ITEMS, VALUES // max(1, math.prod(manifest.spec.shape))))
    items = _items(manifest)
    conditioned = (
        manifest.conditioned and manifest.classes is None
    )  # on values, texts or items, which only sampling can draw
    one: dict[str, Any] = {"classes": manifest.classes[0]} if manifest.classes else {}
    calls: dict[str, Callable[[], Any]] = {
        "anomaly-score": lambda: model.anomaly_score(items),
        "classify": lambda: model.classify(items),
    }
    if draws_items(manifest):
        calls = {"sample": lambda: model.sample(n, seed=0), **calls}
    elif not makes_items(manifest):  # from codes alone
        calls = {"sample": lambda: model.sample(codes=_codes(manifest, n)), **calls}
    takes = {
        name for name, task in manifest.tasks.items() if task.input("condition")
    }  # classes may be those of a classifier alone
    if not conditioned:
        calls["encode"] = lambda: model.encode(items, **(one if "encode" in takes else {}))
        calls["reconstruct"] = lambda: model.reconstruct(
            items, **(one if takes & {"encode", "decode", "decode_codes"} else {})
        )
    if not conditioned and all(latent.priors for latent in manifest.latents.values()):
        ends: list[Any] = [
            {"seed": seed, **({"class": manifest.classes[0]} if manifest.classes and "decode" in takes else {})}
            for seed in (0, 1)
        ]
        calls["interpolate"] = lambda: model.interpolate(*ends, steps=3)
    return {name: calls[name] for name in model.endpoints if name in calls}


def _items(manifest: Manifest) -> Array:
    """Return two random items that the graphs take."""
    for task in manifest.tasks.values():
        if (tensor := task.input("data")) is not None:
            return example_inputs(task, manifest, 2)[tensor.role]
    return manifest.spec.example(2, np.random.Generator(np.random.Philox(0)))


def _codes(manifest: Manifest, n: int) -> Array:
    """Return random codes (n, *shape), for a model that has no prior from which it could draw them."""
    assert manifest.codes is not None
    generator = np.random.Generator(np.random.Philox(0))
    return generator.integers(0, manifest.codes.levels, (n, *manifest.codes.shape))


def _ignored(model: Model, name: str, task: TaskSpec) -> Iterator[str]:
    """Yield the inputs of a task that have no influence on any of its outputs."""
    base, others = (example_inputs(task, model.manifest, 4, seed) for seed in (0, 1))
    others = {
        role: array[::-1].copy() for role, array in others.items()
    }  # the first and the last class are at the ends of both
    run = model.runner.padded_run(name, model.manifest.tasks[name].min_rows)
    strong = {**base, **_other_numbers(task, base)}  # a number such as guidance may switch an input off
    for tensor in task.inputs:
        if tensor.source in VARIED and not np.array_equal(base[tensor.role], others[tensor.role]):
            changes = {tensor.role: others[tensor.role]}
            if all(_same(run(given), run({**given, **changes})) for given in (base, strong)):
                yield f"no output depends on the input {tensor.role!r}{_cause(tensor)}"


def _no_class(model: Model, name: str, task: TaskSpec) -> Iterator[str]:
    """Yield a warning if the number for no class gives the same outputs as that of a class."""
    tensor = task.input("condition")
    if tensor is None or tensor.in_graph is None or tensor.in_graph.none is None or len(tensor.shape) != 1:
        return
    count = min(tensor.shape[0], CLASSES)
    one = example_inputs(task, model.manifest, 1)
    inputs = {role: np.repeat(array, count + 1, axis=0) for role, array in one.items()}
    inputs[tensor.role] = np.zeros((count + 1, tensor.shape[0]), np.float32)
    inputs[tensor.role][np.arange(1, count + 1), np.arange(tensor.shape[0] - count, tensor.shape[0])] = 1
    made = model.runner.padded_run(name, task.min_rows)(inputs)
    for place in range(1, count + 1):
        if all(np.allclose(array[0], array[place], atol=1e-6) for array in made.values()):
            number = tensor.shape[0] - count + place - 1
            yield f"no class, the number {tensor.in_graph.none} in the graph, gives the same outputs as the class {number}; check in_graph.none"
            return


def _other_numbers(task: TaskSpec, base: dict[str, Array]) -> dict[str, Array]:
    """Return other valid values for the numbers among the inputs of a task."""
    found = {}
    for tensor in task.inputs:
        if tensor.source in NUMBERS:
            low, high = tensor.limits
            value = float(base[tensor.role].flat[0])
            tried = [*(tensor.choices or ())[::-1], high, value + 1, low]
            valid = [each for each in tried if math.isfinite(each) and low <= each <= high and each != value]
            found[tensor.role] = np.full_like(base[tensor.role], valid[0] if valid else value)
    return found


def _same(one: dict[str, Array], other: dict[str, Array]) -> bool:
    return all(np.array_equal(one[role], other[role], equal_nan=True) for role in one)


def _cause(tensor: InputSpec) -> str:
    if tensor.source == "latent":
        return ", so that all items are equal; export the graph again, or look for a latent that collapsed in training"
    return "; remove it from the graph, or correct its type and form"


def _look(model: Model, items: Array, found: Diagnosis) -> None:
    """Add what the values of sampled items show."""
    spec = model.manifest.spec
    different = len(np.unique(items.reshape(len(items), -1), axis=0))
    if not any("no output depends" in line for line in found.problems):
        if different == 1 < len(items):
            found.problems.append("/sample: all items are equal for different seeds; an input of the graph is constant")
        elif spec.pictures and different < len(items) / 2:
            found.warnings.append("/sample: more than half of the items occur more than once")
    outside = {name: share for name, share in spec.outside(items).items() if share > MANY}
    if outside:
        name, share = max(outside.items(), key=lambda each: each[1])
        others = f", and that of {len(outside) - 1} other column(s)," * (len(outside) > 1)
        found.warnings.append(
            f"data: {share:.0%} of the sampled values of {shown(name)}{others} lie outside the range of training and are clipped; if the graph makes scaled "
            "values, put the inverse of the scaling into it"
        )
    if not spec.pictures or spec.limits is None:
        return
    low, high = spec.limits
    if problem := _range(items, low, high):
        (found.problems if problem.wrong else found.warnings).append(f"data.range: {problem.text}")
        return
    if _looks_inverted(items, low, high):
        found.warnings.append(
            "data: the images look inverted: they are dark on white; if they should be light on black, use --invert of manifold import, or state "
            "invert: true in in_graph"
        )


@dataclass(frozen=True)
class _Finding:
    text: str
    wrong: bool


def _range(items: Array, low: float, high: float) -> _Finding | None:
    """Return what the values of images (n, C, H, W) say about the declared range; None if they agree with it."""
    smallest, largest = float(items.min()), float(items.max())
    slack = SLACK * (high - low)
    clipped = float(((items < low - slack) | (items > high + slack)).mean())
    used = (min(largest, high) - max(smallest, low)) / (high - low)
    said = f"values from {smallest:.3g} to {largest:.3g}"
    likely = likely_range(smallest, largest)
    advice = (
        f"the range looks like {_text(likely)}, declared as {_text((low, high))}"
        if likely not in (None, (low, high))
        else ""
    )
    if smallest == largest:
        return _Finding(
            f"all values of all images are {smallest:.3g}; the graph does not make images with these inputs", True
        )
    if clipped > CLIPPED or (advice and _far(items, low, high) > FAR):
        return _Finding(
            f"{said}: {_percent(clipped)} are clipped; {advice or f'declared is {_text((low, high))}; state the range in the graph'}",
            bool(advice) or clipped > MOST,
        )
    if used < LITTLE:
        return _Finding(
            f"{said}: only {used:.1%} of the declared range {_text((low, high))} is used; {advice or 'state the range in the graph'}",
            bool(advice),
        )
    if (
        advice
        and likely is not None
        and low <= likely[0]
        and likely[1] <= high
        and likely[1] - likely[0] <= 0.55 * (high - low)
    ):
        return _Finding(
            f"{said}: only {used:.0%} of the declared range {_text((low, high))} is used; {advice}; look at the sheet",
            False,
        )
    if clipped > CLIPPED / 4:
        return _Finding(f"{said}: {clipped:.0%} are clipped{f'; {advice}' if advice else ''}; look at the sheet", False)
    return None


def _far(items: Array, low: float, high: float) -> float:
    """Return the share of values outside a range by more than half of its length: a drawing on white paper has few values, but these are far away."""
    half = (high - low) / 2
    return float(((items < low - half) | (items > high + half)).mean())


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else f"{share:.1%}"


def likely_range(smallest: float, largest: float) -> tuple[float, float] | None:
    """Return the narrowest of the usual ranges that holds the values, if they come near to both of its ends; None if there is none."""
    holding = [
        (low, high)
        for low, high in RANGES
        if smallest >= low - SLACK * (high - low)
        and largest <= high + SLACK * (high - low)
        and smallest <= low + END * (high - low)
        and largest >= high - END * (high - low)
    ]
    return min(holding, key=lambda each: each[1] - each[0], default=None)


def _text(limits: tuple[float, float] | None) -> str:
    return "" if limits is None else f"[{limits[0]:g}, {limits[1]:g}]"


def _looks_inverted(items: Array, low: float, high: float) -> bool:
    """Return whether grey images have white corners around darker content, which may touch the border."""
    if items.shape[1] != 1 or min(items.shape[2:]) < 4:
        return False
    x = (items - low) / (high - low)
    corners, inside = x[..., [0, 0, -1, -1], [0, -1, 0, -1]], x[..., 1:-1, 1:-1]
    return bool((corners > WHITE).mean() > EDGE and (inside < 0.5).mean() > 0.02)


def sheet(model: Model, items: Array) -> bytes:
    """Return a picture or a table with the first 16 sampled items."""
    shown = items[: 16 if model.manifest.spec.pictures else ITEMS]
    scale = max(1, round(64 / items.shape[-1])) if model.manifest.spec.pictures else 1
    return model.manifest.spec.sheet(
        np.clip(shown, *model.manifest.spec.limits) if model.manifest.spec.limits else shown, scale=scale
    )
