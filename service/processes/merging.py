"""The metrics of several workers, merged into those of one service.

Counters and histograms are summed, and so are gauges of resources that each worker has for itself. A gauge of a shared resource appears once:
its largest value or, if a large value is good, its smallest. The counts of workers that have ended are kept, so that no counter decreases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

# gauges of shared resources
LARGEST = (
    "manifold_build_info", "manifold_model_failed", "manifold_model_device", "manifold_device_fallback", "manifold_gpu_memory_bytes", "manifold_disk_bytes",
    "manifold_score_drift_ks", "process_max_fds", "python_info",
)  # fmt: skip
LEAST = ("manifold_ready", "manifold_model_ready", "manifold_score_drift_p_value", "process_start_time_seconds")

Key = tuple[str, tuple[tuple[str, str], ...]]


@dataclass
class MetricFamily:
    """A metric and its merged samples."""

    kind: str
    documentation: str
    samples: dict[Key, float] = field(default_factory=dict)


def parse(page: str) -> dict[str, MetricFamily]:
    """Return the metrics of a page by name."""
    return {
        metric.name: MetricFamily(
            metric.type, metric.documentation,
            {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in metric.samples},
        )
        for metric in text_string_to_metric_families(page)
    }  # fmt: skip


def merge(
    pages: Iterable[Mapping[str, MetricFamily]], ended: Iterable[Mapping[str, MetricFamily]] = ()
) -> dict[str, MetricFamily]:
    """Merge several pages, and add the counters in the pages of workers that have `ended`."""
    merged: dict[str, MetricFamily] = {}
    for page in pages:
        for name, family in page.items():
            into = merged.setdefault(name, MetricFamily(family.kind, family.documentation))
            for key, value in family.samples.items():
                into.samples[key] = _joined(name, into.samples[key], value) if key in into.samples else value
    for page in ended:
        for name, family in page.items():
            if family.kind in ("counter", "histogram"):
                into = merged.setdefault(name, MetricFamily(family.kind, family.documentation))
                for key, value in family.samples.items():
                    into.samples[key] = into.samples.get(key, 0.0) + value
    return merged


def _joined(name: str, one: float, other: float) -> float:
    if name in LARGEST:
        return max(one, other)
    return min(one, other) if name in LEAST else one + other


class _Merged:
    """A collector of merged metrics."""

    def __init__(self, families: Mapping[str, MetricFamily]) -> None:
        self.families = families

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics for Prometheus, without the start times of counters, which differ between processes."""
        for name, family in self.families.items():
            metric = Metric(name, family.documentation, family.kind)
            metric.samples = [
                Sample(key, dict(labels), value)
                for (key, labels), value in family.samples.items()
                if not key.endswith("_created")
            ]
            yield metric


def text(families: Mapping[str, MetricFamily]) -> bytes:
    """Return the page of metrics."""
    registry = CollectorRegistry()
    registry.register(_Merged(families))
    return generate_latest(registry)
