"""Folders of image files as data sets: read by the runtime's reader, brought to one size, split, and kept decoded in a cache.

A folder is named by its path. Options stand behind it as in a URL: `faces?size=64x64&colour=rgb`. What is not stated follows from the files:

- size: that of the files, which must be the same for all
- colour: grey if no file has colour
- background: what transparent files are laid over. If half of the files lie on a transparent canvas, black, or white if ink is lost on black
  in more of them; else black or white if the border of nine of ten other files is; else none
- classes and split: sub-folders or a CSV file (runtime.folders). Images without a stated split are ordered by the SHA-256 of their files:
  the first 80% are trained on, then 10% calibrate and 10% test. Copies of a file stay together

Decoded images lie in the cache as one array that is mapped into memory, under the digest of the files and the options.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manifold.runtime import folders, imaging, ink
from manifold.runtime.errors import ManifoldError, cut
from manifold.runtime.folders import CALIBRATION, PARTS, TEST, TRAIN, Entry, Listing
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.pixels import border
from manifold.training.data.folder_cache import digests, stored, surveyed
from manifold.training.data.folder_options import COLOURS, FolderOptions, is_folder, like, parse, stated
from manifold.training.data.parts import Array, Arrays, Part, Subset
from manifold.training.data.splits import Data
from manifold.training.errors import DataError, TrainingError

__all__ = ["DecodedFolder", "FolderOptions", "decode", "every", "is_folder", "like", "of_folder", "parse", "stated"]

IN_MEMORY = 2**28  # bytes of a set that is held in memory; larger ones are read from the cache by batch
LEAST_IMAGES = 30  # of a set that is split
SMALL, FOLDS = 500, 5  # sets with fewer images are calibrated by folds of the training images
EDGE = 0.1  # a border within it of black or white is black or white
AGREED = 0.9  # of the files without a canvas, that must have such a border


@dataclass(frozen=True)
class DecodedFolder:
    """A folder whose files are decoded: the entries that could be read, and their pixels in the same order."""

    name: str
    listing: Listing
    entries: tuple[Entry, ...]
    spec: ImageSpec
    pixels: Array  # uint8 (N, C, H, W), mapped into memory
    files: tuple[str, ...]  # SHA-256 of each file
    images: tuple[str, ...]  # SHA-256 of the pixels of each image
    read: Mapping[str, int]  # what was done to the files, and how many it was done to
    unreadable: tuple[str, ...]

    def part(self, indices: Array, labels: Array) -> Part:
        """Return the images at these indices as a part: in memory if the whole set is small, else read by batch."""
        if self.pixels.nbytes <= IN_MEMORY:
            return Arrays(np.asarray(self.pixels[indices]), labels[indices])
        return Subset(_Mapped(self.pixels, labels), indices)

    @property
    def sha256(self) -> str:
        """Return the digest of the set: names, contents, classes and stated splits."""
        return folders.digest_of(self.entries, self.files)


class _Mapped:
    """Images in a file that is mapped into memory, as a part."""

    factors = None

    def __init__(self, items: Array, labels: Array) -> None:
        self.items, self.labels = items, labels

    def __len__(self) -> int:
        return len(self.items)

    def batch(self, indices: Array) -> Arrays:
        return Arrays(np.asarray(self.items[indices]), self.labels[indices])


def of_folder(name: str) -> Data:
    """Return the images of a folder as a data set. Raises TrainingError for a folder or options that make none, DataError for files."""
    decoded = decode(name)
    name = decoded.name
    classes = decoded.listing.classes or None
    places = {label: index for index, label in enumerate(classes or ())}
    labels = np.asarray([-1 if entry.label is None else places[entry.label] for entry in decoded.entries], np.int64)
    parts, split = _split(decoded, labels)
    small = not len(parts[CALIBRATION])
    copies = _copies(decoded, parts)
    protocol = {
        "data": name, "folder": decoded.listing.root.name, "sha256": decoded.sha256,
        "contents": folders.contents_of(decoded.files), "images": len(decoded.entries),
        "size": f"{decoded.spec.width}x{decoded.spec.height}", "colour": "grey" if decoded.spec.channels == 1 else "rgb",
        "classes": decoded.listing.classes_by or "none", "split": split,
        **{part: f"{len(indices)} images" for part, indices in parts.items()},
        **({"files": dict(decoded.read)} if decoded.read else {}),
        **({"copies": copies} if copies else {}),
        **({"unreadable": len(decoded.unreadable)} if decoded.unreadable else {}),
    }  # fmt: skip
    made = {part: decoded.part(indices, labels) for part, indices in parts.items()}
    return Data(
        name, decoded.spec, made[TRAIN], made[CALIBRATION], made[TEST], classes, protocol,
        folds=FOLDS if small else 0, notes=tuple(_notes(decoded, copies)),
    )  # fmt: skip


def every(name: str) -> Part:
    """Return all images of a folder as one part, whatever its splits."""
    decoded = decode(name, classes=False)
    return decoded.part(np.arange(len(decoded.entries)), np.full(len(decoded.entries), -1, np.int64))


def _split(decoded: DecodedFolder, labels: Array) -> tuple[dict[str, Array], str]:
    """Return the indices of each part, ascending, and how the split was made."""
    stated = np.asarray([entry.part or "" for entry in decoded.entries])
    order = np.lexsort((np.arange(len(stated)), np.asarray(decoded.files)))  # by the content of the files
    if not stated.any():
        n = len(order)
        if n < LEAST_IMAGES:
            raise TrainingError(
                f"data: {decoded.listing.root} has {n} images; at least {LEAST_IMAGES} are needed to train, calibrate and test",
                field="data",
            )
        small = n < SMALL
        parts = _parts(decoded, order, (0.9, 0.0) if small else (0.8, 0.1), labels)
        return parts, f"by the SHA-256 of the files, {'90/10' if small else '80/10/10'}"
    parts = {part: np.flatnonzero(stated == part) for part in PARTS}
    missing = [part for part in (CALIBRATION, TEST) if not len(parts[part])]
    by = f"stated by {decoded.listing.split_by}"
    if not len(parts[TRAIN]):
        raise TrainingError(f"data: no image of {decoded.listing.root} belongs to the split train", field="data")
    if missing:
        rest = order[np.isin(order, parts[TRAIN])]
        few = CALIBRATION in missing and len(rest) < SMALL
        calibrates = CALIBRATION in missing and not few
        tests = 0.1 if TEST in missing else 0.0
        taken = _parts(decoded, rest, (1 - tests - 0.1 * calibrates, 0.1 * calibrates), labels)
        parts |= {part: taken[part] for part in (TRAIN, *missing)}
        by += f"; {' and '.join(missing)} from train by the SHA-256 of the files"
    absent = set(labels[np.concatenate([parts[CALIBRATION], parts[TEST]])].tolist()) - set(
        labels[parts[TRAIN]].tolist()
    )
    if absent and decoded.listing.classes:
        raise DataError(
            f"data: no training image of {decoded.listing.root} is of the class {cut(decoded.listing.classes[min(absent)])}"
        )
    return parts, by


def _parts(decoded: DecodedFolder, order: Array, shares: tuple[float, float], labels: Array) -> dict[str, Array]:
    """Return ordered images cut into parts. Copies of a file are not separated, and every class has an image to train on."""
    files = np.asarray(decoded.files)[order]
    cuts = [round(len(order) * shares[0]), round(len(order) * sum(shares))]
    for at, cut_at in enumerate(cuts):
        while 0 < cut_at < len(order) and files[cut_at] == files[cut_at - 1]:
            cut_at += 1
        cuts[at] = cut_at
    train, rest = order[: cuts[0]], order[cuts[0] :]
    for label in set(labels[rest].tolist()) - set(labels[train].tolist()):
        train = np.concatenate([train, rest[labels[rest] == label]])
    calibration, test = (part[~np.isin(part, train)] for part in (order[cuts[0] : cuts[1]], order[cuts[1] :]))
    return {TRAIN: np.sort(train), CALIBRATION: np.sort(calibration), TEST: np.sort(test)}


def _copies(decoded: DecodedFolder, parts: Mapping[str, Array]) -> dict[str, int]:
    """Return how many images of one part are, pixel by pixel, images of another one."""
    held = {part: [decoded.images[index] for index in indices] for part, indices in parts.items()}
    found = {}
    for part, other in ((CALIBRATION, TRAIN), (TEST, TRAIN), (TEST, CALIBRATION)):
        known = set(held[other])
        if n := sum(image in known for image in held[part]):
            found[f"{part} images that are in {other}"] = n
    return found


def _notes(decoded: DecodedFolder, copies: Mapping[str, int]) -> Iterator[str]:
    """Yield what a person should know before training."""
    for note, n in decoded.read.items():
        yield f"{n} of {len(decoded.entries)} files: {note}"
    for path in decoded.unreadable:
        yield f"left out, as it cannot be read: {path}"
    if unread := folders.unread_note(decoded.listing.root):
        yield unread
    if decoded.listing.empty:
        yield f"folders without images, which are no classes: {cut(', '.join(decoded.listing.empty))}"
    if decoded.listing.unlisted:
        yield f"{decoded.listing.unlisted} image files are left out: they have no row in the file of labels"
    for copied, n in copies.items():
        yield f"exact copies: {n} {copied}"


# --- decoding -----------------------------------------------------------------------------------------------------------------


def decode(name: str, *, classes: bool = True) -> DecodedFolder:
    """Return the decoded images of a folder, from the cache if these files were read in this way before."""
    path, options = parse(name)
    try:
        listing = folders.listed(path, options.labels, classes=classes)
    except ManifoldError as error:
        raise TrainingError(error.message, field=error.field, valid=error.valid) from None
    files = digests(listing)
    entries: tuple[Entry, ...] = listing.entries
    unreadable: tuple[str, ...] = ()
    found = surveyed(listing, files, _survey)
    if broken := {entry.name: one["error"] for entry, one in zip(entries, found, strict=True) if "error" in one}:
        if not options.skip:
            more = f" (and {len(broken) - 1} more files)" if len(broken) > 1 else ""
            raise DataError(f"{next(iter(broken.values()))}{more}; remove it, or go on without it by --skip-unreadable")
        kept = [index for index, entry in enumerate(entries) if entry.name not in broken]
        unreadable = tuple(broken)
        entries, files = tuple(entries[index] for index in kept), tuple(files[index] for index in kept)
        found = [found[index] for index in kept]
        if not entries:
            raise DataError(f"{path}: none of the {len(broken)} image files can be read")
    spec = _spec(path, options, found)
    pixels, images, read = stored(entries, files, spec)
    return DecodedFolder(options.name(path), listing, entries, spec, pixels, files, images, read, unreadable)


def _spec(path: Path, options: FolderOptions, surveyed: Sequence[Mapping[str, Any]]) -> ImageSpec:
    """Return the spec of a folder's images: what is stated, else what follows from the files."""
    sizes = Counter(tuple(found["size"]) for found in surveyed)
    if options.size is None and len(sizes) > 1:
        shown = ", ".join(f"{width}x{height} ({n})" for (width, height), n in sizes.most_common(4))
        more = f" and {len(sizes) - 4} more" if len(sizes) > 4 else ""
        raise TrainingError(
            f"data: the images of {path} have {len(sizes)} sizes: {shown}{more}; say the size that they are brought to, such as "
            f"--size {'x'.join(map(str, sizes.most_common(1)[0][0]))}",
            field="size",
        )
    width, height = options.size or next(iter(sizes))
    channels = COLOURS[options.colour] if options.colour else 1 if all(found["grey"] for found in surveyed) else 3
    background = _found_background(surveyed) if options.background == "auto" else options.background
    if options.invert and background is None:
        raise TrainingError(
            f"invert: the images of {path} have no background of one colour; state it with background=0 or 1",
            field="invert",
        )
    try:
        return ImageSpec(
            height=height, width=width, channels=1 if channels == 1 else 3, background=background, invert=options.invert
        )
    except ValueError as error:
        raise TrainingError(f"data: images of {width}x{height} make no model: {error}", field="size") from None


