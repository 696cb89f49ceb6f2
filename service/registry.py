"""The models a service holds, each with a state: loading, ready, or unavailable with the reason."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from runtime import engine, operations, repository
from runtime.engine import Model
from runtime.errors import ArtifactError, ManifoldError, Unavailable, UnknownModel
from runtime.manifest import Manifest, read
from runtime.spec import ImageSpec
from service.batcher import Batcher, Ran
from service.settings import ModelSettings, Settings, SettingsError

log = structlog.get_logger()

MOST_AT_ONCE = (
    4  # models that load side by side: each tries its kernels on a batch of 64, which takes memory for a moment
)

# endpoints by the use case behind them
ENDPOINTS = {
    "sample": "sample",
    "encode": "encode",
    "reconstruct": "reconstruct",
    "interpolate": "interpolate",
    "anomaly-score": "score",
    "classify": "classify",
    "impute": "impute",
}


Listener = Callable[["Entry", Ran], None]


@dataclass
class Entry:
    """One version of one model."""

    name: str
    version: int
    folder: Path
    settings: ModelSettings
    state: str = "loading"
    reason: str | None = None
    expected: bool = False  # unavailable by choice of the installation: the service is ready without it
    manifest: Manifest | None = None
    model: Model | None = None
    batcher: Batcher | None = field(default=None, repr=False)
    endpoints: list[str] = field(default_factory=list)  # what it can be asked for, once it is loaded

    def load(self, settings: Settings, listener: Listener) -> None:
        """Loads the artifact; what goes wrong becomes the entry's reason."""
        try:
            self.manifest = read(self.folder)
            if settings.require_checksums and not self.manifest.files:
                raise ArtifactError("its manifest has no checksums, which are asked for here: manifold check --seal")
            self.endpoints = endpoints(self.manifest)
            self.model = engine.load(self.folder, device=self.settings.device or "auto", threads=settings.threads)
            self.batcher = Batcher(self.model, self.settings)
            self.batcher.listener = functools.partial(listener, self)
            self.state = "ready"
        except ManifoldError as error:
            self.state, self.reason = "unavailable", error.message
            self.expected = isinstance(error, Unavailable) and error.expected
            log.warning("model unavailable", model=self.name, version=self.version, reason=error.message)
        except Exception as error:  # a broken artifact must not take the others down with it
            self.state, self.reason = "unavailable", f"{type(error).__name__}: {error}"
            log.exception("model failed to load", model=self.name, version=self.version)


