"""Image files of every kind that the reader supports: PNGs that Pillow cannot write are made by hand, all others by Pillow."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6  # colour types of PNG
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}


def saved(image: Image.Image | NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    """Return a file that Pillow writes."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(image: Image.Image | NDArray[Any], orientation: int, kind: str = "PNG", **options: Any) -> bytes:
    """Return a file with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image, kind, exif=exif, **options)


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(values: NDArray[Any], bits: int, colour: int, *, palette: bytes = b"", transparent: bytes = b"") -> bytes:
    """Return a PNG of values (h, w[, channels]) in the file's own units, 0 to 2 ** bits - 1."""
    values = values.reshape(*values.shape[:2], -1).astype(np.uint16)
    height, width, channels = values.shape
    assert channels == CHANNELS[colour]
    flat = values.reshape(height, -1)
    if bits == 16:
        lines = [row.astype(">u2").tobytes() for row in flat]
    else:
        every = (flat[:, :, None] >> np.arange(bits)[::-1]) & 1
        lines = [np.packbits(row.ravel().astype(np.uint8)).tobytes() for row in every]
    return b"".join([
        b"\x89PNG\r\n\x1a\n",
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)),
        chunk(b"PLTE", palette) if palette else b"",
        chunk(b"tRNS", transparent) if transparent else b"",
        chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines))),
        chunk(b"IEND", b""),
    ])  # fmt: skip


def several(images: list[Image.Image], kind: str, **options: Any) -> bytes:
    """Return an animation (PNG, WEBP) or a JPEG with several pictures (MPO)."""
    return saved(images[0], kind, save_all=True, append_images=images[1:], **options)
