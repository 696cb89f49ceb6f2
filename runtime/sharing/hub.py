"""Repositories of the Hugging Face Hub, through the package huggingface_hub (the extra `hub`).

The package reads its own environment: HF_TOKEN or the token of `hf auth login`, and HF_ENDPOINT. This module never reads or prints a token.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from manifold.runtime import repository
from manifold.runtime.errors import (
    ArtifactError,
    Forbidden,
    InvalidValue,
    ManifoldError,
    Unauthorized,
    Unavailable,
    UnknownModel,
    cut,
    reason,
)
from manifold.runtime.sharing import pulling
from manifold.runtime.sharing.addresses import HubAddress, joined
from manifold.runtime.sharing.candidates import Candidate

MAIN = "main"  # the branch that is meant without a revision
CONFLICT = (409, 412)  # statuses if the branch has changed since it was read
TEXT_BYTES = 2**22  # limit for a model card
LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)  # errors of this machine's disk
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True)
class Repository:
    """A folder of a repository at one commit, as a source of artifacts. `files` are the sizes of all files of the repository."""

    address: HubAddress
    commit: str
    files: Mapping[str, int]

    @classmethod
    def open(cls, address: HubAddress, field: str = "source") -> Repository:
        """Read the list of files at the commit that the revision means now. `field` is the argument with the address.

        Raises UnknownModel if there is no such repository or revision.
        """
        try:
            return cls._open(address)
        except UnknownModel as error:
            error.field = field
            raise

    @classmethod
    def _open(cls, address: HubAddress) -> Repository:
        api = _api()
        with _reported(address, "read it"):
            commit = api.model_info(address.repo, revision=address.revision).sha
            entries = list(api.list_repo_tree(address.repo, recursive=True, revision=commit))
        return cls(address, commit, {entry.path: entry.size for entry in entries if hasattr(entry, "size")})

    @classmethod
    def open_or_make(cls, address: HubAddress, *, private: bool) -> tuple[Repository, bool]:
        """Open a repository, and make it if it does not exist. Return it, and whether it was made."""
        try:
            return cls.open(address, "target"), False
        except UnknownModel as error:
            if not isinstance(error, UnknownRepository):
                raise
        if address.revision not in (None, MAIN):
            raise InvalidValue(
                f"target: {address.repo} does not exist yet, so it has no branch {cut(str(address.revision))}; push without @REVISION first",
                field="target",
            )
        with _reported(address, "make it"):
            _api().create_repo(address.repo, private=private, exist_ok=True)
        return cls.open(address, "target"), True

    def at(self, below: str) -> str:
        """Return the address of a folder."""
        return str(self.address.at(below))

    def _within(self, below: str) -> Iterator[tuple[str, int]]:
        """Yield the files below a folder by their relative path, with their sizes."""
        start = joined(self.address.folder, below)
        start = f"{start}/" if start else ""
        return ((path.removeprefix(start), size) for path, size in self.files.items() if path.startswith(start))

    def folders(self, below: str) -> list[str]:
        """Return the names of the folders in a folder, without hidden ones."""
        first = {path.partition("/")[0] for path, _ in self._within(below) if "/" in path}
        return sorted(name for name in first if not name.startswith("."))

    def has(self, path: str) -> bool:
        """Return whether a file exists."""
        return joined(self.address.folder, path) in self.files

    def sizes(self, below: str) -> dict[str, int]:
        """Return the sizes of all files below a folder."""
        return dict(self._within(below))

    def fetch(self, path: str, target: Path, limit: int) -> None:
        """Download a file."""
        name = joined(self.address.folder, path)
        size = self.files.get(name)
        if size is None:
            raise ArtifactError(f"{self.at(path)}: is missing")
        if size > limit:
            raise ArtifactError(f"{self.at(path)}: has {size} bytes, more than the {limit} that it should have")
        # beside the target, so that it is on the same disk
        with tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as folder:
            with _reported(self.address, "read it"):
                got = _api().hf_hub_download(self.address.repo, name, revision=self.commit, local_dir=folder)
            shutil.move(got, target)

    def commit_files(self, files: Mapping[str, Path | bytes], message: str) -> None:
        """Add or replace files in one commit. Raises Unavailable if the branch has changed since the repository was opened."""
        from huggingface_hub import CommitOperationAdd

        operations = [
            CommitOperationAdd(joined(self.address.folder, path), str(given) if isinstance(given, Path) else given)
            for path, given in files.items()
        ]
        with _reported(self.address, "write to it"):
            _api().create_commit(
                self.address.repo, operations, commit_message=message, revision=self.address.revision, parent_commit=self.commit
            )  # fmt: skip

    def page(self, below: str) -> str:
        """Return the web address of a folder."""
        return f"{_endpoint()}/{self.address.repo}/tree/{joined(self.address.revision or MAIN, self.address.folder, below)}"


@dataclass(frozen=True)
class HubShelf:
    """The versions of one model in a folder of a repository."""

    place: Repository

    def at(self, version: int) -> str:
        """Return the address of a version."""
        return self.place.at(str(version))

    def versions(self) -> list[int]:
        """Return the versions, ascending."""
        return sorted(int(name) for name in self.place.folders("") if repository.VERSION.fullmatch(name))

    def read(self, version: int) -> Candidate:
        """Download the manifest of a version and read it."""
        return pulling.read(self.place, str(version))

    def next(self) -> int:
        """Return the number of the next version."""
        return max(self.versions(), default=0) + 1

    def text(self, path: str) -> str | None:
        """Return the text of a file; None if it is missing."""
        if not self.place.has(path):
            return None
        with tempfile.TemporaryDirectory(prefix="manifold-") as folder:
            target = Path(folder) / "text"
            self.place.fetch(path, target, TEXT_BYTES)
            return target.read_bytes().decode(errors="replace")


# --- errors -------------------------------------------------------------------------------------------------------------------


class UnknownRepository(UnknownModel):
    """The error of a repository that does not exist, or that the token does not give access to."""


def _api() -> Any:
    """Return the client of the Hub."""
    from huggingface_hub import HfApi

    return HfApi(library_name="manifold")


def _endpoint() -> str:
    """Return the address of the Hub, without a password that it may contain."""
    parts = urlsplit(str(_api().endpoint))
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


@contextmanager
def _reported(address: HubAddress, doing: str) -> Iterator[None]:
    """Raise an error of ours for an error of huggingface_hub. `doing` completes the sentence "the token is not permitted to …"."""
    from huggingface_hub import errors

    # the base classes of the errors of its HTTP library, which depends on the version of huggingface_hub
    transport = tuple(
        kind
        for kind in errors.HfHubHTTPError.__mro__
        if issubclass(kind, Exception)
        and kind.__module__.partition(".")[0] not in ("builtins", errors.__name__.partition(".")[0])
    )
    try:
        yield
    except errors.LocalEntryNotFoundError as error:  # a download that could not reach the Hub
        raise _unreachable(address, error.__cause__ or error) from None
    except (errors.HfHubHTTPError, errors.EntryNotFoundError) as error:
        raise _refused(address, doing, error) from None
    except OSError as error:
        if error.filename is not None or error.errno in LOCAL:
            raise
        raise _unreachable(address, error) from None
    except (*transport, ValueError, RuntimeError) as error:
        if isinstance(error.__cause__, errors.HfHubHTTPError):  # a failed upload of a large file
            raise _refused(address, doing, error.__cause__) from None
        raise _unreachable(address, error.__cause__ or error) from None


def _unreachable(address: HubAddress, error: BaseException) -> Unavailable:
    return Unavailable(
        f"{address}: the Hub at {_endpoint()} could not do this: {_plain(reason(error))}; check the network, and HF_ENDPOINT if it is set"
    )


def _refused(address: HubAddress, doing: str, error: Exception) -> ManifoldError:
    """Return the error for an answer of the Hub that is not a success."""
    from huggingface_hub import errors, get_token

    status = getattr(getattr(error, "response", None), "status_code", None)
    detail = _plain(cut(" ".join(str(getattr(error, "server_message", None) or "").split()), 200))
    said = f" ({status}{': ' if detail else ''}{detail})"
    access = "the token may lack access to it" if get_token() else f"no token is set: {LOG_IN}"
    if isinstance(error, errors.GatedRepoError):
        return Forbidden(f"{address}: access must be requested on the page of the repository; {access}{said}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UnknownRepository(
            f"{address}: there is no repository {address.repo}, or it is private; check the name; {access}{said}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UnknownModel(
            f"{address}: {address.repo} has no branch, tag or commit {cut(address.revision or MAIN)}; correct the part after the @"
        )
    if status == 401:
        return Unauthorized(f"{address}: the Hub does not accept the token{said}; {LOG_IN}")
    if status == 403:
        return Forbidden(f"{address}: the token is not permitted to {doing}{said}; use one with this permission")
    if status in CONFLICT:
        return Unavailable(f"{address}: the repository has changed meanwhile{said}; repeat the command")
    return Unavailable(f"{address}: the Hub at {_endpoint()} reports an error{said}; try again later")


def _plain(text: str) -> str:
    """Return a text without the queries of web addresses, which may contain signatures."""
    return " ".join(word.partition("?")[0] if "://" in word else word for word in text.split(" "))
