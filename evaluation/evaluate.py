"""The batch evaluator: a model, or a set of images, against real images, through an extractor.

A report is plain data (JSON values) and the same twice for the same seed; the pictures for the page are kept apart from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation import frechet, metrics
from evaluation.errors import EvaluationError, ProtocolMismatch
from evaluation.extractors import BATCH, Extractor, Features, Progress, extract, map_batches
from evaluation.images import Generated, Held, Source
from evaluation.reference import Reference, cached, of_source
from runtime import codecs
from runtime.engine import Model
from runtime.errors import UnsupportedTask
from runtime.operations import CAN
from runtime.spec import ImageSpec

Array = NDArray[Any]
Stage = Callable[[str], Progress | None]  # a stage begins; what to tell of its progress

DIGITS = 6  # significant, of every number in a report
# what must agree before two numbers are compared; a seed may differ
COMPARABLE = ("extractor_sha256", "reference", "n", "resize")
SHEET = 64  # pictures on the page
TOO_ALIKE = 0.01  # part of exact duplicates that is worth a warning


def silent(stage: str) -> None:
    """No progress."""


@dataclass(frozen=True)
class RealData:
    """The parts of a data set that an evaluation looks at, as bytes."""

    name: str
    train: Held
    calibration: Held
    test: Held


@dataclass
class Report:
    """Numbers with their protocol. `as_dict` is the JSON."""

    model: str
    version: int | None
    protocol: dict[str, Any]
    metrics: dict[str, float]
    anchors: dict[str, Any] = field(default_factory=dict)
    details: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # protocol of single metrics, beyond the common one
    by_class: list[dict[str, Any]] = field(default_factory=list)
    curve: list[list[float]] = field(default_factory=list)  # [images, distance]
    warnings: list[str] = field(default_factory=list)
    prior: str | None = None
    checksum: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON values, in a fixed order."""
        named = {"model": self.model, "version": self.version, "checksum": self.checksum, "prior": self.prior}
        return {
            **{key: value for key, value in named.items() if value is not None},
            "protocol": self.protocol, "metrics": self.metrics, "anchors": self.anchors, "details": self.details,
            "by_class": self.by_class, "curve": self.curve, "warnings": self.warnings,
        }  # fmt: skip

    @property
    def row_name(self) -> str:
        """What a table calls it."""
        return f"{self.model} ({self.prior})" if self.prior else self.model


@dataclass
class Pictures:
    """What the page shows: uint8 images."""

    samples: Array | None = None
    by_class: dict[str, Array] = field(default_factory=dict)
    originals: Array | None = None
    reconstructions: Array | None = None
    neighbours: Array | None = None  # the training image nearest to each sample


def rounded(value: float) -> float:
    """DIGITS significant digits: what follows is noise. Infinite values stay so."""
    return float(f"{value:.{DIGITS}g}")


# --- sets of images -----------------------------------------------------------------------------------------------------------


def evaluate_images(
    source: Source, reference: Reference, extractor: Extractor, *, seed: int = 0, stage: Stage = silent
) -> tuple[Report, Features, Pictures]:
    """Any source of images against a reference: distances, scores, precision and recall, the perfect generator beside them."""
    features = extract(extractor, source, seed=seed, progress=stage(f"{source.name}: features"))
    stage("metrics")
    report = Report(source.name, None, _protocol(extractor, reference, features.n, seed), {})
    _distances(report, features, reference, extractor, seed)
    _scores(report, features, reference, seed)
    _perfect(report, features.n, reference, seed)
    report.metrics["duplicates"] = rounded(features.duplicates)
    if features.duplicates > TOO_ALIKE:
        report.warnings.append(
            f"{features.duplicates:.1%} of the images are exact copies of others: the model has collapsed, or the set holds copies"
        )
    for name in features.skipped:
        report.warnings.append(f"left out, as it cannot be read: {name}")
    if features.n < extractor.dimensions:
        report.warnings.append(
            f"{features.n} images for {extractor.dimensions} features: the distance is exact, and biased far upwards; use more"
        )
    _classes(report, features, reference, extractor)
    return report, features, Pictures(features.first[:SHEET], _class_pictures(features, extractor))


