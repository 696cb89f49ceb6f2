"""A server with sockets: clients that disconnect, streams, and shutdown."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from manifold.service.http import streams
from manifold.service.http.app import create_app
from manifold.service.settings import Settings
from tests import foreign
from tests.conftest import wait_until_ready
from tests.gate import Gate
from tests.served import served, until


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write a repository with one small model."""
    foreign.write(tmp_path)
    return tmp_path


# --- clients that disconnect ---


def test_a_client_that_goes_away_takes_its_rows_with_it(root: Path) -> None:
    """One client leaves while its rows run, another while they wait. The remaining one gets the same answer as before."""
    with served(root) as service:
        model = service.registry.entries["foreign", 1].model
        assert model is not None
        expected = model.sample(2, seed=3).data
        gate, batcher = Gate(model), service.batcher
        running = service.post({"n": 3})
        until(gate.began.is_set)
        waiting = service.post({"n": 5})
        results: list[httpx.Response] = []
        request = {"n": 2, "seed": 3, "encoding": "array"}
        stays = threading.Thread(
            target=lambda: results.append(httpx.post(f"{service.url}/sample", json=request, timeout=60))
        )
        stays.start()
        until(lambda: batcher.rows == 10)
        waiting.close()
        until(lambda: batcher.rows == 5)
        running.close()
        until(lambda: batcher.rows == 2)
        gate.go.set()
        stays.join(60)
        assert gate.batches == [3, 2]
        assert np.array_equal(np.asarray(results[0].json()["data"], np.float32), (expected + 1) / 2)
        assert service.metric(r'manifold_requests_total\{route="/sample",status="499"\}') == 2
        assert httpx.post(f"{service.url}/sample", json={}).status_code == 200


def test_a_stream_ends_with_its_client(root: Path) -> None:
    with served(root, max_rows=4) as service:
        connection = service.post({"n": 60_000}, Accept=streams.NDJSON)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.close()
        until(
            lambda: (
                service.batcher.rows == 0
                and service.metric(r'manifold_requests_total\{route="/sample",status="499"\}') == 1
            )
        )
        made = service.metric(r'manifold_run_rows_sum\{model="foreign",task="decode"\}')
        assert made < 60_000
        assert httpx.post(f"{service.url}/sample", json={}).status_code == 200


# --- streams ---


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    root = tmp_path_factory.mktemp("streams")
    foreign.write(root)
    settings = Settings(models_dir=root, default_model="foreign", device="cpu", max_rows=8, max_stream_items=2000)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def lines(client: TestClient, media_type: str = streams.NDJSON, **request: Any) -> list[dict[str, Any]]:
    answer = client.post("/sample", json=request, headers={"accept": media_type})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == media_type
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]


@pytest.mark.parametrize("media_type", streams.MEDIA_TYPES)
def test_a_stream_holds_what_the_whole_answer_does(client: TestClient, media_type: str) -> None:
    request = {"n": 100, "seed": 7, "first": 5, "return_latents": True}
    whole = client.post("/sample", json=request).json()
    *items, last = lines(client, media_type, **request)
    assert [item["item"] for item in items] == list(range(5, 105))
    assert [item["latent"] for item in items] == whole["latents"]
    for item, image in zip(items, whole["images"], strict=True):  # the same picture with the same recipe
        assert item["image"] == image
    assert (last["total"], last["seed"], last["first"]) == (100, 7, 5)
    assert {"model", "version", "request_id", "timing"} <= set(last)


def test_a_stream_without_a_seed_has_one_and_can_be_made_again(client: TestClient) -> None:
    *items, last = lines(client, n=30, encoding="array")
    again = client.post("/sample", json={"n": 30, "seed": last["seed"], "encoding": "array"}).json()
    assert [item["data"] for item in items] == again["data"]
    assert len({json.dumps(item["data"]) for item in items}) == 30


def test_a_stream_of_given_latents(client: TestClient) -> None:
    latents = np.random.default_rng(0).normal(size=(20, foreign.LATENT)).round(3).tolist()
    *items, last = lines(client, latents=latents, encoding="array")
    whole = client.post("/sample", json={"latents": latents, "encoding": "array"}).json()
    assert [item["data"] for item in items] == whole["data"]
    assert "seed" not in last


def test_a_stream_is_longer_than_an_answer_may_be(client: TestClient) -> None:
    assert client.post("/sample", json={"n": 1500}).status_code == 413
    *items, last = lines(client, n=1500)
    assert len(items) == last["total"] == 1500
    with Image.open(io.BytesIO(base64.b64decode(items[-1]["image"]))) as image:
        assert image.size == (foreign.WIDTH, foreign.HEIGHT)
    refused = client.post("/sample", json={"n": 2001}, headers={"accept": streams.NDJSON})
    assert refused.status_code == 413
    assert refused.json()["error"]["field"] == "n"


def test_what_is_wrong_with_a_stream_is_an_error_before_it_begins(client: TestClient) -> None:
    wrong: list[tuple[dict[str, Any], int]] = [
        ({"seed": -1}, 422), ({"model": "nobody"}, 404), ({"class": "3"}, 422), ({"n": 0}, 422),
        ({"n": 5, "first": 2**63 - 3}, 422), ({"n": 5, "class": ["1", "2"]}, 422),
    ]  # fmt: skip
    for request, status in wrong:
        answer = client.post("/sample", json=request, headers={"accept": streams.NDJSON})
        assert answer.status_code == status, answer.text
        assert "message" in answer.json()["error"]
    refused = client.post("/encode", json={}, headers={"accept": streams.NDJSON})
    assert refused.status_code == 415


