"""Images as files of entropy-coded codes: `encode` gives the codes, the artifact's own prior says how probable each one is.

A file is a header and the words of one range coder (the library constriction) for all its images: first the class that each is told, every
class as probable, then the codes, place by place and image by image within a place. Decoding asks the prior for one place after the other,
as each depends on those before it, for all images at once. Both sides see the probabilities through logits rounded to 1/64, so that other
rounding on another machine hardly ever matters; where it does, the checksum of the codes says so, and nothing wrong is given out as right.

    magic "MFC2" · artifact's checksum (8 bytes) · images (uint16) · CRC-32 of classes and codes · words (uint32 each), little-endian
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.engine import Model
from manifold.runtime.errors import InvalidValue, Malformed, UnsupportedTask
from manifold.runtime.manifest import Manifest
from manifold.runtime.operations import softmax
from manifold.runtime.operations.capabilities import abilities

Array = NDArray[Any]
Codes = NDArray[np.int64]
Float64 = NDArray[np.float64]

MAGIC = b"MFC2"
HEADER = struct.Struct("<4s8sHI")
MOST = 1024  # images a file: their probabilities are in memory at once
GRID = 64  # logits are rounded to 1/GRID
FLOOR = 1e-9  # least probability: a code that the prior rules out still has a way to be written


@dataclass(frozen=True)
class Compressed:
    """A file, and the bits of it that are the images' own."""

    content: bytes
    bits: int  # of the range coder's words
    codes: Codes  # (n, h, w)


def compress(model: Model, data: Array) -> Compressed:
    """Items (n, *shape) at the graph's edge as one file. A conditional prior is told the class under which an item takes fewest bits.

    Raises UnsupportedTask for an artifact without codes or without a prior over them, InvalidValue for no items or more than 1024.
    """
    check_can(model.manifest)
    if not 1 <= len(data) <= MOST:
        raise InvalidValue(f"images: 1 to {MOST} go into one file, not {len(data)}; make several files", field="images")
    codes = model.encode(data).codes
    assert codes is not None
    labels, tables = _best_classes(model, codes)
    encoder, family = _coder().RangeEncoder(), _family()
    encoder.encode(labels.astype(np.int32), family, _uniform(model, len(codes)))
    flat = np.ascontiguousarray(np.moveaxis(codes, 0, -1).astype(np.int32)).ravel()  # place by place
    encoder.encode(flat, family, np.ascontiguousarray(np.moveaxis(tables, 0, -2).reshape(len(flat), -1)))
    words: NDArray[np.uint32] = encoder.get_compressed()
    header = HEADER.pack(MAGIC, _fingerprint(model), len(codes), _crc(labels, codes))
    return Compressed(header + words.astype("<u4").tobytes(), 32 * len(words), codes)


def decompress(model: Model, content: bytes) -> tuple[Array, Codes]:
    """The items (n, *shape) at the graph's edge, and their codes (n, h, w).

    Raises Malformed for what is no such file or is damaged, InvalidValue for a file that another artifact made.
    """
    check_can(model.manifest)
    count, checksum, words = _open(content, model)
    assert model.manifest.codes is not None
    shape = model.manifest.codes.shape
    codes = np.zeros((count, *shape), np.int64)
    decoder, family = _coder().RangeDecoder(words), _family()
    labels = decoder.decode(family, _uniform(model, count))
    for place in np.ndindex(*shape):
        tables = np.ascontiguousarray(_probabilities(model, codes, labels)[:, *place])
        codes[:, *place] = decoder.decode(family, tables)
    if _crc(labels, codes) != checksum:
        raise Malformed(
            "the codes do not have the checksum that the file carries: it is damaged, or was written on a machine whose arithmetic differs"
        )
    return model.sample(count, codes=codes).data, codes


def made_by(content: bytes) -> str:
    """The first 16 digits of the checksum of the artifact that made the file. Raises Malformed."""
    if len(content) < HEADER.size or content[:4] != MAGIC:
        raise Malformed("not a file of compressed codes: it does not begin with MFC2")
    fingerprint: bytes = HEADER.unpack_from(content)[1]
    return fingerprint.hex()