class Registry:
    """Every model's latest version (other versions load when first asked for)."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.entries: dict[tuple[str, int], Entry] = {}
        self.latest: dict[str, int] = {}
        for name, versions in repository.scan(settings.models_dir).items():
            for version in versions:
                self.entries[name, version] = Entry(
                    name, version, settings.models_dir / name / str(version), settings.of_model(name), state="idle"
                )
            self.latest[name] = versions[-1]
            self.entries[name, versions[-1]].state = "loading"
        if unknown := set(settings.models) - set(self.latest):
            raise SettingsError(
                f"settings: models.{min(unknown)}: there is no such model in {settings.models_dir}",
                field="models",
                valid=list(self.latest),
            )
        self._lock = threading.Lock()
        self.listener: Listener = lambda entry, ran: None  # hears of every run
        self.leaving = False  # told to stop: not ready any more
        self.stopped = False  # and no new work either

    def load(self) -> None:
        """Loads the latest version of every model, the default first, as many at once as there are cores."""
        order = sorted(self.latest.items(), key=lambda item: item[0] != self.settings.default_model)
        with ThreadPoolExecutor(min(MOST_AT_ONCE, os.cpu_count() or 1), "load") as pool:
            list(pool.map(lambda key: self.entries[key].load(self.settings, self.listener), order))

    def close(self) -> None:
        """Lets running work end."""
        for entry in self.entries.values():
            if entry.batcher:
                entry.batcher.close()

    @property
    def shown(self) -> list[Entry]:
        """The entries of GET /models: the latest of each name, and other versions that were asked for."""
        return [entry for entry in self.entries.values() if entry.state != "idle"]

    async def get(self, name: str | None, version: int | None) -> Entry:
        """A ready entry with its model. Raises UnknownModel, or Unavailable with the reason."""
        entry = await self.awake(name, version)
        if entry.state == "loading":
            raise Unavailable(f"{entry.name} is still loading; try again in a moment", field="model")
        if entry.state != "ready":
            raise Unavailable(f"{entry.name} is unavailable: {entry.reason}", field="model")
        return entry

    async def awake(self, name: str | None, version: int | None) -> Entry:
        """The entry, loaded now if nobody has asked for that version before; in whatever state it is then."""
        entry = self.find(name, version)
        if entry.state == "idle":
            await asyncio.get_running_loop().run_in_executor(None, self._load_late, entry)
        return entry

    def _load_late(self, entry: Entry) -> None:
        with self._lock:
            if entry.state == "idle":
                entry.load(self.settings, self.listener)

    async def adopt(self, name: str, version: int) -> Entry:
        """A version that has been published since the start: loaded now, and the latest from then on. Raises Unavailable where it cannot be."""
        folder = self.settings.models_dir / name / str(version)
        entry = Entry(name, version, folder, self.settings.of_model(name))
        await asyncio.get_running_loop().run_in_executor(None, entry.load, self.settings, self.listener)
        if entry.state != "ready":
            raise Unavailable(f"{name} {version} is unavailable: {entry.reason}", field="model")
        self.entries[name, version] = entry
        self.latest[name] = max(version, self.latest[name])
        return entry

    def find(self, name: str | None, version: int | None) -> Entry:
        """The entry, in whatever state."""
        names = list(self.latest)
        if name is None:
            name = self.settings.default_model
            if name is None or name not in self.latest:
                raise UnknownModel(
                    "model: say which model; the settings name no default that is there", field="model", valid=names
                )
        if name not in self.latest:
            raise UnknownModel(f"model: there is no model {name!r}", field="model", valid=names)
        entry = self.entries.get((name, self.latest[name] if version is None else version))
        if entry is None:
            raise UnknownModel(
                f"version: {name} has no version {version}",
                field="version",
                valid=self.versions(name),
            )
        return entry

    def versions(self, name: str) -> list[int]:
        """Of a model, ascending."""
        return sorted(version for model, version in self.entries if model == name)

    def check_open(self) -> None:
        """Raises Unavailable once the service takes no more."""
        if self.stopped:
            raise Unavailable("the service is stopping; ask another one, or again in a moment")

    def readiness(self) -> tuple[bool, str | None]:
        """Whether the service is ready, and why not. Models that lack an extra or a device they were told to have do not count."""
        if self.leaving:
            return False, "stopping"
        entries = [self.entries[item] for item in self.latest.items()]
        loading = [entry.name for entry in entries if entry.state == "loading"]
        broken = [
            f"{entry.name}: {entry.reason}" for entry in entries if entry.state == "unavailable" and not entry.expected
        ]
        if loading:
            return False, f"loading {', '.join(loading)}"
        if broken:
            return False, "unavailable: " + "; ".join(broken)
        if not any(entry.state == "ready" for entry in entries):
            return False, f"no model is ready in {self.settings.models_dir}" + "".join(
                f"; {entry.name}: {entry.reason}" for entry in entries
            )
        return True, None


def endpoints(manifest: Manifest) -> list[str]:
    """What a model can be asked for."""
    return [endpoint for endpoint, use_case in ENDPOINTS.items() if operations.CAN[use_case](manifest)]


def data_summary(manifest: Manifest) -> dict[str, object]:
    """The data spec as a client needs it."""
    spec = manifest.data
    if isinstance(spec, ImageSpec):
        return {
            "kind": "image",
            "height": spec.height,
            "width": spec.width,
            "channels": spec.channels,
            "background": spec.background,
        }
    return spec.model_dump(mode="json", exclude_none=True)
