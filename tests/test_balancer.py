"""HAProxy with the configuration of docker-compose.yml, in front of replicas. The tests are skipped if HAProxy is not installed."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import pytest

from manifold.service.stubs import inference_pb2 as inference
from manifold.service.stubs import inference_pb2_grpc as inference_stubs
from manifold.service.stubs import manifold_pb2 as pb
from manifold.service.stubs import manifold_pb2_grpc as stubs
from tests import foreign
from tests.proxied import CONFIG, HAPROXY, haproxy
from tests.served import Served, served

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="HAProxy is not installed (apt-get install haproxy)")


@dataclass
class Balancer:
    """HAProxy in front of one replica."""

    rest: int
    rpc: int
    replica: Served

    def ask(self, target: str, method: str = "GET", version: str = "HTTP/1.1") -> tuple[int, str]:
        """Send a request line as it is. Return the status and the whole answer."""
        with socket.create_connection(("127.0.0.1", self.rest), timeout=30) as connection:
            head = f"{method} {target} {version}\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode("latin-1"))
            answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode("latin-1")
        return int(answer.split(" ", 2)[1]), answer


@pytest.fixture(scope="module")
def balancer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    root = tmp_path_factory.mktemp("balancer")
    foreign.write(root)
    with (
        served(root, grpc=True, trust_loopback=True, hosts=()) as replica,
        haproxy(tmp_path_factory.mktemp("haproxy"), replica.port, replica.server.rpc.port) as ports,
    ):
        yield Balancer(ports["8080"], ports["8081"], replica)


def test_the_configuration_is_valid() -> None:
    assert HAPROXY is not None
    done = subprocess.run([HAPROXY, "-c", "-f", str(CONFIG)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


def test_requests_are_passed_on(balancer: Balancer) -> None:
    for target in (
        "/",
        "/models",
        "/models?a=//metrics",
        "/v2",
        "/v2/",
        "/v2/models/foreign",
        "/models/foreign",
        "/%6dodels",
    ):
        assert balancer.ask(target)[0] == 200, target
    assert balancer.ask("/models/a%20b")[0] == 404
    assert '"unknown_model"' in balancer.ask("/models/metrics")[1]
    assert balancer.ask("/sample", "POST")[0] == 400  # an empty body: the replica has read the request


@pytest.mark.parametrize(
    "target",
    [
        "/metrics", "/%6detrics", "/%6Detrics", "/metric%73", "/%6d%65%74%72%69%63%73", "/metrics/", "/metrics;x", "/METRICS", "/metrics?a=b", "/metrics%2f",
        "/admin/reload", "/%61dmin/reload", "/admin%2freload", "/admin%2Freload", "/%61dmin%2freload", "/Admin/reload", "/admin", "/admin/", "/admin;a/reload",
        "/v2/repository/index", "/v2/repository/models/foreign/load", "/v2/repository/models/foreign/unload", "/v2/%72epository/models/foreign/unload",
        "/v2%2frepository%2fmodels%2fforeign%2funload", "/v2/repositor%79/index", "http://localhost/metrics", "http://localhost/%61dmin/reload",
        "HTTP://localhost/v2/repository/index",
    ],
)  # fmt: skip
def test_what_is_each_replicas_own_is_not_passed_on(target: str, balancer: Balancer) -> None:
    for method in ("GET", "POST", "HEAD", "PUT", "OPTIONS"):
        for version in ("HTTP/1.1", "HTTP/1.0"):
            status, answer = balancer.ask(target, method, version)
            assert status == 404, (target, answer)
            assert "ask a replica" in answer or method == "HEAD"


@pytest.mark.parametrize(
    "target",
    [
        "//metrics", "/./metrics", "/a/../metrics", "/%2e/metrics", "/%2E%2e/metrics",
        "/a/%2e%2e/admin/reload", "///admin/reload", "/admin/%2e/reload", "/%2f%61dmin/reload", "/%2fmetrics",
        "/v2//repository/index", "/v2/./repository/index", "/v2/models/../repository/index", "/metrics%zz", "/%61dmin/models/%/unload",
        "/admin%2f..%2fmetrics", "/models/..", "/%", "/%4", "/models//foreign",
        "http://localhost//metrics",
    ],
)  # fmt: skip
def test_paths_that_may_be_read_in_two_ways_are_refused(target: str, balancer: Balancer) -> None:
    status, answer = balancer.ask(target)
    assert (status, "plain form" in answer or "replica" in answer) in ((400, True), (404, True)), answer


def test_models_are_not_changed_over_grpc(balancer: Balancer) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{balancer.rpc}") as channel:
        assert stubs.ManifoldStub(channel).ListModels(pb.ListModelsRequest(), timeout=30).models[0].name == "foreign"
        triton = inference_stubs.GRPCInferenceServiceStub(channel)
        assert triton.ServerLive(inference.ServerLiveRequest(), timeout=30).live
        named = {
            "RepositoryModelLoad": {"model_name": "foreign"},
            "RepositoryModelUnload": {"model_name": "foreign"},
            "RepositoryIndex": {},
        }
        for name, fields in named.items():
            with pytest.raises(grpc.RpcError) as caught:
                getattr(triton, name)(getattr(inference, f"{name}Request")(**fields), timeout=30)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert "ask a replica" in caught.value.details()
        for path in (
            "/inference.GRPCInferenceService/%52epositoryModelUnload",
            "/inference.GRPCInferenceService//RepositoryModelUnload",
        ):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(path)(b"\n\x07foreign", timeout=30)
            assert caught.value.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED)
    assert balancer.replica.client.get("/models").json()["models"][0]["state"] == "ready"
