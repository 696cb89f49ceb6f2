"""Prometheus metrics, in a registry that is handed in: nothing happens on import."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric

from runtime.drift import Recent
from service.handlers import Answer
from service.registry import Entry, Registry

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
P_VALUES = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.8, 1.0)


class Scores:
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
        """What Prometheus reads."""
        labels = ("model", "version", "part")
        p_values = HistogramMetricFamily("manifold_score_p_value", "p-values of scored rows: even, where nothing has changed", labels=labels)  # fmt: skip
        statistic = GaugeMetricFamily("manifold_score_drift_ks", "Kolmogorov-Smirnov distance of recent scores from calibration", labels=labels)  # fmt: skip
        chance = GaugeMetricFamily(
            "manifold_score_drift_p_value", "Of that distance, were nothing changed", labels=labels
        )
        rows = GaugeMetricFamily("manifold_score_drift_rows", "Recent rows behind it", labels=labels)
        with self._lock:
            for key, part in self._parts.items():
                bounds = [*map(str, P_VALUES[:-1]), "+Inf"]
                p_values.add_metric(key, list(zip(bounds, np.cumsum(part.counts).tolist(), strict=True)), part.total)
                if (found := part.recent.against(part.sample)) is not None:
                    statistic.add_metric(key, found.statistic)
                    chance.add_metric(key, found.p_value)
                    rows.add_metric(key, found.n)
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


class Metrics:
    """What the service counts."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, registry: Registry) -> None:
        self.collected = CollectorRegistry()
        ProcessCollector(registry=self.collected)
        self.models, self.scores = registry, Scores()
        self.collected.register(self.scores)
        self.requests = Counter(
            "manifold_requests", "Requests by route and status", ["route", "status"], registry=self.collected
        )
        self.seconds = Histogram(
            "manifold_request_seconds",
            "From the first byte to the last",
            ["route"],
            registry=self.collected,
            buckets=BUCKETS,
        )
        self.refused = Counter("manifold_errors", "Errors by type", ["type"], registry=self.collected)
        labels = ["model", "route"]
        self.queue = Histogram(
            "manifold_queue_seconds", "Waiting for a worker", labels, registry=self.collected, buckets=BUCKETS
        )
        self.compute = Histogram(
            "manifold_compute_seconds", "Running graphs", labels, registry=self.collected, buckets=BUCKETS
        )
        self.queued = Gauge(
            "manifold_queued_rows", "Rows accepted and not yet answered", ["model"], registry=self.collected
        )
        self.ready = Gauge(
            "manifold_model_ready", "1 where the model answers", ["model", "version"], registry=self.collected
        )
        self.fallback = Gauge(
            "manifold_device_fallback", "1 where `auto` fell back to the CPU", ["model"], registry=self.collected
        )

    def answered(self, answer: Answer, route: str) -> None:
        """One use case was answered."""
        self.queue.labels(answer.entry.name, route).observe(answer.queue / 1000)
        self.compute.labels(answer.entry.name, route).observe(answer.compute / 1000)
        if answer.judged is not None:
            self.scores.add(answer.entry, answer.judged.parts)

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        for entry in self.models.shown:
            self.ready.labels(entry.name, str(entry.version)).set(entry.state == "ready")
            self.queued.labels(entry.name).set(entry.batcher.rows if entry.batcher else 0)
            self.fallback.labels(entry.name).set(bool(entry.model and entry.model.note))
        return generate_latest(self.collected)
