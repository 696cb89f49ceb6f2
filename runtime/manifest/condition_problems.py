"""The checks of conditions in a manifest: of the sections that describe them, and of the inputs that they fill."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from manifold.runtime.manifest.conditions import Classes, Text
from manifold.runtime.manifest.tensors import CONDITIONS, InputSpec, TaskSpec

if TYPE_CHECKING:
    from manifold.runtime.manifest.document import Manifest


def of_sections(manifest: Manifest) -> Iterator[str]:
    """Yield the problems of the sections that describe conditions."""
    stated = [name for name in ("classes", "conditions", "condition") if getattr(manifest, name) is not None]
    if len(stated) > 1:
        yield f"{stated[-1]}: {stated[0]} is given too, but a model takes classes or real values, not both; for both, write a `condition` of kind `several`"
    if manifest.class_prior is not None and manifest.classes is None:
        yield "class_prior: given without classes; add `classes`, or remove class_prior"
    if manifest.class_optional is not None and manifest.classes is None:
        yield "class_optional: given without classes; add `classes`, or remove class_optional"
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
    """Yield a problem if no task takes a condition in its long form. Classes in the short form may exist only for a classification."""
    if manifest.condition is not None:
        source = "tokens" if isinstance(condition, Text) else "condition"
        part, role = ("", "") if name == "condition" else (f".parts.{name}", f" and the role {name!r}")
        yield f"condition{part}: no task has an input with the source {source!r}{role}, so it would have no effect; add the input, or remove the condition"


def _example_problems(manifest: Manifest, name: str, text: Text) -> Iterator[str]:
    """Yield a problem for each task whose tokens are too few for the examples of a text."""
    longest = max(len(example.encode()) for example in text.examples)
    for task, spec in manifest.tasks.items():
        for tensor in spec.inputs:
            if tensor.source == "tokens" and manifest.name_of_condition(tensor) == name and len(tensor.shape) == 1:
                if longest > tensor.shape[0]:
                    part = "" if name == "condition" else f".parts.{name}"
                    where = f"tasks.{task}.{tensor.role}"
                    yield f"condition{part}.examples: a text has {longest} bytes, but {where} takes at most {tensor.shape[0]}; shorten the text"


def of_input(manifest: Manifest, task: TaskSpec, tensor: InputSpec) -> Iterator[str]:
    """Yield the problems of an input that a condition fills."""
    if tensor.source not in CONDITIONS:
        return
    condition = manifest.condition_of(tensor)
    if condition is None:
        # requests give a vector without column names as plain numbers
        if len(manifest.conditioned) > 1 or tensor.source != "condition":
            yield f"the section `condition` describes {', '.join(manifest.conditioned) or 'nothing'}, not this input; add a part with its role"
        elif len(tensor.shape) != 1:
            yield f"shape {list(tensor.shape)}; a condition is a vector of weights or values, so its shape must be [C]"
    elif isinstance(condition, Text) != (tensor.source != "condition"):
        takes = "tokens and token_mask" if isinstance(condition, Text) else "condition"
        yield f"the source is {tensor.source!r}, but a condition of kind {condition.kind!r} needs inputs with the source {takes}"
    elif not isinstance(condition, Text) and tensor.shape != condition.shape:
        yield f"shape {list(tensor.shape)}, but {_needed(condition)}"
    elif isinstance(condition, Text):
        yield from _text_problems(manifest, task, tensor)


def _text_problems(manifest: Manifest, task: TaskSpec, tensor: InputSpec) -> Iterator[str]:
    """Yield the problems of the tokens of a text, or of their mask."""
    if tensor.source == "tokens":
        if len(tensor.shape) != 1:
            yield f"shape {list(tensor.shape)}; tokens are a row, so the shape must be [T]"
        return
    name = manifest.name_of_condition(tensor)
    tokens = (each for each in task.inputs if each.source == "tokens" and manifest.name_of_condition(each) == name)
    own = next(tokens, None)
    if own is None:
        yield "this mask has no tokens; add an input with the source 'tokens'" + (
            f" and the role {name!r}" if len(manifest.conditioned) > 1 else ""
        )
    elif (tensor.shape, tensor.free or ()) != (own.shape, own.free or ()):
        yield f"shape {list(tensor.shape)}; the mask of tokens must have the shape {list(own.shape)} and the free axes of the tokens"


def _needed(condition: object) -> str:
    names = getattr(condition, "names", None)
    if isinstance(condition, Classes):
        return f"there are {len(condition.names)} classes"
    return f"the conditions are {', '.join(names)}" if names else f"the condition has the shape {list(condition.shape)}"  # type: ignore[attr-defined]
