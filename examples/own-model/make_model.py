"""The script that makes a small generator as two ONNX files, without torch, and puts it beside its manifest.

    python examples/own-model/make_model.py models/my-model/1

The model is a probabilistic PCA (Tipping and Bishop, 1999) of scikit-learn's handwritten digits. Its decoder draws an image from 24 standard
normal numbers; its encoder finds these numbers for an image. The packages numpy, onnx and scikit-learn are needed (the extra `train`).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

LATENT = 24  # components
SIZE = 8  # pixels on each side
OPSET = 17

Array = NDArray[np.float32]


def components() -> tuple[Array, Array]:
    """Return the mean image (64,) and the components (24, 64), each as long as its standard deviation over the digits."""
    pixels = load_digits().data / 16  # (1797, 64), 0 to 1
    mean = pixels.mean(axis=0)
    _, singular, directions = np.linalg.svd(pixels - mean, full_matrices=False)
    scales = singular[:LATENT] / np.sqrt(len(pixels))
    return mean.astype(np.float32), (scales[:, None] * directions[:LATENT]).astype(np.float32)


def graph(
    name: str,
    inputs: tuple[str, list[int]],
    output: tuple[str, list[int]],
    nodes: list[onnx.NodeProto],
    **weights: Array,
) -> onnx.ModelProto:
    """Return an ONNX model with one input and one output. Their first axis is the batch, of any size."""

    def tensor(role: str, shape: list[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(role, TensorProto.FLOAT, ["batch", *shape])

    stored = [numpy_helper.from_array(array, key) for key, array in weights.items()]
    made = helper.make_graph(nodes, name, [tensor(*inputs)], [tensor(*output)], stored)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def main(folder: Path) -> None:
    """Write decode.onnx, encode.onnx and manifest.json into a folder."""
    mean, basis = components()
    image, latent = [1, SIZE, SIZE], [LATENT]
    decode = graph(
        "decode", ("z", latent), ("image", image),
        [
            helper.make_node("Gemm", ["z", "basis", "mean"], ["pixels"]),
            helper.make_node("Clip", ["pixels", "black", "white"], ["clipped"]),
            helper.make_node("Reshape", ["clipped", "shape"], ["image"]),
        ],
        basis=basis, mean=mean, black=np.asarray(0, np.float32), white=np.asarray(1, np.float32), shape=np.asarray([-1, *image]),
    )  # fmt: skip
    encode = graph(
        "encode", ("image", image), ("z", latent),
        [
            helper.make_node("Flatten", ["image"], ["pixels"]),
            helper.make_node("Sub", ["pixels", "mean"], ["centred"]),
            helper.make_node("MatMul", ["centred", "inverse"], ["z"]),
        ],
        mean=mean, inverse=np.linalg.pinv(basis).astype(np.float32),
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(decode, folder / "decode.onnx")
    onnx.save(encode, folder / "encode.onnx")
    shutil.copy(Path(__file__).with_name("manifest.json"), folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
