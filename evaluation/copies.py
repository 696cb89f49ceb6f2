"""The check for memorisation: samples that equal a training image, or are nearer to one than held-out images are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation import metrics
from manifold.evaluation.extractors import ExtractedFeatures
from manifold.evaluation.images import Pixels, RealData, RealImages, batch_size
from manifold.evaluation.report import Pictures, Report, rounded

Array = NDArray[Any]

SHOWN = 64  # number of samples that are checked
HELD_OUT = 256  # number of test images for comparison, or fewer if they are large


def copies(report: Report, features: ExtractedFeatures, data: RealData, pictures: Pictures) -> None:
    """Add the median pixel distance from the first samples to their nearest training images, and the same figure for test images."""
    samples, train, test = features.first[:SHOWN], data.train, data.test
    if not len(samples) or samples.shape[1:] != train.shape:
        return
    compared = batch_size(test, HELD_OUT)
    spread = np.arange(0, test.n, max(1, test.n // compared))[:compared]
    distances, index = nearest(samples, train)
    of_test, _ = nearest(test.at(spread), train)
    pictures.neighbours = train.at(index)
    report.metrics["nearest_train_distance"] = rounded(float(np.median(distances)))
    report.anchors["test_nearest_train_distance"] = rounded(float(np.median(of_test)))
    report.details["nearest_train_distance"] = {
        "is": "median Euclidean distance, of pixels in [0, 1], to the nearest training image",
        "images": len(samples),
    }
    if equal := int((distances == 0).sum()):
        report.warnings.append(f"{equal} of {len(samples)} samples equal a training image in every pixel")


def nearest(images: Pixels, others: RealImages) -> tuple[Array, NDArray[np.int64]]:
    """Return for each uint8 image the distance to the nearest of the others, of pixels in [0, 1], and the index of that image."""
    rows = images.reshape(len(images), -1).astype(np.float64) / 255
    best, index = np.full(len(rows), np.inf), np.zeros(len(rows), np.int64)
    size = batch_size(others, metrics.ROWS)
    for start in range(0, others.n, size):
        block = np.asarray(others.batch(start, min(start + size, others.n)).pixels)
        squares = metrics.squared_distances(rows, block.reshape(len(block), -1).astype(np.float64) / 255)
        least = squares.argmin(axis=1)
        values = squares[np.arange(len(rows)), least]
        index, best = np.where(values < best, start + least, index), np.minimum(values, best)
    # computed again without the rounding error of the expanded square
    exact = ((rows - others.at(index).reshape(len(rows), -1) / 255) ** 2).sum(axis=1)
    return np.sqrt(exact), index
