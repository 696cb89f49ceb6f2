"""Lossless codecs beside bits per dimension: the stored images are the given ones, and the figures stand in reports, manifests and tables."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from manifold.evaluation import catalogue, cells, codecs, comparison, recording
from manifold.evaluation.images import ImageArray
from manifold.runtime import extras, manifest
from manifold.runtime.figures import of_codecs
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import Metric
from manifold.runtime.manifest.figures import STORED
from manifold.training.data import Data
from manifold.training.export import export
from manifold.training.exporting.stored import rounding
from tests.conftest import tiny_run
from tests.evaluation.helpers import RealArrays, run

Pixels = codecs.Pixels


def images(n: int, channels: int = 1, levels: int = 256, size: int = 8) -> Pixels:
    """Return random images with values at `levels` levels."""
    values = np.random.default_rng(0).integers(0, 256, (n, channels, size, size), np.uint8)
    return codecs.at_levels(values, levels)


def decoded(content: bytes, title: str, channels: int, depth: int) -> Pixels:
    """Return the picture (C, H, W) in a file, with values from 0 to 255."""
    if title == "JPEG XL":
        array = imagecodecs.jpegxl_decode(content) * np.uint8(255 // (2**depth - 1))
    else:
        array = np.asarray(Image.open(io.BytesIO(content)).convert("L" if channels == 1 else "RGB"))
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


@pytest.mark.parametrize("title", codecs.CODECS)
@pytest.mark.parametrize(("channels", "levels", "depth"), [(1, 256, 8), (1, 2, 1), (1, 4, 2), (1, 16, 4), (1, 5, 8), (3, 256, 8), (3, 2, 8)])  # fmt: skip
def test_nothing_is_lost(title: str, channels: int, levels: int, depth: int) -> None:
    (picture,) = codecs.sheets(images(9, channels, levels), side=3)
    codec = codecs.CODECS[title]
    for options in (*codec.options, *codec.slow):
        content = codec.encode(picture, levels, options)
        assert np.array_equal(decoded(content, title, channels, depth), picture)
    if title == "PNG":
        assert content[24] == depth  # the bit depth of the header (IHDR)


def test_sheets_hold_every_image_in_rows() -> None:
    given = images(25, channels=3)
    whole, rest = codecs.sheets(given, side=4)
    assert (whole.shape, rest.shape) == ((3, 32, 32), (3, 24, 32))  # 16 images; then 9 images and 3 blank ones
    assert np.array_equal(whole[:, 8:16, 24:32], given[7])
    assert np.array_equal(rest[:, 16:24, :8], given[24])
    assert not rest[:, 16:, 8:].any()


def test_bits_count_files_with_their_headers() -> None:
    given = images(3)
    size = sum(len(codecs.CODECS["PNG"].encode(each, 256, {"optimize": True})) for each in given)
    assert codecs.bits_per_dim(given, "PNG", side=None) == (8 * size / (3 * 64), {"optimize": True})
    noise, _ = codecs.bits_per_dim(images(100, size=16), "PNG")
    assert 8 < noise < 8.2  # random bytes cannot be compressed
    coins, _ = codecs.bits_per_dim(images(100, levels=2, size=16), "PNG", levels=2)
    assert 1 < coins < 1.1
    alone, _ = codecs.bits_per_dim(given, "JPEG XL", side=None)
    assert alone == min(
        8 * sum(len(codecs.CODECS["JPEG XL"].encode(each, 256, {"effort": effort})) for each in given) / given.size
        for effort in (7, 9)
    )


def test_slow_options_are_tried_on_demand(real: RealArrays) -> None:
    given, webp = codecs.at_levels(real.test.pixels[:3], 17), codecs.CODECS["WebP"]
    sizes = [sum(len(webp.encode(each, 17, options)) for each in given) for options in (*webp.options, *webp.slow)]
    assert codecs.bits_per_dim(given, "WebP", 17, side=None) == (8 * sizes[0] / given.size, webp.options[0])
    assert codecs.bits_per_dim(given, "WebP", 17, side=None, slow=True) == (8 * sizes[1] / given.size, webp.slow[0])
    assert sizes[1] < sizes[0]


def test_rounding_is_that_of_models() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    assert np.array_equal(codecs.at_levels(values, 256), values)
    assert np.array_equal(codecs.at_levels(values, 2), np.where(values > 127, 255, 0))
    assert np.array_equal(np.unique(codecs.at_levels(values, 4)), [0, 85, 170, 255])
    assert np.array_equal(codecs.at_levels(codecs.at_levels(values, 4, seed=1), 4), codecs.at_levels(values, 4, seed=1))
    drawn = codecs.at_levels(np.full((100, 1, 10, 10), 51, np.uint8), 2, seed=0)
    assert (drawn == 255).mean() == pytest.approx(0.2, abs=0.015)  # four standard errors


@pytest.mark.parametrize(
    ("protocol", "levels", "seed"),
    [
        ({}, 256, None),
        ({"observed": "grey values binarised at random, one draw an item", "seed": 3}, 2, 3),
        ({"observed": "grey values binarised at 1/2", "seed": 3}, 2, None),
        ({"observed": "pixels at 256 levels", "seed": 3}, 256, None),
        ({"observed": "pixels at 256 levels, rounded by chance, one draw an item", "seed": 3}, 256, 3),
    ],
)
def test_rounding_is_read_from_the_protocol(protocol: dict[str, Any], levels: int, seed: int | None) -> None:
    assert rounding(protocol, ImageSpec(height=8, width=8, channels=1)) == (levels, seed)


def test_many_images_are_cut_to_whole_sheets(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ImageArray.of(images(350))
    every = codecs.anchors(source)
    assert every["png_sheets"]["images"] == "all"
    assert every["png_sheets"]["layout"] == "sheets of 10x10 images, the last one of 50, headers included"
    monkeypatch.setattr(codecs, "VALUES", 299 * 64)
    first = codecs.anchors(source)["png_sheets"]
    assert (first["n"], first["images"]) == (200, "the first 200 of 350")
    assert first["layout"] == "sheets of 10x10 images, headers included"


def test_without_the_library_a_note_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    assert codecs.missing() is None
    monkeypatch.setattr(codecs, "find_spec", lambda name: None)
    monkeypatch.setattr(extras, "command", lambda *names: f"pip install {names}")
    assert list(codecs.anchors(ImageArray.of(images(5)))) == ["png_sheets", "webp_sheets"]
    assert codecs.missing() == (
        "jxl_sheets is missing: imagecodecs is not installed. It is part of the extra codecs; install it with: pip install ('codecs',)"
    )


def test_a_report_has_the_codecs_beside_its_bits(tiny_models: Path, real: RealArrays) -> None:
    found = json.loads(run("evaluate", "vae", "--n", "100", "--json", "--record", models=tiny_models))
    at_two = codecs.at_levels(real.test.pixels, 2)
    for name, title in STORED.items():
        anchor = found["anchors"][name]
        assert anchor["bits_per_dim"] == pytest.approx(codecs.bits_per_dim(at_two, title, 2)[0], rel=1e-5)
        assert (anchor["levels"], anchor["rounding"], anchor["n"]) == (2, "nearest", real.test.n)
    text = of_codecs(found["anchors"])
    assert [part.rpartition(" ")[0] for part in text.split(", ")] == ["PNG", "WebP", "JPEG XL"]
    (row,) = [row for row in cells.metric_rows(found) if row[0].startswith("bits_per_dim")]
    assert row[2] == f"lossless, on sheets: {text}"
    table = comparison.to_markdown([found])
    for line, (name, title) in zip(table.splitlines()[-3:], STORED.items(), strict=True):
        shown = [text for text in line.strip("| ").split(" | ") if text.strip()]
        assert shown == [f"*{title}, lossless, on sheets*", f"{found['anchors'][name]['bits_per_dim']:.4g}"]
    # a model without a likelihood that comes first does not hide them
    plain = {
        **found, "model": "other", "metrics": {name: value for name, value in found["metrics"].items() if not name.startswith(("bits", "elbo"))},
        "anchors": {name: value for name, value in found["anchors"].items() if name not in STORED},
    }  # fmt: skip
    assert comparison.to_markdown([plain, found]).splitlines()[-3:] == table.splitlines()[-3:]

    recorded = manifest.read(tiny_models / "vae/1")
    by_name = {metric.name: metric.protocol for metric in recorded.metrics if metric.protocol.get("by") == recording.RECORDED}  # fmt: skip
    assert set(by_name["bits_per_dim"]["anchors"]) == set(STORED)
    assert not set(by_name["fd_classifier"]["anchors"]) & set(STORED)
    (again,) = [each for each in recording.recorded(recorded) if each["protocol"] == found["protocol"]]
    assert again["anchors"] == found["anchors"]


def test_an_export_records_the_codecs_and_the_catalogue_shows_them(digits: Data, tmp_path: Path) -> None:
    told: list[str] = []
    folder = export(tiny_run(tmp_path / "run", "pixelcnn", digits), "pixels", tmp_path / "models", data=digits, tell=told.append)  # fmt: skip
    made = manifest.read(folder)
    (bits,) = [metric for metric in made.metrics if metric.name == "bits_per_dim"]
    stored = bits.protocol["anchors"]
    assert {name: anchor["levels"] for name, anchor in stored.items()} == dict.fromkeys(STORED, 4)
    assert "compare the bits per dimension with lossless codecs" in told
    assert f"{bits.value:.2f} bits/dim ↓ ({of_codecs(stored)})" in catalogue.figures(made)[0]
    # a figure of unrounded images also stands beside another figure of the same model, one of rounded images does not
    plain = Metric(name="bits_per_dim", value=1.0)
    for changed, shown in ((stored, ""), ({name: _unrounded(each) for name, each in stored.items()}, f" ({of_codecs(stored)})")):  # fmt: skip
        other = Metric(name="bits_per_dim", value=1.1, protocol={"by": "evaluation", "anchors": changed})
        rest = [metric for metric in made.metrics if metric is not bits]
        text = catalogue.figures(made.model_copy(update={"metrics": (plain, other, *rest)}))[0]
        assert f"1.00 bits/dim ↓{shown} (" in text


def _unrounded(anchor: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in anchor.items() if key != "rounding"}
