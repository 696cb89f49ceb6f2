"""Generators that were not made with this project: raw ONNX with other names, NCHW in [-1, 1], and a hand-written manifest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LATENT, HEIGHT, WIDTH, CHANNELS = 6, 8, 10, 3


def generator(path: Path) -> np.ndarray:
    """Write the graph z_in (N, 6) -> tanh(z W), reshaped to img_out (N, 3, 8, 10). Return W."""
    weights = np.random.default_rng(0).normal(size=(LATENT, CHANNELS * HEIGHT * WIDTH)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["z_in", "w"], ["flat"]),
        helper.make_node("Tanh", ["flat"], ["squashed"]),
        helper.make_node("Reshape", ["squashed", "shape"], ["img_out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("z_in", TensorProto.FLOAT, ["N", LATENT])],
        [helper.make_tensor_value_info("img_out", TensorProto.FLOAT, ["N", CHANNELS, HEIGHT, WIDTH])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.asarray([-1, CHANNELS, HEIGHT, WIDTH], np.int64), "shape"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return weights


def looping(path: Path) -> None:
    """Write such a generator whose run time depends on its input: the number of rounds of a row is its largest latent, at least 1."""
    size = CHANNELS * HEIGHT * WIDTH
    random = np.random.default_rng(0)
    constants = {
        "w": random.normal(size=(LATENT, size)).astype(np.float32),
        "round": (random.normal(size=(size, size)) / np.sqrt(size)).astype(np.float32),
        "shape": np.asarray([-1, CHANNELS, HEIGHT, WIDTH], np.int64),
        "last": np.asarray([1], np.int64),
        "one": np.ones((), np.float32),
    }
    body = helper.make_graph(
        [
            helper.make_node("Cast", ["step"], ["at"], to=TensorProto.FLOAT),
            helper.make_node("Less", ["at", "rounds"], ["goes_on"]),  # (N, 1): other rows of the batch have no effect
            helper.make_node("MatMul", ["before", "round"], ["mixed"]),
            helper.make_node("Tanh", ["mixed"], ["next"]),
            helper.make_node("Where", ["goes_on", "next", "before"], ["after"]),
            helper.make_node("Identity", ["more"], ["still"]),
        ],
        "rounds",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("more", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["z_in", "last"], ["largest"], keepdims=1),
        helper.make_node("Max", ["largest", "one"], ["rounds"]),
        helper.make_node("ReduceMax", ["rounds"], ["most"], keepdims=0),
        helper.make_node("Ceil", ["most"], ["whole"]),  # so that the loop includes the rounds of every row
        helper.make_node("Cast", ["whole"], ["trips"], to=TensorProto.INT64),
        helper.make_node("MatMul", ["z_in", "w"], ["start"]),
        helper.make_node("Loop", ["trips", "", "start"], ["flat"], body=body),
        helper.make_node("Tanh", ["flat"], ["squashed"]),
        helper.make_node("Reshape", ["squashed", "shape"], ["img_out"]),
    ]
    _save(path, nodes, constants)


def _save(path: Path, nodes: list[Any], constants: dict[str, np.ndarray]) -> None:
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("z_in", TensorProto.FLOAT, ["N", LATENT])],
        [helper.make_tensor_value_info("img_out", TensorProto.FLOAT, ["N", CHANNELS, HEIGHT, WIDTH])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def manifest(**changes: Any) -> dict[str, Any]:
    """Return a hand-written manifest."""
    return {
        "name": "foreign",
        "version": 1,
        "data": {"kind": "image", "height": HEIGHT, "width": WIDTH, "channels": CHANNELS, "range": [-1, 1]},
        "latent": {"size": LATENT},
        "tasks": {
            "decode": {
                "graph": "generator.onnx",
                "inputs": [{"role": "latent", "name": "z_in", "source": "latent", "shape": [LATENT]}],
                "outputs": [{"role": "data", "name": "img_out", "shape": [CHANNELS, HEIGHT, WIDTH]}],
            }
        },
        **changes,
    }


def write(root: Path, graph: Callable[[Path], object] = generator, **changes: Any) -> Path:
    """Write the artifact and return its folder: ROOT/foreign/1, or with another name."""
    content = manifest(**changes)
    folder = root / str(content["name"]) / "1"
    folder.mkdir(parents=True)
    graph(folder / "generator.onnx")
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder
