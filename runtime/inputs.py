"""Choices of a request to input arrays: seeds, latents from a prior, conditions from classes."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import codecs, sampling, texts
from manifold.runtime.errors import InvalidValue, UnsupportedTask, shown
from manifold.runtime.manifest import RANDOM, InputSpec, LatentSpec, Manifest, NormalPrior, TaskSpec

Array = NDArray[Any]
Float32 = NDArray[np.float32]

TEMPERATURES = (0.01, 100.0)  # what a temperature may be

# A class by name or index, "random", one for each item, weights by name, or a condition array (n, C).
Classes = str | int | Sequence[str | int] | Mapping[str, float] | Array


def check_seed(seed: int | None, first: int, n: int, *, needed: bool) -> int:
    """The seed, or a fresh one where chance is needed and none was given. Raises InvalidValue out of range."""
    if seed is not None and not 0 <= seed <= sampling.MAX_SEED:
        raise InvalidValue(f"seed: {seed} is not between 0 and 2^63 - 1", field="seed")
    if not 0 <= first <= sampling.MAX_SEED - n:
        raise InvalidValue(f"first: {first} is not between 0 and 2^63 - 1 - n", field="first")
    if seed is None:
        return secrets.randbelow(2**32) if needed else 0
    return seed


def draw(
    manifest: Manifest, spec: TaskSpec, tensor: InputSpec, seed: int, first: int, n: int, stream: int, *, classes: Classes | None,
    prior: str | None, temperature: float,
) -> Array:  # fmt: skip
    """An input (n, *shape) of a task that is not given: noise and latents of the seed, a class by its prior, the temperature.

    A temperature that the task does not take itself scales the latents.
    """
    match tensor.source:
        case "latent":
            return draw_latents(
                manifest, prior, seed, first, n, stream, 1.0 if spec.input("temperature") else temperature
            )
        case "normal":
            return sampling.normal(seed, first, n, stream, tensor.shape)
        case "uniform":
            return sampling.uniform(seed, first, n, stream, tensor.shape)
        case "temperature":
            return np.full(n, temperature, np.float32)
        case "condition":
            return conditions(manifest, tensor, "random" if classes is None else classes, n, seed, first)
        case _:
            raise UnsupportedTask(f"{manifest.name} needs data, so it cannot make items from chance", field="model")


def draw_latents(
    manifest: Manifest, prior: str | None, seed: int, first: int, n: int, stream: int, temperature: float
) -> Float32:
    """Latents (n, L) from one of the artifact's priors; the temperature scales their spread."""
    assert manifest.latent is not None
    latent: LatentSpec = manifest.latent
    name = prior or latent.prior
    if name is None:
        raise InvalidValue(f"{manifest.name} has no prior over its latents; give images or latents", field="prior")
    if name not in latent.priors:
        raise InvalidValue(f"prior: {manifest.name} has no {shown(name)}", field="prior", valid=list(latent.priors))
    standard = sampling.normal(seed, first, n, stream, (latent.size,))
    chosen = latent.priors[name]
    if isinstance(chosen, NormalPrior) and temperature == 1:
        return standard
    noise = standard.astype(np.float64) * temperature
    if not isinstance(chosen, NormalPrior):
        weights, means, choleskys = chosen.components
        which = sampling.component(seed, first, n, weights)
        # row by row, as the bits of a matrix product depend on the number of rows
        noise = np.stack([means[k] + (choleskys[k] * row).sum(axis=-1) for row, k in zip(noise, which, strict=True)])
    return noise.astype(np.float32)


def conditions(manifest: Manifest, tensor: InputSpec, classes: Classes, n: int, seed: int, first: int) -> Float32:
    """The condition array (n, C) for a choice of classes."""
    width = tensor.shape[0]
    if isinstance(classes, np.ndarray):
        rows = codecs.floats(np.atleast_2d(classes), (width,), "condition")
        if len(rows) not in (1, n):
            raise InvalidValue(
                f"condition: {len(rows)} rows for {n} items; give one, or one an item", field="condition"
            )
        if manifest.classes is not None and not ((rows >= 0).all() and rows.any(axis=1).all()):
            raise InvalidValue(
                "condition: weights of classes must be at least 0, and one of each item's above 0", field="condition"
            )
        return np.ascontiguousarray(np.broadcast_to(rows, (n, width)))
    if manifest.conditions is not None and isinstance(classes, str) and classes == "random":
        examples = np.asarray(manifest.conditions.examples, np.float32)
        return examples[sampling.choice(seed, first, n, [1 / len(examples)] * len(examples))]
    if manifest.classes is None:
        names = f" of {', '.join(manifest.conditions.names)}" if manifest.conditions else ""
        raise InvalidValue(
            f"class: {manifest.name} has no class names; give the values{names} as condition", field="class"
        )
    if isinstance(classes, Mapping):
        return np.tile(class_weights(manifest, classes, width), (n, 1))
    if isinstance(classes, str | int):
        if classes == "random":
            return np.eye(width, dtype=np.float32)[sampling.choice(seed, first, n, manifest.class_weights)]
        classes = [classes] * n
    if len(classes) != n:
        raise InvalidValue(f"class: {len(classes)} classes for {n} items", field="class")
    return np.eye(width, dtype=np.float32)[[class_index(manifest, name) for name in classes]]


def class_weights(manifest: Manifest, given: Mapping[str, float], width: int) -> Float32:
    """Return weights by name as an array (C,) that sums to 1. Raise InvalidValue for weights that say no mixture."""
    weights, named = np.zeros(width), set[int]()
    for name, weight in given.items():
        index = class_index(manifest, name)
        if index in named:
            raise InvalidValue(f"class: {shown(name)} is there twice, by name and by index", field="class")
        named.add(index)
        try:
            weights[index] = weight
        except (OverflowError, TypeError, ValueError):
            raise InvalidValue(f"class: {shown(weight)} is not a weight; give a number", field="class") from None
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise InvalidValue("class: weights must be finite and at least 0, and one of them above 0", field="class")
    # by a power of two, which changes no digit: the sum of large weights would overflow, and that of tiny ones lose their digits
    weights = np.ldexp(weights, -int(np.frexp(weights.max())[1]))
    shares: Float32 = (weights / weights.sum()).astype(np.float32)
    return shares


def check_temperature(temperature: float) -> None:
    """Raise InvalidValue for a temperature beyond `TEMPERATURES`, at which latents or logits would overflow."""
    low, high = TEMPERATURES
    if not low <= temperature <= high:
        raise InvalidValue(
            f"temperature: {shown(temperature)} is not between {low:g} and {high:g}", field="temperature"
        )


def class_index(manifest: Manifest, name: str | int) -> int:
    """Index of a class given by name or index, which may be text; names win."""
    names = manifest.classes or ()
    text = name if isinstance(name, str) else str(name) if abs(name) <= sampling.MAX_SEED else ""
    if text in names:
        return names.index(text)
    index = texts.whole(text, len(names) - 1)
    if index is not None:
        return index
    raise InvalidValue(f"class: unknown {shown(name)}", field="class", valid=list(names))


def latent_stream(manifest: Manifest) -> int:
    """The stream that /sample fills the latent from, so that {"seed": 7} is the same item in both places."""
    spec = manifest.tasks.get("sample", manifest.tasks.get("decode"))
    drawn = [tensor.source for tensor in spec.inputs if tensor.source in RANDOM] if spec else []
    return sampling.FIRST_INPUT_STREAM + (drawn.index("latent") if "latent" in drawn else 0)
