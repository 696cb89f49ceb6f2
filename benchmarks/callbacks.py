"""The longest callback of the event loop under mixed load: how long one request can delay all others.

    python benchmarks/callbacks.py [--seconds 15] [--tree FOLDER]

The script starts the service of this checkout (or of another one, --tree) with models that are loaded and unloaded within a memory budget. Then it
sends many kinds of requests at once: small ones; bodies of megabytes as JSON, npy, images, forms and gRPC messages; uploads of files; scrapes of
/metrics; version swaps; abandoned runs; and a graph whose run time depends on its input.

Each callback is measured from inside, around asyncio's Handle._run. Two times are taken: the CPU time of the loop's thread (time.thread_time), and
the wall-clock time, which also includes waits for a core, for the interpreter's lock and for anything that blocks. uvloop's handles cannot
be wrapped, so the service runs on asyncio's own loop here; the callbacks are the same. The output is a histogram of both times, and the longest
callbacks. The goal is at most 20 ms of CPU time.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
BOUNDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000)  # milliseconds
GOAL = 20.0
KEPT = 8  # number of longest callbacks that are printed
JSON, NPY, FORM = "application/json", "application/x-npy", "multipart/form-data; boundary=between"
Actor = Callable[["Target"], Iterator[None]]


# --- the process of the service -----------------------------------------------------------------------------------------------


class Recorder:
    """The times of all callbacks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clear()

    def clear(self, *_: object) -> None:
        self.core, self.wall = [0] * (len(BOUNDS) + 1), [0] * (len(BOUNDS) + 1)
        self.longest: list[tuple[float, float, str]] = []
        self.longest_wall = 0.0

    def add(self, handle: Any, core: float, wall: float) -> None:
        """Record a callback: its CPU time and its wall-clock time, in milliseconds."""
        self.core[bisect_right(BOUNDS, core)] += 1
        self.wall[bisect_right(BOUNDS, wall)] += 1
        self.longest_wall = max(self.longest_wall, wall)
        if core > 2 and (len(self.longest) < KEPT or core > self.longest[-1][0]):
            self.longest = sorted([*self.longest, (core, wall, _name(handle))], reverse=True)[:KEPT]

    def write(self, *_: object) -> None:
        times = {"core": self.core, "wall": self.wall, "longest": self.longest, "longest_wall": self.longest_wall}
        self.path.with_suffix(".new").write_text(json.dumps(times))
        self.path.with_suffix(".new").replace(self.path)


def _name(handle: Any) -> str:
    """Return the name of the coroutine that ran, with the place where it now waits, or of the callback."""
    import asyncio

    task = getattr(handle._callback, "__self__", None)
    if not isinstance(task, asyncio.Task):
        return str(getattr(handle._callback, "__qualname__", handle._callback))
    names, coroutine = [], task.get_coro()
    while coroutine is not None and hasattr(coroutine, "__qualname__"):
        names.append(str(coroutine.__qualname__))
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "ag_await", None)
    return " > ".join(names[:1] + names[1:][-3:])


def serve(path: Path) -> None:
    """Run `python -m manifold.service`. Callbacks of its event loop are measured from SIGUSR1 to SIGUSR2."""
    import asyncio.events

    sys.modules["uvloop"] = None  # type: ignore[assignment]
    sys.path[0] = os.getcwd()
    recorder, run = Recorder(path), asyncio.events.Handle._run

    def measured(self: Any) -> None:
        core, wall = time.thread_time(), time.perf_counter()
        run(self)
        recorder.add(self, 1000 * (time.thread_time() - core), 1000 * (time.perf_counter() - wall))

    asyncio.events.Handle._run = measured  # type: ignore[method-assign]
    signal.signal(signal.SIGUSR1, recorder.clear)
    signal.signal(signal.SIGUSR2, recorder.write)
    from manifold.service import server
    from manifold.service.settings import read

    server.run(read())


# --- the load -----------------------------------------------------------------------------------------------------------------


