"""Errors of the library in the words of its users: names of arguments and methods instead of the fields and paths of the service."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from manifold.runtime.errors import RequestError, UnsupportedTask, nearest

P = ParamSpec("P")
R = TypeVar("R")
# arguments by the first part of the field that the use cases name; `class` is the argument that the user gave
ARGUMENTS = {
    "class": "classes", "conditions": "condition", "inputs": "numbers", "from": "start", "to": "stop", "target_class": "target",
    "target_condition": "target", "target_conditions": "target",
}  # fmt: skip
# arguments by the names that the Python client has for them
OF_THE_CLIENT = {
    "class_": "classes", "images": "items", "image": "items", "rows": "items", "row": "items", "data": "items", "named_latents": "latents",
}  # fmt: skip
OF_CONDITIONS = ("classes", "condition", "target")
FIRST = re.compile(r"\w+")
PATH = re.compile(r"(?<![\w./])/([a-z]+(?:-[a-z]+)*)")  # an endpoint, such as /anomaly-score


def in_library_terms(method: Callable[P, R]) -> Callable[P, R]:
    """Return the method, whose errors name its own arguments. A misspelt argument is a TypeError that suggests the nearest name."""
    names = [name for name in inspect.signature(method).parameters if name != "self"]

    @functools.wraps(method)
    def called(*arguments: P.args, **fields: P.kwargs) -> R:
        for name in fields:
            if name not in names:
                hint = _hint(name, names, arguments[0] if arguments else None)
                raise TypeError(f"{method.__name__}() got an unexpected keyword argument {name!r}; {hint}")
        try:
            return method(*arguments, **fields)
        except RequestError as error:
            raise _renamed(error, names, fields.get("condition") is not None) from None

    return called


def _hint(name: str, names: Sequence[str], model: object) -> str:
    """Return what to do about an argument that a method of a model does not have."""
    meant = ARGUMENTS.get(name) or OF_THE_CLIENT.get(name)
    near = [meant] if meant in names else nearest(name, names)
    if not near:
        return f"its arguments are {', '.join(names)}"
    manifest = getattr(model, "manifest", None)
    if near[0] in OF_CONDITIONS and manifest is not None and not manifest.conditioned:
        return f"{manifest.name} {'has no classes' if near[0] == 'classes' else 'takes no condition'}; remove it"
    return f"did you mean {near[0]}?"


def _renamed(error: RequestError, names: Sequence[str], with_condition: bool) -> RequestError:
    """Return the error with the names of arguments and methods. `names` are the arguments of the method, which keep their names.

    `with_condition` tells whether the class was given as `condition`.
    """
    message, field, valid = error.message, error.field, error.valid
    if isinstance(error, UnsupportedTask):
        message = PATH.sub(lambda found: found[1].replace("-", "_"), message)
        valid = None if valid is None else [str(each).replace("-", "_") for each in valid]
    if (
        field is not None
        and (first := FIRST.match(field)) is not None
        and first[0] in ARGUMENTS
        and first[0] not in names
    ):
        old = first[0]
        new = "condition" if old == "class" and with_condition else ARGUMENTS[old]
        if message.startswith(old):
            message = f"{new}{message.removeprefix(old)}"
        field = f"{new}{field.removeprefix(old)}"
    if (message, field, valid) == (error.message, error.field, error.valid):
        return error
    return type(error)(message, field=field, valid=valid)
