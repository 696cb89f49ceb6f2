"""The files of data sets, which are verified by checksum.

They are read from the folder in the environment variable MANIFOLD_DATA, which has one sub-folder for each data set. By default pooch
downloads them from their official source into the user's cache.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pooch

from manifold.runtime.errors import cut, reason
from manifold.training.errors import DataError

ROOT_VARIABLE = "MANIFOLD_DATA"
CONNECT_SECONDS = 5.0  # an address is given up after it; a name may have several
READ_SECONDS = 20.0  # a server that sends nothing for this time is given up


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
    file = Path(remote.path)
    if not remote.url:
        raise DataError(
            f"{file.parts[0]}: has no public address; set {ROOT_VARIABLE} to a folder that holds {remote.path} with {_stated(remote)}"
        )
    return download(
        file.parts[0], remote.url + file.name, remote.hash, file.parent, f"set {ROOT_VARIABLE} to a folder that holds {remote.path}"
    )  # fmt: skip


class _Announced:
    """A progress bar for pooch that writes one line on stderr when the first bytes arrive. A download that does not begin writes nothing."""

    def __init__(self, url: str) -> None:
        self.url, self.total, self.began = url, 0, False

    def update(self, size: int) -> None:
        """Count bytes that arrived."""
        if not self.began:
            self.began = True
            sys.stderr.write(f"downloading {self.url} ({self.total / 1e6:.1f} MB)\n")

    def reset(self) -> None:
        """Do nothing: no bar is drawn."""

    def close(self) -> None:
        """Do nothing: no bar is drawn."""


def download(what: str, url: str, known_hash: str | None, folder: Path, otherwise: str) -> Path:
    """Return the file at a URL, from the user's cache or downloaded into it, below `folder`.

    Raises DataError with one line if the download fails: `what` is the subject, `otherwise` what to do without internet access. The download fails
    if the server does not answer within CONNECT_SECONDS, or sends nothing for READ_SECONDS.
    """
    host = urlsplit(url).netloc
    pooch.get_logger().setLevel(logging.WARNING)  # its lines name paths of the cache and repeat the error
    downloader = pooch.HTTPDownloader(progressbar=_Announced(url), timeout=(CONNECT_SECONDS, READ_SECONDS))
    try:
        name = Path(urlsplit(url).path).name
        return Path(pooch.retrieve(url, known_hash, name, pooch.os_cache("manifold") / folder, downloader=downloader))
    except ValueError as error:  # pooch raises it for another checksum
        raise DataError(
            f"{what}: the file that {host} sent is not the published one: {reason(error)}; {otherwise}"
        ) from None
    except OSError as error:
        raise DataError(
            f"{what}: cannot be downloaded from {host} ({_why(error)}); connect to the internet, or {otherwise}"
        ) from None


def _why(error: BaseException) -> str:
    """Return why a download failed, in a few words: the reason of the system or of the server, without the layers of libraries around it."""
    import requests  # which pooch also imports only when it downloads

    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {CONNECT_SECONDS:g} s"
    if isinstance(error, requests.Timeout):
        return f"no answer within {READ_SECONDS:g} s"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        error.response.close()  # pooch leaves it open
        return f"HTTP status {error.response.status_code}"
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, TimeoutError):
            return f"no answer within {READ_SECONDS:g} s"
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        wrapped = getattr(inner, "reason", None) or next(iter(inner.args), None)
        inner = wrapped if isinstance(wrapped, BaseException) else inner.__cause__
    return cut(reason(error))


def digest(path: Path, algorithm: str) -> str:
    """Return the checksum of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _local(remote: Remote, root: str) -> Path:
    path = Path(root) / remote.path
    if not path.exists():
        raise DataError(
            f"{Path(remote.path).parts[0]}: {path} is missing; {ROOT_VARIABLE} is {root}: put {remote.path} with {_stated(remote)} there, or unset "
            f"{ROOT_VARIABLE} to download it"
        )
    algorithm, expected = remote.hash.split(":")
    if (actual := digest(path, algorithm)) != expected:
        raise DataError(
            f"{path}: the file is truncated or altered: its {algorithm} is {actual}, expected {expected}; download it again"
        )
    return path


def _stated(remote: Remote) -> str:
    """Return the expected checksum for error texts, such as "sha256 3a7b…"."""
    return remote.hash.replace(":", " ")
