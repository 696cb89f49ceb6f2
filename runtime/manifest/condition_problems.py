"""The checks of what a manifest says of conditions: its sections, and the inputs that they fill."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from manifold.runtime.manifest.conditions import Classes, Text
from manifold.runtime.manifest.tensors import CONDITIONS, InputSpec, TaskSpec

if TYPE_CHECKING:
    from manifold.runtime.manifest.document import Manifest


def of_sections(manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong with the sections that state conditions."""
    stated = [name for name in ("classes", "conditions", "condition") if getattr(manifest, name) is not None]
    if len(stated) > 1:
        yield f"{stated[-1]}: {stated[0]} are stated too, and a model takes classes or real values, not both; a `condition` of the kind several can state both"
    if manifest.class_prior is not None and manifest.classes is None:
        yield "class_prior: needs one weight a class"
    for name, condition in manifest.conditioned.items():
        if isinstance(condition, Classes):
            prefix = "" if manifest.classes is not None else f"condition.parts.{name}."
            yield from (f"{prefix}{problem}" for problem in condition.problems())
        if not any(_filled_by(manifest, tensor) == name for task in manifest.tasks.values() for tensor in task.inputs):
            yield from _unused_problems(manifest, name, condition)
        elif isinstance(condition, Text):
            yield from _example_problems(manifest, name, condition)


def _filled_by(manifest: Manifest, tensor: InputSpec) -> str | None:
    return manifest.name_of_condition(tensor) if tensor.source in CONDITIONS else None


def _unused_problems(manifest: Manifest, name: str, condition: object) -> Iterator[str]:
    """Yield a condition in its long form that no task takes. Classes in the short form may be there for a classification alone."""
    if manifest.condition is not None:
        source = "tokens" if isinstance(condition, Text) else "condition"
        part, role = ("", "") if name == "condition" else (f".parts.{name}", f" and the role {name!r}")
        yield f"condition{part}: no task has an input with the source {source!r}{role}, so requests could state it in vain"


def _example_problems(manifest: Manifest, name: str, text: Text) -> Iterator[str]:
    """Yield the examples of a text that are too long for the tokens of a task."""
    longest = max(len(example.encode()) for example in text.examples)
    for task, spec in manifest.tasks.items():
        for tensor in spec.inputs:
            if tensor.source == "tokens" and manifest.name_of_condition(tensor) == name and len(tensor.shape) == 1:
                if longest > tensor.shape[0]:
                    part = "" if name == "condition" else f".parts.{name}"
                    where = f"tasks.{task}.{tensor.role}"
                    yield f"condition{part}.examples: a text of {longest} bytes is over the {tensor.shape[0]} that {where} takes"


def of_input(manifest: Manifest, task: TaskSpec, tensor: InputSpec) -> Iterator[str]:
    """Yield what is wrong with an input that a condition fills."""
    if tensor.source not in CONDITIONS:
        return
    condition = manifest.condition_of(tensor)
    if condition is None:
        # a vector whose columns nobody has named is stated as numbers
        if len(manifest.conditioned) > 1 or tensor.source != "condition":
            yield f"the section `condition` says nothing of it; it names {', '.join(manifest.conditioned) or 'nothing'}"
        elif len(tensor.shape) != 1:
            yield f"shape {list(tensor.shape)}, but a condition is a vector of weights or values, so its shape is [C]"
    elif isinstance(condition, Text) != (tensor.source != "condition"):
        takes = "tokens and token_mask" if isinstance(condition, Text) else "condition"
        yield f"the source {tensor.source!r}, but a condition of the kind {condition.kind} fills {takes}"
    elif not isinstance(condition, Text) and tensor.shape != condition.shape:
        yield f"shape {list(tensor.shape)} but {_needed(condition)}"
    elif isinstance(condition, Text):
        yield from _text_problems(manifest, task, tensor)


def _text_problems(manifest: Manifest, task: TaskSpec, tensor: InputSpec) -> Iterator[str]:
    """Yield what is wrong with the tokens of a text, or with their mask."""
    if tensor.source == "tokens":
        if len(tensor.shape) != 1:
            yield f"shape {list(tensor.shape)}, but tokens are a row, so the shape is [T]"
        return
    name = manifest.name_of_condition(tensor)
    tokens = (each for each in task.inputs if each.source == "tokens" and manifest.name_of_condition(each) == name)
    own = next(tokens, None)
    if own is None:
        yield "a mask needs the tokens that it is of: an input with the source 'tokens'" + (
            f" and the role {name!r}" if len(manifest.conditioned) > 1 else ""
        )
    elif (tensor.shape, tensor.free or ()) != (own.shape, own.free or ()):
        yield f"shape {list(tensor.shape)}, but the mask of tokens has their shape {list(own.shape)} and free axes"


def _needed(condition: object) -> str:
    names = getattr(condition, "names", None)
    if isinstance(condition, Classes):
        return f"there are {len(condition.names)} classes"
    return f"the conditions are {', '.join(names)}" if names else f"the condition has {list(condition.shape)}"  # type: ignore[attr-defined]
