"""A mixture of Gaussians with full covariances: the density of a row, and of each column given the others.

For a component with mean m and precision P, and for the block b of encoded values of a column (all others are called r),
x_b given x_r is Gaussian with precision P_bb and mean x_b - P_bb^-1 s_b, where s = P (x - m). So the density of a column given the others
follows from s alone: log N(x_b | x_r) = (log det P_bb - s_b' P_bb^-1 s_b - |b| log 2 pi) / 2, and N(x_r) = N(x) / N(x_b | x_r).

Rows of more than WIDE values would need too large covariances. Their components differ in the space of the first principal components only,
and all have the same variance in every other direction (a mixture over the latent of probabilistic PCA; Tipping and Bishop, 1999).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from manifold.training.networks.layers import per_item

Array = NDArray[np.float64]

COMPONENTS = (1, 2, 4, 8)  # numbers of components to choose from
PER_COMPONENT = 10  # least number of rows for each component
FLOOR = 0.01  # added to variances, in scaled units: a narrower component would describe single rows
ROWS = 5000  # largest number of rows that the mixture is fitted to
HELD_OUT = 0.2  # share of these rows that the number of components is chosen by
FILLS, SLIGHT = 3, 1e-12  # number of steps of `fill`, and the smallest divisor in it
STEPS = 30  # most steps of expectation maximisation
WIDE, BASIS = 128, 64  # values of a row above which principal components are used, and their number


@dataclass(frozen=True)
class Basis:
    """The space of the principal components."""

    centre: Array  # (D,)
    directions: Array  # (D, R), orthonormal
    variance: float  # in every direction outside the space


class Mixture(nn.Module):
    """The nats of rows (B, D) under a mixture, in all (B,) and of each column given the others (B, C), and the expected values (B, D).

    `blocks` are the encoded values of each column. The expected value of a column is its mean given the other columns.
    """

    means: Tensor
    precisions: Tensor
    constants: Tensor
    of_blocks: Tensor
    members: Tensor
    single: Tensor
    centre: Tensor
    directions: Tensor

    def __init__(
        self, weights: Array, means: Array, covariances: Array, blocks: Sequence[slice], basis: Basis | None = None
    ) -> None:
        """Initialise from weights (K,), means (K, D) and covariances (K, D, D); with a basis they are those in its space, of R values."""
        super().__init__()
        precisions: Array = np.asarray(np.linalg.inv(covariances), np.float64)
        inside = means.shape[1]
        size = inside if basis is None else len(basis.centre)
        self.variance = 1.0 if basis is None else basis.variance
        self.narrow = basis is None
        whole = 0.5 * (
            np.linalg.slogdet(precisions)[1] - (size - inside) * math.log(self.variance) - size * math.log(2 * math.pi)
        )
        of_blocks, members = np.zeros((len(means), len(blocks))), np.zeros((size, len(blocks)))
        single = np.zeros((len(means), size))  # P_bb^-1 of the columns with one value
        self.several: list[
            tuple[slice, str]
        ] = []  # the blocks of several values, and the names of the buffers with their P_bb^-1
        for place, block in enumerate(blocks):
            inner = _inner(precisions, block, basis)
            width = inner.shape[1]
            of_blocks[:, place] = 0.5 * (np.linalg.slogdet(inner)[1] - width * math.log(2 * math.pi))
            members[block, place] = 1
            if width == 1:
                single[:, block] = 1 / inner[:, 0]
            else:
                self.several.append((block, f"inverse{place}"))
                self._hold(f"inverse{place}", np.asarray(np.linalg.inv(inner), np.float64))
        self._hold("means", means)
        self._hold("precisions", precisions)
        self._hold("constants", np.log(weights) + whole)
        self._hold("of_blocks", of_blocks)
        self.plain = len(blocks) == size  # each column is one value, so that sums over its values change nothing
        if not self.plain:
            self._hold("members", members)
        self._hold("single", single)
        if basis is not None:
            self._hold("centre", basis.centre)
            self._hold("directions", basis.directions)

    def _hold(self, name: str, values: Array) -> None:
        self.register_buffer(name, torch.from_numpy(np.asarray(values)).float())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        joint, shared, pulls = self._joint(x)
        shifts = pulls * self.single  # (B, K, D), P_bb^-1 s_b
        for block, name in self.several:
            within = torch.einsum("bkd,kde->bke", pulls[:, :, block], getattr(self, name))
            shifts = torch.cat([shifts[:, :, : block.start], within, shifts[:, :, block.stop :]], 2)
        squares = pulls * shifts
        given = self.of_blocks - 0.5 * (
            squares if self.plain else squares @ self.members
        )  # (B, K, C), log N(x_b | x_r)
        # the logs of densities are large numbers for wide rows, and their differences are exact only without the part that all components share
        whole = joint.logsumexp(1)
        rest = (joint - whole[:, None])[:, :, None] - given
        others = rest.logsumexp(1)
        shares = (rest - others[:, None]).exp()  # (B, K, C), weights of the components given the other columns
        if not self.plain:
            shares = shares @ self.members.T  # (B, K, D)
        return -(whole + shared), others, x - (shares * shifts).sum(1)

    def fill(self, x: Tensor, known: Tensor) -> Tensor:
        """Return rows (B, D) with likely values where `known` (B, D) is 0, given the values where it is 1.

        The nats are minimised over the missing values by conjugate gradients, scaled by the diagonals of the precisions (Fletcher and Reeves,
        1964, The Computer Journal 7). For a single Gaussian and at most FILLS missing values, the result is their exact mean. A column of
        several values is a category: it gets 1 for its largest value and 0 for the others.
        """
        missing, diagonal = 1 - known, self._diagonal()
        direction, before = torch.zeros_like(x), None
        for _ in range(FILLS):
            joint, _, pulls = self._joint(x)
            shares = joint.softmax(1)
            slope = (shares[:, :, None] * pulls).sum(1) * missing
            scaled = slope / (shares @ diagonal)
            size = per_item(slope * scaled)
            direction = -scaled if before is None else (size / before)[:, None] * direction - scaled
            before = size.clamp(min=SLIGHT)
            bend = per_item((shares[:, :, None] * self._pulled(direction)).sum(1) * direction)
            length = -per_item(slope * direction) / bend.clamp(min=SLIGHT)
            x = x + length[:, None] * direction
        for block, _ in self.several:
            found, lacks = x[:, block], missing[:, block.start : block.start + 1]
            chosen = found.argmax(1, keepdim=True) == torch.arange(block.stop - block.start, device=x.device)
            x = torch.cat([x[:, : block.start], torch.where(lacks > 0, chosen.to(x), found), x[:, block.stop :]], 1)
        return x

    def _diagonal(self) -> Tensor:
        """Return the diagonals of the precisions, (K, D)."""
        if self.narrow:
            return self.precisions.diagonal(dim1=1, dim2=2)
        inside = ((self.directions @ self.precisions) * self.directions).sum(2)
        return inside + (1 - (self.directions * self.directions).sum(1)) / self.variance

    def _pulled(self, steps: Tensor) -> Tensor:
        """Return the products of the precisions with steps (B, D), (B, K, D)."""
        if self.narrow:
            return torch.einsum("bd,kde->bke", steps, self.precisions)
        inside = steps @ self.directions
        outside = steps - inside @ self.directions.T
        return (
            torch.einsum("br,krs->bks", inside, self.precisions) @ self.directions.T + outside[:, None] / self.variance
        )

    def nats(self, x: Tensor) -> Tensor:
        """Return the nats of rows (B, D) alone, (B,)."""
        joint, shared, _ = self._joint(x)
        return -(joint.logsumexp(1) + shared)

    def _joint(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logs of weight and density of the components, (B, K) without the part that all share, which is the second result.

        This part is (B,), or a single number. The third result is s = P (x - m), (B, K, D).
        """
        highest = self.constants.max()
        constants = self.constants - highest
        if self.narrow:
            away = x[:, None] - self.means
            pulls = torch.einsum("bkd,kde->bke", away, self.precisions)
            return constants - 0.5 * (away * pulls).sum(2), highest, pulls
        away_from_centre = x - self.centre
        inside = away_from_centre @ self.directions  # (B, R)
        outside = away_from_centre - inside @ self.directions.T
        away = inside[:, None] - self.means
        pulls = torch.einsum("bkr,krs->bks", away, self.precisions)
        shared = highest - 0.5 * (outside * outside).sum(1) / self.variance
        return (
            constants - 0.5 * (away * pulls).sum(2),
            shared,
            pulls @ self.directions.T + outside[:, None] / self.variance,
        )


