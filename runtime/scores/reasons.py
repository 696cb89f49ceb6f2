"""The evidence for scores: why an item is as anomalous as it is.

For kinds with parts (rows and their columns): nats by part above what is usual, the latent's beside them, what the other parts would have led
one to expect, and the nearest items of the training data. For others (images): nats by value, and the nearest items. The kind writes it down.

What is usual is the mean over the calibration items. A part is expected as the model fills it in from the others (operations.impute): the
reconstruction of the whole item would lean towards the very value that is in question.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import conditions, operations
from manifold.runtime.conditions import Given, tagged
from manifold.runtime.inputs import Numbers, of_items
from manifold.runtime.kinds import Evidence
from manifold.runtime.manifest import Manifest
from manifold.runtime.operations import Run, Scores, Steps, supports
from manifold.runtime.scores.scoring import Calibrated

Array = NDArray[Any]
Float64 = NDArray[np.float64]

EXPECTED = 5  # parts of an item, those with the largest excess, for which the expected value is computed


def check_explains(manifest: Manifest) -> None:
    """Raise InvalidValue for a model whose scores cannot be explained: its score comes without nats by part or value."""
    if manifest.scoring is None or manifest.scoring.surprise is None:
        raise operations.no_effect(manifest, "explain", "carries no nats of single values that could explain a score")


def scored(
    manifest: Manifest,
    data: Array,
    calibrated: Calibrated,
    *,
    explain: bool,
    condition: Given | None = None,
    numbers: Numbers | None = None,
) -> Steps[tuple[Scores, Evidence | None]]:
    """Return scores of items, and their reasons if they are asked for and the artifact has nats by part or value."""
    scores = yield from operations.score(manifest, data, condition=condition, numbers=numbers)
    if not explain or scores.surprise is None:
        return scores, None
    return scores, (yield from find(manifest, data, scores, calibrated, condition=condition, numbers=numbers))


def find(
    manifest: Manifest, data: Array, scores: Scores, calibrated: Calibrated, *, condition: Given | None = None,
    numbers: Numbers | None = None,
) -> Steps[Evidence]:  # fmt: skip
    """Return what is known about the scores of items (n, *shape)."""
    scoring, spec = manifest.scoring, manifest.spec
    assert scoring is not None
    evidence = Evidence(scores.surprise, scale=scoring.surprise_scale)
    if spec.parts is not None and scores.surprise is not None:
        usual = np.zeros(len(spec.parts)) if scoring.surprise_mean is None else np.asarray(scoring.surprise_mean)
        evidence = replace(evidence, excess=scores.surprise.astype(np.float64) - usual)
        if scoring.latent is not None and scoring.latent in calibrated.scores:
            latent = scores.terms[scoring.latent] - calibrated.scores[scoring.latent].mean()
            evidence = replace(evidence, latent=latent)
        if evidence.excess is not None and supports(manifest, "impute"):
            expected = yield from _expected(manifest, data, evidence.excess, condition, numbers)
            evidence = replace(evidence, expected=expected)
    if "neighbours" in manifest.tasks and len(data):
        near = yield Run(
            "neighbours", operations.with_data(manifest, manifest.tasks["neighbours"], data, None, numbers)
        )
        evidence = replace(evidence, neighbours=near["nearest"], known=near.get("known"), distances=near["distance"])
    return evidence


def _expected(
    manifest: Manifest, data: Array, excess: Float64, condition: Given | None, numbers: Numbers | None
) -> Steps[Array]:
    """Return the parts of each item with the largest excess as the others would have them, (n, *shape); NaN elsewhere."""
    blocks = list(manifest.spec.blocks())
    places = np.argsort(-excess, axis=1, kind="stable")[:, :EXPECTED]
    item, place = np.nonzero(np.take_along_axis(excess, places, axis=1) > 0)
    part = places[item, place]
    expected = np.full(data.shape, np.nan, np.float32)
    if not len(item):
        return expected
    asked = data[item]
    for at, which in enumerate(part):
        asked[at, blocks[which]] = np.nan
    filled = yield from operations.impute(
        manifest, asked, condition=_chosen(condition, item, len(data)), numbers=of_items(numbers, item)
    )
    for at, which in enumerate(part):
        expected[item[at], blocks[which]] = filled.data[at, blocks[which]]
    return expected


def _chosen(condition: Given | None, items: Array, n: int) -> Given | None:
    """Return the condition of some of n items, each by its index."""
    return None if condition is None else conditions.of_items(tagged(condition), items, n)
