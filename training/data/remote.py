"""The files of data sets, which are verified by checksum.

They are read from the folder in the environment variable MANIFOLD_DATA, which has one sub-folder for each data set. By default pooch
downloads them from their official source into the user's cache.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import pooch

from manifold.training.errors import DataError

ROOT_VARIABLE = "MANIFOLD_DATA"


@dataclass(frozen=True)
class Remote:
    """A file of a data set."""

    path: str  # relative to MANIFOLD_DATA
    url: str  # address of the folder that contains the file; empty if there is no public one
    hash: str  # `algorithm:hex`; md5 only if no SHA-256 was published


def fetch(remote: Remote) -> Path:
    """Return the verified local path of a file. Raises DataError if it is missing, altered or cannot be downloaded."""
    if root := os.environ.get(ROOT_VARIABLE):
        return _local(remote, root)
    if not remote.url:
        raise DataError(
            f"{remote.path} has no public address: set {ROOT_VARIABLE} to a folder that holds it, with {_stated(remote)}"
        )
    try:
        return _downloaded(remote)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{remote.path} could not be downloaded from {remote.url}, expected {_stated(remote)}: {error}. "
            f"Without internet access, set {ROOT_VARIABLE} to a folder that holds it."
        ) from error


def digest(path: Path, algorithm: str) -> str:
    """Return the checksum of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _local(remote: Remote, root: str) -> Path:
    path = Path(root) / remote.path
    if not path.exists():
        raise DataError(
            f"{path} is missing: {ROOT_VARIABLE} points to {root}, which must hold {remote.path} with {_stated(remote)}"
        )
    algorithm, expected = remote.hash.split(":")
    if (actual := digest(path, algorithm)) != expected:
        raise DataError(f"{path} is truncated or altered: its {algorithm} is {actual}, expected {expected}")
    return path


def _downloaded(remote: Remote) -> Path:
    file = Path(remote.path)
    return Path(
        pooch.retrieve(remote.url + file.name, remote.hash, file.name, pooch.os_cache("manifold") / file.parent)
    )


def _stated(remote: Remote) -> str:
    """Return the expected checksum for error texts, such as "sha256 3a7b…"."""
    return remote.hash.replace(":", " ")
