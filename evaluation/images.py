"""The sources of images: a split of a data set, a folder of files, an array, a model. They return batches of uint8 (n, C, H, W), 0 to 255."""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation.errors import EvaluationError
from manifold.runtime import folders, imaging, npz
from manifold.runtime.engine import Model
from manifold.runtime.errors import ManifoldError, cut
from manifold.runtime.imaging import Fitted
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import Manifest

Array = NDArray[Any]
Pixels = NDArray[np.uint8]

NPZ_BYTES = 8 * 2**30  # largest size of an .npz file's images, unpacked
VALUES = 2**24  # largest number of values in a batch of images, unless one image has more
HASHED = 500  # number of images that are hashed at a time, or fewer if they are large
MEASURED = ("test", "selection")  # the splits on which a model can be measured
READER = 2  # version of the reader of image files; features of earlier versions are computed again


@dataclass(frozen=True)
class ImageBatch:
    """A batch of images with their requested or true classes, -1 if unknown."""

    pixels: Pixels | list[Pixels]  # (n, C, H, W), or a list of (C, H, W) if sizes differ
    labels: NDArray[np.int64]
    skipped: tuple[str, ...] = ()  # files that could not be read
    notes: tuple[tuple[str, str], ...] = ()  # pairs (file name, change or warning)

    def __len__(self) -> int:
        return len(self.pixels)


class ImageSource(Protocol):
    """A set of n images that can be read in any order."""

    @property
    def n(self) -> int:
        """Return the number of images."""

    @property
    def name(self) -> str:
        """Return the name for reports."""

    def batch(self, start: int, stop: int) -> ImageBatch:
        """Return images start .. stop - 1. This method is thread-safe."""

    def content_hash(self) -> str | None:
        """Return a SHA-256 of the content; None for generated images."""


class RealImages(ImageSource, Protocol):
    """The images of one split of a data set, of one shape, with labels. An implementation may read them on demand."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one image, (C, H, W)."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return the class of each image, -1 if unknown."""

    @property
    def factors(self) -> Array | None:
        """Return the factors of each image (N, F), if they are known."""

    @property
    def factor_names(self) -> tuple[str, ...]:
        """Return the names of the factors."""

    def at(self, indices: NDArray[np.int64]) -> Pixels:
        """Return the images at these indices."""

    def picked(self, n: int, seed: int) -> RealImages:
        """Return n of them without replacement, in order; all if there are no more."""


