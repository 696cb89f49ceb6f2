"""Oriented edges of images, a description of shapes that needs no training, and two terms of the anomaly score in their space.

Pixels compare badly: two images of one shape differ at many pixels if a stroke is thicker, darker or one pixel further left. So an image is
described as in histograms of oriented gradients (Dalal and Triggs, 2005): by the strengths of edges in several directions, averaged over
overlapping cells of a grid. The strengths are then in proportion to the whole, so that contrast has little influence.

Both terms use the first principal components of these descriptions, and the distance from their space as one more coordinate.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional as F

from manifold.training.batches import to_float
from manifold.training.data import Part
from manifold.training.data.parts import batches, scattered, subset
from manifold.training.detectors import mixture
from manifold.training.networks.layers import per_item
from manifold.training.scores.neighbours import Neighbours
from manifold.training.scores.options import ScoreOptions

Array = NDArray[np.float64]

DIRECTIONS = 8
GRID = 8  # largest number of cells in a row and in a column
BLUR = 0.8  # standard deviation of the Gaussian whose derivative finds edges, in pixels
RADIUS = 3  # pixels on each side of the centre of this filter
WEAK = 1e-4  # strength of edges, in pixels from 0 to 1, below which the root is not taken
EMPTY = 1e-2  # added to the length of a description, so that an image without edges has the description 0
NEAREST = 1
FLOOR = 0.01  # added to variances, in units of the mean variance of a value
ROWS = 5000  # number of training images to which the space and the mixture are fitted
BATCH = 500  # number of images that are described at once


class Edges(nn.Module):
    """The edges (B, DIRECTIONS * cells) of images (B, C, H, W) in [0, 1]. Channels are averaged first.

    The derivative of the blurred image is computed in each direction, and its negative part is set to 0, so that opposite directions differ.
    A cell has the mean over twice its width and height. Its root is taken, and the whole is divided by its length.
    """

    filters: Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.cell = (-(-height // GRID), -(-width // GRID))
        self.size = DIRECTIONS * (height // self.cell[0]) * (width // self.cell[1])
        self.register_buffer("filters", derivatives())

    def forward(self, data: Tensor) -> Tensor:
        grey = data.mean(1, keepdim=True)
        edges = F.conv2d(F.pad(grey, (RADIUS,) * 4, mode="replicate"), self.filters).relu()
        high, wide = self.cell
        edges = F.pad(edges, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
        cells = F.avg_pool2d(edges, (2 * high, 2 * wide), (high, wide)).flatten(1)
        roots = (cells + WEAK).sqrt() - math.sqrt(WEAK)
        return roots / (per_item(roots * roots).sqrt() + EMPTY)[:, None]


def derivatives() -> Tensor:
    """Return the filters (DIRECTIONS, 1, n, n): derivatives of a Gaussian. A step of 1 has a strength of at most 1 / 2."""
    places = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
    bell = (-(places**2) / (2 * BLUR**2)).exp()
    bell = bell / bell.sum()
    slope = places * bell
    slope = slope / slope.abs().sum()
    angles = torch.arange(DIRECTIONS, dtype=torch.float64) * (2 * math.pi / DIRECTIONS)
    across, down = bell[:, None] * slope, slope[:, None] * bell
    return (angles.cos()[:, None, None] * across + angles.sin()[:, None, None] * down)[:, None].float()


class Space(nn.Module):
    """The space of the first principal components of descriptions (B, D). Its units are those in which their mean variance is 1."""

    centre: Tensor
    directions: Tensor
    deviations: Tensor

    def __init__(self, centre: Tensor, scale: float, directions: Tensor, deviations: Tensor, variance: float) -> None:
        """Initialise from the centre (D,), the unit, R orthonormal directions (D, R), the deviations (R,) there, and the variance elsewhere."""
        super().__init__()
        self.scale, self.variance = scale, variance
        self.register_buffer("centre", centre)
        self.register_buffer("directions", directions)
        self.register_buffer("deviations", deviations)

    def forward(self, described: Tensor) -> tuple[Tensor, Tensor]:
        """Map descriptions (B, D) to coordinates in the space (B, R), and squared distances from it (B,)."""
        away = (described - self.centre) / self.scale
        inside = away @ self.directions
        outside = away - inside @ self.directions.T
        return inside, per_item(outside * outside)

    def whitened(self, inside: Tensor, squared: Tensor) -> Tensor:
        """Return coordinates and the distance from the space, in standard deviations, (B, R + 1)."""
        return torch.cat([inside / self.deviations, (squared / self.variance).sqrt()[:, None]], 1)

    def nats(self, squared: Tensor) -> Tensor:
        """Return -log of the density (B,) of the directions outside the space, given squared distances from it."""
        n = self.directions.shape[0] - self.directions.shape[1]
        return 0.5 * (squared / self.variance + n * math.log(2 * math.pi * self.variance))


class EdgeTerms(nn.Module):
    """The terms of `terms.edges`, in that order, (B,) each, of images (B, C, H, W).

    `edge_neighbours` is the distance to the nearest reference, in the whitened space, if there are references. `edge_mixture` is -log of a
    density of the description in nats: a mixture of Gaussians in the space, and one variance in every direction outside it.
    """

    def __init__(self, edges: Edges, space: Space, inside: mixture.Mixture, references: Tensor | None) -> None:
        """Initialise from the mixture of coordinates (B, R), and from references (N, R + 1) as `Space.whitened` returns them."""
        super().__init__()
        self.edges, self.space, self.mixture = edges, space, inside
        self.nearest = None if references is None else Neighbours(references, NEAREST)

    def forward(self, data: Tensor) -> list[Tensor]:
        inside, squared = self.space(self.edges(data))
        near = [] if self.nearest is None else [self.nearest(self.space.whitened(inside, squared))]
        return [*near, self.mixture.nats(inside) + self.space.nats(squared)]


@torch.no_grad()
def fit(part: Part, chosen: NDArray[np.int64], options: ScoreOptions) -> EdgeTerms:
    """Fit the terms to at most ROWS images of a split. `chosen` are the indices of the references; there may be none."""
    edges = Edges(*part.batch(np.arange(1)).items.shape[2:])
    with threadpool_limits(1):  # the products are small: further threads would mostly wait
        sample = described(edges, scattered(part, ROWS, options.seed))
        space = _space(sample.double().numpy(), options)
        inside, _ = space(sample)
        held = space.whitened(*space(described(edges, subset(part, chosen)))) if len(chosen) else None
        fitted = mixture.fit(inside.double().numpy(), [], options.seed)
    return EdgeTerms(edges, space, fitted, None if held is None else _stored(held, options))


def described(edges: Edges, part: Part) -> Tensor:
    """Return the descriptions of all images of a split, (N, D)."""
    return torch.cat([edges(to_float(some.items, torch.device("cpu"))) for some in batches(part, BATCH)])


def _space(sample: Array, options: ScoreOptions) -> Space:
    """Return the space of descriptions (N, D)."""
    scale = float(np.sqrt(sample.var(0).mean())) or 1.0  # all images can have the same description
    rows = sample / scale
    found = mixture.principal(rows, options.seed)
    places = (found.mean_ * scale, found.components_.T, np.sqrt(found.explained_variance_ + FLOOR))
    centre, directions, deviations = (_stored(torch.from_numpy(each).float(), options) for each in places)
    return Space(centre, scale, directions, deviations, mixture.outside(rows, options.seed))


def _stored(values: Tensor, options: ScoreOptions) -> Tensor:
    """Return values in the precision of the artifact."""
    return values.half().float() if options.stored == "float16" else values
