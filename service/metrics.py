"""Prometheus metrics, in a registry that is handed in: nothing happens on import."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from service.handlers import Answer
from service.registry import Registry

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """What the service counts."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, registry: Registry) -> None:
        self.collected = CollectorRegistry()
        ProcessCollector(registry=self.collected)
        self.models = registry
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

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        for entry in self.models.shown:
            self.ready.labels(entry.name, str(entry.version)).set(entry.state == "ready")
            self.queued.labels(entry.name).set(entry.batcher.rows if entry.batcher else 0)
            self.fallback.labels(entry.name).set(bool(entry.model and entry.model.note))
        return generate_latest(self.collected)
