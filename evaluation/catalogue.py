"""The tables and the page of a folder of artifacts, written from their manifests: what each artifact is, what it can do, and how well.

The figures of an artifact come from three sources, each with its own protocol: training (on the test split), `manifold evaluate --record` (with the
figures of real images) and `manifold fit`. Each figure has an arrow that says which direction is better.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from manifold.evaluation import rates
from manifold.evaluation.cells import BITS, DISTANCES, STORED, of_codecs
from manifold.evaluation.recording import RECORDED
from manifold.runtime import manifest as manifests
from manifold.runtime import repository, shipped
from manifold.runtime.errors import InvalidValue
from manifold.runtime.manifest import Manifest, Metric
from manifold.runtime.manifest import figures as naming
from manifold.runtime.operations import endpoints
from manifold.runtime.scores import measured

BEGIN, END = "<!-- models: written by `manifold catalogue` -->", "<!-- end of models -->"
MIB = 1024 * 1024
PREVIEW = "preview.png"
STATED_RATE = 0.01  # the requested false positive rate in the table


def artifacts(root: Path) -> list[tuple[Path, Manifest]]:
    """Return the latest version of each shipped artifact, with its folder, by data set and name."""
    pairs = [(folder, manifests.read(folder)) for folder in shipped.latest(root).values()]
    return sorted(pairs, key=lambda pair: (_data(pair[1]), "features" in pair[1].tasks, pair[1].name))


def table(root: Path) -> str:
    """Return a Markdown table with a row for each artifact."""
    lines = ["| model | description | figures |", "|---|---|---|"]
    for _, manifest in artifacts(root):
        name = f"[`{manifest.name}`](#{manifest.name})"
        lines.append(f"| {name} | {manifest.description.rstrip('.')} | {'; '.join(figures(manifest))} |")
    return "\n".join(lines)


def featured(root: Path, names: Iterable[str], beside: Path) -> str:
    """Return a short Markdown table of some artifacts, in the order of `names`, with pictures. Links are relative to the folder `beside`."""
    lines = ["| model | kind | data | samples | main figure |", "|---|---|---|---|---|"]
    folders = shipped.latest(root)
    for name in names:
        folder = folders.get(name) or repository.find(name, root)
        manifest = manifests.read(folder)
        kind = manifest.description.partition(" on ")[0]
        picture = f'<img src="{os.path.relpath(folder / PREVIEW, beside)}" width="110" alt="samples of {name}">'
        lines.append(f"| `{name}` | {kind} | {_data(manifest)} | {picture} | {headline(manifest)} |")
    return "\n".join(lines)


def page(root: Path, beside: Path) -> str:
    """Return the whole page: a section for each data set, with its artifacts and their samples. Links are relative to the folder `beside`."""
    by_data: dict[str, list[tuple[Path, Manifest]]] = {}
    for folder, manifest in artifacts(root):
        by_data.setdefault(_data(manifest), []).append((folder, manifest))
    parts = [f"# The {sum(map(len, by_data.values()))} shipped models", _INTRODUCTION, _legend(), table(root)]
    for data, group in by_data.items():
        parts.append(f"## {data}")
        if anchors := _anchors(manifest for _, manifest in group):
            parts.append(anchors)
        for folder, manifest in group:
            parts.append(_section(folder, manifest, beside))
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """This page is written by `manifold catalogue` from the manifests. The figures came with each artifact. They were measured on the test split,
under the protocol that the manifest states (`models/NAME/VERSION/manifest.json`, or `GET /models/NAME`). An arrow says which direction is better:
↓ lower, ↑ higher. Pictures are each artifact's `preview.png`: 64 samples of seed 0. For tables they show the distribution of each column next to
that of real rows, and for classifiers the test items with the smallest margin. Fréchet distances of different classifiers have different scales:
compare them within a data set."""

LEGEND = {
    "ELBO, IWAE-k ↑": "Lower bounds of the log-likelihood of test items, in nats. IWAE-k uses k samples and is tighter.",
    "NLL ↓": "Exact negative log-likelihood of test items, in nats.",
    "bits/dim ↓": "The NLL in bits per dimension, or an upper bound of it for a model with an ELBO or IWAE-k; beside it the lossless codecs "
    "PNG, WebP and JPEG XL on sheets of 100 of the same images, at the same levels, if the manifest has them.",
    "reconstruction ↓": "Negative log-likelihood of test items given their latents, in nats.",
    "Fréchet distance ↓": "Distance between 10 000 samples and the test images in the features of a classifier; 0 is best.",
    "requested class recognised ↑": "Share of samples that a classifier puts into the class that was requested.",
    "rarest class ↑": "Share of the rarest class among samples. Real images have about 10% of each of ten classes.",
    "recognisable ↑": "Share of samples that a classifier puts into some class with probability above 0.9.",
    "codes used ↑": "Share of a codebook that is used.",
    "accuracy ↑, calibration error ↓": "Classification of test items, and the expected calibration error of its probabilities.",
    "false alarms at 1%": "Share of normal test items that is flagged if 1% is requested; close to 1% is best. In brackets: its 95% interval "
    "if test items and calibration items are exchangeable. "
    "The sections of the models list the other rates, and say why the items are not exchangeable if they are not.",
    "AUROC ↑, recall at 1% FPR ↑": "How well the anomaly score separates known anomalies, or images of another data set, from test items; "
    "recall at a false positive rate of 1%.",
}


def _legend() -> str:
    return "\n".join(
        ["| figure | meaning |", "|---|---|", *(f"| {name} | {meaning} |" for name, meaning in LEGEND.items())]
    )


def write(root: Path, page_: Path, readme: Path | None = None, names: Iterable[str] = ()) -> list[Path]:
    """Write the page, and the table of the featured artifacts `names` between the marks of the file `readme`. Return the files.

    Raises InvalidValue for a file without the marks.
    """
    texts = {page_: page(root, page_.parent)}
    if readme is not None:
        try:
            texts[readme] = between(readme.read_text(), featured(root, names, readme.parent))
        except (OSError, ValueError) as error:
            raise InvalidValue(f"readme: {readme}: {error}", field="readme") from None
    for path, text in texts.items():
        with repository.replacing(path) as temporary:
            temporary.write_text(text)
    return list(texts)


def between(text: str, new: str) -> str:
    """Return the text with the part between the marks replaced. Raises ValueError unless each mark occurs once, in order."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"needs the lines {BEGIN} and {END}, once each")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{new}\n{END}{rest.split(END)[1]}"


