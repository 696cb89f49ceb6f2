"""Whether a file of rows contains the rows that a model was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import IO, Any

PIECE = 2**20  # bytes that are read at a time


def begins_with_fitted(source: IO[bytes], fitted: Mapping[str, Any]) -> bool:
    """Return whether a file begins with the bytes of the file that a model was fitted to: it is this file, or rows were appended to it.

    `fitted` is the protocol of the data in the model's provenance. The file position is reset to the start. Rows that were copied into another
    file are not recognised, and neither are those of models from before the number of bytes was recorded.
    """
    size, sha256 = fitted.get("bytes"), fitted.get("sha256")
    source.seek(0)
    if type(size) is not int or not isinstance(sha256, str):
        return False
    found, left = hashlib.sha256(), size
    while left and (piece := source.read(min(left, PIECE))):
        found.update(piece)
        left -= len(piece)
    source.seek(0)
    return not left and found.hexdigest() == sha256
