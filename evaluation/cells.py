"""The cells of a report's tables: figures as text with units, errors and bounds, beside the figures of real images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manifold.evaluation.report import Values

# units by metric; other metrics have none
UNITS = {"nll": "nats", "nll_se": "nats", "class_divergence": "nats", "bits_per_dim": "bits", "psnr": "dB"}
PAIRED = {"kid": "kid_se", "is_marginal": "is_marginal_sd", "is_prior": "is_prior_sd", "nll": "nll_se"}
LIKELIHOODS = ("nll", "bits_per_dim")
BITS = "bits_per_dim"
STORED = {
    "png_sheets": "PNG",
    "webp_sheets": "WebP",
    "jxl_sheets": "JPEG XL",
}  # the anchors of BITS: lossless codecs, on sheets of images
DISTANCES = ("fid", "fd_classifier")
LOWER = (
    "kid", "class_divergence", "duplicates", "nll", "bits_per_dim", "reconstruction_mse", "continuity", "continuity_95", "largest_step",
    *DISTANCES, *(f"{name}_infinity" for name in DISTANCES),
)  # fmt: skip
HIGHER = (
    "precision", "recall", "confident", "is_marginal", "is_prior", "class_accuracy", "least_class_share", "psnr", "code_usage",
    "code_perplexity", "mig", "dci_disentanglement", "dci_completeness", "dci_informativeness",
)  # fmt: skip
DIRECTIONS = {
    **dict.fromkeys(LOWER, "lower is better"),
    **dict.fromkeys(HIGHER, "higher is better"),
    "nearest_train_distance": "should not be far below the figure of test images",
}


def title(report: Values) -> str:
    """Return the model's name, version and prior."""
    version = f" {report['version']}" if "version" in report else ""
    prior = f", prior {report['prior']}" if "prior" in report else ""
    return f"{report['model']}{version}{prior}"


def directed(name: str) -> str:
    """Return the name of a metric with the direction in which it is better, such as "kid (lower is better)"."""
    return f"{name} ({DIRECTIONS[name]})" if name in DIRECTIONS else name


def shown(name: str, metrics: Values) -> str:
    """Return a figure as text, with its error if it has one."""
    text = f"{metrics[name]:.4g}"
    return f"{text} ± {metrics[PAIRED[name]]:.2g}" if PAIRED.get(name) in metrics else text


def bounded(name: str, report: Values) -> str:
    """Return a figure as text, with ≤ if it is an upper bound."""
    bound = report["details"].get(name, {}).get("bound", "exact") if name in LIKELIHOODS else "exact"
    return ("" if bound == "exact" else "≤ ") + shown(name, report["metrics"])


def metric_rows(report: Values) -> list[tuple[str, str, str]]:
    """Return for each metric its name with its direction, its value with unit, and the figure of real images (empty if unknown)."""
    anchors = _anchors(report["anchors"])
    return [
        (directed(name), " ".join([bounded(name, report), UNITS.get(name, "")]).strip(), anchors.get(name, ""))
        for name in report["metrics"]
        if name not in PAIRED.values()
    ]


def _anchors(anchors: Values) -> dict[str, str]:
    """Return the figures of real images as text, by metric."""
    perfect = anchors.get("perfect_generator", {})
    floor = perfect.get("resampled", perfect.get("closed_form"))
    distances = [
        _anchor(anchors, "train_vs_test", "training images against test images"),
        f"perfect generator {floor:.4g}" if floor is not None else "",
    ]
    stored = of_codecs(anchors)
    return {
        BITS: f"lossless, on sheets: {stored}" if stored else "",
        "kid": _anchor(anchors, "train_vs_test_kid", "training images against test images"),
        "is_marginal": _anchor(anchors, "test_is_marginal", "test images"),
        "is_prior": _anchor(anchors, "test_is_prior", "test images"),
        "class_accuracy": _anchor(anchors, "test_class_accuracy", "test images"),
        "confident": _anchor(anchors, "test_confident", "test images"),
        "nearest_train_distance": _anchor(anchors, "test_nearest_train_distance", "test images"),
        **dict.fromkeys(DISTANCES, ", ".join(text for text in distances if text)),
    }


def of_codecs(anchors: Values) -> str:
    """Return the bits per dimension of lossless codecs as text, such as "PNG 1.67, WebP 1.51, JPEG XL 1.47"; empty if they are unknown."""
    return ", ".join(f"{title} {anchors[name][BITS]:.3g}" for name, title in STORED.items() if name in anchors)


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
