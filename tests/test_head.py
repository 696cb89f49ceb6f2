"""HEAD is answered like GET, without the body."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests import foreign
from tests.served import Served, served

OWN = {"x-request-id", "date"}
PAGES = (
    "/", "/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css", "/models", "/models/foreign", "/models/foreign/stats", "/models/foreign/preview.png",
    "/models/nothing", "/models/foreign?version=a", "/health/live", "/health/ready", "/metrics", "/v2", "/v2/health/live", "/v2/health/ready",
    "/v2/models/foreign", "/v2/models/foreign/versions/1", "/v2/models/foreign/ready", "/v2/models/foreign/config", "/v2/models/foreign/stats",
    "/v2/models/stats", "/v2/models/nothing", "/sample", "/v2/models/foreign/infer", "/v2/repository/index", "/admin/reload", "/nothing", "/v2/nothing",
)  # fmt: skip


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root: Path = tmp_path_factory.mktemp("head")
    (foreign.write(root) / "preview.png").write_bytes(b"a picture" * 1000)
    with served(root) as service:
        yield service


@pytest.mark.parametrize("path", PAGES)
def test_head_is_get_without_a_body(path: str, service: Served) -> None:
    got, head = service.client.get(path), service.client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    expected = {name: value for name, value in got.headers.items() if name not in OWN}
    found = {name: value for name, value in head.headers.items() if name not in OWN}
    if path == "/metrics":  # its counters increase
        assert int(found.pop("content-length")) >= int(expected.pop("content-length"))
    assert found == expected
    assert path == "/metrics" or int(head.headers["content-length"]) == len(got.content)


def test_head_is_counted_under_the_route_that_answers(service: Served) -> None:
    pattern = r'manifold_requests_total\{route="/models/\{name\}",status="200"\}'
    before = service.metric(pattern)
    service.client.head("/models/foreign")
    assert service.metric(pattern) == before + 1


def test_what_takes_get_says_that_it_takes_head(service: Served) -> None:
    for path in ("/models", "/v2"):
        answer = service.client.post(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


def test_head_on_a_connection_that_is_kept(service: Served) -> None:
    """A client would read a body after the answer as the next answer."""
    with httpx.Client(base_url=service.url) as client:
        for _ in range(3):
            assert client.head("/models").status_code == 200
            assert re.match(r"\{", client.get("/models").text)
