"""The client's address, key, time limit and retries: checks before the first request, and errors for a service that does not answer."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from manifold_client import (
    AsyncClient,
    Client,
    ClientClosed,
    InvalidType,
    InvalidValue,
    NotReady,
    RequestRefused,
    Retry,
)
from manifold_client.urls import unreachable

ONCE = Retry(attempts=1)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:8000", "url: '127.0.0.1:8000' has no scheme; write http://127.0.0.1:8000"),
        ("localhost", "write http://localhost"),
        ("", "url: it is empty; write the address of the service, such as http://127.0.0.1:8000"),
        ("  ", "url: it is empty"),
        ("grpc://host:8001", "has the scheme 'grpc'; write http://host:8001"),
        ("http://", "has no host"),
        ("http://host:port", "is not valid"),
        ("http://host:99999", "is not valid"),
        ("http://host:8000/sample", "is the address of an endpoint; write the address of the service: http://host:8000"),
        ("https://host/prefix/docs/", "write the address of the service: https://host/prefix"),
        ("http://host/v2/models/mnist-vae/infer", "write the address of the service: http://host"),
        ("https://host/v1/v2/models/mnist-vae/infer", "write the address of the service: https://host/v1"),
        ("http:/host:8000", "does not begin with http:// and a host; write http://host:8000"),
        ("https:host", "write https://host"),
        ("http//host", "does not begin with http:// and a host; write http://host"),
        ("HTTPS///host", "write https://host"),
        ("http:///host/x", "write http://host/x"),
        ("http:8000", "has no scheme; write http://127.0.0.1:8000"),
        ("http", "write http://127.0.0.1:8000"),
        ("a" * 300, "write http://127.0.0.1:8000"),
        ("http://a b", "contains a blank or a control character; remove it"),
        ("http://u:se cret@a", "'http://***@a' contains a blank"),
        ("http://a\nb", "contains a blank or a control character"),
        ("http://a,b", "has the host 'a,b', which is no name of a host"),
        ("http://a..b", "has the host 'a..b'"),
        (f"http://{'a' * 64}", "is no name of a host"),
        (f"http://{'a.' * 130}a", "is no name of a host"),
        ("models/mnist-vae", "is a path; write the address of a running service, such as http://127.0.0.1:8000, or use the model without a service: "
                             "manifold.load('models/mnist-vae')"),
        ("/srv/models/x", "manifold.load('/srv/models/x')"),
        ("./x", "manifold.load('./x')"),
        ("file:///models/x", "manifold.load('/models/x')"),
        ("::1", "write http://[::1]"),
        ("http://::1", "write http://[::1]"),
        ("http://host?model=a", "has a query; write the address alone: http://host"),
    ],
)  # fmt: skip
def test_wrong_addresses_are_explained(url: str, message: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidValue) as caught:
            kind(url)
        assert message in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "url", ["http://gw/models/prod", "https://gw/v2/manifold", "http://gw/v2", "http://gw/admin", "http://gw/@tenant", "http://[::1]:8000", "http://a_b:81",
            "http://gw.", "http://xn--mnchen-3ya.de"]
)  # fmt: skip
def test_prefixes_of_proxies_are_addresses(url: str) -> None:
    for kind in (Client, AsyncClient):
        assert url in repr(kind(url))


@pytest.mark.parametrize(
    "url",
    [
        "u:secret@host", "http://u:secret@host?x=1", "http://u:secret@host/sample", "grpc://u:secret@host", "http://u:secret@",
        "http://u:sec/secret@host", "http://u:secret@host:port", "file://u:secret@host", "http://u:secret/x@y@host", "http:/u:secret@host",
    ],
)  # fmt: skip
def test_passwords_of_addresses_are_not_shown(url: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        Client(url)
    assert "secret" not in str(caught.value) and "***@" in str(caught.value)


def test_a_password_is_sent_and_not_shown() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(request.headers["authorization"].partition(" ")[0])

    client = Client("http://u:secret@host", transport=httpx.MockTransport(handle), retry=ONCE)
    assert repr(client) == "<Client: http://***@host>"
    with pytest.raises(NotReady, match=r"http://\*\*\*@host does not answer: Basic"):
        client.models()


@pytest.mark.parametrize("timeout", [-1, 0, "30", True, float("nan"), float("inf")])
def test_a_time_limit_is_a_number_of_seconds(timeout: Any) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidValue, match=r"timeout: .* is not allowed; give a number of seconds above 0"):
            kind(timeout=timeout)


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"attempts": True}, {"attempts": 1.5}, {"base": -1}, {"longest": "10"}]
)
def test_a_rule_for_retries_is_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match=f"{next(iter(wrong))}: .* is not allowed; give"):
        Retry(**wrong)
    assert Retry(1, 0, 0).attempts == 1


@pytest.mark.parametrize("key", ["schlüssel", "a\nb", "a b"])
def test_a_key_has_visible_characters(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidValue, match="key: the key may only have visible ASCII"):
        Client(key=key)
    monkeypatch.setenv("MANIFOLD_KEY", key)
    with pytest.raises(InvalidValue, match="MANIFOLD_KEY: the key may only"):
        AsyncClient()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retry": 4}, r"retry: 4 is not a Retry; give Retry\(attempts=4\)"),
        ({"retry": True}, r"retry: True is not a Retry; give Retry\(attempts=3\)"),
        ({"verify": "ca.pem"}, r"verify: 'ca.pem' is a string; give ssl.create_default_context\(cafile='ca.pem'\)"),
        ({"verify": None}, "verify: None is not an SSL context; give one"),
        ({"transport": 3}, "transport: 3 is not an httpx.(Async)?BaseTransport; give one"),
        ({"key": b"secret"}, "key: a value of type bytes is not a string; give the key as a string"),
        ({"timout": 3}, r"timout: (Async)?Client has no such field; did you mean timeout\?"),
        ({"url": Path("models/x")}, "url: 'models/x' is a path; .*manifold.load"),
    ],
)
def test_an_argument_of_a_client_has_its_type(options: dict[str, Any], message: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidType, match=message) as caught:
            kind(**options)
        assert caught.value.field == next(iter(options))


def test_transports_wait_or_await() -> None:
    with pytest.raises(InvalidType, match=r"transport: .* is not an httpx\.BaseTransport"):
        Client(transport=httpx.AsyncHTTPTransport())  # type: ignore[arg-type]
    with pytest.raises(InvalidType, match=r"transport: .* is not an httpx\.AsyncBaseTransport"):
        AsyncClient(transport=httpx.HTTPTransport())  # type: ignore[arg-type]


def test_a_closed_client_says_so() -> None:
    with Client() as client:
        pass
    for call in (client.models, client.sample, lambda: next(client.sample_stream(1))):
        with pytest.raises(ClientClosed, match="the client is closed; create a new one") as caught:
            call()
        assert isinstance(caught.value, RuntimeError)

    async def scene(stream: bool) -> None:
        async with AsyncClient() as closed:
            pass
        await (anext(closed.sample_stream(1)) if stream else closed.models())

    for stream in (False, True):
        with pytest.raises(ClientClosed, match="the client is closed"):
            asyncio.run(scene(stream))


def test_an_address_that_is_no_text_and_one_with_a_prefix() -> None:
    with pytest.raises(InvalidType, match="url: 8000 is not a string"):
        Client(8000)  # type: ignore[arg-type]
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(200, json={"models": []})

    with Client("https://host/prefix", transport=httpx.MockTransport(handle)) as client:
        client.models()
    assert asked == ["https://host/prefix/models"]
    assert repr(client) == "<Client: https://host/prefix>"


@pytest.fixture
def plain_port() -> Iterator[int]:
    """Yield a port that answers everything with a page that is not Manifold's, without TLS."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(
                        b"HTTP/1.1 404 Not Found\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>"
                    )

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def chained(text: str) -> httpx.ConnectError:
    """Return the error of httpx for a failed handshake, with the error of OpenSSL as its cause."""
    error = httpx.ConnectError(text)
    error.__cause__ = ssl.SSLError(1, text)
    return error


