"""Programs of torch.export (.pt2) as ONNX graphs, so that they are served without torch."""

from __future__ import annotations

from pathlib import Path

import torch

from manifold.runtime.errors import GraphError, reason


def to_onnx(program: Path, target: Path) -> None:
    """Convert an exported program into an ONNX file with its weights. Raises GraphError if it cannot be read or converted."""
    try:
        loaded = torch.export.load(str(program))
    except Exception as error:  # for other files, torch raises errors of many types
        raise GraphError(
            f"{program.name}: torch cannot load the program: {reason(error)}", graph=program.name
        ) from error
    try:
        torch.onnx.export(loaded, f=str(target), dynamo=True, external_data=False, verbose=False)
    except Exception as error:  # the exporter raises errors of many types
        raise GraphError(
            f"{program.name}: torch cannot convert the program into ONNX: {reason(error)}", graph=program.name
        ) from error
