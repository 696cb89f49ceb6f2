"""The Prometheus metrics of a service. They have their own registry, and nothing happens on import."""

from __future__ import annotations

import asyncio
import functools
import math
import platform
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric

from manifold.runtime.errors import Busy, DeadlineExceeded, Forbidden, Unauthorized, Unavailable
from manifold.runtime.scores.drift import Recent
from manifold.service.aside import aside
from manifold.service.core import failures
from manifold.service.core.answers import UseCaseResult
from manifold.service.models.batcher import Ran
from manifold.service.models.entries import Entry
from manifold.service.models.registry import SERVING, Registry
from manifold.service.telemetry.histograms import Child, Histogram

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
# known label values: each series starts at 0, so that Prometheus sees the first event as an increase
INTERNAL = "internal"
ERRORS = (*sorted(kind("").type for kind in failures.PUBLIC), "method_not_allowed", INTERNAL)
REFUSED = ("rows", "bytes", "wait", "rate", "bodies", "commands", "calls", "probes", "watches", "deadline", "stopping")
DENIED = ("unauthorized", "forbidden")
CUT = ("slow_head", "slow_body", "slow_reader", "head_too_large", "malformed", "too_many", "bodies", "old_watch")
P_VALUES = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.8, 1.0)


@dataclass(frozen=True)
class Described:
    """A metric without its values: name, type, meaning and labels."""

    name: str
    kind: str
    documentation: str
    labels: tuple[str, ...]


class ScoreMetrics:
    """A collector of histograms of p-values by model and term, and of the distance of recent scores from the calibration sample.

    It counts the rows of a request together, because a request may contain a thousand rows.
    """

    LABELS = ("model", "version", "part")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: dict[tuple[str, str, str], _Part] = {}

    def add(self, entry: Entry, parts: dict[str, tuple[NDArray[np.float64], NDArray[np.float64] | None]]) -> None:
        """Add scored rows: values and p-values (n,) of each term."""
        assert entry.model is not None
        with self._lock:
            for name, (values, p) in parts.items():
                if p is not None:
                    key = (entry.name, str(entry.version), name)
                    if key not in self._parts:
                        self._parts[key] = _Part(entry.model.calibrated.scores[name])
                    self._parts[key].add(values, p)

    def collect(self) -> Iterator[Metric]:
        """Yield the p-values and their drift for Prometheus."""
        labels = self.LABELS
        p_values = HistogramMetricFamily("manifold_score_p_value", "p-values of scored rows; uniform if the data has not changed", labels=labels)  # fmt: skip
        statistic = GaugeMetricFamily("manifold_score_drift_ks", "Kolmogorov-Smirnov distance of recent scores from calibration", labels=labels)  # fmt: skip
        chance = GaugeMetricFamily(
            "manifold_score_drift_p_value", "p-value of that distance under unchanged data", labels=labels
        )
        rows = GaugeMetricFamily("manifold_score_drift_rows", "Number of recent rows in that comparison", labels=labels)
        with self._lock:  # as short as possible, because requests wait for it
            parts = {key: part.copy() for key, part in self._parts.items()}
        for key, part in parts.items():
            bounds = [*map(str, P_VALUES[:-1]), "+Inf"]
            p_values.add_metric(key, list(zip(bounds, np.cumsum(part.counts).tolist(), strict=True)), part.total)
            if (drift := part.recent.against(part.sample)) is not None:
                statistic.add_metric(key, drift.statistic)
                chance.add_metric(key, drift.p_value)
                rows.add_metric(key, drift.n)
        yield from (p_values, statistic, chance, rows)


class _Part:
    """The counts of one term of one model."""

    def __init__(self, sample: NDArray[np.float64]) -> None:
        self.sample, self.recent = sample, Recent()
        self.counts, self.total = np.zeros(len(P_VALUES), np.int64), 0.0

    def add(self, values: NDArray[np.float64], p: NDArray[np.float64]) -> None:
        self.recent.add(values)
        self.counts += np.bincount(np.searchsorted(P_VALUES, p, side="left"), minlength=len(P_VALUES))
        self.total += float(p.sum())

    def copy(self) -> _Part:
        """Return a copy of the counts."""
        copied = _Part(self.sample)
        copied.recent, copied.counts, copied.total = self.recent.copy(), self.counts.copy(), self.total
        return copied


