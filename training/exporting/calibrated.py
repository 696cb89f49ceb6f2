"""The export steps that fit something to the training or calibration split: priors, calibration of scores, temperature of class probabilities."""

from __future__ import annotations

from collections.abc import Iterator

from manifold.runtime import priors as stores
from manifold.runtime.operations import Scores, softmax
from manifold.runtime.scores import calibration
from manifold.training.data.parts import batches
from manifold.training.exporting import classes, folds, priors
from manifold.training.exporting.context import Context

BATCH = 1000  # items
DENSITIES = "prior_log_densities"  # in the provenance: nats of the calibration split, by prior


def fit_priors(context: Context) -> None:
    """Fit priors to the latent positions of the training items and choose the default one on held-out items, if latents have priors.

    Arrays of priors go into a file. No prior is fitted for a model whose latent is the noise that it was trained with.
    """
    latent, data = context.manifest.space, context.data
    if latent is not None and latent.priors and priors.can_fit(context.manifest):
        fitted = priors.fit(priors.posterior_means(context.engine, data, data.train))
        latent = priors.added(latent, fitted)
        found = priors.densities(latent, priors.posterior_means(context.engine, data, data.calibration))
        recorded = {DENSITIES: found} if found else {}
        context.update(
            latent=priors.with_default(latent, found), provenance={**context.manifest.provenance, **recorded}
        )
    context.manifest = stores.stored(context.folder, context.manifest)


def calibrate_scores(context: Context) -> None:
    """Store the scores of items that were not used in training: the calibration split, or for a small data set all training items by folds."""
    scoring, data = context.manifest.scoring, context.data
    if scoring is None:
        return
    if data.folds:
        scores, n = folds.scores(context.run, data, context.engine.manifest), len(data.train)
        source = f"{n} training items, each by a model trained on the other {data.folds - 1} of {data.folds} folds"
    else:
        scores, n, source = _held_out(context), len(data.calibration), _source(context)
    written = calibration.write(
        scoring, scores, context.folder, n=n, source=source, spec=data.spec, shift=data.differs or None
    )
    context.update(scoring=written)


def _held_out(context: Context) -> Iterator[Scores]:
    """Yield the scores of the calibration split in batches, computed by the engine."""
    engine, data = context.engine, context.data
    for held in batches(data.calibration, BATCH):
        known = {"classes": priors.conditions(engine.manifest, data, held)} if engine.manifest.conditions else {}
        yield engine.score(data.inputs(held), **known)


def calibrate_classes(context: Context) -> None:
    """Fit the temperature of class probabilities to the calibration split, and add the resulting figures of the test split."""
    engine, manifest, data = context.engine, context.manifest, context.data
    if manifest.classification is None:
        return
    temperature, source = 1.0, "not fitted: there is no calibration split"
    if len(data.calibration):
        energies = classes.energies(engine, data, data.calibration)
        temperature, source = classes.fit_temperature(energies, data.calibration.labels), _source(context)
    stated = manifest.classification.model_copy(update={"temperature": round(temperature, 4), "source": source})
    probabilities = softmax(classes.energies(engine, data, data.test) / stated.temperature)
    protocol = {
        **data.protocol,
        "n": len(data.test),
        "class_prior": "uniform" if manifest.class_prior is None else list(manifest.class_prior),
        "by": stated.term or "logits",
        "temperature": stated.temperature,
    }
    figures = classes.figures(probabilities, data.test.labels, protocol)
    context.update(classification=stated, metrics=(*manifest.metrics, *figures))


def _source(context: Context) -> str:
    """Return the description of the calibration split."""
    data = context.data
    return str(data.protocol.get("calibration", f"{len(data.calibration)} items"))
