"""Functions that several use cases need: latents by role, inputs that a request states beside its items, and errors for missing tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from manifold.runtime import conditions
from manifold.runtime.conditions import ByClass, BySeveral, ByValues, Given, tagged
from manifold.runtime.errors import InvalidValue, UnsupportedTask
from manifold.runtime.inputs import Numbers, number
from manifold.runtime.manifest import CONDITIONS, NUMBERS, InputSpec, Manifest, TaskSpec
from manifold.runtime.manifest.conditions import NO_CLASS, Classes, Values
from manifold.runtime.manifest.rules import STATED
from manifold.runtime.manifest.tensors import Source
from manifold.runtime.operations.steps import Array, Float32, Float64

GIVEN: tuple[Source, ...] = ("codes", "data", "mask", "state")  # sources that only a request can fill, and no seed

# a latent, float32 (n, *shape); for a model that names its latents, a mapping from roles to such arrays
Latents: TypeAlias = Any


@dataclass(frozen=True)
class Capability:
    """An endpoint, and the models that support it."""

    endpoint: str
    place: int  # in lists of endpoints
    supports: Callable[[Manifest], bool]
    why_not: Callable[[Manifest], str] = lambda manifest: ""  # the reason against a model, as the end of a sentence


# --- latents ------------------------------------------------------------------------------------------------------------------


def by_role(manifest: Manifest, latents: Latents) -> dict[str, Float32]:
    """Return latents by role, also for a model with one latent. Raises InvalidValue for roles that the model lacks."""
    if not isinstance(latents, Mapping):
        if manifest.has_named_latents:
            valid = list(manifest.latents)
            raise InvalidValue(
                f"latents: {manifest.name} has several: {', '.join(valid)}; give each by name",
                field="latents",
                valid=valid,
            )
        return {next(iter(manifest.latents)): latents}
    for role in latents:
        if role not in manifest.latents:
            raise InvalidValue(
                f"latents.{role}: {manifest.name} has no such latent; give {', '.join(manifest.latents)}",
                field=f"latents.{role}",
                valid=list(manifest.latents),
            )
    return dict(latents)


def as_stated(manifest: Manifest, latents: Mapping[str, Float32]) -> Latents:
    """Return latents in the form of requests and answers: by role if the model names them, else the array."""
    return dict(latents) if manifest.has_named_latents else next(iter(latents.values()))


def others_of(manifest: Manifest, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return the outputs with items beside the main output, by role."""
    if len(manifest.items) == 1:
        return {}
    return {role: outputs[role] for role in manifest.items if role in outputs and role != manifest.main}


def key_of(manifest: Manifest, tensor: InputSpec) -> str:
    """Return the role that `by_role` uses for the latent of an input."""
    return tensor.role if manifest.has_named_latents else next(iter(manifest.latents))


def latent_inputs(manifest: Manifest, spec: TaskSpec, latents: Latents) -> dict[str, Array]:
    """Return the inputs of a task that are filled by latents."""
    if not manifest.has_named_latents and not isinstance(latents, Mapping):
        return {tensor.role: latents for tensor in spec.latents}
    given = by_role(manifest, latents)
    return {tensor.role: given[key_of(manifest, tensor)] for tensor in spec.latents}


# --- inputs that a request states beside its items ------------------------------------------------------------------------------


def stated(
    manifest: Manifest, spec: TaskSpec, condition: Given | None, n: int, numbers: Numbers | None = None
) -> dict[str, Array]:
    """Return the inputs of a task that are filled by a condition and numbers. Raises InvalidValue if a needed condition is not given."""
    inputs: dict[str, Array] = {}
    if spec.sources.isdisjoint(STATED):
        return inputs
    for tensor in spec.inputs:
        if tensor.source in CONDITIONS:
            inputs[tensor.role] = conditions.fill(manifest, tensor, required(manifest, tensor, condition), n, 0, 0)
        elif tensor.source in NUMBERS:
            inputs[tensor.role] = number(tensor, numbers or {}, n)
    return inputs


