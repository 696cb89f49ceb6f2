"""Request bodies for the shipped models."""

from __future__ import annotations

import base64
import io
import zlib
from typing import Any

import numpy as np
from PIL import Image

from tests.conftest import (
    ROWS,
)


def png(array: np.ndarray | None = None, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    pixels = np.zeros((28, 28), np.uint8) if array is None else array
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def items(name: str) -> dict[str, Any]:
    """Return valid items of a request for a model."""
    return {"rows": [ROWS[name]] * 2} if name in ROWS else {"images": [text(png())] * 2}


def bomb() -> str:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    header = (50_000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    return text(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    )
