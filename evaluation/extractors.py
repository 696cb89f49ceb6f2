"""The extractors (artifacts with the task `features`) and the extraction of features from images.

Batches are independent and run in parallel on all cores. Results are collected in order: neither the number of workers nor the batch size
changes a bit of them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation import resize
from manifold.evaluation.errors import EvaluationError
from manifold.evaluation.images import ImageBatch, ImageSource
from manifold.evaluation.statistics import FeatureGaussian, Moments
from manifold.runtime import engine, imaging, repository
from manifold.runtime.engine import Model
from manifold.runtime.errors import cut
from manifold.runtime.graphs.backends import known_device
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.operations import softmax

Array = NDArray[Any]
Float32 = NDArray[np.float32]
T = TypeVar("T")

BATCH = 128
SHOWN = 1000  # number of images that are kept for the page
KEPT = 10_000  # number of feature rows that are kept for metrics on pairs; moments use all rows
EXPORTED = "torch"  # entry of the provenance of every extractor that this project exports
INCEPTION = "6726825d"  # start of the SHA-256 of the published weights; only their distance is named FID

Progress = Callable[[int, int], None]  # called with the number of images done and the total
Stage = Callable[[str], Progress | None]  # begins a stage and returns the function that reports its progress


class Extractor:
    """A model that computes features (n, d) and class probabilities (n, C) of images."""

    def __init__(self, model: Model, resize_mode: str = resize.NONE) -> None:
        spec, task = model.manifest.spec, model.manifest.task("features")
        if task is None or {"features", "logits"}.isdisjoint(task.roles) or not spec.pictures:
            raise EvaluationError(
                f"extractor: {model.manifest.name} has no task `features` for images; its tasks are {', '.join(model.manifest.tasks)}",
                field="extractor",
            )
        self.model, self.spec, self.mode = model, ImageSpec.of(spec, model.manifest.name), resize.check(resize_mode)
        self.classes = model.manifest.classes
        shapes = {tensor.role: tensor.shape for tensor in task.outputs}
        self.output = (
            "features" if "features" in shapes else "logits"
        )  # a classifier with logits alone is compared by these
        self.dimensions = math.prod(shapes[self.output])
        self.has_logits = "logits" in shapes
        self._role = next(tensor.role for tensor in task.inputs if tensor.source == "data")

    @property
    def name(self) -> str:
        """Return the artifact's name and version."""
        return f"{self.model.manifest.name}/{self.model.manifest.version}"

    @property
    def colour(self) -> str:
        """Return the mode in which image files are read: L or RGB."""
        return "L" if self.spec.channels == 1 else "RGB"

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the graph and its weights. The artifact's other files do not change it.

        For a manifest that was written by hand, what it says about the images and tensors is included: it can be edited, and the same graph then
        gives other features.
        """
        manifest = self.model.manifest
        files = manifest.files or repository.records(self.model.folder)
        graph = manifest.tasks["features"].graph
        kept = {name: record for name, record in files.items() if name == graph or _is_weights(name)}
        own = repository.checksum(kept)
        if EXPORTED in manifest.provenance:
            return own
        task = manifest.tasks["features"]
        reads = [manifest.spec, *task.inputs, *task.outputs]
        said = json.dumps(
            [task.method, *(each.model_dump(mode="json", exclude_none=True) for each in reads)], sort_keys=True
        )
        return hashlib.sha256(f"{own} {said}".encode()).hexdigest()

    @property
    def distance_name(self) -> str:
        """Return `fid` for the Inception v3 with the published weights, else `fd_classifier`."""
        weights = str(self.model.manifest.provenance.get("weights_sha256", ""))
        return "fid" if weights.startswith(INCEPTION) else "fd_classifier"

    def edge(self, pixels: Array | list[Array]) -> Float32:
        """Convert uint8 images to model inputs. Grey images are repeated for a colour model, and all are resized by the extractor's rule."""
        if isinstance(pixels, list):
            return np.concatenate([self.edge(image[None]) for image in pixels])
        if pixels.shape[1] != self.spec.channels:
            if pixels.shape[1] != 1:
                raise EvaluationError(
                    f"extractor: {self.name} takes grey images, but these are in colour; choose another extractor",
                    field="extractor",
                )
            return self._resized(pixels).repeat(self.spec.channels, axis=1)
        return self._resized(pixels)

    def _resized(self, pixels: Array) -> Float32:
        """Resize uint8 images (n, C, H, W), and convert them to the range of the model. The channels are not changed."""
        if pixels.shape[2:] == (self.spec.height, self.spec.width):
            return imaging.from_uint8(pixels, self.spec)
        low, high = self.spec.range
        resized = resize.resize(pixels, self.spec.height, self.spec.width, self.mode)
        edge: Float32 = resized * np.float32((high - low) / 255) + np.float32(low)
        return edge

    def __call__(self, pixels: Array | list[Array]) -> tuple[Float32, Float32 | None]:
        """Return features (n, d) and class probabilities (n, C). The latter is None if the artifact has no logits."""
        outputs = self.model.run("features", {self._role: self.edge(pixels)})
        features = outputs[self.output].reshape(
            len(outputs[self.output]), -1
        )  # those of a convolution may be (n, C, 1, 1)
        return features, softmax(outputs["logits"]).astype(np.float32) if self.has_logits else None


def silent(stage: str) -> None:
    """Show no progress."""


