"""Artifacts that were not made with this project: a score, a codebook and a classifier, as raw ONNX with hand-written manifests.

They read grey images of 8x8 pixels in [0, 1], such as scikit-learn's digits. No weights are trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE, PLACES, LEVELS = 8, 4, 16  # pixels on each side of an image, codes on each side, and the number of codes
CLASSES, FEATURES = 10, 12
IMAGE = [1, SIZE, SIZE]
TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}

Tensor = tuple[str, list[int], str]  # name, shape without the batch, type


def save(path: Path, given: Tensor, made: list[Tensor], nodes: list[onnx.NodeProto], **constants: Any) -> None:
    """Write an ONNX graph with one input. The batch is free."""

    def info(tensor: Tensor) -> onnx.ValueInfoProto:
        name, shape, kind = tensor
        return helper.make_tensor_value_info(name, TYPES[kind], ["N", *shape])

    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, path.stem, [info(given)], [info(tensor) for tensor in made], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def floats(*values: Any) -> np.ndarray:
    """Return numbers as float32."""
    return np.asarray(values, np.float32)


def artifact(root: Path, name: str, **content: Any) -> Path:
    """Write a manifest for images of 8x8 pixels. Return its folder, into which the graphs go."""
    folder = root / name / "1"
    folder.mkdir(parents=True, exist_ok=True)
    data = {"kind": "image", "height": SIZE, "width": SIZE, "channels": 1}
    (folder / "manifest.json").write_text(json.dumps({"name": name, "version": 1, "data": data, **content}))
    return folder


def given(role: str = "data", name: str = "image") -> dict[str, Any]:
    """Return the input of a task that takes images."""
    return {"role": role, "name": name, "source": "data", "shape": IMAGE}


def scorer(root: Path, name: str = "scorer", terms: list[dict[str, Any]] | None = None) -> Path:
    """Write a model whose score is the binary cross-entropy of an image under the grey image 1/4, summed over the pixels.

    The terms may be replaced, for other statements about the same output.
    """
    terms = terms or [{"name": "bce", "kind": "distance"}]
    folder = artifact(
        root, name,
        tasks={"score": {"graph": "score.onnx", "inputs": [given()], "outputs": [{"role": "bce", "shape": []}]}},
        scoring={"score": "bce", "terms": terms},
    )  # fmt: skip
    off, on = -np.log(0.75), -np.log(0.25)  # -x log p - (1 - x) log(1 - p) = off + x (on - off), with p = 1/4
    nodes = [
        helper.make_node("Mul", ["image", "slope"], ["scaled"]),
        helper.make_node("Add", ["scaled", "off"], ["pixels"]),
        helper.make_node("ReduceSum", ["pixels", "axes"], ["bce"], keepdims=0),
    ]
    save(
        folder / "score.onnx", ("image", IMAGE, "float32"), [("bce", [], "float32")], nodes,
        slope=np.float32(on - off), off=np.float32(off), axes=np.asarray([1, 2, 3]),
    )  # fmt: skip
    return folder


def quantizer(root: Path, name: str = "vq", *, encodes: bool = True) -> Path:
    """Write a model of 4x4 codes without a prior: a code is the mean grey level of 2x2 pixels, one of 16. It does not encode if `encodes` is false."""
    codes = {"role": "codes", "shape": [PLACES, PLACES], "dtype": "int64"}
    decode = {
        "graph": "decode.onnx",
        "inputs": [{**codes, "name": "indices", "source": "codes"}],
        "outputs": [{"role": "data", "name": "image", "shape": IMAGE}],
    }
    encode = {"graph": "encode.onnx", "inputs": [given()], "outputs": [{**codes, "name": "indices"}]}
    tasks = {"decode_codes": decode, **({"encode": encode} if encodes else {})}
    folder = artifact(root, name, codes={"shape": [PLACES, PLACES], "levels": LEVELS}, tasks=tasks)
    to_pixels = [
        helper.make_node("Cast", ["indices"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["numbers", "step"], ["means"]),
        helper.make_node("Unsqueeze", ["means", "channel"], ["small"]),
        helper.make_node("Resize", ["small", "", "scales"], ["image"], mode="nearest"),
    ]
    place = [PLACES, PLACES]
    save(
        folder / "decode.onnx", ("indices", place, "int64"), [("image", IMAGE, "float32")], to_pixels,
        step=np.float32(1 / (LEVELS - 1)), channel=np.asarray([1]), scales=floats(1, 1, 2, 2),
    )  # fmt: skip
    if encodes:
        to_codes = [
            helper.make_node("AveragePool", ["image"], ["means"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Mul", ["means", "steps"], ["numbers"]),
            helper.make_node("Round", ["numbers"], ["whole"]),
            helper.make_node("Cast", ["whole"], ["each"], to=TensorProto.INT64),
            helper.make_node("Squeeze", ["each", "channel"], ["indices"]),
        ]
        save(
            folder / "encode.onnx", ("image", IMAGE, "float32"), [("indices", place, "int64")], to_codes,
            steps=np.float32(LEVELS - 1), channel=np.asarray([1]),
        )  # fmt: skip
    return folder


def classifier(root: Path, name: str = "resnet", *, size: int = SIZE, channels: int = 3, maps: bool = False) -> Path:
    """Write a classifier of colour images with random weights. Its features are means of 12 channels; with `maps` their shape is [12, 1, 1]."""
    shape = [channels, size, size]
    features = [FEATURES, 1, 1] if maps else [FEATURES]
    task = {
        "graph": "classifier.onnx",
        "inputs": [{"role": "data", "name": "pixels", "source": "data", "shape": shape}],
        "outputs": [{"role": "features", "name": "pooled", "shape": features}, {"role": "logits", "shape": [CLASSES]}],
    }
    folder = artifact(
        root, name, tasks={"features": task},
        data={"kind": "image", "height": size, "width": size, "channels": channels, "range": [-1, 1]},
        classes=[str(digit) for digit in range(CLASSES)], classification={},
    )  # fmt: skip
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel"], ["maps"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["means"]),
        helper.make_node("Reshape", ["means", "shape"], ["pooled"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    save(
        folder / "classifier.onnx", ("pixels", shape, "float32"), [("pooled", features, "float32"), ("logits", [CLASSES], "float32")], nodes,
        kernel=random.normal(size=(FEATURES, channels, 3, 3)).astype(np.float32), shape=np.asarray([-1, *features]),
        weights=(20 * random.normal(size=(FEATURES, CLASSES))).astype(np.float32),
    )  # fmt: skip
    return folder
