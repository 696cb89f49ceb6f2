"""The deployment files agree with the code: settings, metrics, labels, dependencies, documentation."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from prometheus_client import Counter, Gauge
from prometheus_client.parser import text_string_to_metric_families

from manifold.runtime.shipped import latest
from manifold.service.models.registry import Registry
from manifold.service.processes import errands
from manifold.service.settings import Settings
from manifold.service.telemetry.histograms import Histogram
from manifold.service.telemetry.metrics import Metrics
from tests.conftest import ROOT, SHIPPED

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
EXAMPLE = (ROOT / ".env.example").read_text()
ALERTS = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
BOARD = json.loads((ROOT / "deploy/grafana/dashboards/manifold.json").read_text())
OPERATIONS = (ROOT / "docs/operations.md").read_text()
# settings that the images or the compose file set, or that apply to one model
NOT_IN_ENV = {"host", "port", "grpc_port", "models_dir", "device", "log_format", "models"}
ADDED = {"instance", "job", "le"}  # labels that Prometheus or a histogram adds


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Return the labels of each metric on /metrics."""
    metrics = Metrics(Registry(Settings(models_dir=SHIPPED)))
    declared: dict[str, set[str]] = {}
    for family in vars(metrics).values():
        if isinstance(family, Histogram):
            declared[family.name] = set(family.names)
        elif isinstance(family, Counter | Gauge):
            declared[family._name] = set(family._labelnames)
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.page().decode()):
        labels = (
            {"model", "version", "part"}
            if family.name.startswith("manifold_score")
            else declared.get(family.name, set())
        )
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        found |= dict.fromkeys((family.name + suffix for suffix in suffixes), labels)
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Yield every query of a panel or an alert, with its place."""
    for panel in BOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]
    for rule in ALERTS:
        yield rule["alert"], rule["expr"]


METRIC = re.compile(r"\b((?:manifold|process|python)_\w+|up)\b(?:\{([^}]*)\})?")


@pytest.mark.parametrize(("where", "expression"), list(expressions()), ids=lambda text: text if len(text) < 40 else "")
def test_what_is_asked_for_is_exported(where: str, expression: str, exported: dict[str, set[str]]) -> None:
    named = METRIC.findall(expression)
    assert named, where
    labels: set[str] = set()
    for name, selector in named:
        if name == "up":
            continue
        assert name in exported, f"{where}: there is no metric {name}"
        used = set(re.findall(r"(\w+)\s*[=!]~?", selector))
        assert used <= exported[name] | ADDED, f"{where}: {name} has no label {used - exported[name] - ADDED}"
        labels |= exported[name]
    for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression):
        grouped = {label.strip() for label in group.split(",")}
        assert grouped <= labels | ADDED, f"{where}: no label {grouped - labels - ADDED}"


def test_what_is_exported_is_explained(exported: dict[str, set[str]]) -> None:
    ours = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in exported if name.startswith("manifold_")}
    ours |= {errands.UP, errands.RESTARTS}  # the parent of several processes adds these
    explained = set(re.findall(r"`(manifold_\w+)`", (ROOT / "docs/reference/metrics.md").read_text()))
    assert ours - explained == set()
    assert {re.sub(r"_total$", "", name) for name in explained} - ours == set()


def test_every_alert_is_tried_and_explained() -> None:
    tried = (ROOT / "deploy/prometheus/alerts.test.yml").read_text()
    for rule in ALERTS:
        assert f'alertname="{rule["alert"]}"' in tried
        assert f"| {rule['alert']} |" in OPERATIONS
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in BOARD["panels"]]
    taken: set[tuple[int, int]] = set()
    for place in places:
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


# --- settings ---


def variables() -> dict[str, str | None]:
    """Return the variables that the compose file reads from the environment, with their defaults."""
    text = "\n".join(
        line for line in (ROOT / "docker-compose.yml").read_text().splitlines() if not line.strip().startswith("#")
    )
    return dict(re.findall(r"\$\{(\w+)(?::-([^}]*))?\}", text))


def test_every_setting_can_be_set_in_env() -> None:
    passed = COMPOSE["x-settings"]
    for name in Settings.model_fields:
        assert (f"MANIFOLD_{name.upper()}" in passed) != (name in NOT_IN_ENV), name
        assert f"MANIFOLD_{name.upper()}" in (ROOT / "docs/reference/settings.md").read_text() or name == "models", name
    for name in passed:
        assert name.removeprefix("MANIFOLD_").lower() in Settings.model_fields, name
    assert {name for name in passed if name != "MANIFOLD_PUBLISHED"} <= set(variables())


def test_the_example_names_every_variable_with_its_default() -> None:
    shown = dict(re.findall(r"^#(\w+)=(.*)$", EXAMPLE, re.MULTILINE))
    taken = variables()
    assert set(shown) == set(taken)
    for name, default in shown.items():
        if taken[name]:
            assert default == taken[name], name
        elif name.startswith("MANIFOLD_") and (
            field := Settings.model_fields.get(name.removeprefix("MANIFOLD_").lower())
        ):
            if default and not default.startswith("/run/manifold/"):
                assert default == _written(field.default), name


def _written(value: object) -> str:
    """Return a default as it is written in the file."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- containers ---


