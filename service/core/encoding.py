"""Answers as bytes: JSON, a picture, or an array. Chosen by Accept."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import orjson

from manifold.runtime import codecs, kinds
from manifold.runtime.errors import UnsupportedMedia, cut
from manifold.runtime.kinds.base import Recipes
from manifold.service.aside import JSON as JSON_WORK
from manifold.service.core.answers import UseCaseResult

JSON = "application/json"
NUMBERS = (JSON, codecs.NPY)
PICTURES = (JSON, *kinds.media_types(), codecs.NPY)
ITEM = 30 * 1024  # bytes (service.aside) for an image or a row of an answer, beside its numbers
LISTED = 512  # ... for an entry of a list, as JSON
OPTIONS = orjson.OPT_SERIALIZE_NUMPY


@lru_cache(maxsize=256)
def choose(accept: str, offered: tuple[str, ...]) -> str:
    """The one of the media types `offered` to answer with. Raises UnsupportedMedia where none of those asked for is."""
    wanted: list[tuple[float, int, str]] = []
    for place, part in enumerate((accept.strip() or "*/*").split(",")):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        if quality > 0 and name:
            wanted.append((-quality, place, name.lower()))
    for _, _, name in sorted(wanted):
        for media_type in offered:
            if name in (media_type, "*/*") or (name.endswith("/*") and media_type.startswith(name[:-1])):
                return media_type
    raise UnsupportedMedia(f"Accept: {cut(accept)} is not offered", field="Accept", valid=offered)


def to_fields(
    answer: UseCaseResult, request_id: str, *, picture: Callable[[bytes], Any] = codecs.to_base64
) -> dict[str, Any]:
    """The answer as its contract has it, numpy arrays inside; `timing` is left to the caller. `picture` is what becomes of a PNG.

    The items of a model with several outputs are under `items`, by role.
    """
    body = {"model": answer.entry.name, "version": answer.entry.version, "request_id": request_id, **answer.fields}
    if answer.items is None:
        return body
    manifest, recipes = answer.manifest, answer.recipes
    if len(manifest.items) == 1:
        return body | manifest.spec.write(answer.items, answer.encoding, recipes, picture)
    body["items"] = {manifest.main: manifest.spec.write(answer.items, answer.encoding, recipes, picture)}
    for role, items in answer.others.items():
        own = None if recipes is None else partial(_of_output, recipes, role)
        body["items"][role] = manifest.spec_of(role).write(items, answer.encoding, own, picture)
    return body


def _of_output(recipes: Recipes, role: str) -> list[dict[str, Any]]:
    """Return the recipes of the items of one output of several."""
    return [{**recipe, "output": role} for recipe in recipes()]


def dumps(body: Any) -> bytes:
    """JSON bytes."""
    return orjson.dumps(body, option=OPTIONS)


def to_picture(answer: UseCaseResult, media_type: str) -> bytes:
    """Return the items as one file. Raises UnsupportedMedia if the answer has no items that can be written so."""
    if answer.items is None or media_type not in answer.manifest.spec.wire.media_types:
        raise UnsupportedMedia("Accept: this answer holds no images", field="Accept", valid=[JSON, codecs.NPY])
    return answer.manifest.spec.write_file(answer.items, media_type, answer.recipes)


def to_npy(answer: UseCaseResult) -> bytes:
    """Return the items as numbers, such as images float32 (n, C, H, W) in [0, 1]; else posterior means or draws, codes, or scores."""
    if answer.items is None:
        assert answer.numbers is not None
        return codecs.to_npy(answer.numbers)
    return codecs.to_npy(answer.manifest.spec.write_array(answer.items))


def work(answer: UseCaseResult, listed: float = LISTED) -> float:
    """Return the work of writing the answer, in bytes (service.aside). `listed` is for an entry of a list."""
    arrays = sum(value.nbytes for value in answer.fields.values() if isinstance(value, np.ndarray))
    lists = max((len(value) for value in answer.fields.values() if isinstance(value, list)), default=0)
    if answer.items is None:
        return JSON_WORK * arrays + listed * lists
    # pictures where they may be: the numbers alone are written faster, and rarely many
    outputs = [answer.items, *answer.others.values()]
    return JSON_WORK * arrays + max(listed * lists, sum(max(ITEM * len(items), items.nbytes) for items in outputs))