def _protocol(extractor: Extractor, reference: Reference, n: int, seed: int) -> dict[str, Any]:
    return {
        "extractor": extractor.name, "extractor_sha256": extractor.sha256, "reference": reference.about, "n": n,
        "resize": extractor.mode, "seed": seed,
    }  # fmt: skip


def _distances(report: Report, features: Features, reference: Reference, extractor: Extractor, seed: int) -> None:
    name = extractor.distance_name
    value = frechet.distance(reference.gaussian, features.gaussian)
    report.metrics[name] = rounded(value)
    points = frechet.curve(reference.gaussian, features.rows, seed)
    points = [*[point for point in points if point[0] < features.n], (features.n, value)]
    report.curve = [[n, rounded(found)] for n, found in points]
    if len(points) > 2:
        report.metrics[f"{name}_infinity"] = rounded(frechet.at_infinity(points))
        report.details[f"{name}_infinity"] = {"fit": "a + b / N over the curve's points", "from": points[0][0]}
    if reference.features is None:
        report.warnings.append("KID, precision and recall need the reference's features, and a file has only moments")
        return
    real, fake = reference.features.rows, features.rows
    pairs = {"rows": [len(real), len(fake)]}
    if min(len(real), len(fake)) >= 2 * metrics.BLOCKS:
        kid = metrics.kernel_distance(real, fake, seed)
        report.metrics |= {"kid": rounded(kid.value), "kid_se": rounded(kid.error)}
        report.details["kid"] = {
            **pairs,
            "estimator": "unbiased, all pairs; standard error by jackknife over 20 blocks",
        }
    if min(len(real), len(fake)) > metrics.NEIGHBOURS:
        precision, recall = metrics.precision_recall(real, fake)
        report.metrics |= {"precision": rounded(precision), "recall": rounded(recall)}
        report.details["precision"] = report.details["recall"] = {**pairs, "neighbours": metrics.NEIGHBOURS}


def _scores(report: Report, features: Features, reference: Reference, seed: int) -> None:
    if features.probabilities is None:
        return
    marginal = metrics.inception_score(features.probabilities, seed)
    report.metrics |= {"is_marginal": rounded(marginal.value), "is_marginal_sd": rounded(marginal.error)}
    report.details["is_marginal"] = {"splits": metrics.SPLITS, "against": "the marginal of each split, as published"}
    shares = reference.class_shares
    if shares is not None and (shares == 0).any():
        report.warnings.append(
            "is_prior left out: the reference has no image of some class, so that it would be infinite"
        )
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
    """What n images of a perfect generator would score: an anchor, never subtracted."""
    m = reference.n or 10**12  # a file that does not say how many: as if it were the truth
    anchor = {"closed_form": rounded(frechet.expected_floor(reference.gaussian.spectrum, n, m))}
    if reference.features is not None:
        mean, deviation = frechet.resampled_floor(reference.features.rows, n, m, seed)
        anchor |= {"resampled": rounded(mean), "resampled_sd": rounded(deviation)}
    report.anchors["perfect_generator"] = anchor


def _classes(report: Report, features: Features, reference: Reference, extractor: Extractor) -> None:
    """Rows by class: how often each comes, and where a class was asked for, how often that came."""
    if features.probabilities is None:
        return
    chosen = features.probabilities.argmax(axis=1)
    asked = features.labels
    conditional = bool((asked >= 0).all())
    if conditional:
        report.metrics["class_accuracy"] = rounded(float((chosen == asked).mean()))
        report.details["class_accuracy"] = {"is": "images that the extractor puts into the class asked for"}
    names = extractor.classes or [str(i) for i in range(features.probabilities.shape[1])]
    if len(names) > 100:  # Inception's 1008 say nothing about the data
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
    missing = [row["class"] for row in report.by_class if row["share"] == 0 and row.get("reference_share", 1) > 0]
    if missing:
        report.warnings.append(f"no image falls into: {', '.join(missing)}")


