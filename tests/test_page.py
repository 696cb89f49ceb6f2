"""The files that an artifact stores for its page: curves, samples by epoch, test points and a grid of samples, within a limit."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from manifold.runtime import manifest
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.kinds.table import TableSpec
from manifold.training.data import Arrays, Data
from manifold.training.exporting import page
from manifold.training.loop import sheets
from manifold.training.runs import LOG


def records(epochs: int, names: int = 1) -> str:
    """Return a log of two phases, with a record between them that is no loss."""
    losses = {f"train/part{i}": 1 / 3 for i in range(names)}
    lines: list[dict[str, Any]] = [{"step": 1, "phase": "a", "watch": {"relative_spread": 1.0}}]
    for phase in ("a", "b"):
        for epoch in range(1, epochs + 1):
            lines.append({"step": epoch, "phase": phase, "epoch": epoch, **losses, "selection/loss": float("nan"), "kl_by_dimension": [1.0]})  # fmt: skip
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def test_curves_are_those_of_each_phase(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text(records(3))
    content = page.curves(tmp_path / LOG)
    assert content is not None
    first, second = json.loads(content)
    assert (first["phase"], second["phase"], first["steps"]) == ("a", "b", [1, 2, 3])
    assert first["losses"] == {"train/part0": [0.33333] * 3, "selection/loss": [None] * 3}
    assert page.curves(tmp_path / "none") is None


def test_long_curves_are_thinned_out(tmp_path: Path) -> None:
    for epochs, names, left in ((1000, 1, 200), (1000, 20, 50)):
        (tmp_path / LOG).write_text(records(epochs, names))
        content = page.curves(tmp_path / LOG)
        assert content is not None and len(content) <= page.CURVES_BYTES
        steps = json.loads(content)[0]["steps"]
        assert (len(steps), steps[0], steps[-1]) == (left, 1, 1000)


GREY = ImageSpec(height=6, width=5, channels=1)


def keep_samples(folder: Path, phase: str, numbers: list[int], first: int = 0) -> None:
    """Write the samples of epochs as a training does. The first image of epoch n is grey with the level `first` + n."""
    for epoch in numbers:
        images = np.zeros((sheets.DRAWN, 1, 6, 5), np.float32)
        images[0] = (first + epoch) / 255
        sheets.save(images, GREY, sheets.path_of(folder, phase, epoch, GREY))


def data_of(spec: ImageSpec | TableSpec) -> Any:
    return SimpleNamespace(spec=spec)


def test_samples_by_epoch_are_those_of_the_last_phase_that_has_any(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text(records(20))
    keep_samples(tmp_path, "a", [1, 2, 4, 8, 16, 20])
    found = page.epochs(tmp_path, data_of(GREY), page.PAGE_BYTES)
    assert json.loads(found["epochs.json"]) == [1, 2, 4, 8, 16, 20]
    keep_samples(
        tmp_path, "b", [1, 2, 4, 30], first=100
    )  # the log has no epoch 30: it is left over from another training
    found = page.epochs(tmp_path, data_of(GREY), page.PAGE_BYTES)
    assert json.loads(found["epochs.json"]) == [1, 2, 4]
    with Image.open(io.BytesIO(found["epochs.png"])) as opened:
        picture = np.asarray(opened)
    assert picture.shape == (3 * 8 - 2, 8 * 7 - 2)  # a row for each epoch, eight samples in a row
    assert [int(picture[8 * row + 5, 4]) for row in range(3)] == [101, 102, 104]
    assert picture[0, 7] == 0  # the second sample


def test_many_epochs_are_thinned_out_and_a_small_limit_takes_fewer(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text(records(40))
    keep_samples(tmp_path, "b", list(range(1, 41)))
    found = page.epochs(tmp_path, data_of(GREY), page.PAGE_BYTES)
    listed = json.loads(found["epochs.json"])
    assert (len(listed), listed[0], listed[-1]) == (12, 1, 40)
    size = sum(map(len, found.values()))
    fewer = page.epochs(tmp_path, data_of(GREY), size - 1)
    assert 0 < sum(map(len, fewer.values())) < size
    assert page.epochs(tmp_path, data_of(GREY), 50) == {}


def test_without_two_sheets_of_images_there_are_no_samples_by_epoch(tmp_path: Path, table: Data) -> None:
    (tmp_path / LOG).write_text(records(3))
    assert page.epochs(tmp_path, data_of(GREY), page.PAGE_BYTES) == {}
    keep_samples(tmp_path, "b", [1])
    assert page.epochs(tmp_path, data_of(GREY), page.PAGE_BYTES) == {}
    keep_samples(tmp_path, "b", [2])
    assert page.epochs(tmp_path, data_of(GREY), page.PAGE_BYTES)
    assert page.epochs(tmp_path, data_of(TableSpec.of(table.spec, "table")), page.PAGE_BYTES) == {}
    sheets.path_of(tmp_path, "b", 2, GREY).write_bytes(b"\x89PNG cut off")
    assert page.epochs(tmp_path, data_of(GREY), page.PAGE_BYTES) == {}


@pytest.mark.parametrize("spec", [GREY, ImageSpec(height=4, width=7, channels=3)])
def test_the_first_row_of_a_grid_is_read_back(tmp_path: Path, spec: ImageSpec) -> None:
    path = tmp_path / "grid.png"
    images = np.random.default_rng(0).integers(0, 256, (sheets.DRAWN, *spec.shape), np.uint8)
    sheets.save(spec.to_model(images), spec, path)
    row = sheets.first_row(path, spec)
    assert row is not None and np.array_equal(row, images[:8])
    assert sheets.first_row(path, ImageSpec(height=9, width=9, channels=1)) is None
    assert sheets.first_row(tmp_path / "none.png", spec) is None


class Noise:
    """A stand-in for an engine whose latents and samples are noise, which cannot be compressed."""

    def __init__(self, width: int, side: int) -> None:
        encode = SimpleNamespace(input=lambda role: None)
        tasks = {"encode": encode, "decode": SimpleNamespace(), "sample": SimpleNamespace()}
        spec = ImageSpec(height=side, width=side, channels=3)
        space = SimpleNamespace(count=width)
        self.manifest: Any = SimpleNamespace(tasks=tasks, conditions=None, space=space, spec=spec)
        self.width, self.side, self.random = width, side, np.random.default_rng(0)

    def encode(self, items: Any, classes: Any = None) -> Any:
        return SimpleNamespace(placed=self.random.standard_normal((len(items), self.width), np.float32))

    def reconstruct(self, items: Any, classes: Any = None) -> Any:
        return SimpleNamespace(data=self.random.random(items.shape, np.float32))


def context(folder: Path, width: int, side: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(page, "supports", lambda *_: True)
    random = np.random.default_rng(1)
    part = Arrays(random.integers(0, 256, (1500, 3, side, side), np.uint8), np.arange(1500) % 10)
    engine = Noise(width, side)
    spec = engine.manifest.spec
    data = Data("noise", spec, part, part, part)
    run = SimpleNamespace(folder=folder)
    (folder / LOG).write_text(records(1000, 20))
    for epoch in (1, 2, 4, 1000):
        sheets.save(
            random.random((sheets.DRAWN, *spec.shape), np.float32), spec, sheets.path_of(folder, "b", epoch, spec)
        )
    return SimpleNamespace(run=run, data=data, folder=folder, manifest=engine.manifest, engine=engine)


@pytest.mark.parametrize(("width", "side", "points"), [(32, 16, 1000), (64, 48, 500), (300, 64, 100), (2000, 8, 0)])
def test_a_page_stays_within_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, side: int, points: int
) -> None:
    """The limit holds even if the log is long, the latent wide, and the data incompressible."""
    page.write_page(context(tmp_path, width, side, monkeypatch))
    files = {path.name: path.stat().st_size for path in (tmp_path / page.PAGE).iterdir()}
    assert sum(files.values()) <= page.PAGE_BYTES == 150_000
    assert {"curves.json", "sheet.png"} <= set(files)
    assert (
        ("epochs.png" in files) == ("epochs.json" in files) == (side < 64)
    )  # four images of noise with 64x64 pixels have 50 KB
    assert ("points.npz" in files) == (points > 0)
    if points:
        with np.load(tmp_path / page.PAGE / "points.npz") as stored:
            assert (stored["means"].shape, stored["means"].dtype) == ((points, width), np.float16)
            assert (stored["labels"].shape, stored["labels"].dtype) == ((points,), np.int16)
    with Image.open(tmp_path / page.PAGE / "sheet.png") as sheet:
        assert min(sheet.size) >= side


def test_an_exported_artifact_has_a_page(tiny: Path, digits: Data) -> None:
    folder = tiny / "models/vae/1"
    stored = manifest.read(folder / manifest.FILE)
    names = {"page/curves.json", "page/points.npz", "page/sheet.png"}
    assert names <= set(stored.files)
    with np.load(folder / "page/points.npz") as points:
        assert points["means"].shape == (len(digits.test), 20)
        assert points["labels"].tolist() == digits.test.labels.tolist()
    assert [curve["phase"] for curve in json.loads((folder / "page/curves.json").read_text())] == ["vae"]
    with Image.open(io.BytesIO((folder / "page/sheet.png").read_bytes())) as sheet:
        shown_first = np.asarray(sheet.convert("L"))[:8, :8]
    assert np.array_equal(shown_first, Arrays.of(digits.test).items[0, 0])
    rows = (tiny / "models/table/1/page/sheet.csv").read_text().splitlines()
    assert rows[0] == "price,weight,kind,paid"
    assert not (tiny / "models/pixelcnn/1/page/points.npz").exists()
