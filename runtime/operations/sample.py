"""New items, made by the task `sample`, or by `decode` from latents drawn from a prior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from manifold.runtime import conditions, lengths, sampling
from manifold.runtime.conditions import Given
from manifold.runtime.errors import InvalidValue
from manifold.runtime.inputs import InputOptions, Numbers, check_numbers, check_seed, check_temperature, draw
from manifold.runtime.kinds import Kind
from manifold.runtime.manifest import CONDITIONS, RANDOM, InputSpec, Manifest, TaskSpec
from manifold.runtime.operations.common import (
    GIVEN,
    Capability,
    Latents,
    by_role,
    cannot,
    check_takes,
    key_of,
    makes_items,
    no_effect,
    options_of,
    others_of,
    task_of_codes,
    why_not_sample,
)
from manifold.runtime.operations.steps import Array, Float32, Run, Steps
from manifold.runtime.shown import ShownItems


@dataclass(frozen=True, repr=False)
class Samples(ShownItems):
    """New items, with the seed, latents, codes and conditions that made them."""

    data: Array  # (n, *shape), in the units of the model
    seed: int | None  # None if no random numbers were drawn
    latents: Latents | None = None
    codes: Array | None = None
    condition: Float32 | None = None  # (n, C), of a model that is conditioned on one vector
    # by name, of a model with several conditions or with a text: (n, C), or texts
    conditions: dict[str, Any] = field(default_factory=dict)
    # outputs beside `data`, by role, of a model that makes several
    others: dict[str, Array] = field(default_factory=dict)
    spec: Kind | None = field(default=None, compare=False)  # the kind of the items


def is_reproducible(manifest: Manifest, latents: Latents | None, codes: Array | None) -> bool:
    """Return whether the same request gives the same items: false if the graph that `sample` runs draws random numbers itself."""
    return not manifest.drawing or sampling_task(manifest, latents, codes) not in manifest.drawing


def sample(
    manifest: Manifest, n: int = 1, *, seed: int | None = None, first: int = 0, latents: Latents | None = None, codes: Array | None = None,
    condition: Given | None = None, prior: str | None = None, temperature: float | None = None, numbers: Numbers | None = None,
) -> Steps[Samples]:  # fmt: skip
    """Return n items, made by the task `sample`, or by `decode` from latents of the prior, or from given latents (n, *shape) or codes.

    Item i depends only on seed and first + i. A condition that is not given is drawn. A prior or a temperature that would have no effect
    is refused; a seed without effect is ignored.
    """
    task = sampling_task(manifest, latents, codes)
    spec, given = manifest.tasks[task], {} if latents is None else by_role(manifest, latents)
    if numbers:
        check_numbers(manifest, [spec], numbers)
    open_latents = _open_latents(manifest, spec, given)
    chance = needs_seed(spec, bool(open_latents), condition)
    seed = check_seed(seed, first, n, needed=chance)
    _check_effect(manifest, spec, prior, temperature, bool(open_latents))
    choices = InputOptions(condition, prior, 1.0 if temperature is None else temperature, numbers or {})
    inputs: dict[str, Array] = {}
    stream = sampling.FIRST_INPUT_STREAM
    for tensor in spec.inputs:
        if tensor.source == "latent" and tensor not in open_latents:
            key = key_of(manifest, tensor)
            inputs[tensor.role] = _fitting(
                tensor, given[key], f"latents.{key}" if manifest.has_named_latents else "latents", n
            )
        elif tensor.source == "codes" and codes is not None:
            inputs[tensor.role] = _fitting(tensor, codes, "codes", n)
        else:
            inputs[tensor.role] = draw(manifest, spec, tensor, seed, first, n, stream, choices)
        stream += tensor.source in RANDOM
    check_takes(manifest, [spec], condition)
    outputs = yield Run(task, lengths.agreed(spec, inputs))
    return _samples(manifest, spec, inputs, outputs, seed if chance else None, codes)


def _check_effect(
    manifest: Manifest, spec: TaskSpec, prior: str | None, temperature: float | None, open_latents: bool
) -> None:
    """Raise InvalidValue for a prior or a temperature that would have no effect. The error lists the options that have one."""
    tempered = open_latents or spec.input("temperature") is not None
    if prior is not None and not open_latents:
        valid = options_of(manifest, [spec], *(["temperature"] if tempered else []))
        raise InvalidValue("prior: no latent is drawn here; remove it", field="prior", valid=valid)
    if temperature is not None and not tempered:
        valid = options_of(manifest, [spec])
        raise no_effect(manifest, "temperature", "draws no latent here, and has no input for a temperature", valid)
    if temperature is not None:
        check_temperature(temperature)


def _open_latents(manifest: Manifest, spec: TaskSpec, given: Mapping[str, Array]) -> list[InputSpec]:
    """Return the latents of a task that are not given, and are therefore drawn."""
    return [tensor for tensor in spec.latents if not given or key_of(manifest, tensor) not in given]


def _fitting(tensor: InputSpec, array: Array, field: str, n: int) -> Array:
    """Return the latents or codes of a request. Raises InvalidValue if they are not n of the shape that the graph takes."""
    if array.ndim == 0 or len(array) != n or n < 1 or not tensor.fits(array.shape[1:]):
        wanted = ", ".join(map(str, ("n", *tensor.shape)))
        number = f" with n = {n}, as for the others" if array.ndim and n and tensor.fits(array.shape[1:]) else ""
        raise InvalidValue(f"{field}: the shape is {list(array.shape)}; give [{wanted}]{number}", field=field)
    return array


def takes_temperature(manifest: Manifest, latents: Latents | None, codes: Array | None) -> bool:
    """Return whether a temperature has an effect on new items: it scales latents that are drawn, or is an input of the graph."""
    spec = manifest.tasks[sampling_task(manifest, latents, codes)]
    given = {} if latents is None else by_role(manifest, latents)
    return bool(_open_latents(manifest, spec, given)) or spec.input("temperature") is not None


def _samples(
    manifest: Manifest, spec: TaskSpec, inputs: Mapping[str, Array], outputs: Mapping[str, Array], seed: int | None, codes: Array | None
) -> Samples:  # fmt: skip
    condition = spec.input("condition") if len(manifest.conditioned) < 2 else None
    vector = inputs[condition.role] if condition is not None and len(condition.shape) == 1 else None
    return Samples(
        outputs[manifest.main], seed, _latents(manifest, spec, inputs, outputs), outputs.get("codes", codes), vector,
        conditions.of_inputs(manifest, spec, inputs), others_of(manifest, outputs), manifest.spec,
    )  # fmt: skip


def _latents(
    manifest: Manifest, spec: TaskSpec, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
) -> Latents | None:
    """Return the latents among the inputs of a run, or else among its outputs."""
    if not manifest.has_named_latents:
        return inputs[spec.latents[0].role] if spec.latents else outputs.get("latent")
    given = {tensor.role: inputs[tensor.role] for tensor in spec.latents}
    return given or {role: outputs[role] for role in manifest.latents if role in outputs} or None


def sampling_task(manifest: Manifest, latents: Latents | None, codes: Array | None) -> str:
    """Return the name of the task that makes items. Raises UnsupportedTask if there is none.

    Raises InvalidValue for both latents and codes, and if the model needs codes and none are given.
    """
    tasks = manifest.tasks
    if latents is not None and codes is not None:
        raise InvalidValue("codes: latents and codes cannot be combined; give only one of them", field="codes")
    if codes is not None:
        decoder = task_of_codes(manifest)
        if decoder is None:
            raise cannot(manifest, "decode codes")
        return decoder
    if latents is not None:
        chosen = next((name for name in ("sample", "decode") if name in tasks and tasks[name].input("latent")), None)
        if chosen is None:
            raise cannot(manifest, "decode latents")
        return chosen
    if not makes_items(manifest):
        raise _no_codes(manifest) if task_of_codes(manifest) is not None else cannot(manifest, "sample")
    return "sample" if "sample" in tasks and tasks["sample"].sources.isdisjoint(GIVEN) else "decode"


def _no_codes(manifest: Manifest) -> InvalidValue:
    """Return the error of a request without codes for a model that makes items from codes alone."""
    shape = ", ".join(map(str, ("n", *(manifest.codes.shape if manifest.codes is not None else ()))))
    return InvalidValue(
        f"codes: {manifest.name} has no prior over its codes, so it cannot draw them; give codes of shape [{shape}]",
        field="codes",
    )


def needs_seed(spec: TaskSpec, open_latents: bool, condition: Given | None) -> bool:
    """Return whether a run draws random numbers: noise, latents, or a condition that is not given."""
    sources = spec.sources
    if open_latents or "normal" in sources or "uniform" in sources:
        return True
    conditional = not sources.isdisjoint(CONDITIONS)
    return conditional and (conditions.is_random(condition) or _is_partly_open(spec, condition))


def _is_partly_open(spec: TaskSpec, condition: Given | None) -> bool:
    """Return whether several conditions state fewer parts than the task has inputs for."""
    if not isinstance(condition, conditions.BySeveral):
        return False
    wanted = [tensor for tensor in spec.inputs if tensor.source in ("condition", "tokens")]
    return len(condition.parts) < len(wanted) or any(map(conditions.is_random, condition.parts.values()))


CAPABILITIES = (
    Capability("sample", 10, lambda manifest: makes_items(manifest) or task_of_codes(manifest) is not None, why_not_sample),
)  # fmt: skip
