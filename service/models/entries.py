"""One version of one model in the service: its state, the requests that use it, and how it is loaded and closed.

An entry that is taken out of service stays whole for the requests that hold it, and is closed when the last of them is answered. A request
holds the entries that it got from the registry until it ends (`hold_from_now`, `let_go`). Closing waits for nothing: runs end in their threads
(models/closing.py). A model that finishes loading after its entry was taken out of service is closed immediately.
"""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from manifold.runtime import engine, operations, priors, repository
from manifold.runtime import manifest as manifests
from manifold.runtime.engine import Model
from manifold.runtime.errors import ArtifactError, ManifoldError, Unavailable
from manifold.runtime.graphs.backends import known_device
from manifold.runtime.manifest import Manifest
from manifold.service.models import page_files
from manifold.service.models.batcher import Batcher, Ran
from manifold.service.models.closing import Closing
from manifold.service.settings import ModelSettings, Settings

log = structlog.get_logger()

# the folders of an absolute path
FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/:;,'\"]+/)+(?=[^\s/])")

Listener = Callable[["Entry", Ran], None]
Stamp = tuple[tuple[str, int, int, int], ...]

_held: ContextVar[list[Entry] | None] = ContextVar("held", default=None)


@dataclass(eq=False)
class Entry:
    """One version of a model. States: `idle` (loads at its first request), `loading`, `ready`, `unavailable` with the reason."""

    name: str
    version: int
    folder: Path
    settings: ModelSettings
    state: str = "loading"
    reason: str | None = (
        None  # why it is unavailable; if it is ready, why the changed version in its folder is not served
    )
    expected: bool = False  # the service is ready although this model is unavailable
    intended: bool = False  # unavailable by choice (an extra is not installed, or it was unloaded): no alert
    manifest: Manifest | None = None
    model: Model | None = None
    batcher: Batcher | None = field(default=None, repr=False)
    endpoints: list[str] = field(default_factory=list)  # the endpoints that this model supports
    files: dict[str, str] = field(default_factory=dict)  # checksums of its files for pages, by subject (page_files)
    described: tuple[Manifest, dict[str, Any]] | None = field(
        default=None, repr=False
    )  # the part of its summary that was made from this manifest (describe)
    stamp: Stamp = ()  # state of its files at the last check
    weight: int = 0  # size of its graphs, bytes
    used: float = 0.0  # time of its last request, on the monotonic clock
    users: int = 0  # number of requests that hold it
    wanted: int = 0  # number of requests that wait until it is loaded
    retired: bool = False  # out of service: it closes with its last request
    closing: Closing = field(
        default_factory=Closing, repr=False
    )  # receives the model and the batcher when the entry closes
    _changing: threading.Lock = field(init=False, repr=False, default_factory=threading.Lock)  # models load in threads

    def look(self, settings: Settings) -> None:
        """Read the manifest. Raise ManifoldError."""
        self.stamp = stamp(self.folder)
        self.manifest = manifests.read(self.folder)
        if settings.require_checksums and not self.manifest.files:
            raise ArtifactError(
                "its manifest has no checksums, but MANIFOLD_REQUIRE_CHECKSUMS is set; add them with `manifold check --seal`"
            )
        self.endpoints = operations.endpoints(self.manifest)
        self.files = page_files.checksums(self.folder, self.manifest)
        self.weight = sum(size for name, size, *_ in self.stamp if name.endswith((".onnx", ".bin", ".pt")))

    def load(self, settings: Settings, listener: Listener) -> None:
        """Load the artifact. An error becomes the entry's reason. A model that was taken out of service meanwhile is freed."""
        with self.failing():
            self._check_wanted()
            self.look(settings)
            model = engine.load(
                self.folder, device=known_device(self.settings.device or "auto"), threads=settings.threads
            )
            with self._changing:
                self._check_wanted()
                if self.manifest is not None:  # with the random operators that loading has found
                    self.manifest = self.manifest.with_drawing(model.manifest.drawing)
                    priors.load(self.folder, self.manifest)
                self.model, self.batcher = model, Batcher(model, self.settings)
                self.batcher.listener = functools.partial(listener, self)
                self.state, self.reason = "ready", None

    def _check_wanted(self) -> None:
        """Raise Unavailable if the entry was taken out of service before its model was loaded."""
        if self.retired:
            raise Unavailable("it was unloaded while it was loading; load it again", expected=True)

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Make the entry unavailable if the block raises an error."""
        self.intended = False
        try:
            yield
        except ManifoldError as error:
            self.state, self.reason = "unavailable", self._public(error.message)
            self.expected = isinstance(error, Unavailable) and error.expected
            # a missing extra is a choice of the installation; a missing device was requested by a setting
            self.intended = self.expected and error.field != "device"
            stated = {"model": self.name, "version": self.version, "reason": error.message}
            if self.intended:
                log.info("optional model not loaded", **stated)
            else:
                log.warning("model unavailable", **stated)
        except OSError as error:  # a file that cannot be read, or that has vanished since the folder was listed
            self.state, self.reason = "unavailable", f"{Path(error.filename or '').name}: {error.strerror or error}"
            log.warning("model unavailable", model=self.name, version=self.version, reason=self.reason)
        except Exception as error:  # a broken artifact must not stop the others
            self.state, self.reason = "unavailable", self._public(f"{type(error).__name__}: {error}")
            log.exception("model failed to load", model=self.name, version=self.version)

    def _public(self, reason: str) -> str:
        """Return a reason for clients: with the names of files, without their folders. The log contains the whole reason."""
        root = self.folder.parent.parent
        for folder in {f"{root}/", f"{root.absolute()}/", f"{root.resolve()}/"}:
            reason = reason.replace(folder, "")
        return FOLDERS.sub("", reason)

    def hold(self) -> None:
        """Hold the entry for a request until the request ends."""
        self.used = time.monotonic()
        held = _held.get()
        if held is not None:
            self.users += 1
            held.append(self)

    def retire(self) -> None:
        """Take the entry out of service, and close it with the last request that holds it."""
        with self._changing:
            self.retired = True
        if not self.users:
            self.close()

    def close(self) -> None:
        """Release threads and graphs. Queued requests are refused. Runs end in their threads, and their memory counts until then."""
        if self.batcher is None:
            return
        self.batcher.listener = _nobody
        parts: list[object] = [self.batcher, self.model]
        self.batcher = self.model = None
        self.closing.begin(self.name, self.weight, parts)

    def sleep(self) -> None:
        """Unload the model. It loads again at its next request."""
        self.close()
        self.state = "idle"

    def _let_go(self) -> None:
        self.users -= 1
        if self.retired and not self.users:
            self.close()
            log.info("drained", model=self.name, version=self.version)


def _nobody(ran: Ran) -> None:
    """Ignore a run that is not counted."""


def hold_from_now() -> list[Entry]:
    """Return a list that collects the entries that the request of this context holds. Pass it to `let_go` when the request ends."""
    held: list[Entry] = []
    _held.set(held)
    return held


def let_go(held: list[Entry]) -> None:
    """Release the entries that a request holds."""
    while held:
        held.pop()._let_go()


def stamp(folder: Path) -> Stamp:
    """Return names, sizes, times and modes of an artifact's files, to notice changes. Empty if there is no folder."""
    try:
        files = [(name, entry.stat()) for name, entry in repository.everything(folder)]
    except FileNotFoundError:
        return ()
    except OSError as error:  # differs from a missing folder, so that becoming readable is a change
        return (("", error.errno or 0, 0, 0),)
    return tuple(sorted((name, status.st_size, status.st_mtime_ns, status.st_mode) for name, status in files))
