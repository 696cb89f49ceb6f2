"""Tiny ONNX graphs with hand-written manifests, which imitate graphs made elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from manifold import cli

SIZE = 4
FLOAT, HALF, INT64, INT32 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.INT32
node = helper.make_node
Change = Callable[[dict[str, Any]], None]  # a change of a manifest


def value(name: str, kind: int = FLOAT, shape: Sequence[int | str] | None = ("B", SIZE)) -> Any:
    """Return an input or output."""
    return helper.make_tensor_value_info(name, kind, shape)


def constant(name: str, content: Any) -> Any:
    """Return an initializer."""
    return numpy_helper.from_array(np.asarray(content), name)


def write(
    path: Path, nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], constants: Sequence[Any] = (), *,
    opset: int = 18, functions: Sequence[Any] = (), domains: Mapping[str, int] | None = None,
) -> None:  # fmt: skip
    """Write a graph as it is, without any check."""
    graph = helper.make_graph(list(nodes), "tiny", list(inputs), list(outputs), list(constants))
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("mine", 1), helper.make_opsetid("com.microsoft", 1)]
    imports += [helper.make_opsetid(domain, version) for domain, version in (domains or {}).items()]
    model = helper.make_model(graph, opset_imports=imports, ir_version=9, functions=list(functions))
    path.write_bytes(model.SerializeToString())


def turned(source: str, target: str) -> list[Any]:
    """Return nodes from (B, SIZE) to images (B, 1, 2, 2) in [0, 1]. They need the constant `image`."""
    return [node("Sigmoid", [source], [f"{source}_light"]), node("Reshape", [f"{source}_light", "image"], [target])]


IMAGE = constant("image", np.asarray([-1, 1, 2, 2], np.int64))


def decoder(path: Path, middle: Sequence[Any], constants: Sequence[Any] = (), **options: Any) -> None:
    """Write a graph from z (B, SIZE) to y (B, 1, 2, 2), with the given nodes from z to x."""
    write(
        path, [*middle, *turned("x", "y")], [value("z")], [value("y", shape=["B", 1, 2, 2])], [IMAGE, *constants], **options
    )  # fmt: skip


def manifest(**tasks: Any) -> dict[str, Any]:
    """Return a manifest of images of 2 by 2, with the task `decode` unless tasks are given."""
    return {
        "name": "tiny", "version": 1, "data": {"kind": "image", "height": 2, "width": 2, "channels": 1}, "latent": {"size": SIZE},
        "tasks": tasks or {"decode": task()},
    }  # fmt: skip


def task(inputs: Sequence[Any] = (), outputs: Sequence[Any] = (), **more: Any) -> dict[str, Any]:
    """Return a task, by default from the latent z to the image y."""
    return {
        "graph": "g.onnx",
        "inputs": list(inputs) or [given("z", "latent", [SIZE])],
        "outputs": list(outputs) or [{"role": "data", "name": "y", "shape": [1, 2, 2]}],
        **more,
    }


def given(name: str, source: str, shape: Sequence[int], **more: Any) -> dict[str, Any]:
    """Return an input of a task."""
    return {"role": source, "name": name, "source": source, "shape": list(shape), **more}


def folder(root: Path, content: dict[str, Any]) -> Path:
    """Write the manifest and return the artifact's folder, ROOT/tiny/1."""
    made = root / "tiny/1"
    made.mkdir(parents=True, exist_ok=True)
    (made / "manifest.json").write_text(json.dumps(content))
    return made


def outside(name: str, location: str, content: np.ndarray) -> Any:
    """Return an initializer whose values are in a separate file."""
    tensor = TensorProto(name=name, data_type=FLOAT, dims=content.shape, data_location=TensorProto.EXTERNAL)
    for key, text in (("location", location), ("offset", "0"), ("length", str(content.nbytes))):
        tensor.external_data.add(key=key, value=text)
    return tensor


def check(folder: Path, *options: str) -> tuple[int, str]:
    """Return exit status and output of `manifold check`, which must not raise."""
    done = CliRunner().invoke(cli.app, ["check", *options, str(folder)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.output
    return done.exit_code, done.output


def refused(folder: Path, *options: str) -> str:
    """Return the output of `manifold check` for an artifact that it refuses."""
    status, said = check(folder, *options)
    assert status == 1, said
    return said


COPY = node("Identity", ["z"], ["x"])


SCORE = {
    "graph": "g.onnx",
    "inputs": [given("z", "data", [1, 2, 2])],
    "outputs": [{"role": "nll", "name": "y", "shape": []}],
}
SCORING = {"score": "nll", "terms": [{"name": "nll", "kind": "nll"}]}


def size_of(content: bytes) -> bytes:
    """Return the length of a field of a protobuf message, in three bytes."""
    return bytes([len(content) & 0x7F | 0x80, len(content) >> 7 & 0x7F | 0x80, len(content) >> 14])
