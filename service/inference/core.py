"""Inference between the protocol and the runtime, and its statistics. This module knows neither HTTP nor protobuf."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

from manifold.runtime import texts
from manifold.runtime.conditions import Choice
from manifold.runtime.errors import InvalidValue, Malformed, ManifoldError, cut, near, shown
from manifold.runtime.operations import infer
from manifold.runtime.operations.infer import Choices
from manifold.runtime.problems import word
from manifold.runtime.sampling import MAX_SEED
from manifold.service.aside import aside
from manifold.service.inference import targets, tensors
from manifold.service.inference.targets import Target
from manifold.service.models.registry import SERVING, Registry
from manifold.service.settings import Settings
from manifold.service.telemetry import tracing
from manifold.service.telemetry.metrics import Metrics

Array = NDArray[Any]
W = TypeVar("W")

PARAMETERS = ("n", "seed", "first", "class", "prior", "temperature")  # the parameters of this service
# parameters of the protocol and of Triton that are read elsewhere or ignored
KNOWN = ("binary_data_output", "timeout", "priority", "headers")
NOT_OFFERED = ("classification", "shared_memory_region")  # parameters of tensors that are not supported
SEQUENCES = ("sequence_id", "sequence_start", "sequence_end")
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "parameters", "statistics")
ROUTE = "infer"
ID = 1000  # largest length of an id, which the response repeats
# the states of the protocol
STATES = {"ready": "READY", "loading": "LOADING", "unavailable": "UNAVAILABLE", "idle": "READY"}
IDLE = "it loads at its first request"


@dataclass(frozen=True)
class Asked:
    """The inference that a client requests."""

    model: str
    version: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, Array]
    outputs: tuple[str, ...] | None = None  # by default all
    id: str = ""
    raw: bytes | None = None  # instead of inputs: the rows of the only required input


def check_id(text: Any) -> str:
    """Return the id of a request. Raise Malformed if it is not a string, and InvalidValue if it is too long."""
    if not isinstance(text, str):
        raise Malformed(f"id: a text is needed, not {word(text)}", field="id")
    if len(text) > ID:
        raise InvalidValue(f"id: {len(text)} characters are over the limit of {ID}; send a shorter id", field="id")
    return text


@dataclass(frozen=True)
class Inferred:
    """The result of an inference, before it is written."""

    target: Target
    id: str
    outputs: dict[str, Array]
    parameters: dict[str, str | int | bool]  # parameters of the response: seed and drawn classes


@dataclass
class Times:
    """The number of events, and their total time in nanoseconds."""

    count: int = 0
    ns: int = 0

    def add(self, ns: float) -> None:
        """Add one event."""
        self.count += 1
        self.ns += int(ns)


PHASES = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


@dataclass
class Statistics:
    """The statistics of one task since the start."""

    inferences: int = 0  # number of rows in answered requests
    last: int = 0  # time of the last one, milliseconds since 1970
    times: dict[str, Times] = field(default_factory=lambda: {name: Times() for name in PHASES})


def server() -> dict[str, Any]:
    """Return the name, the version and the extensions of the server."""
    return {"name": "manifold", "version": version("manifold"), "extensions": list(EXTENSIONS)}


def of_one_line(error: ManifoldError) -> str:
    """Return the message of an error with its valid values, because an error of the protocol is one text."""
    return f"{error.message}; valid: {', '.join(map(str, error.valid))}" if error.valid else error.message


class Core:
    """The operations that both transports call."""

    def __init__(self, registry: Registry, settings: Settings, metrics: Metrics) -> None:
        self.registry, self.settings, self.metrics = registry, settings, metrics
        self._statistics: dict[tuple[str, int, str], Statistics] = {}

    async def infer(self, asked: Asked, deadline_ms: int | None, began: float, write: Callable[[Inferred], W]) -> W:
        """Return the response that `write` makes. `began` is the arrival of the request, by time.perf_counter().

        Raise RequestError, Busy, Unavailable or DeadlineExceeded.
        """
        self.registry.check_open()
        target = await targets.find(self.registry, asked.model, asked.version)
        counted = self.statistics(target)
        try:
            return await self._infer(target, counted, asked, deadline_ms, began, write)
        except BaseException:
            counted.times["fail"].add(1e9 * (time.perf_counter() - began))
            raise

    async def _infer(
        self, target: Target, counted: Statistics, asked: Asked, deadline_ms: int | None, began: float, write: Callable[[Inferred], W]
    ) -> W:  # fmt: skip
        entry, spec = target.entry, target.spec
        wanted = spec.roles if asked.outputs is None else asked.outputs
        for name in wanted:
            if name not in spec.roles:
                raise InvalidValue(
                    f"outputs: {target.name} has no output {shown(name)}{near(name, spec.roles)}; use one of the valid names",
                    field="outputs",
                    valid=spec.roles,
                )
        n, choices, timeout = _choices(asked.parameters)
        given = asked.inputs if asked.raw is None else _of_bytes(target, asked.raw)
        rows = infer.rows_of(given, n, self.settings.max_items)
        steps = infer.infer(target.manifest, target.task, given, choices, rows)
        milliseconds = timeout or deadline_ms or entry.settings.deadline_ms or self.settings.deadline_ms
        assert entry.batcher is not None
        taken = time.perf_counter()
        done, timing = await entry.batcher.drive(steps, rows, time.monotonic() + milliseconds / 1000)
        ran = time.perf_counter()
        made = Inferred(
            target, asked.id, {name: done.outputs[name] for name in wanted}, _random_parameters(target, done)
        )
        size = sum(array.nbytes for array in made.outputs.values())
        answer = await aside(functools.partial(write, made), size)
        ended = time.perf_counter()
        now = time.monotonic()
        tracing.spent("encode", now - (ended - ran), now)
        waited, computed = timing.queue / 1000, timing.compute / 1000
        for name, seconds in (
            ("success", ended - began), ("queue", waited), ("compute_infer", computed), ("compute_output", ended - ran),
            ("compute_input", taken - began + max(0.0, ran - taken - waited - computed)),
        ):  # fmt: skip
            counted.times[name].add(1e9 * seconds)
        counted.inferences += rows
        counted.last = time.time_ns() // 1_000_000
        self.metrics.timed(entry, ROUTE, timing.queue, timing.compute, 1000 * (ended - ran))
        return answer

    def statistics(self, target: Target) -> Statistics:
        """Return the statistics of a task."""
        key = (target.entry.name, target.entry.version, target.task)
        return self._statistics.setdefault(key, Statistics())

    async def metadata(self, name: str, version: str) -> dict[str, Any]:
        """Return the response of GET /v2/models/NAME."""
        target = await targets.find(self.registry, name, version, described=True)
        versions = self.registry.versions(target.entry.name)
        return await aside(
            lambda: targets.metadata(target, versions)
        )  # it contains an example, which may be a large image

    async def config(self, name: str, version: str) -> dict[str, Any]:
        """Return the response of GET /v2/models/NAME/config."""
        target = await targets.find(self.registry, name, version)
        return await aside(lambda: targets.config(target))

    async def ready(self, name: str, version: str) -> bool:
        """Return whether the model answers requests. Raise UnknownModel."""
        model, task = targets.split(self.registry, name)
        entry = self.registry.find(model, targets.version_of(version))
        known = entry.manifest is not None and (task is None or task in entry.manifest.served)
        return entry.state in SERVING and known and not self.registry.stopped

    async def stats(self, name: str, version: str) -> list[dict[str, Any]]:
        """Return the statistics of one model by task, or of every model that is ready if no name is given."""
        if name:
            target = await targets.find(self.registry, name, version, described=True)
            names = [target.task] if target.name != target.entry.name else list(target.manifest.served)
            return [self._stats(target.entry.name, target.entry.version, task) for task in names]
        return [
            self._stats(entry.name, entry.version, task)
            for entry in self.registry.shown
            if entry.state == "ready" and entry.manifest is not None
            for task in entry.manifest.served
        ]

    def index(self, ready: bool) -> list[dict[str, str]]:
        """Return all versions of all models with their states. With `ready`, return only those that answer requests."""
        return [
            {
                "name": name, "version": str(version), "state": STATES[entry.state],
                "reason": IDLE if entry.state == "idle" else entry.reason or "",
            }
            for (name, version), entry in sorted(self.registry.entries.items())
            if entry.state in SERVING or not ready
        ]  # fmt: skip

    async def load(self, name: str, parameters: Collection[str]) -> None:
        """Load a model from its folder. Raise InvalidValue, UnknownModel, or Unavailable with the reason."""
        if parameters:
            raise InvalidValue(
                f"parameters: {cut(', '.join(parameters))}: not supported, because models are loaded from their folder only; remove them",
                field="parameters",
            )
        self.registry.check_open()
        await self.registry.change("load", name)

    async def unload(self, name: str) -> None:
        """Take a model out of service until it is loaded again."""
        await self.registry.change("unload", name)

    def _stats(self, name: str, version: int, task: str) -> dict[str, Any]:
        counted = self._statistics.get((name, version, task), Statistics())
        batcher = self.registry.entries[name, version].batcher
        return {
            "name": f"{name}.{task}", "version": str(version), "last_inference": counted.last, "inference_count": counted.inferences,
            "execution_count": batcher.tallies[task].runs if batcher else 0,
            "inference_stats": {name: {"count": times.count, "ns": times.ns} for name, times in counted.times.items()},
            "batch_stats": [],
        }  # fmt: skip


def _of_bytes(target: Target, content: bytes) -> dict[str, Array]:
    """Return the input for a body of bytes only: the only required input, or the only input."""
    inputs = target.spec.inputs
    needed = [tensor for tensor in inputs if not infer.is_optional(target.manifest, tensor)] or list(inputs)
    if len(needed) != 1:
        names = [tensor.role for tensor in needed]
        raise InvalidValue(
            f"body: {target.name} has several inputs; send them with their names", field="inputs", valid=names
        )
    size = math.prod(needed[0].shape) * np.dtype(needed[0].dtype).itemsize
    shape = (len(content) // size, *needed[0].shape)
    return {needed[0].role: tensors.from_bytes(content, tensors.name_of(needed[0].dtype), shape, needed[0].role)}


def _choices(given: Mapping[str, Any]) -> tuple[int | None, Choices, int | None]:
    """Return `n`, the choices for inputs that are not given, and the time limit of the request in milliseconds."""
    for name, value in given.items():
        if name in SEQUENCES and value is not False and value not in (0, ""):
            raise InvalidValue(
                f"{name}: not supported, because models keep no state between requests; remove it", field=name
            )
        if name not in PARAMETERS and name not in KNOWN and name not in SEQUENCES and not name.startswith("triton_"):
            raise InvalidValue(
                f"parameters: {cut(name)} is unknown{near(name, PARAMETERS)}; use one of the valid parameters",
                field=name,
                valid=PARAMETERS,
            )
    temperature, prior = given.get("temperature"), given.get("prior")
    if temperature is not None and not _is(temperature, int, float):
        raise InvalidValue(f"temperature: a number above 0 is needed, not {word(temperature)}", field="temperature")
    if prior is not None and not isinstance(prior, str):
        raise InvalidValue(f"prior: the name of a prior is needed, not {word(prior)}", field="prior")
    flag(given, "binary_data_output")
    _whole(given, "priority")
    timeout = _whole(given, "timeout")
    choices = Choices(_whole(given, "seed"), _whole(given, "first"), _class(given.get("class")), prior, temperature)
    return _whole(given, "n", 1), choices, None if not timeout else max(1, timeout // 1000)


def flag(parameters: Mapping[str, Any], name: str, otherwise: bool = False, field: str | None = None) -> bool:
    """Return a parameter that is true or false. Raise InvalidValue for anything else, such as the text "true" or 1."""
    value = parameters.get(name)
    if value is None:
        return otherwise
    if not isinstance(value, bool):
        raise InvalidValue(f"{cut(name)}: true or false is needed, not {word(value)}", field=field or name)
    return value


def refuse(parameters: Mapping[str, Any], field: str) -> None:
    """Raise InvalidValue for parameters of a tensor that are not supported."""
    for name in NOT_OFFERED:
        if parameters.get(name) is not None:
            instead = "send the data" if name == "shared_memory_region" else "remove it"
            offered = "shared memory" if name == "shared_memory_region" else name
            raise InvalidValue(f"{field}: {offered} is not supported; {instead}", field=field, valid=["binary_data"])


def _whole(given: Mapping[str, Any], name: str, least: int = 0) -> int | None:
    """Return a parameter that is an integer. Raise InvalidValue for anything else. Texts, and numbers such as 5.0, are not converted."""
    value = given.get(name)
    if value is None:
        return None
    if not _is(value, int) or not least <= value <= MAX_SEED:
        raise InvalidValue(
            f"{cut(name)}: {word(value)} is not valid; use an integer from {least} to 2^63 - 1", field=name
        )
    return int(value)


def _class(value: Any) -> Choice | None:
    """Return a class by name or index. A text with JSON may list one for each item, or weights by name: parameters cannot be lists."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        read = texts.json_of(value, "class")
        if isinstance(read, dict) and all(_is(weight, int, float) for weight in read.values()):
            return read
        if isinstance(read, list) and all(_is(name, str, int) for name in read):
            return read
    if value is not None and not _is(value, str, int):
        raise InvalidValue(
            f"class: {word(value)} is not valid; use a name, an index, or a text with JSON: a list of them, or weights by name",
            field="class",
        )
    chosen: Choice | None = value
    return chosen


def _is(value: Any, *kinds: type) -> bool:
    """Return whether a value has one of the types. True and false, which are ints in Python, do not count."""
    return isinstance(value, kinds) and not isinstance(value, bool)


def _random_parameters(target: Target, done: infer.Done) -> dict[str, str | int | bool]:
    """Return the parameters of the response: the seed that reproduces the items, the drawn classes, and whether the graph is not reproducible."""
    filled, classes = done.filled, target.manifest.classes
    parameters: dict[str, str | int | bool] = {}
    if filled.seed is not None:
        parameters = {"seed": filled.seed, "first": filled.first}
    if filled.condition is not None and classes is not None:
        alone = (filled.condition.max(axis=1) == 1).all()
        drawn = [classes[int(index)] for index in np.argmax(filled.condition, axis=1)] if alone else filled.condition
        parameters["classes"] = orjson.dumps(drawn, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    if target.task in target.manifest.drawing:
        parameters["reproducible"] = False
    return parameters