@pytest.mark.parametrize(
    ("error", "timeout", "message"),
    [
        (httpx.ReadTimeout(""), 5, "no answer within 5 s; give a longer timeout"),
        (httpx.ReadTimeout(""), httpx.Timeout(5), "no answer within the timeout; give a longer timeout"),
        (httpx.PoolTimeout(""), None, "no answer within the timeout; give"),
        (chained("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1000)"), 5, "the port does not speak TLS; write http://host:1 "),
        (chained("[SSL] record layer failure (_ssl.c:1000)"), 5, "the port does not speak TLS; write http://host:1 "),
        (
            chained("[SSL: TLSV1_ALERT_PROTOCOL_VERSION] tlsv1 alert protocol version (_ssl.c:1000)"), 5,
            r"the TLS handshake failed \(.*TLSV1_ALERT_PROTOCOL_VERSION.*\); check the versions of TLS and the certificates",
        ),
        (chained("[SSL: SSLV3_ALERT_HANDSHAKE_FAILURE] sslv3 alert handshake failure"), 5, "the TLS handshake failed"),
    ],
)  # fmt: skip
def test_the_reason_of_a_failed_connection(error: httpx.TransportError, timeout: object, message: str) -> None:
    found = str(unreachable("https://host:1", error, timeout))
    assert re.fullmatch(f"https://host:1 does not answer: {message}.*", found)
    assert ("http://" in found) == ("does not speak TLS" in message)


def test_a_service_that_does_not_answer_is_explained(plain_port: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = free.getsockname()[1]
        with (
            Client(f"http://127.0.0.1:{closed}", retry=ONCE) as client,
            pytest.raises(NotReady, match=r"is the service running.*make serve"),
        ):
            client.models()
        with Client(f"http://127.0.0.1:{closed}", retry=ONCE) as client, pytest.raises(NotReady, match="make serve"):
            list(client.sample_stream(1))
    with (
        Client(f"https://127.0.0.1:{plain_port}") as client,
        pytest.raises(NotReady, match=f"does not speak TLS; write http://127.0.0.1:{plain_port}"),
    ):
        client.models()
    with (
        Client(f"http://127.0.0.1:{plain_port}") as client,
        pytest.raises(RequestRefused, match="HTTP 404: the answer is not from a Manifold service: <html>; check"),
    ):
        client.models()

    async def scene(url: str) -> None:
        async with AsyncClient(url, retry=ONCE) as client:
            await client.models()

    with pytest.raises(NotReady, match="make serve"):
        asyncio.run(scene(f"http://127.0.0.1:{closed}"))
    with pytest.raises(NotReady, match="does not speak TLS"):
        asyncio.run(scene(f"https://127.0.0.1:{plain_port}"))
