"""The ONNX exporter's registry of operators, built once per process.

torch 2.13 builds it in every call of `torch.onnx.export`. For this it parses the source of about 500 functions, which takes a third of an
export's time. The exporter does not accept a registry as an argument, so the constructor that it calls is replaced.
"""

from __future__ import annotations

import functools

from torch.onnx._internal.exporter import _constants
from torch.onnx._internal.exporter._registration import ONNXRegistry

_build = ONNXRegistry.from_torchlib


def share() -> None:
    """Let every later export of this process start from a copy of one registry. A second call has no effect."""
    ONNXRegistry.from_torchlib = staticmethod(_copy)  # type: ignore[method-assign]


def _copy(opset_version: int = _constants.TORCHLIB_OPSET) -> ONNXRegistry:
    """Return a copy that the caller may change, because an export can add its own operators."""
    copy = ONNXRegistry()
    copy.__dict__.update(_built(opset_version).__dict__)
    copy.functions = {target: list(overloads) for target, overloads in copy.functions.items()}
    return copy


@functools.cache
def _built(opset_version: int) -> ONNXRegistry:
    return _build(opset_version)