def _data(manifest: Manifest) -> str:
    return manifest.data_name or "other"


def _section(folder: Path, manifest: Manifest, beside: Path) -> str:
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) / MIB
    paths = ", ".join(f"/{name}" for name in endpoints(manifest))
    facts = [
        f"family `{manifest.family}`, version {manifest.version}, {manifest.backend}, {size:.1f} MiB",
        f"preset `{manifest.provenance['preset']}`{_spent(manifest)}" if "preset" in manifest.provenance else "",
        paths,
    ]
    lines = [f"### {manifest.name}", manifest.description, *(f"- {fact}" for fact in facts if fact)]
    lines[2:] = ["\n".join(lines[2:])]
    if known := [*figures(manifest), *_all_rates(manifest)]:
        lines[-1] += "\n" + "\n".join(f"- {figure}" for figure in known)
    if (folder / PREVIEW).exists():
        lines.append(f"![{manifest.name}]({os.path.relpath(folder / PREVIEW, beside)})")
    return "\n\n".join(lines)


def _spent(manifest: Manifest) -> str:
    spent = manifest.provenance.get("spent")
    return f", {spent['seconds'] / 60:.0f} min of training on {spent['device']}" if isinstance(spent, dict) else ""


def _anchors(manifests_: Iterable[Manifest]) -> str:
    """Return what real images score, by the first artifact that was evaluated."""
    for manifest in manifests_:
        for metric in manifest.metrics:
            anchors = metric.protocol.get("anchors")
            if isinstance(anchors, dict) and "train_vs_test" in anchors:
                floor = anchors.get("perfect_generator", {}).get("resampled")
                perfect = f", a perfect generator's {floor:.2g}" if floor is not None else ""
                accuracy = anchors.get("test_class_accuracy")
                right = f"; the classifier is right about {accuracy:.1%} of test images" if accuracy else ""
                return f"Real images: {_named(metric)} of training against test images {anchors['train_vs_test']:.2g}{perfect}{right}."
    return ""