def _is_weights(name: str) -> bool:
    """Return whether a file contains weights, and not an image, golden vectors, statistics or a graph."""
    return not name.endswith((".png", ".npz", ".json", ".onnx"))


def load(name: str, models: Path, resize_mode: str = resize.NONE, device: str = "auto") -> Extractor:
    """Load the extractor with this name from the folder of models, or from this path."""
    return Extractor(engine.load(repository.find(name, models), device=known_device(device)), resize_mode)


def for_data(data: str, models: Path) -> str:
    """Return the name of the extractor that was trained on the data set. If there is none, the EvaluationError lists the other extractors."""
    chosen, others = repository.trained_on(data, models, "features")
    if not chosen:
        raise EvaluationError(
            f"extractor: none in {models} was trained on {cut(repr(data))}; choose one with --extractor",
            field="extractor",
            valid=list(others),
        )
    return chosen[0]


# --- one pass -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExtractedFeatures:
    """The features of a set of images, with their class probabilities and labels."""

    n: int
    gaussian: FeatureGaussian
    rows: Float32  # (at most KEPT, d)
    probabilities: Float32 | None  # (n, C)
    labels: NDArray[np.int64]  # (n,) requested or true classes; -1 if unknown
    duplicates: float  # share of images that equal an earlier one bit for bit
    first: Array  # uint8 (at most SHOWN, C, H, W)
    skipped: tuple[str, ...] = ()
    notes: Mapping[str, tuple[int, str]] = field(default_factory=dict)  # number and first file by change

    @property
    def class_shares(self) -> NDArray[np.float64] | None:
        """Return the share of images in each class, from labels if all are known, else from mean probabilities. The shares sum to 1."""
        if self.probabilities is None:
            return None
        if (self.labels >= 0).all():
            shares: NDArray[np.float64] = np.bincount(self.labels, minlength=self.probabilities.shape[1]) / self.n
        else:
            shares = self.probabilities.mean(axis=0, dtype=np.float64)
        return shares


def extract(
    extractor: Extractor, source: ImageSource, *, seed: int = 0, batch: int = BATCH, progress: Progress | None = None
) -> ExtractedFeatures:
    """Extract the features of all images of the source. At most a few batches of images are in memory.

    If there are more than KEPT images, `seed` selects the feature rows that are kept. Raises EvaluationError for fewer than 2 images.
    """
    moments = Moments(extractor.dimensions)
    keep = _kept(source.n, seed)
    rows, probabilities, labels, first, skipped = [], [], [], [], []  # type: ignore[var-annotated]
    hashes: set[bytes] = set()
    notes: dict[str, tuple[int, str]] = {}
    done = shown = 0

    def work(start: int) -> tuple[ImageBatch, Float32, Float32 | None]:
        images = source.batch(start, min(start + batch, source.n))
        if not len(images):
            return images, np.zeros((0, extractor.dimensions), np.float32), None
        return images, *extractor(images.pixels)

    for start, (images, features, classes) in _in_order(work, range(0, source.n, batch)):
        moments.add(features)
        place = np.flatnonzero(keep[start : start + len(features)])
        rows.append(features[place])
        labels.append(images.labels)
        if classes is not None:
            probabilities.append(classes)
        hashes.update(hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images.pixels)
        if shown < SHOWN and isinstance(images.pixels, np.ndarray):
            first.append(images.pixels[: SHOWN - shown])
            shown += len(first[-1])
        skipped += images.skipped
        for name, note in images.notes:
            n, first_name = notes.get(note, (0, name))
            notes[note] = (n + 1, first_name)
        done = min(start + batch, source.n)
        if progress:
            progress(done, source.n)
    if moments.n < 2:
        raise EvaluationError(f"{source.name}: {moments.n} image(s) can be read; at least 2 are needed")
    return ExtractedFeatures(
        moments.n, moments.gaussian(), np.concatenate(rows), np.concatenate(probabilities) if probabilities else None,
        np.concatenate(labels), 1 - len(hashes) / moments.n, _same_size(first), tuple(skipped), notes,
    )  # fmt: skip


def _kept(n: int, seed: int) -> NDArray[np.bool_]:
    keep = np.zeros(n, bool)
    keep[np.random.Generator(np.random.Philox(seed)).permutation(n)[:KEPT]] = True
    return keep


def _same_size(batches: list[Array]) -> Array:
    same = [pixels for pixels in batches if pixels.shape[1:] == batches[0].shape[1:]]
    return np.concatenate(same) if same else np.zeros((0, 1, 1, 1), np.uint8)


def _in_order(work: Callable[[int], T], starts: range) -> Iterator[tuple[int, T]]:
    """Yield work(start) for each start, in order. The calls run in parallel on all cores; only a few results are held at a time."""
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Any] = deque()
        try:
            for start in starts:
                waiting.append((start, pool.submit(work, start)))
                if len(waiting) > 2 * workers:
                    begun, future = waiting.popleft()
                    yield begun, future.result()
            while waiting:
                begun, future = waiting.popleft()
                yield begun, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def map_batches(work: Callable[[int, int], T], n: int, batch: int = BATCH, progress: Progress | None = None) -> list[T]:
    """Return the results of work(start, stop) for n items in batches. Batches run in parallel; results are in order."""
    results = []
    for start, result in _in_order(lambda start: work(start, min(start + batch, n)), range(0, n, batch)):
        results.append(result)
        if progress:
            progress(min(start + batch, n), n)
    return results
