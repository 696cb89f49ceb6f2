"""The checks of a whole manifest: whether its sections agree. Each check yields its problems as text that starts with the field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from manifold.runtime.errors import shown
from manifold.runtime.manifest import condition_problems, form_problems, legal
from manifold.runtime.manifest.rules import FILLED, FREE, MEANINGS, REQUIRED_OUTPUTS, REQUIRED_SOURCES, RETURNED, TASKS
from manifold.runtime.manifest.tensors import CONDITIONS, NUMBERS, RANDOM, SENT, InputSpec, TaskSpec, TensorSpec

if TYPE_CHECKING:
    from manifold.runtime.manifest.document import Manifest


def every(manifest: Manifest) -> Iterator[str]:
    """Yield all problems of a manifest."""
    yield from _name_problems(manifest)
    yield from condition_problems.of_sections(manifest)
    for name, task in manifest.tasks.items():
        if name in TASKS:
            yield from _task_problems(manifest, name, task)
            yield from form_problems.of_task(manifest, name, task)
        else:
            yield f"tasks.{shown(name)[1:-1]}: unknown task; valid are {', '.join(TASKS)}"
    yield from _scoring_problems(manifest)
    yield from _classification_problems(manifest)
    yield from _sampler_problems(manifest)


def _name_problems(manifest: Manifest) -> Iterator[str]:
    """Yield the names of items and latents that have another meaning, and those that no task uses."""
    for role in manifest.items if isinstance(manifest.data, dict) else ():
        if role in MEANINGS or role in manifest.latents:
            other = "a latent" if role in manifest.latents else "another output"
            yield f"data.{role}: {role!r} is the name of {other}; choose another name"
        elif not any(role in task.roles for task in manifest.tasks.values()):
            yield f"data.{role}: no task has an output with this role; add the output, or remove the item"
    for role in manifest.latents if manifest.has_named_latents else ():
        tensors = [tensor for task in manifest.tasks.values() for tensor in (*task.inputs, *task.outputs)]
        if not any(tensor.role.partition(".")[0] == role for tensor in tensors):
            yield f"latent.{role}: no task has an input or an output with this role; add one, or remove the latent"
    if manifest.target is not None and "target" not in (
        manifest.tasks["translate"].roles if "translate" in manifest.tasks else ()
    ):
        yield "target: the task translate has no output with the role 'target'; add the output, or remove the section"


# --- tasks --------------------------------------------------------------------------------------------------------------------


def _task_problems(manifest: Manifest, name: str, task: TaskSpec) -> Iterator[str]:
    needed = REQUIRED_SOURCES.get(name)
    if needed and task.input(needed) is None:
        yield f"tasks.{name}: has no input with the source {needed!r}; add one"
    if name == "impute":
        yield from _impute_problems(manifest, task)
    yield from _input_problems(manifest, name, task)
    outputs = [own for roles in REQUIRED_OUTPUTS.get(name, ()) for own in _own_roles(manifest, roles)]
    if outputs and not any(set(roles) <= set(task.roles) for roles in outputs):
        yield f"tasks.{name}: has no output with the role {' or '.join(repr(roles[0]) for roles in outputs)}; add one"
    for tensor in (*task.inputs, *task.outputs):
        yield from _tensor_problems(manifest, name, tensor)
    yield from _output_problems(manifest, name, task)


def _own_roles(manifest: Manifest, roles: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return required roles with the names that the model gives to its items and latents."""
    if roles == ("mean",) and manifest.has_named_latents:
        return [(f"{latent}.mean",) for latent in manifest.latents]
    return [tuple(manifest.main if role == "data" else role for role in roles)]


def _impute_problems(manifest: Manifest, task: TaskSpec) -> Iterator[str]:
    if task.input("data") is None:
        yield "tasks.impute: has no input with the source 'data'; add one next to the mask"
    if task.sources.isdisjoint(RANDOM):
        yield "tasks.impute: has no input with a source among uniform, normal and latent; add one, so that missing values can be drawn"
    if manifest.spec.mask_shape is None:
        yield f"tasks.impute: takes a mask, but {manifest.spec.noun} have none; remove the task: encode and decode fill in missing values"


