"""The evaluation of any set of images against real images: distances, scores, precision and recall.

A report consists of JSON values and is equal for equal seeds. The images for its page are kept separately.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from manifold.evaluation import frechet, metrics
from manifold.evaluation.extractors import ExtractedFeatures, Extractor, Stage, extract, silent
from manifold.evaluation.images import ImageSource
from manifold.evaluation.reference import Reference
from manifold.evaluation.report import Pictures, Report, rounded
from manifold.runtime import imaging

Array = NDArray[Any]

SHEET = 64  # number of images in the page's first grid
CONFIDENT = 0.9  # class probability above which an image counts as clearly recognised
WARNED = ("first of", "blank", "dark", imaging.ON_OPPOSITE)  # notes on files that start with these become warnings
TOO_ALIKE = 0.01  # share of exact duplicates above which there is a warning


def evaluate_images(
    source: ImageSource, reference: Reference, extractor: Extractor, *, seed: int = 0, stage: Stage = silent
) -> tuple[Report, ExtractedFeatures, Pictures]:
    """Evaluate images against a reference: distances, scores, precision, recall, and the distance that a perfect generator would have."""
    features = extract(extractor, source, seed=seed, progress=stage(f"{source.name}: features"))
    stage("metrics")
    report = Report(source.name, None, _protocol(extractor, reference, features.n, seed), {})
    _distances(report, features, reference, extractor, seed)
    _scores(report, features, reference, seed)
    _perfect(report, features.n, reference, seed)
    report.metrics["duplicates"] = rounded(features.duplicates)
    if features.duplicates > TOO_ALIKE:
        report.warnings.append(
            f"{features.duplicates:.1%} of the images are exact copies of others: the model has collapsed, or the set contains copies"
        )
    report.warnings += file_warnings(source, features, "images")
    if reference.features is not None:
        report.warnings += file_warnings(reference.source, reference.features, "reference images")
    for key, side in {"files": features, "reference_files": reference.features}.items():
        if side is not None and side.notes:
            report.details[key] = {note: n for note, (n, _) in side.notes.items()}
    if features.n < extractor.dimensions:
        report.warnings.append(
            f"{features.n} images are few for {extractor.dimensions} features: the distance is biased far upwards; use more images"
        )
    _classes(report, features, reference, extractor)
    return report, features, Pictures(features.first[:SHEET], _class_pictures(features, extractor))


def file_warnings(source: ImageSource | None, features: ExtractedFeatures, which: str) -> list[str]:
    """Return warnings about files: unreadable ones that were skipped, and ones that were changed or look wrong (inverted ink, blank images)."""
    unread, before = getattr(source, "unread", None), "" if which == "images" else f"{which}: "
    return [
        *(f"{before}skipped, as it cannot be read: {name}" for name in features.skipped),
        *([before + unread] if unread else []),
        *(
            f"{n} of the {which}: {note} (for example {name})"
            for note, (n, name) in features.notes.items()
            if note.startswith(WARNED)
        ),
    ]


def _protocol(extractor: Extractor, reference: Reference, n: int, seed: int) -> dict[str, Any]:
    stated = {} if extractor.output == "features" else {"features": extractor.output}
    return {
        "extractor": extractor.name, "extractor_sha256": extractor.sha256, **stated, "reference": reference.origin, "n": n,
        "resize": extractor.mode, "seed": seed,
    }  # fmt: skip


def _distances(
    report: Report, features: ExtractedFeatures, reference: Reference, extractor: Extractor, seed: int
) -> None:
    name = extractor.distance_name
    value = frechet.distance(reference.gaussian, features.gaussian)
    report.metrics[name] = rounded(value)
    points = frechet.curve(reference.gaussian, features.rows, seed)
    points = [*[point for point in points if point[0] < features.n], (features.n, value)]
    report.curve = [[n, rounded(distance)] for n, distance in points]
    if len(points) > 2:
        report.metrics[f"{name}_infinity"] = rounded(frechet.at_infinity(points))
        report.details[f"{name}_infinity"] = {"fit": "a + b / N over the curve's points", "from": points[0][0]}
    if reference.features is None:
        report.warnings.append(
            "KID, precision and recall are missing: they need reference images, and the reference is a file of moments"
        )
        return
    real, fake = reference.features.rows, features.rows
    pairs = {"rows": [len(real), len(fake)]}
    if min(len(real), len(fake)) >= 2 * metrics.BLOCKS:
        kid = metrics.kernel_distance(real, fake, seed)
        report.metrics |= {"kid": rounded(kid.value), "kid_se": rounded(kid.error)}
        report.details["kid"] = {
            **pairs,
            "estimator": "unbiased, all pairs; standard error from the variance components of 20 blocks",
        }
    if min(len(real), len(fake)) > metrics.NEIGHBOURS:
        precision, recall = metrics.precision_recall(real, fake)
        report.metrics |= {"precision": rounded(precision), "recall": rounded(recall)}
        report.details["precision"] = report.details["recall"] = {**pairs, "neighbours": metrics.NEIGHBOURS}


def _scores(report: Report, features: ExtractedFeatures, reference: Reference, seed: int) -> None:
    if features.probabilities is None:
        return
    report.metrics["confident"] = rounded(metrics.confident(features.probabilities, CONFIDENT))
    report.details["confident"] = {
        "is": f"share of images that the extractor's classifier assigns to a class with a probability above {CONFIDENT}"
    }
    marginal = metrics.inception_score(features.probabilities, seed)
    report.metrics |= {"is_marginal": rounded(marginal.value), "is_marginal_sd": rounded(marginal.error)}
    report.details["is_marginal"] = {"splits": metrics.SPLITS, "against": "the marginal of each split, as published"}
    shares = reference.class_shares
    if shares is not None and (shares == 0).any():
        report.warnings.append("is_prior is missing: it would be infinite, as the reference has no image of some class")
    elif shares is not None:
        prior = metrics.inception_score(features.probabilities, seed, shares)
        divergence = metrics.class_divergence(features.probabilities, shares)
        report.metrics |= {
            "is_prior": rounded(prior.value), "is_prior_sd": rounded(prior.error), "class_divergence": rounded(divergence),
        }  # fmt: skip
        report.details["is_prior"] = {"splits": metrics.SPLITS, "against": "the class distribution of the reference"}
        report.details["class_divergence"] = {
            "unit": "nats",
            "is": "KL(classes of the images || classes of the reference)",
        }


def _perfect(report: Report, n: int, reference: Reference, seed: int) -> None:
    """Add the distance of n images of a perfect generator. It is an anchor for comparison and is never subtracted."""
    m = reference.n or 10**12  # a file without a number of images counts as the true distribution
    anchor = {"closed_form": rounded(frechet.expected_floor(reference.gaussian.spectrum, n, m))}
    if reference.features is not None:
        mean, deviation = frechet.resampled_floor(reference.features.rows, n, m, seed)
        anchor |= {"resampled": rounded(mean), "resampled_sd": rounded(deviation)}
    report.anchors["perfect_generator"] = anchor


def _classes(report: Report, features: ExtractedFeatures, reference: Reference, extractor: Extractor) -> None:
    """Add a row for each class: its share of the images, and the accuracy for images of which this class was requested."""
    if features.probabilities is None:
        return
    chosen = features.probabilities.argmax(axis=1)
    asked = features.labels
    conditional = bool((asked >= 0).all())
    if conditional:
        report.metrics["class_accuracy"] = rounded(float((chosen == asked).mean()))
        report.details["class_accuracy"] = {
            "is": "share of images that the extractor's classifier assigns to the requested class"
        }
    names = extractor.classes or [str(i) for i in range(features.probabilities.shape[1])]
    if len(names) > 100:  # Inception's 1008 classes are not those of the data
        return
    for index, name in enumerate(names):
        row: dict[str, Any] = {"class": name, "share": rounded(float((chosen == index).mean()))}
        if reference.class_shares is not None:
            row["reference_share"] = rounded(float(reference.class_shares[index]))
        if (chosen == index).any():
            row["confidence"] = rounded(float(features.probabilities[chosen == index, index].mean()))
        if conditional and (asked == index).any():
            row["accuracy"] = rounded(float((chosen[asked == index] == index).mean()))
        report.by_class.append(row)
    report.metrics["least_class_share"] = min(row["share"] for row in report.by_class)
    report.details["least_class_share"] = {"is": "share of images in the rarest class, by the extractor's classifier"}
    missing = [row["class"] for row in report.by_class if row["share"] == 0 and row.get("reference_share", 1) > 0]
    if missing:
        report.warnings.append(f"no image was assigned to these classes: {', '.join(missing)}")


def _class_pictures(features: ExtractedFeatures, extractor: Extractor) -> dict[str, Array]:
    if features.probabilities is None or len(features.first) < 2 or (extractor.classes is None):
        return {}
    chosen = features.probabilities[: len(features.first)].argmax(axis=1)
    return {
        name: features.first[chosen == index][:12]
        for index, name in enumerate(extractor.classes)
        if (chosen == index).any()
    }
