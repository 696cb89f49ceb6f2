"""Image files whose pixels are compressed without loss: they are read exactly, or refused with the reason."""

from __future__ import annotations

from manifold.runtime import imaging
from manifold.runtime.errors import InvalidValue
from manifold.runtime.imaging import Pixels
from manifold.runtime.kinds.image import ImageSpec


def read_exactly(content: bytes, spec: ImageSpec, field: str) -> Pixels:
    """Return the pixels of an image file, uint8 (C, H, W), each with the value that it has in the file.

    The representation of the file may differ: a file with 1, 2 or 4 bits, with a palette, or in colour with equal channels for a model of grey
    images contains the same pixels. Pixels are never inverted. Raises the errors of `imaging.decode`, and InvalidValue for an image that would
    have to be changed.
    """
    decoded = imaging.decode(content, field=field)
    pixels, changes = decoded.pixels, list(decoded.steps)
    if decoded.alpha is not None:
        changes.append("laid over the background")
    if spec.channels == 1 and (pixels != pixels[:, :, :1]).any():
        changes.append("RGB to grey")
    if decoded.upright != (spec.width, spec.height):
        changes.append(f"scaled and centred to {spec.width}x{spec.height}")
    if changes:
        width, height = decoded.size
        want = f"{spec.width}x{spec.height} {'grey' if spec.channels == 1 else 'RGB'}"
        raise InvalidValue(
            f"{field}: {width}x{height} {decoded.mode} does not fit the {want} of the model (it would be {'; '.join(changes)}); give images "
            "that need no change, or use --round, which loses the differences",
            field=field,
        )
    fitted = pixels[:, :, :1] if spec.channels == 1 else pixels.repeat(spec.channels // pixels.shape[2], axis=2)
    return fitted.transpose(2, 0, 1)
