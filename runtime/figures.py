"""The figures of an artifact as text: how well it does, from the metrics of its manifest. The catalogue and the service show them.

The metrics come from three sources, each with its own protocol: training (on the test split), `manifold evaluate --record` (with the figures of
real images) and `manifold fit`. A rule makes one group of figures from them, such as the bounds of a likelihood. runtime.manifest.figures defines
the names of metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from manifold.runtime.manifest import Manifest, Metric
from manifold.runtime.manifest import figures as naming
from manifold.runtime.manifest.figures import BITS, DISTANCES, EVALUATED, STORED
from manifold.runtime.scores import measured

Better = Literal["lower", "higher"]
ARROWS: dict[Better | None, str] = {"lower": " ↓", "higher": " ↑", None: ""}
STATED_RATE = 0.01  # the requested false positive rate of the figure


@dataclass(frozen=True)
class Figure:
    """A figure as text, the direction in which it is better, and a note that follows the direction, such as the figures of codecs."""

    value: str
    better: Better | None
    note: str = ""

    def marked(self) -> str:
        """Return the figure with an arrow for its direction."""
        return f"{self.value}{ARROWS[self.better]}{_after(self.note)}"


@dataclass(frozen=True)
class Group:
    """Figures that are read together. `about` stands before them and `note` after them; both hold for each of them."""

    figures: tuple[Figure, ...]
    about: str = ""
    note: str = ""

    def marked(self) -> str:
        """Return the figures as one text, with an arrow for the direction of each."""
        return f"{self.about}{', '.join(each.marked() for each in self.figures)}{_after(self.note)}"

    def stated(self) -> list[dict[str, str | None]]:
        """Return each figure alone, as `text` without an arrow and the direction in which it is `better`."""
        return [
            {"text": f"{self.about}{each.value}{_after(each.note)}{_after(self.note)}", "better": each.better}
            for each in self.figures
        ]


Rule = Callable[[Manifest], Group | None]


def groups(manifest: Manifest) -> list[Group]:
    """Return the figures of an artifact in the order of a table's row: likelihood, samples, classes, anomalies."""
    return _made(manifest, RULES)


def headline(manifest: Manifest) -> list[Group]:
    """Return the most important figures: the quality of samples if it is known, else the likelihood or the detection of anomalies."""
    found = _made(manifest, (_distance, _requested, _anomalies, _accuracy, _likelihood))
    return found[: 2 if _requested(manifest) else 1]


def stated(manifest: Manifest) -> list[dict[str, str | None]]:
    """Return all figures as `text` and `better`, those of the headline first."""
    first = headline(manifest)
    ordered = [*first, *(group for group in groups(manifest) if group not in first)]
    return [figure for group in ordered for figure in group.stated()]


def first(manifest: Manifest, name: str) -> Metric | None:
    """Return a metric by name; that of the default prior if there are several."""
    found = sorted(
        (metric for metric in manifest.metrics if metric.name == name), key=lambda each: not _is_default(manifest, each)
    )
    return found[0] if found else None


def named(metric: Metric) -> str:
    """Return the name of a Fréchet distance as text."""
    return "Fréchet distance" if metric.name == "fd_classifier" else metric.name


def of_codecs(anchors: Mapping[str, Any]) -> str:
    """Return the bits per dimension of lossless codecs as text, such as "PNG 1.67, WebP 1.51, JPEG XL 1.47"; empty if they are unknown."""
    return ", ".join(f"{title} {anchors[name][BITS]:.3g}" for name, title in STORED.items() if name in anchors)


def _made(manifest: Manifest, rules: tuple[Rule, ...]) -> list[Group]:
    return [group for rule in rules if (group := rule(manifest)) is not None]


def _after(note: str) -> str:
    return f" ({note})" if note else ""


def _is_default(manifest: Manifest, metric: Metric) -> bool:
    return metric.protocol.get("prior") == (manifest.space.prior if manifest.space else None)


# --- likelihood ---------------------------------------------------------------------------------------------------------------


def _likelihood(manifest: Manifest) -> Group | None:
    bounds = ("nll", "elbo", "iwae")
    found = [
        metric
        for metric in manifest.metrics
        if naming.is_likelihood(metric.name) and metric.name.endswith((*naming.FORMS, *naming.GIVEN))
    ]
    # the density of a flow is that of dequantised levels, which is a looser figure than that of the levels
    if any("_levels" in metric.name for metric in found):
        found = [metric for metric in found if "_density" not in metric.name]
    # those of the training first, as they have the same form of x, and of these the ones of p(x)
    found.sort(key=lambda metric: (metric.protocol.get("by") == EVALUATED, metric.name.endswith(naming.GIVEN)))
    by_bound = {bound: next((each for each in found if each.name.startswith(bound)), None) for bound in bounds}
    parts = [_nats(manifest, metric) for metric in by_bound.values() if metric is not None]
    bits = first(manifest, BITS)
    if bits is not None and any(metric.name.endswith(("levels", "density", "static")) for metric in found):
        parts.append(Figure(f"{bits.value:.2f} bits/dim", "lower", _beside(manifest, bits)))
    observed = next((each for metric in found if (each := _observed(metric))), None)
    return Group(tuple(parts), note=observed or "") if parts else None


def _observed(metric: Metric) -> str | None:
    """Return what a likelihood is the likelihood of, such as pixels at 256 levels."""
    stated = naming.statement(metric.protocol)
    return next((str(stated[key]) for key in ("binarisation", "observed") if key in stated), None)