def _input_problems(manifest: Manifest, name: str, task: TaskSpec) -> Iterator[str]:
    """Yield the inputs that no endpoint can fill as the task requires: every request would fail, and the client could not fix it."""
    filled = FILLED.get(name)
    for place, tensor in enumerate(task.inputs):
        where = f"tasks.{name}.{tensor.role}"
        if tensor.dtype != SENT[tensor.source]:
            yield (
                f"{where}: the type is {tensor.dtype}, but the service sends {tensor.source} as {SENT[tensor.source]}; state the graph's type as "
                "in_graph.dtype"
            )
        yield from (f"{where}: {problem}" for problem in condition_problems.of_input(manifest, task, tensor))
        if tensor.free and tensor.source not in FREE:
            yield f"{where}.free: an input with the source {tensor.source!r} cannot have free axes; only {', '.join(FREE)} can"
        if tensor.source in NUMBERS and tensor.default is None and tensor.example is None:
            yield f"{where}: has neither a default nor an example; give a default, or an example if every request must state the {tensor.source}"
        yield from (f"{where}.example: {problem}" for problem in _wrong_example(manifest, tensor))
        if filled is not None and tensor.source not in filled:
            yield f"{where}: the source {tensor.source!r} is not filled for {name}; use one of {', '.join(filled)}"
        elif _is_second(manifest, tensor, task.inputs[:place]) and filled is not None:
            yield f"{where}: this is a second input with the source {tensor.source!r}, but {name} fills only one; remove it"


def _wrong_example(manifest: Manifest, tensor: InputSpec) -> Iterator[str]:
    """Yield a problem if the numbers of an example are out of range. Clients see the example, so it must be valid in a request."""
    limits = legal.between(manifest, tensor)
    if tensor.example is None or limits is None:
        return
    numbers = np.asarray(tensor.example, np.float64)
    if numbers.min() < limits[0] or numbers.max() > limits[1]:
        yield f"its numbers go from {numbers.min():g} to {numbers.max():g}; use numbers from {limits[0]:g} to {limits[1]:g}"


def _is_second(manifest: Manifest, tensor: InputSpec, before: tuple[InputSpec, ...]) -> bool:
    """Return whether an earlier input has the same source and would be filled with the same values."""
    several = tensor.source in NUMBERS or (tensor.source in CONDITIONS and len(manifest.conditioned) > 1)
    return not several and any(other.source == tensor.source for other in before)


def _output_problems(manifest: Manifest, name: str, task: TaskSpec) -> Iterator[str]:
    """Yield the outputs that would be dropped silently, and those with a shape that no endpoint can read."""
    if name == "encode" and ("draw" in task.roles) != (task.input("normal") is not None):
        yield "tasks.encode: a draw from the posterior needs an input with the source 'normal' and an output 'draw'; give both or neither"
    if task.any_mask and name != "impute":
        yield f"tasks.{name}.any_mask: only the task impute has masks; remove it"
    returned, shapes = _returned(manifest, name), _shapes_read(manifest, name)
    for role in task.extra or ():
        if role not in task.roles:
            yield f"tasks.{name}.extra: there is no output {role!r}; use one of {', '.join(task.roles)}"
    for tensor in task.outputs:
        where = f"tasks.{name}.{tensor.role}"
        if returned is not None and tensor.role not in (*returned, *(task.extra or ())):
            yield (
                f"{where}: no endpoint returns this output; those of {name} return {', '.join(returned) or 'nothing without a scoring section'}; "
                f"remove it from the manifest (the graph may keep it), or list it in tasks.{name}.extra to get it only over /v2"
            )
        wanted = shapes.get(tensor.role)
        if wanted is not None and tensor.shape not in wanted:
            yield f"{where}: shape {list(tensor.shape)}; it must be {' or '.join(str(list(shape)) for shape in wanted)} (without the batch)"


def _returned(manifest: Manifest, name: str) -> list[str] | None:
    """Return the roles of the outputs that the endpoints of a task return; None for a task that is only available over /v2."""
    if name == "score":
        return _score_roles(manifest)
    if name not in RETURNED:
        return None
    roles = [role for role in RETURNED[name] if role != "data"]
    if "data" in RETURNED[name]:
        roles = [*manifest.items, *roles]
    if not manifest.has_named_latents:
        return roles
    own = [f"{latent}.{part}" for latent in manifest.latents for part in ("mean", "log_variance") if part in roles]
    of_latents = [*manifest.latents] if "latent" in roles else []
    return [role for role in roles if role not in ("mean", "log_variance", "draw", "latent")] + own + of_latents


def _score_roles(manifest: Manifest) -> list[str]:
    if manifest.scoring is None:
        return []
    golden = manifest.golden.sampler if manifest.golden else None
    named = [
        *(term.name for term in manifest.scoring.terms),
        manifest.scoring.surprise,
        manifest.scoring.expected,
        golden,
    ]
    return [role for role in named if role]


def _shapes_read(manifest: Manifest, name: str) -> dict[str, list[tuple[int, ...]]]:
    """Return, by role, the shapes that the outputs of a task must have so that the endpoints can read them."""
    if name == "score" and manifest.scoring is not None:
        shapes: dict[str, list[tuple[int, ...]]] = {term.name: [()] for term in manifest.scoring.terms}
        if manifest.scoring.surprise is not None:
            shapes[manifest.scoring.surprise] = manifest.spec.nats_shapes
        if manifest.scoring.expected is not None:
            shapes[manifest.scoring.expected] = [manifest.spec.shape]
        return shapes
    if name == "features" and manifest.classification is not None and manifest.classification.term is None:
        return {"logits": [(len(manifest.classes or ()),)]}
    if name == "neighbours":
        near = {tensor.role: tensor.shape for tensor in manifest.tasks[name].outputs}
        count = near.get("distance", ())[:1] or (1,)
        items = (*count, *manifest.spec.shape)
        return {"distance": [count], "nearest": [items], "known": [items]}
    return {}


