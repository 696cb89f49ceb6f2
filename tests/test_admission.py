"""Requests that a service cannot accept, or not yet: full queues, and models that are not ready."""

from __future__ import annotations

import json
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from manifold.service.http.app import create_app
from manifold.service.settings import ModelSettings, Settings, SettingsError, read
from tests import foreign
from tests.conftest import (
    SHIPPED,
    some_shipped,
    wait_until_ready,
)

# --- admission ---


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that another thread makes true."""
    for _ in range(100_000):
        if condition():
            return
        time.sleep(0.001)
    raise AssertionError("it did not happen")


def app_with(tmp_path: Path, **options: Any) -> TestClient:
    folder = tmp_path / "foreign"
    if not folder.exists():
        foreign.write(tmp_path)
    return TestClient(create_app(Settings(models_dir=tmp_path, default_model="foreign", **options)))


def test_a_full_queue_is_429_with_retry_after_and_harms_nobody(tmp_path: Path) -> None:
    with app_with(tmp_path, queue_rows=4) as client:
        wait_until_ready(client)
        model = client.app.state.registry.entries["foreign", 1].model  # type: ignore[attr-defined]
        begun, go, original = threading.Event(), threading.Event(), model.runner.compute

        def slow(task: str, inputs: Any) -> Any:
            begun.set()
            assert go.wait(120)
            return original(task, inputs)

        model.runner.compute = slow
        results: list[int] = []
        waiting = threading.Thread(target=lambda: results.append(client.post("/sample", json={"n": 3}).status_code))
        waiting.start()
        assert begun.wait(120)
        refused = client.post("/sample", json={"n": 2})
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        late: list[int] = []
        dropped = threading.Thread(
            target=lambda: late.append(client.post("/sample", json={}, headers={"x-deadline-ms": "1"}).status_code)
        )
        dropped.start()
        batcher = client.app.state.registry.entries["foreign", 1].batcher  # type: ignore[attr-defined]
        until(lambda: batcher.rows == 4)
        time.sleep(0.01)  # the deadline passes while the request is in the queue
        go.set()
        waiting.join(120)
        dropped.join(120)
        assert (results, late) == ([200], [504])
        model.runner.compute = original
        assert client.post("/sample", json={"n": 2}).status_code == 200


def test_large_requests_are_cut_and_the_same(tmp_path: Path) -> None:
    with app_with(tmp_path, max_rows=7) as cut, app_with(tmp_path) as whole:
        for client in (cut, whole):
            wait_until_ready(client)
        request = {"n": 50, "seed": 3, "encoding": "array"}
        assert cut.post("/sample", json=request).json()["data"] == whole.post("/sample", json=request).json()["data"]


def test_a_request_larger_than_the_queue_runs_when_it_is_alone(tmp_path: Path) -> None:
    with app_with(tmp_path, queue_rows=4) as client:
        wait_until_ready(client)
        assert client.post("/sample", json={"n": 50}).status_code == 200


# --- models that are not ready ---


def test_without_torch_a_torchscript_model_names_its_extra_and_the_rest_serves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    app = create_app(Settings(models_dir=some_shipped(tmp_path, "mnist-vae", "mnist-vae-ts")))
    with capture_logs() as lines, TestClient(app) as client:
        wait_until_ready(client)
        (model,) = [each for each in client.get("/models").json()["models"] if each["name"] == "mnist-vae-ts"]
        assert model["state"] == "unavailable" and "pip install -e '.[cpu,torch]'" in model["reason"]
        response = client.post("/sample", json={"model": "mnist-vae-ts"})
        assert response.status_code == 503
        assert "'.[cpu,torch]'" in response.json()["error"]["message"]
        assert client.post("/sample", json={}).status_code == 200
        assert {line["log_level"] for line in lines} == {"info"}  # a fresh clone shows no warning
        assert [line["event"] for line in lines] == [
            "loading", "optional model not loaded", "ready", "open http://127.0.0.1:8000/ in a browser; press Ctrl+C to stop",
        ]  # fmt: skip
        assert "pip install -e '.[cpu,torch]'" in lines[1]["reason"]


def test_a_model_told_to_use_cuda_says_why_it_cannot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("manifold.runtime.graphs.backends._has_cuda", lambda _: True)
    monkeypatch.setattr("manifold.runtime.graphs.backends._cuda_device", lambda: False)
    root = some_shipped(tmp_path, "mnist-vae", "mnist-vae-2d")
    options = Settings(models_dir=root, models={"mnist-vae-2d": ModelSettings(device="cuda")})
    with TestClient(create_app(options)) as client:
        wait_until_ready(client)
        models = {model["name"]: model for model in client.get("/models").json()["models"]}
        assert models["mnist-vae-2d"]["state"] == "unavailable"
        assert "no CUDA device" in models["mnist-vae-2d"]["reason"]
        assert "no CUDA device" in models["mnist-vae"]["note"]  # `auto` fell back to the CPU and reports it
        page = client.get("/metrics").text
        assert 'manifold_device_fallback{model="mnist-vae"} 1.0' in page
        assert re.search(
            r'manifold_model_failed{model="mnist-vae-2d",version="\d+"} 1.0', page
        )  # a setting requested CUDA
        assert client.get("/health/ready").status_code == 200
        assert client.post("/sample", json={"model": "mnist-vae-2d"}).status_code == 503


def test_a_broken_artifact_is_visible_and_the_service_not_ready(tmp_path: Path) -> None:
    folder = foreign.write(tmp_path)
    (folder / "generator.onnx").write_bytes(b"nonsense")
    with TestClient(create_app(Settings(models_dir=tmp_path))) as client:
        wait_until_ready(client)
        response = client.get("/health/ready")
        assert response.status_code == 503
        assert "foreign" in response.json()["reason"]
        assert "generator.onnx" in client.get("/models/foreign").json()["reason"]
        assert client.post("/sample", json={"model": "foreign"}).status_code == 503
        assert client.get("/health/live").status_code == 200


def test_other_versions_load_when_first_asked_for(tmp_path: Path) -> None:
    first, second = foreign.write(tmp_path), tmp_path / "foreign/2"
    shutil.copytree(first, second)
    manifest = json.loads((second / "manifest.json").read_text())
    (second / "manifest.json").write_text(json.dumps({**manifest, "version": 2, "description": "newer"}))
    with TestClient(create_app(Settings(models_dir=tmp_path, default_model="foreign"))) as client:
        wait_until_ready(client)
        assert [model["version"] for model in client.get("/models").json()["models"]] == [2]
        assert client.post("/sample", json={}).json()["version"] == 2
        assert client.get("/models/foreign", params={"version": 1}).json()["state"] == "ready"
        assert client.post("/sample", json={"version": 1}).json()["version"] == 1
        assert client.post("/sample", json={"version": 3}).json()["error"]["valid"] == [1, 2]


def test_a_section_for_a_model_that_is_not_there() -> None:
    with pytest.raises(SettingsError, match=r"models\.mnist_vae") as caught:
        create_app(Settings(models_dir=SHIPPED, models={"mnist_vae": ModelSettings(device="cpu")}))
    assert "mnist-vae" in (caught.value.valid or [])


def test_settings_that_are_wrong_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MANIFOLD_PORT", "99999")
    with pytest.raises(SettingsError, match="MANIFOLD_PORT"):
        read()
    monkeypatch.delenv("MANIFOLD_PORT")
    (tmp_path / "manifold.toml").write_text('instances = 2\n[models.a]\ndevice = "cuda"\nmax_rows = 8\n')
    found = read()
    assert (found.of_model("a").device, found.of_model("a").max_rows, found.of_model("a").instances) == ("cuda", 8, 2)
    assert found.of_model("b").device == "auto"
    (tmp_path / "manifold.toml").write_text("[models.a]\ndevise = 1\n")
    with pytest.raises(SettingsError, match="devise"):
        read()
    (tmp_path / "manifold.toml").write_text("prot = 1\n")
    with pytest.raises(SettingsError, match="prot"):
        read()
    (tmp_path / "manifold.toml").write_text("nonsense")
    with pytest.raises(SettingsError, match=r"manifold\.toml"):
        read()