# --- figures ------------------------------------------------------------------------------------------------------------------


def figures(manifest: Manifest) -> list[str]:
    """Return the figures of an artifact, the most important first."""
    return [text for rule in RULES if (text := rule(manifest))]


def headline(manifest: Manifest) -> str:
    """Return the most important figures: the quality of samples if it is known, else the likelihood or the detection of anomalies."""
    rules = (_distance, _requested, _anomalies, _accuracy, _likelihood)
    found = [text for rule in rules if (text := rule(manifest))]
    return "; ".join(found[: 2 if _requested(manifest) else 1])


def _first(manifest: Manifest, name: str) -> Metric | None:
    """Return a metric by name; that of the default prior if there are several."""
    found = sorted(
        (metric for metric in manifest.metrics if metric.name == name), key=lambda each: not _is_default(manifest, each)
    )
    return found[0] if found else None


def _is_default(manifest: Manifest, metric: Metric) -> bool:
    return metric.protocol.get("prior") == (manifest.space.prior if manifest.space else None)


def _likelihood(manifest: Manifest) -> str:
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
    found.sort(key=lambda metric: (metric.protocol.get("by") == RECORDED, metric.name.endswith(naming.GIVEN)))
    by_bound = {bound: next((each for each in found if each.name.startswith(bound)), None) for bound in bounds}
    parts = [_nats(manifest, metric) for metric in by_bound.values() if metric is not None]
    bits = _first(manifest, "bits_per_dim")
    if bits is not None and any(metric.name.endswith(("levels", "density", "static")) for metric in found):
        parts.append(f"{bits.value:.2f} bits/dim ↓{_beside(manifest, bits)}")
    observed = next((each for metric in found if (each := _observed(metric))), None)
    return ", ".join(parts) + (f" ({observed})" if parts and observed else "")


def _observed(metric: Metric) -> str | None:
    """Return what a likelihood is the likelihood of, such as pixels at 256 levels."""
    stated = naming.statement(metric.protocol)
    return next((stated[key] for key in ("binarisation", "observed") if key in stated), None)


def _error(manifest: Manifest, metric: Metric) -> float | None:
    """Return the standard error of a figure, which an evaluation records as a figure of its own."""
    if metric.se is not None:
        return metric.se
    keys = ("by", "prior", "common")
    own = [metric.protocol.get(key) for key in keys]
    beside = (each for each in manifest.metrics if each.name == metric.name + naming.SE)
    return next((each.value for each in beside if [each.protocol.get(key) for key in keys] == own), None)


def _nats(manifest: Manifest, metric: Metric) -> str:
    """Return a likelihood in nats as text, with its standard error if it is known."""
    se = _error(manifest, metric)
    error = f" ± {se:.2g}" if se is not None else ""
    name, _, given = metric.name.partition("_given_")
    bound = "NLL" if name.startswith("nll") else name.rpartition("_")[0].upper().replace("_", "-")
    exact = "(exact) " if naming.statement(metric.protocol).get("bound", "exact") == "exact" else ""
    direction = f"{exact}↓" if bound == "NLL" else "↑"
    return f"{bound} {metric.value:.1f}{error} nats {f'given the {given} ' if given else ''}{direction}"


def _beside(manifest: Manifest, bits: Metric) -> str:
    """Return the bits per dimension of lossless codecs in brackets: those recorded with the figure, else those of unrounded images."""
    others = [metric for metric in manifest.metrics if metric.name == BITS and metric is not bits]
    stored = _stored(bits) or next(
        (each for metric in others if (each := _stored(metric)) and not _is_rounded(each)), {}
    )
    return f" ({text})" if (text := of_codecs(stored)) else ""


def _stored(metric: Metric) -> dict[str, Any]:
    """Return the figures of lossless codecs that a metric's protocol records."""
    anchors = metric.protocol.get("anchors")
    return {key: value for key, value in anchors.items() if key in STORED} if isinstance(anchors, dict) else {}


