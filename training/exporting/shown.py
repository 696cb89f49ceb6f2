"""The preview of an artifact: one PNG that shows what the model makes. training.exporting.page makes the other pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.engine import Model
from manifold.runtime.operations import draws_items
from manifold.training.data import Part
from manifold.training.data.parts import batches, first
from manifold.training.exporting.context import Context

Array = NDArray[Any]

SEED = 0
PREVIEW = "preview.png"
PREVIEWED = 64  # items
BATCH = 500  # items


def write_preview(context: Context) -> None:
    """Write a PNG that shows what the model makes.

    A model that makes nothing shows the test items with the smallest margin if it has features, else the most anomalous ones.
    """
    engine, data, spec = context.engine, context.data, context.data.spec
    if draws_items(engine.manifest):
        content = preview(engine, data.test, spec.to_model)
    else:
        classifies = "features" in engine.manifest.tasks
        chosen = _least_right(context) if classifies else _most_anomalous(context)
        worst = data.inputs(data.test.batch(chosen))
        name = "least certain" if classifies else "most anomalous"
        content = spec.preview(worst, data.inputs(first(data.test, spec.previewed)), name)
    (context.folder / PREVIEW).write_bytes(content)


def preview(engine: Model, test: Part, to_model: Callable[[Array], Array]) -> bytes:
    """Return a PNG of samples. Samples of rows are shown beside test items, which `to_model` converts to model inputs."""
    spec = engine.manifest.spec
    n = min(spec.previewed, len(test)) if spec.parts else PREVIEWED
    return spec.preview(engine.sample(n, seed=SEED).data, to_model(first(test, spec.previewed).items))


def _least_right(context: Context) -> Array:
    """Return the indices of the test items whose true class has the smallest logit, relative to the largest logit."""
    logits = np.concatenate(
        [
            context.engine.run("features", {"data": context.data.inputs(held)})["logits"]
            for held in batches(context.data.test, BATCH)
        ]
    ).astype(np.float64)
    margin = np.take_along_axis(logits, context.data.test.labels[:, None], axis=1)[:, 0] - logits.max(axis=1)
    return np.argsort(margin, kind="stable")[:PREVIEWED]


def _most_anomalous(context: Context) -> Array:
    """Return the indices of the test items with the largest sum of ranks of the terms that the score consists of."""
    scoring = context.manifest.scoring
    assert scoring is not None
    from scipy.stats import rankdata

    names = scoring.combination.terms if scoring.combination is not None else (scoring.score,)
    parts = [context.engine.score(context.data.inputs(held)).terms for held in batches(context.data.test, BATCH)]
    ranks = [rankdata(np.concatenate([part[name] for part in parts])) for name in names]
    return np.argsort(-np.sum(ranks, axis=0), kind="stable")[:PREVIEWED]
