"""Generation of new items."""

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
from manifold.runtime.manifest.conditions import NO_CLASS, Classes
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
    SolverRequest,
)
from manifold.service.core.examples import Example
from manifold.service.core.handling import Handling, first_latent, latent_fields
from manifold.service.core.reading import Uploads
from manifold.service.core.use_cases.base import UseCase
from manifold.service.models.entries import Entry

Array = NDArray[Any]
LEAST_REST = 1e-4  # smallest weight of no class that is not a rounding error
PART_SECONDS = 0.1  # time that one part of a stream should take


class SampleRequest(SolverRequest, InputsRequest, SeededRequest):
    """Generate new items.

    Items are drawn from the model, or decoded from given latents or codes. With `Accept: image/png`, the response is one picture: a grid of
    the items.
    """

    n: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Number of items. By default 1, or the number of given latents or codes."
    )
    latents: Nested | None = Field(default=None, description="Latents to decode: [n][L].")
    named_latents: dict[str, Nested] | None = Field(
        default=None, description="Latents by name, for models with several latents. Replaces `latents`."
    )
    codes: Nested | None = Field(default=None, description="Codes to decode: [n][h][w].")
    class_: ClassChoice | None = Field(
        default=None,
        alias="class",
        description='Class of the items: a name or an index, a list of n of them, "random", or weights by name.',
    )
    condition: Nested | None = Field(default=None, description=CONDITION)
    prior: str | None = Field(
        default=None,
        description="Prior of the latents, such as normal or mixture. By default, the default prior of the model (`default_prior` in the manifest).",
    )
    temperature: float | None = Field(
        default=None,
        ge=0.01,
        le=100,
        allow_inf_nan=False,
        description="Scale of the randomness, by default 1: multiplies normal latents, divides logits. An error if the model does not use it.",
    )
    return_latents: bool = Field(
        default=False, description="Whether the response contains the latents or codes of the items."
    )
    encoding: Literal["png", "array"] = Field(
        default="png", description="Form of images in JSON: base64 PNG in `images`, or numbers in `data`."
    )


class SampleResponse(OutputsResponse):
    """The generated items."""

    latents: Nested | None = Field(default=None, description="Latents of the items: [n][L].")
    named_latents: dict[str, Nested] | None = Field(
        default=None, description="Latents by name, for models with several latents."
    )
    codes: Nested | None = Field(default=None, description="Codes of the items: [n][h][w].")
    condition: Nested | None = Field(
        default=None, description="Condition of each item, for models conditioned on real values: [n][C]."
    )
    classes: list[Any] | None = Field(
        default=None, description="Class of each item, for class-conditional models: a name, or weights by name."
    )
    conditions: dict[str, Condition] | None = Field(
        default=None,
        description="Conditions by name, for models conditioned on a text or on several things. Given items are not repeated.",
    )


@dataclass(frozen=True)
class Order:
    """The items of a request, with everything that is needed to generate them."""

    entry: Entry
    n: int
    options: dict[str, Any]  # the arguments of operations.sample
    work: float = 0  # the cost of reading the request, in bytes (service.aside)

    def part(self, start: int, stop: int) -> Order:
        """Return the order for items start .. stop - 1: with their share of the values by item, and the same seed from index `start`."""
        options = {**self.options, "first": self.options["first"] + start}
        for name in ("latents", "codes", "numbers"):
            options[name] = self._cut(options[name], start, stop)
        if options["condition"] is not None:
            options["condition"] = of_items(tagged(options["condition"]), np.arange(start, stop), self.n)
        return Order(self.entry, stop - start, options, self.work)

    def _cut(self, value: Any, start: int, stop: int) -> Any:
        """Return the values of some items. A value that holds for all items is returned unchanged."""
        if isinstance(value, dict):
            return {name: self._cut(each, start, stop) for name, each in value.items()}
        return value[start:stop] if isinstance(value, np.ndarray | list) and len(value) == self.n else value


async def handle(
    handling: Handling, request: SampleRequest, uploads: Uploads, deadline_ms: int | None
) -> UseCaseResult:
    """Generate new items."""
    order = await _order(handling, request, uploads)
    handling.reader.limit(order.n, "n")
    return await _made(handling, order, request, deadline_ms)


