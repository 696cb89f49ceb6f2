"""Checks of the names of arguments, before anything is sent."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from manifold_client.errors import InvalidType, unknown

P = ParamSpec("P")
R = TypeVar("R")


def checked(method: Callable[P, R]) -> Callable[P, R]:
    """Wrap a method so that it raises InvalidType for unknown arguments. The error suggests the nearest name."""
    signature = inspect.signature(method)
    names = [name for name in signature.parameters if name != "self"]
    # a constructor is known by the name of its class
    said = method.__qualname__.split(".")[-2] if method.__name__ == "__init__" else method.__name__

    def check(arguments: tuple[object, ...], fields: dict[str, object]) -> None:
        for name in fields:
            if name not in names:
                raise InvalidType(unknown(name, names, said), field=name, valid=names)
        try:
            signature.bind(*arguments, **fields)
        except TypeError as error:
            raise InvalidType(f"{said}: {error}; its arguments are {', '.join(names)}") from None

    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def awaited(*arguments: P.args, **fields: P.kwargs) -> object:
            check(arguments, fields)
            return await method(*arguments, **fields)

        return cast(Callable[P, R], awaited)

    @functools.wraps(method)
    def called(*arguments: P.args, **fields: P.kwargs) -> R:
        check(arguments, fields)
        return method(*arguments, **fields)

    return called
