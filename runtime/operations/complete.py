"""Images whose unknown pixels are drawn: the task `impute`, and the choice among several candidates.

An autoregressive sampler draws pixels in raster order. A pixel depends on the known pixels above it and to its left, and not on those
further down. Several candidates take those into account: each is weighted by the likelihood of its known pixels, and one is drawn by the
weights (sampling importance resampling, Rubin, 1987: the candidates come from Π p over the unknown pixels, so that the weight towards
p(unknown | known) is Π p over the known ones). With many candidates that is a draw from the model's own conditional distribution.
A temperature sharpens or flattens the distribution of candidates. Their weights are those of the model at temperature 1.

A model that fills in by noise, such as a flow, takes the known pixels into account at each of its steps, and a sampler that can draw pixels in any
order (`any_mask` of its task) begins with the known ones. They draw one completion.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import codecs, conditions, sampling
from manifold.runtime.conditions import Given
from manifold.runtime.errors import InvalidValue, shown
from manifold.runtime.inputs import (
    InputOptions,
    Numbers,
    check_numbers,
    check_seed,
    check_temperature,
    draw,
    number,
    repeated,
)
from manifold.runtime.kinds import Kind
from manifold.runtime.manifest import CONDITIONS, NUMBERS, RANDOM, STATED, InputSpec, Manifest, TaskSpec
from manifold.runtime.operations.common import (
    cannot,
    check_takes,
    no_effect,
    options_of,
    others_of,
    required,
    role_of,
    softmax,
)
from manifold.runtime.operations.steps import Array, Float32, Run, Steps
from manifold.runtime.shown import ShownItems

CANDIDATES = 8  # number of candidates by default, of a model that weights them
MOST_CANDIDATES = 64
CANDIDATE_STREAM = 2**33  # + the number of the candidate
CHOICE_STREAM = 2**34


@dataclass(frozen=True, repr=False)
class Completed(ShownItems):
    """Images that are filled in."""

    data: Float32  # (n, C, H, W); known pixels are as they were given
    seed: int
    others: dict[str, Array] = field(default_factory=dict)  # outputs of the chosen candidates beside `data`, by role
    # (n,) the class of the chosen candidate, of a conditional model if no class was given
    classes: NDArray[np.int64] | None = None
    spec: Kind | None = field(default=None, compare=False)  # the kind of the items


def complete(
    manifest: Manifest, data: Array, mask: Array, *, seed: int | None = None, first: int = 0, condition: Given | None = None,
    candidates: int | None = None, temperature: float | None = None, numbers: Numbers | None = None,
) -> Steps[Completed]:  # fmt: skip
    """Draw the pixels of data (n, C, H, W) that are unknown: those where mask (n, 1, H, W) is 0. Known pixels stay as they are.

    Without a class, a model that weights candidates draws `candidates` for each class, and another one uses no class. Item i depends only on
    seed and first + i. Raises InvalidValue if there is not one mask for each image, UnsupportedTask for a model that does not fill in items
    by a mask.
    """
    check_completes(manifest)
    spec, scored = manifest.tasks["impute"], weights_candidates(manifest)
    if candidates is not None and not scored:
        raise no_effect(manifest, "candidates", "draws one completion of each image", options_of(manifest, [spec]))
    if mask.shape != (len(data), 1, *data.shape[2:]):
        raise InvalidValue(f"masks: {len(mask)} for {len(data)} images; give one for each image", field="masks")
    check_takes(manifest, [spec], condition)
    tempered, tasks = spec.input("temperature"), [spec, *([manifest.tasks["score"]] if scored else [])]
    scales = not scored and bool(spec.latents)  # whether a temperature scales the latents that are drawn
    if temperature is not None and tempered is None and not scales:
        valid = options_of(manifest, tasks, *(["candidates"] if scored else []))
        raise no_effect(manifest, "temperature", "has no input for a temperature", valid)
    if temperature is not None:
        check_temperature(temperature)
    check_numbers(manifest, tasks, numbers or {})
    n, seed = len(data), check_seed(seed, first, len(data), needed=True)
    if not scored:
        inputs = _noise_and_conditions(manifest, spec, condition, numbers, n, seed, first, temperature)
        inputs |= {role_of(spec, "data"): data, role_of(spec, "mask"): mask.astype(np.float32)}
        outputs = yield Run("impute", inputs)
        whole = np.where(mask > 0, data, outputs[manifest.main]).astype(np.float32)
        return Completed(whole, seed, others_of(manifest, outputs), spec=manifest.spec)
    of_classes = open_classes(manifest, condition)
    total = candidates_of(manifest, candidates) * of_classes
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
                weights += np.log(np.tile(manifest.class_weights, n * total // of_classes))
        uniforms = sampling.uniform(seed, first, n, CHOICE_STREAM, ())
        chosen = sampling.pick(softmax(weights.reshape(n, total)), uniforms)

    def best(candidates: Array) -> Array:
        return candidates.reshape(n, total, *candidates.shape[1:])[np.arange(n), chosen]

    whole = np.where(mask > 0, data, best(made)).astype(np.float32)
    others = {role: best(values) for role, values in others_of(manifest, outputs).items()}
    return Completed(whole, seed, others, chosen % of_classes if of_classes > 1 else None, manifest.spec)


def _noise_and_conditions(
    manifest: Manifest, spec: TaskSpec, condition: Given | None, numbers: Numbers | None, n: int, seed: int, first: int,
    temperature: float | None,
) -> dict[str, Array]:  # fmt: skip
    """Return the noise, conditions and numbers of a model that draws one completion. The noise is that of /sample with the same seed."""
    inputs: dict[str, Array] = {}
    stream = sampling.FIRST_INPUT_STREAM
    scale = 1.0 if temperature is None else temperature
    for tensor in spec.inputs:
        if tensor.source in ("data", "mask"):
            continue
        given = required(manifest, tensor, condition) if tensor.source in CONDITIONS else condition
        options = InputOptions(given, None, scale, numbers or {})
        inputs[tensor.role] = draw(manifest, spec, tensor, seed, first, n, stream, options)
        stream += tensor.source in RANDOM
    return inputs


def _stated(
    manifest: Manifest, condition: Given | None, numbers: Numbers | None, n: int, seed: int, first: int, total: int, of_classes: int
) -> tuple[dict[str, Array], dict[str, Array]]:  # fmt: skip
    """Return the conditions and numbers of all candidates (n total, ...), by role: for the task impute, and for the task score."""
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
    """Return the number of classes for which candidates are drawn."""
    conditional = weights_candidates(manifest) and manifest.tasks["impute"].input("condition") is not None
    return len(manifest.classes) if conditional and condition is None and manifest.classes else 1


def candidates_of(manifest: Manifest, candidates: int | None) -> int:
    """Return the number of candidates for each image and class. Raises InvalidValue for one outside 1 to MOST_CANDIDATES."""
    if candidates is not None:
        codecs.check_types(candidates, "candidates", whole=True)
        if not 1 <= candidates <= MOST_CANDIDATES:
            raise InvalidValue(
                f"candidates: {shown(candidates)} is out of range; give an integer from 1 to {MOST_CANDIDATES}",
                field="candidates",
            )
    return (CANDIDATES if candidates is None else candidates) if weights_candidates(manifest) else 1


def _uniforms(spec: TaskSpec, seed: int, first: int, n: int, total: int) -> dict[str, Array]:
    """Return uniforms (n total, U). Each candidate has its own stream; the candidates of an item are adjacent."""
    tensor = spec.input("uniform")
    assert tensor is not None
    drawn = [sampling.uniform(seed, first, n, CANDIDATE_STREAM + k, tensor.shape) for k in range(total)]
    return {tensor.role: np.stack(drawn, axis=1).reshape(n * total, *tensor.shape)}


def _weights(manifest: Manifest, made: Array, mask: Array, stated: dict[str, Array]) -> Steps[NDArray[np.float64]]:
    """Return log p of the known pixels of each candidate, each given all pixels before it, (n total,)."""
    spec, scoring = manifest.tasks["score"], manifest.scoring
    assert scoring is not None and scoring.surprise is not None
    inputs = {role_of(spec, "data"): made, **stated}
    surprise = (yield Run("score", inputs))[scoring.surprise]
    nats: NDArray[np.float64] = (surprise.astype(np.float64) * mask).reshape(len(made), -1).sum(axis=1)
    return -nats


def check_completes(manifest: Manifest) -> None:
    """Raise UnsupportedTask for a model that does not fill in items by a mask."""
    if not completes(manifest):
        raise cannot(manifest, f"fill in {manifest.spec.noun} by a mask")


def completes(manifest: Manifest) -> bool:
    """Return whether the model has the task impute and, if it draws pixels in order, a likelihood of each value to weight candidates by."""
    if "impute" not in manifest.tasks:
        return False
    has_surprise = manifest.scoring is not None and manifest.scoring.surprise is not None
    return has_surprise or not weights_candidates(manifest)


def weights_candidates(manifest: Manifest) -> bool:
    """Return whether several completions are drawn and weighted: the model draws pixels in raster order, so that a pixel ignores those further down."""
    spec = manifest.task("impute")
    return spec is not None and spec.is_sampler and not spec.any_mask
