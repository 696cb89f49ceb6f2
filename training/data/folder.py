"""Data sets made of folders of image files. The files are read by the runtime's reader, resized to one size, split, and cached decoded.

The name of such a data set is the path of the folder. Options follow it as in a URL: `faces?size=64x64&colour=rgb`. Defaults depend on the
files:

- size: the size of the files, which must be the same for all
- colour: grey if no file has colour
- background: the colour behind transparent files. If at least half of the files have a transparent canvas, it is black, or white if more of
  them lose ink on black. Otherwise it is black or white if nine of ten other files have such a border. Otherwise there is none
- classes and split: sub-folders or a CSV file (runtime.folders). Images without a given split are ordered by the SHA-256 of their files:
  the first 80% are for training, then 10% for calibration and 10% for testing. Copies of a file stay in one split

Decoded images are cached as one array that is mapped into memory. Its name is the digest of the files and the options.
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
from manifold.training.data.folder_options import COLOURS, LARGEST_SIDE, FolderOptions, is_folder, like, parse, stated
from manifold.training.data.parts import Array, Arrays, Part, Subset
from manifold.training.data.splits import BY_CALIBRATION, Data
from manifold.training.errors import DataError, TrainingError

__all__ = ["DecodedFolder", "FolderOptions", "decode", "every", "is_folder", "like", "of_folder", "parse", "stated"]

IN_MEMORY = 2**28  # bytes; larger data sets are read from the cache in batches
LEAST_IMAGES = 30  # smallest number of images that can be split
SMALL, FOLDS = 500, 5  # data sets with fewer images are calibrated by this number of folds of the training images
EDGE = 0.1  # a border whose value differs less than this from black or white counts as black or white
AGREED = 0.9  # share of the files without a canvas that must have such a border


@dataclass(frozen=True)
class DecodedFolder:
    """A decoded folder: the entries that could be read, and their pixels in the same order."""

    name: str
    listing: Listing
    entries: tuple[Entry, ...]
    spec: ImageSpec
    pixels: Array  # uint8 (N, C, H, W), mapped into memory
    files: tuple[str, ...]  # SHA-256 of each file
    images: tuple[str, ...]  # SHA-256 of the pixels of each image
    read: Mapping[str, int]  # number of files by change
    unreadable: tuple[str, ...]

    def part(self, indices: Array, labels: Array) -> Part:
        """Return the images at these indices as a split. If the whole data set is large, they are read in batches."""
        if self.pixels.nbytes <= IN_MEMORY:
            return Arrays(np.asarray(self.pixels[indices]), labels[indices])
        return Subset(_Mapped(self.pixels, labels), indices)

    @property
    def sha256(self) -> str:
        """Return the digest of the data set: names, contents, classes and given splits."""
        return folders.digest_of(self.entries, self.files)


class _Mapped:
    """A split whose images are in a file that is mapped into memory."""

    factors = None

    def __init__(self, items: Array, labels: Array) -> None:
        self.items, self.labels = items, labels

    def __len__(self) -> int:
        return len(self.items)

    def batch(self, indices: Array) -> Arrays:
        return Arrays(np.asarray(self.items[indices]), self.labels[indices])


def of_folder(name: str) -> Data:
    """Load the images of a folder as a data set. Raises TrainingError for an unsuitable folder or options, and DataError for unreadable files."""
    decoded = decode(name)
    name = decoded.name
    classes = decoded.listing.classes or None
    places = {label: index for index, label in enumerate(classes or ())}
    labels = np.asarray([-1 if entry.label is None else places[entry.label] for entry in decoded.entries], np.int64)
    parts, split = _split(decoded, labels)
    given = {entry.part for entry in decoded.entries if entry.part}
    shift = f"the split `{TEST}` is given by {decoded.listing.split_by}" if TEST in given else ""
    small = not len(parts[CALIBRATION])
    copies = _copies(decoded, parts)
    protocol = {
        "data": name, "folder": decoded.listing.root.name, "sha256": decoded.sha256,
        "contents": folders.contents_of(decoded.files), "images": len(decoded.entries),
        "size": f"{decoded.spec.width}x{decoded.spec.height}", "colour": "grey" if decoded.spec.channels == 1 else "rgb",
        "classes": decoded.listing.classes_by or "none", "split": split,
        **{part: f"{len(indices)} images" for part, indices in parts.items()},
        **({} if small else {"selection": BY_CALIBRATION}),
        **({"shift": shift} if shift else {}),
        **({"files": dict(decoded.read)} if decoded.read else {}),
        **({"copies": copies} if copies else {}),
        **({"unreadable": len(decoded.unreadable)} if decoded.unreadable else {}),
    }  # fmt: skip
    made = {part: decoded.part(indices, labels) for part, indices in parts.items()}
    return Data(
        name, decoded.spec, made[TRAIN], made[CALIBRATION], made[TEST], classes, protocol,
        folds=FOLDS if small else 0, notes=tuple(_notes(decoded, copies)), shift=shift,
    )  # fmt: skip


def every(name: str) -> Part:
    """Return all images of a folder as one split, regardless of its own splits."""
    decoded = decode(name, classes=False)
    return decoded.part(np.arange(len(decoded.entries)), np.full(len(decoded.entries), -1, np.int64))


def _split(decoded: DecodedFolder, labels: Array) -> tuple[dict[str, Array], str]:
    """Return the indices of each split in ascending order, and a description of the splitting."""
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
        raise TrainingError(f"data: {decoded.listing.root} has no image in the split `train`; add some", field="data")
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
            f"data: {decoded.listing.root} has no training image of the class {cut(decoded.listing.classes[min(absent)])}; add some, or remove the class"
        )
    return parts, by


def _parts(decoded: DecodedFolder, order: Array, shares: tuple[float, float], labels: Array) -> dict[str, Array]:
    """Cut ordered images into splits. Copies of a file stay together, and each class has at least one training image."""
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
    """Return the number of images of one split whose pixels equal those of an image in another split."""
    held = {part: [decoded.images[index] for index in indices] for part, indices in parts.items()}
    found = {}
    for part, other in ((CALIBRATION, TRAIN), (TEST, TRAIN), (TEST, CALIBRATION)):
        known = set(held[other])
        if n := sum(image in known for image in held[part]):
            found[f"{part} images that are in {other}"] = n
    return found


def _notes(decoded: DecodedFolder, copies: Mapping[str, int]) -> Iterator[str]:
    """Yield notes that the user should read before training."""
    for note, n in decoded.read.items():
        yield f"{n} of {len(decoded.entries)} files: {note}"
    for path in decoded.unreadable:
        yield f"skipped, as it cannot be read: {path}"
    if unread := folders.unread_note(decoded.listing.root):
        yield unread
    if decoded.listing.empty:
        yield f"these folders contain no images and are not classes: {cut(', '.join(decoded.listing.empty))}"
    if decoded.listing.unlisted:
        yield f"{decoded.listing.unlisted} image files are skipped, as they have no row in the file of labels"
    for copied, n in copies.items():
        yield f"exact copies: {n} {copied}"


# --- decoding -----------------------------------------------------------------------------------------------------------------


def decode(name: str, *, classes: bool = True) -> DecodedFolder:
    """Return the decoded images of a folder. They come from the cache if the same files were read with the same options before."""
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
            raise DataError(
                f"{next(iter(broken.values()))}{more}; remove it, or skip such files with --skip-unreadable"
            )
        kept = [index for index, entry in enumerate(entries) if entry.name not in broken]
        unreadable = tuple(broken)
        entries, files = tuple(entries[index] for index in kept), tuple(files[index] for index in kept)
        found = [found[index] for index in kept]
        if not entries:
            raise DataError(f"{path}: none of the {len(broken)} image files can be read; convert them to PNG")
    spec = _spec(path, options, found)
    pixels, images, read = stored(entries, files, spec)
    return DecodedFolder(options.name(path), listing, entries, spec, pixels, files, images, read, unreadable)


def _spec(path: Path, options: FolderOptions, surveyed: Sequence[Mapping[str, Any]]) -> ImageSpec:
    """Return the spec of a folder's images, from the options and, by default, from the files."""
    sizes = Counter(tuple(found["size"]) for found in surveyed)
    if options.size is None and len(sizes) > 1:
        shown = ", ".join(f"{width}x{height} ({n})" for (width, height), n in sizes.most_common(4))
        more = f" and {len(sizes) - 4} more" if len(sizes) > 4 else ""
        raise TrainingError(
            f"data: the images of {path} have {len(sizes)} sizes: {shown}{more}; choose the size to which they are resized, such as "
            f"--size {'x'.join(map(str, sizes.most_common(1)[0][0]))}",
            field="size",
        )
    width, height = options.size or next(iter(sizes))
    channels = COLOURS[options.colour] if options.colour else 1 if all(found["grey"] for found in surveyed) else 3
    background = _found_background(surveyed) if options.background == "auto" else options.background
    if options.invert and background is None:
        raise TrainingError(
            f"invert: no background colour was found in the images of {path}; give it with background=0 or background=1",
            field="invert",
        )
    try:
        return ImageSpec(
            height=height, width=width, channels=1 if channels == 1 else 3, background=background, invert=options.invert
        )
    except ValueError:
        raise TrainingError(
            f"size: images of {width}x{height} are too large; choose at most {LARGEST_SIDE}x{LARGEST_SIDE} with --size",
            field="size",
        ) from None


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
    """Return the properties of one file on which the spec of the data set depends."""
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
