"""Images filled in where they are not known: the task `impute`, and the choice among several candidates.

An autoregressive sampler goes in raster order, so that a pixel is given what is known above it and to its left, and what is known further
down has no say in it. Several candidates give it one: each is weighed by the likelihood of what is known in it, and one is drawn by the
weights (sampling importance resampling, Rubin, 1987: the candidates come from Π p over the unknown pixels, so that the weight towards
p(unknown | known) is Π p over the known ones). With many candidates that is a draw from the model's own conditional distribution.
A temperature sharpens or flattens what candidates are drawn from; they are weighed as the model is, at temperature 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import conditions, sampling
from manifold.runtime.conditions import Given
from manifold.runtime.errors import InvalidValue
from manifold.runtime.inputs import Numbers, check_numbers, check_seed, check_temperature, number, repeated
from manifold.runtime.manifest import NUMBERS, STATED, InputSpec, Manifest, TaskSpec
from manifold.runtime.operations.common import (
    cannot,
    check_takes,
    no_effect,
    options_of,
    others_of,
    role_of,
    softmax,
)
from manifold.runtime.operations.steps import Array, Float32, Run, Steps

CANDIDATES = 8  # where nothing is said
CANDIDATE_STREAM = 2**33  # + its number
CHOICE_STREAM = 2**34


@dataclass(frozen=True)
class Completed:
    """Images made whole."""

    data: Float32  # (n, C, H, W): what was known as it came
    seed: int
    others: dict[str, Array] = field(default_factory=dict)  # of the chosen candidates: outputs beside `data`, by role
    classes: NDArray[np.int64] | None = (
        None  # (n,) of conditional models that were told none: the one of the chosen candidate
    )


def complete(
    manifest: Manifest, data: Array, mask: Array, *, seed: int | None = None, first: int = 0, condition: Given | None = None,
    candidates: int = CANDIDATES, temperature: float | None = None, numbers: Numbers | None = None,
) -> Steps[Completed]:  # fmt: skip
    """Return data (n, C, H, W) with its unknown pixels drawn, where mask (n, 1, H, W) is 0; known ones, 1, stay as they are.

    Without a class, a conditional model tries every class with so many candidates each. Item i depends on seed and first + i alone.
    Raises InvalidValue for masks that are not one an image, UnsupportedTask for a model that does not complete items.
    """
    if not completes(manifest):
        raise cannot(manifest, f"fill in {manifest.spec.noun} by a mask")
    spec = manifest.tasks["impute"]
    if mask.shape != (len(data), 1, *data.shape[2:]):
        raise InvalidValue(f"masks: {len(mask)} for {len(data)} images; one for each is needed", field="masks")
    check_takes(manifest, [spec], condition)
    tempered = spec.input("temperature")
    if temperature is not None and tempered is None:
        valid = options_of(manifest, [spec, manifest.tasks["score"]], "candidates")
        raise no_effect(manifest, "temperature", "has no input for a temperature", valid)
    if temperature is not None:
        check_temperature(temperature)
    check_numbers(manifest, [spec, manifest.tasks["score"]], numbers or {})
    n, seed = len(data), check_seed(seed, first, len(data), needed=True)
    of_classes = open_classes(manifest, condition)
    total = candidates * of_classes
    inputs = {
        role_of(spec, "data"): data.repeat(total, axis=0),
        role_of(spec, "mask"): mask.repeat(total, axis=0).astype(np.float32),
        **_uniforms(spec, seed, first, n, total),
    }
    if tempered is not None:
        inputs[tempered.role] = np.full(n * total, 1.0 if temperature is None else temperature, np.float32)
    stated, of_score = _stated(manifest, condition, numbers, n, seed, first, total, of_classes)
    inputs |= stated
    outputs = yield Run("impute", inputs)
    made = outputs[manifest.main]
    chosen = np.zeros(n, np.int64)
    if total > 1:
        weights = yield from _weights(manifest, made, mask.repeat(total, axis=0), of_score)
        if of_classes > 1:
            with np.errstate(divide="ignore"):
                weights += np.log(np.tile(manifest.class_weights, n * candidates))
        uniforms = sampling.uniform(seed, first, n, CHOICE_STREAM, ())
        chosen = sampling.pick(softmax(weights.reshape(n, total)), uniforms)

    def best(candidates: Array) -> Array:
        return candidates.reshape(n, total, *candidates.shape[1:])[np.arange(n), chosen]

    whole = np.where(mask > 0, data, best(made)).astype(np.float32)
    others = {role: best(values) for role, values in others_of(manifest, outputs).items()}
    return Completed(whole, seed, others, chosen % of_classes if of_classes > 1 else None)


def _stated(
    manifest: Manifest, condition: Given | None, numbers: Numbers | None, n: int, seed: int, first: int, total: int, of_classes: int
) -> tuple[dict[str, Array], dict[str, Array]]:  # fmt: skip
    """Return the conditions and numbers of all candidates (n total, ...), by role: of the task impute, and of the score that weighs them."""
    own = repeated(numbers, total)
    made: dict[str, Array] = {}

    def filled(tensor: InputSpec) -> Array:
        if tensor.source in NUMBERS:
            return number(tensor, own, n * total)
        if tensor.source == "condition" and of_classes > 1:
            return np.tile(np.eye(of_classes, dtype=np.float32), (n * total // of_classes, 1))
        return conditions.fill(manifest, tensor, condition, n, seed, first).repeat(total, axis=0)

    def of_task(name: str) -> dict[str, Array]:
        wanted = [each for each in manifest.tasks[name].inputs if each.source in STATED]
        for tensor in wanted:
            if tensor.role not in made:
                made[tensor.role] = filled(tensor)
        return {tensor.role: made[tensor.role] for tensor in wanted}

    return of_task("impute"), of_task("score") if total > 1 else {}


def open_classes(manifest: Manifest, condition: Given | None) -> int:
    """Return the number of classes that are tried for each candidate."""
    conditional = manifest.tasks["impute"].input("condition") is not None
    return len(manifest.classes) if conditional and condition is None and manifest.classes else 1


def _uniforms(spec: TaskSpec, seed: int, first: int, n: int, total: int) -> dict[str, Array]:
    """Return uniforms (n total, U), each candidate's from a stream of its own, an item's candidates together."""
    tensor = spec.input("uniform")
    assert tensor is not None
    drawn = [sampling.uniform(seed, first, n, CANDIDATE_STREAM + k, tensor.shape) for k in range(total)]
    return {tensor.role: np.stack(drawn, axis=1).reshape(n * total, *tensor.shape)}


def _weights(manifest: Manifest, made: Array, mask: Array, stated: dict[str, Array]) -> Steps[NDArray[np.float64]]:
    """Return log p of what is known in each candidate given all before it, (n total,)."""
    spec, scoring = manifest.tasks["score"], manifest.scoring
    assert scoring is not None and scoring.surprise is not None
    inputs = {role_of(spec, "data"): made, **stated}
    surprise = (yield Run("score", inputs))[scoring.surprise]
    nats: NDArray[np.float64] = (surprise.astype(np.float64) * mask).reshape(len(made), -1).sum(axis=1)
    return -nats


def completes(manifest: Manifest) -> bool:
    """Return whether the model has a task for it, and a likelihood by value to choose by."""
    return "impute" in manifest.tasks and manifest.scoring is not None and manifest.scoring.surprise is not None
