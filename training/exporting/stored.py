"""The step of an export that puts lossless codecs beside the bits per dimension of a run."""

from __future__ import annotations

from typing import Any

from manifold.evaluation import codecs
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import Metric
from manifold.runtime.manifest.figures import BITS
from manifold.training.exporting.context import Context
from manifold.training.judging import PartImages


def compare_codecs(context: Context) -> None:
    """Add the bits per dimension of lossless codecs to the protocol of the run's own figure, for the same test images at the same levels."""
    context.update(metrics=tuple(_compared(metric, context) for metric in context.manifest.metrics))


def _compared(metric: Metric, context: Context) -> Metric:
    if metric.name != BITS:
        return metric
    spec, data = ImageSpec.of(context.manifest.spec, context.manifest.name), context.data
    images = PartImages(data.test, data.spec.shape, data.name)
    stored = codecs.anchors(images, *rounding(metric.protocol, spec))
    return metric.model_copy(update={"protocol": {**metric.protocol, "anchors": stored}})


def rounding(protocol: dict[str, Any], spec: ImageSpec) -> tuple[int, int | None]:
    """Return the number of levels of x, and the seed if values are rounded to them at random; None if they are rounded to the nearest."""
    observed = str(protocol.get("observed", ""))
    levels = codecs.levels_of(spec, observed)
    by_chance = "chance" in observed or "at random" in observed
    return levels, protocol.get("seed", 0) if by_chance else None