def _class_pictures(features: Features, extractor: Extractor) -> dict[str, Array]:
    if features.probabilities is None or len(features.first) < 2 or (extractor.classes is None):
        return {}
    chosen = features.probabilities[: len(features.first)].argmax(axis=1)
    return {
        name: features.first[chosen == index][:12]
        for index, name in enumerate(extractor.classes)
        if (chosen == index).any()
    }


# --- models -------------------------------------------------------------------------------------------------------------------


def evaluate(
    model: Model,
    reference: Reference,
    extractor: Extractor,
    data: RealData | None = None,
    *,
    n: int = 10_000,
    seed: int = 0,
    prior: str | None = None,
    stage: Stage = silent,
) -> tuple[Report, Pictures]:
    """An artifact: its samples as `evaluate_images`; with the data also likelihoods, reconstructions, codes, copies and anchors.

    Raises UnsupportedTask for a model that makes no images, EvaluationError for options that do not fit.
    """
    manifest = model.manifest
    check_can(model, n, prior)
    report, features, pictures = evaluate_images(
        Generated(model, n, seed, prior), reference, extractor, seed=seed, stage=stage
    )
    report = replace(
        report, model=manifest.name, version=manifest.version, checksum=model.checksum,
        prior=prior or (manifest.latent.default_prior if manifest.latent else None),
    )  # fmt: skip
    if data is not None:
        _likelihood(report, model, data.test, stage)
        _reconstruction(report, model, data.test, pictures, stage)
        _codes(report, model, data.test, stage)
        _copies(report, features, data, pictures)
        report.anchors |= anchors(data, reference, extractor, n, seed, stage)
    elif reference.anchors:
        report.anchors |= {key: value for key, value in reference.anchors.items() if key != "n"}
    return report, pictures


def check_can(model: Model, n: int, prior: str | None) -> None:
    """Raises UnsupportedTask for a model that makes no images, EvaluationError for too few or a prior that it has not."""
    manifest = model.manifest
    if not isinstance(manifest.data, ImageSpec) or not CAN["sample"](manifest):
        raise UnsupportedTask(
            f"{manifest.name} makes no images to evaluate; it can {', '.join(manifest.tasks)}", field="model"
        )
    if n < 2:
        raise EvaluationError(f"n: {n} image(s); at least 2 are needed, and thousands for a steady number", field="n")
    priors = list(manifest.latent.priors) if manifest.latent else []
    if prior is not None and prior not in priors:
        raise EvaluationError(f"prior: {manifest.name} has no {prior!r}", field="prior", valid=priors)


def anchors(
    data: RealData, reference: Reference, extractor: Extractor, n: int, seed: int, stage: Stage = silent
) -> dict[str, Any]:
    """How real images score: n training images against the reference, and the reference's own Inception Scores and accuracy."""
    part = data.train.picked(n, seed)
    train, _ = cached(extractor, part, stage("anchor: training images"))
    found: dict[str, Any] = {
        "train_vs_test": rounded(frechet.distance(reference.gaussian, train.gaussian)),
        "train_n": train.n,
    }
    real = reference.features
    if real is not None:
        if min(len(real.rows), len(train.rows)) >= 2 * metrics.BLOCKS:
            kid = metrics.kernel_distance(real.rows, train.rows, seed)
            found |= {"train_vs_test_kid": rounded(kid.value), "train_vs_test_kid_se": rounded(kid.error)}
        if real.probabilities is not None and real.n >= metrics.SPLITS:
            found["test_is_marginal"] = rounded(metrics.inception_score(real.probabilities, seed).value)
            if reference.class_shares is not None and (reference.class_shares > 0).all():
                score = metrics.inception_score(real.probabilities, seed, reference.class_shares)
                found["test_is_prior"] = rounded(score.value)
            if (real.labels >= 0).all():
                found["test_class_accuracy"] = rounded(float((real.probabilities.argmax(axis=1) == real.labels).mean()))
    return found