class Target:
    """The service, and the number of requests of each kind with their statuses."""

    def __init__(self, port: int, rpc_port: int, models: Path) -> None:
        self.port, self.rpc_port, self.models = port, rpc_port, models
        self.over = threading.Event()
        self.counts: dict[str, dict[int, int]] = {}

    def ask(
        self, name: str, path: str, body: bytes | None = None, kind: str = JSON, accept: str = "*/*", timeout: float = 60
    ) -> None:  # fmt: skip
        """Send one request on its own connection, and count its status (0 if there is no answer)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        status = 0
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET" if body is None else "POST", path, body, {"Content-Type": kind, "Accept": accept})
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        statuses = self.counts.setdefault(name, {})
        statuses[status] = statuses.get(status, 0) + 1

    def run(self, actor: Actor) -> None:
        """Run an actor until the time is over."""
        for _ in actor(self):
            if self.over.is_set():
                return


def small(target: Target) -> Iterator[None]:
    for number in itertools.count():
        body = json.dumps({"model": "mnist-vae", "seed": number}).encode()
        target.ask("small", "/sample", body, accept="image/png" if number % 2 else JSON)
        yield time.sleep(0.01)


def bodies(target: Target) -> Iterator[None]:
    """Send and receive megabytes in every format."""
    import numpy as np

    from manifold.runtime import imaging

    random = np.random.default_rng(0)
    latents = random.normal(size=(1000, 20)).tolist()
    images = random.integers(0, 255, (256, 1, 28, 28)).astype(np.uint8)
    pngs = [imaging.to_png(image) for image in images]
    rows = [_row() for _ in range(1000)]
    holes = [{**row, "amount": None, "weekday": None} for row in rows]
    form = b"".join(
        b'--between\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\nContent-Type: image/png\r\n\r\n' + png + b"\r\n"
        for png in pngs
    ) + b"--between--\r\n"  # fmt: skip
    tensor = {
        "name": "data",
        "shape": [1000, 1, 28, 28],
        "datatype": "FP32",
        "data": random.random(784_000).round(4).tolist(),
    }
    array = random.random((1000, 1, 28, 28)).astype(np.float32)
    table = {"model": "transactions-vae"}
    requests = [
        ("/sample", _json({"latents": latents, "encoding": "array"}), JSON, JSON),
        ("/sample", _json({"latents": latents * 40}), JSON, JSON),  # 15 MB, refused after they have been read
        ("/sample", _json({"n": 1000, "encoding": "array"}), JSON, JSON),
        ("/sample", _json({"n": 500}), JSON, "application/x-ndjson"),
        ("/sample", _json({"n": 200}), JSON, "image/png"),
        ("/sample", _json({**table, "n": 1000}), JSON, JSON),
        ("/encode", _json({"images": [base64.b64encode(png).decode() for png in pngs]}), JSON, JSON),
        ("/encode", form, FORM, JSON),
        ("/reconstruct?encoding=array", _npy(array), NPY, JSON),
        ("/anomaly-score", _json({**table, "rows": rows, "explain": True}), JSON, JSON),
        ("/anomaly-score", _json({**table, "rows": rows * 30}), JSON, JSON),
        ("/impute", _json({**table, "rows": holes, "seed": 3}), JSON, JSON),
        ("/v2/models/mnist-vae.encode/infer", _json({"inputs": [tensor]}), JSON, JSON),
    ]
    for path, body, kind, accept in itertools.cycle(requests):
        target.ask(f"large {path.partition('?')[0]}", path, body, kind, accept)
        yield time.sleep(0.05)


def files(target: Target) -> Iterator[None]:
    """Upload files that do not fit into the memory allowed for one upload."""
    row = _row()
    line = ",".join(str(value) for value in row.values())
    content = (",".join(row) + "\n" + f"{line}\n" * 100_000).encode()
    while True:
        target.ask("upload", "/anomaly-score?model=transactions-vae", content, "text/csv")
        yield


def scrapes(target: Target) -> Iterator[None]:
    paths = (
        "/metrics",
        "/models",
        "/models/transactions-vae",
        "/openapi.json",
        "/health/ready",
        "/models/mnist-vae/preview.png",
        "/v2/models/stats",
    )
    for path in itertools.cycle(paths):
        target.ask("scrape", path)
        yield time.sleep(0.03)


def swaps(target: Target) -> Iterator[None]:
    """Publish, load and request one version of a model after another."""
    turns = ("mnist-vae", "mnist-beta-vae")
    for version in itertools.count(2):
        publish(target.models, turns[version % 2], "swapped", version)
        target.ask("load", "/v2/repository/models/swapped/load", b"")
        target.ask("swapped", "/sample", _json({"model": "swapped"}))
        if version % 4 == 0:
            target.ask("unload", "/v2/repository/models/swapped/unload", b"")
            target.ask("load", "/v2/repository/models/swapped/load", b"")
        yield time.sleep(0.1)


def abandoned(target: Target) -> Iterator[None]:
    """Run a graph whose run time depends on its input: some fast runs, then a run of seconds, whose client disconnects."""
    while True:
        for _ in range(8):
            target.ask("looping", "/sample", _json({"model": "looping", "latents": [[1.0] + [0.0] * 5]}))
            yield
        target.ask(
            "abandoned", "/sample", _json({"model": "looping", "latents": [[120_000.0] + [0.0] * 5]}), timeout=0.2
        )
        for name in ("fashion-vae", "mnist-cvae", "frey-vae"):  # the memory budget has to make room for these models
            target.ask("woken", "/sample", _json({"model": name}))
            yield


def calls(target: Target) -> Iterator[None]:
    """Send messages of megabytes over gRPC."""
    import grpc
    import numpy as np

    from manifold.service.stubs import inference_pb2 as v2
    from manifold.service.stubs import inference_pb2_grpc as v2_stubs
    from manifold.service.stubs import manifold_pb2 as pb
    from manifold.service.stubs import manifold_pb2_grpc as stubs

    latents = np.random.default_rng(0).normal(size=(1000, 20)).astype(np.float32)
    score = pb.ScoreRequest(model="transactions-vae")
    for _ in range(1000):
        columns = score.rows.add().columns
        for name, value in _row().items():
            if isinstance(value, str):
                columns[name].text = value
            else:
                columns[name].number = value
    tensor = v2.ModelInferRequest.InferInputTensor(name="data", datatype="FP32", shape=[1000, 1, 28, 28])
    tensor.contents.fp32_contents.extend([0.5] * 784_000)
    row = _row()
    lines = ",".join(row) + "\n" + (",".join(str(value) for value in row.values()) + "\n") * 20_000

    def file() -> Iterator[pb.ScoreFileRequest]:
        yield pb.ScoreFileRequest(kind="csv", request=pb.ScoreRequest(model="transactions-vae"))
        yield pb.ScoreFileRequest(chunk=lines.encode())

    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{target.rpc_port}", options=options) as channel:
        stub, other = stubs.ManifoldStub(channel), v2_stubs.GRPCInferenceServiceStub(channel)
        given = pb.Array(type=0, shape=latents.shape, content=latents.tobytes())
        requests: list[Callable[[], object]] = [
            lambda: stub.Sample(pb.SampleRequest(latents=given, encoding="array"), timeout=60),
            lambda: stub.Sample(pb.SampleRequest(model="transactions-vae", n=1000), timeout=60),
            lambda: stub.AnomalyScore(score, timeout=60),
            lambda: other.ModelInfer(v2.ModelInferRequest(model_name="mnist-vae.encode", inputs=[tensor]), timeout=60),
            lambda: list(stub.AnomalyScoreFile(file(), timeout=60)),
            lambda: list(stub.SampleStream(pb.SampleRequest(n=300), timeout=60)),
        ]
        for call in itertools.cycle(requests):
            statuses, code = target.counts.setdefault("gRPC", {}), 0
            try:
                call()
            except grpc.RpcError as error:
                code = error.code().value[0]
            statuses[code] = statuses.get(code, 0) + 1
            yield time.sleep(0.05)


ACTORS: tuple[Actor, ...] = (small, small, bodies, bodies, files, scrapes, scrapes, swaps, abandoned, calls)


def _json(content: object) -> bytes:
    return json.dumps(content).encode()


def _npy(array: Any) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _row() -> dict[str, Any]:
    from manifold.service.core.contract import EXAMPLE_ROW

    return dict(EXAMPLE_ROW)


def publish(root: Path, source: str, name: str, version: int) -> None:
    """Publish a version of a model with one rename."""
    from manifold.runtime import repository

    folder = root / f".staging-{version}"
    shutil.copytree(repository.find(source, HERE / "models"), folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "name": name, "version": version}))
    (root / name).mkdir(exist_ok=True)
    folder.rename(root / name / str(version))


def repository_of(root: Path) -> None:
    from tests import foreign

    for name in ("mnist-vae", "transactions-vae", "fashion-vae", "mnist-cvae", "frey-vae"):
        (root / name).symlink_to((HERE / "models" / name).resolve())
    publish(root, "mnist-vae", "swapped", 1)
    foreign.write(root, foreign.looping, name="looping")


def measure(target: Target, service: subprocess.Popen[bytes], seconds: float, times_file: Path) -> dict[str, Any]:
    target.ask("warm", "/sample", _json({"model": "mnist-vae"}))
    service.send_signal(signal.SIGUSR1)
    threads = [threading.Thread(target=target.run, args=(actor,)) for actor in ACTORS]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    service.send_signal(signal.SIGUSR2)
    target.over.set()
    for thread in threads:
        thread.join(90)
    until = time.monotonic() + 60
    while not times_file.exists() and time.monotonic() < until:
        time.sleep(0.05)
    measured: dict[str, Any] = json.loads(times_file.read_text())
    return measured


def report(measured: dict[str, Any], counts: dict[str, dict[int, int]]) -> None:
    print("| milliseconds | callbacks by CPU time | by wall-clock time |\n|---|---|---|")
    names = [
        f"below {BOUNDS[0]:g}",
        *(f"{low:g} to {high:g}" for low, high in itertools.pairwise(BOUNDS)),
        f"{BOUNDS[-1]:g} and more",
    ]
    for name, core, wall in zip(names, measured["core"], measured["wall"], strict=True):
        if core or wall:
            print(f"| {name} | {core} | {wall} |")
    longest = measured["longest"][0][0] if measured["longest"] else BOUNDS[5]
    print(
        f"\nlongest: {longest:.1f} ms of CPU time (the goal is {GOAL:g}), {measured['longest_wall']:.0f} ms of wall-clock time"
    )
    for core, wall, name in measured["longest"]:
        print(f"  {core:7.1f} ms of CPU time, {wall:7.1f} ms of wall-clock time: {name}")
    print("answers by status:", "; ".join(f"{name} {statuses}" for name, statuses in sorted(counts.items())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--tree", type=Path, default=HERE)
    parser.add_argument("--budget", type=int, default=4_500_000, help="memory budget for loaded graphs in bytes")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    sys.path[0] = str(HERE)
    sys.path.append(str(HERE / "benchmarks"))
    import serving

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models, times_file = folder / "models", folder / "found.json"
        models.mkdir()
        repository_of(models)
        port, rpc_port = serving.free_port(), serving.free_port()
        environment = {
            **os.environ, "MANIFOLD_PORT": str(port), "MANIFOLD_GRPC_PORT": str(rpc_port), "MANIFOLD_MODELS_DIR": str(models),
            "MANIFOLD_DEVICE": "cpu", "MANIFOLD_VERSIONS": "latest", "MANIFOLD_MEMORY_BYTES": str(options.budget),
            "MANIFOLD_TRUST_LOOPBACK": "true",
        }  # fmt: skip
        command = [sys.executable, str(Path(__file__).resolve()), "--serve", str(times_file)]
        with (folder / "log").open("wb") as log:
            service = subprocess.Popen(command, cwd=options.tree, env=environment, stdout=log, stderr=log)
        try:
            target = Target(port, rpc_port, models)
            _wait_until_ready(target)
            measured = measure(target, service, options.seconds, times_file)
        except BaseException:
            print((folder / "log").read_text()[-4000:], file=sys.stderr)
            raise
        finally:
            service.terminate()
            service.wait(60)
    report(measured, target.counts)


def _wait_until_ready(target: Target) -> None:
    until = time.monotonic() + 60
    while target.counts.get("ready", {}).get(200, 0) == 0:
        if time.monotonic() > until:
            raise SystemExit("the service did not become ready")
        target.ask("ready", "/health/ready")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
