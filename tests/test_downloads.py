"""Downloads of data sets and weights: one line that says why one failed, within seconds."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from manifold.training import inception
from manifold.training.data import remote
from manifold.training.data.remote import Remote
from manifold.training.errors import DataError

FILE = "mnist/train-images-idx3-ubyte.gz"


class Server(BaseHTTPRequestHandler):
    """A server that has one file, `/a.bin`."""

    def do_GET(self) -> None:
        """Send the file, or status 503."""
        self.send_response(200 if self.path == "/a.bin" else 503)
        self.end_headers()
        self.wfile.write(b"content")

    def log_message(self, *_: object) -> None:
        """Write no log."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MANIFOLD_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def served() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def silent() -> Iterator[str]:
    """Yield the address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def failure(url: str) -> str:
    with pytest.raises(DataError) as caught:
        remote.fetch(Remote(FILE, url, "sha256:00"))
    return caught.value.message


def test_a_server_that_cannot_be_reached_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host = f"127.0.0.1:{taken.getsockname()[1]}"
    assert failure(f"http://{host}/") == (
        f"mnist: cannot be downloaded from {host} (Connection refused); connect to the internet, or set MANIFOLD_DATA to a folder "
        f"that holds {FILE}"
    )


def test_a_server_that_never_answers_is_given_up(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "READ_SECONDS", 0.1)
    assert f"mnist: cannot be downloaded from {silent} (no answer within 0.1 s); " in failure(f"http://{silent}/")


def test_the_reason_of_the_server_is_said(served: str) -> None:
    assert f"cannot be downloaded from {served} (HTTP status 503)" in failure(f"http://{served}/none/")
    with pytest.raises(DataError, match=r"a: the file that .* sent is not the published one: .*; do this") as caught:
        remote.download("a", f"http://{served}/a.bin", "sha256:00", Path("a"), "do this")
    assert "\n" not in caught.value.message


def test_weights_that_cannot_be_downloaded_name_the_option(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "READ_SECONDS", 0.1)
    monkeypatch.setattr(inception, "URL", f"http://{silent}/weights.pth")
    with pytest.raises(DataError, match=r"inception: cannot be downloaded .*give it by --weights weights\.pth"):
        inception.weights_file(None)


def test_a_download_is_announced_when_it_begins_and_a_failure_is_one_line(
    served: str, capfd: pytest.CaptureFixture[str]
) -> None:
    failure(f"http://{served}/none/")
    assert capfd.readouterr() == ("", "")
    remote.download("a", f"http://{served}/a.bin", None, Path("a"), "do this")
    out, error = capfd.readouterr()
    assert (out, error) == ("", f"downloading http://{served}/a.bin (0.0 MB)\n")
