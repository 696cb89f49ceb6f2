"""The batch evaluator of artifacts. It compares a model's samples with real images and measures the model on held-out images.

evaluation.evaluate_images evaluates the samples. The test images give likelihood, reconstructions and codes; a model that draws no images is
measured on these alone. The training images reveal copies; compared with the test images they also give the figures of real images (anchors).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from manifold.evaluation import codecs, frechet, held_out, metrics
from manifold.evaluation.copies import copies
from manifold.evaluation.errors import EvaluationError
from manifold.evaluation.evaluate_images import CONFIDENT, evaluate_images
from manifold.evaluation.extractors import Extractor, Stage, silent
from manifold.evaluation.images import Generated, RealData
from manifold.evaluation.reference import Reference, cached
from manifold.evaluation.report import Pictures, Report, rounded
from manifold.runtime import inputs
from manifold.runtime.engine import Model
from manifold.runtime.errors import UnsupportedTask, cut, near
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import NUMBERS, Manifest
from manifold.runtime.operations import draws_items, sampling_task, supports, why_not_draw
from manifold.runtime.operations.capabilities import abilities


def evaluate(
    model: Model,
    reference: Reference,
    extractor: Extractor,
    data: RealData | None = None,
    *,
    n: int = 10_000,
    seed: int = 0,
    prior: str | None = None,
    numbers: Mapping[str, float] | None = None,
    stage: Stage = silent,
) -> tuple[Report, Pictures]:
    """Evaluate an artifact's samples with `evaluate_images`.

    `numbers` are inputs of the model by name, such as steps. With `data`, also evaluate its likelihood (beside lossless codecs),
    reconstructions and codes, find copies, and add the figures of real images.

    Raises UnsupportedTask for a model that generates no images, and EvaluationError for invalid options.
    """
    manifest = model.manifest
    check_can(manifest, n, prior)
    report, features, pictures = evaluate_images(
        Generated(model, n, seed, prior, numbers or {}), reference, extractor, seed=seed, stage=stage
    )
    report = replace(
        report, model=manifest.name, version=manifest.version, checksum=model.checksum,
        prior=prior or (manifest.space.prior if manifest.space else None),
    )  # fmt: skip
    task = manifest.tasks[sampling_task(manifest, None, None)]
    used = {each.role: (numbers or {}).get(each.role, each.default) for each in task.inputs if each.source in NUMBERS}
    if known := {name: value for name, value in used.items() if value is not None}:
        report.protocol["numbers"] = known
    if data is not None:
        held_out.likelihood(report, model, data, stage)
        held_out.chain_bound(report, model, data, seed, stage)
        codecs.beside_bits(report, ImageSpec.of(manifest.spec, manifest.name), data.test, stage)
        held_out.reconstruction(report, model, data, pictures, seed, stage, numbers)
        held_out.codes(report, model, data, stage)
        held_out.continuity(report, model, extractor, data, seed, stage, numbers)
        copies(report, features, data, pictures)
        report.anchors |= anchors(data, reference, extractor, n, seed, stage)
    elif reference.anchors:
        report.anchors |= {key: value for key, value in reference.anchors.items() if key != "n"}
    return report, pictures


def evaluate_held_out(model: Model, data: RealData, *, seed: int = 0, stage: Stage = silent) -> tuple[Report, Pictures]:
    """Evaluate an artifact that draws no images, on held-out images: likelihood (beside lossless codecs), reconstructions and codes.

    Raises UnsupportedTask for a model with none of these.
    """
    manifest = model.manifest
    if not measures_held_out(manifest):
        raise _cannot(manifest)
    origin = {"data": data.name, "split": data.part, "n": data.test.n, "sha256": data.test.content_hash()}
    report = Report(
        manifest.name, manifest.version, {"reference": origin, "seed": seed}, {}, checksum=model.checksum,
        warnings=[f"distances and scores of samples are missing: {_lacks(manifest)}"],
    )  # fmt: skip
    pictures = Pictures()
    held_out.likelihood(report, model, data, stage)
    codecs.beside_bits(report, ImageSpec.of(manifest.spec, manifest.name), data.test, stage)
    held_out.reconstruction(report, model, data, pictures, seed, stage)
    held_out.codes(report, model, data, stage)
    return report, pictures


def measures_held_out(manifest: Manifest) -> bool:
    """Return whether held-out images alone give figures of a model that draws none: it reconstructs them, or its score is their likelihood."""
    terms = manifest.scoring.terms if manifest.scoring is not None else ()
    return manifest.spec.pictures and (supports(manifest, "reconstruct") or any(term.likelihood for term in terms))


def draws_images(manifest: Manifest) -> bool:
    """Return whether a seed is enough to make images."""
    return manifest.spec.pictures and draws_items(manifest)


def check_can(manifest: Manifest, n: int, prior: str | None, numbers: Mapping[str, float] | None = None) -> None:
    """Raise UnsupportedTask for a model that makes no images, EvaluationError for too few samples or an unknown prior.

    `numbers` are inputs of the model by name. Raises InvalidValue for one that the model does not take or offer.
    """
    if not draws_images(manifest):
        raise _cannot(manifest)
    if n < 2:
        raise EvaluationError(
            f"n: {n} is too small; use at least 2 images, and thousands for a precise figure", field="n"
        )
    priors = list(manifest.space.priors) if manifest.space else []
    if prior is not None and prior not in priors:
        raise EvaluationError(
            f"prior: {manifest.name} has no prior {cut(repr(prior))}{near(prior, priors)}; it has {', '.join(priors) or 'none'}",
            field="prior",
            valid=priors,
        )
    inputs.with_fields(manifest, [manifest.tasks[sampling_task(manifest, None, None)]], None, numbers or {}, n)


def _cannot(manifest: Manifest) -> UnsupportedTask:
    return UnsupportedTask(
        f"{manifest.name} cannot be evaluated: {_lacks(manifest)}; {abilities(manifest)}", field="model"
    )


def _lacks(manifest: Manifest) -> str:
    """Return why a model draws no images."""
    if not manifest.spec.pictures:
        return f"it makes {manifest.spec.noun}, not images (`manifold judge` measures its score)"
    return why_not_draw(manifest) or "it makes no images"


def anchors(
    data: RealData, reference: Reference, extractor: Extractor, n: int, seed: int, stage: Stage = silent
) -> dict[str, Any]:
    """Return the figures of real images: n training images against the reference, and the reference's own Inception Scores and accuracy."""
    part = data.train.picked(n, seed)
    train, _ = cached(extractor, part, stage("anchor: training images"))
    scores: dict[str, Any] = {
        "train_vs_test": rounded(frechet.distance(reference.gaussian, train.gaussian)),
        "train_n": train.n,
    }
    real = reference.features
    if real is not None:
        if min(len(real.rows), len(train.rows)) >= 2 * metrics.BLOCKS:
            kid = metrics.kernel_distance(real.rows, train.rows, seed)
            scores |= {"train_vs_test_kid": rounded(kid.value), "train_vs_test_kid_se": rounded(kid.error)}
        if real.probabilities is not None:
            scores["test_confident"] = rounded(metrics.confident(real.probabilities, CONFIDENT))
        if real.probabilities is not None and real.n >= metrics.SPLITS:
            scores["test_is_marginal"] = rounded(metrics.inception_score(real.probabilities, seed).value)
            if reference.class_shares is not None and (reference.class_shares > 0).all():
                by_prior = metrics.inception_score(real.probabilities, seed, reference.class_shares)
                scores["test_is_prior"] = rounded(by_prior.value)
            if (real.labels >= 0).all():
                scores["test_class_accuracy"] = rounded(
                    float((real.probabilities.argmax(axis=1) == real.labels).mean())
                )
    return scores