def _is_rounded(stored: dict[str, Any]) -> bool:
    return any("rounding" in each for each in stored.values())


def _reconstruction(manifest: Manifest) -> str:
    alone = _first(manifest, "reconstruction")
    if alone is None or any(naming.is_likelihood(metric.name) for metric in manifest.metrics):
        return ""
    return f"reconstruction {alone.value:.1f} nats ↓"


def _distance(manifest: Manifest) -> str:
    """Return the Fréchet distances, that of the default prior first."""
    distances = [metric for metric in manifest.metrics if metric.name in DISTANCES]
    distances.sort(key=lambda metric: not _is_default(manifest, metric))
    values = [f"{metric.value:.3g}{_of_prior(metric, len(distances))}" for metric in distances]
    return f"{_named(distances[0])} {', '.join(values)} ↓{_resized(distances[0])}" if distances else ""


def _named(metric: Metric) -> str:
    return "Fréchet distance" if metric.name == "fd_classifier" else metric.name


def _resized(metric: Metric) -> str:
    """Return a note about images that were resized before they were measured. Such figures are not comparable with others."""
    common = metric.protocol.get("common")
    resize = common.get("resize", "none") if isinstance(common, dict) else "none"
    return f" (images resized, {resize})" if metric.name == "fd_classifier" and resize != "none" else ""


def _of_prior(metric: Metric, number: int) -> str:
    prior = metric.protocol.get("prior")
    return f" ({prior} prior)" if prior and number > 1 else ""


def _share(name: str, text: str) -> Callable[[Manifest], str]:
    def rule(manifest: Manifest) -> str:
        metric = _first(manifest, name)
        return text.format(f"{metric.value:.1%}") if metric else ""

    return rule


def _accuracy(manifest: Manifest) -> str:
    right, error = _first(manifest, "accuracy"), _first(manifest, "calibration_error")
    if right is None:
        return ""
    return f"accuracy {right.value:.1%} ↑" + (f", calibration error {error.value:.3f} ↓" if error else "")


def _anomalies(manifest: Manifest) -> str:
    area, recall = _first(manifest, "auroc"), _first(manifest, "found_at_1%")
    if area is None:
        return ""
    against = f"{area.protocol['against']} as anomalies" if area.protocol.get("against") else "known anomalies"
    share = f", recall {recall.value:.0%} at 1% FPR ↑" if recall else ""
    return f"{against}: AUROC {area.value:.3f} ↑{share}"


def _false_alarms(manifest: Manifest) -> str:
    """Return the measured false positive rate for a requested 1%, with its interval; empty if it was not measured."""
    found = measured.of(manifest)
    rate = next((rate for rate in found.rates if rate.requested == STATED_RATE), None)
    if rate is None:
        return ""
    beyond = sum(each.outside for each in found.rates)
    parts = [
        f"false alarms at {STATED_RATE:.0%}: {rate.measured:.2%} ({rates.interval_text(rate.measured, rate.interval)})",
        *([f"{beyond} of {len(found.rates)} rates outside"] if beyond else []),
        *(["not exchangeable"] if found.shift else []),
    ]
    return ", ".join(parts)


def _all_rates(manifest: Manifest) -> list[str]:
    """Return all measured false positive rates, and the reason why calibration and test items are not exchangeable."""
    found, noun = measured.of(manifest), manifest.spec.noun
    each = [
        f"{rate.measured:.2%} (requested {100 * rate.requested:.3g}%, {rates.interval_text(rate.measured, rate.interval)})"
        for rate in found.rates
    ]
    told = [f"false alarm rates on {found.rates[0].n} normal test {noun}: {', '.join(each)}"] if each else []
    return [*told, *([rates.not_exchangeable(found.shift, noun)] if found.shift else [])]


_requested = _share("class_accuracy", "requested class recognised {} ↑")
RULES: tuple[Callable[[Manifest], str], ...] = (
    _likelihood, _reconstruction, _distance, _requested, _share("least_class_share", "rarest class {} ↑"),
    _share("confident", "recognisable {} ↑"), _share("code_usage", "codes used {} ↑"), _accuracy, _anomalies, _false_alarms,
)  # fmt: skip
