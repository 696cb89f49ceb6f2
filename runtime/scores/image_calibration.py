"""The calibration of a model of images on a folder of normal ones: published as its next version, as runtime.scores.recalibration does for rows."""

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

GROUP = 256  # images that are read at a time


def recalibrate(
    model: Model,
    folder: Path,
    root: Path,
    *,
    strict: bool = False,
    skip: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[Recalibrated, str]:
    """Publish the model anew in `root`, calibrated on the images of a folder: the artifact, and what was done. `strict` as for rows.

    If the folder states a split with calibration images, these are taken alone, else all. Of more images than are needed, a random sample is
    taken. Raises UnsupportedTask for a model that does not score images, InvalidValue for files that cannot be read, which `skip` leaves
    out. `note` is told what was done to files, and of files that were left out.
    """
    spec = _images_of(model)
    listing = folders.listed(folder, classes=False)
    entries = _taken(listing)
    if len(entries) < len(listing.entries):
        note(f"{len(entries)} of {len(listing.entries)} images are taken: the split `calibration`, {listing.split_by}")
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
    if digest == (model.manifest.provenance.get("data") or {}).get("contents"):
        note(
            "the model was trained on these images: calibrate on images that training never saw, or false alarms are underrated"
        )
    described = f"{reservoir.size('images')} of {cut(folder.resolve().name)} (SHA-256 {digest[:12]}…)"
    data = reservoir.data.reshape(-1, *spec.shape)
    published = calibration.recalibrate(model, data, root, source=described, strict=strict)
    return published, f"calibrated on {described}, {bad} unreadable ones left out"


def _images_of(model: Model) -> ImageSpec:
    """Return the spec of the model's images. Raises UnsupportedTask for a model of other items, or one without a score."""
    manifest = model.manifest
    if not manifest.spec.pictures or manifest.scoring is None:
        lacks = (
            "carries no score" if manifest.spec.pictures else f"takes {manifest.spec.noun}, and a folder holds images"
        )
        raise UnsupportedTask(f"{manifest.name} cannot be calibrated on a folder: it {lacks}", field="model")
    return ImageSpec.of(manifest.spec, f"model: {manifest.name}")


def _taken(listing: Listing) -> Sequence[Entry]:
    stated = [entry for entry in listing.entries if entry.part == CALIBRATION]
    return stated or listing.entries


@dataclass(frozen=True)
class _Image:
    """An image that was read."""

    file: str  # SHA-256 of the file
    pixels: imaging.Pixels
    done: tuple[str, ...]  # steps and warnings


def _read(entries: Sequence[Entry], spec: ImageSpec, skip: bool, note: Callable[[str], None]) -> Iterator[_Image]:
    """Yield the images that can be read, as the model takes them."""
    for entry in entries:
        content = entry.path.read_bytes()
        try:
            pixels, fitted = imaging.read_image(content, spec, field=str(entry.path))
        except ManifoldError as error:
            if not skip:
                raise InvalidValue(
                    f"{error.message}; remove it, or go on without it by --skip-unreadable", field="file"
                ) from None
            note(f"left out, as it cannot be read: {error.message}")
            continue
        file = hashlib.sha256(content).hexdigest()
        yield _Image(file, pixels, fitted.notes)
