"""The recipe of a training, which is its options. pydantic checks them, and this file writes the error texts: key, value, valid values."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from manifold.runtime.errors import cut, shown
from manifold.training.errors import TrainingError

Size = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]

KINDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}
BOUNDS = {  # by pydantic's error type: the key of the bound, and the rule that the value breaks
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "greater than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


def without_blanks(values: Any) -> Any:
    """Return a list of names without empty ones, as older runs wrote an empty list as [""]."""
    return tuple(value for value in values if value != "") if isinstance(values, tuple) else values


WithoutBlanks = BeforeValidator(without_blanks)  # for fields that are lists of names


class Recipe(BaseModel):
    """The options of every family. A family's `Config` adds its own. Unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, ser_json_inf_nan="constants")

    epochs: int = Field(10, ge=1)
    epoch_steps: int = Field(0, ge=0)  # steps per epoch; 0: one pass over the data, which is short for a small table
    batch_size: int = Field(128, ge=1)
    # adam: AdamW (Loshchilov and Hutter, 2017); sgd; adagrad (Duchi et al., 2011). The last two need a larger lr than adam: about 0.1 to 0.3
    # and 0.03, as clip_norm bounds the gradient
    optimizer: Literal["adam", "sgd", "adagrad"] = "adam"
    lr: float = Field(1e-3, gt=0)  # learning rate
    momentum: float = Field(0.0, ge=0, lt=1)  # share of the last step that is added to the next one, for sgd
    schedule: Literal["constant", "cosine"] = (
        "constant"  # cosine: lr decreases to a hundredth of its value over the phase
    )
    clip_norm: float = Field(1.0, ge=0)  # largest norm of the gradient; 0 is off
    ema: float = Field(0.999, ge=0, lt=1)  # decay of the moving average of the weights, which is exported; 0 is off
    # decay of a second moving average; 0: none. At the end, the one with the lower loss on the selection split is kept as the model
    ema_second: float = Field(0.0, ge=0, lt=1)
    stored: Literal["float32", "float16"] = "float32"  # precision of stored weights; they are rounded before evaluation
    test_items: int = Field(
        10_000, ge=1
    )  # largest number of held-out items for the curve of the loss, of the selection split
    seed: int = Field(0, ge=0)

    @model_validator(mode="wrap")
    @classmethod
    def _worded(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Read JSON lists as tuples, and raise TrainingError for the first invalid value."""
        if isinstance(values, Mapping):
            values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
            _check_bits(values)
        try:
            made = handler(values)
        except ValidationError as error:
            raise _error(cls, values, error) from None
        if made.ema_second and made.ema_second == made.ema:
            raise TrainingError(
                f"ema_second: {made.ema_second:g} is the decay `ema` too; give another one, or 0 for none",
                field="ema_second",
            )
        if made.momentum and made.optimizer != "sgd":
            raise TrainingError(
                f"momentum: has no effect on the optimizer {made.optimizer}; remove it, or choose optimizer=sgd",
                field="momentum",
            )
        return made

    def refuse_without_adam(self, *names: str) -> None:
        """Raise TrainingError if one of these options is not its default although the optimizer is not Adam, without which it has no effect."""
        for name in names if self.optimizer != "adam" else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise TrainingError(
                    f"{name}: only for steps of Adam; remove it, or choose optimizer=adam instead of {self.optimizer}",
                    field=name,
                )

    def changed(self, **changes: Any) -> Self:
        """Return a copy of the recipe with these options. Raises TrainingError for invalid values."""
        return type(self)(**{**dict(self), **changes})


RecipeType = TypeVar("RecipeType", bound=Recipe)


def changed_preset(cls: type[RecipeType], preset: Mapping[str, Any], settings: Sequence[str]) -> RecipeType:
    """Return a preset with the changes of `key=value` pairs. Values are read as JSON if possible. Raises TrainingError for invalid ones."""
    values = dict(preset)
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            raise TrainingError(
                f"--set {shown(setting)}: not of the form KEY=VALUE; write it as --set epochs=5", field=key
            )
        try:
            values[key] = json.loads(text.lower() if text in ("True", "False") else text)
        except json.JSONDecodeError:
            values[key] = text
    return cls(**values)


def _check_bits(values: Mapping[str, Any]) -> None:
    """Raise TrainingError for a whole number that does not fit into 64 bits, as in torch and safetensors."""
    for key, value in values.items():
        for each in value if isinstance(value, tuple) else [value]:
            if isinstance(each, int) and not -(2**63) <= each < 2**63:
                raise TrainingError(
                    f"{key}: {shown(each)} is too large; use a whole number of at most 64 bits", field=key
                )


def _error(cls: type[Recipe], values: Any, error: ValidationError) -> TrainingError:
    """Return the error for the first problem that pydantic found."""
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return TrainingError(f"config: {shown(values)} is not an object with options")
    key, value, kind = str(first["loc"][0]), first["input"], first["type"]
    if kind == "extra_forbidden":
        valid = list(cls.model_fields)
        return TrainingError(f"{cut(key)}: unknown option; valid are {', '.join(valid)}", field=key, valid=valid)
    annotation = cls.model_fields[key].annotation
    if kind == "literal_error":
        valid = list(_choices(annotation))
        return TrainingError(
            f"{key}: unknown value {shown(value)}; valid are {', '.join(valid)}", field=key, valid=valid
        )
    if kind in BOUNDS:
        bound, rule = BOUNDS[kind]
        return TrainingError(f"{key}: {shown(value)} must be {rule} {first['ctx'][bound]:g}", field=key)
    if kind in ("too_short", "too_long"):
        length = first["ctx"]["min_length" if kind == "too_short" else "max_length"]
        most = "at least" if kind == "too_short" else "at most"
        return TrainingError(
            f"{key}: {shown(list(value))} has {len(value)} entries; it must have {most} {length}", field=key
        )
    whole = values[key]
    return TrainingError(
        f"{key}: {shown(list(whole) if isinstance(whole, tuple) else whole)} must be {_kind(annotation)}", field=key
    )


def _choices(annotation: Any) -> Iterator[str]:
    """Yield the values of the Literals in an annotation."""
    for part in typing.get_args(annotation):
        if isinstance(part, str):
            yield part
        elif part is not Ellipsis:
            yield from _choices(part)


def _kind(annotation: Any) -> str:
    """Return the description of an annotation's type for error texts."""
    if typing.get_origin(annotation) is tuple:
        item = typing.get_args(annotation)[0]
        while typing.get_origin(item) is Annotated:
            item = typing.get_args(item)[0]
        return f"a list of {KINDS.get(item, 'text')}s"
    name = KINDS.get(annotation, "text")
    return name if annotation is bool else f"a {name}"
