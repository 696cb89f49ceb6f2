"""ONNX Runtime's memory arena: large runs are divided, and their memory is returned."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifold.runtime import engine, runner
from manifold.runtime.graphs import batches
from manifold.runtime.graphs.backends import OnnxGraph
from tests import foreign
from tests.conftest import ROOT


class Session:
    """A session that doubles its input and takes `seconds` for each row on the test's clock."""

    def __init__(self, clock: list[float], seconds: float) -> None:
        self.clock, self.seconds = clock, seconds
        self.runs: list[tuple[int, bool]] = []  # rows, and whether the arena was shrunk

    def run(self, names: list[str], inputs: Mapping[str, Any], options: Any = None) -> list[Any]:
        rows = len(inputs["x"])
        shrunk = options is not None and options.get_run_config_entry("memory.enable_memory_arena_shrinkage") == "cpu:0"
        self.runs.append((rows, shrunk))
        self.clock[0] += rows * self.seconds
        return [2 * inputs["x"]]


@pytest.mark.parametrize(
    ("seconds", "rows", "expected"),
    [
        (1e-3, 64, [(64, False)]),
        (1e-3, 200, [(64, False), (64, False), (64, False), (8, True)]),
        (1e-4, 2000, [(64, False), (960, False), (960, False), (16, True)]),
        (1.0, 130, [(64, False), (64, False), (2, True)]),
    ],
)
def test_a_large_run_is_divided_by_what_a_row_takes(
    monkeypatch: pytest.MonkeyPatch, seconds: float, rows: int, expected: list[tuple[int, bool]]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    session = Session(clock, seconds * 1.0001)
    graph = OnnxGraph("made.onnx", session, ["y"], divided=True)
    x = np.arange(rows * 3.0).reshape(rows, 3)
    assert np.array_equal(graph({"x": x})["y"], 2 * x)
    assert session.runs == expected


def test_a_fast_graph_is_run_whole_once_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    session = Session(clock, 1e-6)
    graph = OnnxGraph("made.onnx", session, ["y"], divided=True)
    for _ in range(2):
        graph({"x": np.zeros((1024, 3))})
    assert session.runs == [(64, False), (960, True), (1024, False)]


def test_loops_are_run_whole_and_give_memory_back() -> None:
    session = Session([0.0], 0.0)
    OnnxGraph("made.onnx", session, ["y"])({"x": np.zeros((1024, 3))})
    assert session.runs == [(1024, True)]


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) << 10


def test_a_large_run_leaves_little_memory_behind() -> None:
    """The graph needs 3 MB for each row: 300 MB for 96 rows at once."""
    model = engine.load(ROOT / "models/mnist-pixelcnn", device="cpu", verify=False)
    inputs = runner.example_inputs(model.manifest.tasks["score"], model.manifest, 96)
    few = {role: array[:8] for role, array in inputs.items()}
    alone = model.run("score", few)
    before = resident()
    whole = model.run("score", inputs)
    assert resident() - before < 120 * 2**20
    for role, array in alone.items():
        assert np.array_equal(array, whole[role][:8])


def test_a_model_that_is_loaded_gives_back_the_memory_of_its_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    runs: list[tuple[int, bool]] = []  # rows, and whether the arena was shrunk
    original = OnnxGraph._run

    def spy(graph: OnnxGraph, inputs: Mapping[str, Any], *, shrink: bool = False) -> dict[str, Any]:
        runs.append((len(next(iter(inputs.values()))), shrink))
        return original(graph, inputs, shrink=shrink)

    monkeypatch.setattr(OnnxGraph, "_run", spy)
    engine.load(foreign.write(tmp_path), device="cpu")
    large = [place for place, (rows, _) in enumerate(runs) if rows == batches.ROWS]
    assert (1, True) in runs[large[-1] + 1 :]


def test_a_graph_whose_bits_depend_on_the_batch_size_is_not_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    made = foreign.write(tmp_path)
    assert engine.load(made, device="cpu").runner.graphs["decode"].divided  # type: ignore[attr-defined]
    monkeypatch.setattr(batches, "padding", lambda *_, **__: None)
    assert not engine.load(made, device="cpu").runner.graphs["decode"].divided  # type: ignore[attr-defined]
