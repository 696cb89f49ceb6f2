"""The models of a service, by name and version, and how they change while it runs.

A new version is loaded, verified and warmed up beside the version in service. Then requests get the new version, and the old one is closed
when its last request is answered. A version that cannot be loaded changes only a reason in /models.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import math
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import structlog

from manifold.runtime import repository
from manifold.runtime.errors import ArtifactError, Unavailable, UnknownModel, near, shown
from manifold.runtime.manifest import NAME
from manifold.service.aside import aside
from manifold.service.models import featured, versions
from manifold.service.models.closing import Closing
from manifold.service.models.entries import Entry, Listener, stamp
from manifold.service.models.memory import Memory
from manifold.service.processes.cluster import Cluster
from manifold.service.settings import Settings, SettingsError, nearest

log = structlog.get_logger()

MOST_AT_ONCE = (
    4  # models that load at the same time: each runs a batch of 64 to try its kernels, which takes memory for a moment
)
SERVING = ("ready", "idle")  # states of models that answer requests
POLL = 0.02  # seconds between polls of a version that is still loading
UNKNOWN = 0  # the version of a model whose folder cannot be read
UNLOADED = "it was unloaded; load it again with POST /v2/repository/models/NAME/load"


class Registry:
    """The latest version of every model. Other versions that the settings allow load at their first request."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.entries: dict[tuple[str, int], Entry] = {}
        self.latest: dict[str, int] = {}
        self.listener: Listener = lambda entry, ran: None  # called after every run
        self.leaving = False  # a signal to stop was received: the service reports not-ready
        self.stopped_at = math.inf  # when the service stopped accepting requests, on the monotonic clock
        self.cluster: Cluster | None = None  # the other worker processes, if there are any
        self.closing = Closing()
        self.drained = False  # whether all runs and loads had ended when the service ended
        self.unloaded: set[str] = set()  # names of models that are out of service until they are loaded again
        self.unreadable: dict[str, str] = {}  # by name, why the folder of a model could not be read at the last check
        self._changing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._waking: dict[Entry, asyncio.Task[None]] = {}
        self.memory = Memory(settings, self.entries, self.closing)
        self.featured = featured.places(settings.models_dir)
        listing = repository.survey(settings.models_dir)
        check_sections(settings, listing)
        for name, numbers in listing.versions.items():
            for version in self.allowed(name, numbers):
                self.entries[name, version] = self._entry(name, version, "idle")
                self.latest[name] = version
        for key in self.latest.items():
            self.entries[key].state = "loading"
        for name, reason in listing.unreadable.items():
            self.show_unreadable(name, reason)

    def _entry(self, name: str, version: int, state: str = "loading") -> Entry:
        folder = self.settings.models_dir / name / str(version)
        return Entry(name, version, folder, self.settings.of_model(name), state, closing=self.closing)

    def show_unreadable(self, name: str, reason: str) -> None:
        """Show a model whose folder cannot be read as unavailable. If it is loaded already, it stays in service."""
        self.unreadable[name] = reason
        log.warning("model cannot be read", model=name, reason=reason)
        if name not in self.latest:
            entry = self.entries[name, UNKNOWN] = self._entry(name, UNKNOWN, "unavailable")
            entry.reason = reason
            self.latest[name] = UNKNOWN

    def allowed(self, name: str, present: list[int]) -> list[int]:
        """Return those of the versions found that the settings allow."""
        return versions.parse(self.settings.of_model(name).versions or "all").choose(present)

    @property
    def stopped(self) -> bool:
        """True if the service accepts no more requests."""
        return self.stopped_at < math.inf

    @stopped.setter
    def stopped(self, value: bool) -> None:
        if value != self.stopped:
            self.stopped_at = time.monotonic() if value else math.inf

    # --- start and end ---

    def load(self) -> None:
        """Load the latest version of every model, the default model first, several at a time. With lazy loading, only verify them."""
        names = [name for name, version in self.latest.items() if name not in self.unloaded and version != UNKNOWN]
        names.sort(key=lambda name: name != self.settings.default_model)
        with ThreadPoolExecutor(min(MOST_AT_ONCE, os.cpu_count() or 1), "load") as pool:
            list(pool.map(self._load_first, names))

    def _load_first(self, name: str) -> None:
        """Load the latest version of a model, or an earlier one if it is broken. Do nothing after a signal to stop."""
        if self.leaving:
            return
        highest = self.latest[name]
        for version in reversed(self.versions(name)):
            entry = self.entries.get((name, version))
            if entry is None or name in self.unloaded:
                return
            entry.state = "loading"
            self.latest[name] = version
            if self.settings.lazily:
                self._verify(entry)
            else:
                entry.load(self.settings, self.listener)
            if entry.retired:  # it was unloaded or replaced while it was loading: its replacement stays
                return
            if entry.state != "unavailable" or entry.expected:
                return
        self.latest[name] = highest  # no version can be served: the highest one has the reason

    def verify(self) -> None:
        """Verify the version of every model that would be loaded, without loading it."""
        for name, version in self.latest.items():
            if version != UNKNOWN:
                self._verify(self.entries[name, version])

    def _verify(self, entry: Entry) -> None:
        """Check everything that can be checked without loading the model."""
        with entry.failing():
            entry.look(self.settings)
            assert entry.manifest is not None
            if problems := repository.verify(entry.folder, entry.manifest):
                raise ArtifactError("\n".join([f"{entry.folder}:", *(f"  {problem}" for problem in problems)]))
            entry.state = "idle"

    def close(self) -> None:
        """Refuse queued requests. Runs end in their threads, and models that are still loading are closed when they have loaded."""
        for entry in list(self.entries.values()):
            entry.retire()
            entry.close()

    async def drain(self, loading: asyncio.Future[None]) -> bool:
        """Wait, after `close`, for the last runs and loads, until `drain_seconds` after the stop. Return whether they have ended."""
        until = min(self.stopped_at, time.monotonic()) + self.settings.drain_seconds
        await asyncio.wait([loading], timeout=max(0.0, until - time.monotonic()))
        ended = await self.closing.wait(max(0.0, until - time.monotonic()))
        self.drained = ended and loading.done()
        if not self.drained:
            log.warning(
                "ending before the last runs and loads have ended",
                runs_of=self.closing.names,
                loading=not loading.done(),
            )
        return self.drained

    # --- lookup for requests ---

    @property
    def shown(self) -> list[Entry]:
        """The entries of GET /models: the latest version of each model, and other versions that were requested."""
        latest = set(self.latest.items())
        # a copy, because threads read the entries too
        return [entry for key, entry in list(self.entries.items()) if entry.state != "idle" or key in latest]

    async def get(self, name: str | None, version: int | None) -> Entry:
        """Return a ready entry, held for the request. Raise UnknownModel, or Unavailable with the reason."""
        entry = await self.awake(name, version)
        if entry.state == "loading":
            raise Unavailable(f"{entry.name} is still loading; retry after a moment", field="model")
        if entry.state != "ready":
            raise Unavailable(f"{entry.name} is unavailable: {entry.reason}", field="model")
        entry.hold()
        return entry

    async def described(self, name: str | None, version: int | None) -> Entry:
        """Return an entry with its manifest, if it can be read. The model is loaded only if its manifest has never been read."""
        entry = await self._known(name, version)
        return entry if entry.manifest is not None else await self.awake(entry.name, entry.version)

    async def awake(self, name: str | None, version: int | None) -> Entry:
        """Return the entry in any state. An idle model is loaded first."""
        entry = await self._known(name, version)
        while entry.state == "idle":
            task = self._waking.get(entry)
            if task is None:
                task = self._waking[entry] = asyncio.create_task(self._wake(entry))
            entry.wanted += 1
            try:
                # other requests wait for the same task, so one that is cancelled must not cancel it
                await asyncio.shield(task)
            finally:
                entry.wanted -= 1
            entry = self.find(name, version)
        return entry

    async def _wake(self, entry: Entry) -> None:
        try:
            entry.used = time.monotonic()
            async with self.memory.room_for(entry):
                await aside(functools.partial(entry.load, self.settings, self.listener), pool="models")
            if entry.retired:  # it was taken out of service meanwhile, and has closed itself
                return
            if entry.state == "unavailable" and not entry.expected and self.latest.get(entry.name) == entry.version:
                self._elect(entry.name)  # the requests that wait get an earlier version
        finally:
            del self._waking[entry]

    def find(self, name: str | None, version: int | None) -> Entry:
        """Return the entry, in any state. Raise UnknownModel."""
        names = list(self.latest)
        if name is None:
            name = self.settings.default_model
            if name is None or name not in self.latest:
                raise UnknownModel("model: the service has no default model; name a model", field="model", valid=names)
        if name not in self.latest:
            raise self.no_model(name)
        entry = self.entries.get((name, self.latest[name] if version is None else version))
        if entry is None:
            raise UnknownModel(
                f"version: {name} has no version {shown(version)}; choose one of the valid versions",
                field="version",
                valid=self.versions(name),
            )
        return entry

    async def _known(self, name: str | None, version: int | None) -> Entry:
        """Return the entry, in any state. Raise UnknownModel, which tells whether the model is on disk but was not loaded."""
        try:
            return self.find(name, version)
        except UnknownModel as error:
            await self.check_added(name, version)
            raise error from None

    def no_model(self, name: str) -> UnknownModel:
        """Return the error for the name of a model that does not exist, with the nearest name."""
        names = list(self.latest)
        return UnknownModel(
            f"model: there is no model {shown(name)}{near(name, names)}; choose one of the valid names",
            field="model", valid=names,
        )  # fmt: skip

    async def check_added(self, name: str | None, version: int | None) -> None:
        """Raise UnknownModel if the folder of an unknown model or version was added after the service started."""
        if name is None or not re.fullmatch(NAME, name):  # other names could be paths
            return

        def there() -> bool:
            with contextlib.suppress(OSError):  # then the error about the name is enough
                present = self.allowed(name, repository.versions(self.settings.models_dir / name))
                return bool(present) if version is None else version in present
            return False

        if not await aside(there, pool="disk"):
            return
        which = name if version is None else f"{name} {version}"
        wait = f"wait {self.settings.watch_seconds:g} s, or " if self.settings.watch_seconds else ""
        field = "model" if name not in self.latest else "version"
        raise UnknownModel(
            f"{field}: {which} was added to the folder of models after the service started; {wait}load it with "
            f"POST /admin/models/{name}/load, or restart the service",
            field=field, valid=self.versions(name) if field == "version" else list(self.latest),
        )  # fmt: skip

    def names_of(self, suits: Callable[[Entry], bool]) -> list[str]:
        """Return the names of the models whose latest version is served and suits."""
        entries = filter(None, map(self.entries.get, list(self.latest.items())))  # threads call this too
        return [
            entry.name for entry in entries if entry.state in SERVING and entry.manifest is not None and suits(entry)
        ]

    def versions(self, name: str) -> list[int]:
        """Return the versions of a model, ascending."""
        return sorted(version for model, version in list(self.entries) if model == name)

    def check_open(self) -> None:
        """Raise Unavailable if the service accepts no more requests."""
        if self.stopped:
            raise Unavailable("the service is stopping; retry after a moment, or use another replica")

    def readiness(self) -> tuple[bool, str | None]:
        """Return whether the service is ready, and why not.

        It is not ready until every model has been tried. Then the default model must be ready or, if there is no default, any model. With
        `strict_ready`, every model must be ready. Models that were unloaded, or that lack an extra or a device, are unavailable by choice
        and do not count.

        The reason is public. It names models, and the route with the details, which may need a key.
        """
        if self.leaving:
            return False, "stopping"
        entries = [self.entries[item] for item in self.latest.items()]
        loading = [entry.name for entry in entries if entry.state == "loading"]
        broken = [entry for entry in entries if entry.state == "unavailable" and not entry.expected]
        if not self.settings.strict_ready:
            broken = [entry for entry in broken if entry.name == self.settings.default_model]
        if loading:
            return False, f"loading {', '.join(loading)}"
        if broken:
            return False, f"unavailable: {_pointers(broken)}"
        if not any(entry.state in SERVING for entry in entries):
            return False, f"no model is ready{': ' if entries else ''}{_pointers(entries)}"
        return True, None

    # --- changes while the service runs ---

    async def refresh(self, name: str) -> Entry:
        """Load new and changed versions from a model's folder, and drop versions that are gone. Return the version in service.

        If a version cannot be loaded, the previous one stays in service. Raise UnknownModel if there is no folder, and Unavailable with the
        reason if the highest version cannot be loaded.
        """
        if not re.fullmatch(NAME, name):  # other names could be paths
            raise self.no_model(name)
        async with self._changing[name]:
            self.unloaded.discard(name)
            return await self._refresh(name)

    async def _refresh(self, name: str) -> Entry:
        look = functools.partial(repository.look_into, self.settings.models_dir / name)
        present, reason = await aside(look, pool="disk")
        if reason is not None:
            self.show_unreadable(name, reason)
            raise Unavailable(f"{name} cannot be loaded: {reason}", field="model")
        self.unreadable.pop(name, None)
        allowed = self.allowed(name, present)
        failed = None
        for version in reversed(allowed):
            entry = await self._renew(name, version, load=not self.settings.lazily and version == allowed[-1])
            failed = entry if entry.state == "unavailable" and version == allowed[-1] else failed
        self._drop(name, present, allowed)
        if not allowed:
            raise UnknownModel(
                f"model: {shown(name)} has no version to serve; put an artifact into the folder of models",
                field="model", valid=list(self.latest),
            )  # fmt: skip
        before = self.latest.get(name)
        self._elect(name)
        if before is not None and before != self.latest[name]:
            self._rest(name, before)
        if failed is not None:
            raise Unavailable(f"{name} {failed.version} is unavailable: {failed.reason}", field="model")
        return self.entries[name, self.latest[name]]

    async def _renew(self, name: str, version: int, *, load: bool) -> Entry:
        """Load one version if it is new or has changed. Return the entry that was tried, which is in service if it could be loaded."""
        old = self.entries.get((name, version))
        while old is not None and old.state == "loading":
            await asyncio.sleep(POLL)
        now = await aside(lambda: stamp(self.settings.models_dir / name / str(version)), pool="disk")
        if old is not None and old.stamp == now and old.state in SERVING:
            if not (load and old.state == "idle"):
                return old
        new = self._entry(name, version)
        if load or (old is not None and old.state == "ready"):
            async with self.memory.room_for(new):
                await aside(functools.partial(new.load, self.settings, self.listener), pool="models")
        else:
            await aside(functools.partial(self._verify, new), pool="models")
        if new.state == "unavailable":
            new.expected = True  # a new model that is broken does not make the running service not-ready
        if old is not None and old.state == "ready" and new.state == "unavailable":
            old.reason, old.stamp = f"the changed version in its folder is not served: {new.reason}", new.stamp
            return new
        self.entries[name, version] = new
        if old is not None:
            old.retire()
        log.info("model changed", model=name, version=version, state=new.state)
        return new

    def _drop(self, name: str, present: list[int], allowed: list[int]) -> None:
        """Drop versions whose folder is gone, and versions that are no longer allowed if an allowed version can replace them."""
        replaced = any(self.entries[name, version].state in SERVING for version in allowed)
        for version in set(self.versions(name)) - set(allowed):
            if replaced or version not in present:
                self.entries.pop((name, version)).retire()
        if not self.versions(name):
            self.latest.pop(name, None)

    def _rest(self, name: str, version: int) -> None:
        """Unload a version that was the latest. It loads again at its next request."""
        old = self.entries.get((name, version))
        if old is not None and old.state == "ready":
            self.entries[name, version] = dataclasses.replace(
                old, state="idle", model=None, batcher=None, users=0, reason=None
            )  # fmt: skip
            old.retire()

    def _elect(self, name: str) -> None:
        """Choose the version for requests that name none: the highest that is ready or, with lazy loading, that has not failed."""
        known = self.versions(name)
        serving = [version for version in known if self.entries[name, version].state in SERVING]
        ready = [version for version in serving if self.entries[name, version].state == "ready"]
        self.latest[name] = ((not self.settings.lazily and ready) or serving or known)[-1]

    async def unload(self, name: str) -> None:
        """Take a model out of service until it is loaded again. Raise UnknownModel."""
        async with self._changing[name]:
            if name not in self.latest:
                raise self.no_model(name)
            self.unloaded.add(name)
            for version in self.versions(name):
                old = self.entries[name, version]
                new = self.entries[name, version] = self._unloaded_entry(name, version)
                new.manifest, new.files = old.manifest, old.files
                old.retire()
            log.info("unloaded", model=name)

    def unload_first(self, names: Iterable[str]) -> None:
        """Take models out of service that the other workers have unloaded. Called before the start."""
        for name in set(names) & set(self.latest):
            for version in self.versions(name):
                self.entries[name, version] = self._unloaded_entry(name, version)
            self.unloaded.add(name)

    def _unloaded_entry(self, name: str, version: int) -> Entry:
        entry = self._entry(name, version, "unavailable")
        entry.reason, entry.expected, entry.intended = UNLOADED.replace("NAME", name), True, True
        return entry

    async def change(self, verb: str, name: str) -> None:
        """Do `load` or `unload` in every worker. Raise the errors of refresh and unload."""
        if self.cluster is not None:
            await self.cluster.everywhere(verb, name)
        elif verb == "load":
            await self.refresh(name)
        else:
            await self.unload(name)

    async def adopt(self, name: str, version: int) -> Entry:
        """Load a version that was just published, and return it. Raise Unavailable if it cannot be served."""
        await self.change("load", name)
        if (name, version) not in self.entries:
            raise Unavailable(
                f"{name} {version} is published, but MANIFOLD_VERSIONS excludes it; change the setting to serve it",
                field="model",
            )
        return self.entries[name, version]


def check_sections(settings: Settings, listing: repository.Listing) -> None:
    """Raise SettingsError for a section of a model that does not exist."""
    known = [*listing.versions, *listing.unreadable]
    if unknown := set(settings.models) - set(known):
        hint = nearest(min(unknown), known)
        raise SettingsError(
            f"settings: models.{min(unknown)}: there is no such model in {settings.models_dir}{hint}",
            field="models",
            valid=sorted(known),
        )


def _pointers(entries: Iterable[Entry]) -> str:
    """Return the names of models that do not answer, and where to read each reason."""
    return "; ".join(f"{entry.name} (GET /models/{entry.name} and the log have the reason)" for entry in entries)