def test_containers_are_locked_down() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged")
        assert service.get("read_only") or name == "train"
        for port in service.get("ports", ()):
            assert port.startswith(("${BIND:-127.0.0.1}:", "127.0.0.1:")), port
        for volume in service.get("volumes", ()):
            if isinstance(volume, dict) and volume["type"] == "bind" and name != "train":
                assert volume["read_only"], (name, volume)
            elif isinstance(volume, str) and name != "train":
                assert volume.endswith(":ro"), (name, volume)
        image = service["image"]
        assert ":" in image and not image.endswith(":latest")


def test_containers_are_given_the_time_that_they_need_to_end() -> None:
    defaults = {name: default for name, default in variables().items() if default}
    grace = float(defaults["STOP_GRACE"].removesuffix("s"))
    assert grace > float(defaults["MANIFOLD_NOTICE_SECONDS"]) + float(defaults["MANIFOLD_DRAIN_SECONDS"]) + 2


def test_the_image_holds_what_it_should() -> None:
    lines = (ROOT / ".dockerignore").read_text().split()
    assert lines[0] == "*"
    assert "!tests" not in lines
    dockerfile = (ROOT / "Dockerfile").read_text()
    service = dockerfile[dockerfile.index("# --- service") : dockerfile.index("# --- torch")]
    assert "training" not in service.replace("no training code", "")
    assert "USER manifold" in dockerfile
    assert dockerfile.count("--require-hashes") == 4


@pytest.mark.parametrize(
    ("lock", "extras"),
    [("service", "cpu tables tracing"), ("gpu", "gpu tables tracing"), ("train", "cpu train evaluate compress")],
)
def test_locks_hold_what_is_declared(lock: str, extras: str) -> None:
    """Each declared dependency is locked, with hashes, to a version that its range allows; no lock contains torch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / f"deploy/requirements/{lock}.txt").read_text()
    entries = re.findall(
        r"^([\w.-]+)==(\S+)[^\n]*\\\n((?:\s+--hash=sha256:[0-9a-f]{64}[^\n]*\n?)+)", text, re.MULTILINE
    )
    locked = {canonicalize_name(name): version for name, version, _ in entries}
    assert len(locked) == len(re.findall(r"^[\w.-]+==", text, re.MULTILINE))
    wanted: list[str] = list(project["dependencies"])
    for extra in extras.split():
        wanted += project["optional-dependencies"][extra]
    for line in wanted:
        requirement = Requirement(line)
        if requirement.name == "torch":
            continue
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier, line
    assert "torch" not in locked


def test_what_is_locked_is_the_same_in_all_images() -> None:
    """So evaluation and the service use the same engine."""
    versions: dict[str, set[str]] = {}
    for lock in ("service", "gpu", "train"):
        for name, version in re.findall(
            r"^([\w.-]+)==(\S+)", (ROOT / f"deploy/requirements/{lock}.txt").read_text(), re.MULTILINE
        ):
            versions.setdefault(name.removesuffix("-gpu"), set()).add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_shipped_models_can_be_served_where_checksums_are_asked_for() -> None:
    from manifold.runtime import manifest

    for name, folder in latest(SHIPPED).items():
        found: Any = manifest.read(folder)
        assert found.files, name
