"""The figures of a model on held-out images: likelihood, reconstructions, use of the codebook, and continuity of the latent space.

Each function adds its figures to a model's report. It adds nothing if the model lacks the task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation import diffusion, latent, metrics
from manifold.evaluation.extractors import BATCH, Extractor, Stage, map_batches
from manifold.evaluation.images import RealData, RealImages, batch_size, pixels_of
from manifold.evaluation.model_inputs import conditions, inputs, joined, no_conditions
from manifold.evaluation.report import Pictures, Report, rounded
from manifold.runtime.engine import Model
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import Likelihood, Scoring, Term, figures
from manifold.runtime.operations import PATHS, supports
from manifold.runtime.operations.encode import reconstruction_task

Array = NDArray[Any]

ENCODED = 5000  # largest number of test images whose latents define the unit of latent distance
CHAINED = 1000  # largest number of test images of a diffusion model for its bound and its reconstructions, which take many runs of its network
DRAWS = 20  # number of steps that are drawn for each image for the bound
COUNTED = ("static", "dynamic", "threshold", "levels")  # the forms of x with finitely many values
NO_PROBABILITY = "A binary cross-entropy of grey values is none: it has no bits per dimension"
PAIRS = 16  # number of images that are shown with their reconstructions
BOUNDS = {"exact": "exact", "elbo": "lower bound on log p(x)", "iwae": "importance-weighted lower bound on log p(x)"}
BITS = {"exact": "exact", "elbo": "upper bound: from the ELBO", "iwae": "upper bound: importance-weighted"}


def likelihood(report: Report, model: Model, data: RealData, stage: Stage) -> None:
    """Add the mean of -log p(x) over the test images, or of the lower bound on log p(x), if the artifact states that its score is one of them."""
    test = data.test
    scoring = model.manifest.scoring
    term = next((term for term in scoring.terms if term.likelihood), None) if scoring else None
    if note := _unstated(scoring, term):
        report.warnings.append(note)
    if term is None or term.likelihood is None or term.likelihood.named is None:
        return
    given = conditions(model, test, ("score",)) if model.manifest.conditions is not None else no_conditions
    batches = map_batches(
        lambda start, stop: model.score(inputs(model, test, start, stop), **given(start, stop)).terms[term.name],
        test.n, BATCH, stage("likelihood of the test images"),
    )  # fmt: skip
    nats = np.concatenate(batches)
    stated, form = term.likelihood, term.likelihood.named
    if form == "threshold" and _are_binary(test):
        form = "static"
    assert form is not None
    name = figures.name_of(stated.bound, form, stated.k, "condition" if model.manifest.conditions else "")
    protocol = _likelihood_protocol(model, stated, data)
    error = float(nats.std(ddof=1) / math.sqrt(len(nats)))
    report.metrics |= {
        name: rounded(float(nats.mean() if stated.bound == "exact" else -nats.mean())),
        name + figures.SE: rounded(error),
    }
    report.details[name] = protocol
    if stated.discrete and form in COUNTED:
        values = math.prod(model.manifest.spec.shape) * math.log(2)
        report.metrics |= {
            "bits_per_dim": rounded(float(nats.mean()) / values),
            "bits_per_dim" + figures.SE: rounded(error / values),
        }
        bound = {"bound": BITS[stated.bound], "unit": "bits", "dimensions": math.prod(model.manifest.spec.shape)}
        report.details["bits_per_dim"] = {**protocol, **bound}


def _unstated(scoring: Scoring | None, term: Term | None) -> str:
    """Return a note about likelihood figures that are missing because a manifest does not state what they need; empty if it does."""
    if scoring is None:
        return ""
    if term is None or term.likelihood is None:
        in_nats = [each.name for each in scoring.terms if each.kind == "nll"]
        return "" if not in_nats else (
            f"likelihood and bits_per_dim are missing: the manifest does not state that {in_nats[0]} is -log p(x) or a bound of it; if it is, add "
            f"`likelihood` to the term. {NO_PROBABILITY}"
        )  # fmt: skip
    stated = term.likelihood
    if stated.named is None:
        return (
            f"likelihood and bits_per_dim are missing: the manifest does not state which form x has in {term.name}; add `form`, one of "
            f"{', '.join(figures.FORMS)}, to its `likelihood`"
        )
    if stated.discrete is None and stated.named in COUNTED:
        return (
            f"bits_per_dim is missing: the manifest does not state that p(x) of {term.name} is a probability; if the probabilities of all images sum to 1, "
            f"add `discrete: true` to its `likelihood`. {NO_PROBABILITY}"
        )
    return ""


def chain_bound(report: Report, model: Model, data: RealData, seed: int, stage: Stage) -> None:
    """Add an estimate of a diffusion model's bound on log p(x), on at most CHAINED test images, without a class."""
    if not diffusion.has_chain(model.manifest):
        return
    chain, spec = diffusion.chain_of_model(model.manifest), ImageSpec.of(model.manifest.spec, model.manifest.name)
    test = data.test.picked(CHAINED, seed)
    batches = map_batches(
        lambda start, stop: diffusion.bound(
            diffusion.predictions(model), inputs(model, test, start, stop), spec.levels, chain, np.random.default_rng([seed, start]), DRAWS
        ),
        test.n, BATCH, stage("bound on the likelihood of the test images"),
    )  # fmt: skip
    nats = np.concatenate(batches)
    values, error = math.prod(spec.shape) * math.log(2), float(nats.std(ddof=1) / math.sqrt(len(nats)))
    protocol = {
        "unit": "nats", "bound": BOUNDS["elbo"], "k": 1, "chain": f"{len(chain.time)} steps, {DRAWS} drawn for each image",
        "observed": f"pixels at {spec.levels} levels", "n": test.n, "part": data.part, "classes": "no class",
    }  # fmt: skip
    name = figures.name_of("elbo", "levels")
    report.metrics |= {
        name: rounded(-float(nats.mean())), name + figures.SE: rounded(error),
        "bits_per_dim": rounded(float(nats.mean()) / values), "bits_per_dim" + figures.SE: rounded(error / values),
    }  # fmt: skip
    report.details[name] = protocol
    report.details["bits_per_dim"] = {
        **protocol,
        "bound": BITS["elbo"],
        "unit": "bits",
        "dimensions": math.prod(spec.shape),
    }