def _tensor_problems(manifest: Manifest, name: str, tensor: TensorSpec) -> Iterator[str]:
    """Yield a problem if the shape of a tensor differs from the shape in the section that describes it."""
    where = f"tasks.{name}.{tensor.role}"
    key = tensor.source if isinstance(tensor, InputSpec) else tensor.role
    if key in ("temperature", *NUMBERS) and isinstance(tensor, InputSpec) and tensor.shape != ():
        what = "a temperature" if key == "temperature" else f"a {key}"
        yield f"{where}: shape {list(tensor.shape)}; {what} is one number per item, so its shape must be []"
    if key == "codes" and tensor.dtype != "int64":
        yield f"{where}: the type is {tensor.dtype}; codes must be int64"
    stated = _stated_shape(manifest, tensor, key)
    if stated is MISSING:
        yield f"{where}: the manifest has no section for its shape; add a {'codes' if key == 'codes' else 'latent'} section"
    elif stated is not None and tensor.shape != stated:
        yield f"{where}: shape {list(tensor.shape)}, but its section says {list(stated)}; make them equal"


MISSING: tuple[int, ...] = (-1,)  # stands for a shape that the manifest should state but does not


def _stated_shape(manifest: Manifest, tensor: TensorSpec, key: str) -> tuple[int, ...] | None:
    """Return the shape that the manifest requires for a tensor: MISSING if its section is missing, None if any shape is allowed."""
    if isinstance(tensor, InputSpec):
        if key == "data":
            return manifest.spec.shape
        if key == "mask":
            return manifest.spec.mask_shape or (1, *manifest.spec.shape[1:])
    elif key in ("data", "target", *manifest.items):
        return manifest.spec_of(key).shape
    if key == "codes":
        return MISSING if manifest.codes is None else manifest.codes.shape
    last = key.rpartition(".")[2]
    if (
        key == "latent"
        or last in ("mean", "log_variance", "draw")
        or (manifest.has_named_latents and key in manifest.latents)
    ):
        latent = manifest.latent_of(tensor)
        return MISSING if latent is None else latent.dims
    return None


# --- sections -----------------------------------------------------------------------------------------------------------------


def _scoring_problems(manifest: Manifest) -> Iterator[str]:
    scoring, task = manifest.scoring, manifest.task("score")
    if scoring is None:
        return
    if task is None:
        yield "scoring: there is no task `score`; add it, or remove the section"
        return
    if scoring.expected is not None and manifest.spec.parts is None:
        yield f"scoring.expected: {manifest.spec.noun} have no columns; remove it"
    explained = [role for role in (scoring.surprise, scoring.expected) if role is not None]
    for role in [*(term.name for term in scoring.terms), *explained]:
        if role not in task.roles:
            yield f"scoring: the task score has no output {role!r}; it has {', '.join(task.roles)}"
    if task.input("condition") is not None and manifest.classes is not None and scoring.evidence is None:
        yield "scoring: the score is conditioned on classes, but no term is a likelihood; add `likelihood` to one, so that classes can be marginalised"


def _sampler_problems(manifest: Manifest) -> Iterator[str]:
    """Yield the tensors that the check of the sampler needs but cannot find (runtime.golden.check_sampler)."""
    sample, role = manifest.task("sample"), manifest.golden.sampler if manifest.golden else None
    if sample is None or role is None:
        return
    if "codes" not in sample.roles or "uniforms" not in {tensor.role for tensor in sample.inputs}:
        yield "golden.sampler: the task sample lacks the input 'uniforms' or the output 'codes'; add them, or remove the field"
    judge = manifest.task("score_codes") or manifest.task("score")
    if judge is None or role not in judge.roles:
        yield f"golden.sampler: neither score_codes nor score has the output {role!r}; name an output with logits"


def _classification_problems(manifest: Manifest) -> Iterator[str]:
    classification, features, score = manifest.classification, manifest.task("features"), manifest.task("score")
    if classification is None:
        return
    if manifest.classes is None:
        yield "classification: the manifest names no classes; add `classes`"
    if classification.term is None and (features is None or "logits" not in features.roles):
        yield "classification: there is neither a term nor a task features with the output logits; add one of them"
    if classification.term is not None:
        if manifest.scoring is None or classification.term not in {term.name for term in manifest.scoring.terms}:
            yield f"classification.term: {classification.term!r} is not a term of the score; name one of scoring.terms"
        elif score is None or score.input("condition") is None:
            yield "classification: the task score takes no condition, so its terms do not depend on the class; use logits instead"
