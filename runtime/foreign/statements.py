"""The statements of the user that no guess has used. A statement without effect would hide a mistake, so it is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manifold.runtime.errors import InvalidValue
from manifold.runtime.foreign.guesses import Guess, Wishes


def check_used(found: Sequence[Guess], wishes: Wishes) -> None:
    """Raise InvalidValue for a statement without effect on any of the tasks."""
    inputs = [tensor for one in found for tensor in one.inputs]
    outputs = [tensor for one in found for tensor in one.outputs]
    forms: list[dict[str, Any]] = [tensor.get("in_graph", {}) for tensor in (*inputs, *outputs)]
    sources, roles = {tensor["source"] for tensor in inputs}, {tensor["role"] for tensor in outputs}
    data: Mapping[str, Any] = next((one.sections["data"] for one in found if "data" in one.sections), {})
    if wishes.classes and "condition" not in sources and "logits" not in roles:
        _refuse(
            "classes",
            f"no input takes a class, and no output has {len(wishes.classes)} numbers",
        )
    if wishes.levels is not None and "codes" not in sources and "codes" not in roles:
        _refuse("levels", "no input or output holds codes as whole numbers; for one-hot codes, export their indices")
    if wishes.negate is not None and not any(one.task == "score" for one in found):
        _refuse("negate" if wishes.negate else "keep-sign", "no output is a score")
    if wishes.missing and not any(tensor.get("missing") for tensor in inputs):
        _refuse("missing", "no input takes rows; give their columns, --columns FILE")
    if wishes.spec is not None:
        for option in ("range", "input_range", "input_mean", "size", "layout", "channels", "mean"):
            if getattr(wishes, option) is not None:
                _refuse(option.replace("_", "-"), "it is for images, and --columns states rows")
        if wishes.invert:
            _refuse("invert", "it is for images, and --columns states rows")
        if not data:
            _refuse("columns", "no input or output holds rows")
        _check_activation(forms, wishes)
        return
    if wishes.size is not None and (have := (data.get("height"), data.get("width"))) != wishes.size:
        _refuse(
            "size",
            "no input or output holds images"
            if have[0] is None
            else f"the images of the graph have {have[0]} rows and {have[1]} columns",
        )
    if (
        wishes.layout not in (None, "NCHW")
        and not any("layout" in form for form in forms)
        and data.get("channels") != 1
    ):
        _refuse("layout", f"no input or output has the axes {wishes.layout}")
    if wishes.channels is not None and not any("channels" in form for form in forms):
        _refuse("channels", "no input or output holds images")
    images = {"data"} & sources and data
    if images and wishes.mean is not None and wishes.input_mean is None and any(one.doubtful for one in found):
        raise InvalidValue(
            "--mean: the images that a graph makes do not look like pixels with this mean and standard deviation; if they are those of the inputs, give "
            "--input-mean and --input-std instead; if they are those of both, give all four",
            field="mean",
        )
    if (wishes.input_range is not None or wishes.input_mean is not None) and not images:
        _refuse("input-range" if wishes.input_range is not None else "input-mean", "no input takes images")
    for option in ("mean", "invert"):
        if getattr(wishes, option) and not any(option in form for form in forms):
            _refuse(option, "no input or output holds images")
    if wishes.range is not None and wishes.of_inputs is not wishes and not roles & {"data"}:
        _refuse("range", "--input-range or --input-mean replaces it, and no output holds images")
    _check_activation(forms, wishes)


def _check_activation(forms: Sequence[Mapping[str, Any]], wishes: Wishes) -> None:
    """Raise InvalidValue if no output has the stated activation. That of a binary classifier states that its number is a logit."""
    made = {form.get("activation") for form in forms}
    if (
        wishes.activation is not None
        and wishes.activation not in made
        and not (wishes.activation == "sigmoid" and "binary" in made)
    ):
        _refuse("activation", "no output holds images, or the logit of two classes")


def _refuse(option: str, why: str) -> None:
    raise InvalidValue(f"--{option}: it has no effect: {why}; remove or correct it", field=option)
