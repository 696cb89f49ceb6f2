"""The check of a request's fields against its contract, with pydantic's first complaint as an error of this project."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from manifold.runtime.errors import InvalidValue, cut, shown

# pydantic's complaints about the type of a value, as what is needed instead
TYPES = {
    "string_type": "a text", "int_type": "an integer", "float_type": "a number", "bool_type": "true or false", "list_type": "an array",
    "dict_type": "an object", "model_type": "an object", "model_attributes_type": "an object",
}  # fmt: skip

R = TypeVar("R", bound=BaseModel)


def validate(shape: type[R], fields: Any) -> R:
    """Return the fields as the contract's record. Raise InvalidValue for the first wrong field, with the valid values."""
    if len(fields) > len(shape.model_fields):  # pydantic would make an error of each unknown field
        unknown = next((name for name in fields if name not in {*_names(shape), *shape.model_fields}), None)
        if unknown is not None:
            raise _unknown(unknown, _names(shape))
    try:
        return shape.model_validate(fields)
    except ValidationError as error:
        raise _explain(error, shape, fields) from None


def _explain(error: ValidationError, shape: type[BaseModel], fields: Any) -> InvalidValue:
    """Return pydantic's first complaint as an error of this project: of a field with several legal types, what lies deepest in it."""
    problems = [(_path(problem, fields), problem) for problem in error.errors(include_url=False)]
    first = problems[0][0]
    path = max((each for each, _ in problems if each[: len(first)] == first), key=len)
    here = [problem for each, problem in problems if each == path]
    problem, field = here[0], ".".join(map(str, path))
    if problem["type"] == "extra_forbidden":
        return _unknown(field, _names(shape) if len(path) == 1 else None)
    if problem["type"] == "missing":
        return InvalidValue(f"{cut(field)}: is missing", field=field)
    valid = _literals(problem.get("ctx", {}))
    given = problem["input"]
    if needed := list(dict.fromkeys(TYPES[each["type"]] for each in here if each["type"] in TYPES)):
        return InvalidValue(
            f"{cut(field)}: {' or '.join(needed)} is needed, not {_word(given)}", field=field, valid=valid
        )
    repeated = (
        f" (given {given!r})" if isinstance(given, str | int | float | bool | None) and len(str(given)) < 60 else ""
    )
    return InvalidValue(f"{cut(field)}: {cut(problem['msg'], 300)}{repeated}", field=field, valid=valid)


def _word(value: Any) -> str:
    """Return a value as JSON writes it, if it is null, true or false; else as messages repeat it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else shown(value)


def _path(problem: Any, fields: Any) -> tuple[str | int, ...]:
    """Return the path of a complaint within the fields that were sent, without the names of types that pydantic puts between."""
    path: list[str | int] = []
    at = fields
    for place, part in enumerate(problem["loc"]):
        if (isinstance(at, Mapping) and part in at) or (isinstance(at, list) and isinstance(part, int)):
            at = at[part]
        elif problem["type"] != "missing" or place < len(problem["loc"]) - 1:
            continue
        path.append(part)
    return tuple(path)


def _names(shape: type[BaseModel]) -> list[str]:
    """Return the names of the fields, as clients write them."""
    return [info.alias or name for name, info in shape.model_fields.items()]


def _unknown(field: str, valid: list[str] | None) -> InvalidValue:
    return InvalidValue(f"{cut(field)}: unknown field", field=field, valid=valid)


def _literals(context: Mapping[str, Any]) -> list[str] | None:
    expected = context.get("expected")
    return (
        [word.strip("' ") for word in expected.replace(" or ", ", ").split(",")] if isinstance(expected, str) else None
    )
