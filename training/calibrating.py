"""The calibration of a model on a data set: on its calibration split, which no model of the data set is trained on."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from manifold.evaluation import anomaly
from manifold.runtime.engine import Model
from manifold.runtime.errors import InvalidValue
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import Manifest
from manifold.runtime.scores import calibration
from manifold.runtime.scores.calibration import Recalibrated
from manifold.runtime.scores.recalibration import SAMPLE_ROWS, Reservoir
from manifold.training.data import Data
from manifold.training.data.parts import Array, batches

BATCH = 256  # items that are read at once
SPLIT = "calibration"
STATED = ("data", SPLIT, "order", "test")  # entries of a protocol that the artifact records


def recalibrate(
    model: Model,
    data: Data,
    root: Path,
    *,
    strict: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[Recalibrated, str]:
    """Publish the model in `root` as its next version, calibrated on the calibration split of a data set. Return the artifact and a summary.

    Images of another size are resized, as in the service; `note` is called with a text about it. `strict` publishes nothing if there are
    warnings. Raises InvalidValue for items that the model does not take, and for a data set without a calibration split.
    """
    manifest = model.manifest
    to_model, noun = _reader(manifest, data, note), manifest.spec.noun
    if not len(data.calibration):
        raise InvalidValue(
            f"data: {data.name} has no {noun} for calibration, as it is too small; give a file or a folder of normal {noun} that the model was not "
            "trained on",
            field="data",
        )
    reservoir = Reservoir(min(SAMPLE_ROWS, len(data.calibration)), math.prod(manifest.spec.shape))
    for held in batches(data.calibration, BATCH):
        reservoir.add(to_model(held.items).reshape(len(held), -1))
    described = f"{reservoir.size(noun)} of {data.name}, split `{SPLIT}`"
    if stated := data.protocol.get(SPLIT):
        described += f" ({stated})"
    made = calibration.recalibrate(
        model, reservoir.data.reshape(-1, *manifest.spec.shape), root, source=described, trained_on=_trained_on(manifest, data),
        shift=data.differs or None, strict=strict, items={key: data.protocol[key] for key in STATED if key in data.protocol},
    )  # fmt: skip
    return made, f"calibrated on {described}"


def _reader(manifest: Manifest, data: Data, note: Callable[[str], None]) -> Callable[[Array], Array]:
    """Return the function that converts stored items to model inputs. Raises InvalidValue for items that the model does not take."""
    to_model = manifest.spec.reader_of(data.spec)
    if to_model is not None:
        return to_model
    if not (manifest.spec.pictures and data.spec.pictures):
        raise InvalidValue(
            f"data: {data.name} has {data.spec.noun} that {manifest.name} does not take; give a file or a folder of {manifest.spec.noun} that it takes",
            field="data",
        )
    spec, held = ImageSpec.of(manifest.spec, manifest.name), ImageSpec.of(data.spec, data.name)
    note(
        f"images of {data.name} are {held.width}x{held.height} with {held.channels} channel(s); they are fitted to {spec.width}x{spec.height} with "
        f"{spec.channels}, as the service fits images"
    )
    return lambda items: anomaly.fitted(items, spec)


def _trained_on(manifest: Manifest, data: Data) -> bool:
    """Return whether the manifest says that the model was trained on this data set with another calibration split, whose items it may have seen."""
    stated: Any = manifest.provenance.get("data")
    if not isinstance(stated, dict) or stated.get("data") != data.name:
        return False
    return bool(stated.get(SPLIT) != data.protocol.get(SPLIT) or stated.get("sha256") != data.protocol.get("sha256"))
