"""Missing values of rows, filled in from the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import sampling
from manifold.runtime.conditions import Given
from manifold.runtime.inputs import Numbers, check_numbers, check_seed, repeated
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

IMPUTE_STEPS = 8  # rounds of encode and decode; what is filled in changes little after three


@dataclass(frozen=True)
class Imputed:
    """Rows with their missing values filled in."""

    data: (
        Float32  # (n, width): a number's expectation and a category's probabilities where they were missing, or a draw
    )
    probabilities: Float32  # (n, width): the categories' probabilities, whether drawn or not
    missing: NDArray[np.bool_]  # (n, width)
    seed: int | None = None


def impute(
    manifest: Manifest,
    data: Array,
    *,
    condition: Given | None = None,
    seed: int | None = None,
    first: int = 0,
    numbers: Numbers | None = None,
) -> Steps[Imputed]:
    """Return rows with their missing values (NaN) filled in from the others.

    What is there is encoded and decoded, missing values are taken from the result, and so on (Rezende, Mohamed and Wierstra, 2014,
    arXiv 1401.4082, appendix F, by means instead of draws). With a seed, the last round draws. Without a class, a conditional model fills in
    under each class and weighs the results by p(class | what is there), or draws the class.
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
        return Imputed(whole, whole, np.isnan(data))
    sampler = tasks[sampling_task(manifest, encoded.latent, None)]
    drawn_rows = yield from sample(
        manifest, n, latents=encoded.latent, condition=condition if takes(sampler) else None, seed=seed, first=first,
        numbers=numbers_of(sampler, numbers),
    )  # fmt: skip
    return Imputed(np.where(missing, drawn_rows.data, data), whole, missing, seed)


def _decoded(
    manifest: Manifest, latents: Latents, condition: Given | None, n: int, numbers: Numbers | None
) -> Steps[Array]:
    spec = manifest.tasks["decode"]
    inputs = {**latent_inputs(manifest, spec, latents), **stated(manifest, spec, condition, n, numbers)}
    outputs = yield Run("decode", inputs)
    return outputs[manifest.main]


def fills_missing(manifest: Manifest) -> bool:
    """Return whether its graphs take missing values, which are filled in by turns of encode and decode."""
    tasks = manifest.tasks
    if not manifest.spec.nullable or len(manifest.items) > 1 or reconstruction_task(manifest) != "decode":
        return False
    marginal = manifest.scoring is not None and manifest.scoring.evidence is not None
    return any(tensor.missing for tensor in tasks["encode"].inputs) and (
        tasks["encode"].input("condition") is None or marginal
    )


def _why_not(manifest: Manifest) -> str:
    if not manifest.spec.nullable:
        return ": it has no graph that keeps what is known"
    return ": it makes several outputs" if len(manifest.items) > 1 else ": its graphs take no missing values"


CAPABILITIES = (Capability("impute", 70, lambda manifest: fills_missing(manifest) or completes(manifest), _why_not),)