async def stream(
    handling: Handling, request: SampleRequest, uploads: Uploads, deadline_ms: int | None
) -> AsyncGenerator[UseCaseResult]:
    """Generate new items in parts: a few first, then larger parts while a part takes less than PART_SECONDS. The deadline holds for each part.

    Errors in the request are raised here, before the first part.
    """
    order = await _order(handling, request, uploads)
    if order.n > handling.settings.max_stream_items:
        raise TooLarge(
            f"n: {order.n} is over the limit of {handling.settings.max_stream_items} items in a stream; send several requests, each with its own `first`",
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
        if start < order.n:  # the next part is generated while this one is sent
            began, stop = time.monotonic(), min(start + size, order.n)
            following = asyncio.create_task(_made(handling, order.part(start, stop), request, deadline_ms))
        try:
            yield made
            if following is None:
                return
            made = await following
        finally:
            if following is not None and not following.cancel() and not following.cancelled():
                following.exception()  # the error of a part that no client waits for
        start, fast = stop, time.monotonic() - began < PART_SECONDS
        size = min(2 * size, handling.settings.max_rows) if fast else max(1, size // 2)


async def _order(handling: Handling, request: SampleRequest, uploads: Uploads) -> Order:
    """Read the request, and check it as far as possible before anything runs."""
    entry, manifest = await handling.entry(request, "sample")
    latents, codes = await aside(partial(handling.reader.given, manifest, request, uploads), uploads.work)
    count = _count(codes if latents is None else latents)
    n = request.n if request.n is not None else count or 1
    if count is not None and count != n:
        raise InvalidValue(f"n: {n}, but {count} latents or codes are given; remove n", field="n")
    if request.return_latents and not manifest.latents and manifest.codes is None:
        raise operations.no_effect(manifest, "return_latents", "has neither latents nor codes")
    task = manifest.tasks[operations.sampling_task(manifest, latents, codes)]
    fields = {"steps": request.steps, "guidance": request.guidance}
    numbers = inputs.with_fields(manifest, [task], request.inputs, fields, n)
    options = {
        "seed": request.seed, "first": request.first, "latents": latents, "codes": codes,
        "condition": await handling.reader.condition(manifest, uploads, request), "prior": request.prior,
        "temperature": request.temperature, "numbers": numbers,
    }  # fmt: skip
    return Order(entry, n, options, uploads.work)


async def _made(handling: Handling, order: Order, request: SampleRequest, deadline_ms: int | None) -> UseCaseResult:
    """Generate the items of an order."""
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
        names, drawn, optional = manifest.classes, samples.condition, bool(manifest.class_optional)
        answer.fields["classes"] = await aside(
            lambda: [_class_of(weights, names, optional=optional) for weights in drawn], ROW / 8 * len(drawn)
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


def _class_of(weights: Array, names: tuple[str, ...], *, optional: bool) -> str | dict[str, float]:
    """Return the name of a class, or weights by name if there are several. If the class is `optional`, the rest of the weights is no class."""
    (held,) = weights.nonzero()
    rest = 1 - float(weights.sum(dtype=np.float64)) if optional else 0.0
    if not len(held):
        return NO_CLASS
    if len(held) == 1 and rest < LEAST_REST:
        return str(names[held[0]])
    return {names[i]: float(weights[i]) for i in held} | ({NO_CLASS: rest} if rest >= LEAST_REST else {})


BY_ITEM = {
    "classes": "class", "condition": "condition", "conditions": "conditions", "latents": "latent", "named_latents": "named_latents", "codes": "codes",
}  # fmt: skip
USE_CASE = UseCase(
    "sample", SampleRequest, SampleResponse, handle, takes_files=False, gives_items=True, stream=stream, by_item=BY_ITEM,
    examples={
        "digits": Example("Four digits of the default model", {"n": 4, "seed": 7}),
        "class": Example("Two pictures of the digit 4", {"model": "mnist-cgan", "class": "4", "n": 2, "seed": 7}),
    },
)  # fmt: skip