def _open(content: bytes, model: Model) -> tuple[int, int, NDArray[np.uint32]]:
    made = made_by(content)
    if made != _fingerprint(model).hex():
        raise InvalidValue(
            f"made by another artifact: the file says {made}, {model.manifest.name} is {_fingerprint(model).hex()}",
            field="model",
        )
    _, _, count, checksum = HEADER.unpack_from(content)
    body = content[HEADER.size :]
    if len(body) % 4 or not 1 <= count <= MOST:
        raise Malformed("the file of compressed codes is damaged or cut short")
    return count, checksum, np.frombuffer(body, "<u4").astype(np.uint32)


def check_can(manifest: Manifest) -> None:
    """Raise UnsupportedTask for a model without codes or without a prior over them, and for one whose graphs draw random numbers."""
    tasks = manifest.tasks
    if not {"encode", "score_codes", "decode_codes"} <= set(tasks) or "codes" not in tasks["encode"].roles:
        raise UnsupportedTask(
            f"{manifest.name} cannot compress: compression needs codes and a prior over them, as a VQ-VAE has; {abilities(manifest)}",
            field="model",
        )
    if drawing := sorted(manifest.drawing):
        raise UnsupportedTask(
            f"{manifest.name} cannot compress: {', '.join(drawing)} draws random numbers inside the graph, so the codes could not be decoded",
            field="model",
        )


def _fingerprint(model: Model) -> bytes:
    return bytes.fromhex(model.checksum)[:8]


def _classes(model: Model) -> int:
    """Return the number of conditions of the prior: one for each class, or one."""
    return len(model.manifest.classes) if model.manifest.classes else 1


def _uniform(model: Model, n: int) -> Float64:
    """Every class as probable, (n, C); constriction wants two symbols at least, so nothing to tell is one of two."""
    count = _classes(model)
    return np.full((n, count), 1 / count) if count > 1 else np.tile([1 - FLOOR, FLOOR], (n, 1))


def _best_classes(model: Model, codes: Codes) -> tuple[Codes, Float64]:
    """Return for each item the class under which its codes take fewest bits (n,), and the probabilities under it (n, *grid, K)."""
    n = len(codes)
    least, best, tables = np.full(n, np.inf), np.zeros(n, np.int64), np.empty(0)
    for label in range(_classes(model)):
        probabilities = _probabilities(model, codes, np.full(n, label))
        bits = -np.log2(np.take_along_axis(probabilities, codes[..., None], -1)).reshape(n, -1).sum(axis=1)
        better = bits < least
        tables = np.where(better.reshape(n, 1, 1, 1), probabilities, tables) if label else probabilities
        least, best = np.where(better, bits, least), np.where(better, label, best)
    return best, tables


def _probabilities(model: Model, codes: Codes, labels: Codes) -> Float64:
    """p(code | those before it), (n, *grid, K), from one parallel pass over codes (n, *grid)."""
    spec = model.manifest.tasks["score_codes"]
    inputs: dict[str, Array] = {tensor.role: codes for tensor in spec.inputs if tensor.source == "codes"}
    condition = spec.input("condition")
    if condition is not None:
        width = condition.shape[0]
        weights = np.eye(width)[labels] if model.manifest.classes else np.zeros((len(codes), width))
        inputs[condition.role] = weights.astype(np.float32)
    logits = np.moveaxis(model.run("score_codes", inputs)["logits"], 1, -1).astype(np.float64)
    return softmax(np.rint(logits * GRID) / GRID) + FLOOR


def _crc(labels: Codes, codes: Codes) -> int:
    return zlib.crc32(codes.astype("<i8").tobytes(), zlib.crc32(labels.astype("<i8").tobytes()))


def _coder() -> Any:
    import constriction

    return constriction.stream.queue


def _family() -> Any:
    import constriction

    return constriction.stream.model.Categorical(perfect=False)
