"""One task by itself, on tensors: what is given is checked, what is left out is drawn from a seed.

This is what a protocol of tensors asks for, where no use case stands between the graph and the wire. It draws as /sample does, so that
seed 7 is the same item on every way in.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from manifold.runtime import lengths, sampling
from manifold.runtime.conditions import ByClass, Given, is_random, mask_of, tagged
from manifold.runtime.errors import InvalidValue, TooLarge
from manifold.runtime.inputs import InputOptions, check_seed, check_temperature, draw
from manifold.runtime.manifest import CONDITIONS, NUMBERS, RANDOM, InputSpec, Manifest, TaskSpec, legal
from manifold.runtime.manifest.conditions import Item
from manifold.runtime.operations.common import check_takes
from manifold.runtime.operations.steps import Array, Run, Steps

OPTIONAL = (*RANDOM, *CONDITIONS, "temperature")  # sources that a seed or a default fills
# the task behind a model's own name: what it is there for, as far as its tasks say
ORDER = ("sample", "decode", "score", "features", "encode", "decode_codes", "score_codes", "neighbours", "impute", "translate")  # fmt: skip


@dataclass(frozen=True)
class Choices:
    """Choices for the inputs that are left out. None means that a request does not state it."""

    seed: int | None = None
    first: int | None = None
    condition: Given | None = None
    prior: str | None = None
    temperature: float | None = None


@dataclass(frozen=True)
class Filled:
    """The inputs of a task, whole."""

    inputs: dict[str, Array]
    rows: int
    seed: int | None  # None where no chance was involved
    first: int
    condition: Array | None  # (n, C) where it was made here


@dataclass(frozen=True)
class Done:
    """A task's outputs by role, and what they were made of."""

    outputs: dict[str, Array]
    filled: Filled


def default(manifest: Manifest) -> str:
    """The task that a model's name alone means."""
    return min(manifest.tasks, key=ORDER.index)


def is_optional(manifest: Manifest, tensor: InputSpec) -> bool:
    """Return whether a request may leave the input out: a seed or a default fills it."""
    if tensor.source == "latent":
        latent = manifest.latent_of(tensor)
        return latent is None or latent.prior is not None
    if tensor.source in NUMBERS:
        return tensor.default is not None
    return tensor.source in OPTIONAL and not isinstance(manifest.condition_of(tensor), Item)


def draws(spec: TaskSpec, given: Collection[str], conditioned: bool) -> bool:
    """Return whether a seed has any effect on a run that is given these inputs and, if `conditioned`, a class."""
    left = {tensor.source for tensor in spec.inputs if tensor.role not in given}
    return not left.isdisjoint(RANDOM) or (not left.isdisjoint(CONDITIONS) and not conditioned)


def infer(manifest: Manifest, task: str, given: Mapping[str, Array], choices: Choices, rows: int) -> Steps[Done]:
    """One run of the task on `rows` rows, as `fill` makes them."""
    filled = fill(manifest, task, given, choices, rows)
    outputs = yield Run(task, filled.inputs)
    return Done(outputs, filled)


def fill(manifest: Manifest, task: str, given: Mapping[str, Array], choices: Choices, rows: int) -> Filled:
    """Every input of the task, (rows, *shape) each: `given` by role, or drawn. Raises InvalidValue.

    Item i depends on seed and first + i alone, as in runtime.operations.sample.
    """
    spec = manifest.tasks[task]
    _check_given(manifest, spec, task, given)
    given = _with_masks(manifest, spec, given)
    _check_choices(manifest, task, {tensor.source for tensor in spec.inputs if tensor.role not in given}, choices)
    chance = draws(spec, given, not is_random(choices.condition))
    if not chance and (choices.seed is not None or choices.first is not None):
        raise InvalidValue(f"seed: {manifest.name}.{task} draws nothing of what it is given here", field="seed")
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


def _with_masks(manifest: Manifest, spec: TaskSpec, given: Mapping[str, Array]) -> Mapping[str, Array]:
    """Return the inputs with masks of ones beside tokens that are given without. Raises InvalidValue for a mask without its tokens."""
    whole = dict(given)
    for tokens in (tensor for tensor in spec.inputs if tensor.source == "tokens"):
        mask = mask_of(manifest, spec, tokens)
        if mask is not None and mask.role not in given and tokens.role in given:
            whole[mask.role] = np.ones(given[tokens.role].shape, np.float32)
        elif mask is not None and mask.role in given and tokens.role not in given:
            raise InvalidValue(f"{tokens.role}: is needed beside {mask.role}", field=tokens.role)
    return whole


def rows_of(given: Mapping[str, Array], n: int | None, limit: int) -> int:
    """Return the number of items: of what is given, else n, else one. Raises InvalidValue, and TooLarge over the limit."""
    counts = {role: len(array) if array.ndim else 0 for role, array in given.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{role} {count}" for role, count in counts.items())
        raise InvalidValue(f"inputs: as many rows of each are needed, not {listed}", field=next(iter(counts)))
    rows = next(iter(counts.values()), 1 if n is None else n)
    if n is not None and n != rows:
        raise InvalidValue(f"n: {n}, but {rows} rows are given; leave n out", field="n")
    if rows < 1:
        raise InvalidValue("n: at least one row is needed", field="n")
    if rows > limit:
        raise TooLarge(f"n: {rows} rows are over the limit of {limit} a request; ask in several", field="n")
    return rows


def _check_choices(manifest: Manifest, task: str, left: set[Any], choices: Choices) -> None:
    """Raises InvalidValue for what would change nothing."""
    spec = manifest.tasks[task]
    if choices.condition is not None and left.isdisjoint(CONDITIONS):
        check_takes(manifest, [spec], choices.condition)
        raise InvalidValue("class: the condition is given as a tensor; leave one of the two out", field="class")
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
        raise InvalidValue("prior: there is no latent to draw here", field="prior")
    if choices.temperature is not None and left.isdisjoint(("latent", "temperature")):
        raise InvalidValue(f"temperature: it changes nothing about {manifest.name}.{task} here", field="temperature")
    if choices.temperature is not None:
        check_temperature(choices.temperature)


def _check_given(manifest: Manifest, spec: TaskSpec, task: str, given: Mapping[str, Array]) -> None:
    """Names, types, shapes and ranges. Raises InvalidValue."""
    tensors = {tensor.role: tensor for tensor in spec.inputs}
    for role, array in given.items():
        tensor = tensors.get(role)
        if tensor is None:
            raise InvalidValue(f"{role}: {manifest.name}.{task} has no such input", field=role, valid=list(tensors))
        if array.dtype != tensor.dtype or not array.ndim or not tensor.fits(array.shape[1:]):
            raise InvalidValue(f"{role}: {array.dtype}{list(array.shape)}, it must be {_described(tensor)}", field=role)
        if array.size and (low_high := legal.between(manifest, tensor)):
            low, high = low_high
            if array.min() < low or array.max() > high:
                raise InvalidValue(f"{role}: values from {low:g} to {high:g} are needed", field=role)
    if missing := [role for role, each in tensors.items() if role not in given and not is_optional(manifest, each)]:
        wanted = tensors[missing[0]]
        raise InvalidValue(
            f"{missing[0]}: {manifest.name}.{task} needs this input, {_described(wanted)}", field=missing[0]
        )


def _described(tensor: InputSpec) -> str:
    return tensor.described.replace("[", "[rows, " if tensor.shape else "[rows", 1)
