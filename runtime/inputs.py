"""The conversion of request options into input arrays: seeds, latents from a prior, numbers by name, and defaults for the rest."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import codecs, conditions, sampling
from manifold.runtime.conditions import Given
from manifold.runtime.errors import InvalidValue, UnsupportedTask, near, shown
from manifold.runtime.manifest import NUMBERS, RANDOM, FittedPrior, InputSpec, LatentSpec, Manifest, TaskSpec
from manifold.runtime.manifest.tensors import listed

Array = NDArray[Any]
Float32 = NDArray[np.float32]
Numbers: TypeAlias = Mapping[str, float | Sequence[float] | Array]  # by name: one number for all items, or one for each

# the largest value of an input: the largest float32, and the largest whole number up to which float64 is exact
LARGEST: dict[str, float] = {"number": float(np.finfo(np.float32).max), "integer": 2.0**53}
TEMPERATURES = (0.01, 100.0)  # the range of a temperature
LATENT_STREAM = 2**35  # plus the index of a latent: the stream of its posterior or component, from the second latent on


@dataclass(slots=True)
class InputOptions:
    """The options of a request for the inputs that it does not give as arrays."""

    condition: Given | None = None
    prior: str | None = None
    temperature: float = 1.0
    numbers: Numbers = field(default_factory=dict)


def check_seed(seed: int | None, first: int, n: int, *, needed: bool, prefix: str = "") -> int:
    """Return the seed, or a new one if random numbers are needed and no seed was given. Raise InvalidValue for a seed or index out of range.

    `prefix` is the part of the path in the request before `seed` and `first`, such as `from.`.
    """
    for name, value in ((f"{prefix}seed", seed), (f"{prefix}first", first)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer)):
            raise InvalidValue(
                f"{name}: {shown(value)} is not an integer; give a whole number from 0 to 2^63 - 1", field=name
            )
    if seed is not None and not 0 <= seed <= sampling.MAX_SEED:
        raise InvalidValue(
            f"{prefix}seed: {shown(seed)} is out of range; give a whole number from 0 to 2^63 - 1",
            field=f"{prefix}seed",
        )
    if not 0 <= first <= sampling.MAX_SEED - n:
        raise InvalidValue(
            f"{prefix}first: {shown(first)} is out of range; give a whole number from 0 to 2^63 - 1 - n",
            field=f"{prefix}first",
        )
    if seed is None:
        return secrets.randbelow(2**32) if needed else 0
    return seed


def check_temperature(temperature: float) -> None:
    """Raise InvalidValue for a temperature outside `TEMPERATURES`, where latents or logits would overflow."""
    low, high = TEMPERATURES
    codecs.check_types(temperature, "temperature")
    if not low <= temperature <= high:
        raise InvalidValue(
            f"temperature: {shown(temperature)} is out of range; give a number from {low:g} to {high:g}",
            field="temperature",
        )


def draw(
    manifest: Manifest, spec: TaskSpec, tensor: InputSpec, seed: int, first: int, n: int, stream: int, choices: InputOptions
) -> Array:  # fmt: skip
    """Return an input (n, *shape) that the request does not give as an array: noise, latents, a condition, a number or the temperature.

    If the task has no input for the temperature, the temperature scales the latents and the normal noise.
    """
    match tensor.source:
        case "latent":
            scale = 1.0 if spec.input("temperature") else choices.temperature
            return draw_latents(manifest, choices.prior, seed, first, n, stream, scale, tensor.role)
        case "normal":
            noise, scale = sampling.normal(seed, first, n, stream, tensor.shape), choices.temperature
            scaled = scale != 1 and not spec.input("temperature")
            return (noise.astype(np.float64) * scale).astype(np.float32) if scaled else noise
        case "uniform":
            return sampling.uniform(seed, first, n, stream, tensor.shape)
        case "temperature":
            return np.full(n, choices.temperature, np.float32)
        case "condition" | "tokens" | "token_mask":
            return conditions.fill(manifest, tensor, choices.condition, n, seed, first)
        case "number" | "integer":
            return number(tensor, choices.numbers, n)
        case _:
            raise UnsupportedTask(
                f"model: {manifest.name} needs data as input, so it cannot make random items; use a model with sample or decode",
                field="model",
            )


def noise(spec: TaskSpec, seed: int, first: int, n: int) -> dict[str, Array]:
    """Return the normal and uniform inputs (n, *shape) of a task by role, with the random streams of /sample."""
    drawn = [tensor for tensor in spec.inputs if tensor.source in RANDOM]
    made = {"normal": sampling.normal, "uniform": sampling.uniform}
    return {
        tensor.role: made[tensor.source](seed, first, n, sampling.FIRST_INPUT_STREAM + place, tensor.shape)
        for place, tensor in enumerate(drawn)
        if tensor.source in made
    }


def check_numbers(manifest: Manifest, tasks: Sequence[TaskSpec], numbers: Numbers) -> None:
    """Raise InvalidValue for a number whose name is not an input of the tasks, or if the numbers are not given by name."""
    if not _mapping(numbers):
        return
    valid = _names(tasks)
    for name in numbers:
        if name not in valid:
            takes = f"it takes {', '.join(valid)}" if valid else "it takes no numbers here"
            raise InvalidValue(
                f"inputs: {manifest.name} has no input {shown(name)}{near(name, valid or ())}; {takes}",
                field=f"inputs.{name}",
                valid=valid,
            )


def _names(tasks: Sequence[TaskSpec]) -> list[str]:
    """Return the names of the numbers that the tasks take."""
    return list(dict.fromkeys(tensor.role for task in tasks for tensor in task.inputs if tensor.source in NUMBERS))


def with_fields(
    manifest: Manifest, tasks: Sequence[TaskSpec], numbers: Numbers | None, fields: Mapping[str, Any], n: int
) -> Numbers:
    """Return the numbers of a request with those that it states in fields of their own, such as `steps`. `tasks` are those that will run.

    Raises InvalidValue, which names the field, for a number that the tasks do not take or that is not valid.
    """
    merged = _mapping(numbers)
    for name, value in fields.items():
        if value is None:
            continue
        if name in merged:
            raise InvalidValue(
                f"{name}: it is given twice, by itself and among the numbers by name; give it once", field=name
            )
        inputs = [
            tensor for task in tasks for tensor in task.inputs if tensor.source in NUMBERS and tensor.role == name
        ]
        if not inputs:
            raise InvalidValue(
                f"{name}: {manifest.name} has no such input here; remove it, or use another model",
                field=name,
                valid=_names(tasks) or None,
            )
        for tensor in inputs:
            try:
                _values(tensor, {name: value}, n)
            except InvalidValue as error:
                raise InvalidValue(
                    error.message.replace(f"inputs.{name}", name, 1), field=name, valid=error.valid
                ) from None
        merged[name] = value
    return merged


def _mapping(numbers: Numbers | None) -> dict[str, Any]:
    """Return the numbers as a dictionary. Raises InvalidValue if they are not given by name."""
    if numbers is not None and not isinstance(numbers, Mapping):
        raise InvalidValue(
            f"numbers: {shown(numbers)} is not a mapping; give the numbers by name, such as {{'steps': 8}}",
            field="numbers",
        )
    return dict(numbers or {})


def number(tensor: InputSpec, numbers: Numbers, n: int) -> Array:
    """Return a number for each item (n,): from the request, else its default. Raises InvalidValue."""
    return np.ascontiguousarray(np.broadcast_to(_values(tensor, numbers, n), (n,)))


def _values(tensor: InputSpec, numbers: Numbers, n: int) -> Array:
    """Return one number for all n items (1,), or one for each (n,). Raises InvalidValue."""
    name = f"inputs.{tensor.role}"
    given = numbers.get(tensor.role, tensor.default)
    low, high = tensor.limits
    if given is None:
        raise InvalidValue(f"{name}: is missing; give {_range(low, high)}", field=name)
    codecs.check_types(given, name)
    try:
        values = np.atleast_1d(np.asarray(given, np.float64))
    except (TypeError, ValueError, OverflowError):
        raise InvalidValue(f"{name}: {_as_sent(given)} is not a number; give {_range(low, high)}", field=name) from None
    if tensor.choices is not None and not np.isin(values, tensor.choices).all():
        raise InvalidValue(
            f"{name}: {_as_sent(given)} is not offered; give one of {listed(tensor.choices)}",
            field=name,
            valid=tensor.stated["choices"],
        )
    if values.shape not in ((1,), (n,)):
        found = values.size if values.ndim == 1 else f"an array {list(values.shape)} of"
        raise InvalidValue(f"{name}: {found} numbers for {n} items; give one, or one per item", field=name)
    if not (np.isfinite(values) & (values >= low) & (values <= high)).all():
        raise InvalidValue(f"{name}: {_as_sent(given)} is out of range; give {_range(low, high)}", field=name)
    if tensor.source == "integer" and (values != np.rint(values)).any():
        raise InvalidValue(f"{name}: {_as_sent(given)} is not a whole number; give a whole number", field=name)
    most = LARGEST[tensor.source]
    if (np.abs(values) > most).any():
        raise InvalidValue(
            f"{name}: {_as_sent(given)} is out of range; give a number from {-most:g} to {most:g}", field=name
        )
    made: Array = values.astype(tensor.dtype)
    return made


def check_count(numbers: Numbers | None, n: int) -> None:
    """Raise InvalidValue if a name has neither one number for all n items nor one for each."""
    for name, value in (numbers or {}).items():
        if np.size(value) not in (1, n):
            field = f"inputs.{name}"
            raise InvalidValue(
                f"{field}: {np.size(value)} numbers for {n} items; give one, or one per item", field=field
            )


def repeated(numbers: Numbers | None, times: int) -> Numbers:
    """Return the numbers for `times` copies of each item."""
    if times == 1:
        return numbers or {}
    return {
        name: np.repeat(np.atleast_1d(np.asarray(value)), times) if np.size(value) > 1 else value
        for name, value in (numbers or {}).items()
    }


def of_items(numbers: Numbers | None, items: Array) -> Numbers:
    """Return the numbers of some of the items, selected by index."""
    return {name: np.asarray(value)[items] if np.size(value) > 1 else value for name, value in (numbers or {}).items()}


def _as_sent(value: object) -> str:
    """Return a number in an error as a user writes it: a validator has turned 3 into 3.0."""
    whole = isinstance(value, float) and value.is_integer() and abs(value) < LARGEST["integer"]
    return shown(int(value) if whole else value)  # type: ignore[call-overload]


def _range(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return "a finite number"
    return (
        f"a number of at least {low:g}"
        if math.isinf(high)
        else f"a number of at most {high:g}"
        if math.isinf(low)
        else f"a number from {low:g} to {high:g}"
    )


def draw_latents(
    manifest: Manifest, prior: str | None, seed: int, first: int, n: int, stream: int, temperature: float, role: str | None = None
) -> Float32:  # fmt: skip
    """Draw latents (n, *shape) from one of the priors of a latent. The temperature scales their spread."""
    latents = manifest.latents
    latent: LatentSpec = latents[role] if role in latents else next(iter(latents.values()))
    name = _prior_of(manifest, latent, prior)
    standard = sampling.normal(seed, first, n, stream, latent.dims)
    chosen = latent.priors[name]
    if not isinstance(chosen, FittedPrior):
        return standard if temperature == 1 else (standard.astype(np.float64) * temperature).astype(np.float32)
    noise = standard.reshape(n, -1).astype(np.float64) * temperature
    weights, means, choleskys = chosen.components
    place = list(latents).index(role) if role in latents else 0
    which = sampling.component(seed, first, n, weights, LATENT_STREAM + place if place else None)
    # row by row, since the bits of a matrix product depend on the number of rows
    made = np.stack([means[k] + (choleskys[k] * row).sum(axis=-1) for row, k in zip(noise, which, strict=True)])
    return made.astype(np.float32).reshape(n, *latent.dims)


def _prior_of(manifest: Manifest, latent: LatentSpec, wanted: str | None) -> str:
    """Return the prior to draw a latent from: the wanted one, or its default if only other latents have a prior of that name."""
    own = latent.prior if wanted is None else wanted
    if own is not None and own in latent.priors:
        return own
    others = dict.fromkeys(name for each in manifest.latents.values() for name in each.priors)
    if wanted is not None and wanted not in others:
        raise InvalidValue(
            f"prior: {manifest.name} has no prior {shown(wanted)}{near(str(wanted), others)}; use one of {', '.join(others) or 'none'}",
            field="prior",
            valid=list(others),
        )
    if latent.prior is None:
        raise InvalidValue(
            f"prior: {manifest.name} has no prior over its latents; give {manifest.spec.noun} or latents", field="prior"
        )
    return latent.prior


def latent_stream(manifest: Manifest, role: str | None = None) -> int:
    """Return the random stream that /sample uses for a latent, so that {"seed": 7} gives the same item in other endpoints.

    `role` selects one of several latents. A latent that /sample does not draw has a stream by its index among the latents.
    """
    spec = manifest.tasks.get("sample", manifest.tasks.get("decode"))
    drawn = [tensor for tensor in spec.inputs if tensor.source in RANDOM] if spec else []
    own = [place for place, tensor in enumerate(drawn) if tensor.source == "latent" and role in (None, tensor.role)]
    otherwise = 0 if role is None else list(manifest.latents).index(role)
    return sampling.FIRST_INPUT_STREAM + next(iter(own), otherwise)
