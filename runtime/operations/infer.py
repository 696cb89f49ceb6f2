"""A single task on tensors. Given inputs are checked; the others are drawn from a seed.

Protocols for tensors use it, without a use case between the graph and the request. It draws as /sample does: the same seed gives the same
item over every protocol.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from manifold.runtime import lengths, sampling
from manifold.runtime.conditions import ByClass, Given, check_weights, is_random, mask_of, tagged
from manifold.runtime.errors import InvalidValue, TooLarge, near, shown
from manifold.runtime.inputs import InputOptions, check_seed, check_temperature, draw
from manifold.runtime.manifest import CONDITIONS, NUMBERS, RANDOM, InputSpec, Manifest, TaskSpec, legal
from manifold.runtime.manifest.conditions import NO_CLASS, Classes, Item
from manifold.runtime.manifest.rules import INTERNAL
from manifold.runtime.manifest.tensors import listed
from manifold.runtime.operations.common import check_takes
from manifold.runtime.operations.steps import Array, Run, Steps

OPTIONAL = (*RANDOM, *CONDITIONS, "temperature")  # sources that a seed or a default fills
# the task that the name of a model stands for is the first one of these
ORDER = (
    "sample", "decode", "score", "features", "encode", "decode_codes", "score_codes", "neighbours", "impute", "translate", "predict", *INTERNAL,
)  # fmt: skip


@dataclass(frozen=True)
class Choices:
    """The choices for inputs that are not given. None means that the request does not state the choice."""

    seed: int | None = None
    first: int | None = None
    condition: Given | None = None
    prior: str | None = None
    temperature: float | None = None


@dataclass(frozen=True)
class Filled:
    """All inputs of a task."""

    inputs: dict[str, Array]
    rows: int
    seed: int | None  # None if nothing was drawn
    first: int
    condition: Array | None  # (n, C), if it was not given as a tensor


@dataclass(frozen=True)
class Done:
    """The outputs of a task by role, and its inputs."""

    outputs: dict[str, Array]
    filled: Filled


def default(manifest: Manifest) -> str:
    """Return the task that the name of a model stands for."""
    return min(manifest.tasks, key=ORDER.index)


def is_optional(manifest: Manifest, tensor: InputSpec) -> bool:
    """Return whether an input is optional: a seed or a default fills it."""
    if tensor.source == "latent":
        latent = manifest.latent_of(tensor)
        return latent is None or latent.prior is not None
    if tensor.source in NUMBERS:
        return tensor.default is not None
    return tensor.source in OPTIONAL and not isinstance(manifest.condition_of(tensor), Item)


def draws(spec: TaskSpec, given: Collection[str], conditioned: bool) -> bool:
    """Return whether a seed affects a run with these inputs and, if `conditioned`, a class."""
    left = {tensor.source for tensor in spec.inputs if tensor.role not in given}
    return not left.isdisjoint(RANDOM) or (not left.isdisjoint(CONDITIONS) and not conditioned)


def infer(manifest: Manifest, task: str, given: Mapping[str, Array], choices: Choices, rows: int) -> Steps[Done]:
    """Run the task once on `rows` rows, with the inputs of `fill`."""
    filled = fill(manifest, task, given, choices, rows)
    outputs = yield Run(task, filled.inputs)
    return Done(outputs, filled)


def fill(manifest: Manifest, task: str, given: Mapping[str, Array], choices: Choices, rows: int) -> Filled:
    """Return every input of the task, (rows, *shape) each: `given` by role, or drawn. Raises InvalidValue for inputs that do not fit.

    Item i depends only on seed and first + i, as in runtime.operations.sample.
    """
    spec = manifest.tasks[task]
    given = _with_weights(manifest, spec, given)
    _check_given(manifest, spec, task, given)
    given = _with_masks(manifest, spec, given)
    choices = _without_class(manifest, spec, given, choices)
    _check_choices(manifest, task, {tensor.source for tensor in spec.inputs if tensor.role not in given}, choices)
    chance = draws(spec, given, not is_random(choices.condition))
    if not chance and (choices.seed is not None or choices.first is not None):
        raise InvalidValue(
            f"seed: it has no effect, because all random inputs of {manifest.name}.{task} are given; remove it",
            field="seed",
        )
    first = choices.first or 0
    seed = check_seed(choices.seed, first, rows, needed=chance)
    inputs: dict[str, Array] = {}
    options = InputOptions(
        choices.condition, choices.prior, 1.0 if choices.temperature is None else choices.temperature
    )
    condition, stream = None, sampling.FIRST_INPUT_STREAM
    for tensor in spec.inputs:
        if tensor.role in given:
            inputs[tensor.role] = given[tensor.role]
        else:
            inputs[tensor.role] = draw(manifest, spec, tensor, seed, first, rows, stream, options)
            condition = inputs[tensor.role] if tensor.source == "condition" and len(tensor.shape) == 1 else condition
        stream += tensor.source in RANDOM
    return Filled(lengths.agreed(spec, inputs, given), rows, seed if chance else None, first, condition)


def _without_class(manifest: Manifest, spec: TaskSpec, given: Mapping[str, Array], choices: Choices) -> Choices:
    """Return the choices with "no class" for a task that takes items, if the class is optional and not given. New items have a random class."""
    left = [tensor for tensor in spec.inputs if tensor.source == "condition" and tensor.role not in given]
    one = manifest.condition_of(left[0]) if len(left) == 1 else None
    optional = isinstance(one, Classes) and one.optional and choices.condition is None
    if not optional or spec.input("data") is None or len(manifest.conditioned) > 1:
        return choices
    return replace(choices, condition=ByClass(NO_CLASS))


def _with_weights(manifest: Manifest, spec: TaskSpec, given: Mapping[str, Array]) -> Mapping[str, Array]:
    """Return the inputs, with a weight for each class in place of the numbers of classes, whole numbers (rows) or (rows, 1).

    Raises InvalidValue for a number that is no class.
    """
    whole = dict(given)
    for tensor in spec.inputs:
        numbers = given.get(tensor.role)
        if numbers is None or not isinstance(manifest.condition_of(tensor), Classes) or len(tensor.shape) != 1:
            continue
        if numbers.dtype.kind not in "iu" or numbers.shape[1:] not in ((), (1,)) or not numbers.ndim:
            continue
        count = tensor.shape[0]
        if numbers.size and (numbers.min() < 0 or numbers.max() >= count):
            wrong = numbers[(numbers < 0) | (numbers >= count)][0]
            raise InvalidValue(
                f"{tensor.role}: {wrong} is not the number of a class; give numbers from 0 to {count - 1}",
                field=tensor.role,
            )
        weights = np.zeros((len(numbers), count), np.float32)
        weights[np.arange(len(numbers)), numbers.reshape(-1)] = 1
        whole[tensor.role] = weights
    return whole


def _with_masks(manifest: Manifest, spec: TaskSpec, given: Mapping[str, Array]) -> Mapping[str, Array]:
    """Return the inputs, with a mask of ones for tokens without a mask. Raises InvalidValue for a mask without its tokens."""
    whole = dict(given)
    for tokens in (tensor for tensor in spec.inputs if tensor.source == "tokens"):
        mask = mask_of(manifest, spec, tokens)
        if mask is not None and mask.role not in given and tokens.role in given:
            whole[mask.role] = np.ones(given[tokens.role].shape, np.float32)
        elif mask is not None and mask.role in given and tokens.role not in given:
            raise InvalidValue(f"{tokens.role}: it is needed together with {mask.role}; give both", field=tokens.role)
    return whole


def rows_of(given: Mapping[str, Array], n: int | None, limit: int) -> int:
    """Return the number of items: that of the given inputs, else n, else 1. Raises InvalidValue, or TooLarge above the limit."""
    counts = {role: len(array) if array.ndim else 0 for role, array in given.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{role} {count}" for role, count in counts.items())
        raise InvalidValue(
            f"inputs: they have different numbers of rows ({listed}); give the same number", field=next(iter(counts))
        )
    rows = next(iter(counts.values()), 1 if n is None else n)
    if n is not None and n != rows:
        raise InvalidValue(f"n: {n}, but {rows} rows are given; remove n", field="n")
    if rows < 1:
        raise InvalidValue(f"n: {rows} rows; give at least one", field="n")
    if rows > limit:
        raise TooLarge(f"n: {rows} rows are above the limit of {limit} per request; send several requests", field="n")
    return rows


def _check_choices(manifest: Manifest, task: str, left: set[Any], choices: Choices) -> None:
    """Raise InvalidValue for choices without effect."""
    spec = manifest.tasks[task]
    if choices.condition is not None and left.isdisjoint(CONDITIONS):
        check_takes(manifest, [spec], choices.condition)
        raise InvalidValue("class: the condition is also given as a tensor; remove one of the two", field="class")
    if (
        choices.condition is not None
        and len(manifest.conditioned) > 1
        and isinstance(tagged(choices.condition), ByClass)
    ):
        roles = [tensor.role for tensor in spec.inputs if tensor.source in CONDITIONS]
        raise InvalidValue(
            f"class: {manifest.name} is conditioned on {', '.join(manifest.conditioned)}; give the inputs {', '.join(roles)}",
            field="class", valid=roles,
        )  # fmt: skip
    if choices.prior is not None and "latent" not in left:
        raise InvalidValue("prior: no latent is drawn here; remove it", field="prior")
    if choices.temperature is not None and left.isdisjoint(("latent", "temperature")):
        raise InvalidValue(
            f"temperature: it has no effect on {manifest.name}.{task} here; remove it", field="temperature"
        )
    if choices.temperature is not None:
        check_temperature(choices.temperature)


def _check_given(manifest: Manifest, spec: TaskSpec, task: str, given: Mapping[str, Array]) -> None:
    """Check names, types, shapes and ranges. Raises InvalidValue."""
    tensors = {tensor.role: tensor for tensor in spec.inputs}
    for role, array in given.items():
        tensor = tensors.get(role)
        if tensor is None:
            raise InvalidValue(
                f"{role}: {manifest.name}.{task} has no such input{near(role, tensors)}; use one of the valid inputs",
                field=role,
                valid=list(tensors),
            )
        if array.dtype != tensor.dtype or not array.ndim or not tensor.fits(array.shape[1:]):
            raise InvalidValue(
                f"{role}: it is {array.dtype}{list(array.shape)}; it must be {_described(tensor)}", field=role
            )
        if tensor.choices is not None and not np.isin(array, tensor.choices).all():
            raise InvalidValue(
                f"{role}: {shown(array.ravel().tolist())} is not offered; give one of {listed(tensor.choices)}",
                field=role, valid=tensor.stated["choices"],
            )  # fmt: skip
        if array.size and (low_high := legal.between(manifest, tensor)):
            low, high = low_high
            if array.min() < low or array.max() > high:
                raise InvalidValue(
                    f"{role}: values from {array.min():g} to {array.max():g}; give values from {low:g} to {high:g}",
                    field=role,
                )
        if tensor.source == "condition" and isinstance(stated := manifest.condition_of(tensor), Classes):
            check_weights(stated, array, role)
    if missing := [role for role, each in tensors.items() if role not in given and not is_optional(manifest, each)]:
        wanted = tensors[missing[0]]
        raise InvalidValue(
            f"{missing[0]}: {manifest.name}.{task} needs this input; give {_described(wanted)}", field=missing[0]
        )


def _described(tensor: InputSpec) -> str:
    return tensor.described.replace("[", "[rows, " if tensor.shape else "[rows", 1)
