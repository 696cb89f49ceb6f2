"""Splits that make their items on demand: they are trained, evaluated and exported like arrays, without a request for all items at once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from manifold.evaluation import images, judged_items
from manifold.evaluation.session import Session, SessionOptions
from manifold.runtime.engine import load
from manifold.training import batches as batches_module
from manifold.training import datasets, families, judging, runs
from manifold.training.batches import Batch
from manifold.training.data import Arrays, Data, Part
from manifold.training.data import parts as parts_module
from manifold.training.data.parts import batches, count, first, scattered, subset
from manifold.training.export import export
from manifold.training.loop import checkpoints, evaluation
from manifold.training.train import train
from tests.conftest import SHIPPED


class Made:
    """A split that returns copies of another split's items, records how many were requested, and refuses more than `most`."""

    def __init__(self, part: Part, most: int) -> None:
        self.part, self.most, self.asked = part, most, 0
        self.labels, self.factors = part.labels, part.factors

    def __len__(self) -> int:
        return len(self.part)

    def batch(self, indices: NDArray[np.int64]) -> Arrays:
        self.asked = max(self.asked, len(indices))
        assert self.asked <= self.most
        return self.part.batch(indices)


def on_demand(data: Data, most: int = 1024) -> tuple[Data, list[Made]]:
    parts = [Made(part, most) for part in (data.train, data.calibration, data.test)]
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


@pytest.mark.slow
@pytest.mark.parametrize("family", ["vae", "vqvae"])
def test_no_command_asks_for_more_than_a_bounded_batch(
    tmp_path: Path, digits: Data, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """Training, export, judge and evaluate keep to the bounds of large items, and the metrics are those of arrays."""
    bound = 128  # items of 64 values; the batch size of training and of the evaluator
    for module, name in ((parts_module, "VALUES"), (judged_items, "SCORED_VALUES"), (images, "VALUES")):
        monkeypatch.setattr(module, name, 64 * bound)
    inverted = dataclasses.replace(
        digits, test=Arrays(255 - Arrays.of(digits.train).items[:1000], digits.train.labels[:1000])
    )
    sets = {"digits": digits, "inverted": inverted}
    monkeypatch.setattr(datasets, "load", lambda name: sets[name])
    monkeypatch.setenv("MANIFOLD_CACHE", str(tmp_path / "cache"))
    made, parts = on_demand(digits, bound)
    run = run_of(
        tmp_path / "run",
        family,
        **(
            {"trim": 0.1, "beta": 0.01, "lr": 0.01, "epochs": 4}
            if family == "vae"
            else {"epochs": 1, "prior_epochs": 1}
        ),
    )
    train(run, made, device="cpu", quiet=True)
    folder = export(run, "m", tmp_path / "models", data=made, backend="torchscript")
    (tmp_path / "models/digits-classifier").symlink_to(SHIPPED / "digits-classifier")
    model, found = load(folder, device="cpu"), []
    for data, against in ((digits, inverted), (made, on_demand(inverted, bound)[0])):
        sets.update(digits=data, inverted=against)
        judged = judging.judge(model, data, against="inverted")
        options = SessionOptions(50, 0, "digits-classifier", "none", "cpu")
        session = Session(tmp_path / "models", options, judging.real_data, quiet=True)
        report, _, _ = session.evaluate("m", "digits")
        reference = (
            session.write_reference(tmp_path / "r.npz", "digits", None, "train").with_suffix(".json").read_text()
        )
        figures = session.disentangle("m", "digits", 3) if family == "vae" else None
        found.append((judged.rates, judged.terms, judged.peers, judged.warnings, report, reference, figures))
    assert found[0] == found[1]
    assert all(0 < part.asked <= bound for part in parts)


def test_large_items_come_in_smaller_batches(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "VALUES", 64 * 7)
    assert [len(held) for held in batches(digits.test, 500, 20)] == [7, 7, 6]
    assert (count(digits.test, 5), count(digits.test, 500, 63), count(digits.test, 500, 64 * 9)) == (5, 1, 9)
    assert list(batches(Arrays.of(digits.test)[:0], 5)) == []


@pytest.mark.parametrize("family", ["vae", "gan"])
def test_the_batch_for_monitor_is_bounded_and_is_made_for_families_that_have_it(
    tmp_path: Path, digits: Data, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    sizes = []

    def joined(part: Part, generator: torch.Generator, limit: int) -> Batch:
        sizes.append(limit)
        return batches_module.joined(part, generator, limit)

    monkeypatch.setattr(evaluation, "joined", joined)
    monkeypatch.setattr(evaluation, "MONITORED", 64 * 100)
    train(run_of(tmp_path / "run", family, epochs=2), digits, device="cpu", quiet=True)
    assert sizes == ([100, 100] if family == "vae" else [])


def test_a_subset_gives_the_items_of_its_part(digits: Data) -> None:
    made = Made(digits.train, 10)
    rows = np.asarray([7, 3, 900])
    part = subset(made, rows)
    assert not isinstance(part, Arrays)
    assert np.array_equal(part.batch(np.asarray([2, 0])).items, Arrays.of(digits.train).items[[900, 7]])
    assert part.labels.tolist() == digits.train.labels[rows].tolist()
    assert [len(held) for held in batches(part, 2)] == [2, 1]
    assert len(first(part, 9)) == 3
    assert isinstance(subset(digits.train, rows), Arrays)


def test_some_items_of_an_ordered_split_are_a_sample_of_it() -> None:
    whole = Arrays(np.arange(4000).reshape(-1, 1).astype(np.float32), np.repeat([0, 1, 2, 3], 1000))
    for part in (whole, subset(Made(whole, 5000), np.arange(4000))):
        some = scattered(part, 400)
        assert len(some) == 400
        assert np.bincount(some.labels).min() > 70
        assert (np.diff(Arrays.of(some).items[:, 0]) > 0).all()  # no item twice, and in order
        assert scattered(part, 4000) is part
