"""The missing values of rows, filled in from the other values."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import sampling
from manifold.runtime.conditions import Given
from manifold.runtime.inputs import Numbers, check_numbers, check_seed, repeated
from manifold.runtime.kinds import Kind
from manifold.runtime.manifest import Manifest
from manifold.runtime.operations.common import (
    Capability,
    Latents,
    cannot,
    check_takes,
    latent_inputs,
    numbers_of,
    stated,
    takes,
)
from manifold.runtime.operations.complete import completes
from manifold.runtime.operations.encode import encode, reconstruction_task
from manifold.runtime.operations.sample import sample, sampling_task
from manifold.runtime.operations.score import bayes, score_by_class
from manifold.runtime.operations.steps import Array, Float32, Run, Steps
from manifold.runtime.shown import ShownItems

IMPUTE_STEPS = 8  # rounds of encode and decode; the values change little after three


@dataclass(frozen=True, repr=False)
class Imputed(ShownItems):
    """Rows with their missing values filled in."""

    # (n, width): where values were missing, the expectation of a number and the probabilities of a category, or a draw
    data: Float32
    probabilities: Float32  # (n, width): the categories' probabilities, whether drawn or not
    missing: NDArray[np.bool_]  # (n, width)
    seed: int | None = None
    spec: Kind | None = field(default=None, compare=False)  # the kind of the items


def impute(
    manifest: Manifest,
    data: Array,
    *,
    condition: Given | None = None,
    seed: int | None = None,
    first: int = 0,
    numbers: Numbers | None = None,
) -> Steps[Imputed]:
    """Fill in the missing values (NaN) of rows from the other values.

    Rows are encoded and decoded, missing values are taken from the result, and this is repeated (Rezende, Mohamed and Wierstra, 2014,
    arXiv 1401.4082, appendix F, with means instead of draws). If a seed is given, the last round draws. Without a class, a conditional model
    fills in under each class and weights the results by p(class | known values), or draws the class.
    """
    if not fills_missing(manifest):
        raise cannot(manifest, "impute")
    n, count = len(data), 1
    check_seed(seed, first, n, needed=False)
    tasks = manifest.tasks
    check_takes(manifest, [tasks["encode"], tasks["decode"]], condition)
    check_numbers(manifest, [tasks[name] for name in ("encode", "decode", "score") if name in tasks], numbers or {})
    weights = np.ones((n, 1))
    encoder = manifest.tasks["encode"]
    if encoder.input("condition") is not None and condition is None and manifest.classes is not None:
        assert manifest.scoring is not None and manifest.scoring.evidence is not None
        _, by_class = yield from score_by_class(manifest, data, numbers_of(tasks["score"], numbers))
        weights, _ = bayes(manifest, by_class[manifest.scoring.evidence])
        if seed is None:
            count = weights.shape[1]
            condition = np.tile(np.eye(count), (n, 1))
        else:
            drawn = sampling.uniform(seed, first, n, sampling.CLASS_STREAM, ())
            condition = np.eye(weights.shape[1])[sampling.pick(weights, drawn)]
            weights = np.ones((n, 1))
    holes = data.repeat(count, axis=0)
    missing = np.isnan(holes)
    filled = holes
    numbers = repeated(numbers, count)
    own, of_encoder = numbers_of(encoder, numbers), condition if takes(encoder) else None
    for step in range(IMPUTE_STEPS):
        chance = seed if step == IMPUTE_STEPS - 1 else None
        encoded = yield from encode(manifest, filled, seed=chance, first=first, condition=of_encoder, numbers=own)
        back = yield from _decoded(manifest, encoded.latent, condition, len(holes), numbers)
        filled = np.where(missing, back, holes)
    mean = (weights[:, :, None] * filled.reshape(n, count, -1)).sum(axis=1).astype(np.float32)
    whole = np.where(np.isnan(data), mean, data)
    if seed is None:
        return Imputed(whole, whole, np.isnan(data), spec=manifest.spec)
    sampler = tasks[sampling_task(manifest, encoded.latent, None)]
    drawn_rows = yield from sample(
        manifest, n, latents=encoded.latent, condition=condition if takes(sampler) else None, seed=seed, first=first,
        numbers=numbers_of(sampler, numbers),
    )  # fmt: skip
    return Imputed(np.where(missing, drawn_rows.data, data), whole, missing, seed, manifest.spec)


def _decoded(
    manifest: Manifest, latents: Latents, condition: Given | None, n: int, numbers: Numbers | None
) -> Steps[Array]:
    spec = manifest.tasks["decode"]
    inputs = {**latent_inputs(manifest, spec, latents), **stated(manifest, spec, condition, n, numbers)}
    outputs = yield Run("decode", inputs)
    return outputs[manifest.main]


def fills_missing(manifest: Manifest) -> bool:
    """Return whether the graphs of a model take missing values, so that encode and decode can fill them in."""
    tasks = manifest.tasks
    if not manifest.spec.nullable or len(manifest.items) > 1 or reconstruction_task(manifest) != "decode":
        return False
    marginal = manifest.scoring is not None and manifest.scoring.evidence is not None
    return any(tensor.missing for tensor in tasks["encode"].inputs) and (
        tasks["encode"].input("condition") is None or marginal
    )


def _why_not(manifest: Manifest) -> str:
    if not manifest.spec.nullable:
        return ": it has no graph that keeps known values"
    return ": it makes several outputs" if len(manifest.items) > 1 else ": its graphs take no missing values"


CAPABILITIES = (Capability("impute", 70, lambda manifest: fills_missing(manifest) or completes(manifest), _why_not),)
