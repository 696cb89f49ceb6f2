"""The fit of a detector is quick: its graphs are traced, and a training without steps imports no training library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.csv
import pytest
import torch

from manifold.cli import fitting
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.manifest import Metric
from manifold.runtime.tables.rows import encode
from manifold.training import export, families, outlines, runs
from manifold.training import train as training
from manifold.training.exporting import graphs
from manifold.training.families import tabular_detector
from manifold.training.loop.alone import Alone
from tests.test_detectors import columns_of, data_of


@pytest.mark.parametrize(
    "changes",
    [{}, {"mixed": True}, {"score": f"fisher:{','.join(tabular_detector.TERMS)}", "references": 200, "weigh": False}],
)
def test_a_traced_graph_equals_torch_for_every_number_of_rows(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The graph is traced with three complete rows. It also scores one row, many rows, and rows that lack values, as torch does."""
    data = data_of(600)
    config = tabular_detector.resolve(tabular_detector.Config(**changes), data)
    model = tabular_detector.build(config, data)
    tabular_detector.finish(model, config, data)
    items = data.inputs(data.test)[:300]
    spec = data.spec
    assert isinstance(spec, TableSpec)
    rows: list[Any] = [{name: values[i].item() for name, values in columns_of(300, 2).items()} for i in range(300)]
    for place, row in enumerate(rows):
        row[("a", "b", "c", "kind")[place % 4]] = None
    lacking = encode(rows, spec, missing=True)[0]
    with torch.no_grad():
        tasks = tabular_detector.exports(model, config, data).tasks
        for name, task in tasks.items():
            assert task.quick, name
            path = tmp_path / f"{name}.onnx"
            onnx.save_model(graphs.task_to_onnx(task, [torch.from_numpy(items[:3])]), path)
            session = onnxruntime.InferenceSession(path)
            for batch in (items[:1], items[:7], items, lacking, lacking[:1]):
                made = session.run(None, {session.get_inputs()[0].name: batch})
                for spec_of, one, expected in zip(
                    task.outputs, made, task.module(torch.from_numpy(batch)), strict=True
                ):
                    assert one.shape == tuple(expected.shape), (name, spec_of.role)
                    off = np.abs(one - expected.numpy()) / np.maximum(1, np.abs(expected.numpy()))
                    assert off.max() < 1e-4, (name, spec_of.role, len(batch))


def test_a_training_without_steps_needs_no_fabric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: Any) -> None:
        raise AssertionError("Fabric was set up")

    monkeypatch.setattr(training, "fabric_of", never)
    data = data_of(100)
    run = runs.TrainingRun(tmp_path / "run", "tabular_detector", "made", "cpu", tabular_detector.Config())
    training.train(run, data, device="cpu", quiet=True)
    training.train(run, data, device="cpu", quiet=True, resume=True)  # finished already
    assert training.is_first_process()
    with pytest.raises(AttributeError, match="backward: a training without steps has no backward"):
        Alone().backward(torch.zeros(()))
    assert {name for name in families.names() if not outlines.has_steps(name)} == {"tabular_detector"}


def test_the_command_imports_neither_fabric_nor_the_exporter_of_dynamo(tmp_path: Path) -> None:
    """Importing them takes as long as everything else that the fit of a few thousand rows does."""
    pa.csv.write_csv(pa.table(columns_of(300, 0)), tmp_path / "rows.csv")
    code = (
        "import sys; from manifold import cli\n"
        f"cli.app(['fit', {str(tmp_path / 'rows.csv')!r}, '--name', 'mine', '--models', {str(tmp_path / 'models')!r},"
        f" '--run', {str(tmp_path / 'run')!r}, '--detector', 'tabular_detector', '--quiet'], standalone_mode=False)\n"
        "found = {name.split('.')[0] for name in sys.modules} & {'lightning_fabric', 'onnxscript'}\n"
        "assert not found, found; print('imported neither')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "imported neither" in done.stdout, done.stdout + done.stderr


def test_the_preview_of_a_detector_names_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = []

    def preview(spec: TableSpec, made: Any, real: Any, name: str = "sampled") -> bytes:
        named.append(name)
        return b"\x89PNG"

    monkeypatch.setattr(TableSpec, "preview", preview)
    data = data_of(200)
    run = runs.TrainingRun(tmp_path / "run", "tabular_detector", "made", "cpu", tabular_detector.Config())
    training.train(run, data, device="cpu", quiet=True)
    export.export(run, "made", tmp_path / "models", data=data)
    assert named == ["most anomalous"]


def test_fit_prints_the_accuracy_of_a_classifier() -> None:
    """The line gives accuracy on the test rows beside that of the most frequent class of the training rows."""
    train, test = np.asarray([0, 1, 1, 2]), np.asarray([0, 0, 1, 2, 2])
    data: Any = SimpleNamespace(train=SimpleNamespace(labels=train), test=Labelled(test))
    metrics = [
        Metric(name=name, value=value)
        for name, value in (("accuracy", 0.8), ("cross_entropy", 0.5), ("calibration_error", 0.25))
    ]
    manifest: Any = SimpleNamespace(metrics=metrics)
    assert list(fitting._classification(manifest, data)) == [
        "Classes of 5 test rows: accuracy 0.800 (the most frequent class alone: 0.200), cross-entropy 0.500 nats, calibration error 0.250. "
        "All classes have the same prior probability."
    ]
    assert not list(fitting._classification(SimpleNamespace(metrics=metrics[1:]), data))  # type: ignore[arg-type]


class Labelled(SimpleNamespace):
    """Rows of which only the labels matter."""

    def __init__(self, labels: Any) -> None:
        super().__init__(labels=labels)

    def __len__(self) -> int:
        return len(self.labels)
