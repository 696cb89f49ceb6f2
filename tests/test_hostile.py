"""A small part of tests/fuzz.py: no request causes a 500, over HTTP or gRPC."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import foreign, hostile
from tests.conftest import ROWS, SHIPPED
from tests.served import Served, served

pytestmark = pytest.mark.slow  # many random requests

CASES = 60


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("hostile")
    foreign.write(root)
    for name in set(hostile.MODELS) - {"foreign"}:
        (root / name).symlink_to(SHIPPED / name)
    with served(root, grpc=True, default_model="mnist-vae") as service:
        yield service


@pytest.mark.parametrize("name", ["images", "arrays", "forms", "tables", "json"])
def test_nothing_makes_a_500(name: str, service: Served) -> None:
    with httpx.Client(base_url=service.url, timeout=60) as client:
        strategy, send = hostile.cases(client.post, ROWS["transactions-vae"], ROWS["nslkdd-cvae"])[name]
        statuses = set()

        @settings(max_examples=CASES, suppress_health_check=list(HealthCheck))
        @given(strategy)
        def run(drawn: object) -> None:
            statuses.add(send(drawn))

        run()
    assert statuses & {200}, "what is sent is not all broken"
    assert statuses - {200}, "nor all well"


def test_nothing_makes_an_rpc_fail_by_itself(service: Served) -> None:
    codes = set()
    with grpc.insecure_channel(service.target) as channel:

        @settings(max_examples=3 * CASES, suppress_health_check=list(HealthCheck))
        @given(hostile.messages(ROWS["transactions-vae"]))
        def run(drawn: tuple[str, bytes]) -> None:
            codes.add(hostile.call(channel, drawn, []))

        run()
    assert {"OK", "INVALID_ARGUMENT"} <= codes


@given(st.data())
@settings(max_examples=30, suppress_health_check=list(HealthCheck))
def test_the_slice_would_notice(data: st.DataObject) -> None:
    """The check detects a service with faults."""
    for status, body in ((500, "no JSON"), (400, '{"error": {"type": "internal", "message": "m", "request_id": "r"}}')):
        answer = httpx.Response(status, text=body)
        strategy, send = hostile.cases(lambda *_, **__: answer, ROWS["transactions-vae"], ROWS["nslkdd-cvae"])["json"]  # noqa: B023
        with pytest.raises(hostile.Broken):
            send(data.draw(strategy))