def test_what_goes_wrong_within_a_stream_is_its_last_line(client: TestClient) -> None:
    model = client.app.state.registry.entries["foreign", 1].model  # type: ignore[attr-defined]
    original, calls = model.runner.compute, 0

    def compute(task: str, inputs: Any) -> Any:
        nonlocal calls
        calls += 1
        outputs = original(task, inputs)
        if calls == 3:
            outputs["data"] = np.full_like(outputs["data"], np.nan)
        return outputs

    model.runner.compute = compute
    try:
        *items, last = lines(client, n=50, seed=1)
    finally:
        model.runner.compute = original
    assert 0 < len(items) < 50
    assert last["error"]["type"] == "invalid_value"


# --- metrics ---


def test_runs_and_requests_are_counted_by_model_and_task(client: TestClient) -> None:
    """Every name that dashboards use exists, and the numbers add up."""
    before = _metrics(client)
    for n in (1, 3, 12):
        assert client.post("/sample", json={"n": n}).status_code == 200
    assert client.post("/sample", json={"n": 0}).status_code == 422
    after = _metrics(client)

    def gained(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    task = 'model="foreign",task="decode"'
    assert gained(f"manifold_run_rows_sum{{{task}}}") == 16
    assert (
        gained(f"manifold_run_requests_count{{{task}}}") == gained(f"manifold_run_rows_count{{{task}}}") == 4
    )  # 12 rows need two runs
    assert gained(f'manifold_run_rows_bucket{{le="4.0",{task}}}') == 3
    reasons = [name for name in after if name.startswith(f"manifold_runs_total{{{task}")] or [
        name for name in after if name.startswith("manifold_runs_total")
    ]
    assert sum(gained(name) for name in reasons) == 4
    assert gained('manifold_requests_total{route="/sample",status="200"}') == 3
    assert gained('manifold_requests_total{route="/sample",status="422"}') == 1
    assert gained('manifold_errors_total{type="invalid_value"}') == 1
    for part in ("queue", "compute", "encode"):
        assert gained(f'manifold_{part}_seconds_count{{model="foreign",route="sample"}}') == 3
    assert after['manifold_model_device{device="cpu",model="foreign",version="1"}'] == 1
    assert after["manifold_ready"] == 1
    assert any(name.startswith("manifold_build_info{") for name in after)
    assert after["process_resident_memory_bytes"] > 0
    stats = client.get("/models/foreign/stats").json()
    assert stats["tasks"]["decode"]["rows"] == after[f"manifold_run_rows_sum{{{task}}}"]
    assert (stats["queued_rows"], stats["expected_wait_ms"]) == (0, 0)


def _metrics(client: TestClient) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_the_memory_of_gpus_is_told_where_there_are_any(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from manifold.service.telemetry import metrics

    assert not any(name.startswith("manifold_gpu_memory_bytes{") for name in _metrics(client))
    model = client.app.state.registry.entries["foreign", 1].model  # type: ignore[attr-defined]
    monkeypatch.setattr(model.runner, "device", "cuda")
    monkeypatch.setattr(metrics, "gpu_memory", lambda: [(1000, 4000)])
    found = _metrics(client)
    assert found['manifold_gpu_memory_bytes{gpu="0",kind="used"}'] == 1000
    assert found['manifold_gpu_memory_bytes{gpu="0",kind="total"}'] == 4000


def test_histograms_are_as_prometheus_counts() -> None:
    """Equal observations in our histograms and in prometheus_client's give the same page."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client import Histogram as Theirs

    from manifold.service.telemetry.histograms import Histogram

    pages = []
    for kind in ("ours", "theirs"):
        registry = CollectorRegistry()
        bounds = (0.001, 0.5, 1.0, 10.0)
        made: Any = (
            Histogram("h", "about", bounds, ("a", "b"), registry)
            if kind == "ours"
            else Theirs("h", "about", ("a", "b"), buckets=bounds, registry=registry)
        )
        for value in (0.0, 0.001, 0.0011, 0.5, 7, 10, 11):
            made.labels("x", "y").observe(value)
        page = generate_latest(registry).decode().splitlines()
        pages.append([line for line in page if "_created" not in line])
    assert pages[0] == pages[1]
    with pytest.raises(ValueError, match="labels a, b"):
        Histogram("g", "about", (1.0,), ("a", "b"), CollectorRegistry()).labels("x")


# --- shutdown ---


def test_told_to_stop_it_is_not_ready_then_refuses_then_ends(root: Path) -> None:
    """Running requests and requests during the notice period are answered. Later requests are refused with the reason."""
    with served(root, notice_seconds=0.5) as service:
        model = service.registry.entries["foreign", 1].model
        assert model is not None
        gate = Gate(model)
        results: list[httpx.Response] = []
        ask = threading.Thread(target=lambda: results.append(httpx.post(f"{service.url}/sample", json={}, timeout=60)))
        ask.start()
        until(gate.began.is_set)
        with httpx.Client(base_url=service.url, timeout=60) as client:
            assert client.get("/health/ready").status_code == 200
            service.server.handle_exit(15, None)
            answer = client.get("/health/ready")
            assert (answer.status_code, answer.json()["reason"]) == (503, "stopping")
            assert client.get("/health/live").status_code == 200
            assert not service.registry.stopped
            until(lambda: service.registry.stopped)
            try:
                late = service.post({})  # the socket may stay open for a moment
                said = late.recv(1000)
                late.close()
            except OSError:
                said = b""
            assert said == b"" or said.startswith(b"HTTP/1.1 503")
        assert service.thread.is_alive()
        gate.go.set()
        ask.join(60)
        service.thread.join(60)
        assert not service.thread.is_alive()
        assert results[0].status_code == 200