class Metrics:
    """The metrics of a service."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, registry: Registry) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the counters, and pages of several workers have none
        self.collected = CollectorRegistry()
        ProcessCollector(registry=self.collected)
        GCCollector(registry=self.collected)
        self.models, self.scores, self._writing = registry, ScoreMetrics(), asyncio.Lock()
        self.described = [
            Described(each.name, each.type, each.documentation, ScoreMetrics.LABELS) for each in self.scores.collect()
        ]
        self.collected.register(self.scores)
        # the lookup of a labelled child takes longer than counting, so the children in use are kept
        self._requests: dict[tuple[str, int | str], tuple[Counter, Child]] = {}
        self._answers: dict[tuple[str, str], tuple[Child, Child, Child]] = {}
        self._tasks: dict[tuple[str, str], tuple[Child, Child, Child]] = {}
        self._runs: dict[tuple[str, str, str], Counter] = {}
        self.requests = self._counter("requests", "Number of requests by route and status", "route", "status")
        self.seconds = self._seconds(
            "request_seconds", "Time from the first byte of a request to the last byte of its response", "route"
        )
        self.errors = self._counter("errors", "Number of errors by type", "type")
        self.refused = self._counter(
            "refused",
            "Number of requests refused by a limit: rows, bytes, wait, rate, bodies, calls, commands, probes, watches, deadline, stopping",
            "reason",
        )
        self.denied = self._counter("denied", "Number of requests without a sufficient API key", "type")
        self.by_key = self._counter(
            "key_requests", "Number of requests by the id of their API key (first digits of its SHA-256 hash)", "key"
        )
        self.queue = self._seconds("queue_seconds", "Time that a request waited for the engine", "model", "route")
        self.compute = self._seconds(
            "compute_seconds", "Time of the runs that contained the rows of a request", "model", "route"
        )
        self.encode = self._seconds("encode_seconds", "Time to write the response of a request", "model", "route")
        self.run_rows = self._histogram("run_rows", "Number of rows in a run (batch size)", SIZES, "model", "task")
        self.run_requests = self._histogram("run_requests", "Number of requests in a run", SIZES, "model", "task")
        self.run_seconds = self._seconds("run_seconds", "Time of a run", "model", "task")
        self.runs = self._counter(
            "runs", "Number of runs by the reason for their start: idle, full, next, alone", "model", "task", "reason"
        )
        self.failed = self._counter("failed_runs", "Number of runs that failed", "model", "task")
        self.queued = self._gauge("queued_rows", "Number of rows that are queued or running", "model")
        self.queued_bytes = self._gauge("queued_bytes", "Size of the inputs of queued and running rows, bytes", "model")
        self.ready = self._gauge(
            "model_ready", "1 if the model answers or loads at its first request", "model", "version"
        )
        self.broken = self._gauge(
            "model_failed",
            "1 if the model is unavailable because of a fault; 0 for a model that was unloaded or lacks an extra",
            "model",
            "version",
        )
        self.device = self._gauge("model_device", "1 for the device that a model runs on", "model", "version", "device")
        self.fallback = self._gauge(
            "device_fallback",
            "1 if device auto found no GPU and the model runs on the CPU, although its library supports GPUs",
            "model",
        )
        self.gpu = self._gauge(
            "gpu_memory_bytes",
            "Memory of a GPU that a model runs on, used by all processes, and in total",
            "gpu",
            "kind",
        )
        self.disk = self._gauge("disk_bytes", "Free and total size of the file system of a folder", "folder", "kind")
        self.connections = self._gauge("connections", "Number of open HTTP connections")
        self.cut = self._counter(
            "connections_cut", "Number of HTTP connections and gRPC calls that the service ended, by reason", "reason"
        )
        self.serving = self._gauge("ready", "1 if /health/ready reports ready")
        for counter, values in ((self.errors, ERRORS), (self.refused, REFUSED), (self.denied, DENIED), (self.cut, CUT)):
            for value in values:
                counter.labels(value)
        build = self._gauge(
            "build_info",
            "Versions of Manifold, Python and ONNX Runtime; the value is always 1",
            "version",
            "python",
            "onnxruntime",
        )
        build.labels(version("manifold"), platform.python_version(), _version_of_onnxruntime()).set(1)
        registry.listener = self.ran

    def _describe(self, name: str, kind: str, documentation: str, labels: tuple[str, ...]) -> None:
        self.described.append(Described(f"manifold_{name}", kind, documentation, labels))

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        self._describe(name, "counter", documentation, labels)
        return Counter(f"manifold_{name}", documentation, labels, registry=self.collected)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        self._describe(name, "gauge", documentation, labels)
        return Gauge(f"manifold_{name}", documentation, labels, registry=self.collected)

    def _histogram(self, name: str, documentation: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        self._describe(name, "histogram", documentation, labels)
        return Histogram(f"manifold_{name}", documentation, buckets, labels, self.collected)

    def _seconds(self, name: str, documentation: str, *labels: str) -> Histogram:
        return self._histogram(name, documentation, BUCKETS, *labels)

    def requested(self, route: str, status: int | str, seconds: float) -> None:
        """Count a request that was answered, with or without an error."""
        key = (route, status)
        if key not in self._requests:
            self._requests[key] = (self.requests.labels(route, str(status)), self.seconds.labels(route))
        counter, histogram = self._requests[key]
        counter.inc()
        histogram.observe(seconds)

    def erred(self, error: Exception) -> None:
        """Count a request that was refused or has failed. Errors that the client may not read are internal."""
        self.errors.labels(error.type if failures.is_public(error) else INTERNAL).inc()
        if isinstance(error, Busy):
            self.refused.labels(error.reason).inc()
        elif isinstance(error, Unauthorized | Forbidden):
            self.denied.labels(error.type).inc()
        elif isinstance(error, DeadlineExceeded):
            self.refused.labels("deadline").inc()
        elif isinstance(error, Unavailable) and self.models.stopped:
            self.refused.labels("stopping").inc()

    def asked(self, key: str) -> None:
        """Count a request by the id of its key. The page of metrics is public, so it contains no names."""
        self.by_key.labels(key).inc()

    def answered(self, answer: UseCaseResult, route: str, encode: float = 0.0) -> None:
        """Count the response of a use case. `encode` is in milliseconds."""
        self.timed(answer.entry, route, answer.queue, answer.compute, encode)
        if answer.judged is not None:
            self.scores.add(answer.entry, answer.judged.parts)

    def timed(self, entry: Entry, route: str, queue: float, compute: float, encode: float) -> None:
        """Observe the parts of the time of a response, in milliseconds."""
        key = (entry.name, route)
        if key not in self._answers:
            self._answers[key] = (self.queue.labels(*key), self.compute.labels(*key), self.encode.labels(*key))
        for histogram, milliseconds in zip(self._answers[key], (queue, compute, encode), strict=True):
            histogram.observe(milliseconds / 1000)

    def ran(self, entry: Entry, ran: Ran) -> None:
        """Count a run of the engine."""
        key = (entry.name, ran.task)
        if key not in self._tasks:
            self._tasks[key] = (
                self.run_rows.labels(*key),
                self.run_requests.labels(*key),
                self.run_seconds.labels(*key),
            )
        for histogram, value in zip(self._tasks[key], (ran.rows, ran.requests, ran.seconds), strict=True):
            histogram.observe(value)
        counted = (*key, ran.reason)
        if counted not in self._runs:
            self._runs[counted] = self.runs.labels(*counted)
        self._runs[counted].inc()
        if ran.failed:
            self.failed.labels(*key).inc()

    async def page_aside(self) -> bytes:
        """Return the page of metrics, written in a thread, because tests of scores and many models take long, and a disk may be slow.

        One page is written at a time, because all pages use the same gauges.
        """
        async with self._writing:
            ready = self.models.readiness()[0]
            return await aside(functools.partial(self.page, ready), pool="disk")

    def page(self, ready: bool | None = None) -> bytes:
        """Return the text for Prometheus. `ready` is the readiness, which only the event loop may compute."""
        for name, folder in (("models", self.models.settings.models_dir), ("temporary", tempfile.gettempdir())):
            try:
                total, _, free = map(float, shutil.disk_usage(folder))
            except OSError:  # the folder has vanished; the other metrics are still reported
                total = free = math.nan
            self.disk.labels(name, "free").set(free)
            self.disk.labels(name, "total").set(total)
        self.serving.set(self.models.readiness()[0] if ready is None else ready)
        for gauge in (self.ready, self.broken, self.queued, self.queued_bytes, self.fallback, self.device):
            gauge.clear()  # they may contain models that are gone
        for entry in self.models.shown:
            batcher, model = entry.batcher, entry.model  # the event loop may close them meanwhile
            self.ready.labels(entry.name, str(entry.version)).set(entry.state in SERVING)
            self.broken.labels(entry.name, str(entry.version)).set(entry.state == "unavailable" and not entry.intended)
            self.queued.labels(entry.name).set(batcher.rows if batcher else 0)
            self.queued_bytes.labels(entry.name).set(batcher.bytes if batcher else 0)
            self.fallback.labels(entry.name).set(bool(model and model.note))
            for task in entry.manifest.served if entry.manifest is not None else ():
                self.failed.labels(entry.name, task)  # starts at 0 before the first run
            if model is not None:
                self.device.labels(entry.name, str(entry.version), model.device).set(1)
            del batcher, model  # this thread must not hold the last reference to them
        if any(model is not None and model.device == "cuda" for model in [each.model for each in self.models.shown]):
            for gpu, (used, total) in enumerate(gpu_memory()):
                self.gpu.labels(str(gpu), "used").set(used)
                self.gpu.labels(str(gpu), "total").set(total)
        return generate_latest(self.collected)


def gpu_memory() -> list[tuple[int, int]]:
    """Return the used and total memory of each GPU, in bytes; an empty list without NVIDIA's library or its Python package."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    memory = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        info = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index))
        memory.append((int(info.used), int(info.total)))
    return memory


def _version_of_onnxruntime() -> str:
    """Return the version of the installed distribution of ONNX Runtime, or none."""
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "none"
