"""Metrics of several workers as those of one service: their pages, merged.

Counters and histograms add up, and so do gauges of what each worker has for itself. What is said of the same thing by all is said once: the
most of it, or, where it is good news, the least. What workers had counted that have ended since is kept, so that no counter goes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

# gauges about what workers share, or that each says of all
LARGEST = (
    "manifold_build_info", "manifold_model_device", "manifold_device_fallback", "manifold_gpu_memory_bytes", "manifold_disk_bytes",
    "manifold_score_drift_ks", "process_max_fds", "python_info",
)  # fmt: skip
LEAST = ("manifold_ready", "manifold_model_ready", "manifold_score_drift_p_value", "process_start_time_seconds")

Key = tuple[str, tuple[tuple[str, str], ...]]


@dataclass
class MetricFamily:
    """A metric, with what its samples have come to so far."""

    kind: str
    documentation: str
    samples: dict[Key, float] = field(default_factory=dict)


def parse(page: str) -> dict[str, MetricFamily]:
    """A page by the names of its metrics."""
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
    """One page of several, and what pages of workers that have ended add to its counters."""
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
    """A collector of what there is already."""

    def __init__(self, families: Mapping[str, MetricFamily]) -> None:
        self.families = families

    def collect(self) -> Iterator[Metric]:
        """Yield the families for Prometheus, without the times at which counters began, as they began in several processes."""
        for name, family in self.families.items():
            metric = Metric(name, family.documentation, family.kind)
            metric.samples = [
                Sample(key, dict(labels), value)
                for (key, labels), value in family.samples.items()
                if not key.endswith("_created")
            ]
            yield metric


def text(families: Mapping[str, MetricFamily]) -> bytes:
    """The page."""
    registry = CollectorRegistry()
    registry.register(_Merged(families))
    return generate_latest(registry)
