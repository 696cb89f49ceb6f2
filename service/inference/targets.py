"""The names of models in the protocol: NAME for the main task of a model, and NAME.TASK for each of its tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from manifold.runtime import operations, texts
from manifold.runtime.errors import InvalidValue, UnknownModel, near, shown
from manifold.runtime.manifest import InputSpec, Manifest, TaskSpec, TensorSpec
from manifold.runtime.operations import infer
from manifold.runtime.runner import example_inputs, stated_example
from manifold.service.inference.tensors import name_of
from manifold.service.models.entries import Entry
from manifold.service.models.registry import SERVING, Registry

PLATFORMS = {"onnx": "onnxruntime_onnx", "torchscript": "pytorch_libtorch"}
EXAMPLE_SEED = 7


@dataclass(frozen=True)
class Target:
    """A task of a version of a model, with the name that the client used."""

    name: str
    entry: Entry
    manifest: Manifest
    task: str

    @property
    def spec(self) -> TaskSpec:
        """The task, as this machine runs it."""
        return self.manifest.tasks[self.task]


async def find(registry: Registry, name: str, version: str, *, described: bool = False) -> Target:
    """Return the target, with a ready model or, if `described`, only its manifest. Raise UnknownModel or Unavailable."""
    try:
        model, task = split(registry, name)
    except UnknownModel:
        await registry.check_added(name, version_of(version))
        raise
    entry = await registry.described(model, version_of(version)) if described else None
    if entry is None or entry.state not in SERVING:
        entry = await registry.get(model, version_of(version))
    manifest = entry.manifest
    assert manifest is not None
    if task is None:
        task = infer.default(manifest)
    if task not in manifest.served:
        why = operations.why_not_encode(manifest) if task == "encode" else ""
        hint = why or near(task, manifest.served)
        raise UnknownModel(
            f"model: {model} has no task {shown(task)}{hint}; choose one of the valid names",
            field="model", valid=[model, *(f"{model}.{each}" for each in manifest.served)],
        )  # fmt: skip
    return Target(name, entry, manifest, task)


def split(registry: Registry, name: str) -> tuple[str, str | None]:
    """Return the model and the task of a name. The name of a model, which may contain dots, takes precedence. Raise UnknownModel."""
    if name in registry.latest:
        return name, None
    model, dot, task = name.rpartition(".")
    if dot and model in registry.latest:
        return model, task
    raise registry.no_model(name)


def version_of(text: str) -> int | None:
    """Return a version from its text; None, the latest version, if it is empty. Raise InvalidValue."""
    if not text:
        return None
    version = texts.whole(text)
    if not version:
        raise InvalidValue(f"version: {shown(text)} is not valid; use an integer from 1 to 2^63 - 1", field="version")
    return version


def platform(manifest: Manifest) -> str:
    """Return the protocol's name of a backend."""
    return PLATFORMS.get(manifest.backend, manifest.backend)


def metadata(target: Target, versions: list[int]) -> dict[str, Any]:
    """Return the response of GET /v2/models/NAME: tensors with the rows as first axis, optional inputs, and a request that works."""
    manifest, spec = target.manifest, target.spec
    return {
        "name": target.name, "versions": [str(version) for version in versions], "platform": platform(manifest),
        "inputs": [
            {**_tensor(tensor), "parameters": _parameters(manifest, tensor)} for tensor in spec.inputs
        ],
        "outputs": [_tensor(tensor) for tensor in spec.outputs],
        "parameters": properties(target),
    }  # fmt: skip


def _parameters(manifest: Manifest, tensor: InputSpec) -> dict[str, Any]:
    """Return the properties of an input for which the protocol has no field. A list of valid values is a JSON text."""
    stated = tensor.stated
    if "choices" in stated:
        stated["choices"] = orjson.dumps(stated["choices"]).decode()
    return {"source": tensor.source, "optional": infer.is_optional(manifest, tensor), **stated}


def properties(target: Target) -> dict[str, str]:
    """Return, as texts, the properties for which the protocol has no field."""
    manifest = target.manifest
    texts = {
        "task": target.task,
        "tasks": " ".join(manifest.served),
        "description": manifest.description,
        "example": example(target),
    }
    if manifest.classes is not None and target.spec.input("condition") is not None:
        texts["classes"] = orjson.dumps(manifest.classes).decode()
    return texts


def config(target: Target) -> dict[str, Any]:
    """Return the response of GET /v2/models/NAME/config, in terms of Triton's model configuration."""
    manifest, entry, spec = target.manifest, target.entry, target.spec
    assert entry.model is not None and entry.settings.max_rows is not None
    kind = "KIND_GPU" if entry.model.device == "cuda" else "KIND_CPU"
    return {
        "name": target.name, "platform": platform(manifest), "backend": manifest.backend,
        "max_batch_size": max(spec.min_rows, min(entry.settings.max_rows, spec.max_rows)),
        "input": [
            {"name": tensor.role, "data_type": f"TYPE_{name_of(tensor.dtype)}", "dims": _dims(tensor), "optional": infer.is_optional(manifest, tensor)}
            for tensor in spec.inputs
        ],
        "output": [
            {"name": tensor.role, "data_type": f"TYPE_{name_of(tensor.dtype)}", "dims": _dims(tensor)}
            for tensor in spec.outputs
        ],
        "instance_group": [{"name": manifest.name, "kind": kind, "count": entry.settings.instances}],
        "dynamic_batching": {"max_queue_delay_microseconds": 0, "preserve_ordering": False},
        "default_model_filename": spec.graph,
        "parameters": {name: {"string_value": text} for name, text in properties(target).items()},
    }  # fmt: skip


def example(target: Target) -> str:
    """Return the JSON of a valid request: one row of each required input, and a seed for the others if there are any."""
    manifest, spec = target.manifest, target.spec
    given = {tensor.role: tensor for tensor in spec.inputs if not infer.is_optional(manifest, tensor)}
    made = example_inputs(spec, manifest, 1)
    inputs = []
    for role, tensor in given.items():
        array = stated_example(tensor)
        if array is None:
            array = manifest.spec.plain() if tensor.source == "data" else made[role]
        inputs.append({
            "name": role, "shape": [1, *tensor.shape], "datatype": name_of(tensor.dtype), "data": array.ravel().tolist()
        })  # fmt: skip
    request: dict[str, Any] = {"inputs": inputs}
    if len(given) < len(spec.inputs):
        chosen: Mapping[str, Any] = {} if inputs else {"n": 2}
        request["parameters"] = {**chosen, "seed": EXAMPLE_SEED}
        if manifest.classes is not None and spec.input("condition") is not None:
            request["parameters"]["class"] = manifest.classes[0]
        if not infer.draws(spec, set(given), "class" in request["parameters"]):
            del request["parameters"]["seed"]
    return orjson.dumps(request).decode()


def _tensor(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.role, "datatype": name_of(tensor.dtype), "shape": [-1, *_dims(tensor)]}


def _dims(tensor: TensorSpec) -> list[int]:
    """Return the shape of one item, -1 for a free axis."""
    return [-1 if axis in (tensor.free or ()) else size for axis, size in enumerate(tensor.shape)]
