"""The calibration of a model of images on a folder of normal images. The counterpart for rows is runtime.scores.recalibration."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from manifold.runtime import folders, imaging
from manifold.runtime.engine import Model
from manifold.runtime.errors import InvalidValue, ManifoldError, UnsupportedTask, cut
from manifold.runtime.folders import CALIBRATION, Entry, Listing
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.scores import calibration
from manifold.runtime.scores.calibration import Recalibrated
from manifold.runtime.scores.recalibration import Reservoir

GROUP = 256  # number of images that are read at once


def recalibrate(
    model: Model,
    folder: Path,
    root: Path,
    *,
    strict: bool = False,
    skip: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[Recalibrated, str]:
    """Publish the model in `root` as its next version, calibrated on the images of a folder. Return the artifact and a summary.

    If the folder has a split with calibration images, only these are used, else all. If there are more images than needed, a random sample is
    used. `strict` has the same meaning as for rows. `note` is called with the steps applied to files, and with the files that were left out.
    Raises UnsupportedTask for a model that does not score images. Raises InvalidValue for files that cannot be read, unless `skip` is true.
    """
    spec = _images_of(model)
    listing = folders.listed(folder, classes=False)
    entries = _taken(listing)
    if len(entries) < len(listing.entries):
        note(
            f"{len(entries)} of {len(listing.entries)} images are used: the split `calibration`, from {listing.split_by}"
        )
    if unread := folders.unread_note(folder):
        note(unread)
    width = math.prod(spec.shape)
    reservoir = Reservoir(len(entries), width)
    files: list[str] = []
    done, bad = Counter[str](), 0
    for start in range(0, len(entries), GROUP):
        group = entries[start : start + GROUP]
        read = list(_read(group, spec, skip, note))
        bad += len(group) - len(read)
        for image in read:
            files.append(image.file)
            done.update(image.done)
        if read:
            pixels = np.stack([image.pixels for image in read])
            reservoir.add(imaging.from_uint8(pixels, spec).reshape(len(read), -1))
    for step, n in done.items():
        note(f"{n} of {len(entries)} images: {step}")
    digest = folders.contents_of(files)
    trained_on = digest == (model.manifest.provenance.get("data") or {}).get("contents")
    described = f"{reservoir.size('images')} of {cut(folder.resolve().name)} (SHA-256 {digest[:12]}…)"
    data = reservoir.data.reshape(-1, *spec.shape)
    published = calibration.recalibrate(model, data, root, source=described, trained_on=trained_on, strict=strict)
    return published, f"calibrated on {described}; {bad} unreadable images left out"


def _images_of(model: Model) -> ImageSpec:
    """Return the spec of the model's images. Raises UnsupportedTask for a model of other items, or a model without a score."""
    manifest = model.manifest
    if not manifest.spec.pictures or manifest.scoring is None:
        lacks = (
            "has no score" if manifest.spec.pictures else f"takes {manifest.spec.noun}, but a folder contains images"
        )
        raise UnsupportedTask(
            f"model: {manifest.name} cannot be calibrated on a folder: it {lacks}; use a model that scores images",
            field="model",
        )
    return ImageSpec.of(manifest.spec, f"model: {manifest.name}")


def _taken(listing: Listing) -> Sequence[Entry]:
    stated = [entry for entry in listing.entries if entry.part == CALIBRATION]
    return stated or listing.entries


@dataclass(frozen=True)
class _Image:
    """An image read from a file."""

    file: str  # SHA-256 of the file
    pixels: imaging.Pixels
    done: tuple[str, ...]  # steps and warnings


def _read(entries: Sequence[Entry], spec: ImageSpec, skip: bool, note: Callable[[str], None]) -> Iterator[_Image]:
    """Yield the images that can be read, as pixels of the size of the model."""
    for entry in entries:
        content = entry.path.read_bytes()
        try:
            pixels, fitted = imaging.read_image(content, spec, field=str(entry.path))
        except ManifoldError as error:
            if not skip:
                raise InvalidValue(
                    f"{error.message}; remove the file, or skip such files with --skip-unreadable", field="file"
                ) from None
            note(f"left out, because it cannot be read: {error.message}")
            continue
        file = hashlib.sha256(content).hexdigest()
        yield _Image(file, pixels, fitted.notes)
