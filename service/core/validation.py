"""The check of a request's fields against its contract. The first problem that pydantic finds becomes an error in this project's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from manifold.runtime import problems
from manifold.runtime.errors import InvalidValue, cut
from manifold.service.core.contract import BaseRequest, SolverRequest

R = TypeVar("R", bound=BaseModel)


def validate(shape: type[R], fields: Any) -> R:
    """Return the fields as the contract's record. Raise InvalidValue for the first wrong field, with the valid values."""
    if len(fields) > len(shape.model_fields):  # pydantic would make an error of each unknown field
        unknown = next((name for name in fields if name not in {*_names(shape), *shape.model_fields}), None)
        if unknown is not None:
            raise _unknown(unknown, unknown, _names(shape))
    try:
        return shape.model_validate(fields)
    except ValidationError as error:
        raise _explain(error, shape, fields) from None


def _explain(error: ValidationError, shape: type[BaseModel], fields: Any) -> InvalidValue:
    """Return the first problem as an error of this project. For a field with several valid types, report the most deeply nested problem."""
    found = [(_path(problem, fields), problem) for problem in error.errors(include_url=False)]
    found.sort(key=lambda each: each[1]["type"] == "missing")  # a missing field may be one with a misspelt name
    first = found[0][0]
    path = max((each for each, _ in found if each[: len(first)] == first), key=len)
    here = [problem for each, problem in found if each == path]
    problem, field = here[0], problems.place(path)
    if problem["type"] == "extra_forbidden":
        return _unknown(field, path[-1], problems.names_at(shape, problem["loc"]))
    kinds = list(dict.fromkeys(problems.NEEDED[each["type"]] for each in here if each["type"] in problems.NEEDED))
    if kinds and not (len(kinds) == 1 and problems.is_huge(problem)):
        said = problems.needed(kinds, problem["input"], problems.types_at(shape, problem["loc"]))
    else:
        said = problems.sentence(problem)
    return InvalidValue(f"{cut(field)}: {said}", field=field, valid=problems.choices(problem))


def _path(problem: Any, fields: Any) -> tuple[str | int, ...]:
    """Return the path of a problem within the fields that were sent, without the type names that pydantic inserts."""
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


def _unknown(field: str, name: object, valid: list[str]) -> InvalidValue:
    if "inputs" in valid and name in SolverRequest.model_fields.keys() - BaseRequest.model_fields.keys():
        message = (
            f'{field}: this request takes it under inputs, as {{"inputs": {{"{name}": 4}}}}, if the model has such an input; '
            "else remove it"
        )
        return InvalidValue(message, field=field, valid=valid)
    return InvalidValue(f"{cut(field)}: {problems.unknown(str(name), valid)}", field=field, valid=valid or None)
