"""Golden vectors: inputs with the outputs of the training framework. They are replayed when an artifact is loaded or checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import npz, sampling
from manifold.runtime.errors import ArtifactError, ManifoldError
from manifold.runtime.manifest import STATED, Manifest

Array = NDArray[Any]
Runner = Callable[[str, Mapping[str, Array]], dict[str, Array]]

ROWS = 1024  # limit for the rows of golden vectors
NEAR = 1e-4  # a uniform this close to a step of the CDF may give either code on another machine


def read(folder: Path, manifest: Manifest) -> dict[str, Array]:
    """Return the arrays of the golden file. Raises ArtifactError if a shape does not match the manifest."""
    assert manifest.golden is not None
    path = folder / manifest.golden.file
    known = {
        f"{task}.{way}.{tensor.role}": tensor
        for task, spec in manifest.tasks.items()
        for way, tensors in (("in", spec.inputs), ("out", spec.outputs))
        for tensor in tensors
    }

    def check(name: str, shape: npz.Shape, dtype: np.dtype[Any]) -> str | None:
        if shape and shape[0] <= ROWS and known[name].fits(shape[1:]):
            return None
        return f"the manifest says {[f'1 to {ROWS}', *known[name].shape]}"

    try:
        return npz.read(path, known, check)
    except npz.Unreadable as error:
        raise ArtifactError(f"{path}: cannot be read: {error}; export the model again") from error


def replay(run: Runner, folder: Path, manifest: Manifest, device: str) -> list[str]:
    """Return the outputs that differ by more than the tolerance for the device, one line each."""
    assert manifest.golden is not None
    vectors = read(folder, manifest)
    tolerance = manifest.golden.tolerance.get(device, max(manifest.golden.tolerance.values()))
    problems = []
    for task, spec in manifest.tasks.items():
        if task in manifest.drawing:
            continue  # its outputs differ between runs
        inputs = {tensor.role: vectors[key] for tensor in spec.inputs if (key := f"{task}.in.{tensor.role}") in vectors}
        if len(inputs) != len(spec.inputs):
            continue
        try:
            outputs = run(task, inputs)
        except ManifoldError as error:
            problems.append(f"{task}: the run on the golden vectors failed: {error.message}")
            continue
        for tensor in spec.outputs:
            if (key := f"{task}.out.{tensor.role}") in vectors:
                problems += _compare(task, tensor.role, outputs[tensor.role], vectors[key], tolerance)
        if task == "sample" and manifest.golden.sampler:
            judge = "score_codes" if "score_codes" in manifest.tasks else "score"
            stated = [tensor.role for tensor in manifest.tasks[judge].inputs if tensor.source in STATED]
            made = {**outputs, "data": outputs[manifest.main]}
            problems += check_sampler(run, inputs, made, manifest.golden.sampler, judge == "score_codes", stated)
    return problems


def compared(task: str, role: str, values: Array) -> Array:
    """Return the values of an output in the form in which two runs are compared.

    The logits of the tasks `predict…` become the square roots of the probabilities. A logit of a value with probability p matters as much as
    p: of a value that is nearly impossible it may differ by more, as in a histogram whose neighbours differ by orders of magnitude.
    """
    if role != "logits" or not task.startswith("predict"):
        return values
    levels = 1 if task == "predict" else -1  # the axis of the levels
    with np.errstate(invalid="ignore"):  # values that are not finite give NaN, which differs from everything
        powers = np.exp(values.astype(np.float64) - values.max(axis=levels, keepdims=True))
        roots: Array = np.sqrt(powers / powers.sum(axis=levels, keepdims=True))
    return roots


def _compare(task: str, role: str, actual: Array, expected: Array, tolerance: float) -> list[str]:
    """Return a problem if arrays differ. The difference is relative if the absolute value is above 1, else absolute."""
    name = f"{task}.{role}"
    if actual.shape != expected.shape:
        return [f"{name}: shape {list(actual.shape)}, but the golden vectors have {list(expected.shape)}"]
    if expected.dtype.kind not in "biuf" or not expected.size:
        return [
            f"{name}: the golden vectors are {expected.dtype}{list(expected.shape)}, which cannot be compared; store numbers"
        ]
    one, other = (compared(task, role, values).astype(np.float64) for values in (actual, expected))
    worst = float((np.abs(one - other) / np.maximum(1.0, np.abs(other))).max())
    return [f"{name}: differs by {worst:.2g}, allowed {tolerance:g}"] if not worst <= tolerance else []


def check_sampler(
    run: Runner, inputs: Mapping[str, Array], outputs: Mapping[str, Array], logits_role: str, from_codes: bool = False,
    stated: Collection[str] = ("condition",),
) -> list[str]:  # fmt: skip
    """Check that the logits of one parallel pass over finished samples, with the same uniforms, give the codes that the loop picked.

    This must hold on every device for any codes. A code may differ only if its uniform is within NEAR of a step of the CDF.
    `inputs` and `outputs` belong to the task sample. The task score takes the finished data (or score_codes takes the codes) and gives
    logits (B, K, *grid). `stated` are the roles of the conditions and numbers that both tasks take. Returns the problems.
    """
    conditions = {role: inputs[role] for role in stated if role in inputs}
    task, given = ("score_codes", {"codes": outputs["codes"]}) if from_codes else ("score", {"data": outputs["data"]})
    scored = run(task, {**given, **conditions})
    logits = np.moveaxis(scored[logits_role].astype(np.float64), 1, -1)  # (B, *grid, K)
    temperature = inputs["temperature"].reshape(-1, *(1,) * (logits.ndim - 1)) if "temperature" in inputs else 1.0
    scaled = logits / temperature
    weights = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    codes = outputs["codes"]
    uniforms = inputs["uniforms"].reshape(codes.shape).astype(np.float64)
    distance = np.abs(np.cumsum(weights, axis=-1)[..., :-1] - uniforms[..., None]).min(axis=-1)
    wrong = (sampling.pick(weights, uniforms) != codes) & (distance > NEAR)
    return (
        [f"sample.codes: {int(wrong.sum())} of {codes.size} codes differ from the codes of one parallel pass"]
        if wrong.any()
        else []
    )