def _found_background(surveyed: Sequence[Mapping[str, Any]]) -> float | None:
    on_canvas = [found["lost"] for found in surveyed if found["lost"] is not None]
    if 2 * len(on_canvas) >= len(surveyed):
        on_black, on_white = (sum(lost[at] for lost in on_canvas) for at in (0, 1))
        return 0.0 if on_black <= on_white else 1.0
    borders = np.asarray([found["border"] for found in surveyed if found["lost"] is None])
    for background in (0.0, 1.0):
        if float((np.abs(borders - background) <= EDGE).mean()) >= AGREED:
            return background
    return None


def _survey(content: bytes, name: str) -> dict[str, Any]:
    """Return what the spec of a set depends on, of one file."""
    try:
        decoded = imaging.decode(content, field=name)
    except ManifoldError as error:
        return {"error": error.message}
    pixels, alpha = decoded.pixels, decoded.alpha
    grey = pixels.shape[2] == 1 or bool((pixels == pixels[:, :, :1]).all())
    lost = None
    if alpha is not None and ink.has_canvas(alpha):
        lost = [ink.is_lost(pixels, alpha, under) for under in (0, 255)]
    edge = float(np.median(border(pixels).mean(axis=1))) / 255
    return {"size": decoded.upright, "grey": grey, "border": edge, "lost": lost}