def _edge(model: Model, held: Held, start: int, stop: int) -> Array:
    assert isinstance(model.manifest.data, ImageSpec)
    return codecs.from_uint8(held.pixels[start:stop], model.manifest.data)


def _told(model: Model, held: Held, tasks: Sequence[str]) -> Callable[[int, int], Mapping[str, Any]]:
    """Classes for tasks that take a condition: each item's own."""
    specs = [model.manifest.tasks[name] for name in tasks if name in model.manifest.tasks]
    conditional = any(spec.input("condition") is not None for spec in specs)
    return lambda start, stop: {"classes": [int(label) for label in held.labels[start:stop]]} if conditional else {}


def _likelihood(report: Report, model: Model, test: Held, stage: Stage) -> None:
    """-log p(x), or its bound, over the test part, where the artifact's score says what it is."""
    scoring = model.manifest.scoring
    term = next((term for term in scoring.terms if term.likelihood), None) if scoring else None
    if term is None or term.likelihood is None:
        return
    values = map_batches(
        lambda start, stop: model.score(_edge(model, test, start, stop)).terms[term.name],
        test.n, BATCH, stage("likelihood of the test part"),
    )  # fmt: skip
    nats = np.concatenate(values)
    about = term.likelihood
    bound = {"exact": "exact", "elbo": "upper bound: -ELBO", "iwae": "upper bound: importance-weighted"}[about.bound]
    classes = {"classes": "marginalised by the class prior"} if _conditional_score(model) else {}
    protocol = {
        "unit": "nats",
        "bound": bound,
        "k": about.k,
        "observed": about.observed,
        "n": test.n,
        "part": "test",
        **classes,
    }
    report.metrics |= {
        "nll": rounded(float(nats.mean())),
        "nll_se": rounded(float(nats.std(ddof=1) / math.sqrt(len(nats)))),
    }
    report.details["nll"] = protocol
    if about.discrete:
        dimensions = math.prod(model.manifest.data.shape)
        report.metrics["bits_per_dim"] = rounded(float(nats.mean()) / dimensions / math.log(2))
        report.details["bits_per_dim"] = {**protocol, "unit": "bits", "dimensions": dimensions}


def _conditional_score(model: Model) -> bool:
    return model.manifest.tasks["score"].input("condition") is not None


def _reconstruction(report: Report, model: Model, test: Held, pictures: Pictures, stage: Stage) -> None:
    """Mean squared error and PSNR of the test part through encode and decode."""
    if not CAN["reconstruct"](model.manifest):
        return
    told = _told(model, test, ("encode", "decode", "decode_codes"))
    found = map_batches(
        lambda start, stop: model.reconstruct(_edge(model, test, start, stop), **told(start, stop)).errors,
        test.n, BATCH, stage("reconstructions"),
    )  # fmt: skip
    errors = np.concatenate(found)
    report.metrics |= {"reconstruction_mse": rounded(float(errors.mean())), "psnr": rounded(metrics.psnr(errors))}
    where = {"part": "test", "n": test.n}
    report.details["reconstruction_mse"] = {**where, "unit": "squared, of values in [0, 1]", "latent": "posterior mean"}
    report.details["psnr"] = {**where, "unit": "dB", "is": "mean over images of 10 log10(1 / mse)"}
    shown = min(16, test.n)
    back = model.reconstruct(_edge(model, test, 0, shown), **told(0, shown)).data
    assert isinstance(model.manifest.data, ImageSpec)
    pictures.originals, pictures.reconstructions = test.pixels[:shown], codecs.to_uint8(back, model.manifest.data)


