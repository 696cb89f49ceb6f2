"""The ONNX exporter builds its registry of operators once, and a copy of it gives the same graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.onnx._internal.exporter import _registration
from torch.onnx._internal.exporter._registration import ONNXRegistry

from manifold.training.exporting import graphs, registry

ADD = torch.ops.aten.add.Tensor


def exported() -> onnx.ModelProto:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.LayerNorm(4))
    return graphs.to_onnx(module, (torch.zeros(2, 3),), ["x"], ["y"], ({0: torch.export.Dim("batch")},))


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets one entry each time the exporter lists its operators, from a fresh start."""
    seen: list[int] = []
    apis: Any = vars(_registration)["onnxscript_apis"]
    listing = apis.get_torchlib_ops

    def counted() -> object:
        seen.append(1)
        return listing()

    monkeypatch.setattr(apis, "get_torchlib_ops", counted)
    monkeypatch.setattr(ONNXRegistry, "from_torchlib", registry._build)
    registry._built.cache_clear()
    return seen


def test_exports_of_a_process_build_the_registry_once(builds: list[int]) -> None:
    for _ in range(3):
        exported()
    assert len(builds) == 1


def test_a_copied_registry_gives_the_same_graph(builds: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    shared = [exported().SerializeToString(deterministic=True) for _ in range(2)]
    monkeypatch.setattr(registry, "share", lambda: None)
    monkeypatch.setattr(ONNXRegistry, "from_torchlib", registry._build)
    own = exported().SerializeToString(deterministic=True)
    assert len(builds) == 2
    assert shared == [own, own]


def test_an_operator_that_an_export_adds_stays_its_own(builds: list[int]) -> None:
    registry.share()
    first, second = ONNXRegistry.from_torchlib(opset_version=graphs.OPSET), ONNXRegistry().from_torchlib(graphs.OPSET)
    first.register_op(ADD, lambda x, y: x)
    assert first.opset_version == second.opset_version == graphs.OPSET
    assert len(first.get_decomps(ADD)) == len(second.get_decomps(ADD)) + 1
    assert len(builds) == 1


def test_equal_weights_of_two_graphs_are_stored_once_from_64_values(tmp_path: Path) -> None:
    made = np.random.default_rng(0)
    weights: dict[str, np.ndarray[Any, Any]] = {
        "large": made.normal(size=64).astype(np.float32),
        "small": made.normal(size=63).astype(np.float32),
        "shape": np.arange(64),
    }

    def model() -> onnx.ModelProto:
        held = [numpy_helper.from_array(values, name) for name, values in weights.items()]
        output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [64])
        return onnx.helper.make_model(
            onnx.helper.make_graph([onnx.helper.make_node("Identity", ["large"], ["y"])], "g", [], [output], held)
        )

    other = model()
    other.graph.name = "other"  # else the two are equal, and one file is written
    files = graphs.save_onnx({"one": model(), "two": other}, tmp_path)
    assert sorted(files.values()) == ["one.onnx", "two.onnx"]
    assert (tmp_path / graphs.WEIGHTS).stat().st_size == 64 * 4
    for file in files.values():
        tensors = {
            each.name: each for each in onnx.load(str(tmp_path / file), load_external_data=False).graph.initializer
        }
        external = {name for name, tensor in tensors.items() if tensor.data_location == onnx.TensorProto.EXTERNAL}
        assert external == {"large"}
        loaded = {each.name: numpy_helper.to_array(each) for each in onnx.load(str(tmp_path / file)).graph.initializer}
        assert all((loaded[name] == values).all() for name, values in weights.items())
