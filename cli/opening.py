"""The page of a service: whether one answers at an address, whether it has a model, and the browser that shows the page.

Only the standard library is used for requests, so that `manifold open` needs no client.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import typer

from manifold.runtime.errors import ArtifactError, InvalidValue, ManifoldError, Unavailable, UnknownModel, cut, near

SECONDS = 3.0  # longest time for a response
POLL = 0.1  # seconds between two requests
MOST_BYTES = 2**24  # longest response that is read
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
LOADING, UNAVAILABLE = "loading", "unavailable"  # states of a model
SCREENS = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")  # one of these variables is set if Linux can show a browser


@dataclass(frozen=True)
class Wanted:
    """The model whose page is opened, and the folder of models that has it, if it is on this machine."""

    name: str
    version: int | None = None  # if the user named one
    root: Path | None = None


@dataclass(frozen=True)
class Address:
    """The address of a service: where it listens, and whether it uses TLS."""

    host: str
    port: int
    tls: bool = False

    def __str__(self) -> str:
        reached = ANYWHERE.get(self.host, self.host)
        return f"http{'s' if self.tls else ''}://{f'[{reached}]' if ':' in reached else reached}:{self.port}"

    def page(self, wanted: Wanted) -> str:
        """Return the address of the page of a model."""
        version = {} if wanted.version is None else {"version": wanted.version}
        return f"{self}/?{urlencode({'model': wanted.name} | version)}"

    def health(self) -> Mapping[str, Any] | None:
        """Return the response of GET /health/ready. None if no program listens there; raises InvalidValue if it is not Manifold."""
        host = ANYWHERE.get(self.host, self.host)
        connection = http.client.HTTPConnection(host, self.port, timeout=SECONDS)
        if self.tls:  # only states are read, so the issuer of the certificate does not matter
            connection = http.client.HTTPSConnection(
                host, self.port, timeout=SECONDS, context=ssl._create_unverified_context()
            )
        try:
            connection.request("GET", "/health/ready")
            body = json.loads(connection.getresponse().read(MOST_BYTES))
        except ConnectionRefusedError:
            return None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise self._other(cut(str(error)) or type(error).__name__) from None
        finally:
            connection.close()
        if not isinstance(body, dict) or body.get("status") not in ("ready", "not ready"):
            raise self._other("its response to /health/ready has another form")
        return body

    def _other(self, reason: str) -> InvalidValue:
        return InvalidValue(
            f"port: no Manifold service answers at {self} ({reason}), but another program may use the port; choose another one with --port",
            field="port",
        )


def configured(host: str | None, port: int | None, models: Path | None) -> tuple[Address, Path]:
    """Return the address of the service and its folder of models: the given ones, otherwise those of the service's settings."""
    from manifold.service import settings as settings_module

    settings = settings_module.read(host=host, port=port, models_dir=models)
    if not settings.port:
        raise settings_module.SettingsError(
            "port: 0 lets the system choose a port, so that the address of the page is not known; give --port"
        )
    return Address(settings.host, settings.port, settings.tls_certificate is not None), settings.models_dir


def wanted(model: str, root: Path, *, running: bool) -> Wanted:
    """Return the model with this name in the folder `root`, or at this path. The name is not searched if a service is running.

    Raises UnknownModel if there is no such model, and ArtifactError if a service could not find it.
    """
    if running and not Path(model).is_dir():
        name, _, version = model.partition("/")
        return Wanted(name, int(version) if version.isdecimal() else None)

    from manifold.runtime import manifest, repository

    folder = repository.find(model, root)
    found = manifest.read(folder)
    if (folder.parent.name, folder.name) != (found.name, str(found.version)):
        raise ArtifactError(
            f"{folder}: a service needs models in folders NAME/VERSION; move this one to {found.name}/{found.version}"
        )
    return Wanted(found.name, found.version if Path(model).name == folder.name else None, folder.parents[1])


def serve(address: Address, wanted: Wanted, browser: bool, **options: Any) -> int:
    """Run a service until a signal to stop, and open the page of a model once it is ready. Return the exit status.

    The service is stopped if it cannot use the model. The error is then raised.
    """
    from manifold.service import __main__ as entry

    ended, failed = threading.Event(), list[ManifoldError]()

    def follow() -> None:
        try:
            if wait(address, wanted.name, ended.is_set):
                show(address.page(wanted), browser)
        except ManifoldError as error:
            failed.append(error)
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="page", daemon=True).start()
    status = entry.run(**options, models_dir=wanted.root)
    ended.set()
    if failed:
        raise failed[0]
    return status


def check_has(address: Address, health: Mapping[str, Any], name: str) -> None:
    """Raise UnknownModel if a running service does not have a model. A service that hides its models from this host is not checked."""
    models = health.get("models")
    if isinstance(models, dict) and name not in models:
        raise UnknownModel(
            f"{address}: a Manifold service runs there already, and it has no model {cut(name)}{near(name, models)}; choose another port with --port to "
            "start a second service, or stop the first one",
            field="model", valid=sorted(models),
        )  # fmt: skip


def wait(address: Address, name: str, ended: Callable[[], bool] = lambda: False) -> bool:
    """Wait until a service has tried to load every model. Return false if `ended` became true before.

    Raises Unavailable if the model cannot be served then.
    """
    while not ended():
        try:
            health = address.health()
        except InvalidValue:  # a service that loads models may answer late, or not at all
            time.sleep(POLL)
            continue
        states = (health or {}).get("models") or {}
        if health is not None and (health["status"] == "ready" or (states and LOADING not in states.values())):
            if states.get(name) == UNAVAILABLE:
                raise Unavailable(
                    f"{name}: the service cannot use this model; `manifold check {name}` says why, and so does {address}/models/{name}",
                    field="model",
                )
            return True
        time.sleep(POLL)
    return False


def show(url: str, browser: bool) -> None:
    """Print the address of a page, and open it in a browser if `browser` is true and this machine has one."""
    typer.echo(url)
    if not browser:
        return
    if sys.platform == "linux" and not any(map(os.environ.get, SCREENS)):
        typer.echo("note: this session has no screen for a browser; open the address in a browser yourself", err=True)
    elif not webbrowser.open(url):
        typer.echo("note: no browser could be started; open the address in a browser yourself", err=True)
