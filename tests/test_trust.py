"""The clients that a service without keys trusts: by host, by origin, on this machine; repeated headers; the contents of open routes."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.testclient import TestClient

from manifold.service import security
from manifold.service.http.app import create_app
from manifold.service.settings import Settings, SettingsError, read
from manifold.service.stubs import inference_pb2 as inference
from manifold.service.stubs import inference_pb2_grpc as inference_stubs
from manifold.service.stubs import manifold_pb2 as pb
from manifold.service.stubs import manifold_pb2_grpc as stubs
from tests import foreign
from tests.conftest import wait_until_ready
from tests.served import Served, served

TOKEN, KEY = security.create("shop", ["infer"])
HERE = "http://127.0.0.1:8000"
PAGE = {"Origin": "http://127.0.0.1:8000"}
EVIL = "http://evil.example"
HEALTH = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
READ = (
    "/",
    "/docs",
    "/openapi.json",
    "/models",
    "/models/foreign",
    "/models/foreign/stats",
    "/metrics",
    "/v2",
    "/v2/models/foreign",
    "/v2/models/stats",
)
ASKED = [
    ("POST", "/sample"),
    ("POST", "/v2/models/foreign/infer"),
    ("POST", "/v2/repository/index"),
    *(("GET", path) for path in READ),
]


def caller(root: Path, client: str = "127.0.0.1", **options: Any) -> TestClient:
    """Return a client on this machine, for a service without keys. Its settings trust only what the test names."""
    options = {"hosts": (), "trust_loopback": False, "auth": "off", **options}
    app = create_app(Settings(models_dir=root, device="cpu", default_model="foreign", **options))
    return TestClient(app, base_url=HERE, client=(client, 1), raise_server_exceptions=False, follow_redirects=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trust")
    foreign.write(root)
    return root


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[TestClient]:
    with caller(root) as client:
        wait_until_ready(client)
        yield client


@pytest.fixture(scope="module")
def service(root: Path) -> Iterator[Served]:
    with served(root, grpc=True, hosts=(), trust_loopback=False) as service:
        yield service


def ask(client: TestClient, method: str, path: str, headers: Any) -> Any:
    """Send a request that gets 200 if it is admitted."""
    body = '{"seed": 1}' if path == "/sample" else '{"parameters": {"seed": 1}}' if path.endswith("/infer") else ""
    return client.request(method, path, headers=headers, content=body)


def refused(answer: Any, field: str, status: int = 403) -> None:
    """Check that an error has the shape of its route and says what to do."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    message = error if isinstance(error, str) else error["message"]
    assert message.startswith(f"{field}: ")
    assert "MANIFOLD_" in message or status == 400
    assert "foreign" not in message or "of other origins" in message


# --- hosts ---


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:8000",
        "localhost.",
        "127.0.0.1",
        "127.0.0.1:65535",
        "127.8.8.8:1",
        "[::1]",
        "[::1]:8000",
        "[0:0:0:0:0:0:0:1]",
    ],
)
def test_loopback_names_are_answered(host: str, client: TestClient) -> None:
    for method, path in ASKED:
        assert ask(client, method, path, {"Host": host}).status_code == 200, path


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example",
        "127.0.0.1.nip.io:8000", "evil-localhost", "localhost@evil.example",
        "evil.example@localhost", "localhost:80:80", "localhost:", "localhost:8000/", "localhost evil.example",
        "localhost,evil.example", "[::1", "::1", "[::1]x",
        "0.0.0.0", "0.0.0.0:8000", "[::]", "2130706433", "127.1", "0x7f000001", "0177.0.0.1", "10.0.0.7",
        "203.0.113.9:8000", "[2001:db8::1]", "manifold", "service:8000",
        "testserver", "", ".", "..", "localhost..", "loc\xe4lhost", "xn--lcalhost-54a", "localhost%2eevil.example", "*",
    ],
)  # fmt: skip
def test_other_hosts_are_not(host: str, client: TestClient) -> None:
    for method, path in ASKED:
        refused(ask(client, method, path, {b"Host": host.encode("latin-1")}), "Host")
    for path in HEALTH:
        answer = client.get(path, headers={b"Host": host.encode("latin-1")})
        assert answer.status_code == 200
        assert "foreign" not in answer.text


