"""The data that an artifact stores for its page: curves, test points and a grid of samples, within a limit."""

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
from manifold.training.data import Arrays, Data
from manifold.training.exporting import shown
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
    content = shown._curves(tmp_path / LOG)
    assert content is not None
    first, second = json.loads(content)
    assert (first["phase"], second["phase"], first["steps"]) == ("a", "b", [1, 2, 3])
    assert first["losses"] == {"train/part0": [0.33333] * 3, "selection/loss": [None] * 3}
    assert shown._curves(tmp_path / "none") is None


def test_long_curves_are_thinned_out(tmp_path: Path) -> None:
    for epochs, names, left in ((1000, 1, 200), (1000, 20, 50)):
        (tmp_path / LOG).write_text(records(epochs, names))
        content = shown._curves(tmp_path / LOG)
        assert content is not None and len(content) <= shown.CURVES_BYTES
        steps = json.loads(content)[0]["steps"]
        assert (len(steps), steps[0], steps[-1]) == (left, 1, 1000)


class Noise:
    """A stand-in for an engine whose latents and samples are noise, which cannot be compressed."""

    def __init__(self, width: int, side: int) -> None:
        encode = SimpleNamespace(input=lambda role: None)
        tasks = {"encode": encode, "decode": SimpleNamespace(), "sample": SimpleNamespace()}
        self.manifest: Any = SimpleNamespace(tasks=tasks, conditions=None, space=SimpleNamespace(count=width))
        self.width, self.side, self.random = width, side, np.random.default_rng(0)

    def encode(self, items: Any, classes: Any = None) -> Any:
        return SimpleNamespace(placed=self.random.standard_normal((len(items), self.width), np.float32))

    def reconstruct(self, items: Any, classes: Any = None) -> Any:
        return SimpleNamespace(data=self.random.random(items.shape, np.float32))


def context(folder: Path, width: int, side: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(shown, "supports", lambda *_: True)
    random = np.random.default_rng(1)
    part = Arrays(random.integers(0, 256, (1500, 3, side, side), np.uint8), np.arange(1500) % 10)
    data = Data("noise", ImageSpec(height=side, width=side, channels=3), part, part, part)
    engine = Noise(width, side)
    run = SimpleNamespace(folder=folder)
    (folder / LOG).write_text(records(1000, 20))
    return SimpleNamespace(run=run, data=data, folder=folder, manifest=engine.manifest, engine=engine)


@pytest.mark.parametrize(("width", "side", "points"), [(32, 16, 1000), (64, 48, 500), (300, 64, 100), (2000, 8, 0)])
def test_a_page_stays_within_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, side: int, points: int
) -> None:
    """The limit holds even if the log is long, the latent wide, and the data incompressible."""
    shown.write_page(context(tmp_path, width, side, monkeypatch))
    files = {path.name: path.stat().st_size for path in (tmp_path / shown.PAGE).iterdir()}
    assert sum(files.values()) <= shown.PAGE_BYTES == 150_000
    assert {"curves.json", "sheet.png"} <= set(files)
    assert ("points.npz" in files) == (points > 0)
    if points:
        with np.load(tmp_path / shown.PAGE / "points.npz") as stored:
            assert (stored["means"].shape, stored["means"].dtype) == ((points, width), np.float16)
            assert (stored["labels"].shape, stored["labels"].dtype) == ((points,), np.int16)
    with Image.open(tmp_path / shown.PAGE / "sheet.png") as sheet:
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
