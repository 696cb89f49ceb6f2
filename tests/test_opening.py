"""`manifold open`: the page of a model in a browser, from a service that is started or one that runs already."""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from manifold import cli
from manifold.cli import opening
from manifold.runtime.errors import ArtifactError, InvalidValue, Unavailable, UnknownModel
from manifold.service import __main__ as entry
from tests import foreign
from tests.conftest import ROOT, SHIPPED
from tests.served import free_port, served, until


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the addresses that are opened in a browser. This machine is one with a screen."""
    addresses: list[str] = []

    def open_page(url: str) -> bool:
        addresses.append(url)
        return True

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "open", open_page)
    return addresses


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return a folder with the model `foreign`."""
    foreign.write(tmp_path / "models")
    return tmp_path / "models"


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.app, ["open", *map(str, arguments)])


def test_the_page_of_a_running_service_is_opened(models: Path, opened: list[str], tmp_path: Path) -> None:
    with served(models) as service:
        done = run(
            "foreign", "--port", service.port, "--models", tmp_path / "nowhere"
        )  # the service has its own folder
        assert (done.exit_code, done.stdout) == (0, f"{service.url}/?model=foreign\n")
        assert opened == [f"{service.url}/?model=foreign"]
        assert run("foreign/1", "--port", service.port).stdout == f"{service.url}/?model=foreign&version=1\n"
        by_path = run(models / "foreign", "--port", service.port)
        assert by_path.stdout == f"{service.url}/?model=foreign\n" and len(opened) == 3
        printed = run("foreign", "--port", service.port, "--no-browser")
        assert printed.stdout == f"{service.url}/?model=foreign\n" and len(opened) == 3


def test_a_running_service_without_the_model_is_reported(models: Path, opened: list[str]) -> None:
    with served(models) as service:
        missing = run("foreing", "--port", service.port)
        assert isinstance(missing.exception, UnknownModel)
        assert (
            f"{service.url}: a Manifold service runs there already, and it has no model foreing (did you mean"
            in str(missing.exception)
        )
        assert isinstance(run(SHIPPED / "mnist-gan", "--port", service.port).exception, UnknownModel)
    assert opened == []


def test_a_model_that_the_service_cannot_use_is_not_opened(models: Path, opened: list[str]) -> None:
    shutil.copytree(models / "foreign/1", models / "damaged/1")  # its manifest has another name
    with served(models) as service:
        broken = run("damaged", "--port", service.port)
        assert isinstance(broken.exception, Unavailable)
        assert f"`manifold check damaged` says why, and so does {service.url}/models/damaged" in str(broken.exception)
    assert opened == []


class Other(http.server.BaseHTTPRequestHandler):
    """Another program, which answers everything with a page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.text)  # type: ignore[attr-defined]

    def log_message(self, format: str, *arguments: Any) -> None:
        """Write no log."""


@pytest.fixture
def other() -> Iterator[http.server.HTTPServer]:
    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("text", "reason"),
    [(b"<html>", "Expecting value"), (b'{"status": "ok"}', "its response to /health/ready has another form"), (b"[]", "another form")],
)  # fmt: skip
def test_another_program_at_the_address_is_reported(
    other: http.server.HTTPServer, text: bytes, reason: str, models: Path
) -> None:
    other.text = text  # type: ignore[attr-defined]
    found = run("foreign", "--port", other.server_port, "--models", models)
    assert isinstance(found.exception, InvalidValue)
    assert reason in str(found.exception) and "choose another one with --port" in str(found.exception)


def test_a_model_is_checked_before_a_service_starts(
    models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(entry, "run", lambda **options: pytest.fail("a service was started"))
    port = free_port()
    unknown = run("foreing", "--port", port, "--models", models)
    assert isinstance(unknown.exception, UnknownModel) and f"did you mean {models / 'foreign'}" in str(
        unknown.exception
    )
    shutil.copytree(models / "foreign/1", tmp_path / "elsewhere")
    flat = run(tmp_path / "elsewhere", "--port", port)
    assert isinstance(flat.exception, ArtifactError) and "move this one to foreign/1" in str(flat.exception)
    monkeypatch.setenv("MANIFOLD_PORT", "0")
    assert "give --port" in str(run("foreign", "--models", models).exception)


def test_a_service_is_started_with_the_folder_of_the_model(
    models: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page is opened once the service is ready, and the status is the service's."""
    given: dict[str, Any] = {}

    def serve(**options: Any) -> int:
        given.update(options)
        with served(options["models_dir"], port=options["port"]):
            until(lambda: bool(opened))
        return 7

    monkeypatch.setattr(entry, "run", serve)
    port = free_port()
    done = run(models / "foreign/1", "--port", port)
    url = f"http://127.0.0.1:{port}/?model=foreign&version=1"
    assert (done.exit_code, done.stdout, opened) == (7, f"{url}\n", [url])
    assert given == {"host": None, "port": port, "models_dir": models}


def test_a_started_service_is_stopped_if_it_cannot_use_the_model(
    models: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = threading.Event()

    def serve(**options: Any) -> int:
        with served(options["models_dir"], port=options["port"]):
            assert stopped.wait(60)
        return 0

    monkeypatch.setattr(entry, "run", serve)
    monkeypatch.setattr(os, "kill", lambda process, number: stopped.set())
    for graph in models.glob("foreign/1/*.onnx"):
        graph.write_bytes(b"damaged")
    done = run("foreign", "--port", free_port(), "--models", models)
    assert isinstance(done.exception, Unavailable) and opened == []


def test_without_a_screen_the_address_is_only_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], opened: list[str]
) -> None:
    for name in opening.SCREENS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    opening.show("http://here", True)
    assert capsys.readouterr() == (
        "http://here\n",
        "note: this session has no screen for a browser; open the address in a browser yourself\n",
    )
    assert opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    opening.show("http://here", True)
    assert "no browser could be started" in capsys.readouterr().err


def test_addresses() -> None:
    wanted = opening.Wanted("a&b", 3)
    assert opening.Address("0.0.0.0", 80).page(wanted) == "http://127.0.0.1:80/?model=a%26b&version=3"
    assert opening.Address("::", 8443, tls=True).page(opening.Wanted("m")) == "https://[::1]:8443/?model=m"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_opens_the_page_and_ends_with_status_0(models: Path, tmp_path: Path, number: int) -> None:
    seen, browser, port = tmp_path / "seen", tmp_path / "browser", free_port()
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}.new && mv {seen}.new {seen}\n')
    browser.chmod(0o755)
    command = [sys.executable, "-m", "manifold.cli", "open", "foreign", "--port", str(port), "--models", str(models)]
    environment = {**os.environ, "BROWSER": str(browser), "PYTHONPATH": str(ROOT), "MANIFOLD_GRPC_PORT": "0"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until(lambda: seen.exists() or process.poll() is not None, 120)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    url = f"http://127.0.0.1:{port}/?model=foreign\n"
    assert (process.returncode, output) == (0, url), errors
    assert seen.read_text() == url
