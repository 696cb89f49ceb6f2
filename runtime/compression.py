"""Images as files of entropy-coded codes: `encode` gives the codes, the artifact's own prior says how probable each one is.

A file is a header and the words of a range coder (the library constriction). Decoding asks the prior for one code after the other, as each
depends on those before it. Both sides see the probabilities through logits rounded to 1/64, so that other rounding on another machine
hardly ever matters; where it does, the checksum of the codes says so, and nothing wrong is given out as right.

    magic "MFC1" · artifact's checksum (8 bytes) · class (uint16, 65535: none) · CRC-32 of the codes · words (uint32 each), little-endian
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engine import Model
from runtime.errors import InvalidValue, Malformed, UnsupportedTask
from runtime.operations import softmax

Array = NDArray[Any]

MAGIC = b"MFC1"
HEADER = struct.Struct("<4s8sHI")
NO_CLASS = 0xFFFF
GRID = 64  # logits are rounded to 1/GRID
FLOOR = 1e-9  # least probability: a code that the prior rules out still has a way to be written


@dataclass(frozen=True)
class Compressed:
    """A file, and the bits of it that are the image's own."""

    content: bytes
    bits: int  # of the range coder's words
    codes: NDArray[np.int64]  # (h, w)


def compress(model: Model, data: Array) -> Compressed:
    """One item (*shape) at the graph's edge. A conditional prior is told the class under which the file is smallest.

    Raises UnsupportedTask for an artifact without codes or without a prior over them.
    """
    _check(model)
    codes = model.encode(data[None]).codes
    assert codes is not None
    best: tuple[NDArray[np.uint32], int] | None = None
    for label in _classes(model):
        words = _write(codes[0], _probabilities(model, codes, label))
        if best is None or len(words) < len(best[0]):
            best = words, label
    assert best is not None
    words, label = best
    header = HEADER.pack(MAGIC, _fingerprint(model), label, zlib.crc32(codes[0].astype("<i8").tobytes()))
    return Compressed(header + words.astype("<u4").tobytes(), 32 * len(words), codes[0])


def decompress(model: Model, content: bytes) -> tuple[Array, NDArray[np.int64]]:
    """The item (*shape) at the graph's edge, and its codes (h, w).

    Raises Malformed for what is no such file or is damaged, InvalidValue for a file that another artifact made.
    """
    _check(model)
    label, checksum, words = _open(content, model)
    assert model.manifest.codes is not None
    shape = model.manifest.codes.shape
    codes = np.zeros((1, *shape), np.int64)
    decoder, family = _decoder(words)
    for place in np.ndindex(*shape):
        table = np.ascontiguousarray(_probabilities(model, codes, label)[place][None])
        codes[(0, *place)] = int(decoder.decode(family, table)[0])
    if zlib.crc32(codes[0].astype("<i8").tobytes()) != checksum:
        raise Malformed(
            "the codes do not have the checksum that the file carries: it is damaged, or was written on a machine whose arithmetic differs"
        )
    return model.sample(1, codes=codes).data[0], codes[0]


def made_by(content: bytes) -> str:
    """The first 16 digits of the checksum of the artifact that made the file. Raises Malformed."""
    if len(content) < HEADER.size or content[:4] != MAGIC:
        raise Malformed("not a file of compressed codes: it does not begin with MFC1")
    fingerprint: bytes = HEADER.unpack_from(content)[1]
    return fingerprint.hex()


def _open(content: bytes, model: Model) -> tuple[int, int, NDArray[np.uint32]]:
    made = made_by(content)
    if made != _fingerprint(model).hex():
        raise InvalidValue(
            f"made by another artifact: the file says {made}, {model.manifest.name} is {_fingerprint(model).hex()}",
            field="model",
        )
    _, _, label, checksum = HEADER.unpack_from(content)
    body = content[HEADER.size :]
    if len(body) % 4 or label not in _classes(model):
        raise Malformed("the file of compressed codes is damaged or cut short")
    return label, checksum, np.frombuffer(body, "<u4").astype(np.uint32)


def _check(model: Model) -> None:
    tasks = model.manifest.tasks
    if not {"encode", "score_codes", "decode_codes"} <= set(tasks) or "codes" not in tasks["encode"].roles:
        raise UnsupportedTask(
            f"{model.manifest.name} cannot compress: that needs codes and a prior over them; it can {', '.join(tasks)}",
            field="model",
        )


def _fingerprint(model: Model) -> bytes:
    return bytes.fromhex(model.checksum)[:8]


def _classes(model: Model) -> list[int]:
    """What the prior may be told: each class, or nothing."""
    return list(range(len(model.manifest.classes))) if model.manifest.classes else [NO_CLASS]


def _probabilities(model: Model, codes: Array, label: int) -> NDArray[np.float64]:
    """p(code | those before it), (*grid, K), from one parallel pass over codes (1, *grid)."""
    spec = model.manifest.tasks["score_codes"]
    inputs = {tensor.role: codes for tensor in spec.inputs if tensor.source == "codes"}
    condition = spec.input("condition")
    if condition is not None:
        width = condition.shape[0]
        told = np.zeros((1, width)) if label == NO_CLASS else np.eye(width)[[label]]
        inputs[condition.role] = told.astype(np.float32)
    logits = np.moveaxis(model.run("score_codes", inputs)["logits"][0], 0, -1).astype(np.float64)
    return softmax(np.rint(logits * GRID) / GRID) + FLOOR


def _write(codes: Array, probabilities: NDArray[np.float64]) -> NDArray[np.uint32]:
    import constriction

    encoder = constriction.stream.queue.RangeEncoder()
    family = constriction.stream.model.Categorical(perfect=False)
    encoder.encode(codes.ravel().astype(np.int32), family, np.ascontiguousarray(probabilities.reshape(codes.size, -1)))
    words: NDArray[np.uint32] = encoder.get_compressed()
    return words


def _decoder(words: NDArray[np.uint32]) -> tuple[Any, Any]:
    import constriction

    return constriction.stream.queue.RangeDecoder(words), constriction.stream.model.Categorical(perfect=False)
