"""The outputs of graphs that read items: encoders, scorers, classifiers and extractors of features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import InvalidValue, cut
from manifold.runtime.foreign import guesses
from manifold.runtime.foreign.guesses import Guess, Wishes
from manifold.runtime.foreign.inspection import Foreign, Seen

Array = NDArray[Any]
ITEMS = "items made of items"  # a reason why an output is not used


def outputs(graph: Foreign, wishes: Wishes, made: Guess, sections: Mapping[str, Any]) -> None:
    """Guess the roles of the outputs of a graph that reads items. Raises InvalidValue if none can be used."""
    reasons = [
        f"{seen}: its type cannot be served, as that of a ZipMap; for a classifier of scikit-learn, export with options={{'zipmap': False}}"
        for seen in graph.dropped
    ]
    stated = {wishes.outputs[seen.name] for seen in graph.outputs if seen.name in wishes.outputs} - {"none"}
    for seen in sorted(graph.outputs, key=lambda each: _rank(each, graph.made[each.name], wishes)):
        taken = {tensor["role"] for tensor in made.outputs} | stated
        role, why = _role(seen, graph.made[seen.name], wishes, taken, made.task, sections)
        if role is None:
            reasons.append(f"{seen}: {why}")
            made.lines.append(f"{graph.path.name}: not used: output {seen} ({why})")
            continue
        made.outputs.append(_output(seen, role, graph.made[seen.name], wishes, made))
        made.lines.append(f"{graph.path.name}: output {seen}: {role} ({why})")
    order = [seen.name for seen in graph.outputs]
    made.outputs.sort(key=lambda tensor: order.index(tensor.get("name", tensor["role"])))
    roles = {tensor["role"] for tensor in made.outputs}
    found = (
        "encode"
        if roles & {"mean", "codes", "latent"}
        else "features"
        if roles & {"features", "logits"}
        else "score"
        if roles
        else None
    )
    if found is None and any(reason.endswith(f": {ITEMS}") for reason in reasons):
        name = cut(next(tensor.get("name", tensor["role"]) for tensor in made.inputs if tensor["source"] == "data"))
        kind, advice = (
            ("images", "; for another network write a manifest with the task translate, which is served over /v2")
            if wishes.spec is None
            else ("rows", "; to score rows, export the error of each row as its output")
        )
        raise InvalidValue(
            f"{graph.path.name}: it makes {kind} of {kind}, which no endpoint serves; if the input is noise, give --input {name}=latent; if it encodes and "
            f"decodes, export the two parts as two files{advice}",
            field="input",
        )
    if found is None:
        raise InvalidValue(
            f"{graph.path.name}: no output could be used ({'; '.join(reasons) or 'there is none of a type that can be served'}); state the role of one, such "
            f"as --output {cut(next((each.name for each in graph.outputs if graph.made[each.name].dtype.kind == 'f'), 'OUTPUT'))}=features",
            field="output",
        )
    made.task = made.task or found
    if made.task == "score":
        _check_sign(graph, wishes)
        terms = [tensor["role"] for tensor in made.outputs]
        made.sections["scoring"] = {"score": terms[0], "terms": [{"name": term, "kind": "distance"} for term in terms]}
        meaning = (
            "more normal: the sign is changed" if wishes.negate else "more anomalous; --negate states the opposite"
        )
        made.lines.append(f"  a higher value of {terms[0]} counts as {meaning}")
    if "logits" in roles and wishes.classes:
        made.sections["classification"] = {}


def _rank(seen: Seen, values: Array, wishes: Wishes) -> tuple[bool, bool]:
    """Return a key that puts codes first, and outputs with the name of a mean before those that may be a draw, such as z."""
    return not _are_codes(seen, values, wishes), guesses.STRONG_MEANS.search(seen.word) is None


def _are_codes(seen: Seen, values: Array, wishes: Wishes) -> bool:
    """Return whether an output has codes: whole numbers, or floats that are whole and have the name of codes."""
    if wishes.levels is None or values.ndim < 2 or math.prod(values.shape[1:]) < 2:
        return False
    if values.dtype.kind == "f":
        return guesses.is_named_codes(seen, wishes) and bool((values == np.rint(values)).all())
    return values.dtype.kind in "iu"


def _check_sign(graph: Foreign, wishes: Wishes) -> None:
    """Raise InvalidValue if the names of the outputs are those of a detector of scikit-learn, and the meaning of its score is not stated."""
    names = {seen.name for seen in graph.outputs}
    found = next(
        (name for name in names if guesses.NORMALITIES.search(name)), "scores" if names >= {"label", "scores"} else None
    )
    if wishes.negate is None and found is not None:
        raise InvalidValue(
            f"{graph.path.name}: the output {found} has the name that scores of scikit-learn have, which are higher for more normal rows; give --negate, or "
            "--keep-sign if the scores are higher for anomalies",
            field="negate",
        )


Role = tuple[str | None, str]  # the role of an output, or None if it is not used, and the reason


def _role(seen: Seen, values: Array, wishes: Wishes, taken: set[str], task: str, sections: Mapping[str, Any]) -> Role:
    """Return the role of an output. `taken` are the roles that other outputs have."""
    if seen.name in wishes.outputs:
        stated = wishes.outputs[seen.name]
        return (None, "as stated") if stated == "none" else (stated, "as stated")
    if _are_codes(seen, values, wishes):
        return ("codes", "whole numbers: codes") if "codes" not in taken else (None, "further whole numbers")
    if "codes" in taken:
        return None, "the codes are used"
    if _is_image(seen, values, wishes) and task not in ("encode", "features"):
        return None, ITEMS
    size = int(np.prod(values.shape[1:]))
    if values.dtype.kind in "iu":
        advice = "; if they are codes, give --levels with the number of different codes" if size > 1 else ""
        return None, f"whole numbers{advice}"
    if values.dtype.kind != "f":
        return None, f"the type is {seen.dtype}"
    if size == 1:
        return _role_of_one(seen, wishes, taken, task)
    if wishes.classes and size == len(wishes.classes):
        _check_scale(seen, values)
        return "logits", "one number for each class"
    return _role_of_many(seen, values, wishes, taken, task, _size(sections.get("latent", {})))


def _is_image(seen: Seen, values: Array, wishes: Wishes) -> bool:
    """Return whether an output has the shape of grey or colour images, and not the name of a mean."""
    found = guesses.picture(seen.dims, wishes) if values.ndim == 4 else None
    typed = seen.dtype in ("uint8", "float32", "float16")
    return typed and found is not None and found.channels in (1, 3) and guesses.MEANS.search(seen.word) is None


def _role_of_one(seen: Seen, wishes: Wishes, taken: set[str], task: str) -> Role:
    """Return the role of an output with one number for each item."""
    if len(wishes.classes) == 2 and not taken and task != "score":
        return "logits", "one number for each item: the second of two classes"
    if taken:
        return None, f"one number, beside {', '.join(sorted(taken))}"
    plain = seen.name.isidentifier() and seen.name not in (
        "data",
        "mean",
        "log_variance",
        "codes",
        "features",
        "logits",
        "latent",
    )
    return (seen.name if plain else "score"), "one number for each item: a score"


def _check_scale(seen: Seen, values: Array) -> None:
    """Raise InvalidValue for numbers of classes that are neither logits nor probabilities that add up to 1."""
    if values.min() >= 0 and values.max() <= 1 and not _are_probabilities(values):
        raise InvalidValue(
            f"output {seen}: its values are between 0 and 1 but do not add up to 1, as those of a sigmoid; /classify needs logits, or probabilities that "
            f"add up to 1: export the logits, or state --output {cut(seen.name)}=features",
            field=seen.name,
        )


def _role_of_many(seen: Seen, values: Array, wishes: Wishes, taken: set[str], task: str, latent: int | None) -> Role:
    """Return the role of an output with several numbers for each item. `latent` is how many numbers the latent has, if that is known."""
    size = int(np.prod(values.shape[1:]))
    if guesses.VARIANCES.search(seen.word) and "mean" in taken:
        return "log_variance", "by its name"
    if guesses.MEANS.search(seen.word) and "mean" not in taken:
        return "mean", "by its name"
    if task == "encode" and not {"mean", "log_variance"} <= taken:
        return ("log_variance" if "mean" in taken else "mean"), "the task encode is stated"
    if "mean" not in taken and task != "features" and size == latent:
        return "mean", "as many numbers as the latent has"
    if guesses.LOGITS.search(seen.word) or (values.ndim == 2 and _are_probabilities(values)):
        return None, f"it looks like {size} classes; give --classes {size}, or their names"
    if wishes.spec is not None and guesses.holds_rows(seen, wishes.spec) and task != "features":
        return None, ITEMS
    if not {"mean", "features"} & taken:
        both = latent is not None and size == 2 * latent
        advice = (
            "; if it holds mean and log-variance of the latent, let the graph return them as two outputs"
            if both
            else ""
        )
        return "features", f"numbers for each item{advice}"
    if size == latent and "log_variance" not in taken and "mean" in taken:
        advice = f"if it is the log-variance, give --output {cut(seen.name)}=log_variance"
        return None, f"as many numbers as the latent has; {advice}"
    return None, "further numbers"


def _size(latent: Mapping[str, Any]) -> int | None:
    """Return how many numbers a latent of the section `latent` has; None if there is none, or several."""
    if isinstance(size := latent.get("size"), int):
        return size
    return int(np.prod(latent["shape"])) if isinstance(latent.get("shape"), list) else None


def _output(seen: Seen, role: str, values: Array, wishes: Wishes, made: Guess) -> dict[str, Any]:
    shape = list(values.shape[1:])
    long = [size for size in shape if size > 1]
    if role == "mean":
        shape = long if len(long) == 1 else shape
        made.sections["latent"] = {"size": shape[0]} if len(shape) == 1 else {"shape": shape}
    elif role == "codes":
        made.sections["codes"] = {"shape": shape, "levels": wishes.levels}
    elif len(long) <= 1 and role != "features":
        shape = long
    content, tensor = guesses.tensor(role, seen, shape)
    if role == "logits" and not long:
        return {**content, "shape": [2], "in_graph": _binary_form(seen, values, wishes, made)}
    form = guesses.form_of(tensor, seen, None)
    if role == "logits" and _are_probabilities(values):
        form["activation"] = "log"
        made.lines.append("  the values of a trial run are probabilities; their logarithm is used as logits")
    if wishes.negate and not long:
        form["negate"] = True
    return guesses.with_form(content, form)


def _binary_form(seen: Seen, values: Array, wishes: Wishes, made: Guess) -> dict[str, Any]:
    """Return `in_graph` of the logit or the probability of the second of two classes."""
    smallest, largest = float(values.min()), float(values.max())
    logit = smallest < 0 or largest > 1 or wishes.activation == "sigmoid" or "logit" in seen.word.lower()
    what = "its logit" if logit else "its probability; --activation sigmoid states that it is a logit"
    made.lines.append(f"  the number of a trial run goes from {smallest:.3g} to {largest:.3g}: {what}")
    form: dict[str, Any] = {"activation": "binary" if logit else "binary_log"}
    if seen.dtype != "float32":
        form["dtype"] = seen.dtype
    if values.ndim > 1:
        form["shape"] = list(values.shape[1:])
    elif values.ndim == 0:
        form["batch_axis"] = "none"
    return form


def _are_probabilities(values: Array) -> bool:
    rows = values.reshape(len(values), -1).astype(np.float64)
    return bool((rows >= 0).all() and np.allclose(rows.sum(1), 1, atol=1e-3))
