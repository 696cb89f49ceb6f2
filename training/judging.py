"""The connection between training and the evaluator: data sets in the evaluator's form, and the evaluation of anomaly scores.

Items are read from a split on demand, one batch at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation import anomaly, anomaly_page
from manifold.evaluation import images as sources
from manifold.evaluation.anomaly import Judgement
from manifold.evaluation.file_rows import JudgedFile
from manifold.evaluation.images import ImageBatch, Pixels, RealData
from manifold.runtime.engine import Model
from manifold.runtime.errors import InvalidValue, UnsupportedTask, command, cut, shown
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import Manifest
from manifold.runtime.operations.capabilities import abilities
from manifold.runtime.tables import origins
from manifold.training import datasets
from manifold.training.data import Data, Part, folder, reading, tables
from manifold.training.data.parts import Array, scattered
from manifold.training.data.remote import digest

SPLITTING = ("order", "test")  # entries of a protocol that state the test split
LEAST_IMAGES = 1000  # smallest test split that is used as anomalies; the training split replaces a smaller one


@dataclass(frozen=True)
class PartImages:
    """The images of a split, as a source for the evaluator."""

    part: Part
    shape: tuple[int, ...]  # (C, H, W)
    name: str
    factor_names: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Return the number of images."""
        return len(self.part)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return the class of each image, -1 if unknown."""
        return self.part.labels

    @property
    def factors(self) -> Array | None:
        """Return the factors of each image (N, F), if they are known."""
        return self.part.factors

    def batch(self, start: int, stop: int) -> ImageBatch:
        """Return images start .. stop - 1."""
        held = self.part.batch(np.arange(start, stop))
        return ImageBatch(held.items, held.labels)

    def at(self, indices: NDArray[np.int64]) -> Pixels:
        """Return the images at these indices."""
        return self.part.batch(indices).items

    def content_hash(self) -> str:
        """Return a SHA-256 of the images and labels."""
        return sources.content_hash(self)

    def picked(self, n: int, seed: int) -> PartImages:
        """Return n of them without replacement, in order; all if there are no more."""
        return self if n >= self.n else replace(self, part=scattered(self.part, n, seed))


class PartInputs:
    """The items of a split as model inputs. `to_model` converts stored items to inputs."""

    def __init__(self, part: Part, to_model: Callable[[Array], Array]) -> None:
        self.part, self.to_model = part, to_model

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Array:
        indices = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        return self.to_model(self.part.batch(indices).items)


def real_data(name: str) -> RealData:
    """Return an image data set for the evaluator. Raises InvalidValue for a data set of rows."""
    data = datasets.load(name)
    ImageSpec.of(data.spec, f"data: {name}")
    parts = {
        part: PartImages(held, data.spec.shape, name, data.factors)
        for part, held in (
            ("train", data.train),
            ("selection", data.selection),
            ("calibration", data.calibration),
            ("test", data.test),
        )
        if held is not None
    }
    return RealData(
        name, parts["train"], parts["calibration"], parts["test"], parts.get("selection"), splits=data.protocol
    )


def data_of(model: Model, named: str | None = None, truth: str | None = None) -> Data:
    """Return the data for the evaluation of a model: the named data set or file, by default the one that the model was trained on.

    A file is read by the columns of the model, and by the model's truth rule unless `truth` gives another. Raises InvalidValue if the file
    to which the model was fitted is missing or has changed.
    """
    recorded = model.manifest.provenance.get("data")
    recorded = recorded if isinstance(recorded, dict) else {}
    file = recorded.get("file") if named is None else named
    is_file = isinstance(file, str) and Path(file).suffix.lower() in reading.SUFFIXES and model.manifest.spec.in_files
    if not is_file:
        if truth is not None:
            raise InvalidValue(
                "--truth: it is only for files of rows, as data sets define their own anomalies; remove the option",
                field="truth",
            )
        return datasets.load_like(named or model.manifest.data_name or "", model.manifest.spec)
    path = Path(str(file))
    if named is None:
        _check_fitted(model, path, recorded)
    return tables.of_model(model, path, truth)


def _check_fitted(model: Model, path: Path, fitted: Mapping[str, Any]) -> None:
    """Raise InvalidValue if the file is missing, or is not the one to which the model was fitted. Rows may have been appended."""
    name, sha256 = model.manifest.name, str(fitted.get("sha256"))
    if not path.is_file():
        what = "which is not in the current folder"
    elif digest(path, "sha256") != sha256 and not _has_grown(path, fitted):
        what = "but the file with this name in the current folder has other content"
    else:
        return
    raise InvalidValue(
        f"data: {name} was fitted to {shown(path.name)} (SHA-256 {sha256[:12]}…), {what}; give the path of a file of rows: "
        f"{command('judge', model.folder, '--data', f'FOLDER/{cut(path.name)}')}",
        field="data",
    )


def _has_grown(path: Path, fitted: Mapping[str, Any]) -> bool:
    """Return whether rows were appended to the file that a model was fitted to."""
    with path.open("rb") as source:
        return origins.begins_with_fitted(source, fitted)


def judge(
    model: Model,
    data: Data,
    *,
    against: str | None = None,
    html: Path | None = None,
    record: bool = False,
    notes: Sequence[str] = (),
) -> Judgement:
    """Evaluate the anomaly score of a model on its data set. `against` names a data set whose images count as anomalies.

    `record` writes the figures into the artifact's manifest, and `html` writes a page, which begins with the `notes`. Raises
    InvalidValue for a model without a score, for data of another kind, and for options that do not apply to the kind of data.
    """
    to_model = _check(model, data, against, html)
    train, test = (PartInputs(part, to_model) for part in (data.train, data.test))
    anomalies, rows = _anomalies(model, data, against, to_model), data.rows
    judgement = anomaly.judge(
        model,
        train,
        test,
        anomalies,
        None if rows is None else rows.normal,
        shift=shift(model.manifest, data),
        numbers=None if rows is None else rows.test,
    )
    judgement.warnings += data.notes
    judgement.notes = notes
    judgement.held_out = rows is None or rows.held_out
    if record:
        anomaly.record(model, judgement, against)
    if html is not None:
        file = None if rows is None else JudgedFile(rows.file, np.concatenate([rows.test, rows.anomalies]))
        anomaly_page.write(html, model, judgement, test, anomalies, file)
    return judgement


def shift(manifest: Manifest, data: Data) -> str:
    """Return the reason why the test items of a data set are not exchangeable with the calibration items of a model; empty if they are.

    They can only be exchangeable if the data set is the one that the model was calibrated on, with the same splits.
    """
    fitted, again = (_mapping(manifest.provenance.get(name)) for name in ("data", "recalibrated"))
    noun, own, here = manifest.spec.noun, fitted.get("sha256"), data.protocol.get("sha256")
    if again:
        if here is not None and again.get("sha256") == here:
            return f"the model was calibrated on the {noun} of this file, so the rates on them say nothing about other {noun}"
        items = _mapping(again.get("items"))
        if items and all(items.get(name) == data.protocol.get(name) for name in ("data", "calibration", *SPLITTING)):
            return data.differs
        source = (
            manifest.scoring.calibration.source if manifest.scoring and manifest.scoring.calibration else "other data"
        )
        return (
            data.shift or f"the model was calibrated again, on {source}, and the test {noun} are those of {data.name}"
        )
    if (own != here) if own and here else (data.name != manifest.data_name):
        of = manifest.data_name or "other data"
        return data.shift or f"the model was calibrated on {noun} of {of}, and the test {noun} are those of {data.name}"
    changed = [name for name in SPLITTING if name in data.protocol and data.protocol[name] != fitted.get(name)]
    if changed:
        return f"the splits of {data.name} have changed since the model was trained, so test {noun} may have been used in training; train it again"
    return data.differs


def _mapping(value: object) -> dict[str, Any]:
    """Return an entry of a provenance, or an empty one if it is not an object."""
    return value if isinstance(value, dict) else {}


def _check(model: Model, data: Data, against: str | None, html: Path | None) -> Callable[[Array], Array]:
    """Return the function that converts stored items to model inputs. Raises InvalidValue for arguments that `judge` does not accept."""
    manifest = model.manifest
    check_can(manifest, against, html)
    to_model = manifest.spec.reader_of(data.spec)
    if to_model is None:
        raise InvalidValue(
            f"data: {data.name} does not fit {manifest.name}, which was trained on {manifest.data_name or 'other data'}",
            field="data",
        )
    return to_model


def check_can(manifest: Manifest, against: str | None = None, html: Path | None = None) -> None:
    """Raise UnsupportedTask for a model without a score, and InvalidValue for options that do not fit its kind of data."""
    if manifest.scoring is None:
        raise UnsupportedTask(f"{manifest.name} has no anomaly score to evaluate; {abilities(manifest)}", field="model")
    if html is not None and not manifest.spec.in_files:
        raise InvalidValue(
            f"--html: the page shows rows of a table, and {manifest.name} scores {manifest.spec.noun}; remove the option",
            field="html",
        )
    if against is not None and not manifest.spec.pictures:
        raise InvalidValue(
            f"--against: {manifest.name} scores {manifest.spec.noun}; --truth names their known anomalies",
            field="against",
        )


def _anomalies(model: Model, data: Data, against: str | None, to_model: Callable[[Array], Array]) -> PartInputs | None:
    """Return the known anomalies as model inputs, or the images of the data set `against`; None if there are neither."""
    if against is None:
        return None if data.anomalies is None else PartInputs(data.anomalies, to_model)
    spec = ImageSpec.of(model.manifest.spec, f"model: {model.manifest.name}")
    if folder.is_folder(against := datasets.like(against, spec)):
        return PartInputs(folder.every(against), spec.to_model)
    other = datasets.load(against)
    ImageSpec.of(other.spec, f"--against: {against}")
    images = other.test if len(other.test) >= LEAST_IMAGES else other.train
    return PartInputs(images, lambda items: anomaly.fitted(items, spec))