def test_a_request_without_a_host_is_malformed(service: Served) -> None:
    for version in ("1.0", "1.1"):
        with socket.create_connection(("127.0.0.1", service.port), 30) as connection:
            connection.sendall(f"GET /models HTTP/{version}\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"foreign" not in answer


def test_hosts_of_the_settings_are_answered(root: Path) -> None:
    with caller(
        root, hosts=("box.example", "[2001:db8::1]"), host="bound.example", published="shown.example"
    ) as client:
        wait_until_ready(client)
        for host in (
            "box.example:8000",
            "BOX.example",
            "[2001:db8::1]:80",
            "bound.example",
            "shown.example",
            "localhost",
        ):
            assert client.get("/models", headers={"Host": host}).status_code == 200
        for host in ("a.box.example", "box.example.evil", "ox.example"):
            refused(client.get("/models", headers={"Host": host}), "Host")
    with caller(root, hosts=("*",)) as client:
        assert client.get("/models", headers={"Host": "whatever.example"}).status_code == 200
        refused(client.get("/models", headers={"Host": "whatever.example", "Origin": EVIL}), "Origin")


def test_the_address_that_was_connected_to_is_answered(root: Path) -> None:
    """The kubelet and Prometheus send the address of a pod or container. No web page can have such an address as its host name."""
    app = create_app(Settings(models_dir=root, device="cpu", default_model="foreign", auth="off", hosts=()))
    for base, host, status in (
        ("http://10.0.0.7:8000", "10.0.0.7:8000", 200), ("http://10.0.0.7:8000", "10.0.0.8:8000", 403), ("http://10.0.0.7:8000", "[::ffff:10.0.0.7]", 200),
        ("http://[fd00::5]:8000", "[fd00:0::5]:8000", 200), ("http://[fd00::5]:8000", "[fd00::6]:8000", 403), ("http://service:8000", "service:8000", 403),
    ):  # fmt: skip
        client = TestClient(app, base_url=base)
        assert client.get("/metrics", headers={"Host": host}).status_code == status, host


@pytest.mark.parametrize(
    "hosts", ["http://box.example", "box.example:8000", "box.example/", "a b:1", "*.example", "[::1"]
)
def test_hosts_that_cannot_be_end_the_start(hosts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANIFOLD_HOSTS", hosts)
    with pytest.raises(SettingsError, match=r"(?s)hosts.*is not a host name"):
        read()
    monkeypatch.setenv("MANIFOLD_HOSTS", "a, b.example  10.0.0.1 *")
    assert read().hosts == ("a", "b.example", "10.0.0.1", "*")


def test_keys_need_no_host(root: Path) -> None:
    with caller(root, auth="on", keys=str(KEY)) as client:
        wait_until_ready(client)
        mine = {
            "Authorization": f"Bearer {TOKEN}",
            "Host": "evil.example",
            "Origin": EVIL,
            "Sec-Fetch-Site": "cross-site",
        }
        assert client.get("/models", headers=mine).status_code == 200
        assert client.get("/models", headers={**mine, "Authorization": "Bearer mf_x"}).status_code == 401


# --- origins ---


@pytest.mark.parametrize(
    "headers",
    [
        {}, PAGE, {**PAGE, "Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "same-origin"},
        {"Host": "localhost:8000", "Origin": "http://LOCALHOST:8000"}, {"Host": "localhost", "Origin": "https://localhost"},
    ],
)  # fmt: skip
def test_its_own_pages_are_answered(headers: dict[str, str], client: TestClient) -> None:
    for method, path in ASKED:
        assert ask(client, method, path, headers).status_code == 200, path


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": EVIL}, {"Origin": "null"}, {"Origin": ""}, {"Origin": "http://127.0.0.1:3000"}, {"Origin": "http://127.0.0.1"}, {"Origin": "http://localhost:8000"},
        {"Origin": "http://127.0.0.1:8000.evil.example"}, {"Origin": "http://127.0.0.1:8000/"}, {"Origin": "127.0.0.1:8000"}, {"Origin": "ftp://127.0.0.1:8000"},
        {"Origin": "chrome-extension://127.0.0.1:8000"}, {"Origin": "file://"}, {"Origin": f"{HERE} {EVIL}"}, {"Origin": "http://x@127.0.0.1:8000"},
        {"Origin": EVIL, "Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
        {"Origin": EVIL, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    ],
)  # fmt: skip
def test_pages_of_other_origins_are_not(headers: dict[str, str], client: TestClient) -> None:
    for method, path in ASKED:
        refused(ask(client, method, path, headers), "Origin" if "Origin" in headers else "Sec-Fetch-Site")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None]
)
def test_what_a_page_may_send_without_asking_first_is_refused(kind: str | None, client: TestClient) -> None:
    headers = {"Origin": EVIL, **({} if kind is None else {"Content-Type": kind})}
    for path in (
        "/sample",
        "/encode",
        "/anomaly-score?model=foreign",
        "/v2/models/foreign/infer",
        "/nowhere",
        "/admin/reload",
        "/v2/repository/models/foreign/unload",
    ):
        refused(client.post(path, headers=headers, content=b'{"n": 1}'), "Origin")
    assert client.options("/sample", headers={**headers, "Access-Control-Request-Method": "POST"}).status_code == 403


def test_a_link_from_another_page_can_be_followed(client: TestClient) -> None:
    visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("/", headers=visit).status_code == 200
    refused(client.post("/sample", headers=visit, content=b"{}"), "Sec-Fetch-Site")


def test_origins_of_the_settings_are_answered(root: Path) -> None:
    with caller(root, cors_origins=("https://app.example",)) as client:
        wait_until_ready(client)
        answer = client.post(
            "/sample", json={"seed": 1}, headers={"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}
        )
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://app.example")
        for origin in ("https://app.example.evil", "http://app.example", "null", EVIL):
            refused(client.post("/sample", json={"seed": 1}, headers={"Origin": origin}), "Origin")


# --- admin routes ---

ADMIN = ("/admin/reload", "/admin/models/foreign/load", "/v2/repository/models/foreign/load")


def test_without_keys_admin_routes_are_off(client: TestClient) -> None:
    for path in (
        "/admin/reload",
        "/admin/models/foreign/unload",
        "/v2/repository/models/foreign/unload",
        "/admin/nothing",
    ):
        answer = client.post(path)
        assert answer.status_code == 403
        assert "MANIFOLD_TRUST_LOOPBACK" in answer.text
    assert client.get("/models").json()["models"][0]["state"] == "ready"


@pytest.mark.parametrize(
    ("headers", "address", "status"),
    [
        ({}, "127.0.0.1", 200), ({"host": "localhost:8000"}, "127.0.0.1", 200), ({"host": "[::1]:8000"}, "::1", 200),
        ({"host": "evil.example"}, "127.0.0.1", 403),
        ({"host": "box.example"}, "127.0.0.1", 403), ({"x-forwarded-for": "8.8.8.8"}, "127.0.0.1", 403), ({"x-forwarded-for": ""}, "127.0.0.1", 403),
        ({"forwarded": "for=8.8.8.8"}, "127.0.0.1", 403), ({"x-real-ip": "8.8.8.8"}, "127.0.0.1", 403), ({"via": "1.1 proxy"}, "127.0.0.1", 403),
        ({"origin": EVIL}, "127.0.0.1", 403), (PAGE, "127.0.0.1", 403), ({}, "10.0.0.7", 403),
    ],
)  # fmt: skip
def test_trust_in_loopback_is_for_this_machine(headers: dict[str, str], address: str, status: int, root: Path) -> None:
    with caller(root, address, trust_loopback=True, hosts=("box.example",)) as client:
        wait_until_ready(client)
        for path in ADMIN:
            assert client.post(path, headers=headers).status_code == status


def test_rpcs_that_change_models_follow_the_setting(root: Path, service: Served) -> None:
    load = inference.RepositoryModelLoadRequest(model_name="foreign")
    unload = inference.RepositoryModelUnloadRequest(model_name="foreign")

    def code(target: str, metadata: list[tuple[str, str]]) -> grpc.StatusCode:
        with grpc.insecure_channel(target) as channel:
            stub = inference_stubs.GRPCInferenceServiceStub(channel)
            try:
                stub.RepositoryModelLoad(load, timeout=30, metadata=metadata)
                stub.RepositoryModelUnload(unload, timeout=30, metadata=metadata)
            except grpc.RpcError as error:
                found: grpc.StatusCode = error.code()
                return found
            return grpc.StatusCode.OK

    assert code(service.target, []) is grpc.StatusCode.PERMISSION_DENIED
    with served(root, grpc=True, trust_loopback=True) as trusting:
        assert code(trusting.target, [("x-forwarded-for", "8.8.8.8")]) is grpc.StatusCode.PERMISSION_DENIED
        assert code(trusting.target, []) is grpc.StatusCode.OK


# --- repeated headers ---

TWICE = (
    "Authorization", "Host", "Origin", "Content-Type", "Content-Encoding", "X-Deadline-Ms", "X-Request-Id",
    "Inference-Header-Content-Length", "Sec-Fetch-Site",
)  # fmt: skip


@pytest.mark.parametrize("name", TWICE)
def test_a_header_that_has_one_value_is_refused_twice(name: str, client: TestClient, root: Path) -> None:
    with caller(root, auth="on", keys=str(KEY)) as locked:
        wait_until_ready(locked)
        for values in (
            ("a", "a"),
            ("127.0.0.1:8000", "evil.example"),
            (f"Bearer {TOKEN}", "Bearer mf_x"),
            ("Bearer mf_x", f"Bearer {TOKEN}"),
        ):
            headers = [(name, values[0]), (name.lower(), values[1])]
            for each in (client, locked):
                for method, path in (("POST", "/sample"), ("POST", "/v2/models/foreign/infer"), ("GET", "/models")):
                    answer = each.request(method, path, headers=headers)
                    assert answer.status_code == 400
                    assert "more than once" in answer.text
                    assert answer.headers["x-request-id"] not in ("a", "a, a")


def test_headers_that_are_lists_may_be_there_twice(client: TestClient) -> None:
    answer = client.post(
        "/sample",
        json={"seed": 1},
        headers=[("Accept", "text/html"), ("Accept", "image/png"), ("X-Any", "1"), ("X-Any", "2")],
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")


def test_metadata_that_is_there_twice_is_refused(root: Path, service: Served) -> None:
    mine, other = ("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer mf_x")
    with served(root, grpc=True, auth="on", keys=str(KEY)) as locked:
        for target, pairs in (
            (locked.target, [mine, other]), (locked.target, [other, mine]), (locked.target, [mine, mine]), (service.target, [mine, other]),
            (service.target, [("x-request-id", "a"), ("x-request-id", "b")]),
        ):  # fmt: skip
            with grpc.insecure_channel(target) as channel:
                triton = inference_stubs.GRPCInferenceServiceStub(channel)
                calls: list[Any] = [
                    lambda c=channel, p=pairs: stubs.ManifoldStub(c).Sample(
                        pb.SampleRequest(seed=1), metadata=p, timeout=30
                    ),
                    lambda c=channel, p=pairs: list(
                        stubs.ManifoldStub(c).SampleStream(pb.SampleRequest(seed=1), metadata=p, timeout=30)
                    ),
                    lambda t=triton, p=pairs: t.ModelInfer(
                        inference.ModelInferRequest(model_name="foreign"), metadata=p, timeout=30
                    ),
                ]
                for call in calls:
                    with pytest.raises(grpc.RpcError) as caught:
                        call()
                    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                    assert "more than once" in caught.value.details()
        with grpc.insecure_channel(locked.target) as channel:
            assert stubs.ManifoldStub(channel).Sample(pb.SampleRequest(seed=1), metadata=[mine], timeout=30).images


# --- redirects, and contents of open routes ---


@pytest.mark.parametrize(
    "path",
    [
        "/models/",
        "/health/ready/",
        "/metrics/",
        "/docs/",
        "/sample/",
        "/models/foreign/",
        "/static-offline-docs",
        "//evil.example/models/",
    ],
)
def test_nothing_is_redirected(path: str, client: TestClient) -> None:
    answer = client.get(f"{HERE}{path}", headers={"Host": "localhost"})
    assert answer.status_code == 404
    assert "location" not in answer.headers
    assert f"there is no {path}" in answer.json()["error"]["message"]


def test_open_routes_show_no_paths(tmp_path: Path) -> None:
    root = tmp_path / "hidden place"
    foreign.write(root)
    broken = root / "broken/1"
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text(json.dumps(foreign.manifest(name="broken")))
    (root / "wrong/3").mkdir(parents=True)
    (root / "wrong/3/manifest.json").write_text("{")
    with served(root, grpc=True, auth="on", keys=str(KEY), default_model="foreign") as service:
        url = service.url
        for path in ("/", "/docs", "/openapi.json", "/metrics", *HEALTH):
            text = httpx.get(url + path).text
            assert "hidden place" not in text and str(tmp_path) not in text, path
            assert KEY.name not in text or path in ("/", "/docs", "/openapi.json")
        for path in ("/health/ready", "/v2/health/ready"):
            told = httpx.get(url + path).json()
            said = told.get("reason") or told.get("error") or ""
            assert "json" not in said and "generator" not in said and "field" not in said
        mine = {"Authorization": f"Bearer {TOKEN}"}
        shown = httpx.get(f"{url}/models", headers=mine)
        reasons = {model["name"]: model["reason"] or "" for model in shown.json()["models"]}
        assert "hidden place" not in shown.text and str(tmp_path) not in shown.text
        assert reasons["broken"].startswith("broken/1") and "generator.onnx" in reasons["broken"]
        assert reasons["wrong"].startswith("wrong/3/manifest.json")
        for path in ("/v2/repository/index", "/sample"):
            answer = httpx.post(url + path, headers=mine, json={"model": "broken"} if path == "/sample" else {})
            assert "broken/1" in answer.text and "hidden place" not in answer.text
        preview = httpx.get(f"{url}/models/foreign/preview.png", headers=mine)
        assert (preview.status_code, "hidden place" in preview.text) == (404, False)
        with grpc.insecure_channel(service.target) as channel:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
