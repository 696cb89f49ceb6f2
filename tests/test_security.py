"""Keys, scopes, rates, and what is allowed without a key."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from manifold.runtime.errors import Busy, Forbidden, Unauthorized
from manifold.service import security
from manifold.service.core import use_cases
from manifold.service.http.front import ADMIN as ADMIN_ROUTES
from manifold.service.http.front import OPEN
from manifold.service.http.statuses import EXAMPLES
from manifold.service.inference.described import MESSAGES
from manifold.service.security import Security, TokenBucket
from manifold.service.server import check
from manifold.service.settings import Settings, SettingsError, is_loopback
from manifold.service.stubs import manifold_pb2 as pb
from manifold.service.stubs import manifold_pb2_grpc as stubs
from tests import foreign
from tests.conftest import wait_until_ready
from tests.keyed import ADMIN, ADMIN_TOKEN, KEY, TOKEN, app_with, bearer
from tests.served import served, until


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("security")
    foreign.write(root)
    return root


@pytest.fixture(scope="module")
def locked(root: Path) -> Iterator[TestClient]:
    with app_with(root) as client:
        wait_until_ready(client)
        yield client


# --- keys in files ---


def test_a_key_is_kept_by_its_hash_and_read_back() -> None:
    token, key = security.create("a.b-c", ["admin", "infer"], rate=2.5)
    assert hashlib.sha256(token.encode()).hexdigest() in str(key)
    assert token not in str(key)
    assert security.parse(f"# whose\n{key}\n\n") == [key]
    assert str(key).split(":")[1] == "infer+admin"
    assert security.create("x", ["infer"])[0] != security.create("x", ["infer"])[0]
    assert len(base64.urlsafe_b64decode(token.removeprefix("mf_") + "=")) == 32


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("shop:infer:abc", "entry 1: is not a valid entry"),
        (f"{KEY} {TOKEN}", "entry 2: is not a valid entry"),
        (f"shop:root:{'0' * 64}", "unknown scope 'root'; use infer or admin"),
        (f"shop:infer:{'0' * 64}:fast", "is not a valid entry"),
        (f"{KEY} {KEY}", "two keys have the name 'shop'"),
        (f"{KEY} {str(KEY).replace('shop', 'other')}", "two names have the same token"),
    ],
)
def test_wrong_entries_are_named_and_not_repeated(text: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint) as caught:
        Security(Settings(keys=text, auth="on"))
    assert TOKEN not in caught.value.message


def test_a_key_that_cannot_be_says_what_is_wrong_with_it() -> None:
    for name in ("", "bad name", "a:b", "x" * 65):
        with pytest.raises(SettingsError, match="letters, digits"):
            security.create(name, ["infer"])
    with pytest.raises(SettingsError, match="use infer or admin"):
        security.create("a", ["root"])


def test_a_look_beforehand_takes_models_of_ones_own(root: Path) -> None:
    """The standard default model may be absent; a default model that is set must exist."""
    assert "1 models: foreign" in check(Settings(models_dir=root))
    with pytest.raises(SettingsError, match="gone"):
        check(Settings(models_dir=root, default_model="gone"))


@pytest.mark.parametrize(
    ("host", "published", "needed"),
    [
        ("127.0.0.1", None, False), ("::1", None, False), ("localhost", None, False), ("0.0.0.0", None, True), ("::", None, True),
        ("box.example", None, True), ("0.0.0.0", "127.0.0.1", False), ("127.0.0.1", "0.0.0.0", True), ("10.1.2.3", "", True),
    ],
)  # fmt: skip
def test_keys_are_asked_for_beyond_loopback(
    host: str, published: str | None, needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if published is not None:
        monkeypatch.setenv("MANIFOLD_PUBLISHED", published)  # an empty value counts as not set
    settings = Settings(host=host)
    assert settings.authenticated is needed
    if needed:
        with pytest.raises(SettingsError, match="manifold key NAME"):
            Security(settings)
    else:
        assert not Security(settings).needed
    assert not Security(Settings(host=host, auth="off")).needed


def test_loopback_is_told_by_address() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST"))
    assert not any(is_loopback(host) for host in ("", "0.0.0.0", "::", "localhost.evil.example", "192.168.1.1", "1"))


# --- scopes ---


def test_what_a_key_may_do() -> None:
    guard = Security(Settings(keys=f"{KEY} {ADMIN}", auth="on"))
    assert guard.check(f"Bearer {TOKEN}", "infer").name == "shop"
    assert guard.check(f"bearer  {ADMIN_TOKEN} ", "admin").name == "ops"
    forbidden, unauthorized = EXAMPLES["forbidden"], EXAMPLES["unauthorized"]  # as the OpenAPI document shows them
    with pytest.raises(Forbidden, match=re.escape(forbidden["message"])) as caught:
        guard.check(f"Bearer {TOKEN}", "admin")
    assert caught.value.valid == forbidden["valid"]
    with pytest.raises(Unauthorized, match=re.escape(unauthorized["message"])):
        guard.check(None, "infer")
    assert MESSAGES[401] == unauthorized["message"]
    for wrong in (
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}x",
        f"Bearer {KEY.digest.hex()}",
        "Bearer \udc80\xff",
    ):
        with pytest.raises(Unauthorized):
            guard.check(wrong, "infer")


def test_every_route_but_the_open_ones_asks_for_a_key(locked: TestClient) -> None:
    schema = locked.get("/openapi.json").json()
    routes = [(method, path) for path, methods in schema["paths"].items() for method in methods]
    assert ("post", "/admin/reload") in routes
    assert {f"/{name}" for name in use_cases.every} <= {path for _, path in routes}
    for method, path in [*routes, ("get", "/nowhere"), ("get", "/sample"), ("delete", "/models"), ("get", "/admin/")]:
        answer = locked.request(method, path.replace("{name}", "foreign"))
        if path in OPEN:
            assert answer.status_code < 400
            assert "security" not in schema["paths"][path][method]
            continue
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == 'Bearer realm="manifold"'
        assert "manifold key NAME" in str(answer.json()["error"])
        if method in schema["paths"].get(path, {}):
            assert schema["paths"][path][method]["security"] == [{"key": []}]
        assert locked.request(method, path.replace("{name}", "foreign"), headers=bearer("mf_x")).status_code == 401
        with_key = locked.request(method, path.replace("{name}", "foreign"), headers=bearer(TOKEN))
        assert (with_key.status_code == 403) == path.startswith(ADMIN_ROUTES)
        assert with_key.status_code != 401
    for path in ("/", "/docs", "/static-offline-docs/swagger-ui.css"):
        assert locked.get(path).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "http://testserver//models", "/static-offline-docs/../models", "/docs/../models", "/health/live/../../models", "/%6dodels", "/models/",
        "/static-offline-docs/..%2f..%2fservice%2fsettings.py", "/static-offline-docs/%2e%2e/%2e%2e/models",
    ],
)  # fmt: skip
def test_tricks_with_the_path_do_not_help(path: str, locked: TestClient) -> None:
    answer = locked.get(path, follow_redirects=False)
    assert answer.status_code in (401, 404)
    assert "foreign" not in answer.text


def test_requests_are_counted_by_key_and_denials_by_type(locked: TestClient) -> None:
    def metric(pattern: str) -> float:
        found = re.search(pattern + r" ([\d.]+)", locked.get("/metrics").text)
        return float(found.group(1)) if found else 0.0

    counter = rf'key_requests_total\{{key="{KEY.id}"\}}'
    asked, denied = metric(counter), metric(r'denied_total\{type="unauthorized"\}')
    assert locked.post("/sample", json={"seed": 1}, headers=bearer(TOKEN)).status_code == 200
    assert locked.post("/sample", json={"seed": 1}).status_code == 401
    assert metric(counter) == asked + 1
    assert metric(r'denied_total\{type="unauthorized"\}') == denied + 1


def test_nothing_of_a_body_is_read_without_a_key(root: Path) -> None:
    with (
        served(root, auth="on", keys=str(KEY)) as service,
        socket.create_connection(("127.0.0.1", service.port), 30) as connection,
    ):
        connection.sendall(b"POST /sample HTTP/1.1\r\nHost: here\r\nContent-Length: 16000000\r\n\r\n{")
        assert connection.recv(1000).startswith(b"HTTP/1.1 401")


def test_keys_are_not_in_the_log(root: Path) -> None:
    with app_with(root, log_requests=True) as client, capture_logs() as lines:
        wait_until_ready(client)
        client.post("/sample", json={}, headers=bearer(TOKEN))
        client.get("/models/%1b[31mred%0a", headers=bearer(TOKEN))
    asked = [line for line in lines if line["event"] == "request"]
    assert [line["key"] for line in asked[-2:]] == ["shop", "shop"]
    assert asked[-1]["path"] == "/models/%1B%5B31mred%0A"
    assert TOKEN not in str(lines)


def test_names_do_not_walk_the_file_system(locked: TestClient) -> None:
    for name in ("../foreign", "..", ".", "/etc", "foreign/1", "foreign/../foreign", "~", "foreign\0", "C:\\"):
        answer = locked.post("/sample", json={"model": name}, headers=bearer(TOKEN))
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "unknown_model")
    for path in ("/models/..%2fforeign", "/models/..%2f..%2fetc%2fpasswd/preview.png", "/models/%2e%2e/preview.png"):
        assert locked.get(path, headers=bearer(TOKEN)).status_code == 404


def test_checksums_can_be_asked_for(root: Path) -> None:
    with app_with(root, require_checksums=True) as client:
        until(lambda: "loading" not in client.get("/health/ready").json()["models"].values())
        answer = client.get("/health/ready")
        assert answer.status_code == 503
        assert answer.json()["reason"].startswith("unavailable: foreign (GET /models/foreign")
        assert "no checksums" in client.get("/models/foreign", headers=bearer(TOKEN)).json()["reason"]


# --- rates ---


@given(st.floats(0.5, 50), st.lists(st.floats(0, 3), min_size=1, max_size=60))
def test_a_bucket_gives_its_rate_and_no_more(rate: float, gaps: list[float]) -> None:
    """Over any period the bucket allows at most its burst and the refilled tokens. After the stated wait the next request is allowed."""
    now, given_out = 100.0, 0
    bucket = TokenBucket(rate, now)
    for gap in gaps:
        now += gap
        wait = bucket.take(rate, now)
        given_out += not wait
        if wait:
            assert 0 < wait <= 1 / rate + 1e-6
        assert given_out <= max(1.0, rate) + rate * (now - 100.0) + 1e-6
    now += bucket.take(rate, now) + 1e-6
    wait = bucket.take(rate, now)
    assert wait == 0 or bucket.take(rate, now + wait + 1e-6) == 0


def test_who_asks_too_often_is_told_when_to_come_back(root: Path) -> None:
    token, key = security.create("slow", ["infer"], rate=0.5)
    with app_with(root, keys=f"{key} {KEY}") as client:
        wait_until_ready(client)
        assert client.get("/models", headers=bearer(token)).status_code == 200
        answer = client.get("/models", headers=bearer(token))
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
        assert "the key slow may send 0.5 requests/s" in answer.json()["error"]["message"]
        assert 'manifold_refused_total{reason="rate"} 1.0' in client.get("/metrics").text
        assert all(client.get("/models", headers=bearer(TOKEN)).status_code == 200 for _ in range(5))
    guard = Security(Settings(keys=str(KEY), auth="on", rate=2))
    for _ in range(2):
        guard.check(f"Bearer {TOKEN}", "infer")
    with pytest.raises(Busy):
        guard.check(f"Bearer {TOKEN}", "infer")


# --- gRPC ---


def test_rpcs_ask_for_keys_as_routes_do(root: Path) -> None:
    with (
        served(root, grpc=True, auth="on", keys=f"{KEY} {ADMIN}") as service,
        grpc.insecure_channel(service.target) as channel,
    ):
        stub = stubs.ManifoldStub(channel)
        requests: dict[str, Any] = {
            "SampleStream": pb.SampleRequest(), "AnomalyScoreFile": iter([pb.ScoreFileRequest(kind="csv")]), "ListModels": pb.ListModelsRequest(),
            "AnomalyScore": pb.ScoreRequest(),
            **{f"Get{name}": pb.GetModelRequest() for name in ("Model", "Stats", "Preview", "Points", "Curves", "Sheet", "Epochs")},
        }  # fmt: skip
        names = [method.name for method in pb.DESCRIPTOR.services_by_name["Manifold"].methods]
        for name in names:
            request = requests.get(name) or getattr(pb, f"{name}Request")()
            with pytest.raises(grpc.RpcError) as caught:
                answer = getattr(stub, name)(request, timeout=30)
                list(answer)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED, name
            assert "manifold key NAME" in caught.value.details()
        mine = [("authorization", f"Bearer {TOKEN}")]
        assert stub.Sample(pb.SampleRequest(seed=1), metadata=mine, timeout=30).images
        assert len(list(stub.SampleStream(pb.SampleRequest(seed=1, n=9), metadata=mine, timeout=30))) > 1
        assert [model.name for model in stub.ListModels(pb.ListModelsRequest(), metadata=mine, timeout=30).models] == [
            "foreign"
        ]
        with pytest.raises(grpc.RpcError) as caught:
            stub.Sample(pb.SampleRequest(seed=1), metadata=[("authorization", "Bearer mf_x")], timeout=30)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        health = health_pb2_grpc.HealthStub(channel)
        serving = health_pb2.HealthCheckResponse.SERVING
        until(lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=30).status == serving)
        assert service.metric(rf'manifold_key_requests_total\{{key="{KEY.id}"\}}') == 3


# --- pages, headers, other origins ---


def test_every_answer_carries_its_guards(locked: TestClient) -> None:
    for path in (
        "/",
        "/docs",
        "/models",
        "/nowhere",
        "/health/live",
        "/metrics",
        "/openapi.json",
        "/static-offline-docs/swagger-ui.css",
    ):
        headers = locked.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "strict-transport-security" not in headers
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers
    for path in ("/", "/docs"):
        headers = locked.get(path).headers
        assert (headers["x-frame-options"], headers["referrer-policy"]) == ("DENY", "no-referrer")
    made = locked.post("/sample", json={}, headers=bearer(TOKEN)).headers
    assert made["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert made["cache-control"] == "no-store"


def test_pages_may_run_what_they_hold_and_nothing_else(locked: TestClient) -> None:
    for path in ("/", "/docs"):
        page = locked.get(path)
        policy = page.headers["content-security-policy"]
        scripts = re.findall(r"<script(?: type=.importmap.)?>(.*?)</script>", page.text, re.DOTALL)
        assert scripts
        for script in scripts:
            assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
        assert "unsafe-inline" not in policy.split("style-src")[0]
        assert not re.search(r"""\son\w+=["']""", page.text)


def test_other_origins_only_where_they_are_named(root: Path) -> None:
    asked = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    with app_with(root) as client:
        answer = client.options("/sample", headers=asked)
        assert answer.status_code == 401
        assert "access-control-allow-origin" not in answer.headers
    with app_with(root, cors_origins=("https://shop.example", "https://b.example")) as client:
        wait_until_ready(client)
        answer = client.options("/sample", headers=asked)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://shop.example")
        assert client.options("/sample", headers={**asked, "Origin": "https://evil.example"}).status_code == 400
        made = client.post("/sample", json={}, headers={"Origin": "https://shop.example", **bearer(TOKEN)})
        assert made.headers["access-control-allow-origin"] == "https://shop.example"
        refused = client.post("/sample", json={}, headers={"Origin": "https://shop.example"})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://shop.example")
        theirs = client.post("/sample", json={}, headers={"Origin": "https://evil.example", **bearer(TOKEN)})
        assert "access-control-allow-origin" not in theirs.headers
