"""Probabilities that are the same on every machine, and the stack of bits that they code.

A model gives unnormalised log-probabilities of K levels. They are rounded to 1/GRID, so that small rounding errors rarely matter, and kept as
`distances` from the largest one, uint16 (..., K). A distance stands for an integer weight, and a probability is a weight divided by the sum of
the weights. So everything after the rounding is exact integer arithmetic and one division, which all machines do alike. Rounding to 1/16 costs
less than 0.0003 bits a value: the relative entropy is half the variance of the error, (1/16)² / 12.

The stack is the ANS coder of the library constriction (Duda et al., 2015, "The use of asymmetric numeral systems as an accurate replacement for
Huffman coding"). The symbol that is pushed last is popped first. Popping a symbol with a distribution takes as many bits as pushing it adds, and gives
back the same bits when the symbol is pushed again: bits-back coding needs this.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Levels = NDArray[np.int64]
Distances = NDArray[np.uint16]
Float64 = NDArray[np.float64]
Words = NDArray[np.uint32]

GRID = 16  # log-probabilities are rounded to 1/GRID
UNIT = 2**32  # weight of the most likely level
FARTHEST = math.ceil(GRID * math.log(UNIT))  # distance from which on the weight is 1, the smallest
WEIGHTS = np.asarray([max(1, round(UNIT * math.exp(-distance / GRID))) for distance in range(FARTHEST + 1)])
PRECISION = 24  # bits of constriction's probabilities: one symbol takes at most so many
BINS = 64  # number of bins of a latent in one unit. Each bin has at least the smallest probability, so more bins would give more outliers
REACH = 8 * BINS  # latents are between -8 and 8
MEAN_GRID = 4 * BINS  # means are rounded to a quarter of a bin
LOG_VARIANCES = (-24.0, 8.0)  # range of log variances
CHUNK = 2**20  # number of probabilities in memory at a time


def distances(logits: Array) -> Distances:
    """Round log-probabilities (..., K) to the grid and return their distances from the largest one, at most FARTHEST."""
    steps = np.rint(logits * GRID)  # exact: GRID is a power of two
    rounded: Distances = np.minimum(steps.max(axis=-1, keepdims=True) - steps, FARTHEST).astype(np.uint16)
    return rounded


def probabilities(given: Distances) -> Float64:
    """Return the probabilities of levels from their distances (..., K). Each row sums to 1."""
    weights = WEIGHTS[given]
    exact: Float64 = weights / weights.sum(axis=-1, keepdims=True)
    return exact


def bits(given: Distances, levels: Levels) -> Float64:
    """Return -log2 of the probability of each level (...), from distances (..., K)."""
    taken: Float64 = np.take_along_axis(probabilities(given), levels[..., None], -1)[..., 0]
    return -np.log2(taken)


def posterior(mean: Array, log_variance: Array) -> tuple[Float64, Float64]:
    """Return means and standard deviations of a posterior in bins, rounded so that small rounding errors rarely matter."""
    mean = np.rint(mean.astype(np.float64).clip(-16, 16) * MEAN_GRID) / (MEAN_GRID / BINS)
    log_variance = np.rint(log_variance.astype(np.float64).clip(*LOG_VARIANCES) * GRID) / GRID
    return mean, BINS * np.exp(log_variance / 2)


def seeds(count: int, stream: int = 0) -> Words:
    """Return `count` pseudo-random words, which are the same everywhere. The last one is not 0, as the coder takes no last word of 0."""
    key = b"manifold" + stream.to_bytes(8, "little")
    blocks = [hashlib.sha256(key + block.to_bytes(8, "little")).digest() for block in range(-(-count // 8))]
    words = np.frombuffer(b"".join(blocks), "<u4")[:count].astype(np.uint32)
    words[-1:] |= 1
    return words


class Stack:
    """A stack of bits. Symbols are pushed and popped with their distributions."""

    def __init__(self, words: Words) -> None:
        """Start with some words. Raises ValueError if the last one is 0."""
        from constriction import stream

        self._new = stream.stack.AnsCoder
        self._coder = self._new(words) if len(words) else self._new()
        self._categorical = stream.model.Categorical(perfect=False)
        self._gaussian = stream.model.QuantizedGaussian(-REACH, REACH)
        self.pushed = 0.0  # the sum of -log2 of the probabilities of all levels that were pushed

    @property
    def words(self) -> Words:
        """The words of the stack."""
        words: Words = self._coder.get_compressed()
        return words

    @property
    def bits(self) -> int:
        """The number of bits of the stack."""
        return int(self._coder.num_valid_bits())

    def mix(self, above: int, stream: int) -> None:
        """Exchange 0 and 1 at pseudo-random places in the words above the first `above` ones. The same call reverts it.

        The bits that the push of a latent left on the stack are popped for the next latent. Unchanged, they would be the same noise for all images.
        """
        words = self.words
        if len(words) > above + 1:
            words[above:-1] ^= seeds(len(words) - above - 1, stream)
            self._coder = self._new(words)

    def push(self, levels: Levels, given: Distances) -> None:
        """Push levels (...) with the distributions of their distances (..., K)."""
        flat, each = levels.ravel().astype(np.int32), _rows(given)
        size = max(1, CHUNK // each.shape[1])
        for start in reversed(range(0, len(flat), size)):
            piece = slice(start, start + size)
            shares = probabilities(each[piece])
            self._coder.encode_reverse(flat[piece], self._categorical, shares)
            self.pushed -= float(np.log2(shares[np.arange(len(shares)), flat[piece]]).sum())

    def pop(self, given: Distances) -> Levels:
        """Pop levels (...) with the distributions of their distances (..., K)."""
        each = _rows(given)
        size = max(1, CHUNK // each.shape[1])
        pieces = [
            self._coder.decode(self._categorical, probabilities(each[start : start + size]))
            for start in range(0, len(each), size)
        ]
        return np.concatenate(pieces).astype(np.int64).reshape(given.shape[:-1])

    def push_normal(self, bins: Levels, mean: Float64, deviation: Float64) -> None:
        """Push the bins of latents (...) with normal distributions. Means and standard deviations are in bins."""
        flat = bins.ravel().astype(np.int32)
        self._coder.encode_reverse(flat, self._gaussian, np.ravel(mean), np.ravel(deviation))

    def pop_normal(self, mean: Float64, deviation: Float64) -> Levels:
        """Pop the bins of latents (...) with normal distributions. Means and standard deviations are in bins."""
        popped = self._coder.decode(self._gaussian, mean.ravel(), deviation.ravel())
        return np.asarray(popped, np.int64).reshape(mean.shape)


def _rows(given: Distances) -> Distances:
    """Return distances (..., K) as rows (n, K) that are adjacent in memory: constriction reads an array without its strides."""
    return np.ascontiguousarray(given.reshape(-1, given.shape[-1]))