def numbers_of(spec: TaskSpec, numbers: Numbers | None) -> Numbers:
    """Return the numbers that a task takes."""
    if not numbers:
        return {}
    roles = {tensor.role for tensor in spec.inputs if tensor.source in NUMBERS}
    return {name: value for name, value in numbers.items() if name in roles}


def with_data(
    manifest: Manifest, spec: TaskSpec, data: Array, condition: Given | None, numbers: Numbers | None = None
) -> dict[str, Array]:
    """Return the inputs of a task that takes items. Raises InvalidValue for a condition that the task does not take."""
    if spec.takes_data_alone and condition is None:
        return {role_of(spec, "data"): data}
    check_takes(manifest, [spec], condition)
    return {role_of(spec, "data"): data, **stated(manifest, spec, condition, len(data), numbers)}


def required(manifest: Manifest, tensor: InputSpec, condition: Given | None, field: str = "class") -> Given:
    """Return the condition; "no class" if it is not given and the class is optional.

    Raises InvalidValue if it, or the part that fills the input, is not given.
    """
    if condition is not None and conditions.part_of(manifest, tensor, condition) is not None:
        return condition
    one = manifest.condition_of(tensor)
    if isinstance(one, Classes) and one.optional:
        part = ByClass(NO_CLASS)
        return part if len(manifest.conditioned) == 1 else BySeveral({manifest.name_of_condition(tensor): part})
    if manifest.conditions is not None:
        field, names = field.replace("class", "condition"), manifest.conditions.names
        raise InvalidValue(
            f"{field}: {manifest.name} is conditioned on {', '.join(names)}; give their values",
            field=field,
            valid=names,
        )
    if manifest.condition is None or one is None:
        raise InvalidValue(
            f"{field}: {manifest.name} is conditioned on a class; give one", field=field, valid=manifest.classes
        )
    name = manifest.name_of_condition(tensor)
    field = f"{field.rpartition('class')[0]}conditions.{name}"
    raise InvalidValue(
        f"{field}: {manifest.name} is conditioned on it; give {conditions.key_of(one)}",
        field=field,
        valid=list(manifest.conditioned),
    )


def takes(spec: TaskSpec) -> bool:
    """Return whether a task takes a condition."""
    return not spec.sources.isdisjoint(CONDITIONS)


def check_takes(manifest: Manifest, specs: list[TaskSpec], condition: Given | None, field: str = "class") -> None:
    """Raise InvalidValue for a condition that none of the tasks takes."""
    if condition is None or any(map(takes, specs)):
        return
    field = field.replace("class", {ByValues: "condition", ByClass: "class"}.get(type(tagged(condition)), "conditions"))
    if isinstance(tagged(condition), ByClass) and not manifest.classes:
        raise InvalidValue(
            f"{field}: {manifest.name} has no classes; remove it, or use a model with classes", field=field
        )
    raise InvalidValue(
        f"{field}: {manifest.name} takes no condition{' here' if manifest.conditioned else ''}; remove it", field=field
    )


def options_of(manifest: Manifest, specs: Sequence[TaskSpec], *others: str) -> list[str]:
    """Return the options of a request that affect a run of the tasks: `others`, and those that fill inputs."""
    inputs = [tensor for spec in specs for tensor in spec.inputs]
    names: list[str] = []
    if any(tensor.source in CONDITIONS for tensor in inputs):
        one = next(iter(manifest.conditioned.values())) if len(manifest.conditioned) == 1 else None
        short = "class" if isinstance(one, Classes) else "condition" if isinstance(one, Values) else None
        names = [short] if short else [f"conditions.{name}" for name in manifest.conditioned]
    numbers = [f"inputs.{tensor.role}" for tensor in inputs if tensor.source in NUMBERS]
    return list(dict.fromkeys([*others, *names, *numbers]))


