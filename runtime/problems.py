"""The errors of pydantic as plain sentences. No text of pydantic reaches a user: every place that reports a ValidationError uses this module."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf, isfinite
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Tag

from manifold.runtime.errors import ECHOED, as_json, cut, near, shown

Problem = Mapping[str, Any]  # one entry of ValidationError.errors()

HUGE = 2**63  # JSON integers from here on arrive as floats
TEXT, ARRAY = "a text", "an array"
LISTS, MAPPINGS = (list, tuple, set, frozenset, Sequence), (dict, Mapping)
KEY = "[key]"  # the end of pydantic's path for a problem with the name of a field, not with its value

BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")  # NaN and infinity break them, too

# types of pydantic's errors that mean "a value of another type is needed": the type that is needed
NEEDED = {
    "string_type": TEXT, "string_sub_type": TEXT, "string_unicode": "a text in UTF-8",
    "int_type": "an integer", "int_parsing": "an integer", "int_parsing_size": "an integer with fewer digits", "int_from_float": "an integer",
    "float_type": "a number", "float_parsing": "a number", "decimal_type": "a number", "decimal_parsing": "a number",
    "bool_type": "true or false", "bool_parsing": "true or false",
    "list_type": ARRAY, "tuple_type": ARRAY, "set_type": ARRAY, "frozen_set_type": ARRAY, "iterable_type": ARRAY,
    "dict_type": "an object", "mapping_type": "an object", "model_type": "an object", "model_attributes_type": "an object",
    "dataclass_type": "an object", "bytes_type": "bytes", "path_type": "a path", "json_type": "JSON text",
    "none_required": "null", "finite_number": "a finite number", "string_not_ascii": "a text of ASCII characters",
}  # fmt: skip


def place(path: Sequence[int | str]) -> str:
    """Return the path of a field as messages write it, such as rows[0].amount."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def unknown(name: str, names: Sequence[str]) -> str:
    """Return the sentence about an unknown field, with the nearest of the valid names."""
    return f"unknown field{near(name, names)}; remove it or correct its name"


def names_at(shape: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """Return the valid names beside the field at a path of pydantic, as users write them. Empty if they are not known."""
    models = [each for each in types_at(shape, path[:-1]) if _is_model(each)]
    return list(dict.fromkeys(info.alias or name for each in models for name, info in each.model_fields.items()))


def types_at(shape: type[BaseModel], path: Sequence[int | str]) -> list[Any]:
    """Return the types that a field at a path of pydantic may have, without unions."""
    return _walked(shape, path)[0]


def field_of(shape: type[BaseModel], problem: Problem) -> str:
    """Return the path of the field of a problem, without the names of types that pydantic inserts."""
    path = problem["loc"]
    unknown_name = problem["type"] == "extra_forbidden"
    return place([*_walked(shape, path[:-1])[1], path[-1]] if unknown_name else _walked(shape, path)[1])


def _walked(shape: type[BaseModel], path: Sequence[int | str]) -> tuple[list[Any], list[int | str]]:
    """Return the types at a path of pydantic, and the path without the names of types."""
    found: list[Any] = [shape]
    kept: list[int | str] = []
    for part in path:
        inside = [each for one in found for each in _inside(one, part)]
        if inside or isinstance(part, int):
            kept.append(part)
        found = inside or [each for one in found if _is_named(one, part) for each in _untagged(one)] or found
    return found, kept


def _is_model(shape: Any) -> bool:
    return isinstance(shape, type) and issubclass(shape, BaseModel)


def _inside(shape: Any, part: int | str) -> Iterator[Any]:
    """Yield the types of the value at a key, a field or an index of a type."""
    if _is_model(shape):
        for name, info in shape.model_fields.items():
            if part in (name, info.alias):
                yield from _plain(info.annotation)
    elif get_origin(shape) in MAPPINGS and isinstance(part, str):
        yield from _plain(get_args(shape)[1])
    elif get_origin(shape) in LISTS and isinstance(part, int):
        yield from _plain(get_args(shape)[0])


def _plain(annotation: Any) -> Iterator[Any]:
    """Yield the types in an annotation. A text keeps its annotation, which may name it, and so does a type with a tag."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated and arguments[0] is not str and not _tag_of(annotation):
        yield from _plain(arguments[0])
    elif origin in (Union, UnionType):
        for argument in arguments:
            yield from _plain(argument)
    else:
        yield annotation


def _untagged(shape: Any) -> Iterator[Any]:
    """Yield the types in a type that may have a tag."""
    if _tag_of(shape):
        yield from _plain(get_args(shape)[0])
    else:
        yield shape


def _tag_of(shape: Any) -> str | None:
    """Return the tag of one of the types of a union; None if it has none."""
    notes = get_args(shape)[1:] if get_origin(shape) is Annotated else ()
    return next((note.tag for note in notes if isinstance(note, Tag)), None)


def _is_named(shape: Any, part: int | str) -> bool:
    """Return whether pydantic gives a type the name `part`: its tag, the name of its class, or the value of its discriminator."""
    if not _is_model(shape):
        return _tag_of(shape) == part
    literals = [info.annotation for info in shape.model_fields.values() if get_origin(info.annotation) is Literal]
    return part == shape.__name__ or any(part in get_args(each) for each in literals)


def _text(types: Iterable[Any]) -> str | None:
    """Return what a text of one of the types is called, such as base64 string; None if no type is a text."""
    for each in types:
        if each is str:
            return "text"
        if get_origin(each) is Annotated:
            return next((info.title for info in get_args(each)[1:] if getattr(info, "title", None)), "text")
    return None


def sentence(problem: Problem, *, secret: bool = False) -> str:
    """Return what is wrong with a value and what to do, without the name of its field. `secret` values are not repeated."""
    value = "this value" if secret else word(problem.get("input"))
    kind, context = str(problem["type"]), problem.get("ctx") or {}
    if is_huge(problem):
        return f"{value} is too {'large; use a smaller' if problem['input'] > 0 else 'small; use a larger'} integer"
    if kind in NEEDED:
        return f"{NEEDED[kind]} is needed" if secret else needed([NEEDED[kind]], problem.get("input"))
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


def needed(kinds: Sequence[str], value: Any, types: Sequence[Any] = ()) -> str:
    """Return the sentence about a value of another type than needed. `types` are those that the field may have, if they are known."""
    entries = [entry for each in types if get_origin(each) in LISTS for entry in _inside(each, 0)]
    text, texts = _text(types), _text(entries)
    named = {TEXT: f"a {text or 'text'}", ARRAY: f"an array of {texts}s" if texts else ARRAY}
    said = f"{' or '.join(named.get(kind, kind) for kind in kinds)} is needed, not {word(value)}"
    if ARRAY in kinds and ((isinstance(value, str) and texts) or (isinstance(value, dict) and _has_objects(entries))):
        said += "; put a single item in brackets: [ITEM]"
    return said


def _has_objects(types: Iterable[Any]) -> bool:
    return any(_is_model(each) or get_origin(each) is dict for each in types)


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
    """Return a value as JSON writes it, cut for messages. A text is in single quotes, as in all messages."""
    return shown(value) if isinstance(value, str) else as_json(value)


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
