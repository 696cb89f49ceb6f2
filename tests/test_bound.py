"""Graphs with bound buffers give the same outputs as plain graphs, on the CPU, which every machine has."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from manifold.runtime.engine import Model, load
from manifold.runtime.graphs.backends import OnnxBackend, OnnxGraph
from manifold.runtime.graphs.bound import BoundGraph
from manifold.runtime.graphs.forms import Forms
from manifold.runtime.manifest import Manifest, TaskSpec
from manifold.runtime.runner import example_inputs
from tests import foreign
from tests.conftest import NAMES


def opened(model: Model, name: str) -> tuple[OnnxGraph, BoundGraph, TaskSpec]:
    """Return a task's graph twice: plain, and bound to buffers of the CPU."""
    task = model.manifest.tasks[name]
    plain = OnnxBackend(model.folder, "cpu", 1).open(task, Forms(task, model.manifest))[0]
    assert isinstance(plain, OnnxGraph)
    return plain, BoundGraph(onnxruntime, plain.session, task, "cpu"), task


def inputs(task: TaskSpec, manifest: Manifest, rows: int, seed: int = 0) -> dict[str, Any]:
    given = example_inputs(task, manifest, rows, seed)
    return {spec.graph_name: given[spec.role] for spec in task.inputs}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mnist-vae-ts"])
def test_bound_graphs_give_what_plain_ones_do(shipped: dict[str, Model], name: str) -> None:
    model = shipped[name]
    for task_name in model.manifest.tasks:
        plain, bound, task = opened(model, task_name)
        for rows in (1, 3, 8, 5, 1):
            given = inputs(task, model.manifest, rows, seed=rows)
            size = 1 << (rows - 1).bit_length()
            expected = plain(
                {key: np.concatenate([each, each[-1:].repeat(size - rows, axis=0)]) for key, each in given.items()}
            )
            found = bound(given)
            for key, array in expected.items():
                assert np.array_equal(found[key], array[:rows]), (task_name, key, rows)
                assert found[key].flags.owndata  # the next run must not change this array
        assert sorted(bound._buckets) == [1, 4, 8]


def test_results_of_concurrent_runs_are_their_own(shipped: dict[str, Model]) -> None:
    model = shipped["mnist-vae-2d"]
    plain, bound, task = opened(model, "decode")
    wrong: list[int] = []

    def check(seed: int) -> None:
        given = inputs(task, model.manifest, 4, seed)
        expected = plain(given)["data"]
        wrong.extend(seed for _ in range(50) if not np.array_equal(bound(given)["data"], expected))

    threads = [threading.Thread(target=check, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_outputs_are_read_when_the_device_has_finished(tmp_path: Path) -> None:
    model = load(foreign.write(tmp_path), device="cpu")
    plain, _, task = opened(model, "decode")

    class Binding:
        """A binding that computes its outputs only when `synchronize_outputs` is called."""

        def __init__(self) -> None:
            self.own = plain.session.io_binding()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.own, name)

        def synchronize_outputs(self) -> None:
            plain.session.run_with_iobinding(self.own, onnxruntime.RunOptions())

    class Late:
        """A session that returns before its device has finished."""

        def io_binding(self) -> Binding:
            return Binding()

        def run_with_iobinding(self, binding: Binding, options: Any) -> None:
            """Return at once."""

    given = inputs(task, model.manifest, 4)
    found = BoundGraph(onnxruntime, Late(), task, "cpu")(given)
    assert np.array_equal(found["img_out"], plain(given)["img_out"])


def test_a_recording_that_fails_is_done_without(shipped: dict[str, Model], caplog: pytest.LogCaptureFixture) -> None:
    model = shipped["mnist-vae-2d"]
    plain, _, task = opened(model, "decode")
    opens: list[None] = []

    class Fails:
        """A session that cannot record a CUDA graph."""

        def io_binding(self) -> Any:
            return plain.session.io_binding()

        def run_with_iobinding(self, binding: Any, options: Any) -> None:
            raise RuntimeError("capture failed")

    def without() -> onnxruntime.InferenceSession:
        opens.append(None)
        return plain.session

    bound = BoundGraph(onnxruntime, Fails(), task, "cpu", plain=without)
    given = inputs(task, model.manifest, 3)
    for _ in range(2):
        assert np.allclose(bound(given)["data"], plain(given)["data"], atol=1e-6)
    assert len(opens) == 1
    assert [(each.levelname, each.message) for each in caplog.records] == [
        ("WARNING", f"{task.graph}: recording it as a CUDA graph failed, so it runs unrecorded: capture failed")
    ]
    with pytest.raises(RuntimeError, match="capture failed"):
        BoundGraph(onnxruntime, Fails(), task, "cpu")(given)
