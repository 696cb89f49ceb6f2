"""The folder of models while the service runs. It is polled, and changed models are loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from manifold.runtime import repository
from manifold.runtime.errors import ArtifactError, ManifoldError
from manifold.service.aside import aside
from manifold.service.models.entries import Stamp, stamp
from manifold.service.models.registry import Registry

log = structlog.get_logger()


class Follower:
    """A task that updates a registry when the folder of models changes."""

    def __init__(self, registry: Registry) -> None:
        self.registry, self.settings = registry, registry.settings

    async def run(self) -> None:
        """Poll the folder every `watch_seconds` and load changed models, until this task is cancelled."""
        last_error = None  # the error of the folder itself at the last poll
        while True:
            await asyncio.sleep(self.settings.watch_seconds)
            try:
                changed, unreadable = await self._changed()
                for name, reason in unreadable.items():
                    self.registry.show_unreadable(name, reason)
                for name in changed:
                    try:
                        await self.registry.refresh(name)
                    except (ManifoldError, OSError) as error:
                        log.warning("changed model not loaded", model=name, reason=str(error))
                last_error = None
            except ManifoldError as error:
                if error.message != last_error:
                    log.warning(
                        "the folder of models cannot be read: all models stay as they are", reason=error.message
                    )
                last_error = error.message
            except Exception:  # after any error, the folder is polled again
                log.exception("the folder of models could not be checked")

    async def _changed(self) -> tuple[list[str], dict[str, str]]:
        """Return the names of models whose folders have changed, and the reasons why others have become unreadable.

        Raise ArtifactError if the folder of models cannot be read, or is suddenly empty, for example because its disk is not mounted.
        """
        listing = await self._survey()
        versions, unreadable, latest = listing.versions, listing.unreadable, self.registry.latest
        if latest and not versions and not unreadable:
            raise ArtifactError(
                f"{self.settings.models_dir}: no longer contains models; check whether its disk is mounted"
            )
        names = sorted({*versions, *latest} - self.registry.unloaded - set(unreadable))
        allowed = {name: self.registry.allowed(name, versions.get(name, [])) for name in names}
        stamps = await aside(lambda: self._stamps(allowed), pool="disk")
        changed = [name for name in names if name not in self.registry.unloaded and self._differs(name, stamps[name])]
        if (
            changed and await self._survey() != listing
        ):  # the folder is changing now; the next poll will see the whole change
            return [], {}
        return changed, {name: why for name, why in unreadable.items() if self.registry.unreadable.get(name) != why}

    async def _survey(self) -> repository.Listing:
        return await aside(lambda: repository.survey(self.settings.models_dir), pool="disk")

    def _stamps(self, versions: Mapping[str, list[int]]) -> dict[str, dict[int, Stamp]]:
        root = self.settings.models_dir
        return {
            name: {version: stamp(root / name / str(version)) for version in numbers}
            for name, numbers in versions.items()
        }

    def _differs(self, name: str, now: Mapping[int, Stamp]) -> bool:
        known = {version: self.registry.entries[name, version].stamp for version in self.registry.versions(name)}
        return known.keys() != now.keys() or any(known[version] not in ((), now[version]) for version in known)