def _inner(precisions: Array, block: slice, basis: Basis | None) -> Array:
    """Return P_bb (K, b, b) of a block of values, for precisions in the space of the basis if there is one."""
    if basis is None:
        inner: Array = precisions[:, block, block]
        return inner
    rows = basis.directions[block]
    return np.asarray(rows @ precisions @ rows.T + (np.eye(len(rows)) - rows @ rows.T) / basis.variance)


def fit(rows: Array, blocks: Sequence[slice], seed: int, *, robust: bool = False, components: int = 0) -> Mixture:
    """Fit a mixture to rows (N, D).

    If `components` is 0, their number is chosen by the mean nats of held-out rows, or by their median if `robust`.
    """
    random = np.random.default_rng(seed)
    rows = rows[random.permutation(len(rows))[:ROWS]]
    basis = _principal(rows, seed) if rows.shape[1] > WIDE else None
    inside = rows if basis is None else (rows - basis.centre) @ basis.directions
    if components:
        return Mixture(*_fitted(inside, min(components, len(inside)), seed), blocks, basis)
    held_out, rest = np.split(inside, [max(1, int(HELD_OUT * len(inside)))])
    singles = [slice(place, place + 1) for place in range(inside.shape[1])]
    found: dict[int, float] = {}
    for n in COMPONENTS:
        if n > 1 and len(rest) < PER_COMPONENT * n:
            break
        with torch.no_grad():
            nats = Mixture(*_fitted(rest, n, seed), singles)(torch.from_numpy(held_out).float())[0].double().numpy()
        found[n] = float(np.median(nats) if robust else nats.mean())
    return Mixture(*_fitted(inside, min(found, key=lambda n: found[n]), seed), blocks, basis)