def _are_binary(images: RealImages) -> bool:
    """Return whether all pixels are black or white."""
    size = batch_size(images, BATCH)
    starts = range(0, images.n, size)
    return all(np.isin(np.asarray(images.batch(at, min(at + size, images.n)).pixels), (0, 255)).all() for at in starts)


def _likelihood_protocol(model: Model, stated: Likelihood, data: RealData) -> dict[str, Any]:
    protocol: dict[str, Any] = {
        "unit": "nats",
        "bound": BOUNDS[stated.bound],
        "k": stated.k,
        "observed": stated.observed,
    }
    protocol |= {"n": data.test.n, "part": data.part}
    if model.manifest.conditions is not None:
        return protocol | {"given": list(model.manifest.conditions.names)}
    if model.manifest.tasks["score"].input("condition") is not None:
        return protocol | {"classes": "marginalised by the class prior"}
    return protocol


def reconstruction(
    report: Report, model: Model, data: RealData, pictures: Pictures, seed: int, stage: Stage, numbers: Mapping[str, float] | None = None
) -> None:  # fmt: skip
    """Add the mean squared error and the PSNR of the test images, of a diffusion model at most CHAINED, after encode and decode.

    `numbers` are inputs of the model by name. Those that `encode` takes, such as steps, are used.
    """
    test = data.test if model.manifest.path is None else data.test.picked(CHAINED, seed)
    if not supports(model.manifest, "reconstruct"):
        return
    given, numbers = conditions(model, test, ("encode", "decode", "decode_codes")), _of_encoder(model, numbers)
    batches = map_batches(
        lambda start, stop: model.reconstruct(inputs(model, test, start, stop), **given(start, stop), numbers=numbers).errors,
        test.n, BATCH, stage("reconstructions"),
    )  # fmt: skip
    errors = np.concatenate(batches)
    report.metrics |= {"reconstruction_mse": rounded(float(errors.mean())), "psnr_mean": rounded(metrics.psnr(errors))}
    part = {"part": data.part, "n": test.n}
    through = "codes" if reconstruction_task(model.manifest) == "decode_codes" else "posterior mean"
    report.details["reconstruction_mse"] = {**part, "unit": "squared, of values in [0, 1]", "latent": through}
    report.details["psnr_mean"] = {**part, "unit": "dB", "is": "mean over images of 10 log10(1 / mse)"}
    n = min(PAIRS, test.n)
    back = model.reconstruct(inputs(model, test, 0, n), **given(0, n), numbers=numbers).data
    pictures.originals, pictures.reconstructions = test.at(np.arange(n)), pixels_of(model, back)


def _of_encoder(model: Model, numbers: Mapping[str, float] | None) -> dict[str, float]:
    """Return the numbers that the task `encode` takes."""
    taken = model.manifest.tasks["encode"].inputs if "encode" in model.manifest.tasks else ()
    return {each.role: numbers[each.role] for each in taken if numbers and each.role in numbers}


