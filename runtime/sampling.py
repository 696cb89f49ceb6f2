"""Random arrays from seeds: one counter-based stream for each item and each input.

Item i of a request draws from Philox 4x64-10 (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3") with

    key     = (seed, 0)
    counter = (block, stream, i, 0)

So an item depends only on its seed, its index and the stream: not on the other items of the batch, the number of requested items, the replica
or the transport. numpy guarantees the bits of Philox but not of its distributions, so the transforms are defined here:

    uniform  (word >> 40) 2^-24, exact in float32, in [0, 1)
    normal   Box-Muller in float64 on consecutive pairs of words, cast to float32
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Words = NDArray[np.uint64]

MAX_SEED = 2**63 - 1
CLASS_STREAM = 0  # classes have their own stream, so that drawing a random class does not change the noise
POSTERIOR_STREAM = 1
COMPONENT_STREAM = 2**32  # choice of the component of a mixture prior
FIRST_INPUT_STREAM = 2  # stream of an input of a task = this + its index among the inputs that a seed fills

_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10
_VECTORISE_FROM = (
    4  # number of items; for fewer, resetting the state of one generator is faster than the vectorised rounds
)


def uniform(seed: int, first: int, n: int, stream: int, shape: tuple[int, ...]) -> Float32:
    """Draw uniforms in [0, 1), float32 (n, *shape), for items first .. first + n - 1."""
    return _shaped(((_words(seed, first, n, stream, math.prod(shape)) >> np.uint64(40)) * 2.0**-24), n, shape)


def normal(seed: int, first: int, n: int, stream: int, shape: tuple[int, ...]) -> Float32:
    """Draw standard normals, float32 (n, *shape), for items first .. first + n - 1."""
    count = math.prod(shape)
    words = _words(seed, first, n, stream, count + count % 2) >> np.uint64(11)
    radius = np.sqrt(-2.0 * np.log((words[:, 0::2] + np.uint64(1)) * 2.0**-53))  # from a uniform in (0, 1]
    angle = (2.0 * math.pi * 2.0**-53) * words[:, 1::2]
    pairs = np.empty((*radius.shape, 2))  # (n, count / 2, 2)
    np.multiply(radius, np.cos(angle), out=pairs[..., 0])
    np.multiply(radius, np.sin(angle), out=pairs[..., 1])
    return _shaped(pairs.reshape(n, -1)[:, :count], n, shape)


def choice(seed: int, first: int, n: int, weights: Sequence[float]) -> NDArray[np.int64]:
    """Draw class indices, int64 (n,), by inverse CDF of `weights` from the class stream."""
    return _chosen(seed, first, n, CLASS_STREAM, weights)


def component(
    seed: int, first: int, n: int, weights: Sequence[float] | NDArray[Any], stream: int | None = None
) -> NDArray[np.int64]:
    """Draw components of a mixture, int64 (n,), by inverse CDF of `weights` from their own stream."""
    return _chosen(seed, first, n, COMPONENT_STREAM if stream is None else stream, weights)


def _chosen(seed: int, first: int, n: int, stream: int, weights: Sequence[float] | NDArray[Any]) -> NDArray[np.int64]:
    return pick(np.tile(np.asarray(weights), (n, 1)), uniform(seed, first, n, stream, ()))


def pick(weights: NDArray[Any], uniforms: NDArray[Any]) -> NDArray[np.int64]:
    """Invert the CDF along the last axis: return the number of cumulative sums that are at most u, int64 of the leading shape."""
    cumulative = np.cumsum(weights, axis=-1, dtype=np.float64)
    index = (cumulative <= np.asarray(uniforms, np.float64)[..., None]).sum(axis=-1)
    clamped: NDArray[np.int64] = np.minimum(index, weights.shape[-1] - 1).astype(np.int64)
    return clamped


def _shaped(values: NDArray[Any], n: int, shape: tuple[int, ...]) -> Float32:
    return np.ascontiguousarray(values, np.float32).reshape(n, *shape)


def _words(seed: int, first: int, n: int, stream: int, count: int) -> Words:
    """Return (n, count) words of Philox 4x64-10; row r belongs to item first + r."""
    blocks = -(-count // 4)
    serial = n < _VECTORISE_FROM or blocks == 0
    return (_serial(seed, first, n, stream, blocks) if serial else _vectorised(seed, first, n, stream, blocks))[
        :, :count
    ]


class _Generator(threading.local):
    """A Philox generator of numpy that can be set to a position in a stream. This is five times as fast as a new one. Each thread has its own."""

    def __init__(self) -> None:
        self.philox = np.random.Philox(0)
        self.key, self.counter = np.zeros(2, np.uint64), np.zeros(4, np.uint64)
        self.state: Any = {
            "bit_generator": "Philox", "state": {"counter": self.counter, "key": self.key},
            "buffer": np.zeros(4, np.uint64), "buffer_pos": 4, "has_uint32": 0, "uinteger": 0,
        }  # fmt: skip

    def words(self, seed: int, stream: int, item: int, count: int) -> Words:
        """Return the first `count` words of the stream of an item."""
        self.key[0], self.counter[1], self.counter[2] = seed, stream, item
        self.philox.state = self.state
        return self.philox.random_raw(count)


_generator = _Generator()


def _serial(seed: int, first: int, n: int, stream: int, blocks: int) -> Words:
    rows = np.empty((n, 4 * blocks), np.uint64)
    for row in range(n):
        # numpy increments its counter before it makes a block, so it starts one below ours, which starts at block 1
        rows[row] = _generator.words(seed, stream, first + row, 4 * blocks)
    return rows


def _vectorised(seed: int, first: int, n: int, stream: int, blocks: int) -> Words:
    shape = (n, blocks)
    words: list[Words] = [
        np.broadcast_to(np.arange(1, blocks + 1, dtype=np.uint64)[None, :], shape),
        np.full(shape, stream, np.uint64),
        np.broadcast_to(np.arange(first, first + n, dtype=np.uint64)[:, None], shape),
        np.zeros(shape, np.uint64),
    ]
    keys = [seed, 0]
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(words[0], _MULTIPLIERS[0])
        high1, low1 = _multiply(words[2], _MULTIPLIERS[1])
        words = [high1 ^ words[1] ^ np.uint64(keys[0]), low1, high0 ^ words[3] ^ np.uint64(keys[1]), low0]
        keys = [(key + weyl) % 2**64 for key, weyl in zip(keys, _WEYL, strict=True)]
    return np.stack(words, axis=-1).reshape(n, 4 * blocks)


def _multiply(words: Words, factor: int) -> tuple[Words, Words]:
    """Return the high and low half of the 128-bit products, computed from 32-bit halves."""
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    high, low = words >> half, words & mask
    factor_high, factor_low = np.uint64(factor >> 32), np.uint64(factor & 0xFFFFFFFF)
    low_low, high_low, low_high = low * factor_low, high * factor_low, low * factor_high
    middle = (low_low >> half) + (high_low & mask) + low_high
    return high * factor_high + (high_low >> half) + (middle >> half), words * np.uint64(factor)