def _principal(rows: Array, seed: int) -> Basis:
    """Return the space of the first principal components of rows (N, D), and the mean variance outside it."""
    found = principal(rows, seed)
    return Basis(found.mean_, found.components_.T, outside(rows, seed))


def principal(rows: Array, seed: int) -> Any:
    """Return the first principal components of rows (N, D), at most BASIS, as scikit-learn's PCA."""
    from sklearn.decomposition import PCA

    n = min(BASIS, len(rows) - 1, rows.shape[1] - 1)
    with np.errstate(invalid="ignore"):  # PCA divides 0 by 0 if all rows are the same
        return PCA(n, svd_solver="randomized", random_state=seed).fit(rows)


def outside(rows: Array, seed: int) -> float:
    """Return the mean variance of rows (N, D) outside the space of their principal components, plus FLOOR.

    It is computed from held-out rows and the components of the other ones: outside their own components, rows have a smaller variance
    than new rows, for 300 rows of 384 values by two fifths.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    held_out, rest = np.split(rows[order], [max(1, int(HELD_OUT * len(rows)))])
    found = principal(rest if len(rest) > 1 else rows, seed)
    away = held_out - found.mean_
    left = float(np.square(away).sum() - np.square(away @ found.components_.T).sum())
    directions: int = rows.shape[1] - len(found.components_)
    return FLOOR + max(0.0, left) / (len(held_out) * directions)


def _fitted(rows: Array, n: int, seed: int) -> tuple[Array, Array, Array]:
    """Return weights, means and covariances of a mixture of n Gaussians."""
    if n == 1:  # shrunk towards a sphere as far as the number of rows demands (Ledoit and Wolf, 2004)
        from sklearn.covariance import LedoitWolf

        found = LedoitWolf().fit(rows)
        covariance = found.covariance_ + FLOOR * np.eye(rows.shape[1])
        return np.ones(1), found.location_[None], covariance[None]
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # few steps suffice for scores
        mixture = GaussianMixture(n, reg_covar=FLOOR, random_state=seed, max_iter=STEPS).fit(rows)
    return mixture.weights_, mixture.means_, mixture.covariances_