@dataclass(frozen=True)
class ImageArray:
    """An array (N, C, H, W) of bytes, or of floats in [0, 1]."""

    pixels: Pixels
    labels: NDArray[np.int64]
    name: str = "array"
    factors: Array | None = None  # (N, F), if known
    factor_names: tuple[str, ...] = ()

    @classmethod
    def of(cls, array: Array, labels: Array | None = None, name: str = "array") -> ImageArray:
        """Check and wrap an array. (N, H, W) and (N, H, W, 3) are accepted too. Raises EvaluationError for values out of range."""
        pixels = as_pixels(array, name)
        known = np.full(len(pixels), -1) if labels is None else np.asarray(labels)
        return cls(pixels, known.astype(np.int64), name)

    @property
    def n(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one image, (C, H, W)."""
        return self.pixels.shape[1:]

    def batch(self, start: int, stop: int) -> ImageBatch:
        return ImageBatch(self.pixels[start:stop], self.labels[start:stop])

    def at(self, indices: NDArray[np.int64]) -> Pixels:
        """Return the images at these indices."""
        return self.pixels[indices]

    def content_hash(self) -> str:
        return content_hash(self)

    def picked(self, n: int, seed: int) -> ImageArray:
        """Return n of them without replacement, in order; all if there are no more."""
        if n >= self.n:
            return self
        index = pick(self.n, n, seed)
        factors = None if self.factors is None else self.factors[index]
        return ImageArray(self.pixels[index], self.labels[index], self.name, factors, self.factor_names)


@dataclass(frozen=True)
class RealData:
    """The splits of a data set that an evaluation needs, as uint8 images. Models are measured on `test`, which is the split named by `part`."""

    name: str
    train: RealImages
    calibration: RealImages
    test: RealImages
    selection: RealImages | None = (
        None  # the images on which recipes are chosen; if absent, they are chosen on the calibration split
    )
    part: Literal["test", "selection", "calibration"] = field(default="test", kw_only=True)
    splits: Mapping[str, Any] = field(default_factory=dict, kw_only=True)  # the description of each split

    def on(self, part: str) -> RealData:
        """Return the data with this split in the place of the test split. Raises EvaluationError for an unknown or an absent one."""
        check_part(part)
        if part == "test":
            return self
        if self.selection is not None and self.selection.n:
            return replace(self, test=self.selection, part="selection")
        if self.calibration.n:
            return replace(self, test=self.calibration, part="calibration")
        raise EvaluationError(
            f"part: {self.name} has no items for selection, as it is too small; measure the model on `test`",
            field="part",
        )


def check_part(part: str) -> None:
    """Raise EvaluationError for the name of a split on which models are not measured."""
    if part not in MEASURED:
        raise EvaluationError(f"part: unknown {part!r}; valid are {', '.join(MEASURED)}", field="part", valid=MEASURED)


def check_not_trained_on(manifest: Manifest, real: RealData) -> None:
    """Raise EvaluationError if a model was trained on images of the split on which it is measured.

    Models from before data sets had a selection split were trained on the images that are in it now.
    """
    stated = manifest.provenance.get("data")
    if not isinstance(stated, dict) or stated.get("data") != real.name:
        return
    if stated.get(real.part) != real.splits.get(real.part):
        other = f"was trained with {stated[real.part]}" if stated.get(real.part) else "was trained without such a split"
        raise EvaluationError(
            f"part: the {real.part} split of {real.name} is {real.splits.get(real.part) or 'not described'}, but {manifest.name} {other}, "
            "so its training images may be among them; measure it on `test`, or train it again",
            field="part",
        )


def pick(n: int, wanted: int, seed: int) -> NDArray[np.int64]:
    """Return the indices of `wanted` random images of n, without replacement, in ascending order."""
    index: NDArray[np.int64] = np.sort(np.random.Generator(np.random.Philox(seed)).choice(n, wanted, replace=False))
    return index


def batch_size(images: RealImages, most: int) -> int:
    """Return the number of images to read at once: `most`, or fewer if they would exceed VALUES values, but at least 1."""
    return max(1, min(most, VALUES // math.prod(images.shape)))


def content_hash(images: RealImages) -> str:
    """Return a SHA-256 of the shape, the pixels and the labels. The images are read in batches."""
    digest = hashlib.sha256(str((images.n, *images.shape)).encode())
    size = batch_size(images, HASHED)
    for start in range(0, images.n, size):
        digest.update(np.ascontiguousarray(images.batch(start, min(start + size, images.n)).pixels).data)
    digest.update(np.ascontiguousarray(images.labels).data)
    return digest.hexdigest()


def as_pixels(array: Array, name: str) -> Pixels:
    """Convert bytes, or floats in [0, 1], to bytes (N, C, H, W). Channels may be first, last or absent. Raises EvaluationError."""
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or 0 in array.shape:
        raise EvaluationError(
            f"{name}: shape {list(array.shape)}; images must be [n, height, width] or [n, channels, height, width] with 1 or 3 channels"
        )
    if array.dtype == np.uint8:
        pixels: Pixels = array
        return pixels
    low, high = float(array.min()), float(array.max())
    if array.dtype.kind == "f" and low >= 0 and high <= 1:  # NaN compares false
        pixels = np.rint(array * 255).astype(np.uint8)
        return pixels
    if array.dtype.kind in "iu" and low >= 0 and high <= 255 and high > 1:
        pixels = array.astype(np.uint8)
        return pixels
    raise EvaluationError(
        f"{name}: {array.dtype} values from {low:g} to {high:g} are out of range; use bytes from 0 to 255 or floats from 0 to 1"
    )


@dataclass(frozen=True)
class Folder:
    """The image files below a folder, in the order of their names. An unreadable file is an error, or is skipped with `skip`."""

    root: Path
    colour: str  # "L" or "RGB", as the extractor needs
    skip: bool = False
    mixed: bool = False  # whether sizes may differ, as each image is resized
    files: Sequence[Path] = ()
    name: str = ""
    background: float = 0.0  # value behind transparent images
    invert: bool = False  # whether images are inverted whose ink is visible only on the opposite background

    @classmethod
    def of(
        cls, root: Path, colour: str, *, skip: bool = False, mixed: bool = False, background: float = 0.0, invert: bool = False
    ) -> Folder:  # fmt: skip
        """List the files, without hidden ones. Raises EvaluationError if there are none."""
        files = folders.image_files(root)
        if not files:
            raise EvaluationError(
                f"{root}: it contains no images; files that can be read are {', '.join(folders.SUFFIXES)}"
            )
        return cls(root, colour, skip, mixed, files, root.name, background, invert)

    @property
    def n(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def batch(self, start: int, stop: int) -> ImageBatch:
        read: list[Pixels] = []
        skipped, notes = [], []
        for path in self.files[start:stop]:
            try:
                image, fitted = self._read(path)
            except ManifoldError as error:
                if isinstance(error, EvaluationError) or not self.skip:
                    raise
                skipped.append(f"{path}: {error.message}")
                continue
            read.append(image)
            notes += [(str(path.relative_to(self.root)), note) for note in fitted.notes]
        labels = np.full(len(read), -1, np.int64)
        same = len({image.shape for image in read}) == 1
        return ImageBatch(np.stack(read) if same else read, labels, tuple(skipped), tuple(notes))

    def _read(self, path: Path) -> tuple[Pixels, Fitted]:
        try:
            image, fitted = self._decoded(path)
        except ManifoldError as error:
            if self.skip:
                raise
            raise EvaluationError(f"{error.message}; remove it, or skip such files with --skip-unreadable") from None
        if not self.mixed and image.shape != self._first_shape():
            first, (_, height, width) = self.files[0], self._first_shape()
            raise EvaluationError(
                f"resize: sizes differ ({first} is {width}x{height}, {path} is {image.shape[2]}x{image.shape[1]}); "
                "make them one size, or choose a rule with --resize",
                field="resize",
            )
        return image, fitted

    def _decoded(self, path: Path) -> tuple[Pixels, Fitted]:
        channels = 1 if self.colour == "L" else 3
        return imaging.read_unscaled(
            path.read_bytes(), channels, background=self.background, invert=self.invert, field=str(path)
        )

    def _first_shape(self) -> tuple[int, ...]:
        """Return the shape of the first file that can be read."""
        if "shape" not in self._cache:
            for path in self.files:
                try:
                    self._cache["shape"] = self._decoded(path)[0].shape
                except ManifoldError:
                    continue  # it is reported when its batch is read
                break
        return self._cache["shape"]

    _cache: dict[str, tuple[int, ...]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def unread(self) -> str | None:
        """Return a warning about images in formats that cannot be read; None if there are none."""
        return folders.unread_note(self.root)

    def content_hash(self) -> str:
        read_by = f"{READER} {self.colour} {self.skip} {self.background} {self.invert}"
        digest = hashlib.sha256(read_by.encode())
        for path in self.files:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


@dataclass(frozen=True)
class Generated:
    """The images that a model generates. Image i is item i of the seed, with the same pixels as a PNG from the service."""

    model: Model
    n: int
    seed: int
    prior: str | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)  # inputs by name, such as steps

    @property
    def name(self) -> str:
        """Return the name for reports."""
        return self.model.manifest.name

    def batch(self, start: int, stop: int) -> ImageBatch:
        samples = self.model.sample(stop - start, seed=self.seed, first=start, prior=self.prior, numbers=self.numbers)
        asked = samples.condition if self.model.manifest.classes is not None else None
        labels = np.full(stop - start, -1) if asked is None else asked.argmax(axis=1)
        return ImageBatch(pixels_of(self.model, samples.data), labels.astype(np.int64))

    def content_hash(self) -> None:
        return None


def pixels_of(model: Model, outputs: Array) -> Pixels:
    """Return a model's outputs as uint8 images. Raises InvalidValue if it is not an image model."""
    return imaging.to_uint8(outputs, ImageSpec.of(model.manifest.spec, f"model: {model.manifest.name}"))


def open_images(
    path: Path, colour: str, *, skip: bool = False, mixed: bool = False, background: float = 0.0, invert: bool = False
) -> ImageSource:
    """Open a folder of image files (the arguments are those of Folder), or a .npy or .npz file (its only array, or `arr_0`)."""
    if path.is_dir():
        return Folder.of(path, colour, skip=skip, mixed=mixed, background=background, invert=invert)
    if path.suffix not in (".npy", ".npz"):
        raise EvaluationError(f"{path}: it is neither a folder nor a .npy or .npz file; give one of them")
    try:
        content = _npz(path) if zipfile.is_zipfile(path) else _npy(path)
        return ImageArray.of(content, name=path.name)
    except EvaluationError:
        raise
    except (OSError, ValueError, OverflowError) as error:
        raise EvaluationError(
            f"{path}: it cannot be read: {cut(str(error), 200)}; give a valid .npy or .npz file"
        ) from None


def _npy(path: Path) -> NDArray[Any]:
    """Return the array of an .npy file, mapped into memory. Raises ValueError or OverflowError if it cannot be read."""
    with path.open("rb") as file:
        npz.header(file)  # a damaged header raises ValueError here; numpy would raise other errors
    content: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return content


def _npz(path: Path) -> NDArray[Any]:
    """Return the image array of an .npz file. Raises EvaluationError for several arrays, and ValueError if it cannot be read."""
    names = npz.names(path)
    if "arr_0" not in names and len(names) != 1:
        raise EvaluationError(
            f"{path}: it contains {cut(', '.join(names))}; it must contain one array, or one that is named `arr_0`"
        )
    (content,) = npz.read(path, ["arr_0" if "arr_0" in names else names[0]], lambda *_: None, limit=NPZ_BYTES).values()
    return content
