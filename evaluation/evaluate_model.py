"""The batch evaluator of artifacts: what a model makes against real images, and what it says about them.

Samples go through evaluation.evaluate; the test part gives likelihood, reconstructions and codes; the training part shows copies and,
against the test part, what real images score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation import disentanglement, frechet, latent, metrics
from manifold.evaluation.errors import EvaluationError
from manifold.evaluation.evaluate_images import CONFIDENT, SHEET, Stage, evaluate_images, silent
from manifold.evaluation.extractors import BATCH, Extractor, Features, map_batches
from manifold.evaluation.images import Generated, Held
from manifold.evaluation.records import Pictures, Report, rounded
from manifold.evaluation.reference import Reference, cached
from manifold.runtime import imaging
from manifold.runtime.engine import Model
from manifold.runtime.errors import UnsupportedTask
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.operations import CAN, PATHS

Array = NDArray[Any]

MOST_ITEMS = 10_000  # training items at most that factors are told from
ENCODED = 5000  # test items at most whose latents say what a unit is


@dataclass(frozen=True)
class RealData:
    """The parts of a data set that an evaluation looks at, as bytes."""

    name: str
    train: Held
    calibration: Held
    test: Held


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
        prior=prior or (manifest.latent.prior if manifest.latent else None),
    )  # fmt: skip
    if data is not None:
        _likelihood(report, model, data.test, stage)
        _reconstruction(report, model, data.test, pictures, stage)
        _codes(report, model, data.test, stage)
        _continuity(report, model, extractor, data.test, seed, stage)
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
        if real.probabilities is not None:
            found["test_confident"] = rounded(metrics.confident(real.probabilities, CONFIDENT))
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
    return imaging.from_uint8(held.pixels[start:stop], model.manifest.data)


def _told(model: Model, held: Held, tasks: Sequence[str]) -> Callable[[int, int], Mapping[str, Any]]:
    """Classes or real values for tasks that take a condition: each item's own. Raises EvaluationError where the data lacks them."""
    specs = [model.manifest.tasks[name] for name in tasks if name in model.manifest.tasks]
    if all(spec.input("condition") is None for spec in specs):
        return lambda start, stop: {}
    if model.manifest.conditions is None:
        return lambda start, stop: {"classes": [int(label) for label in held.labels[start:stop]]}
    names = model.manifest.conditions.names
    if held.factors is None or not set(names) <= set(held.factor_names):
        raise EvaluationError(
            f"data: {held.name} lacks {', '.join(names)}, which {model.manifest.name} is told", field="data"
        )
    values = held.factors[:, [held.factor_names.index(name) for name in names]]
    return lambda start, stop: {"classes": values[start:stop]}


def _likelihood(report: Report, model: Model, test: Held, stage: Stage) -> None:
    """-log p(x), or its bound, over the test part, where the artifact's score says what it is."""
    scoring = model.manifest.scoring
    term = next((term for term in scoring.terms if term.likelihood), None) if scoring else None
    if term is None or term.likelihood is None:
        return
    given = model.manifest.conditions is not None
    told = _told(model, test, ("score",)) if given else lambda start, stop: {}
    values = map_batches(
        lambda start, stop: model.score(_edge(model, test, start, stop), **told(start, stop)).terms[term.name],
        test.n, BATCH, stage("likelihood of the test part"),
    )  # fmt: skip
    nats = np.concatenate(values)
    about = term.likelihood
    bound = {"exact": "exact", "elbo": "upper bound: -ELBO", "iwae": "upper bound: importance-weighted"}[about.bound]
    classes: dict[str, Any] = {"classes": "marginalised by the class prior"} if _conditional_score(model) else {}
    if model.manifest.conditions is not None:
        classes = {"given": list(model.manifest.conditions.names)}
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
    pictures.originals, pictures.reconstructions = test.pixels[:shown], imaging.to_uint8(back, model.manifest.data)


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


