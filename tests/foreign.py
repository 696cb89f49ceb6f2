"""A generator that this project did not make: raw ONNX, its own names, NCHW in [-1, 1], and a manifest written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LATENT, HEIGHT, WIDTH, CHANNELS = 6, 8, 10, 3


def generator(path: Path) -> np.ndarray:
    """Writes z_in (N, 6) -> tanh(z W), reshaped to img_out (N, 3, 8, 10); returns W."""
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


def manifest(**changes: Any) -> dict[str, Any]:
    """What a person would write."""
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


def write(root: Path, **changes: Any) -> Path:
    """The artifact's folder, ROOT/foreign/1."""
    folder = root / "foreign/1"
    folder.mkdir(parents=True)
    generator(folder / "generator.onnx")
    (folder / "manifest.json").write_text(json.dumps(manifest(**changes)))
    return folder
