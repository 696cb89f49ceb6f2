"""A mixture of Gaussians with full covariances: the density of a row, and of each column given the others.

For a component with mean m and precision P, and for the block b of encoded values of a column (all others are called r),
x_b given x_r is Gaussian with precision P_bb and mean x_b - P_bb^-1 s_b, where s = P (x - m). So the density of a column given the others
follows from s alone: log N(x_b | x_r) = (log det P_bb - s_b' P_bb^-1 s_b - |b| log 2 pi) / 2, and N(x_r) = N(x) / N(x_b | x_r).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]

COMPONENTS = (1, 2, 4, 8)  # numbers of components to choose from
PER_COMPONENT = 10  # least number of rows for each component
FLOOR = 0.01  # added to variances, in scaled units: a narrower component would describe single rows
ROWS = 5000  # largest number of rows that the mixture is fitted to
HELD_OUT = 0.2  # share of these rows that the number of components is chosen by
STEPS = 30  # most steps of expectation maximisation


class Mixture(nn.Module):
    """The nats of rows (B, D) under a mixture, in all (B,) and of each column given the others (B, C), and the expected values (B, D).

    `blocks` are the encoded values of each column. The expected value of a column is its mean given the other columns.
    """

    means: Tensor
    precisions: Tensor
    within: Tensor
    constants: Tensor
    of_blocks: Tensor
    members: Tensor

    def __init__(self, weights: Array, means: Array, covariances: Array, blocks: Sequence[slice]) -> None:
        """Initialise from weights (K,), means (K, D) and covariances (K, D, D)."""
        super().__init__()
        size = means.shape[1]
        precisions = np.linalg.inv(covariances)
        within, of_blocks = np.zeros_like(precisions), np.zeros((len(means), len(blocks)))
        members = np.zeros((size, len(blocks)))
        for place, block in enumerate(blocks):
            inner = precisions[:, block, block]
            within[:, block, block] = np.linalg.inv(inner)
            width = inner.shape[1]
            of_blocks[:, place] = 0.5 * (np.linalg.slogdet(inner)[1] - width * math.log(2 * math.pi))
            members[block, place] = 1
        constants = np.log(weights) + 0.5 * (np.linalg.slogdet(precisions)[1] - size * math.log(2 * math.pi))
        held = {
            "means": means, "precisions": precisions, "within": within, "constants": constants, "of_blocks": of_blocks,
            "members": members,
        }  # fmt: skip
        for name, values in held.items():
            self.register_buffer(name, torch.from_numpy(np.asarray(values)).float())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        away = x[:, None] - self.means  # (B, K, D)
        pulls = torch.einsum("bkd,kde->bke", away, self.precisions)
        shifts = torch.einsum("bkd,kde->bke", pulls, self.within)
        joint = self.constants - 0.5 * (away * pulls).sum(2)  # (B, K), log of weight and density
        given = self.of_blocks - 0.5 * (pulls * shifts) @ self.members  # (B, K, C), log N(x_b | x_r)
        rest = joint[:, :, None] - given  # log of weight and density of the other columns
        whole, others = joint.logsumexp(1), rest.logsumexp(1)
        shares = (
            rest - others[:, None]
        ).exp() @ self.members.T  # (B, K, D), weights of the components given the other columns
        return -whole, others - whole[:, None], x - (shares * shifts).sum(1)


def fit(rows: Array, blocks: Sequence[slice], seed: int, *, robust: bool = False) -> Mixture:
    """Fit a mixture to rows (N, D). The number of components is chosen by the mean nats of held-out rows, or by their median if `robust`."""
    random = np.random.default_rng(seed)
    rows = rows[random.permutation(len(rows))[:ROWS]]
    held_out, rest = np.split(rows, [max(1, int(HELD_OUT * len(rows)))])
    found: dict[int, float] = {}
    for n in COMPONENTS:
        if n > 1 and len(rest) < PER_COMPONENT * n:
            break
        with torch.no_grad():
            nats = _fitted(rest, n, blocks, seed)(torch.from_numpy(held_out).float())[0].double().numpy()
        found[n] = float(np.median(nats) if robust else nats.mean())
    return _fitted(rows, min(found, key=lambda n: found[n]), blocks, seed)


def _fitted(rows: Array, n: int, blocks: Sequence[slice], seed: int) -> Mixture:
    if n == 1:  # shrunk towards a sphere as far as the number of rows demands (Ledoit and Wolf, 2004)
        from sklearn.covariance import LedoitWolf

        found = LedoitWolf().fit(rows)
        covariance = found.covariance_ + FLOOR * np.eye(rows.shape[1])
        return Mixture(np.ones(1), found.location_[None], covariance[None], blocks)
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # few steps suffice for scores
        mixture = GaussianMixture(n, reg_covar=FLOOR, random_state=seed, max_iter=STEPS).fit(rows)
    return Mixture(mixture.weights_, mixture.means_, mixture.covariances_, blocks)
