"""The kinds of data, one module each: `kind` in a manifest is the name of the module. To add a kind, add its module.

    base     the interface
    image    grey and colour images
    table    rows of numbers and categories

The fields of requests and responses come from the kinds (`fields`).
"""

from __future__ import annotations

import functools
import importlib
import operator
import pkgutil
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import BaseModel, Field, create_model

from manifold.runtime.kinds.base import Evidence, Items, Kind, Reading, Wire

__all__ = ["DataSpec", "Evidence", "Items", "Kind", "Reading", "Wire", "every", "fields", "media_types"]


def _load() -> tuple[type[Kind], ...]:
    """Import all modules of this package and return the kinds that they define, sorted by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return tuple(sorted(Kind.__subclasses__(), key=lambda kind: kind.__module__))


every: tuple[type[Kind], ...] = _load()

if TYPE_CHECKING:
    DataSpec: TypeAlias = Kind
else:
    DataSpec = Annotated[functools.reduce(operator.or_, every), Field(discriminator="kind")]


def fields(part: str) -> Any:
    """Return a base class for messages with the fields of all kinds for one part of the wire format, such as `request`."""
    shapes = tuple(getattr(kind.wire, part) for kind in reversed(every))
    bases = tuple(shape for shape in dict.fromkeys(shapes) if shape.model_fields)
    return create_model(part.capitalize(), __base__=bases or (BaseModel,))


def media_types() -> tuple[str, ...]:
    """Return the media types in which at least one kind can write a response as one file."""
    return tuple(dict.fromkeys(media_type for kind in every for media_type in kind.wire.media_types))
