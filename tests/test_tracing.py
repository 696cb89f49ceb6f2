"""Traces: a span for each request within the client's trace, with its parts as child spans, over every transport."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from manifold.service.settings import Settings, SettingsError
from manifold.service.stubs import inference_pb2, inference_pb2_grpc, manifold_pb2, manifold_pb2_grpc
from manifold.service.telemetry.tracing import open_tracing
from tests import foreign
from tests.served import Served, served

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CARRIED = f"00-{TRACE}-{PARENT}-01"


class Collector(http.server.BaseHTTPRequestHandler):
    """A collector that keeps what an exporter sends."""

    spans: list[Any]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        for each in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.spans.extend(span for scope in each.scope_spans for span in scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *given: object) -> None:
        """Suppress the log."""


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    spans: list[Any] = []
    kind = type("Kept", (Collector,), {"spans": spans})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans
        server.shutdown()
        thread.join()


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def ask(service: Served) -> str:
    """Send requests over every transport. Return the id of the REST request."""
    answer = service.client.post("/sample", json={"n": 3}, headers={"traceparent": CARRIED})
    service.client.post("/v2/models/foreign/infer", json={}, headers={"traceparent": CARRIED})
    assert service.client.post("/sample", json={"n": -1}).status_code == 422
    with grpc.insecure_channel(service.target) as channel:
        metadata = (("traceparent", CARRIED),)
        manifold_pb2_grpc.ManifoldStub(channel).Sample(manifold_pb2.SampleRequest(n=2), metadata=metadata)
        message = inference_pb2.ModelInferRequest(model_name="foreign")
        inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message, metadata=metadata)
    return answer.headers["x-request-id"]


def test_spans_of_every_transport_join_the_clients_trace(tmp_path: Path, collector: tuple[str, list[Any]]) -> None:
    foreign.write(tmp_path)
    endpoint, spans = collector
    with served(tmp_path, grpc=True, traces=endpoint) as service:
        request_id = ask(service)
    by_name = {span.name: span for span in spans if span.parent_span_id.hex() == PARENT}
    assert set(by_name) == {
        "POST /sample", "POST /v2/models/{name}/infer", "manifold.v1.Manifold/Sample", "inference.GRPCInferenceService/ModelInfer",
    }  # fmt: skip
    for span in by_name.values():
        assert span.trace_id.hex() == TRACE
        parts = [each for each in spans if each.parent_span_id == span.span_id]
        assert [each.name for each in parts] == ["queue", "run", "encode"]
        assert all(each.trace_id.hex() == TRACE for each in parts)
        edges = [edge for each in parts for edge in (each.start_time_unix_nano, each.end_time_unix_nano)]
        slack = 5_000_000  # two clocks are compared
        assert span.start_time_unix_nano - slack <= edges[0] and edges[-1] <= span.end_time_unix_nano + slack
        assert edges[1] <= edges[2] + slack and edges[3] <= edges[4] + slack
    told = attributes(by_name["POST /sample"])
    assert (told["http.response.status_code"], told["manifold.request_id"]) == (200, request_id)
    run = next(each for each in spans if each.parent_span_id == by_name["POST /sample"].span_id and each.name == "run")
    assert attributes(run) == {"model": "foreign", "task": "decode", "rows": 3}
    refused = next(span for span in spans if attributes(span).get("http.response.status_code") == 422)
    assert refused.trace_id.hex() != TRACE


def test_without_the_setting_nothing_is_traced(tmp_path: Path, collector: tuple[str, list[Any]]) -> None:
    foreign.write(tmp_path)
    with served(tmp_path, grpc=True) as service:
        ask(service)
    assert not collector[1]


def test_a_collector_that_is_not_there_changes_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")  # the exporter retries for this many seconds
    foreign.write(tmp_path)
    with served(tmp_path, traces="http://127.0.0.1:9/v1/traces") as service:
        assert service.client.post("/sample", json={"n": 1}).status_code == 200


def test_without_the_extra_the_setting_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError, match=r"pip install -e '\.\[cpu,tracing\]'"):
        open_tracing(Settings(traces="http://127.0.0.1:9"))
