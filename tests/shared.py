"""Trained runs and artifacts that tests share. Each is made once in a test run, by the first process that requests it. All others get copies.

The key of a run is its family, its configuration and its data; the key of an artifact is its run, name and format. Tests that request the same get
the same, so no list of shared artifacts is needed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from filelock import FileLock

from manifold.training import export as exporting
from manifold.training import families, runs
from manifold.training.data import Arrays, Data, Part
from manifold.training.exporting import graphs
from manifold.training.exporting.tasks import Task
from manifold.training.train import train

FOLDER = "TESTS_SHARED"  # tests/conftest.py sets this variable for the processes of one test run


fast = False  # the option --fast sets this flag


def once(key: str, make: Callable[[Path], object]) -> Path:
    """Return the shared folder of `key`, which `make` fills at the first call in any process. No test may change it.

    With the option --fast, the calling test is skipped instead, because shared artifacts take long to make.
    """
    if fast:
        pytest.skip("slow: it trains or exports a model")
    root = Path(os.environ[FOLDER])
    folder, done = root / key, root / f"{key}.done"
    with FileLock(root / f"{key}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # left behind by a failed call
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def tiny_run(folder: Path, family: str, data: Data, **changes: object) -> runs.TrainingRun:
    """Return a trained smoke run as a copy in `folder`."""
    module = families.get(family)
    config = module.Config.model_validate({**module.PRESETS["smoke"], **changes})
    run = runs.TrainingRun(folder, family, data.name, "smoke", config)

    def make(shared: Path) -> None:
        train(dataclasses.replace(run, folder=shared), data, device="cpu", quiet=True)

    shutil.copytree(once(_key(family, config, _digest(data)), make), folder)
    return run


def export(run: runs.TrainingRun, name: str, root: Path, *, data: Data, backend: str = "onnx") -> Path:
    """Return the artifact that training.export.export makes from the run, as a copy in `root`.

    Use TorchScript as the backend if the test does not need an ONNX graph: its export takes a fifth of the time.
    """

    def make(shared: Path) -> None:
        exporting.export(run, name, shared, data=data, backend=backend)

    shared = once(_key(_weights(run), name, backend, _digest(data)), make)
    shutil.copytree(shared, root, dirs_exist_ok=True)
    return root / name / "1"


def run_as_onnx(task: Task, inputs: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the outputs of a single task as an ONNX graph, which is written into `folder`."""
    given = [torch.from_numpy(inputs[spec.role][:3]) for spec in task.inputs]
    graphs.save_onnx({"task": graphs.task_to_onnx(task, given)}, folder)
    session = onnxruntime.InferenceSession(str(folder / "task.onnx"))
    found = session.run(None, {spec.role: inputs[spec.role] for spec in task.inputs})
    return {output.name: array for output, array in zip(session.get_outputs(), found, strict=True)}


def _weights(run: runs.TrainingRun) -> str:
    """Return a digest of the run's checkpoint."""
    return hashlib.sha256(run.checkpoint.read_bytes()).hexdigest()


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:20]


def _digest(data: Data) -> str:
    """Return a digest of a data set. Another selection of items has another digest."""
    digest = hashlib.sha256(json.dumps([data.name, data.protocol, data.classes, data.folds], default=str).encode())
    digest.update(repr(data.spec).encode())
    for part in (data.train, data.calibration, data.test, data.anomalies):
        for array in () if part is None else _arrays(part):
            digest.update(array)
    return digest.hexdigest()


def _arrays(part: Part) -> list[bytes]:
    return [array.tobytes() for array in (Arrays.of(part).items, part.labels, part.factors) if array is not None]
