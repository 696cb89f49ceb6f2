"""Changes of files before they are imported: programs of torch.export (.pt2) as ONNX graphs, and external weights under another name."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch

from manifold.runtime.errors import GraphError, reason

COLOURS = re.compile(r"\x1b\[\d*m")  # the exporter colours its messages


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's own log, whose warnings say nothing about the program, from the terminal."""
    log = logging.getLogger("torch")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def with_weights(graph: Path, location: str, target: Path) -> None:
    """Write an ONNX graph whose external weights are all in one file beside it, `location`. Raises GraphError if it cannot be read."""
    try:
        model = onnx.load(str(graph))
        target.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(
            model,
            str(target),
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location=location,
            size_threshold=1024,
        )
    except Exception as error:  # protobuf, onnx and the file system raise errors of many types
        raise GraphError(f"{graph.name}: its weights cannot be read: {reason(error)}", graph=graph.name) from error


def to_onnx(program: Path, target: Path) -> None:
    """Convert an exported program into an ONNX file with its weights. Raises GraphError if it cannot be read or converted."""
    try:
        with _quiet():
            loaded = torch.export.load(str(program))
    except Exception as error:  # for other files, torch raises errors of many types
        raise GraphError(
            f"{program.name}: torch cannot load the program: {reason(error)}", graph=program.name
        ) from error
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")  # they are about torch's own calls
            torch.onnx.export(loaded, f=str(target), dynamo=True, external_data=False, verbose=False)
    except Exception as error:  # the exporter raises errors of many types
        raise GraphError(
            f"{program.name}: torch cannot convert the program into ONNX: {COLOURS.sub('', reason(error))}",
            graph=program.name,
        ) from error
