"""Compression of images with a model.

lossy      the codes of a VQ-VAE, entropy-coded with its prior
lossless   the pixels themselves, coded with the probabilities that a model gives them
schemes    which probabilities a kind of model gives, in which order
stack      integer probabilities and the entropy coder
probes     a fingerprint of the arithmetic of a machine
"""

from manifold.runtime.compression import lossless, lossy
from manifold.runtime.compression.lossy import HEADER, Compressed, check_can, compress, decompress
from manifold.runtime.errors import Malformed

__all__ = ["HEADER", "Compressed", "check_can", "compress", "decompress", "is_lossless", "lossless", "lossy", "made_by"]


def is_lossless(content: bytes) -> bool:
    """Return whether a file starts like one of `lossless.compress`."""
    return content.startswith(lossless.MAGIC)


def made_by(content: bytes) -> str:
    """Return the first 16 digits of the checksum of the artifact that made a file. Raises Malformed for a file of neither format."""
    if is_lossless(content):
        return lossless.made_by(content)
    if content.startswith(lossy.MAGIC):
        return lossy.made_by(content)
    raise Malformed(
        f"file: starts with neither {lossy.MAGIC.decode()} nor {lossless.MAGIC.decode()}; give a file that `manifold compress` wrote"
    )
