"""The errors of pydantic as plain sentences. No text of pydantic reaches a user: every place that reports a ValidationError uses this module."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import inf, isfinite
from typing import Any

from manifold.runtime.errors import ECHOED, cut, shown

Problem = Mapping[str, Any]  # one entry of ValidationError.errors()

HUGE = 2**63  # JSON integers from here on arrive as floats
KEY = "[key]"  # the end of pydantic's path for a problem with the name of a field, not with its value

BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")  # NaN and infinity break them, too

# types of pydantic's errors that mean "a value of another type is needed": the type that is needed
NEEDED = {
    "string_type": "a text", "string_sub_type": "a text", "string_unicode": "a text in UTF-8",
    "int_type": "an integer", "int_parsing": "an integer", "int_parsing_size": "an integer with fewer digits", "int_from_float": "an integer",
    "float_type": "a number", "float_parsing": "a number", "decimal_type": "a number", "decimal_parsing": "a number",
    "bool_type": "true or false", "bool_parsing": "true or false",
    "list_type": "an array", "tuple_type": "an array", "set_type": "an array", "frozen_set_type": "an array", "iterable_type": "an array",
    "dict_type": "an object", "mapping_type": "an object", "model_type": "an object", "model_attributes_type": "an object",
    "dataclass_type": "an object", "bytes_type": "bytes", "path_type": "a path", "json_type": "JSON text",
    "none_required": "null", "finite_number": "a finite number", "string_not_ascii": "a text of ASCII characters",
}  # fmt: skip


def sentence(problem: Problem, *, secret: bool = False) -> str:
    """Return what is wrong with a value and what to do, without the name of its field. `secret` values are not repeated."""
    value = "this value" if secret else word(problem.get("input"))
    kind, context = str(problem["type"]), problem.get("ctx") or {}
    if is_huge(problem):
        return f"{value} is too {'large; use a smaller' if problem['input'] > 0 else 'small; use a larger'} integer"
    if kind in NEEDED:
        return f"{NEEDED[kind]} is needed" if secret else f"{NEEDED[kind]} is needed, not {value}"
    if kind in ("value_error", "assertion_error") and context.get("error") is not None:
        return str(context["error"])  # raised by a validator of this project, in its own words
    if kind in BOUNDS and isinstance(number := _float(problem.get("input")), float) and not isfinite(number):
        return sentence({**problem, "type": "finite_number"}, secret=secret)
    if problem.get("loc", ())[-1:] == (KEY,):
        value = f"the name {value}"
    write = _WRITERS.get(kind)
    try:
        return f"{value} is not valid here; correct it or remove it" if write is None else write(value, context)
    except (KeyError, TypeError, ValueError):  # a later version of pydantic may state less
        return f"{value} is not valid here; correct it or remove it"


def _float(value: Any) -> float | None:
    """Return a value as the number that pydantic reads from it; None if it is no number."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def is_huge(problem: Problem) -> bool:
    """Return whether the value is an integer that is only too large: it was sent with all its digits, but arrives as a float."""
    value = problem.get("input")
    needs_integer = NEEDED.get(str(problem["type"]), "").startswith("an integer")
    return needs_integer and isinstance(value, int | float) and not isinstance(value, bool) and HUGE <= abs(value) < inf


def word(value: Any) -> str:
    """Return a value as JSON writes it, if it is null, true or false; else as messages repeat it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else shown(value)


def choices(problem: Problem) -> list[str] | None:
    """Return the values that a field accepts, if the error lists them."""
    context = problem.get("ctx") or {}
    expected = context.get("expected", context.get("expected_tags"))
    return re.findall(r"'([^']*)'", expected) or None if isinstance(expected, str) else None


def _number(bound: Any) -> str:
    """Return a bound as people write it: 1 for 1.0, and every digit of a large integer."""
    return str(int(bound)) if isinstance(bound, float) and bound.is_integer() else str(bound)


def _listed(value: str, context: Mapping[str, Any]) -> str:
    names = choices({"ctx": context}) or [str(context["expected"])]
    return f"{value} is unknown; use {'one of ' if len(names) > 1 else ''}{cut(', '.join(names), 300)}"


def _length(value: str, context: Mapping[str, Any], bound: str) -> str:
    most = bound == "max_length"
    given = context.get("actual_length")
    has = f"has {given} entries" if given is not None else f"{value} has too {'many' if most else 'few'} entries"
    return f"{has}; {'at most' if most else 'at least'} {context[bound]} are needed"


def _json(value: str, context: Mapping[str, Any]) -> str:
    place = re.search(r"line (\d+) column (\d+)", str(context.get("error", "")))
    return f"the text is not valid JSON{f' (line {place[1]}, column {place[2]})' if place else ''}; correct it"


def _tag(value: str, context: Mapping[str, Any]) -> str:
    names = choices({"ctx": context}) or []
    return f"{context['discriminator']} {shown(context['tag'])} is unknown; use one of {cut(', '.join(names), 300)}"


# other types of pydantic's errors: the sentence, from the value and what the error states about its bounds
_WRITERS: dict[str, Callable[[str, Mapping[str, Any]], str]] = {
    "missing": lambda value, context: "is missing; add it",
    "missing_argument": lambda value, context: "is missing; add it",
    "missing_keyword_only_argument": lambda value, context: "is missing; add it",
    "extra_forbidden": lambda value, context: "unknown field; remove it or correct its name",
    "no_such_attribute": lambda value, context: "unknown field; remove it or correct its name",
    "unexpected_keyword_argument": lambda value, context: "unknown field; remove it or correct its name",
    "frozen_field": lambda value, context: "cannot be changed; make a new object",
    "frozen_instance": lambda value, context: "cannot be changed; make a new object",
    "invalid_key": lambda value, context: f"{value}: names of fields are texts; write a text",
    "greater_than": lambda value, context: f"{value} is too small; use a value above {_number(context['gt'])}",
    "greater_than_equal": lambda value, context: f"{value} is too small; use {_number(context['ge'])} or more",
    "less_than": lambda value, context: f"{value} is too large; use a value below {_number(context['lt'])}",
    "less_than_equal": lambda value, context: f"{value} is too large; use {_number(context['le'])} or less",
    "multiple_of": lambda value, context: f"{value} is not a multiple of {_number(context['multiple_of'])}; use one",
    "literal_error": _listed,
    "enum": _listed,
    "too_short": lambda value, context: _length(value, context, "min_length"),
    "too_long": lambda value, context: _length(value, context, "max_length"),
    "string_too_short": lambda value, context: f"{value} is too short; use {context['min_length']} characters or more",
    "string_too_long": lambda value, context: f"{value} is too long; use {context['max_length']} characters or fewer",
    "bytes_too_short": lambda value, context: f"{value} is too short; use {context['min_length']} bytes or more",
    "bytes_too_long": lambda value, context: f"{value} is too long; use {context['max_length']} bytes or fewer",
    "string_pattern_mismatch": lambda value, context: (
        f"{value} does not match the pattern {cut(str(context['pattern']), ECHOED)}; use a text that does"
    ),
    "union_tag_invalid": _tag,
    "union_tag_not_found": lambda value, context: f"its {context['discriminator']} is missing; add it",
    "json_invalid": _json,
    "path_not_file": lambda value, context: f"{value} is not a file; give the path of a file",
    "path_not_directory": lambda value, context: f"{value} is not a folder; give the path of a folder",
    "path_exists": lambda value, context: f"{value} does not exist; give the path of what exists",
}
