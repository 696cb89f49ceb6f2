"""Models that are added, changed and removed while the service runs: no request fails, no wrong version answers, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from manifold.runtime.errors import Unavailable, UnknownModel
from manifold.service import security
from manifold.service.models import versions
from manifold.service.models.registry import Registry
from manifold.service.settings import Settings, SettingsError, read
from manifold.service.stubs import inference_pb2 as pb
from manifold.service.stubs import inference_pb2_grpc as stubs
from tests.gate import Gate
from tests.served import Served, served, until


def publish(root: Path, name: str, version: int, value: float | None = None) -> Path:
    """Write ROOT/NAME/VERSION, whose images are all `value` (by default the version), with one rename."""
    folder = root / f".staging-{name}-{version}"
    folder.mkdir(parents=True)
    nodes = [
        helper.make_node("Mul", ["latent", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "value"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["data"]),
    ]
    constants = [
        numpy_helper.from_array(np.zeros(4, np.float32), "zero"),
        numpy_helper.from_array(np.full(4, (version if value is None else value) / 1000, np.float32), "value"),
        numpy_helper.from_array(np.asarray([-1, 1, 2, 2], np.int64), "shape"),
    ]
    graph = helper.make_graph(
        nodes, "constant",
        [helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 1, 2, 2])], constants,
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "decode.onnx"
    )
    manifest = {
        "name": name, "version": version, "data": {"kind": "image", "height": 2, "width": 2, "channels": 1}, "latent": {"size": 4},
        "tasks": {"decode": {
            "graph": "decode.onnx", "inputs": [{"role": "latent", "source": "latent", "shape": [4]}], "outputs": [{"role": "data", "shape": [1, 2, 2]}],
        }},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    target = root / name / str(version)
    target.parent.mkdir(exist_ok=True)
    folder.rename(target)
    return target


def value_of(answer: dict[str, Any]) -> int:
    """Return the version that made the images, by their value."""
    return round(1000 * float(np.ravel(answer["data"])[0]))


def ask(service: Served, model: str = "a", **body: Any) -> dict[str, Any]:
    answer = service.client.post("/sample", json={"model": model, "encoding": "array", **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def states(service: Served) -> dict[tuple[str, int], tuple[str, str | None]]:
    listed = service.client.get("/models").json()["models"]
    return {(each["name"], each["version"]): (each["state"], each["reason"]) for each in listed}


def load(service: Served, name: str = "a", verb: str = "load") -> Any:
    return service.client.post(f"/v2/repository/models/{name}/{verb}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path, "a", 1)
    publish(tmp_path, "b", 1)
    return tmp_path


# --- which versions ---


def test_policies() -> None:
    there = [1, 2, 5, 9]
    for text, chosen in (
        ("all", there), ("latest", [9]), ("latest 2", [5, 9]), ("latest 9", there), ("2 9", [2, 9]), ("2, 9", [2, 9]), ("7", []),
    ):  # fmt: skip
        assert versions.parse(text).choose(there) == chosen, text
    for text in ("", "newest", "latest 0", "latest -1", "1 x", "1.5"):
        with pytest.raises(ValueError, match="use one of: all, latest"):
            versions.parse(text)
    with pytest.raises(SettingsError, match="versions: 'newest' names no versions"):
        read(versions="newest")


def test_a_policy_says_which_versions_may_be_asked_for(root: Path) -> None:
    for version in (2, 3):
        publish(root, "a", version)
    with served(root, versions="latest 2", models={"b": {"versions": "1"}}) as service:
        assert value_of(ask(service)) == 3
        assert value_of(ask(service, version=2)) == 2
        answer = service.client.post("/sample", json={"model": "a", "version": 1})
        assert (answer.status_code, answer.json()["error"]["valid"]) == (404, [2, 3])
        publish(root, "a", 4)
        publish(root, "b", 2)
        assert load(service).status_code == load(service, "b").status_code == 200
        assert service.client.get("/v2/models/a").json()["versions"] == ["3", "4"]
        assert value_of(ask(service)) == 4
        assert value_of(ask(service, "b")) == 1
        assert service.client.post("/sample", json={"model": "a", "version": 2}).status_code == 404


# --- load and unload ---


def test_load_takes_over_what_is_new_and_what_has_changed(root: Path) -> None:
    with served(root) as service:
        assert load(service).status_code == 200  # no file has changed
        assert value_of(ask(service)) == 1
        publish(root, "a", 2)
        assert value_of(ask(service)) == 1
        answer = service.client.post("/admin/models/a/load")
        assert (answer.json()["version"], answer.json()["state"]) == (2, "ready")
        assert value_of(ask(service)) == 2
        assert value_of(ask(service, version=1)) == 1
        shutil.rmtree(root / "a/2")
        publish(root, "a", 2, value=77)
        assert load(service).status_code == 200
        assert (ask(service)["version"], value_of(ask(service))) == (2, 77)
        publish(root, "c", 1)
        assert service.client.post("/sample", json={"model": "c"}).status_code == 404
        assert load(service, "c").status_code == 200
        assert value_of(ask(service, "c")) == 1
        shutil.rmtree(root / "c")
        assert load(service, "c").status_code == 404
        assert ("c", 1) not in states(service)
        assert load(service, "nope").status_code == 404
        assert load(service, "..").status_code == 404
        refused = service.client.post("/v2/repository/models/a/load", json={"parameters": {"config": "{}"}})
        assert (refused.status_code, "are loaded from their folder only" in refused.json()["error"]) == (400, True)


def test_unload_and_load_again(root: Path) -> None:
    with served(root) as service:
        assert load(service, verb="unload").status_code == 200
        answer = service.client.post("/sample", json={"model": "a"})
        assert (answer.status_code, "unloaded" in answer.json()["error"]["message"]) == (503, True)
        assert states(service)["a", 1][0] == "unavailable"
        # the model was unloaded on request, so the service stays ready
        assert service.client.get("/health/ready").status_code == 200
        assert service.client.get("/v2/models/a/ready").status_code == 503
        index = {each["name"]: each for each in service.client.post("/v2/repository/index").json()}
        assert (index["a"]["state"], index["b"]["state"]) == ("UNAVAILABLE", "READY")
        assert [each["name"] for each in service.client.post("/v2/repository/index", json={"ready": True}).json()] == [
            "b"
        ]
        assert load(service).status_code == 200
        assert value_of(ask(service)) == 1
        assert load(service, "nope", "unload").status_code == 404
        assert service.client.post("/admin/models/b/unload").json()["state"] == "unavailable"


def test_a_broken_version_leaves_the_old_one_and_says_why(root: Path) -> None:
    with served(root) as service:
        (publish(root, "a", 2) / "decode.onnx").write_bytes(b"no graph")
        answer = load(service)
        assert (answer.status_code, "cannot load the graph" in answer.json()["error"]) == (503, True)
        found = ask(service)
        assert (found["version"], value_of(found)) == (1, 1)
        state, reason = states(service)["a", 2]
        assert state == "unavailable" and "cannot load the graph" in str(reason)
        assert service.client.get("/health/ready").status_code == 200
        # a loaded version whose file is damaged in place
        (root / "a/1/manifest.json").write_text("{")
        assert load(service).status_code == 503
        assert value_of(ask(service, version=1)) == 1
        state, reason = states(service)["a", 1]
        assert state == "ready" and "is not served" in str(reason)
        # the file is repaired
        shutil.rmtree(root / "a/2")
        publish(root, "a", 2)
        assert load(service).status_code == 200
        assert value_of(ask(service)) == 2


def test_a_broken_latest_version_at_the_start_leaves_the_one_before(root: Path) -> None:
    (publish(root, "a", 2) / "decode.onnx").write_bytes(b"no graph")
    with served(root) as service:
        assert value_of(ask(service)) == 1
        assert states(service)["a", 2][0] == "unavailable"
        assert service.client.get("/health/ready").status_code == 200


def test_a_version_that_failed_is_not_chosen_when_the_next_one_fails_too(root: Path) -> None:
    """Verification alone does not find a broken graph, so version 2 must not count as the highest version that can be served."""
    with served(root) as service:
        for version in (2, 3):
            (publish(root, "a", version) / "decode.onnx").write_bytes(b"no graph")
            assert load(service).status_code == 503
            assert value_of(ask(service)) == 1
        shutil.rmtree(root / "a/3")
        assert load(service).status_code == 503
        assert value_of(ask(service)) == 1


def test_a_version_that_fails_when_it_is_first_asked_for_gives_way_to_the_one_before(root: Path) -> None:
    (publish(root, "a", 2) / "decode.onnx").write_bytes(b"no graph")
    with served(root, lazy=True) as service:
        assert value_of(ask(service)) == 1
        assert service.client.post("/sample", json={"model": "a", "version": 2}).status_code == 503
        assert service.client.get("/health/ready").status_code == 200


def test_over_grpc(root: Path) -> None:
    with served(root, grpc=True) as service, grpc.insecure_channel(service.target) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        publish(root, "a", 2)
        stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="a"))
        assert stub.ModelInfer(pb.ModelInferRequest(model_name="a")).model_version == "2"
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="a"))
        found = {
            (each.name, each.version): each.state for each in stub.RepositoryIndex(pb.RepositoryIndexRequest()).models
        }
        assert found == {("a", "1"): "UNAVAILABLE", ("a", "2"): "UNAVAILABLE", ("b", "1"): "READY"}
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(pb.ModelInferRequest(model_name="a"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_models_are_changed_by_those_who_may(root: Path) -> None:
    user, key = security.create("user", ["infer"])
    owner, admin = security.create("owner", ["infer", "admin"])
    with (
        served(root, grpc=True, auth="on", keys=f"{key} {admin}") as service,
        grpc.insecure_channel(service.target) as channel,
    ):
        stub = stubs.GRPCInferenceServiceStub(channel)
        request = pb.RepositoryModelLoadRequest(model_name="a")
        for token, status, code in ((user, 403, grpc.StatusCode.PERMISSION_DENIED), (owner, 200, None)):
            headers = {"Authorization": f"Bearer {token}"}
            assert service.client.post("/v2/repository/models/a/load", headers=headers).status_code == status
            assert service.client.post("/v2/repository/index", headers=headers).status_code == 200
            metadata = (("authorization", f"Bearer {token}"),)
            if code is None:
                stub.RepositoryModelLoad(request, metadata=metadata)
                continue
            with pytest.raises(grpc.RpcError) as caught:
                stub.RepositoryModelLoad(request, metadata=metadata)
            assert caught.value.code() is code


# --- the folder is watched ---


def test_the_folder_is_followed(root: Path) -> None:
    with served(root, watch_seconds=0.05) as service:
        publish(root, "a", 2)
        until(lambda: ask(service)["version"] == 2)
        (publish(root, "a", 3) / "decode.onnx").write_bytes(b"no graph")
        until(lambda: ("a", 3) in states(service))
        assert ask(service)["version"] == 2
        (publish(root, "broken", 1) / "decode.onnx").write_bytes(b"no graph")
        until(lambda: ("broken", 1) in states(service))
        assert states(service)["broken", 1][0] == "unavailable"
        assert service.client.get("/health/ready").status_code == 200  # the other models are served as before
        shutil.rmtree(root / "a/3")
        publish(root, "a", 3)
        until(lambda: ask(service)["version"] == 3)
        shutil.rmtree(root / "a/3")
        until(lambda: ask(service)["version"] == 2)
        publish(root, "c", 1)
        until(lambda: ("c", 1) in states(service))
        assert value_of(ask(service, "c")) == 1
        assert load(service, verb="unload").status_code == 200
        publish(root, "b", 2)
        until(lambda: ask(service, "b")["version"] == 2)
        assert states(service)["a", 2][0] == "unavailable"  # an unloaded model stays unloaded


# --- swaps under load ---


def asking(service: Served, stop: threading.Event, wrong: list[Any], counts: list[int]) -> None:
    count = 0
    with httpx.Client(base_url=service.url, timeout=30) as client:
        while not stop.is_set():
            answer = client.post("/sample", json={"model": "a", "encoding": "array"})
            if answer.status_code != 200 or value_of(answer.json()) != answer.json()["version"]:
                wrong.append(answer.text)
            count += 1
    counts.append(count)


def test_swaps_under_load_fail_nothing(root: Path) -> None:
    with served(root, versions="latest") as service:
        stop, wrong, counts = threading.Event(), list[Any](), list[int]()
        threads = [threading.Thread(target=asking, args=(service, stop, wrong, counts)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for version in range(2, 22):
            publish(root, "a", version)
            assert load(service).status_code == 200
            assert ask(service)["version"] == version
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong
        assert min(counts) > 20
        assert [key for key in service.registry.entries if key[0] == "a"] == [("a", 21)]


def test_a_request_keeps_its_version_to_its_end_and_then_the_version_is_gone(root: Path) -> None:
    with served(root, versions="latest") as service:
        entry = service.registry.entries["a", 1]
        assert entry.model is not None
        gate = Gate(entry.model)
        answers: list[dict[str, Any]] = []
        asked = threading.Thread(target=lambda: answers.append(ask(service)))
        asked.start()
        assert gate.began.wait(30)
        publish(root, "a", 2)
        assert load(service).status_code == 200
        assert ask(service)["version"] == 2  # the new version answers while the old one runs
        assert (entry.users, entry.retired) == (1, True)
        assert entry.model is not None
        gate.go.set()
        asked.join(30)
        assert (answers[0]["version"], value_of(answers[0])) == (1, 1)
        until(lambda: entry.users == 0)
        held: list[object] = [entry.model, entry.batcher]
        assert held == [None, None]


def test_what_is_replaced_is_freed_at_once(root: Path) -> None:
    """The last reference frees the model, without the garbage collector, which does not examine objects from the start."""
    with served(root, versions="latest") as service:
        for version in (2, 3):
            ask(service)
            model = service.registry.entries["a", version - 1].model
            assert model is not None
            graph = weakref.ref(model.runner.graphs["decode"])
            del model
            gc.disable()
            try:
                publish(root, "a", version)
                assert load(service).status_code == 200
                until(lambda: graph() is None)  # noqa: B023
            finally:
                gc.enable()


# --- lazily, within a budget ---


@pytest.fixture
def many(tmp_path: Path) -> Path:
    for index in range(6):
        publish(tmp_path, f"m{index}", 1, value=index)
    return tmp_path


def test_lazily_models_load_when_they_are_asked_for(many: Path) -> None:
    (many / "m5/1/decode.onnx").unlink()
    with served(many, lazy=True) as service:
        found = states(service)
        assert [found[f"m{i}", 1][0] for i in range(5)] == ["idle"] * 5
        assert "no file 'decode.onnx'" in str(found["m5", 1][1])  # the file is verified at the start
        assert service.client.get("/models/m0").json()["tasks"] == ["decode"]
        # unloaded models answer questions about themselves
        assert service.client.get("/v2/models/m0").json()["inputs"][0]["name"] == "latent"
        assert service.client.get("/v2/models/m0/ready").status_code == 200
        assert service.client.get("/v2/models/m0/stats").status_code == 200
        assert service.client.post("/v2/repository/index", json={"ready": True}).json()[0]["name"] == "m0"
        assert states(service)["m0", 1][0] == "idle"
        assert value_of(ask(service, "m3")) == 3
        assert states(service)["m3", 1][0] == "ready"
        assert states(service)["m2", 1][0] == "idle"


def test_a_budget_puts_the_least_recently_asked_to_sleep(many: Path) -> None:
    size = (many / "m0/1/decode.onnx").stat().st_size
    with served(many, lazy=True, memory_bytes=2 * size + size // 2) as service:

        def awake() -> set[str]:
            return {entry.name for entry in service.registry.entries.values() if entry.state == "ready"}

        for name, left in (
            ("m0", {"m0"}),
            ("m1", {"m0", "m1"}),
            ("m0", {"m0", "m1"}),
            ("m2", {"m0", "m2"}),
            ("m3", {"m2", "m3"}),
        ):
            ask(service, name)
            assert awake() == left
        for name in ("m0", "m1", "m2", "m3", "m4") * 3:
            assert value_of(ask(service, name)) == int(name[1])
            assert len(awake()) <= 2


def test_a_burst_for_more_models_than_fit_stays_within_the_budget(many: Path) -> None:
    size = (many / "m0/1/decode.onnx").stat().st_size
    with served(many, lazy=True, memory_bytes=2 * size + size // 2) as service:
        most, over = list[int](), threading.Event()

        def look() -> None:
            while not over.wait(0.001):
                most.append(sum(entry.model is not None for entry in list(service.registry.entries.values())))

        looking = threading.Thread(target=look)
        looking.start()
        with ThreadPoolExecutor(12) as pool:
            asked = [f"m{i % 5}" for i in range(60)]
            values = [value_of(answer) for answer in pool.map(lambda name: ask(service, name), asked)]
        over.set()
        looking.join()
        assert values == [int(name[1]) for name in asked]
        assert max(most) == 2


def test_many_who_wake_one_model_load_it_once(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(Settings(models_dir=many, device="cpu", lazy=True))
    registry.load()
    entry, loads = registry.entries["m0", 1], list[int]()
    original = entry.load

    def counted(*given: Any) -> None:
        loads.append(1)
        original(*given)

    monkeypatch.setattr(entry, "load", counted)

    async def go() -> None:
        tasks = [asyncio.create_task(registry.get("m0", None)) for _ in range(20)]
        await asyncio.sleep(0)
        tasks[0].cancel()  # the first request is cancelled
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert all(each is entry for each in found[1:])

    asyncio.run(go())
    assert len(loads) == 1
    registry.close()


def test_what_is_held_is_not_put_to_sleep(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manifold.service.models.costs.IN_PLACE", 0)  # a waiting run must not block the event loop
    monkeypatch.setattr("manifold.service.models.memory.PATIENCE", 0.2)
    size = (many / "m0/1/decode.onnx").stat().st_size
    with served(many, lazy=True, memory_bytes=size) as service:
        ask(service, "m0")
        entry = service.registry.entries["m0", 1]
        assert entry.model is not None
        gate = Gate(entry.model)
        answers: list[dict[str, Any]] = []
        asked = threading.Thread(target=lambda: answers.append(ask(service, "m0")))
        asked.start()
        assert gate.began.wait(30)
        assert value_of(ask(service, "m1")) == 1  # the budget is exceeded, because no memory can be freed
        gate.go.set()
        asked.join(30)
        assert value_of(answers[0]) == 0
        ask(service, "m2")
        assert {each.name for each in service.registry.entries.values() if each.state == "ready"} == {"m2"}


def test_errors_of_a_registry_by_itself(root: Path) -> None:
    registry = Registry(Settings(models_dir=root, device="cpu"))
    registry.load()

    async def go() -> None:
        with pytest.raises(UnknownModel, match="has no version to serve"):
            await registry.refresh("nope")
        with pytest.raises(UnknownModel):
            await registry.unload("nope")
        publish(root, "a", 2)
        (root / "a/2/manifest.json").write_text("{}")
        with pytest.raises(Unavailable, match="a 2 is unavailable"):
            await registry.adopt("a", 2)

    asyncio.run(go())
    registry.close()