def codes(report: Report, model: Model, data: RealData, stage: Stage) -> None:
    """Add the share of the codebook that the test images use, and its perplexity."""
    test = data.test
    encoder = model.manifest.task("encode")
    if encoder is None or "codes" not in encoder.roles or model.manifest.codes is None:
        return
    given = conditions(model, test, ("encode",))
    batches = map_batches(
        lambda start, stop: model.encode(inputs(model, test, start, stop), **given(start, stop)).codes,
        test.n, BATCH, stage("codes"),
    )  # fmt: skip
    levels = model.manifest.codes.levels
    usage, perplexity = metrics.code_usage(np.concatenate([part for part in batches if part is not None]), levels)
    report.metrics |= {"code_usage": rounded(usage), "code_perplexity": rounded(perplexity)}
    report.details["code_usage"] = report.details["code_perplexity"] = {
        "part": data.part,
        "n": test.n,
        "levels": levels,
    }


def continuity(
    report: Report, model: Model, extractor: Extractor, data: RealData, seed: int, stage: Stage, numbers: Mapping[str, float] | None = None
) -> None:  # fmt: skip
    """Add how evenly images change along paths between the latents of test images, in units of the aggregate posterior.

    `numbers` are inputs of the model by name, such as steps.
    """
    test = data.test
    manifest = model.manifest
    if manifest.space is None or not supports(manifest, "interpolate") or not supports(manifest, "reconstruct"):
        return
    images = test.picked(ENCODED, seed)
    given = conditions(model, images, ("encode", "decode"))
    of_encoder = _of_encoder(model, numbers)
    encoded = map_batches(
        lambda start, stop: model.encode(inputs(model, images, start, stop), **given(start, stop), numbers=of_encoder),
        images.n, BATCH, stage("continuity"),
    )  # fmt: skip
    placed = np.concatenate([part.placed for part in encoded])
    shape, means = placed.shape[1:], placed.reshape(len(placed), -1)
    variances = [
        part.log_variance.reshape(len(part.log_variance), -1) for part in encoded if part.log_variance is not None
    ]
    covariance = latent.aggregate_covariance(means, np.concatenate(variances) if variances else None)
    pairs = _pairs(images.n, seed)
    path, steps = PATHS[manifest.space.interpolation], np.linspace(0, 1, latent.STEPS + 1)
    latents = np.stack([path(means[start], means[stop], steps) for start, stop in pairs])  # (P, S, L)
    flat = latents.reshape(-1, latents.shape[2])
    owners = np.repeat(pairs[:, 0], latents.shape[1])  # a whole path has the class of its first image

    def features(start: int, stop: int) -> Array:
        classes = [given(int(owner), int(owner) + 1).get("classes") for owner in owners[start:stop]]
        arguments = {} if classes[0] is None else {"classes": joined(classes)}
        samples = model.sample(stop - start, latents=flat[start:stop].reshape(-1, *shape), numbers=numbers, **arguments)
        return extractor(pixels_of(model, samples.data))[0]

    path_features = np.concatenate(map_batches(features, len(flat), BATCH, None)).reshape(*latents.shape[:2], -1)
    figures = latent.continuity(latents, path_features, latent.whitening(covariance))
    protocol = {
        "part": data.part, "n": images.n, "paths": len(pairs), "steps": latent.STEPS, "interpolation": manifest.space.interpolation,
        "latent_units": "whitened by the aggregate posterior", "latent_length": rounded(figures.latent_length),
        "feature_length": rounded(figures.feature_length),
    }  # fmt: skip
    _add_continuity(report, figures, protocol)


def _pairs(n: int, seed: int) -> NDArray[np.int64]:
    """Return the indices (P, 2) of the two ends of each path. They are random items."""
    order = np.random.Generator(np.random.Philox(seed)).permutation(n)
    return order[: 2 * min(latent.PAIRS, n // 2)].reshape(-1, 2)


def _add_continuity(report: Report, figures: latent.Continuity, protocol: dict[str, Any]) -> None:
    even = f"share of a path's feature length in its largest step; {1 / latent.STEPS:.4g} if all steps are equal"
    for name, value, meaning in (
        ("continuity", figures.per_unit, "mean feature distance per unit of latent distance along a path"),
        ("continuity_95", figures.per_unit_95, "95th percentile of the same over steps"),
        ("largest_step", figures.largest_step, even),
    ):
        report.metrics[name] = rounded(value)
        report.details[name] = {**protocol, "is": meaning}
