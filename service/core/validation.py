"""The check of a request's fields against its contract, with pydantic's first complaint as an error of this project."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from manifold.runtime.errors import InvalidValue, cut
from manifold.service.core import contract

R = TypeVar("R", bound=contract.BaseRequest)


def validate(shape: type[R], fields: Any) -> R:
    """Return the fields as the contract's record. Raise InvalidValue for the first wrong field, with the valid values."""
    if len(fields) > len(shape.model_fields):  # pydantic would make an error of each unknown field
        unknown = next((name for name in fields if name not in {*_names(shape), *shape.model_fields}), None)
        if unknown is not None:
            raise _unknown(unknown, _names(shape))
    try:
        return shape.model_validate(fields)
    except ValidationError as error:
        raise _explain(error, shape) from None


def _explain(error: ValidationError, shape: type[contract.BaseRequest]) -> InvalidValue:
    """Return pydantic's first complaint as an error of this project."""
    problem = error.errors(include_url=False)[0]
    path, kind = problem["loc"], problem["type"]
    field = ".".join(
        str(part)
        for part in path
        if not (isinstance(part, str) and ("[" in part or part in ("str", "constrained-str", "int", "dict", "list")))
    )
    if kind == "extra_forbidden":
        return _unknown(field, _names(shape) if len(path) == 1 else None)
    if kind == "missing":
        return InvalidValue(f"{cut(field)}: is missing", field=field)
    valid = _literals(problem.get("ctx", {}))
    given = problem["input"]
    shown = f" (given {given!r})" if isinstance(given, str | int | float | bool | None) and len(str(given)) < 60 else ""
    return InvalidValue(f"{cut(field)}: {cut(problem['msg'], 300)}{shown}", field=field, valid=valid)


def _names(shape: type[contract.BaseRequest]) -> list[str]:
    """Return the names of the fields, as clients write them."""
    return [info.alias or name for name, info in shape.model_fields.items()]


def _unknown(field: str, valid: list[str] | None) -> InvalidValue:
    return InvalidValue(f"{cut(field)}: unknown field", field=field, valid=valid)


def _literals(context: Mapping[str, Any]) -> list[str] | None:
    expected = context.get("expected")
    return (
        [word.strip("' ") for word in expected.replace(" or ", ", ").split(",")] if isinstance(expected, str) else None
    )
