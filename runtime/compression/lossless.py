"""Lossless compression of images: the pixels, coded with the probabilities that a model gives them.

Images are coded one group after another on one stack of bits (see stack and schemes). Under a conditional model, each image has the class
that needs the fewest bits, and the class is coded too. So an image of an exact model takes -log2 p(x) bits, and -log2 p(y | x) more for the
class. An image of a VAE takes -ELBO / log 2 on average.

The first latents are popped before earlier images have left bits. These bits come from words that writer and reader both know, and the file
contains only those that were used. The groups of a VAE grow from one image, so that few are used.

A file is a header, little-endian, and the words of the stack (uint32 each):

    magic "MFLL" · version (uint8) · CRC-32 of all that follows · checksum of the artifact (8 bytes) · images (uint16) · channels (uint8) ·
    height (uint16) · width (uint16) · levels (uint16) · CRC-32 of the levels of all pixels · known words that are left out (uint32) ·
    number of fingerprints (uint8) · fingerprints of the arithmetic (uint16 each, see probes)

The first checksum finds damage before anything is decoded. The second one and the known words, which must come back, find out whether this
machine computes like the one that wrote the file. Otherwise decoding fails and names the outputs that differ; wrong images are never returned.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.compression import probes, schemes
from manifold.runtime.compression.lossy import MOST, fingerprint
from manifold.runtime.compression.schemes import Scheme
from manifold.runtime.compression.stack import Distances, Levels, Stack, Words, distances, seeds
from manifold.runtime.engine import Model
from manifold.runtime.errors import InvalidValue, Malformed
from manifold.runtime.imaging import Pixels
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import Manifest
from manifold.runtime.operations import role_of
from manifold.runtime.operations.score import log_joint

MAGIC = b"MFLL"
VERSION = 1
PREFIX = struct.Struct("<4sBI")  # magic, version, CRC-32 of the rest
HEADER = struct.Struct("<8sHBHHHIIB")
WHITE = 255


@dataclass(frozen=True)
class Written:
    """A compressed file, and the bits that encode its images."""

    content: bytes
    header: int  # bytes
    bits: int  # bits of the words after the header
    # bits that the images added: without the known words that the first images popped and, for a model without latents, without the start of
    # the coder, which takes up to 24 bits for its first symbol
    net_bits: int

    @property
    def borrowed_bits(self) -> int:
        """The bits that the first images popped before others had pushed any, the start of the coder, and the rounding to whole words."""
        return self.bits - self.net_bits


def compress(model: Model, pixels: Pixels) -> Written:
    """Compress images uint8 (n, C, H, W), n from 1 to 1024, into one file.

    Raises UnsupportedTask for a model that cannot compress without loss, and InvalidValue for pixels between the levels of the model.
    """
    scheme = schemes.of(model)
    _check_shape(pixels, scheme.spec)
    levels = to_levels(pixels, scheme.levels)
    if off := int((to_pixels(levels, scheme.levels) != pixels).sum()):
        raise InvalidValue(
            f"images: {off} of {pixels.size} values are not among the {scheme.levels} levels of {model.manifest.name} "
            f"({_listed(scheme.levels)}); round them first (--round), which loses the differences, or use a model with 256 levels",
            field="images",
        )
    known = _known(scheme, len(levels))
    stack = Stack(known)
    before = stack.bits
    start = 0
    for place, size in enumerate(group_sizes(scheme, len(levels))):
        if len(known):
            stack.mix(len(known), place + 1)
        _push(scheme, stack, levels[start : start + size])
        start += size
    words = stack.words
    shared = min(len(known), len(words))
    same = np.flatnonzero(np.append(known[:shared] != words[:shared], True))[0]
    body = words[same:].astype("<u4").tobytes()
    header = _header(scheme, levels, int(same))
    content = PREFIX.pack(MAGIC, VERSION, zlib.crc32(header + body)) + header + body
    net = stack.bits - before if len(known) else round(stack.pushed)
    return Written(content, len(content) - len(body), 8 * len(body), net)


def decompress(model: Model, content: bytes) -> Pixels:
    """Return the images uint8 (n, C, H, W) of a file, exactly those that were compressed.

    Raises Malformed for a file that is damaged, of another version, or that this machine cannot decode because its arithmetic differs, and
    InvalidValue for a file that another artifact made.
    """
    scheme = schemes.of(model)
    opened = _open(content, model, scheme)
    known = _known(scheme, opened.count)
    if opened.left_out > len(known):
        raise Malformed("file: it leaves out more known words than there are; compress the images again")
    try:
        stack = Stack(np.concatenate([known[: opened.left_out], opened.words]))
    except ValueError:
        raise Malformed("file: its last word is 0, which no writer leaves; compress the images again") from None
    try:
        levels = _pop_all(scheme, stack, opened.count, len(known))
    except InvalidValue:  # wrong values far from all images, for which an output is not finite
        raise Malformed(_why_not(scheme, opened)) from None
    if _crc(levels) != opened.crc or not np.array_equal(stack.words, known):
        raise Malformed(_why_not(scheme, opened))
    return to_pixels(levels, scheme.levels)


def check_can(manifest: Manifest) -> None:
    """Raise UnsupportedTask, with the reason, for a model that cannot compress without loss."""
    schemes.kind_of(manifest)


def made_by(content: bytes) -> str:
    """Return the first 16 digits of the checksum of the artifact that made a file. Raises Malformed for a damaged file or another format."""
    return _checked(content)[:8].hex()


# --- levels -------------------------------------------------------------------------------------------------------------------


def levels_of(model: Model) -> int:
    """Return the number of levels of a pixel's value. Raises UnsupportedTask for a model that cannot compress without loss."""
    return schemes.of(model).levels


