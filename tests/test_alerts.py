"""Alerts on real pages of /metrics: the first event of each kind is an increase from 0."""

from __future__ import annotations

import ast
import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from grpc_health.v1 import health_pb2
from prometheus_client.parser import text_string_to_metric_families

from manifold.runtime import errors
from manifold.runtime.graphs import backends
from manifold.service.core import use_cases
from manifold.service.http import replies
from manifold.service.http.app import create_app
from manifold.service.inference.http import Routes
from manifold.service.models.batcher import Ran
from manifold.service.models.registry import Registry
from manifold.service.processes import merging
from manifold.service.settings import Settings
from manifold.service.stubs import inference_pb2, manifold_pb2
from manifold.service.telemetry import metrics
from manifold.service.telemetry.metrics import Metrics
from tests import foreign
from tests.conftest import ROOT, some_shipped


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Metrics]:
    """Yield the metrics of a service with one loaded model."""
    foreign.write(tmp_path)
    registry = Registry(Settings(models_dir=tmp_path, default_model="foreign", device="cpu"))
    found = Metrics(registry)
    registry.load()
    yield found
    registry.close()


def series(page: str, kinds: tuple[str, ...] = ("counter",)) -> dict[str, float]:
    """Return the counters, or metrics of other types, of a page by name and labels."""
    return {
        f'{sample.name}{{instance="a"{"".join(f", {key}={chr(34)}{value}{chr(34)}" for key, value in sorted(sample.labels.items()))}}}': sample.value
        for family in text_string_to_metric_families(page)
        if family.type in kinds and family.name.startswith("manifold_")
        for sample in family.samples
    }


def firing(pages: list[str], alerts: list[str], tmp_path: Path, kinds: tuple[str, ...] = ("counter",)) -> None:
    """Run promtool on the alert rules and on pages that were scraped a minute apart. Exactly these alerts must fire at the end."""
    scraped = [series(page, kinds) for page in pages]
    names = sorted({name for page in scraped for name in page})
    values = {name: " ".join(f"{page[name]:g}" if name in page else "_" for page in scraped) for name in names}
    shutil.copy(ROOT / "deploy/prometheus/alerts.yml", tmp_path / "alerts.yml")
    test = {
        "rule_files": ["alerts.yml"], "evaluation_interval": "1m",
        "tests": [{
            "interval": "1m", "input_series": [{"series": name, "values": values[name]} for name in names],
            "promql_expr_test": [{
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "eval_time": f"{len(pages) - 1}m",
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in alerts],
            }],
        }],
    }  # fmt: skip
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")


def test_counters_that_alerts_look_at_begin_at_0(counted: Metrics) -> None:
    found = series(counted.page().decode())
    for name in (
        'manifold_errors_total{instance="a", type="internal"}', 'manifold_failed_runs_total{instance="a", model="foreign", task="decode"}',
        'manifold_refused_total{instance="a", reason="deadline"}', 'manifold_denied_total{instance="a", type="forbidden"}',
        'manifold_connections_cut_total{instance="a", reason="slow_head"}',
    ):  # fmt: skip
        assert found[name] == 0


def test_every_label_value_that_the_code_uses_begins_at_0() -> None:
    """The code contains the reasons as strings: of Busy, of the batcher, and of closed connections."""
    code = "\n".join(path.read_text() for folder in ("service", "runtime") for path in (ROOT / folder).rglob("*.py"))
    refused = set(re.findall(r'Busy\([^#]*?reason="(\w+)"', code)) | set(re.findall(r'_busy\(\s*"(\w+)"', code))
    cut = set(re.findall(r'(?:refuse\(\s*\d+,\s*|\.cut\(\s*)"(\w+)"', code))
    assert len(refused) >= 5 and len(cut) >= 6
    assert refused <= set(metrics.REFUSED)
    assert cut <= set(metrics.CUT)
    tree = ast.parse((ROOT / "runtime/errors.py").read_text())
    kinds = [getattr(errors, node.name) for node in tree.body if isinstance(node, ast.ClassDef)]
    told = {kind("").type for kind in kinds if any(base in replies.STATUS for base in kind.__mro__)}
    assert told <= set(metrics.ERRORS)  # other errors never reach a client


def test_an_error_that_clients_are_not_told_about_counts_as_internal(counted: Metrics) -> None:
    for error in (errors.ArtifactError("x"), RuntimeError("x"), errors.InvalidValue("x")):
        counted.erred(error)
    found = series(counted.page().decode())
    assert found['manifold_errors_total{instance="a", type="internal"}'] == 2
    assert found['manifold_errors_total{instance="a", type="invalid_value"}'] == 1
    assert 'manifold_errors_total{instance="a", type="artifact_error"}' not in found


@needs_promtool
def test_the_first_internal_error_and_the_first_failed_run_fire(counted: Metrics, tmp_path: Path) -> None:
    quiet = counted.page().decode()
    counted.erred(RuntimeError("the first"))
    loud = counted.page().decode()
    firing([quiet] * 2 + [loud] * 2, ["InternalErrors"], tmp_path)
    entry = counted.models.entries["foreign", 1]
    counted.ran(entry, Ran("decode", 1, 1, "idle", 0.1, False, True))
    firing([quiet] * 2 + [counted.page().decode()] * 2, ["FailedRuns", "InternalErrors"], tmp_path)
    firing([quiet] * 4, [], tmp_path)


