"""Compression of images into entropy-coded codes. `encode` gives the codes; the artifact's prior gives the probability of each code.

A file consists of a header and the words of one range coder (library constriction) for all images. The coder holds first the class that each
image is conditioned on, with equal probabilities, then the codes: position by position, and within a position image by image. Each code
depends on the codes before it, so decoding computes the probabilities of one position after another, for all images at once. Both sides round
logits to 1/64, so that different rounding errors on another machine rarely matter. If they matter, the checksum of the codes does not match
and decoding fails; wrong images are never returned.

    magic "MFC2" · checksum of the artifact (8 bytes) · images (uint16) · CRC-32 of classes and codes · words (uint32 each), little-endian
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
MOST = 1024  # limit for the images of a file; their probabilities are in memory at the same time
GRID = 64  # logits are rounded to 1/GRID
FLOOR = 1e-9  # smallest probability, so that a code to which the prior gives 0 can still be written


@dataclass(frozen=True)
class Compressed:
    """A compressed file, and the number of bits that encode the images."""

    content: bytes
    bits: int  # size of the range coder's words, without the header
    codes: Codes  # (n, h, w)


def compress(model: Model, data: Array) -> Compressed:
    """Compress items (n, *shape) into one file. A conditional prior is conditioned on the class that needs the fewest bits for an item.

    Raises UnsupportedTask for an artifact without codes or without a prior over them, InvalidValue for 0 or more than 1024 items.
    """
    check_can(model.manifest)
    if not 1 <= len(data) <= MOST:
        raise InvalidValue(f"images: {len(data)} images; put 1 to {MOST} into one file", field="images")
    codes = model.encode(data).codes
    assert codes is not None
    labels, tables = _best_classes(model, codes)
    encoder, family = _coder().RangeEncoder(), _family()
    encoder.encode(labels.astype(np.int32), family, _uniform(model, len(codes)))
    flat = np.ascontiguousarray(np.moveaxis(codes, 0, -1).astype(np.int32)).ravel()  # position by position
    encoder.encode(flat, family, np.ascontiguousarray(np.moveaxis(tables, 0, -2).reshape(len(flat), -1)))
    words: NDArray[np.uint32] = encoder.get_compressed()
    header = HEADER.pack(MAGIC, fingerprint(model), len(codes), _crc(labels, codes))
    return Compressed(header + words.astype("<u4").tobytes(), 32 * len(words), codes)


def decompress(model: Model, content: bytes) -> tuple[Array, Codes]:
    """Return the items (n, *shape) of a file, and their codes (n, h, w).

    Raises Malformed for a file that is damaged or of another format, InvalidValue for a file that another artifact made.
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
            "file: the decoded codes do not match the checksum in the file; use an intact copy of it, or decompress it on the machine that wrote it"
        )
    return model.sample(count, codes=codes).data, codes


def made_by(content: bytes) -> str:
    """Return the first 16 digits of the checksum of the artifact that made a file. Raises Malformed."""
    if len(content) < HEADER.size or content[:4] != MAGIC:
        raise Malformed(
            "file: does not start with MFC2, so it is not a file of compressed codes; give one that `manifold compress` wrote"
        )
    fingerprint: bytes = HEADER.unpack_from(content)[1]
    return fingerprint.hex()


def _open(content: bytes, model: Model) -> tuple[int, int, NDArray[np.uint32]]:
    made = made_by(content)
    if made != fingerprint(model).hex():
        raise InvalidValue(
            f"model: the file was made by the artifact {made}…, but {model.manifest.name} is {fingerprint(model).hex()}…; use the model that made it",
            field="model",
        )
    _, _, count, checksum = HEADER.unpack_from(content)
    body = content[HEADER.size :]
    if len(body) % 4 or not 1 <= count <= MOST:
        raise Malformed("file: the file of compressed codes is damaged or incomplete; compress the images again")
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


def fingerprint(model: Model) -> bytes:
    """Return the first 8 bytes of the checksum of an artifact, by which a file names the artifact that made it."""
    return bytes.fromhex(model.checksum)[:8]


def _classes(model: Model) -> int:
    """Return the number of different conditions of the prior: the number of classes, or 1."""
    return len(model.manifest.classes) if model.manifest.classes else 1


def _uniform(model: Model, n: int) -> Float64:
    """Return equal probabilities for all classes, (n, C). constriction needs at least two symbols, so a second one is added to a single class."""
    count = _classes(model)
    return np.full((n, count), 1 / count) if count > 1 else np.tile([1 - FLOOR, FLOOR], (n, 1))


def _best_classes(model: Model, codes: Codes) -> tuple[Codes, Float64]:
    """Return for each item the class that needs the fewest bits for its codes (n,), and the probabilities under it (n, *grid, K)."""
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
    """Compute p(code | the codes before it), (n, *grid, K), in one parallel pass over codes (n, *grid)."""
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
