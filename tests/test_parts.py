"""Parts that make their items on demand: they are trained, evaluated and exported like arrays, and never asked for all items at once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from manifold.runtime.engine import load
from manifold.training import families, runs
from manifold.training.data import Arrays, Data, Part
from manifold.training.data.parts import batches, first, subset
from manifold.training.export import export
from manifold.training.loop import checkpoints
from manifold.training.train import train


class Made:
    """A part that hands out copies of the items of another, and notes how many it was asked for."""

    def __init__(self, part: Part) -> None:
        self.part, self.asked = part, 0
        self.labels, self.factors = part.labels, part.factors

    def __len__(self) -> int:
        return len(self.part)

    def batch(self, indices: NDArray[np.int64]) -> Arrays:
        self.asked = max(self.asked, len(indices))
        return self.part.batch(indices)


def on_demand(data: Data) -> tuple[Data, list[Made]]:
    parts = [Made(part) for part in (data.train, data.calibration, data.test)]
    return dataclasses.replace(data, train=parts[0], calibration=parts[1], test=parts[2]), parts


def run_of(folder: Path, family: str, **changes: object) -> runs.TrainingRun:
    module = families.get(family)
    options = {**module.PRESETS["smoke"], "test_items": 300, **changes}
    return runs.TrainingRun(folder, family, "digits", "smoke", module.Config.model_validate(options))


@pytest.mark.parametrize(
    ("family", "changes"),
    [("vae", {"trim": 0.1, "epochs": 3}), ("cvae", {}), ("vqvae", {"epochs": 1, "prior_epochs": 1}), ("gan", {})],
)
def test_items_made_on_demand_train_bit_for_bit_like_arrays(
    tmp_path: Path, digits: Data, family: str, changes: dict[str, object]
) -> None:
    made, parts = on_demand(digits)
    states = []
    for name, data in (("arrays", digits), ("made", made)):
        run = run_of(tmp_path / name, family, **changes)
        train(run, data, device="cpu", quiet=True)
        log = [json.loads(line) for line in (run.folder / runs.LOG).read_text().splitlines()]
        states.append((checkpoints.load(run.checkpoint)["model"], log, (run.folder / runs.METRICS).read_text()))
    for name, value in states[0][0].items():
        assert torch.equal(value, states[1][0][name]), name
    for left, right in zip(states[0][1], states[1][1], strict=True):
        assert {**left, "samples_per_second": 0} == {**right, "samples_per_second": 0}
    assert states[0][2] == states[1][2]
    assert 0 < parts[0].asked < len(digits.train)


def test_items_made_on_demand_are_exported_like_arrays(tmp_path: Path, digits: Data) -> None:
    wide = dataclasses.replace(digits, train=Arrays.of(digits.train)[:600])
    made, parts = on_demand(wide)
    run = run_of(tmp_path / "run", "vae", references=100)
    train(run, wide, device="cpu", quiet=True)
    folders = [
        export(run, "m", tmp_path / name, data=data, backend="torchscript")
        for name, data in (("arrays", wide), ("made", made))
    ]
    left, right = (load(folder, device="cpu") for folder in folders)
    files = [
        {name: record.sha256 for name, record in model.manifest.files.items() if name.endswith((".png", ".json"))}
        for model in (left, right)
    ]
    assert files[0] == files[1]
    items = digits.inputs(first(digits.test, 9))
    for name, values in left.score(items).terms.items():
        assert np.array_equal(values, right.score(items).terms[name]), name
    assert (
        left.calibrated.p_values("kl", np.arange(5.0)).tolist()
        == right.calibrated.p_values("kl", np.arange(5.0)).tolist()
    )
    assert all(part.asked for part in parts)


def test_a_subset_gives_the_items_of_its_part(digits: Data) -> None:
    made = Made(digits.train)
    rows = np.asarray([7, 3, 900])
    part = subset(made, rows)
    assert not isinstance(part, Arrays)
    assert np.array_equal(part.batch(np.asarray([2, 0])).items, Arrays.of(digits.train).items[[900, 7]])
    assert part.labels.tolist() == digits.train.labels[rows].tolist()
    assert [len(held) for held in batches(part, 2)] == [2, 1]
    assert len(first(part, 9)) == 3
    assert isinstance(subset(digits.train, rows), Arrays)
