"""The evidence for scores: it explains why an item is anomalous.

For kinds with parts (rows and their columns), the evidence consists of the nats of each part and of the latent above their usual values, the
expected values of parts given the others, and the nearest training items. For other kinds (images) it is the nats by value and the nearest
items. The kind converts the evidence into a response.

The usual value is the mean over the calibration items. The expected value of a part is the one that the model fills in from the other parts
(operations.impute), or an output of the score. A reconstruction of the whole item would be biased towards the value in question.
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

EXPECTED = 5  # number of parts per item (those with the largest excess) for which the expected value is computed


def check_explains(manifest: Manifest) -> None:
    """Raise InvalidValue for a model whose scores cannot be explained, since it has no nats by part or value."""
    if manifest.scoring is None or manifest.scoring.surprise is None:
        raise operations.no_effect(
            manifest, "explain", "has no nats of single values, which are needed to explain a score"
        )


def scored(
    manifest: Manifest,
    data: Array,
    calibrated: Calibrated,
    *,
    explain: bool,
    condition: Given | None = None,
    numbers: Numbers | None = None,
) -> Steps[tuple[Scores, Evidence | None]]:
    """Return the scores of items and, if `explain` is true and the artifact has nats by part or value, the evidence for them."""
    scores = yield from operations.score(manifest, data, condition=condition, numbers=numbers)
    if not explain or scores.surprise is None:
        return scores, None
    return scores, (yield from find(manifest, data, scores, calibrated, condition=condition, numbers=numbers))


def find(
    manifest: Manifest, data: Array, scores: Scores, calibrated: Calibrated, *, condition: Given | None = None,
    numbers: Numbers | None = None,
) -> Steps[Evidence]:  # fmt: skip
    """Return the evidence for the scores of items (n, *shape)."""
    scoring, spec = manifest.scoring, manifest.spec
    assert scoring is not None
    evidence = Evidence(scores.surprise, scale=scoring.surprise_scale)
    if spec.parts is not None and scores.surprise is not None:
        usual = np.zeros(len(spec.parts)) if scoring.surprise_mean is None else np.asarray(scoring.surprise_mean)
        excess = scores.surprise.astype(np.float64) - usual
        for place, block in enumerate(spec.blocks()):
            missing = np.isnan(data[:, block]).all(axis=1)
            excess[missing, place] = np.minimum(excess[missing, place], 0)  # a missing value is no reason
        evidence = replace(evidence, excess=excess)
        if scoring.latent is not None and scoring.latent in calibrated.scores:
            latent = scores.terms[scoring.latent] - calibrated.scores[scoring.latent].mean()
            evidence = replace(evidence, latent=latent)
        if evidence.excess is not None and scores.expected is not None:
            evidence = replace(evidence, expected=_of_largest(manifest, scores.expected, evidence.excess))
        elif evidence.excess is not None and supports(manifest, "impute"):
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
    """Return the expected values (n, *shape) of the parts with the largest excess, given the other parts; NaN elsewhere."""
    blocks = list(manifest.spec.blocks())
    item, part = _largest(excess)
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


def _largest(excess: Float64) -> tuple[Array, Array]:
    """Return the items and the parts with the largest excess (n, parts), as far as it is positive: at most EXPECTED parts of each item."""
    places = np.argsort(-excess, axis=1, kind="stable")[:, :EXPECTED]
    item, place = np.nonzero(np.take_along_axis(excess, places, axis=1) > 0)
    return item, places[item, place]


def _of_largest(manifest: Manifest, values: Array, excess: Float64) -> Array:
    """Return the values (n, *shape) of the parts with the largest excess; NaN elsewhere."""
    blocks, kept = list(manifest.spec.blocks()), np.full(values.shape, np.nan, np.float32)
    for item, part in zip(*_largest(excess), strict=True):
        kept[item, blocks[part]] = values[item, blocks[part]]
    return kept


def _chosen(condition: Given | None, items: Array, n: int) -> Given | None:
    """Return the condition of some of n items, selected by index."""
    return None if condition is None else conditions.of_items(tagged(condition), items, n)