def no_effect(manifest: Manifest, option: str, why: str, valid: Sequence[str] | None = None) -> InvalidValue:
    """Return the error for an option without effect. `valid` are the options that have one."""
    return InvalidValue(
        f"{option}: it has no effect, because {manifest.name} {why}; remove it", field=option, valid=valid
    )


# --- tasks --------------------------------------------------------------------------------------------------------------------


def require(manifest: Manifest, task: str, verb: str) -> TaskSpec:
    """Return the task. Raises UnsupportedTask with the tasks that the model has."""
    spec = manifest.task(task)
    if spec is None:
        raise cannot(manifest, verb)
    return spec


def cannot(manifest: Manifest, verb: str) -> UnsupportedTask:
    """Return the error for a use case that a model does not support."""
    from manifold.runtime.operations import capabilities  # it imports this module

    why = why_not_encode(manifest) if "encode" not in manifest.tasks and verb in ("encode", "reconstruct") else ""
    return UnsupportedTask(
        f"{manifest.name} cannot {verb}{why}; {capabilities.abilities(manifest)}",
        field="model",
        valid=capabilities.endpoints(manifest) or list(manifest.tasks),
    )


def makes_items(manifest: Manifest) -> bool:
    """Return whether a model makes new items from noise or latents, which a seed draws or a request gives."""
    sampler = manifest.task("sample")
    if sampler is not None and sampler.sources.isdisjoint(GIVEN):
        return True
    return "decode" in manifest.tasks and manifest.latent is not None


def draws_items(manifest: Manifest) -> bool:
    """Return whether a seed is enough to make new items: neither codes nor latents without a prior must be given."""
    if not makes_items(manifest):
        return False
    sampler = manifest.task("sample")
    spec = sampler if sampler is not None and sampler.sources.isdisjoint(GIVEN) else manifest.tasks["decode"]
    latents = [manifest.latent_of(tensor) for tensor in spec.latents]
    return all(latent is None or latent.prior is not None for latent in latents)


def why_not_draw(manifest: Manifest) -> str:
    """Return why a model that makes items from given latents or codes cannot draw them; empty for other models."""
    if draws_items(manifest) or not (makes_items(manifest) or task_of_codes(manifest)):
        return ""
    what = "latents" if makes_items(manifest) else "codes"
    return f"it has no prior over its {what}, so it makes {manifest.spec.noun} from given {what} alone"


def task_of_codes(manifest: Manifest) -> str | None:
    """Return the task that makes items from given codes: decode_codes, else sample if codes are among its inputs. None if there is neither."""
    if "decode_codes" in manifest.tasks:
        return "decode_codes"
    sampler = manifest.task("sample")
    return "sample" if sampler is not None and sampler.input("codes") is not None else None


def why_not_sample(manifest: Manifest) -> str:
    """Return why a model with the task sample cannot make items, as the end of a sentence; empty for other models."""
    sampler = manifest.task("sample")
    needed = [tensor.role for tensor in sampler.inputs if tensor.source in GIVEN] if sampler is not None else []
    return f": its task sample needs {', '.join(needed)}, which no request to /sample can give" if needed else ""


def why_not_encode(manifest: Manifest) -> str:
    """Return why a model that makes items cannot encode them, as the end of a sentence; empty for other models."""
    if not makes_items(manifest) or "encode" in manifest.tasks:
        return ""
    if manifest.latent is None:
        return ": it has no latent space"
    sampler = manifest.tasks.get("sample")
    if manifest.path is not None and sampler is not None and sampler.input("normal"):
        return ": its sampler draws new noise at each step, so no path leads back from an item to its noise"
    return ": it makes items from latents and was not trained to encode items"


def role_of(spec: TaskSpec, source: Any) -> str:
    """Return the role of the first input with this source."""
    tensor = spec.input(source)
    assert tensor is not None, source
    return tensor.role


def softmax(energies: Array) -> Float64:
    """Return probabilities over the last axis, in float64. An energy of -inf has probability 0."""
    shifted = np.exp(energies - energies.max(axis=-1, keepdims=True), dtype=np.float64)
    probabilities: Float64 = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities
