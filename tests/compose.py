"""A test of `docker compose up`: start, a sample, metrics, replicas that are killed and restarted under load, wrong settings, stop.

    python -m tests.compose [--gpu]

It needs a running Docker, and works on loopback, with its own project name and ports, and takes some minutes (more the first time).
With --gpu the GPU image is built too. On a machine without a GPU it must report why it is not ready. The script prints its measurements, and ends
with status 1 if a check fails.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx

from manifold.service import security
from manifold.service.stubs import manifold_pb2 as pb
from manifold.service.stubs import manifold_pb2_grpc as stubs
from manifold_client import Client, Retry
from tests.conftest import ROOT
from tests.served import free_port
from tests.test_deploy import expressions

PORTS = (
    "PORT",
    "GRPC_PORT",
    "GPU_PORT",
    "GPU_GRPC_PORT",
    "BALANCER_PORT",
    "BALANCER_GRPC_PORT",
    "PROMETHEUS_PORT",
    "GRAFANA_PORT",
)
CALLERS = 8  # clients that make the load
EVERY_HISTOGRAM = (
    "manifold_request_seconds_bucket",
    "manifold_queue_seconds_bucket",
    "manifold_compute_seconds_bucket",
    "manifold_run_rows_bucket",
)


class Failed(AssertionError):
    """A check has failed."""


def run(*command: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command and return its output."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)
    if check and done.returncode:
        raise Failed(f"{' '.join(command)}: status {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done


def until(condition: Callable[[], bool], what: str, seconds: float = 120) -> float:
    """Wait for a condition. Return the seconds that it took."""
    began = time.monotonic()
    while True:
        with contextlib.suppress(httpx.TransportError):
            if condition():
                return time.monotonic() - began
        if time.monotonic() - began > seconds:
            raise Failed(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.1)


class Project:
    """A compose project with its own environment."""

    def __init__(self, folder: Path, name: str = "manifold-test", **environment: str) -> None:
        self.ports = {port: free_port() for port in PORTS}
        self.file = folder / f"{name}.env"
        told = {**{port: str(number) for port, number in self.ports.items()}, **environment}
        self.file.write_text("".join(f"{key}={value}\n" for key, value in told.items()))
        tool = (
            ["docker", "compose"]
            if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
            else ["docker-compose"]
        )
        self.command = [*tool, "--project-name", name, "--env-file", str(self.file)]

    def __call__(
        self, *arguments: str, check: bool = True, profile: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return run(*self.command, *(["--profile", profile] if profile else []), *arguments, check=check)

    def url(self, port: str) -> str:
        return f"http://127.0.0.1:{self.ports[port]}"

    def containers(self, service: str) -> list[str]:
        return self("ps", "-q", service, profile="scale").stdout.split()


@contextlib.contextmanager
def project(folder: Path, name: str = "manifold-test", **environment: str) -> Iterator[Project]:
    """Start a project, and take it down at the end in any case."""
    made = Project(folder, name, **environment)
    try:
        yield made
    finally:
        made("down", "-v", "--remove-orphans", "-t", "1", check=False, profile="scale")


def say(what: str, found: object) -> None:
    print(f"{what}: {found}", flush=True)


# --- one service with Prometheus ---


def sizes() -> None:
    base = int(
        run(
            "docker",
            "image",
            "inspect",
            "-f",
            "{{.Size}}",
            re.findall(r"ARG BASE=(\S+)", (ROOT / "Dockerfile").read_text())[0],
        ).stdout
    )
    for image in ("manifold:0.1.0", "manifold-gpu:0.1.0", "manifold-train:0.1.0"):
        found = run("docker", "image", "inspect", "-f", "{{.Size}}", image, check=False)
        if found.returncode == 0:
            over = (int(found.stdout) - base) / 1e6
            say(f"image {image}", f"{int(found.stdout) / 1e6:.0f} MB, {over:.0f} over its base")
            if image == "manifold:0.1.0" and over > 450:
                raise Failed("the service's image is more than 450 MB over its base")


def up(it: Project) -> None:
    it("build", "service")
    began = time.monotonic()
    it("build", "service")
    say("second build", f"{time.monotonic() - began:.1f} s, cached")
    began = time.monotonic()
    it("up", "-d")
    until(lambda: httpx.get(f"{it.url('PORT')}/health/ready").status_code == 200, "ready")
    done = run("curl", "-sf", f"{it.url('PORT')}/sample", "-H", "Content-Type: application/json", "-d", '{"seed": 7}')
    say("from up to the first sample", f"{time.monotonic() - began:.1f} s")
    image = json.loads(done.stdout)["images"][0]
    with grpc.insecure_channel(f"127.0.0.1:{it.ports['GRPC_PORT']}") as channel:
        same = stubs.ManifoldStub(channel).Sample(pb.SampleRequest(seed=7), timeout=30).images[0]
    if base64.b64decode(image) != same:
        raise Failed("REST and gRPC do not give the same picture for a seed")
    (container,) = it.containers("service")
    until(
        lambda: run("docker", "inspect", "-f", "{{.State.Health.Status}}", container).stdout.strip() == "healthy",
        "healthy",
        60,
    )
    if run("docker", "exec", container, "id", "-u").stdout.strip() == "0":
        raise Failed("the service runs as root")
    for path in ("/srv/manifold/models/x", "/x", "/opt/venv/x"):
        if run("docker", "exec", container, "touch", path, check=False).returncode == 0:
            raise Failed(f"{path} can be written")
    say("container", "healthy, not root, file system read-only")


def watched(it: Project) -> None:
    """Check that Prometheus scrapes the service and its histograms, and that all queries of the dashboard and the alerts have answers."""
    with httpx.Client(base_url=it.url("PROMETHEUS_PORT"), timeout=30) as prometheus:

        def ask(query: str) -> list[Any]:
            answer = prometheus.get("/api/v1/query", params={"query": query}).json()
            if answer["status"] != "success":
                raise Failed(f"{query}: {answer['error']}")
            return list(answer["data"]["result"])

        until(lambda: [each["value"][1] for each in ask('up{job="manifold"}')] == ["1"], "the target is up")
        for _ in range(20):
            httpx.post(f"{it.url('PORT')}/sample", json={"n": 3})
        until(lambda: all(ask(name) for name in EVERY_HISTOGRAM), "the histograms are there")
        asked = 0
        for where, expression in expressions():
            if not expression.startswith("label_values"):
                query = (
                    expression.replace("$__rate_interval", "1m")
                    .replace('"$instance"', '".*"')
                    .replace('"$model"', '".*"')
                )
                try:
                    ask(query)
                except Failed as error:
                    raise Failed(f"{where}: {error}") from None
                asked += 1
        rules = [
            rule["name"]
            for group in prometheus.get("/api/v1/rules").json()["data"]["groups"]
            for rule in group["rules"]
        ]
    say(
        "Prometheus",
        f"target up, histograms there, {asked} questions of panels and alerts answered, {len(rules)} rules loaded",
    )
    if httpx.get(f"{it.url('GRAFANA_PORT')}/api/health").status_code != 200:
        raise Failed("Grafana does not answer")
    mounted = f"{ROOT}/deploy/prometheus:/etc/prometheus:ro"
    told = ["docker", "run", "--rm", "-v", mounted, "--entrypoint", "promtool", "prom/prometheus:v3.5.0"]
    run(*told, "check", "config", "/etc/prometheus/prometheus.yml")
    run(*told, "test", "rules", "/etc/prometheus/alerts.test.yml")
    say("promtool", "configuration and alerts are well")


def down(it: Project) -> None:
    began = time.monotonic()
    (container,) = it.containers("service")
    run("docker", "stop", "-t", "20", container)
    status = run("docker", "inspect", "-f", "{{.State.ExitCode}}", container).stdout.strip()
    if status != "0":
        raise Failed(f"the service ended with {status}")
    it("down", "-v", "--remove-orphans")
    seconds = time.monotonic() - began
    label = f"label=com.docker.compose.project={it.command[it.command.index('--project-name') + 1]}"
    left = [
        *run("docker", "ps", "-aq", "--filter", label).stdout.split(),
        *run("docker", "network", "ls", "-q", "--filter", label).stdout.split(),
    ]
    if left or seconds > 30:
        raise Failed(f"down took {seconds:.1f} s and left {left}")
    say("down", f"{seconds:.1f} s, 3 of them the notice; nothing is left")


# --- replicas ---


class Load:
    """Clients that request samples by seed, with and without retries, and compare the answers."""

    def __init__(self, url: str, *, retries: bool) -> None:
        self.url, self.retries = url, retries
        self.failures: list[str] = []
        self.answered = 0
        self._stop = threading.Event()
        with httpx.Client(base_url=url) as client:
            self.expected = {seed: client.post("/sample", json={"seed": seed}).json()["images"] for seed in range(20)}
        self._threads = [threading.Thread(target=self._call, args=(caller,)) for caller in range(CALLERS)]

    def _call(self, caller: int) -> None:
        seed = caller
        with httpx.Client(base_url=self.url, timeout=30) as plain, Client(self.url, retry=Retry(attempts=8)) as client:
            while not self._stop.is_set():
                seed = (seed + 1) % 20
                try:
                    if self.retries:
                        images: Any = client._send("POST", "/sample", {"seed": seed})["images"]
                    else:
                        answer = plain.post("/sample", json={"seed": seed})
                        if answer.status_code != 200:
                            self.failures.append(f"{answer.status_code}")
                            continue
                        images = answer.json()["images"]
                    if images != self.expected[seed]:
                        self.failures.append("another picture")
                    self.answered += 1
                except Exception as error:
                    self.failures.append(type(error).__name__)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


def replicas_up(it: Project) -> int:
    """Return the number of replicas to which HAProxy sends requests. The request ids of each replica have their own prefix."""
    answers = [httpx.get(f"{it.url('BALANCER_PORT')}/health/live") for _ in range(30)]
    ids = {answer.headers["x-request-id"][:16] for answer in answers if answer.status_code == 200}
    return len(ids)


def scaled(folder: Path) -> None:
    with project(folder, "manifold-test-scale", REPLICAS="3") as it:
        it("up", "-d", "balancer", profile="scale")
        seconds = until(lambda: replicas_up(it) == 3, "three replicas")
        say("three replicas behind HAProxy", f"after {seconds:.1f} s")
        url = it.url("BALANCER_PORT")
        pictures = {str(httpx.post(f"{url}/sample", json={"seed": 7}).json()["images"]) for _ in range(12)}
        if len(pictures) != 1:
            raise Failed("replicas do not give the same picture for a seed")
        with grpc.insecure_channel(f"127.0.0.1:{it.ports['BALANCER_GRPC_PORT']}") as channel:
            found = {
                stubs.ManifoldStub(channel).Sample(pb.SampleRequest(seed=7), timeout=30).images[0] for _ in range(12)
            }
        if found != {base64.b64decode(json.loads(next(iter(pictures)).replace("'", '"'))[0])}:
            raise Failed("gRPC through HAProxy gives another picture")
        if httpx.get(f"{url}/metrics").status_code != 404 or httpx.post(f"{url}/admin/reload").status_code != 404:
            raise Failed("the balancer passes on what is each replica's own")
        for retries in (False, True):
            victim = it.containers("replica")[0]
            with Load(url, retries=retries) as load:
                time.sleep(3)
                run("docker", "kill", victim)
                time.sleep(5)
            who = "client that retries" if retries else "client that does not"
            say(
                f"a replica killed under load, {who}",
                f"{load.answered} answers, {len(load.failures)} failures {dict(Counter(load.failures))}",
            )
            if len(load.failures) > (0 if retries else CALLERS):
                raise Failed("more than what was in flight has failed")
            run("docker", "start", victim)
            until(lambda: replicas_up(it) == 3, "three replicas again")
        with Load(url, retries=False) as load:
            for container in it.containers("replica"):
                time.sleep(1)
                run("docker", "restart", "-t", "20", container)
                until(lambda: replicas_up(it) == 3, "three replicas again")
        say(
            "rolling restart under load, no retries",
            f"{load.answered} answers, {len(load.failures)} failures {dict(Counter(load.failures))}",
        )
        if load.failures:
            raise Failed("a rolling restart lost requests")
        began = time.monotonic()
        it("down", "-v", profile="scale")
        say("down of three replicas", f"{time.monotonic() - began:.1f} s")


# --- errors that stop the start ---


def refused(folder: Path) -> None:
    _, key = security.create("shop", ["infer"])
    wrong: dict[str, tuple[dict[str, str], str]] = {
        "a value": ({"MANIFOLD_MAX_ROWS": "many"}, "max_rows"),
        "a key": ({"MANIFOLD_KEYS": "shop:infer:abc", "MANIFOLD_AUTH": "on"}, "cannot be read"),
        "no key beyond loopback": ({"BIND": "0.0.0.0"}, "manifold key NAME"),
        "no certificate": (
            {"MANIFOLD_TLS_CERTIFICATE": "/run/manifold/no.pem", "MANIFOLD_TLS_KEY": "/run/manifold/no.pem"},
            "no.pem",
        ),
        "no models folder": ({"MODELS": str(folder / "nowhere")}, "nowhere"),
        "an empty models folder": ({"MODELS": str(folder / "empty")}, "contains no models"),
        "a default model that is not there": ({"MANIFOLD_DEFAULT_MODEL": "gone"}, "gone"),
    }
    (folder / "empty").mkdir()
    for number, (what, (environment, complaint)) in enumerate(wrong.items()):
        with project(folder, f"manifold-test-wrong{number}", **environment) as it:
            done = it("up", "-d", "service", check=False)
            told = done.stdout + done.stderr + it("logs", "check", check=False).stdout
            if done.returncode == 0 or complaint not in told:
                raise Failed(f"{what}: status {done.returncode}, {told}")
            shutil.rmtree(folder / "nowhere", ignore_errors=True)  # some versions create this folder
            say(
                f"{what} ends up with status {done.returncode}",
                next((line for line in told.splitlines() if complaint in line), "").strip()[-160:],
            )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with project(folder, "manifold-test-port", PORT=str(taken.getsockname()[1])) as it:
            done = it("up", "-d", "service", check=False)
            if done.returncode == 0 or str(taken.getsockname()[1]) not in done.stderr:
                raise Failed(f"a port in use: status {done.returncode}, {done.stderr}")
            say(f"a port in use ends up with status {done.returncode}", done.stderr.strip().splitlines()[0][-160:])
    with project(folder, "manifold-test-keys", BIND="0.0.0.0", MANIFOLD_KEYS=str(key)) as it:
        it("up", "-d", "service")
        until(lambda: httpx.get(f"{it.url('PORT')}/health/ready").status_code == 200, "ready")
        if httpx.post(f"{it.url('PORT')}/sample", json={}).status_code != 401:
            raise Failed("a request without a key is answered on other addresses than loopback")
    say("beyond loopback, with a key", "up; a request without it gets 401")


def on_gpu() -> None:
    """Check the GPU image on this machine: it is ready if there is a GPU, and otherwise reports the reason."""
    run("docker", "build", "--target", "gpu", "-t", "manifold-gpu:0.1.0", ".")
    port = free_port()
    command = [
        "docker",
        "run",
        "-d",
        "--rm",
        "-p",
        f"127.0.0.1:{port}:8000",
        "-e",
        "MANIFOLD_PUBLISHED=127.0.0.1",
        "manifold-gpu:0.1.0",
    ]
    container = run(*command).stdout.strip()
    try:
        url = f"http://127.0.0.1:{port}/health/ready"
        until(lambda: "loading" not in httpx.get(url).json()["models"].values(), "the models have been tried")
        answer = httpx.get(url).json()
        models = httpx.get(f"http://127.0.0.1:{port}/models").text
        if answer["status"] == "not ready" and not re.search("CUDA", models):
            raise Failed(f"not ready without saying why: {answer['reason']}")
        say("GPU image", f"{answer['status']}: {(answer['reason'] or '')[:200]}")
    finally:
        run("docker", "stop", container)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gpu", action="store_true", help="the GPU image too")
    options = parser.parse_args()
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        print("docker does not answer: nothing tried")
        return 0
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with project(folder) as it:
                up(it)
                watched(it)
                down(it)
            scaled(folder)
            refused(folder)
            if options.gpu:
                on_gpu()
            sizes()
    except Failed as error:
        print(f"FAILED: {error}")
        return 1
    print("all well")
    return 0


if __name__ == "__main__":
    sys.exit(main())