@needs_promtool
@pytest.mark.parametrize("gpu_build", [False, True])
def test_a_healthy_start_fires_nothing_and_faults_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpu_build: bool
) -> None:
    """A missing extra, an unloaded model, and a build for the CPU are no faults. A build for GPUs without a GPU is one."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(backends, "_has_cuda", lambda _: gpu_build)
    monkeypatch.setattr(backends, "_cuda_device", lambda: False)
    root = some_shipped(tmp_path, "mnist-vae-2d", "mnist-vae-ts")
    foreign.write(root)
    registry = Registry(Settings(models_dir=root, default_model="foreign"))
    found = Metrics(registry)
    registry.load()
    asyncio.run(registry.unload("mnist-vae-2d"))
    kinds = ("counter", "gauge")
    page = series(found.page(ready=True).decode(), ("gauge",))
    states = {model: {name: int(page[key]) for name in ("model_ready", "model_failed") for key in page
                      if key.startswith(f"manifold_{name}{{") and f'model="{model}"' in key}
              for model in ("foreign", "mnist-vae-2d", "mnist-vae-ts")}  # fmt: skip
    assert states == {
        "foreign": {"model_ready": 1, "model_failed": 0},
        "mnist-vae-2d": {"model_ready": 0, "model_failed": 0},
        "mnist-vae-ts": {"model_ready": 0, "model_failed": 0},
    }
    notes = {entry.name: entry.model.note for entry in registry.shown if entry.model is not None}
    assert (notes["foreign"] is not None) == gpu_build
    firing([found.page(ready=True).decode()] * 8, ["FallenBack"] if gpu_build else [], tmp_path, kinds)
    registry.show_unreadable("broken", "its folder cannot be read")
    faults = [*(["FallenBack"] if gpu_build else []), "ModelUnavailable"]
    firing([found.page(ready=True).decode()] * 8, faults, tmp_path, kinds)
    registry.close()


@needs_promtool
def test_a_model_that_is_loaded_later_and_several_workers(counted: Metrics, tmp_path: Path) -> None:
    """One of two workers ends after a failure. The merged page keeps the counts of that worker."""
    other = merging.parse(counted.page().decode())
    quiet = merging.text(merging.merge([merging.parse(counted.page().decode()), other])).decode()
    counted.ran(counted.models.entries["foreign", 1], Ran("decode", 1, 1, "idle", 0.1, False, True))
    failed = merging.parse(counted.page().decode())
    loud = merging.text(merging.merge([failed, other])).decode()
    ended = merging.text(merging.merge([other], [failed])).decode()
    firing([quiet, quiet, loud, ended], ["FailedRuns"], tmp_path)


def test_every_endpoint_has_a_latency_alert_and_nothing_else_has(tmp_path: Path) -> None:
    """Otherwise a slow new endpoint would stay unnoticed, or fast endpoints would hide a slow one."""
    (rules,) = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    (expression,) = [rule["expr"] for rule in rules["rules"] if rule["alert"] == "SlowRequests"]
    ((taken, left_out),) = re.findall(r'\{route=~"([^"]+)",route!~"([^"]+)"\}', expression)
    app = create_app(Settings(models_dir=tmp_path)).app
    tensors = Routes(app.state.inference)
    routes = {route.path for route in app.routes if hasattr(route, "path")} | {
        label for _, _, label, _ in tensors._table
    }
    rpcs = {
        f"/{service.full_name}/{method.name}"
        for file in (manifold_pb2, inference_pb2, health_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    cases = use_cases.every.values()
    watched = {case.path for case in cases} | {f"/manifold.v1.Manifold/{case.rpc}" for case in cases}
    watched |= {"/v2/models/{name}/infer", "/inference.GRPCInferenceService/ModelInfer"}
    labels = watched | routes | rpcs | {"other", "refused"}
    assert len(labels) > 50
    assert {label for label in labels if re.fullmatch(taken, label) and not re.fullmatch(left_out, label)} == watched
    assert re.fullmatch(taken, "/latent-magnitude") and not re.fullmatch(left_out, "/latent-magnitude")


@needs_promtool
@pytest.mark.parametrize(
    "route", ["/sample", "/an-endpoint-of-tomorrow", "/manifold.v1.Manifold/Tomorrow", "/v2/models/{name}/infer"]
)
def test_a_slow_route_fires_beside_many_that_answer_at_once(route: str, tmp_path: Path) -> None:
    def bucket(route: str, le: str, each: int) -> dict[str, str]:
        return {
            "series": f'manifold_request_seconds_bucket{{instance="a", route="{route}", le="{le}"}}',
            "values": f"0+{each}x20",
        }

    slow = [bucket(route, "1", 0), bucket(route, "2.5", 60), bucket(route, "+Inf", 60)]
    fast = [bucket(other, le, 60_000) for other in ("/metrics", "/health/live") for le in ("1", "2.5", "+Inf")]
    shutil.copy(ROOT / "deploy/prometheus/alerts.yml", tmp_path / "alerts.yml")
    alert = {"eval_time": "20m", "alertname": "SlowRequests"}
    tests = [
        {"interval": "1m", "input_series": [*slow, *fast], "promql_expr_test": [
            {"expr": 'ALERTS{alertname="SlowRequests", alertstate="firing"}', "eval_time": "20m", "exp_samples": [
                {"labels": 'ALERTS{alertname="SlowRequests", alertstate="firing", instance="a", severity="ticket"}', "value": 1}
            ]}
        ]},
        {"interval": "1m", "input_series": fast, "alert_rule_test": [alert]},
    ]  # fmt: skip
    (tmp_path / "test.yml").write_text(
        yaml.safe_dump({"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": tests})
    )
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_alert_rules_pass_their_own_tests() -> None:
    folder = ROOT / "deploy/prometheus"
    done = subprocess.run(
        ["promtool", "test", "rules", "alerts.test.yml"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