def _codes(report: Report, model: Model, test: Held, stage: Stage) -> None:
    """How much of the codebook the test part uses."""
    encoder = model.manifest.task("encode")
    if encoder is None or "codes" not in encoder.roles or model.manifest.codes is None:
        return
    told = _told(model, test, ("encode",))
    found = map_batches(
        lambda start, stop: model.encode(_edge(model, test, start, stop), **told(start, stop)).codes,
        test.n, BATCH, stage("codes"),
    )  # fmt: skip
    levels = model.manifest.codes.levels
    usage, perplexity = metrics.code_usage(np.concatenate([codes for codes in found if codes is not None]), levels)
    report.metrics |= {"code_usage": rounded(usage), "code_perplexity": rounded(perplexity)}
    report.details["code_usage"] = report.details["code_perplexity"] = {"part": "test", "n": test.n, "levels": levels}


def _copies(report: Report, features: Features, data: RealData, pictures: Pictures) -> None:
    """Memorisation: the training image nearest to each of the first samples, in pixels, beside how near test images come."""
    shown = features.first[:SHEET]
    if not len(shown) or shown.shape[1:] != data.train.pixels.shape[1:]:
        return
    near, index = _nearest(shown, data.train.pixels)
    of_test, _ = _nearest(data.test.pixels[:: max(1, data.test.n // 256)][:256], data.train.pixels)
    pictures.neighbours = data.train.pixels[index]
    report.metrics["nearest_train_distance"] = rounded(float(np.median(near)))
    report.anchors["test_nearest_train_distance"] = rounded(float(np.median(of_test)))
    report.details["nearest_train_distance"] = {
        "is": "median Euclidean distance in [0, 1] units to the nearest training image",
        "images": len(shown),
    }
    copies = int((near == 0).sum())
    if copies:
        report.warnings.append(f"{copies} of {len(shown)} samples are training images, bit for bit")


def _nearest(images: Array, among: Array) -> tuple[Array, NDArray[np.int64]]:
    """Distance to and index of the nearest among uint8 images, by pixels in [0, 1]."""
    rows = images.reshape(len(images), -1).astype(np.float64) / 255
    best, index = np.full(len(rows), np.inf), np.zeros(len(rows), np.int64)
    for start in range(0, len(among), metrics.ROWS):
        block = among[start : start + metrics.ROWS]
        squares = metrics.squared_distances(rows, block.reshape(len(block), -1).astype(np.float64) / 255)
        least = squares.argmin(axis=1)
        found = squares[np.arange(len(rows)), least]
        index, best = np.where(found < best, start + least, index), np.minimum(found, best)
    exact = ((rows - among[index].reshape(len(rows), -1) / 255) ** 2).sum(
        axis=1
    )  # without the rounding of the expanded square
    return np.sqrt(exact), index


# --- comparing ----------------------------------------------------------------------------------------------------------------


def check_comparable(reports: Sequence[Mapping[str, Any]]) -> None:
    """Raises ProtocolMismatch where two reports were not measured in the same way, naming what differs."""
    first = reports[0]
    for other in reports[1:]:
        for key in COMPARABLE:
            ours, theirs = first["protocol"].get(key), other["protocol"].get(key)
            if ours != theirs:
                raise ProtocolMismatch(
                    f"{first['model']} and {other['model']} were measured under different protocols: {key} is {ours} and {theirs}; "
                    "evaluate both in the same way",
                    field=key,
                )


RANKS = ("kid", "fid_infinity", "fd_classifier_infinity")  # neither depends on how many images there were


def ranks(reports: Sequence[Mapping[str, Any]], metric: str) -> list[int | None]:
    """Place of each report by a metric, 1 the lowest; None where it has none. Raises ProtocolMismatch."""
    check_comparable(reports)
    values = [report["metrics"].get(metric) for report in reports]
    known = sorted(value for value in values if value is not None)
    return [None if value is None else 1 + known.index(value) for value in values]


def ranked(reports: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Best first by KID, or by the distance extrapolated to infinitely many images where not all have a KID. Raises ProtocolMismatch."""
    for metric in RANKS:
        places = ranks(reports, metric)
        if None not in places:
            return [reports[index] for index in np.argsort(np.asarray(places, int), kind="stable")]
    return list(reports)


__all__ = ["Pictures", "RealData", "Report", "anchors", "evaluate", "evaluate_images", "of_source", "ranked"]