def _error(manifest: Manifest, metric: Metric) -> float | None:
    """Return the standard error of a figure, which an evaluation records as a figure of its own."""
    if metric.se is not None:
        return metric.se
    keys = ("by", "prior", "common")
    own = [metric.protocol.get(key) for key in keys]
    beside = (each for each in manifest.metrics if each.name == metric.name + naming.SE)
    return next((each.value for each in beside if [each.protocol.get(key) for key in keys] == own), None)


def _nats(manifest: Manifest, metric: Metric) -> Figure:
    """Return a likelihood in nats, with its standard error if it is known."""
    se = _error(manifest, metric)
    error = f" ± {se:.2g}" if se is not None else ""
    name, _, given = metric.name.partition("_given_")
    bound = "NLL" if name.startswith("nll") else name.rpartition("_")[0].upper().replace("_", "-")
    is_exact = bound == "NLL" and naming.statement(metric.protocol).get("bound", "exact") == "exact"
    condition = f" given the {given}" if given else ""
    text = f"{bound} {metric.value:.1f}{error} nats{condition}{' (exact)' if is_exact else ''}"
    return Figure(text, "lower" if bound == "NLL" else "higher")


def _beside(manifest: Manifest, bits: Metric) -> str:
    """Return the bits per dimension of lossless codecs: those recorded with the figure, else those of unrounded images."""
    others = [metric for metric in manifest.metrics if metric.name == BITS and metric is not bits]
    stored = _stored(bits) or next(
        (each for metric in others if (each := _stored(metric)) and not _is_rounded(each)), {}
    )
    return of_codecs(stored)


def _stored(metric: Metric) -> dict[str, Any]:
    """Return the figures of lossless codecs that a metric's protocol records."""
    anchors = metric.protocol.get("anchors")
    if not isinstance(anchors, dict):
        return {}
    # a manifest that was made elsewhere may state anything here
    return {
        key: value
        for key, value in anchors.items()
        if key in STORED and isinstance(value, dict) and isinstance(value.get(BITS), int | float)
    }


def _is_rounded(stored: dict[str, Any]) -> bool:
    return any("rounding" in each for each in stored.values())


def _reconstruction(manifest: Manifest) -> Group | None:
    alone = first(manifest, "reconstruction")
    if alone is None or any(naming.is_likelihood(metric.name) for metric in manifest.metrics):
        return None
    return Group((Figure(f"reconstruction {alone.value:.1f} nats", "lower"),))


# --- samples ------------------------------------------------------------------------------------------------------------------


def _distance(manifest: Manifest) -> Group | None:
    """Return the Fréchet distances as one figure, that of the default prior first."""
    distances = [metric for metric in manifest.metrics if metric.name in DISTANCES]
    if not distances:
        return None
    distances.sort(key=lambda metric: not _is_default(manifest, metric))
    values = [f"{metric.value:.3g}{_of_prior(metric, len(distances))}" for metric in distances]
    return Group((Figure(f"{named(distances[0])} {', '.join(values)}", "lower", _resized(distances[0])),))


def _resized(metric: Metric) -> str:
    """Return a note about images that were resized before they were measured. Such figures are not comparable with others."""
    common = metric.protocol.get("common")
    resize = common.get("resize", "none") if isinstance(common, dict) else "none"
    return f"images resized, {resize}" if metric.name == "fd_classifier" and resize != "none" else ""


def _of_prior(metric: Metric, number: int) -> str:
    prior = metric.protocol.get("prior")
    return f" ({prior} prior)" if prior and number > 1 else ""


def _share(name: str, text: str) -> Rule:
    def rule(manifest: Manifest) -> Group | None:
        metric = first(manifest, name)
        return Group((Figure(f"{text} {metric.value:.1%}", "higher"),)) if metric else None

    return rule


# --- classes and anomalies ----------------------------------------------------------------------------------------------------


def _accuracy(manifest: Manifest) -> Group | None:
    right, error = first(manifest, "accuracy"), first(manifest, "calibration_error")
    if right is None:
        return None
    beside = (Figure(f"calibration error {error.value:.3f}", "lower"),) if error else ()
    return Group((Figure(f"accuracy {right.value:.1%}", "higher"), *beside))


def _anomalies(manifest: Manifest) -> Group | None:
    area, recall = first(manifest, "auroc"), first(manifest, "found_at_1%")
    if area is None:
        return None
    against = f"{area.protocol['against']} as anomalies" if area.protocol.get("against") else "known anomalies"
    beside = (Figure(f"recall {recall.value:.0%} at 1% FPR", "higher"),) if recall else ()
    return Group((Figure(f"AUROC {area.value:.3f}", "higher"), *beside), about=f"{against}: ")


def _false_alarms(manifest: Manifest) -> Group | None:
    """Return the measured false positive rate for a requested 1%, with its interval; None if it was not measured."""
    found = measured.of(manifest)
    rate = next((rate for rate in found.rates if rate.requested == STATED_RATE), None)
    if rate is None:
        return None
    beyond = sum(each.outside for each in found.rates)
    parts = [
        f"false alarms at {STATED_RATE:.0%}: {rate.measured:.2%} ({measured.interval_text(rate.measured, rate.interval)})",
        *([f"{beyond} of {len(found.rates)} rates outside"] if beyond else []),
        *(["not exchangeable"] if found.shift else []),
    ]
    return Group((Figure(", ".join(parts), None),))


_requested = _share("class_accuracy", "requested class recognised")
RULES: tuple[Rule, ...] = (
    _likelihood, _reconstruction, _distance, _requested, _share("least_class_share", "rarest class"), _share("confident", "recognisable"),
    _share("code_usage", "codes used"), _accuracy, _anomalies, _false_alarms,
)  # fmt: skip