def _continuity(report: Report, model: Model, extractor: Extractor, test: Held, seed: int, stage: Stage) -> None:
    """How evenly pictures change along paths between test items' latents, in units of the aggregate posterior."""
    manifest = model.manifest
    if manifest.latent is None or not CAN["interpolate"](manifest) or not CAN["reconstruct"](manifest):
        return
    items = test.picked(ENCODED, seed)
    told = _told(model, items, ("encode", "decode"))
    encoded = map_batches(
        lambda start, stop: model.encode(_edge(model, items, start, stop), **told(start, stop)), items.n, BATCH, stage("continuity")
    )  # fmt: skip
    means = np.concatenate([part.placed for part in encoded])
    variances = [part.log_variance for part in encoded if part.log_variance is not None]
    covariance = latent.aggregate_covariance(means, np.concatenate(variances) if variances else None)
    order = np.random.Generator(np.random.Philox(seed)).permutation(items.n)
    pairs = order[: 2 * min(latent.PAIRS, items.n // 2)].reshape(-1, 2)
    path, parts = PATHS[manifest.latent.interpolation], np.linspace(0, 1, latent.STEPS + 1)
    latents = np.stack([path(means[start], means[stop], parts) for start, stop in pairs])  # (P, S, L)
    flat = latents.reshape(-1, latents.shape[2])
    owners = np.repeat(pairs[:, 0], latents.shape[1])  # a path stays in the class that it starts from

    def look(start: int, stop: int) -> Array:
        given = [told(int(owner), int(owner) + 1).get("classes") for owner in owners[start:stop]]
        classes = {} if given[0] is None else {"classes": _joined(given)}
        assert isinstance(manifest.data, ImageSpec)
        made = model.sample(stop - start, latents=flat[start:stop], **classes).data
        return extractor(imaging.to_uint8(made, manifest.data))[0]

    seen = np.concatenate(map_batches(look, len(flat), BATCH, None)).reshape(*latents.shape[:2], -1)
    found = latent.continuity(latents, seen, latent.whitening(covariance))
    report.metrics |= {
        "continuity": rounded(found.per_unit), "continuity_95": rounded(found.per_unit_95), "largest_step": rounded(found.largest_step),
    }  # fmt: skip
    about = {
        "part": "test", "n": items.n, "paths": len(pairs), "steps": latent.STEPS, "interpolation": manifest.latent.interpolation,
        "latent_units": "whitened by the aggregate posterior", "latent_length": rounded(found.latent_length),
        "feature_length": rounded(found.feature_length),
    }  # fmt: skip
    report.details["continuity"] = {**about, "is": "mean feature distance per unit of latent distance along a path"}
    report.details["continuity_95"] = {**about, "is": "95th percentile of the same over steps"}
    report.details["largest_step"] = {
        **about,
        "is": f"part of a path's feature length in its largest step; {1 / latent.STEPS:.4g} is even",
    }


def _joined(given: list[Any]) -> Any:
    """Classes, or rows of real values, of single items as those of a batch."""
    return (
        np.concatenate(given) if isinstance(given[0], np.ndarray) else [label for labels in given for label in labels]
    )


def disentangle(model: Model, data: RealData, item: int) -> tuple[dict[str, Any], bytes]:
    """Active dimensions, MIG and DCI where the data's factors are known, and a PNG of traversals from a test item, a row a dimension.

    Raises UnsupportedTask for a model without a latent that it encodes into, EvaluationError where the item is not there.
    """
    manifest = model.manifest
    if manifest.latent is None or not CAN["interpolate"](manifest) or not CAN["reconstruct"](manifest):
        raise UnsupportedTask(
            f"{manifest.name} does not encode into a latent; it can {', '.join(manifest.tasks)}", field="model"
        )
    if not 0 <= item < data.test.n:
        raise EvaluationError(f"item: {item} is not one of the {data.test.n} test items", field="item")
    train, test = (_means(model, held) for held in (data.train.picked(MOST_ITEMS, 0), data.test))
    told = _told(model, data.test, ("encode", "decode"))(item, item + 1)
    dimensions, rows = disentanglement.traversals(model, test, item, told.get("classes"))
    found: dict[str, Any] = {
        "model": manifest.name, "version": manifest.version, "data": data.name, "latent": manifest.latent.size, "active": len(dimensions),
        "dimensions": dimensions,
    }  # fmt: skip
    held = data.train.picked(MOST_ITEMS, 0)
    if held.factors is not None and data.test.factors is not None:
        gaps = disentanglement.mig(train, held.factors)
        parts = disentanglement.dci(train, held.factors, test, data.test.factors)
        found |= {
            "mig": rounded(float(gaps.mean())), "mig_by_factor": dict(zip(held.factor_names, map(rounded, gaps.tolist()), strict=True)),
            "dci_disentanglement": rounded(parts.disentanglement), "dci_completeness": rounded(parts.completeness),
            "dci_informativeness": rounded(parts.informativeness),
            "importance": {
                name: [rounded(value) for value in column] for name, column in zip(held.factor_names, parts.importance.T.tolist(), strict=True)
            },
            "protocol": {"codes": "posterior means", "train": held.n, "test": data.test.n, "bins": disentanglement.BINS, "trees": disentanglement.TREES},
        }  # fmt: skip
    if not dimensions:
        raise EvaluationError(f"{manifest.name}: no latent dimension varies over the data: the posterior has collapsed")
    shown = rows.reshape(-1, *rows.shape[2:])
    return found, imaging.to_png(imaging.grid(shown, columns=rows.shape[1], scale=max(1, round(56 / rows.shape[3]))))


def _means(model: Model, held: Held) -> Array:
    """Where items lie, (N, L)."""
    told = _told(model, held, ("encode",))
    parts = map_batches(
        lambda start, stop: model.encode(_edge(model, held, start, stop), **told(start, stop)).placed, held.n, BATCH
    )
    return np.concatenate(parts)


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
