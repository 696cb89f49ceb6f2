"""The search for outputs that depend on the batch, on functions instead of graphs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifold.runtime.graphs import batches
from manifold.runtime.runner import Runner
from manifold.training.exporting import checked
from tests import graphs


def test_a_difference_in_one_small_batch_alone_is_found() -> None:
    """The value of row 4 differs only in a run of that row alone."""

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"data": inputs["data"] + (0.5 if inputs["data"].tolist() == [4.0] else 0.0)}

    inputs = {"data": np.arange(batches.ROWS, dtype=np.float32)}
    assert batches.dependence(run, inputs) == ["data differs by 0.5 between 1 rows and 64"]
    assert batches.dependence(run, inputs, thorough=False) == []


def test_the_influence_of_other_rows_is_measured() -> None:
    """The mean of the batch is added to each row: 2 at first, 3 beside the first row and 5 beside the last one."""

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"data": inputs["data"] + inputs["data"].mean(), "alone": inputs["data"] * 2}

    inputs, others = {"data": np.asarray([0.0, 0, 0, 8])}, {"data": np.full(4, 4.0)}
    assert batches.influence(run, inputs, others) == ["data of one row changes by 3 if the other rows change"]


@pytest.mark.parametrize("rows", [2, 5, 8])
def test_a_row_that_reads_its_neighbour_is_found_wherever_it_is(rows: int) -> None:
    """One row depends on the row before it; all others are independent."""
    for place in range(1, rows):

        def run(inputs: Mapping[str, Any], place: int = place) -> dict[str, Any]:
            out = inputs["data"].copy()
            out[place] += out[place - 1]
            return {"data": out}

        inputs, others = {"data": np.arange(rows, dtype=float)}, {"data": np.arange(rows, dtype=float) + 10}
        assert batches.influence(run, inputs, others)


def test_an_item_may_not_depend_on_its_place() -> None:
    inputs = {"data": np.arange(4.0) + 1}
    assert batches.place(lambda given: {"y": given["data"] * 2 * (1 + 1e-6 * np.arange(4))}, inputs) == []  # rounding
    assert batches.place(lambda given: {"y": given["data"] + np.arange(4), "z": given["data"]}, inputs) == [
        "y of one row changes by 3 with its place in the batch"
    ]


@pytest.mark.parametrize("example", [None, [1.0, 2.0, 3.0, 4.0]])
def test_an_example_in_the_manifest_hides_no_influence_of_other_rows(
    tmp_path: Path, example: list[float] | None
) -> None:
    tensor = graphs.given("z", "latent", [graphs.SIZE])
    stated = tensor if example is None else {**tensor, "example": example}
    path = graphs.folder(tmp_path, graphs.manifest(decode={**graphs.task(), "inputs": [stated]}))
    mean = [graphs.node("ReduceMean", ["z", "rows"], ["m"], keepdims=1), graphs.node("Sub", ["z", "m"], ["x"])]
    graphs.decoder(path / "g.onnx", mean, [graphs.constant("rows", np.asarray([0]))])
    assert "if the other rows change" in graphs.refused(path)


@pytest.mark.parametrize(("wrong", "share", "said"), [
    (0, 1.0, None), (1, 1.0, "6 of 120 codes differ"), (2, 0.9, None), (3, 0.9, "18 of 120 codes differ"),
])  # fmt: skip
def test_a_few_items_of_a_long_loop_may_have_other_codes(wrong: int, share: float, said: str | None) -> None:
    expected = np.zeros((20, 2, 3), np.int64)
    output = expected.copy()
    output[:wrong] = 1
    assert checked._difference(output, expected, share) == said


def test_rounding_between_batches_is_a_warning_of_the_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Scorers from elsewhere may round differently in larger batches; larger differences remain problems."""
    path = graphs.folder(tmp_path, graphs.manifest(decode=graphs.task()))
    graphs.decoder(path / "g.onnx", [graphs.node("Identity", ["z"], ["x"])])
    assert graphs.check(path, "--seal")[0] == 0
    run = Runner._run_piece
    for factor, status, said in (
        (1e-6, 0, "warning: tasks.decode: data differs by"),
        (0.1, 1, "decode: data differs by"),
    ):

        def changed(self: Any, *given: Any, factor: float = factor, **named: Any) -> Any:
            made = run(self, *given, **named)
            return {role: array * np.float32(1 + factor * (len(array) > 40)) for role, array in made.items()}

        monkeypatch.setattr(Runner, "_run_piece", changed)
        found, output = graphs.check(path)
        assert found == status and said in output, output
        assert ("by rounding" in output) == (status == 0)
