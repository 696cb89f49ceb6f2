"""Responses as bytes: JSON, a picture or an array, as the header Accept selects."""

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
ITEM = 30 * 1024  # cost of an image or a row of a response beside its numbers, in bytes (service.aside)
LISTED = 512  # cost of an entry of a list as JSON, in bytes
OPTIONS = orjson.OPT_SERIALIZE_NUMPY


@lru_cache(maxsize=256)
def choose(accept: str, offered: tuple[str, ...]) -> str:
    """Return the media type of the response: the most preferred of `accept` that is offered. Raise UnsupportedMedia if none is."""
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
    raise UnsupportedMedia(
        f"Accept: {cut(accept)} is not supported; use one of the valid types", field="Accept", valid=offered
    )


def to_fields(
    answer: UseCaseResult, request_id: str, *, picture: Callable[[bytes], Any] = codecs.to_base64
) -> dict[str, Any]:
    """Return the fields of a response, with numpy arrays in them and without `timing`. `picture` converts the bytes of a PNG.

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
    """Return the recipes of the items of one output, for a model with several."""
    return [{**recipe, "output": role} for recipe in recipes()]


def dumps(body: Any) -> bytes:
    """Return JSON bytes."""
    return orjson.dumps(body, option=OPTIONS)


def to_picture(answer: UseCaseResult, media_type: str) -> bytes:
    """Return the items as one picture. Raise UnsupportedMedia if the items are not images."""
    if answer.items is None or media_type not in answer.manifest.spec.wire.media_types:
        raise UnsupportedMedia(
            "Accept: this response contains no images; use one of the valid types",
            field="Accept",
            valid=[JSON, codecs.NPY],
        )
    return answer.manifest.spec.write_file(answer.items, media_type, answer.recipes)


def to_npy(answer: UseCaseResult) -> bytes:
    """Return the items as an array, such as images float32 (n, C, H, W) in [0, 1]. Without items: posterior means or draws, codes, or scores."""
    if answer.items is None:
        assert answer.numbers is not None
        return codecs.to_npy(answer.numbers)
    return codecs.to_npy(answer.manifest.spec.write_array(answer.items))


def work(answer: UseCaseResult, listed: float = LISTED) -> float:
    """Return the cost of writing the response, in bytes (service.aside). `listed` is the cost of an entry of a list."""
    arrays = sum(value.nbytes for value in answer.fields.values() if isinstance(value, np.ndarray))
    lists = max((len(value) for value in answer.fields.values() if isinstance(value, list)), default=0)
    if answer.items is None:
        return JSON_WORK * arrays + listed * lists
    # the cost of pictures is assumed: numbers alone are written faster
    outputs = [answer.items, *answer.others.values()]
    return JSON_WORK * arrays + max(listed * lists, sum(max(ITEM * len(items), items.nbytes) for items in outputs))
