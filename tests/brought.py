"""Generators in the forms in which people have them: other types, axes, channels and values, as tiny ONNX graphs that compute the same images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tests.graphs import FLOAT, constant, folder, given, node, value, write

LATENT, CHANNELS, HEIGHT, WIDTH = 6, 3, 4, 5
SHAPE = [CHANNELS, HEIGHT, WIDTH]
WEIGHTS = np.random.default_rng(0).normal(size=(LATENT, CHANNELS * HEIGHT * WIDTH)).astype(np.float32) / 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # those of ImageNet
OF_TYPE = {name: getattr(TensorProto, enum) for name, enum in (
    ("float16", "FLOAT16"), ("float32", "FLOAT"), ("float64", "DOUBLE"), ("uint8", "UINT8"), ("int32", "INT32"), ("int64", "INT64"), ("bool", "BOOL"),
)}  # fmt: skip


def images(z: Any) -> Any:
    """Return the images (B, 3, 4, 5) in [-1, 1] of latents (B, 6), which all generators compute."""
    return np.tanh(z @ WEIGHTS).reshape(-1, *SHAPE)


def body(*, latent: Sequence[int | str] = ("B", LATENT), squashed: bool = True) -> list[Any]:
    """Return the nodes from the latent `z` to the images `x` (B, 3, 4, 5); without the tanh if they are not `squashed`."""
    flat = [] if list(latent[1:]) == [LATENT] else [node("Reshape", ["z", "rows"], ["z2"])]
    return [
        *flat,
        node("MatMul", ["z2" if flat else "z", "w"], ["pixels"]),
        *([node("Tanh", ["pixels"], ["values"])] if squashed else []),
        node("Reshape", ["values" if squashed else "pixels", "shape"], ["x"]),
    ]


CONSTANTS = [
    constant("w", WEIGHTS),
    constant("shape", np.asarray([-1, *SHAPE])),
    constant("rows", np.asarray([-1, LATENT])),
]


def manifest(
    in_graph: dict[str, Any] | None = None,
    *,
    latent: dict[str, Any] | None = None,
    limits: Sequence[float] = (-1, 1),
    **more: Any,
) -> dict[str, Any]:
    """Return a manifest of images of 4 by 5 from a latent of 6 numbers. `in_graph` and `latent` are the forms of output and input in the graph."""
    return {
        "name": "tiny", "version": 1, "data": {"kind": "image", "height": HEIGHT, "width": WIDTH, "channels": CHANNELS, "range": list(limits)},
        "latent": {"size": LATENT}, "tasks": {"decode": {
            "graph": "g.onnx",
            "inputs": [given("z", "latent", [LATENT], **({"in_graph": latent} if latent else {}))],
            "outputs": [{"role": "data", "name": "y", "shape": SHAPE, **({"in_graph": in_graph} if in_graph else {})}],
            **more,
        }},
    }  # fmt: skip


def made(
    root: Path, content: dict[str, Any], nodes: Sequence[Any], *, latent: Sequence[int | str] = ("B", LATENT), kind: int = FLOAT, output: str = "float32",
    inputs: Sequence[Any] = (), constants: Sequence[Any] = (), squashed: bool = True,
) -> Path:  # fmt: skip
    """Write an artifact whose graph has the `nodes` from the images `x` to the output `y`, of the type `output`. Return its folder."""
    path = folder(root, content)
    latents = value("z", kind, list(latent))
    write(
        path / "g.onnx", [*body(latent=latent, squashed=squashed), *nodes], [latents, *inputs],
        [helper.make_tensor_value_info("y", OF_TYPE[output], None)], [*CONSTANTS, *constants],
    )  # fmt: skip
    return path


def pixels(low: float, high: float, source: str = "x", target: str = "p") -> list[Any]:
    """Return nodes that convert values in [-1, 1] into values in [low, high]. They need the constants of `scale`."""
    return [node("Mul", [source, "half"], ["scaled"]), node("Add", ["scaled", "middle"], [target])]


def scale(low: float, high: float) -> list[Any]:
    """Return the constants of `pixels`."""
    return [constant("half", np.float32((high - low) / 2)), constant("middle", np.float32((high + low) / 2))]


def numbers(name: str, *content: float) -> Any:
    """Return one number for each channel, as a constant (3, 1, 1)."""
    return constant(name, np.asarray(content, np.float32)[:, None, None])
