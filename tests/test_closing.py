"""Models that are removed while they run or load: the event loop never waits for them, and none of them stays in memory."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from manifold.runtime import engine, operations
from manifold.runtime.engine import Model
from manifold.runtime.errors import Unavailable
from manifold.service.models.entries import Entry, hold_from_now, let_go
from manifold.service.models.registry import Registry
from manifold.service.settings import Settings
from tests import foreign
from tests.gate import Gate
from tests.served import answers, free_port, until

SIZE = 300  # bytes; the size that the graph of each fake model reports


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write models a, b and c of the fake backend."""
    for name in "abc":
        folder = foreign.write(tmp_path, lambda path: path.write_bytes(b"x" * SIZE), name=name, backend="fake")
        assert (folder / "generator.onnx").stat().st_size == SIZE
    return tmp_path


class Loads:
    """A gate that holds the loading of models until `go` is set; `go` and `began` have one event for each model name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        self.began = {name: threading.Event() for name in names}
        self.go = {name: threading.Event() for name in names}
        self.models: list[weakref.ref[Model]] = []
        self._load = engine.load
        monkeypatch.setattr(engine, "load", self)

    def __call__(self, folder: Path, **options: Any) -> Model:
        name = folder.parent.name
        if name in self.began:
            self.began[name].set()
            assert self.go[name].wait(60)
        model = self._load(folder, **options)
        self.models.append(weakref.ref(model))
        return model

    async def loading(self, name: str) -> None:
        await happens(self.began[name].is_set)


async def happens(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for a condition without blocking the event loop."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        await asyncio.sleep(0.001)


def registry_of(root: Path, **options: Any) -> Registry:
    return Registry(Settings(models_dir=root, device="cpu", **options))


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 60))


def work(entry: Entry) -> asyncio.Task[Any]:
    """Start a request that holds the entry until it ends for any reason."""

    async def request() -> None:
        held = hold_from_now()
        entry.hold()
        try:
            assert entry.batcher is not None and entry.manifest is not None
            await entry.batcher.drive(operations.sample(entry.manifest, 1, seed=1), 1, time.monotonic() + 60)
        finally:
            let_go(held)

    return asyncio.get_running_loop().create_task(request())


async def abandoned(entry: Entry) -> Gate:
    """Start a run, and disconnect its client."""
    assert entry.model is not None
    gate = Gate(entry.model)
    task = work(entry)
    await gate.running()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert entry.users == 0
    return gate


# --- remaining runs ---


@pytest.mark.parametrize("way", ["unload", "swap", "drop"])
def test_a_model_that_goes_does_not_wait_for_its_runs(root: Path, way: str) -> None:
    async def scene() -> None:
        registry = registry_of(root)
        registry.load()
        entry = await registry.get("a", None)
        gate, batcher = await abandoned(entry), weakref.ref(entry.batcher)  # the gate and the model refer to each other
        began = time.monotonic()
        if way == "unload":
            await registry.unload("a")
        else:
            (root / "a/1").rename(root / ".gone" if way == "drop" else root / "a/2")
            if way == "swap":
                text = (root / "a/2/manifest.json").read_text()
                (root / "a/2/manifest.json").write_text(text.replace('"version": 1', '"version": 2'))
                assert (await registry.refresh("a")).version == 2
            else:
                with pytest.raises(Exception, match="has no version to serve"):
                    await registry.refresh("a")
        assert time.monotonic() - began < 10  # the run continues until the gate is opened
        assert (entry.batcher, entry.model) == (None, None)
        assert registry.closing.weight == SIZE and registry.closing.names == ["a"]
        assert batcher() is not None
        gate.go.set()
        await happens(lambda: batcher() is None)
        assert registry.closing.weight == 0
        registry.close()

    run(scene())


def test_what_is_closed_counts_in_the_budget_until_its_last_run_has_ended(root: Path) -> None:
    async def scene() -> None:
        registry = registry_of(root, memory_bytes=SIZE + SIZE // 2)
        registry.load()
        entry = await registry.get("a", None)
        gate = await abandoned(entry)
        coming = asyncio.create_task(registry.get("b", None))
        await happens(lambda: entry.state == "idle")  # unloaded to make room, while its run continues
        for _ in range(5):
            await asyncio.sleep(0.02)
            assert registry.entries["b", 1].model is None
        assert registry.closing.weight == SIZE
        gate.go.set()
        assert (await coming).state == "ready"
        assert registry.closing.weight == 0
        assert (await registry.get("a", None)).state == "ready"  # the model is loaded again automatically
        registry.close()

    run(scene())


def test_a_model_that_is_swapped_waits_for_room_too(root: Path) -> None:
    async def scene() -> None:
        registry = registry_of(root, memory_bytes=2 * SIZE + SIZE // 2)
        registry.load()
        for name in "ab":
            await registry.get(name, None)
        gate = await abandoned(registry.entries["a", 1])
        os.utime(registry.entries["b", 1].folder / "manifest.json", (1, 1))  # b has to be loaded again
        coming = asyncio.create_task(registry.refresh("b"))
        await happens(lambda: registry.closing.weight == SIZE)  # the memory of a, the least recently used model
        held = [registry.closing.weight + sum(each.weight for each in registry.entries.values() if each.model)]
        gate.go.set()
        await coming
        assert max(held) <= 2 * SIZE + SIZE // 2
        registry.close()

    run(scene())


def test_the_end_waits_for_runs_but_not_for_ever(root: Path) -> None:
    async def scene(seconds: float, tell: bool) -> bool:
        registry = registry_of(root, drain_seconds=seconds)
        loading = asyncio.get_running_loop().create_future()
        registry.load()
        loading.set_result(None)
        gate = await abandoned(await registry.get("a", None))
        registry.stopped = True
        registry.close()
        if tell:
            asyncio.get_running_loop().call_later(0.05, gate.go.set)
        ended = await registry.drain(loading)
        gate.go.set()
        return ended

    assert asyncio.run(scene(30, True))
    began = time.monotonic()
    assert not asyncio.run(scene(0.1, False))
    assert time.monotonic() - began < 5


# --- loads that are overtaken ---


def test_an_unload_during_the_first_load_leaves_nothing_behind(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = Loads(monkeypatch, "a")

    async def scene() -> None:
        registry = registry_of(root)
        loading = asyncio.get_running_loop().run_in_executor(None, registry.load)
        await loads.loading("a")
        entry = registry.entries["a", 1]
        await registry.unload("a")
        loads.go["a"].set()
        await loading
        assert (entry.model, entry.batcher) == (None, None)
        await happens(lambda: sum(model() is not None for model in loads.models) == 2)  # models b and c
        assert registry.entries["a", 1].state == "unavailable"
        with pytest.raises(Unavailable, match="unloaded; load it again"):
            await registry.get("a", None)
        assert (await registry.refresh("a")).state == "ready"
        registry.close()

    run(scene())


def test_an_unload_during_the_first_load_of_a_broken_version_loads_no_earlier_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = Loads(monkeypatch, "a")
    (root / "a/2").mkdir()
    # it states version 1, so it is refused
    (root / "a/2/manifest.json").write_text((root / "a/1/manifest.json").read_text())

    async def scene() -> None:
        registry = registry_of(root)
        loading = asyncio.get_running_loop().run_in_executor(None, registry.load)
        await loads.loading("a")
        await registry.unload("a")
        loads.go["a"].set()
        await loading
        assert {registry.entries["a", version].state for version in (1, 2)} == {"unavailable"}
        assert all(registry.entries["a", version].model is None for version in (1, 2))
        registry.close()

    run(scene())


def test_an_unload_while_a_model_wakes_leaves_nothing_behind(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = Loads(monkeypatch, "a")

    async def scene() -> None:
        registry = registry_of(root, lazy=True)
        registry.load()
        asked = asyncio.create_task(registry.get("a", None))
        await loads.loading("a")
        entry = registry.entries["a", 1]
        await registry.unload("a")
        loads.go["a"].set()
        with pytest.raises(Unavailable, match="unloaded; load it again"):
            await asked
        assert (entry.model, entry.batcher) == (None, None)
        await happens(lambda: not any(model() for model in loads.models))
        registry.close()

    run(scene())


def test_a_load_during_the_first_load_that_was_unloaded_ends_with_one_model(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = Loads(monkeypatch, "a")

    async def scene() -> None:
        registry = registry_of(root)
        loading = asyncio.get_running_loop().run_in_executor(None, registry.load)
        await loads.loading("a")
        await registry.unload("a")
        again = asyncio.create_task(registry.refresh("a"))
        await asyncio.sleep(0)
        loads.go["a"].set()
        await loading
        assert (await again).state == "ready"
        await happens(lambda: sum(model() is not None for model in loads.models) == 3)
        assert (await registry.get("a", None)).model is not None
        registry.close()

    run(scene())


def test_what_still_loads_at_the_end_is_closed_when_it_has_loaded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = Loads(monkeypatch, "a")

    async def scene() -> None:
        registry = registry_of(root, drain_seconds=30)
        loading = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(None, registry.load))
        await loads.loading("a")
        registry.close()
        asyncio.get_running_loop().call_later(0.02, loads.go["a"].set)
        assert await registry.drain(loading)
        assert all(entry.model is None for entry in registry.entries.values())
        await happens(lambda: not any(model() for model in loads.models))

    run(scene())


def test_loads_unloads_and_requests_at_once_end_in_order(root: Path) -> None:
    """The order does not matter: at the end each loaded name has one model, and no run or memory of another model is left."""

    async def scene() -> None:
        registry = registry_of(root, memory_bytes=2 * SIZE + SIZE // 2)
        registry.load()

        async def ask(name: str) -> None:
            held = hold_from_now()
            try:
                entry = await registry.get(name, None)
                assert entry.batcher is not None and entry.manifest is not None
                await entry.batcher.drive(operations.sample(entry.manifest, 1, seed=1), 1, time.monotonic() + 60)
            except Unavailable:
                pass
            finally:
                let_go(held)

        for turn in range(15):
            deeds: list[Coroutine[Any, Any, object]] = [ask(name) for name in "abc" * 3]
            deeds += [registry.unload("abc"[turn % 3]), registry.refresh("abc"[turn % 3])]
            await asyncio.gather(*deeds)
        await happens(lambda: registry.closing.weight == 0)
        loaded = [entry for entry in registry.entries.values() if entry.model is not None]
        assert len(loaded) <= 2 and all(entry.users == 0 for entry in loaded)
        registry.close()
        await happens(lambda: registry.closing.weight == 0)

    run(scene())


# --- the process ---


def test_the_service_ends_in_time_though_a_run_does_not(tmp_path: Path) -> None:
    """Remaining runs end with the process, so this needs one of its own: its run takes many seconds, and its client has disconnected."""
    foreign.write(tmp_path, foreign.looping, name="looping")
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "manifold.service"], stderr=subprocess.PIPE, text=True,
        env={
            **os.environ, "MANIFOLD_MODELS_DIR": str(tmp_path), "MANIFOLD_PORT": str(port), "MANIFOLD_GRPC_PORT": "0",
            "MANIFOLD_DEFAULT_MODEL": "looping", "MANIFOLD_DRAIN_SECONDS": "0.5", "MANIFOLD_DEVICE": "cpu",
        },
    ) as service:  # fmt: skip
        killed = threading.Timer(60, service.kill)  # in case the test fails
        killed.start()
        url = f"http://127.0.0.1:{port}"
        until(lambda: answers(f"{url}/health/ready"))
        body = json.dumps({"latents": [[9e5] + [0.0] * (foreign.LATENT - 1)]}).encode()
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(b"POST /sample HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            until(lambda: 'manifold_queued_rows{model="looping"} 1.0' in httpx.get(f"{url}/metrics").text)
        assert httpx.post(f"{url}/admin/models/looping/unload").json()["state"] == "unavailable"
        service.send_signal(signal.SIGTERM)
        told = time.monotonic()
        _, log = service.communicate()
        killed.cancel()
        assert time.monotonic() - told < 15  # the run itself would take longer
        assert service.returncode == 0
        assert "ending before the last runs and loads have ended" in log
