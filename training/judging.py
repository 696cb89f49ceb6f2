"""Trained models before the evaluator: data sets as it takes them, and the score of a model judged as a detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from manifold.evaluation import anomaly, anomaly_page
from manifold.evaluation.anomaly import Judgement
from manifold.evaluation.images import ImageArray, RealData
from manifold.runtime.engine import Model
from manifold.runtime.errors import InvalidValue
from manifold.runtime.kinds.image import ImageSpec
from manifold.training import datasets
from manifold.training.data import Arrays, Data

LEAST_IMAGES = 1000  # of a test part whose images stand in for anomalies; of a smaller one the training part does


def real_data(name: str) -> RealData:
    """Return a data set of images as the evaluator takes it. Raises InvalidValue for a data set of rows."""
    data = datasets.load(name)
    ImageSpec.of(data.spec, f"data: {name}")
    parts = {
        part: ImageArray(Arrays.of(held).items, held.labels, name, held.factors, data.factors)
        for part, held in (("train", data.train), ("calibration", data.calibration), ("test", data.test))
    }
    return RealData(name, **parts)


def judge(
    model: Model, data: Data, *, against: str | None = None, html: Path | None = None, record: bool = False
) -> Judgement:
    """Judge the score of a model by the data set that it was trained on; `against` names a data set whose images are anomalies.

    The figures go into the artifact's manifest with `record`, and into a page with `html`. Raises InvalidValue for a model without a score,
    for data of another kind, and for options that do not fit the kind of data.
    """
    _check(model, data, against, html)
    anomalies = _anomalies(model, data, against)
    judgement = anomaly.judge(model, data.inputs(data.train), data.inputs(data.test), anomalies)
    if record:
        anomaly.record(model, judgement, against)
    if html is not None:
        anomaly_page.write(html, model, judgement, Arrays.of(data.test).items, anomalies)
    return judgement


def _check(model: Model, data: Data, against: str | None, html: Path | None) -> None:
    manifest = model.manifest
    if manifest.scoring is None:
        raise InvalidValue(f"model: {manifest.name} carries no score", field="model")
    if manifest.spec != data.spec:
        raise InvalidValue(f"data: {data.name} does not hold the items of {manifest.name}", field="data")
    if html is not None and not data.spec.in_files:
        raise InvalidValue("--html: the page is of rows", field="html")
    if against is not None and not data.spec.pictures:
        raise InvalidValue("--against: rows have known anomalies of their own", field="against")


def _anomalies(model: Model, data: Data, against: str | None) -> NDArray[Any] | None:
    """Return the known anomalies of a data set as model inputs, or the images of another one; None if there are neither."""
    if against is None:
        return None if data.anomalies is None else Arrays.of(data.anomalies).items
    other = datasets.load(against)
    ImageSpec.of(other.spec, f"--against: {against}")
    images = other.test if len(other.test) >= LEAST_IMAGES else other.train
    return anomaly.fitted(Arrays.of(images).items, ImageSpec.of(model.manifest.spec, f"model: {model.manifest.name}"))
