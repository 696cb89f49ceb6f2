"""The cells of a report's tables: figures as text with units, errors and bounds, beside the figures of real images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manifold.evaluation.report import Values
from manifold.runtime.figures import of_codecs
from manifold.runtime.manifest import figures
from manifold.runtime.manifest.figures import BITS, DISTANCES

# units by metric; other metrics have none
UNITS = {"class_divergence": "nats", "bits_per_dim": "bits", "bits_per_dim_se": "bits", "psnr_mean": "dB"}
PAIRED = {
    "is_marginal": "is_marginal_sd",
    "is_prior": "is_prior_sd",
}  # the deviation of a figure; its standard error is NAME_se
LOWER = (
    "kid", "class_divergence", "duplicates", "bits_per_dim", "reconstruction_mse", "continuity", "continuity_95", "largest_step",
    *DISTANCES, *(f"{name}_infinity" for name in DISTANCES),
)  # fmt: skip
HIGHER = (
    "precision", "recall", "confident", "is_marginal", "is_prior", "class_accuracy", "least_class_share", "psnr_mean", "code_usage",
    "code_perplexity", "mig", "dci_disentanglement", "dci_completeness", "dci_informativeness",
)  # fmt: skip
DIRECTIONS = {
    **dict.fromkeys(LOWER, "lower is better"),
    **dict.fromkeys(HIGHER, "higher is better"),
    "nearest_train_distance": "should not be far below the figure of real images",
}


def title(report: Values) -> str:
    """Return the model's name, version and prior, and the numbers that it had as inputs."""
    version = f" {report['version']}" if "version" in report else ""
    prior = f", prior {report['prior']}" if "prior" in report else ""
    numbers = "".join(f", {name} {value:g}" for name, value in report.get("protocol", {}).get("numbers", {}).items())
    return f"{report['model']}{version}{prior}{numbers}"


def unit_of(name: str) -> str:
    """Return the unit of a metric; empty if it has none."""
    return "nats" if figures.is_likelihood(name) else UNITS.get(name, "")


def error_of(name: str) -> str:
    """Return the name of the metric that is the error of another one."""
    return PAIRED.get(name, name + figures.SE)


def direction_of(name: str) -> str | None:
    """Return the direction in which a metric is better; None if there is none."""
    if figures.is_likelihood(name):
        return "lower is better" if name.startswith("nll") else "higher is better"
    return DIRECTIONS.get(name)


def directed(name: str) -> str:
    """Return the name of a metric with the direction in which it is better, such as "kid (lower is better)"."""
    direction = direction_of(name)
    return f"{name} ({direction})" if direction else name


def shown(name: str, metrics: Values) -> str:
    """Return a figure as text, with its error if it has one."""
    text, error = f"{metrics[name]:.4g}", error_of(name)
    return f"{text} ± {metrics[error]:.2g}" if error in metrics else text


def bounded(name: str, report: Values) -> str:
    """Return a figure as text, with ≤ if it is an upper bound."""
    bound = report["details"].get(name, {}).get("bound", "exact") if name == "bits_per_dim" else "exact"
    return ("" if bound == "exact" else "≤ ") + shown(name, report["metrics"])


def metric_rows(report: Values) -> list[tuple[str, str, str]]:
    """Return for each metric its name with its direction, its value with unit, and the figure of real images (empty if unknown)."""
    anchors = _anchors(report["anchors"], split_of(report))
    errors = {error_of(name) for name in report["metrics"]}
    return [
        (directed(name), " ".join([bounded(name, report), unit_of(name)]).strip(), anchors.get(name, ""))
        for name in report["metrics"]
        if name not in errors
    ]


def split_of(report: Values) -> str:
    """Return the name of the split that generated images are compared with: test, or selection."""
    reference = report["protocol"].get("reference")
    return str(reference.get("split", "test")) if isinstance(reference, Mapping) else "test"


def _anchors(anchors: Values, split: str) -> dict[str, str]:
    """Return the figures of real images as text, by metric. `split` is the split of the real images."""
    perfect = anchors.get("perfect_generator", {})
    floor = perfect.get("resampled", perfect.get("closed_form"))
    distances = [
        _anchor(anchors, "train_vs_test", f"training images against {split} images"),
        f"perfect generator {floor:.4g}" if floor is not None else "",
    ]
    stored = of_codecs(anchors)
    return {
        BITS: f"lossless, on sheets: {stored}" if stored else "",
        "kid": _anchor(anchors, "train_vs_test_kid", f"training images against {split} images"),
        "is_marginal": _anchor(anchors, "test_is_marginal", f"{split} images"),
        "is_prior": _anchor(anchors, "test_is_prior", f"{split} images"),
        "class_accuracy": _anchor(anchors, "test_class_accuracy", f"{split} images"),
        "confident": _anchor(anchors, "test_confident", f"{split} images"),
        "nearest_train_distance": _anchor(anchors, "test_nearest_train_distance", f"{split} images"),
        **dict.fromkeys(DISTANCES, ", ".join(text for text in distances if text)),
    }


def _anchor(anchors: Values, key: str, label: str) -> str:
    return f"{label} {anchors[key]:.4g}" if key in anchors else ""


def cell(value: Any) -> str:
    """Return one value of a class's row as text."""
    return "" if value is None else value if isinstance(value, str) else f"{value:.4g}"


def plain(value: Any) -> str:
    """Return a value of a protocol as text. Checksums are shortened."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(part)}" for key, part in value.items())
    return str(value)[:16] + "…" if isinstance(value, str) and len(value) == 64 else str(value)


def whole(value: Any) -> str:
    """Return a value of a protocol as text. Nothing is shortened."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {whole(part)}" for key, part in value.items())
    return str(value)
