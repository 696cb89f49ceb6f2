"""The tables and the page of a folder of artifacts, written from their manifests: what each artifact is, what it can do, and how well.

runtime.figures makes the figures. Each has an arrow that says which direction is better.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from manifold.evaluation import rates
from manifold.runtime import figures as shown
from manifold.runtime import manifest as manifests
from manifold.runtime import repository, shipped
from manifold.runtime.errors import InvalidValue
from manifold.runtime.manifest import Manifest
from manifold.runtime.operations import endpoints
from manifold.runtime.scores import measured

BEGIN, END = "<!-- models: written by `manifold catalogue` -->", "<!-- end of models -->"
MIB = 1024 * 1024
PREVIEW = "preview.png"


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
                return f"Real images: {shown.named(metric)} of training against test images {anchors['train_vs_test']:.2g}{perfect}{right}."
    return ""


# --- figures ------------------------------------------------------------------------------------------------------------------


def figures(manifest: Manifest) -> list[str]:
    """Return the figures of an artifact, the most important first."""
    return [group.marked() for group in shown.groups(manifest)]


def headline(manifest: Manifest) -> str:
    """Return the most important figures of an artifact."""
    return "; ".join(group.marked() for group in shown.headline(manifest))


def _all_rates(manifest: Manifest) -> list[str]:
    """Return all measured false positive rates, and the reason why calibration and test items are not exchangeable."""
    found, noun = measured.of(manifest), manifest.spec.noun
    each = [
        f"{rate.measured:.2%} (requested {100 * rate.requested:.3g}%, {measured.interval_text(rate.measured, rate.interval)})"
        for rate in found.rates
    ]
    told = [f"false alarm rates on {found.rates[0].n} normal test {noun}: {', '.join(each)}"] if each else []
    return [*told, *([rates.not_exchangeable(found.shift, noun)] if found.shift else [])]
