"""The use cases: contract in, answer out. Knows neither HTTP nor protobuf; transports only translate and delegate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import operations, recipes
from manifold.runtime.conditions import Given, of_items, tagged
from manifold.runtime.errors import InvalidValue, TooLarge, UnsupportedTask
from manifold.runtime.inputs import check_seed
from manifold.runtime.manifest import Manifest
from manifold.runtime.manifest.conditions import Classes
from manifold.runtime.operations import Run
from manifold.runtime.scores import decisions, reasons, scoring
from manifold.service.aside import ROW, aside
from manifold.service.core import contract
from manifold.service.core.reading import Reader, Uploads
from manifold.service.models.entries import Entry
from manifold.service.models.registry import Registry
from manifold.service.settings import Settings

Array = NDArray[Any]
T = TypeVar("T")

PART_SECONDS = 0.1  # of a stream


@dataclass
class Answer:
    """An answer before it is written down as JSON, a picture or an array."""

    entry: Entry
    fields: dict[str, Any] = field(default_factory=dict)
    items: Array | None = None  # as the graph gives them; images, data or rows on the wire
    others: Mapping[str, Array] = field(default_factory=dict)  # of other outputs, by role
    recipes: Callable[[], list[dict[str, Any]]] | None = None  # of each item, where they are pictures
    encoding: str = "png"
    work: float = 0  # of reading the request, in bytes (service.aside)
    queue: float = 0.0
    compute: float = 0.0
    numbers: Array | None = None  # what a binary answer holds where there are no items
    judged: decisions.Judged | None = None  # of /anomaly-score, for what is watched over requests

    @property
    def manifest(self) -> Manifest:
        assert self.entry.manifest is not None
        return self.entry.manifest


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


class Handlers:
    """One method a route."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self.registry, self.settings, self.reader = registry, settings, Reader(settings)

    # --- routes ---

    async def sample(self, request: contract.SampleRequest, uploads: Uploads, deadline_ms: int | None = None) -> Answer:
        """New items."""
        order = await self._order(request, uploads)
        self.reader.limit(order.n, "n")
        return await self._made(order, request, deadline_ms)

    async def sample_stream(
        self, request: contract.SampleRequest, uploads: Uploads, deadline_ms: int | None = None
    ) -> AsyncGenerator[Answer]:
        """New items, some at a time: a few first, more and more while a part takes less than PART_SECONDS. The deadline is each part's.

        What is wrong with the request is raised here, before the first part.
        """
        order = await self._order(request, uploads)
        if order.n > self.settings.max_stream_items:
            raise TooLarge(
                f"n: {order.n} is over the limit of {self.settings.max_stream_items} a stream; ask in several, each from its `first`",
                field="n",
            )
        if isinstance(request.class_, list) and len(request.class_) != order.n:
            raise InvalidValue(f"class: {len(request.class_)} classes for {order.n} items", field="class")
        # one seed for all parts, and room for the last of them
        order.options["seed"] = check_seed(request.seed, request.first, order.n, needed=True)
        first = await self._made(order.part(0, 1), request, deadline_ms)
        return self._parts(order, first, request, deadline_ms)

    async def _parts(
        self, order: Order, made: Answer, request: contract.SampleRequest, deadline_ms: int | None
    ) -> AsyncGenerator[Answer]:
        start, size = 1, 1
        while True:
            following = None
            if start < order.n:  # is made while the last one is sent
                began, stop = time.monotonic(), min(start + size, order.n)
                following = asyncio.create_task(self._made(order.part(start, stop), request, deadline_ms))
            try:
                yield made
                if following is None:
                    return
                made = await following
            finally:
                if following is not None and not following.cancel() and not following.cancelled():
                    following.exception()  # what went wrong with a part that nobody waits for
            start, fast = stop, time.monotonic() - began < PART_SECONDS
            size = min(2 * size, self.settings.max_rows) if fast else max(1, size // 2)

    async def _order(self, request: contract.SampleRequest, uploads: Uploads) -> Order:
        """What is asked for, checked as far as it can be before anything runs."""
        entry, manifest = await self.entry(request, "sample")
        latents, codes = await aside(partial(self.reader.given, manifest, request, uploads), uploads.work)
        count = _count(codes if latents is None else latents)
        n = request.n if request.n is not None else count or 1
        if count is not None and count != n:
            raise InvalidValue(f"n: {n}, but {count} latents or codes are given; leave n out", field="n")
        options = {
            "seed": request.seed, "first": request.first, "latents": latents, "codes": codes,
            "condition": await self.reader.condition(manifest, uploads, request), "prior": request.prior,
            "temperature": request.temperature, "numbers": request.inputs or {},
        }  # fmt: skip
        return Order(entry, n, options, uploads.work)

    async def _made(self, order: Order, request: contract.SampleRequest, deadline_ms: int | None) -> Answer:
        """The items of an order."""
        entry, options = order.entry, order.options
        answer = Answer(entry, encoding=request.encoding, work=order.work)
        manifest = answer.manifest
        steps = operations.sample(manifest, order.n, **options)
        samples = await self._drive(answer, steps, order.n, deadline_ms)
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
            answer.fields |= _latents(samples.latents)
            answer.fields |= {} if samples.codes is None else {"codes": samples.codes}
        return answer

    async def encode(self, request: contract.EncodeRequest, uploads: Uploads, deadline_ms: int | None = None) -> Answer:
        """Where items lie."""
        entry, manifest = await self.entry(request, "encode")
        items = await self.reader.items(manifest, request, uploads)
        answer = Answer(entry, work=uploads.work)
        condition = await self.reader.condition(manifest, uploads, request)
        steps = operations.encode(
            manifest, items.data, seed=request.seed, first=request.first, condition=condition, numbers=request.inputs
        )
        encoded = await self._drive(answer, steps, len(items.data), deadline_ms)
        answer.fields |= _posterior(encoded)
        answer.numbers = encoded.codes if encoded.mean is None else _first(encoded.latent)
        self._note(answer, items.fitted, request)
        return answer

    async def reconstruct(
        self, request: contract.ReconstructRequest, uploads: Uploads, deadline_ms: int | None = None
    ) -> Answer:
        """Items through the latent and back."""
        entry, manifest = await self.entry(request, "reconstruct")
        items = await self.reader.items(manifest, request, uploads)
        answer = Answer(entry, encoding=request.encoding, work=uploads.work)
        condition = await self.reader.condition(manifest, uploads, request)
        target = await self.reader.target(manifest, uploads, request, condition)
        steps = operations.reconstruct(
            manifest,
            items.data,
            seed=request.seed,
            first=request.first,
            condition=condition,
            target=target,
            numbers=request.inputs,
        )
        back = await self._drive(answer, steps, len(items.data), deadline_ms)
        answer.items, answer.others = back.data, back.others or {}
        answer.fields["errors"] = back.errors
        self._note(answer, items.fitted, request)
        return answer

    async def interpolate(
        self, request: contract.InterpolateRequest, uploads: Uploads, deadline_ms: int | None = None
    ) -> Answer:
        """A path between two items."""
        entry, manifest = await self.entry(request, "interpolate")
        self.reader.limit(request.steps, "steps")
        start, stop, fitted = await self.reader.ends(manifest, request, uploads)
        answer = Answer(entry, encoding=request.encoding, work=uploads.work)
        steps = operations.interpolate(
            manifest, start, stop, steps=request.steps, method=request.method, seed=request.seed, numbers=request.inputs
        )
        path = await self._drive(answer, steps, request.steps, deadline_ms)
        answer.items, answer.others = path.data, path.others or {}
        answer.fields |= _latents(path.latents)
        if path.seed is not None:
            answer.fields |= {"seed": path.seed, "first": 0}
        self._note(answer, fitted)
        return answer

    async def score(self, request: contract.ScoreRequest, uploads: Uploads, deadline_ms: int | None = None) -> Answer:
        """How strange items are."""
        entry, manifest = await self.entry(request, "anomaly-score")
        rule = rule_of(request)
        nullable = any(tensor.missing for tensor in manifest.tasks["score"].inputs)
        items = await self.reader.items(manifest, request, uploads, unknown=True, missing=nullable)
        warnings = items.warnings
        answer = Answer(entry, work=uploads.work)
        condition = await self.reader.condition(manifest, uploads, request)
        assert manifest.scoring is not None and entry.model is not None
        calibrated = entry.model.calibrated
        steps = reasons.scored(
            manifest, items.data, calibrated, explain=request.explain, condition=condition, numbers=request.inputs
        )
        scores, why = await self._drive(answer, steps, len(items.data), deadline_ms)
        scored_by = manifest.scoring

        def finish() -> None:
            judgement = decisions.judge(scored_by, calibrated, scores.terms, decisions.are_unknown(warnings), rule)
            answer.fields |= judged(calibrated, judgement, warnings)
            if why is not None:
                described = manifest.spec.explain(why, getattr(request, manifest.spec.wire.many) or ())
                for item, reason in zip(answer.fields["items"], described, strict=True):
                    item["explanation"] = reason
            answer.numbers, answer.judged = judgement.score, judgement

        await aside(finish, ROW * len(items.data))
        self._note(answer, items.fitted)
        return answer

    async def classify(
        self, request: contract.ClassifyRequest, uploads: Uploads, deadline_ms: int | None = None
    ) -> Answer:
        """Which class items are of."""
        entry, manifest = await self.entry(request, "classify")
        items = await self.reader.items(manifest, request, uploads)
        answer = Answer(entry, work=uploads.work)
        probabilities = await self._drive(
            answer, operations.classify(manifest, items.data, numbers=request.inputs), len(items.data), deadline_ms
        )
        about, names = manifest.classification, manifest.classes
        assert about is not None and names is not None

        def classified() -> list[dict[str, Any]]:
            return [
                {"class": names[int(row.argmax())], "probabilities": dict(zip(names, row.tolist(), strict=True))}
                for row in probabilities
            ]

        answer.fields["items"] = await aside(classified, ROW * len(probabilities))
        error = next((metric.value for metric in manifest.metrics if metric.name == "calibration_error"), None)
        answer.fields["classification"] = {
            "by": about.term or "logits", "class_prior": dict(zip(names, manifest.class_weights, strict=True)),
            "temperature": about.temperature, "calibration_error": error,
        }  # fmt: skip
        answer.numbers = probabilities
        self._note(answer, items.fitted)
        return answer

    async def impute(self, request: contract.ImputeRequest, uploads: Uploads, deadline_ms: int | None = None) -> Answer:
        """Rows with what was missing filled in, or images with what was not known."""
        entry, manifest = await self.entry(request, "impute")
        answer = Answer(entry, encoding=request.encoding, work=uploads.work)
        condition = await self.reader.condition(manifest, uploads, request)
        if "impute" in manifest.tasks:
            return await self._completed(answer, request, uploads, condition, deadline_ms)
        spec = manifest.spec
        if request.masks or uploads.masks:
            raise InvalidValue(f"masks: {entry.name} takes {spec.noun}, whose missing values are null", field="masks")
        items = await self.reader.items(manifest, request, uploads, missing=True)
        steps = operations.impute(
            manifest, items.data, condition=condition, seed=request.seed, first=request.first, numbers=request.inputs
        )
        whole = await self._drive(answer, steps, len(items.data), deadline_ms)
        write = partial(spec.fill, getattr(request, spec.wire.many), whole.data, whole.probabilities)
        answer.fields |= await aside(write, ROW * len(items.data))
        answer.numbers = whole.data
        self._note(answer, (), request)
        return answer

    async def _completed(
        self,
        answer: Answer,
        request: contract.ImputeRequest,
        uploads: Uploads,
        condition: Given | None,
        deadline_ms: int | None,
    ) -> Answer:
        """Images with what was not known drawn."""
        manifest = answer.manifest
        items, mask = await self.reader.masked(manifest, request, uploads)
        data = items.data
        each = request.candidates * operations.open_classes(manifest, condition)
        if len(data) * each > self.settings.max_items:
            raise TooLarge(
                f"candidates: {len(data)} {manifest.spec.noun} by {each} are over the limit of {self.settings.max_items} a request"
                + (" (every class is tried: say which)" if each > request.candidates else "")
                + "; ask for fewer, or in several",
                field="candidates",
            )
        steps = operations.complete(
            manifest, data, mask, seed=request.seed, first=request.first, condition=condition, candidates=request.candidates,
            temperature=request.temperature, numbers=request.inputs,
        )  # fmt: skip
        found = await self._drive(answer, steps, len(data) * each, deadline_ms)
        answer.items = found.data
        answer.fields |= {"seed": found.seed, "first": request.first}
        if found.classes is not None and manifest.classes is not None:
            answer.fields["classes"] = [manifest.classes[index] for index in found.classes]
        self._note(answer, items.fitted)
        return answer

    # --- pieces ---

    async def entry(self, request: contract.Request, endpoint: str) -> tuple[Entry, Manifest]:
        """The model that is asked for, ready. Raises UnsupportedTask where it lacks the endpoint."""
        entry = await self.registry.get(request.model, request.version)
        assert entry.manifest is not None
        if endpoint not in entry.endpoints:
            can = entry.endpoints
            raise UnsupportedTask(
                f"{entry.name} cannot /{endpoint}{_why(entry.manifest, endpoint)}; it can {', '.join('/' + name for name in can)}",
                field="model",
                valid=can,
            )
        return entry, entry.manifest

    async def _drive(
        self, answer: Answer, steps: Generator[Run, dict[str, Array], T], n: int, deadline_ms: int | None
    ) -> T:
        assert answer.entry.batcher is not None
        if answer.manifest.drawing:
            steps = operations.watched(steps, partial(_note_chance, answer))
        milliseconds = deadline_ms or answer.entry.settings.deadline_ms or self.settings.deadline_ms
        deadline = time.monotonic() + milliseconds / 1000
        result, timing = await answer.entry.batcher.drive(steps, n, deadline, answer.work)
        answer.queue, answer.compute = timing.queue, timing.compute
        return result

    @staticmethod
    def _note(answer: Answer, fitted: Sequence[dict[str, Any]], request: contract.Chance | None = None) -> None:
        """What was done to the images, and the seed where one was given."""
        if fitted:
            answer.fields["fitted"] = list(fitted)
        if request is not None and request.seed is not None:
            answer.fields |= {"seed": request.seed, "first": request.first}


def _note_chance(answer: Answer, task: str) -> None:
    """Says that the answer cannot be had again, if the graph of a task that was run draws random numbers itself."""
    if task in answer.manifest.drawing:
        answer.fields["reproducible"] = False


def judged(
    calibrated: scoring.Calibrated, judgement: decisions.Judged, warnings: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Items, threshold and calibration of a /anomaly-score answer."""
    items = [{**judgement.item(i), "warnings": warnings[i], "explanation": None} for i in range(len(judgement.score))]
    return {"items": items, **threshold_of(calibrated, judgement)}


def threshold_of(calibrated: scoring.Calibrated, judgement: decisions.Judged) -> dict[str, Any]:
    """Where the line was drawn, and what it refers to."""
    line, source = judgement.threshold, calibrated.about
    return {
        "threshold": {
            "score": line.score, "p_value": line.p_value, "false_positive_rate": line.false_positive_rate,
            "interval": None if line.interval is None else list(line.interval), "block_p_value": judgement.block_p_value,
        },
        "calibration": None if source is None else {"id": source.id, "n": source.n, "created": source.created},
    }  # fmt: skip


def rule_of(request: contract.ScoreRequest) -> decisions.Rule:
    """How to decide. Raises InvalidValue for more than one way."""
    ways = [name for name in ("false_positive_rate", "budget", "costs") if getattr(request, name) is not None]
    if len(ways) > 1:
        raise InvalidValue(f"{' and '.join(ways)} exclude each other", field=ways[-1])
    costs = None if request.costs is None else decisions.Costs(**request.costs.model_dump())
    rule = decisions.Rule(request.false_positive_rate, request.budget, costs, request.block_rate)
    if request.budget is None and rule.block_rate > rule.review_rate:
        raise InvalidValue(
            f"block_rate: {rule.block_rate:g} is above the rate for review, {rule.review_rate:g}", field="block_rate"
        )
    return rule


def _why(manifest: Manifest, endpoint: str) -> str:
    """The reason behind what a model cannot do, where there is a plain one."""
    if endpoint == "interpolate" and manifest.space is None:
        return ": it has no latent space"
    if endpoint == "anomaly-score":
        return ": it has no likelihood and carries no score"
    if endpoint == "impute":
        nullable = manifest.spec.nullable
        return ": its graphs take no missing values" if nullable else ": it has no graph that keeps what is known"
    if endpoint in ("encode", "reconstruct") and "encode" not in manifest.tasks:
        return operations.why_not_encode(manifest)
    if endpoint == "classify":
        return ": it knows no classes" if manifest.classes is None else ": it carries no rule for p(class | item)"
    return ""


def _count(given: Any) -> int | None:
    """Return how many items are given as latents or codes."""
    return None if given is None else len(_first(given))


def _first(latents: operations.Latents) -> Array:
    """Return the latents, or those of the first name."""
    first: Array = next(iter(latents.values())) if isinstance(latents, dict) else latents
    return first


def _latents(latents: operations.Latents | None) -> dict[str, Any]:
    if latents is None:
        return {}
    return {"named_latents" if isinstance(latents, dict) else "latents": latents}


def _posterior(encoded: operations.Encoded) -> dict[str, Any]:
    """Return the posterior and the codes; the posterior of several latents by name."""
    parts = {name: getattr(encoded, name) for name in ("mean", "log_variance", "latents")}
    parts = {name: value for name, value in parts.items() if value is not None}
    codes = {} if encoded.codes is None else {"codes": encoded.codes}
    if not isinstance(encoded.mean, dict):
        return {**parts, **codes}
    named = {role: {name: value[role] for name, value in parts.items() if role in value} for role in encoded.mean}
    return {"posteriors": named, **codes}


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
    """A name, or weights by name where there are several."""
    held = np.flatnonzero(weights)
    return names[held[0]] if len(held) == 1 else {names[i]: float(weights[i]) for i in held}
