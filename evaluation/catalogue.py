"""The table of a folder of artifacts, from their manifests alone: what each is, what it can do, how well. For the README and docs/models.md.

Figures come with the artifact, each under its own protocol: from training (on the test part), from `manifold evaluate --record` (beside its
anchors) and from `manifold fit`. A figure that is not in a manifest is not in the table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from manifold.evaluation.cells import DISTANCES
from manifold.runtime import manifest as manifests
from manifold.runtime import repository
from manifold.runtime.errors import InvalidValue
from manifold.runtime.manifest import Manifest, Metric
from manifold.runtime.operations import endpoints

BEGIN, END = "<!-- models: written by `manifold catalogue` -->", "<!-- end of models -->"
MIB = 1024 * 1024


def artifacts(root: Path) -> list[tuple[Path, Manifest]]:
    """Return the latest version of each artifact, with its folder, by data set and name."""
    folders = [repository.find(name, root) for name in repository.scan(root)]
    pairs = [(folder, manifests.read(folder)) for folder in folders]
    return sorted(pairs, key=lambda pair: (_data(pair[1]), "features" in pair[1].tasks, pair[1].name))


def table(root: Path) -> str:
    """Return a Markdown table, a line for each artifact."""
    lines = ["| name | what it is | figures |", "|---|---|---|"]
    for _, manifest in artifacts(root):
        lines.append(f"| `{manifest.name}` | {manifest.description.rstrip('.')} | {'; '.join(figures(manifest))} |")
    return "\n".join(lines)


def page(root: Path, beside: Path) -> str:
    """Return the whole page: a section for each data set, with its artifacts and their sheets. Links are relative to the folder `beside`."""
    by_data: dict[str, list[tuple[Path, Manifest]]] = {}
    for folder, manifest in artifacts(root):
        by_data.setdefault(_data(manifest), []).append((folder, manifest))
    parts = ["# The shipped models", _INTRODUCTION]
    for data, group in by_data.items():
        parts.append(f"## {data}")
        if anchors := _anchors(manifest for _, manifest in group):
            parts.append(anchors)
        for folder, manifest in group:
            parts.append(_section(folder, manifest, beside))
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """Written by `manifold catalogue` from the manifests: figures are those that came with each artifact, of the test part and under the
protocol that its manifest states (`models/NAME/VERSION/manifest.json`, or `GET /models/NAME`). Sheets are each artifact's `preview.png`: 64 draws of seed 0,
for tables each column's distribution beside the real one, for classifiers the test items that they are least right about. Distances of
different extractors are different scales: compare within a data set."""


def write(root: Path, page_: Path, readme: Path | None = None) -> list[Path]:
    """Write the page, and the table between the marks of the file `readme`. Return the files. Raises InvalidValue without the marks."""
    texts = {page_: page(root, page_.parent)}
    if readme is not None:
        try:
            texts[readme] = between(readme.read_text(), table(root))
        except (OSError, ValueError) as error:
            raise InvalidValue(f"readme: {readme}: {error}", field="readme") from None
    for path, text in texts.items():
        with repository.replacing(path) as temporary:
            temporary.write_text(text)
    return list(texts)


def between(text: str, new: str) -> str:
    """Return the text with what stands between the marks replaced. Raises ValueError unless each mark occurs once, in order."""
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
    if known := figures(manifest):
        lines[-1] += "\n" + "\n".join(f"- {figure}" for figure in known)
    if (folder / "preview.png").exists():
        lines.append(f"![{manifest.name}]({os.path.relpath(folder / 'preview.png', beside)})")
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
                return f"Real images: {metric.name} of training against test images {anchors['train_vs_test']:.2g}{perfect}{right}."
    return ""


# --- figures ------------------------------------------------------------------------------------------------------------------


def figures(manifest: Manifest) -> list[str]:
    """Return what the manifest's metrics say, the most telling first."""
    return [text for rule in RULES if (text := rule(manifest.metrics))]


Metrics = tuple[Metric, ...]


def _first(metrics: Metrics, name: str) -> Metric | None:
    return next((metric for metric in metrics if metric.name == name), None)


def _likelihood(metrics: Metrics) -> str:
    elbo = _first(metrics, "elbo")
    iwae = next((metric for metric in metrics if metric.name.startswith("iwae_")), None)
    nll, bits = _first(metrics, "nll"), _first(metrics, "bits_per_dim")
    stated = elbo or nll
    if stated is None:
        return ""
    observed = stated.protocol.get("binarisation") or stated.protocol.get("observed")
    parts = [f"ELBO {elbo.value:.1f} nats"] if elbo else []
    parts += [f"{iwae.name.upper().replace('_', '-')} {iwae.value:.1f}"] if elbo and iwae else []
    if not elbo and nll is not None:
        exact = nll.protocol.get("bound") == "exact"
        parts.append(f"NLL {'' if exact else '≤ '}{nll.value:.1f} nats{', exact' if exact else ''}")
    if bits is not None and (elbo is None or "logistic" in str(elbo.protocol.get("likelihood"))):
        parts.append(f"{bits.value:.2f} bits/dim")
    return ", ".join(parts) + (f" ({observed})" if observed else "")


def _reconstruction(metrics: Metrics) -> str:
    alone = _first(metrics, "reconstruction")
    return (
        f"reconstruction {alone.value:.1f} nats"
        if alone and not _first(metrics, "elbo") and not _first(metrics, "nll")
        else ""
    )


def _distance(metrics: Metrics) -> str:
    distances = [metric for metric in metrics if metric.name in DISTANCES]
    values = [f"{metric.value:.3g}{_of_prior(metric, len(distances))}" for metric in distances]
    return f"{distances[0].name} {', '.join(values)}{_resized(distances[0])}" if distances else ""


def _resized(metric: Metric) -> str:
    """Return a note about images that were resized before they were judged: such figures do not compare with others."""
    common = metric.protocol.get("common")
    resize = common.get("resize", "none") if isinstance(common, dict) else "none"
    return f" (images resized for it, {resize})" if metric.name == "fd_classifier" and resize != "none" else ""


def _of_prior(metric: Metric, of: int) -> str:
    prior = metric.protocol.get("prior")
    return f" (prior {prior})" if prior and of > 1 else ""


def _share(name: str, text: str) -> Callable[[Metrics], str]:
    def rule(metrics: Metrics) -> str:
        metric = _first(metrics, name)
        return text.format(f"{metric.value:.1%}") if metric else ""

    return rule


def _accuracy(metrics: Metrics) -> str:
    right, error = _first(metrics, "accuracy"), _first(metrics, "calibration_error")
    if right is None:
        return ""
    return f"/classify {right.value:.1%}" + (f", calibration error {error.value:.3f}" if error else "")


def _anomalies(metrics: Metrics) -> str:
    area, recall = _first(metrics, "auroc"), _first(metrics, "found_at_1%")
    if area is None:
        return ""
    against = area.protocol.get("against") or "known anomalies"
    share = f", {recall.value:.0%} found at 1% false alarms" if recall else ""
    return f"against {against}: AUROC {area.value:.3f}{share}"


RULES: tuple[Callable[[Metrics], str], ...] = (
    _likelihood, _reconstruction, _distance, _share("class_accuracy", "class asked for {}"), _share("least_class_share", "rarest class {}"),
    _share("confident", "classifier sure of {}"), _share("code_usage", "{} of the codes used"), _accuracy, _anomalies,
)  # fmt: skip