def to_levels(pixels: Pixels, levels: int) -> Levels:
    """Return the nearest level of each value, 0 to levels - 1."""
    return np.rint(pixels.astype(np.float64) * (levels - 1) / WHITE).astype(np.int64)


def to_pixels(levels: Levels, count: int) -> Pixels:
    """Return the pixels of levels 0 to count - 1, 0 to 255."""
    return np.rint(levels * WHITE / (count - 1)).astype(np.uint8)


def rounded(pixels: Pixels, levels: int) -> Pixels:
    """Return the pixels, rounded to the nearest of these levels."""
    return to_pixels(to_levels(pixels, levels), levels)


def _listed(levels: int) -> str:
    every = to_pixels(np.arange(levels), levels).tolist()
    return ", ".join(map(str, every if levels <= 4 else [*every[:3], "…", every[-1]]))


# --- groups -------------------------------------------------------------------------------------------------------------------


def group_sizes(scheme: Scheme, count: int) -> Iterator[int]:
    """Yield the numbers of images that are coded together.

    If images pop latents, a group is half as large as all groups before it, at least 1: its latents take up to twice as many bits as an image
    adds, and find them in the earlier images.
    """
    done = 0
    while done < count:
        size = min(scheme.together, count - done, max(1, done // 2) if scheme.popped else count)
        yield size
        done += size


def _push(scheme: Scheme, stack: Stack, levels: Levels) -> None:
    labels = _best_classes(scheme, levels) if scheme.codes_classes else np.zeros(len(levels), np.int64)
    scheme.push(stack, levels, labels)
    if scheme.codes_classes:
        stack.push(labels, _class_prior(scheme, len(levels)))


def _pop(scheme: Scheme, stack: Stack, count: int) -> Levels:
    labels = stack.pop(_class_prior(scheme, count)) if scheme.codes_classes else np.zeros(count, np.int64)
    return scheme.pop(stack, labels)


def _pop_all(scheme: Scheme, stack: Stack, count: int, known: int) -> Levels:
    """Pop all groups, the last one first, and return the levels of all images. `known` is the number of known words."""
    sizes, groups = list(group_sizes(scheme, count)), []
    for place in reversed(range(len(sizes))):
        groups.append(_pop(scheme, stack, sizes[place]))
        if known:
            stack.mix(known, place + 1)
    return np.concatenate(groups[::-1])


def _best_classes(scheme: Scheme, levels: Levels) -> Levels:
    """Return the class under which each image needs the fewest bits, (n,).

    Bits back over the class would save -log2 p(y | x), 0.04 bits an image of mnist-pixelcnn, but a reader would have to score every image under
    every class. That takes longer than all else.
    """
    model, task, term = scheme.model, scheme.manifest.tasks["score"], _evidence(scheme.manifest)
    data = {role_of(task, "data"): scheme.data(levels)}
    nats = [
        model.run("score", {**data, **scheme.condition(task, np.full(len(levels), label))})[term]
        for label in range(len(scheme.manifest.classes or ()))
    ]
    best: Levels = log_joint(scheme.manifest, np.stack(nats, 1).astype(np.float64)).argmax(axis=1)
    return best


def _class_prior(scheme: Scheme, count: int) -> Distances:
    weights = np.zeros((count, len(scheme.manifest.class_weights)))
    return distances(log_joint(scheme.manifest, weights))


def _evidence(manifest: Manifest) -> str:
    """Return the term of the score that is -log p(x | y) or a bound of it."""
    if manifest.classification is not None and manifest.classification.term is not None:
        return manifest.classification.term
    assert manifest.scoring is not None
    assert manifest.scoring.evidence is not None  # a manifest with a score by class is checked for it
    return manifest.scoring.evidence


def _known(scheme: Scheme, count: int) -> Words:
    """Return the words that the reader knows: enough for all latents."""
    return seeds(-(-count * scheme.popped // 32) + 2) if scheme.popped else seeds(0)


# --- the file -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Opened:
    """The header of a file and its words."""

    count: int
    crc: int
    left_out: int
    prints: tuple[int, ...]
    words: Words


def _header(scheme: Scheme, levels: Levels, left_out: int) -> bytes:
    made = tuple(probes.prints(scheme.model, scheme.tasks).values())
    packed = HEADER.pack(
        fingerprint(scheme.model), len(levels), *scheme.spec.shape, scheme.levels, _crc(levels), left_out, len(made)
    )
    return packed + struct.pack(f"<{len(made)}H", *made)


def _checked(content: bytes) -> bytes:
    """Return what follows the checksum. Raises Malformed for a damaged file or another format."""
    if not content.startswith(MAGIC):
        raise Malformed(
            f"file: does not start with {MAGIC.decode()}; give a file that `manifold compress --lossless` wrote"
        )
    damaged = (
        "file: it is damaged or incomplete, as its checksum does not match; copy it again, or compress the images again"
    )
    if len(content) < PREFIX.size + HEADER.size:
        raise Malformed(damaged)
    _, version, crc = PREFIX.unpack_from(content)
    if version != VERSION:
        raise Malformed(
            f"file: version {version} of the format is unknown, this program reads {VERSION}; update Manifold"
        )
    rest = content[PREFIX.size :]
    if zlib.crc32(rest) != crc:
        raise Malformed(damaged)
    return rest


def _open(content: bytes, model: Model, scheme: Scheme) -> _Opened:
    rest, own = _checked(content), fingerprint(model)
    made, count, *shape, levels, crc, left_out, printed = HEADER.unpack_from(rest)
    if made != own:
        raise InvalidValue(
            f"model: the file was made by the artifact {made.hex()}…, but {model.manifest.name} is {own.hex()}…; use the model that made it",
            field="model",
        )
    start = HEADER.size + 2 * printed
    if (
        not 1 <= count <= MOST
        or (tuple(shape), levels) != (scheme.spec.shape, scheme.levels)
        or (len(rest) - start) % 4
    ):
        raise Malformed(
            f"file: its header states {count} images of shape {shape} with {levels} levels, which {model.manifest.name} does not write; "
            "compress the images again"
        )
    if start > len(rest):
        raise Malformed("file: its fingerprints are incomplete; compress the images again")
    prints = struct.unpack_from(f"<{printed}H", rest, HEADER.size)
    return _Opened(count, crc, left_out, prints, np.frombuffer(rest[start:], "<u4").astype(np.uint32))


def _why_not(scheme: Scheme, opened: _Opened) -> str:
    """Return why a file did not decode: its checksum is right, so the probabilities differ."""
    here = probes.prints(scheme.model, scheme.tasks)
    differing = [name for name, there in zip(here, opened.prints, strict=False) if here[name] != there]
    if not differing:
        return (
            "file: the decoded pixels do not match their checksum, although this machine computes like the one that wrote the file for the inputs "
            "that were compared; decompress it there, with the same versions of Manifold, ONNX Runtime and constriction"
        )
    return (
        f"file: it cannot be decoded here, as the arithmetic of this machine differs from the one that wrote it in {', '.join(differing)}; "
        "decompress it on that machine, or with the same version of ONNX Runtime on a processor of the same type"
    )


def _crc(levels: NDArray[Any]) -> int:
    return zlib.crc32(levels.astype(np.uint8).tobytes())


def _check_shape(pixels: Pixels, spec: ImageSpec) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != spec.shape:
        raise InvalidValue(
            f"images: {pixels.dtype}{list(pixels.shape)}; give uint8[n, {', '.join(map(str, spec.shape))}] for n images",
            field="images",
        )
    if not 1 <= len(pixels) <= MOST:
        raise InvalidValue(f"images: {len(pixels)} images; put 1 to {MOST} into one file", field="images")
