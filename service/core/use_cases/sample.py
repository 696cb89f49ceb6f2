"""New items."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from manifold.runtime import conditions, inputs, operations, recipes
from manifold.runtime.conditions import of_items, tagged
from manifold.runtime.errors import InvalidValue, TooLarge
from manifold.runtime.inputs import check_seed
from manifold.runtime.manifest import Manifest
from manifold.runtime.manifest.conditions import Classes
from manifold.service.aside import ROW, aside
from manifold.service.core.answers import UseCaseResult
from manifold.service.core.contract import (
    CONDITION,
    ClassChoice,
    Condition,
    InputsRequest,
    Nested,
    OutputsResponse,
    SeededRequest,
    example,
)
from manifold.service.core.handling import Handling, first_latent, latent_fields
from manifold.service.core.reading import Uploads
from manifold.service.core.use_cases.base import UseCase
from manifold.service.models.entries import Entry

Array = NDArray[Any]
PART_SECONDS = 0.1  # of a stream


class SampleRequest(InputsRequest, SeededRequest):
    """New items."""

    model_config = example(seed=7, n=4)

    n: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="1, or as many as there are latents or codes"
    )
    latents: Nested | None = Field(default=None, description="[n][L]")
    named_latents: dict[str, Nested] | None = Field(
        default=None, description="instead, of models with several: by name"
    )
    codes: Nested | None = Field(default=None, description="[n][h][w]")
    class_: ClassChoice | None = Field(
        default=None, alias="class", description='name, index, list of n, "random", or weights by name'
    )
    condition: Nested | None = Field(default=None, description=CONDITION)
    prior: str | None = None
    temperature: float | None = Field(
        default=None,
        ge=0.01,
        le=100,
        allow_inf_nan=False,
        description="1 where left out; scales normal latents, divides logits; refused if nothing uses it",
    )
    return_latents: bool = False
    encoding: Literal["png", "array"] = Field(
        default="png", description="of images: base64 PNG in `images`, or numbers in `data`"
    )


class SampleResponse(OutputsResponse):
    """New items."""

    latents: Nested | None = None
    named_latents: dict[str, Nested] | None = Field(default=None, description="of models with several")
    codes: Nested | None = None
    condition: Nested | None = Field(
        default=None, description="[n][C] of each item, for models that are told real values"
    )
    classes: list[Any] | None = Field(
        default=None, description="of each item, for conditional models: a name, or weights by name"
    )
    conditions: dict[str, Condition] | None = Field(
        default=None,
        description="by name, of models that are conditioned on a text or on several things, without given items",
    )


@dataclass(frozen=True)
class Order:
    """Items that are asked for."""

    entry: Entry
    n: int
    options: dict[str, Any]  # of operations.sample
    work: float = 0  # of reading the request, in bytes (service.aside)

    def part(self, start: int, stop: int) -> Order:
        """Items start .. stop - 1: what is given by item is cut, and the seed goes on at its index."""
        options = {**self.options, "first": self.options["first"] + start}
        for name in ("latents", "codes", "numbers"):
            options[name] = self._cut(options[name], start, stop)
        if options["condition"] is not None:
            options["condition"] = of_items(tagged(options["condition"]), np.arange(start, stop), self.n)
        return Order(self.entry, stop - start, options, self.work)

    def _cut(self, value: Any, start: int, stop: int) -> Any:
        """Return the values of some items. What is stated for all items stays as it is."""
        if isinstance(value, dict):
            return {name: self._cut(each, start, stop) for name, each in value.items()}
        return value[start:stop] if isinstance(value, np.ndarray | list) and len(value) == self.n else value


async def handle(
    handling: Handling, request: SampleRequest, uploads: Uploads, deadline_ms: int | None
) -> UseCaseResult:
    """New items."""
    order = await _order(handling, request, uploads)
    handling.reader.limit(order.n, "n")
    return await _made(handling, order, request, deadline_ms)


async def stream(
    handling: Handling, request: SampleRequest, uploads: Uploads, deadline_ms: int | None
) -> AsyncGenerator[UseCaseResult]:
    """New items, some at a time: a few first, more and more while a part takes less than PART_SECONDS. The deadline is each part's.

    What is wrong with the request is raised here, before the first part.
    """
    order = await _order(handling, request, uploads)
    if order.n > handling.settings.max_stream_items:
        raise TooLarge(
            f"n: {order.n} is over the limit of {handling.settings.max_stream_items} a stream; ask in several, each from its `first`",
            field="n",
        )
    conditions.check_count(order.options["condition"], order.n)
    inputs.check_count(order.options["numbers"], order.n)
    # one seed for all parts, and room for the last of them
    order.options["seed"] = check_seed(request.seed, request.first, order.n, needed=True)
    first = await _made(handling, order.part(0, 1), request, deadline_ms)
    return _parts(handling, order, first, request, deadline_ms)


async def _parts(
    handling: Handling, order: Order, made: UseCaseResult, request: SampleRequest, deadline_ms: int | None
) -> AsyncGenerator[UseCaseResult]:
    start, size = 1, 1
    while True:
        following = None
        if start < order.n:  # is made while the last one is sent
            began, stop = time.monotonic(), min(start + size, order.n)
            following = asyncio.create_task(_made(handling, order.part(start, stop), request, deadline_ms))
        try:
            yield made
            if following is None:
                return
            made = await following
        finally:
            if following is not None and not following.cancel() and not following.cancelled():
                following.exception()  # what went wrong with a part that nobody waits for
        start, fast = stop, time.monotonic() - began < PART_SECONDS
        size = min(2 * size, handling.settings.max_rows) if fast else max(1, size // 2)


async def _order(handling: Handling, request: SampleRequest, uploads: Uploads) -> Order:
    """Read the request, and check it as far as possible before anything runs."""
    entry, manifest = await handling.entry(request, "sample")
    latents, codes = await aside(partial(handling.reader.given, manifest, request, uploads), uploads.work)
    count = _count(codes if latents is None else latents)
    n = request.n if request.n is not None else count or 1
    if count is not None and count != n:
        raise InvalidValue(f"n: {n}, but {count} latents or codes are given; leave n out", field="n")
    if request.return_latents and not manifest.latents and manifest.codes is None:
        raise operations.no_effect(manifest, "return_latents", "has neither latents nor codes")
    options = {
        "seed": request.seed, "first": request.first, "latents": latents, "codes": codes,
        "condition": await handling.reader.condition(manifest, uploads, request), "prior": request.prior,
        "temperature": request.temperature, "numbers": request.inputs or {},
    }  # fmt: skip
    return Order(entry, n, options, uploads.work)


async def _made(handling: Handling, order: Order, request: SampleRequest, deadline_ms: int | None) -> UseCaseResult:
    """The items of an order."""
    entry, options = order.entry, order.options
    answer = UseCaseResult(entry, encoding=request.encoding, work=order.work)
    manifest = answer.manifest
    steps = operations.sample(manifest, order.n, **options)
    samples = await handling.drive(answer, steps, order.n, deadline_ms)
    answer.items, answer.others = samples.data, samples.others
    assert entry.model is not None
    if any(kind.pictures for kind in manifest.items.values()):
        answer.recipes = partial(recipes.for_samples, manifest, entry.model.checksum, samples, options)
    if samples.seed is not None:
        answer.fields |= {"seed": samples.seed, "first": options["first"]}
    if samples.condition is not None and manifest.classes is not None:
        names, drawn = manifest.classes, samples.condition
        answer.fields["classes"] = await aside(
            lambda: [_class_of(weights, names) for weights in drawn], ROW / 8 * len(drawn)
        )
    elif samples.condition is not None:
        answer.fields["condition"] = samples.condition
    if samples.conditions:
        answer.fields["conditions"] = {
            name: _as_stated(manifest, name, value) for name, value in samples.conditions.items()
        }
    if request.return_latents:
        answer.fields |= latent_fields(samples.latents)
        answer.fields |= {} if samples.codes is None else {"codes": samples.codes}
    return answer


def _count(given: Any) -> int | None:
    """Return how many items are given as latents or codes."""
    return None if given is None else len(first_latent(given))


def _as_stated(manifest: Manifest, name: str, value: Any) -> dict[str, Any]:
    """Return a condition in its long form."""
    if isinstance(value, list):
        return {"texts": value}
    one = manifest.conditioned[name]
    alone = isinstance(one, Classes) and ((value > 0).sum(axis=1) == 1).all()
    return (
        {"class": [one.names[place] for place in value.argmax(axis=1)]}
        if isinstance(one, Classes) and alone
        else {"values": value}
    )


def _class_of(weights: Array, names: tuple[str, ...]) -> str | dict[str, float]:
    """Return the name of a class, or weights by name if there are several."""
    (held,) = weights.nonzero()
    return names[held[0]] if len(held) == 1 else {names[i]: float(weights[i]) for i in held}


BY_ITEM = {
    "classes": "class", "condition": "condition", "conditions": "conditions", "latents": "latent", "named_latents": "named_latents", "codes": "codes",
}  # fmt: skip
USE_CASE = UseCase(
    "sample", SampleRequest, SampleResponse, handle, takes_files=False, gives_items=True, stream=stream, by_item=BY_ITEM
)
