"""Prometheus metrics, in a registry that is handed in: nothing happens on import."""

from __future__ import annotations

import asyncio
import functools
import math
import platform
import shutil
import tempfile
import threading
from collections.abc import Iterator
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
# label values that are known beforehand: each series begins at 0, so that Prometheus sees the first event as an increase
INTERNAL = "internal"
ERRORS = (*sorted(kind("").type for kind in failures.PUBLIC), "method_not_allowed", INTERNAL)
REFUSED = ("rows", "bytes", "wait", "rate", "bodies", "commands", "calls", "probes", "watches", "deadline", "stopping")
DENIED = ("unauthorized", "forbidden")
CUT = ("slow_head", "slow_body", "slow_reader", "head_too_large", "malformed", "too_many", "bodies", "old_watch")
P_VALUES = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.8, 1.0)


class ScoreMetrics:
    """Histograms of p-values by model and part, and how far recent scores lie from the calibration sample.

    A collector of its own: a request may bring a thousand rows, which are counted at once and not one by one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: dict[tuple[str, str, str], _Part] = {}

    def add(self, entry: Entry, parts: dict[str, tuple[NDArray[np.float64], NDArray[np.float64] | None]]) -> None:
        """Rows were scored: values and p-values (n,) of each part."""
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
        labels = ("model", "version", "part")
        p_values = HistogramMetricFamily("manifold_score_p_value", "p-values of scored rows: even, where nothing has changed", labels=labels)  # fmt: skip
        statistic = GaugeMetricFamily("manifold_score_drift_ks", "Kolmogorov-Smirnov distance of recent scores from calibration", labels=labels)  # fmt: skip
        chance = GaugeMetricFamily(
            "manifold_score_drift_p_value", "Of that distance, were nothing changed", labels=labels
        )
        rows = GaugeMetricFamily("manifold_score_drift_rows", "Recent rows behind it", labels=labels)
        with self._lock:  # as short as can be: requests wait for it
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
    """One term of one model."""

    def __init__(self, sample: NDArray[np.float64]) -> None:
        self.sample, self.recent = sample, Recent()
        self.counts, self.total = np.zeros(len(P_VALUES), np.int64), 0.0

    def add(self, values: NDArray[np.float64], p: NDArray[np.float64]) -> None:
        self.recent.add(values)
        self.counts += np.bincount(np.searchsorted(P_VALUES, p, side="left"), minlength=len(P_VALUES))
        self.total += float(p.sum())

    def copy(self) -> _Part:
        """Return what has been counted so far."""
        copied = _Part(self.sample)
        copied.recent, copied.counts, copied.total = self.recent.copy(), self.counts.copy(), self.total
        return copied


class Metrics:
    """Metrics of the service."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, registry: Registry) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the counters, and the page of several workers has none
        self.collected = CollectorRegistry()
        ProcessCollector(registry=self.collected)
        GCCollector(registry=self.collected)
        self.models, self.scores, self._writing = registry, ScoreMetrics(), asyncio.Lock()
        self.collected.register(self.scores)
        # finding a labelled child takes longer than counting: the ones in use are kept
        self._requests: dict[tuple[str, int | str], tuple[Counter, Child]] = {}
        self._answers: dict[tuple[str, str], tuple[Child, Child, Child]] = {}
        self._tasks: dict[tuple[str, str], tuple[Child, Child, Child]] = {}
        self._runs: dict[tuple[str, str, str], Counter] = {}
        self.requests = self._counter("requests", "Requests by route and status", "route", "status")
        self.seconds = self._seconds("request_seconds", "From the first byte to the last", "route")
        self.errors = self._counter("errors", "Errors by type", "type")
        self.refused = self._counter(
            "refused",
            "Requests that a limit kept out: rows, bytes, wait, rate, bodies, calls, probes, watches, deadline, stopping",
            "reason",
        )
        self.denied = self._counter("denied", "Requests without a key that may do that", "type")
        self.by_key = self._counter(
            "key_requests", "Requests by the id of their key, the first digits of its SHA-256", "key"
        )
        self.queue = self._seconds("queue_seconds", "Of a request: waiting for the engine", "model", "route")
        self.compute = self._seconds("compute_seconds", "Of a request: runs that its rows were in", "model", "route")
        self.encode = self._seconds("encode_seconds", "Of a request: writing the answer", "model", "route")
        self.run_rows = self._histogram("run_rows", "Rows of a run", SIZES, "model", "task")
        self.run_requests = self._histogram("run_requests", "Requests of a run", SIZES, "model", "task")
        self.run_seconds = self._seconds("run_seconds", "Of a run", "model", "task")
        self.runs = self._counter(
            "runs", "Runs by why they went when they did: idle, full, next, alone", "model", "task", "reason"
        )
        self.failed = self._counter("failed_runs", "Runs that raised an error", "model", "task")
        self.queued = self._gauge("queued_rows", "Rows accepted and not yet answered", "model")
        self.queued_bytes = self._gauge("queued_bytes", "Their inputs", "model")
        self.ready = self._gauge("model_ready", "1 where the model answers", "model", "version")
        self.device = self._gauge("model_device", "1 for the device that a model runs on", "model", "version", "device")
        self.fallback = self._gauge("device_fallback", "1 where `auto` fell back to the CPU", "model")
        self.gpu = self._gauge("gpu_memory_bytes", "Of a GPU that a model runs on, by all processes", "gpu", "kind")
        self.disk = self._gauge("disk_bytes", "Of the file system that a folder is on", "folder", "kind")
        self.connections = self._gauge("connections", "Open HTTP connections")
        self.cut = self._counter(
            "connections_cut", "Connections over HTTP and calls over gRPC that the service ended, by why", "reason"
        )
        self.serving = self._gauge("ready", "1 where /health/ready says so")
        for counter, values in ((self.errors, ERRORS), (self.refused, REFUSED), (self.denied, DENIED), (self.cut, CUT)):
            for value in values:
                counter.labels(value)
        build = self._gauge("build_info", "What is running", "version", "python", "onnxruntime")
        build.labels(version("manifold"), platform.python_version(), _version_of_onnxruntime()).set(1)
        registry.listener = self.ran

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(f"manifold_{name}", documentation, labels, registry=self.collected)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(f"manifold_{name}", documentation, labels, registry=self.collected)

    def _histogram(self, name: str, documentation: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"manifold_{name}", documentation, buckets, labels, self.collected)

    def _seconds(self, name: str, documentation: str, *labels: str) -> Histogram:
        return self._histogram(name, documentation, BUCKETS, *labels)

    def requested(self, route: str, status: int | str, seconds: float) -> None:
        """A request was answered, with an error or without."""
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
        """Count a request by the id of its key: the page is open, so that it shows no names."""
        self.by_key.labels(key).inc()

    def answered(self, answer: UseCaseResult, route: str, encode: float = 0.0) -> None:
        """A use case was answered; `encode` is in milliseconds, as the answer's own times are."""
        self.timed(answer.entry, route, answer.queue, answer.compute, encode)
        if answer.judged is not None:
            self.scores.add(answer.entry, answer.judged.parts)

    def timed(self, entry: Entry, route: str, queue: float, compute: float, encode: float) -> None:
        """Observe the parts of an answer's time, in milliseconds."""
        key = (entry.name, route)
        if key not in self._answers:
            self._answers[key] = (self.queue.labels(*key), self.compute.labels(*key), self.encode.labels(*key))
        for histogram, milliseconds in zip(self._answers[key], (queue, compute, encode), strict=True):
            histogram.observe(milliseconds / 1000)

    def ran(self, entry: Entry, ran: Ran) -> None:
        """The engine has made a run."""
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
        """Return what `page` does, written in a thread: tests of scores and many models take long, and a disk may not answer.

        One page is written at a time: they fill the same gauges.
        """
        async with self._writing:
            ready = self.models.readiness()[0]
            return await aside(functools.partial(self.page, ready), pool="disk")

    def page(self, ready: bool | None = None) -> bytes:
        """The text that Prometheus reads. `ready` is what /health/ready says, which the event loop knows."""
        for name, folder in (("models", self.models.settings.models_dir), ("temporary", tempfile.gettempdir())):
            try:
                total, _, free = map(float, shutil.disk_usage(folder))
            except OSError:  # taken away while the service runs: everything else is still to be told
                total = free = math.nan
            self.disk.labels(name, "free").set(free)
            self.disk.labels(name, "total").set(total)
        self.serving.set(self.models.readiness()[0] if ready is None else ready)
        for gauge in (self.ready, self.queued, self.queued_bytes, self.fallback, self.device):
            gauge.clear()  # of models that are gone
        for entry in self.models.shown:
            batcher, model = entry.batcher, entry.model  # which the event loop may take away meanwhile
            self.ready.labels(entry.name, str(entry.version)).set(entry.state in SERVING)
            self.queued.labels(entry.name).set(batcher.rows if batcher else 0)
            self.queued_bytes.labels(entry.name).set(batcher.bytes if batcher else 0)
            self.fallback.labels(entry.name).set(bool(model and model.note))
            for task in entry.manifest.tasks if entry.manifest is not None else ():
                self.failed.labels(entry.name, task)  # begins at 0 before the first run
            if model is not None:
                self.device.labels(entry.name, str(entry.version), model.device).set(1)
            del batcher, model  # the last reference to them is not to be this thread's
        if any(model is not None and model.device == "cuda" for model in [each.model for each in self.models.shown]):
            for gpu, (used, total) in enumerate(gpu_memory()):
                self.gpu.labels(str(gpu), "used").set(used)
                self.gpu.labels(str(gpu), "total").set(total)
        return generate_latest(self.collected)


def gpu_memory() -> list[tuple[int, int]]:
    """Return the bytes used and in all, of each GPU; an empty list without NVIDIA's library or its Python package."""
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
    """Return the version of either of the distributions that hold the module."""
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "none"
