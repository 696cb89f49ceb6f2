"""The pictures of the documentation that carry a recipe can be made again.

Bytes are equal for the versions and the type of CPU with which the picture was made: docs/pictures.json records them. With others, ONNX Runtime
may round otherwise and Pillow may compress otherwise. The pixels then have to agree within one grey level.
"""

from __future__ import annotations

import io
import json
import platform
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime import imaging, recipes
from manifold.runtime.errors import InvalidValue
from tests import published
from tests.conftest import ROOT, SHIPPED
from tests.pages import Page

SAMPLES = [
    each for each in Page(ROOT / "README.md").links() if re.fullmatch(r"docs/.*\.png", each)
]  # the README's samples of models
FIRST = SAMPLES[0]


def pixels(path: Path) -> NDArray[np.int16]:
    """Return the pixels of a picture as signed integers, which can be subtracted."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), np.int16)


@pytest.mark.parametrize("name", published.pictures())
def test_published_pictures_are_made_again(name: str, tmp_path: Path) -> None:
    made = tmp_path / "made.png"
    done = CliRunner().invoke(
        cli.app, ["remake", str(ROOT / name), "-o", str(made), "--models", str(SHIPPED), "--device", "cpu"]
    )
    assert done.exit_code == 0, done.output
    assert np.abs(pixels(made) - pixels(ROOT / name)).max() <= 1
    here, recorded = published.surroundings(), json.loads(published.RECORD.read_text())
    if other := [
        f"{key} is {here[key]} here and {recorded.get(key)} there" for key in here if here[key] != recorded.get(key)
    ]:
        pytest.skip(f"the pixels agree; the bytes are only compared as in docs/pictures.json: {'; '.join(other)}")
    assert made.read_bytes() == (ROOT / name).read_bytes()


def test_the_samples_of_the_readme_are_among_them() -> None:
    assert len(SAMPLES) == 3
    assert set(SAMPLES) <= set(published.pictures())


def test_a_picture_of_earlier_weights_is_renewed(tmp_path: Path) -> None:
    old = tmp_path / "old.png"
    with Image.open(ROOT / FIRST) as picture:
        recipe = {**imaging.read_recipe((ROOT / FIRST).read_bytes()), "checksum": "0" * 64}
        picture.point(lambda _: 7).save(old, pnginfo=_text(recipe))
    new = tmp_path / "new.png"
    new.write_bytes(published.renewed(old.read_bytes()))
    assert np.abs(pixels(new) - pixels(ROOT / FIRST)).max() <= 1
    assert imaging.read_recipe(new.read_bytes()) == imaging.read_recipe((ROOT / FIRST).read_bytes())


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw six digits, 28x18 pixels."""
    path = tmp_path_factory.mktemp("drawn") / "a.png"
    done = CliRunner().invoke(cli.app, ["sample", "digits-pixelcnn", "-n", "6", "-o", str(path), "--models", str(SHIPPED), "--device", "cpu"])  # fmt: skip
    assert done.exit_code == 0, done.output
    return path


def edited(path: Path, change: Callable[[Image.Image], Image.Image], **options: Any) -> bytes:
    """Return a picture whose pixels were changed, with its recipe."""
    content = io.BytesIO()
    with Image.open(path) as picture:
        change(picture.copy()).save(content, "PNG", pnginfo=_text(imaging.read_recipe(path.read_bytes())), **options)
    return content.getvalue()


def brighter(picture: Image.Image) -> Image.Image:
    """Return a copy of a grey picture in which two pixels differ, by 7 and by 20."""
    values = np.array(picture)
    for column, by in ((3, 7), (4, 20)):
        value = values[2, column]
        values[2, column] = value + by if value < 128 else value - by
    return Image.fromarray(values)


def test_differences_are_measured(drawn: Path) -> None:
    original = drawn.read_bytes()
    assert recipes.difference(original, original) == "the same bytes"
    packed = edited(drawn, lambda picture: picture, compress_level=0)
    assert recipes.difference(packed, original) == (
        f"the same pixels; the files differ: {len(original)} bytes, and {len(packed)} of the original"
    )
    assert recipes.difference(edited(drawn, lambda picture: picture.convert("RGB")), original).startswith("the same pixels")  # fmt: skip
    assert recipes.difference(edited(drawn, brighter), original) == (
        "2 of 504 pixels differ; largest difference 20 of 255, mean difference 0.0536"
    )
    cropped = edited(drawn, lambda picture: picture.crop((0, 0, 20, 18)))
    assert recipes.difference(cropped, original) == "28x18 pixels, but the original has 20x18"
    torn = edited(drawn, brighter)[:-40]
    assert recipes.difference(torn, original).startswith("the original cannot be compared: image: ")


def test_remake_reports_facts_and_no_cause(drawn: Path, tmp_path: Path) -> None:
    picture, made = tmp_path / "b.png", tmp_path / "b.remade.png"
    picture.write_bytes(edited(drawn, brighter))
    done = CliRunner().invoke(cli.app, ["remake", str(picture), "--models", str(SHIPPED), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    recipe = imaging.read_recipe(picture.read_bytes())
    assert done.output.splitlines() == [
        f"{made}: 2 of 504 pixels differ; largest difference 20 of 255, mean difference 0.0536",
        f"artifact: digits-pixelcnn {recipe['version']}, checksum {recipe['checksum'][:12]}…, as in the recipe",
        f"made here with: onnxruntime {metadata.version('onnxruntime')}, device cpu, CPU {platform.machine()}, "
        f"pillow {metadata.version('pillow')}; the recipe does not record with what the original was made",
    ]
    assert made.read_bytes() == drawn.read_bytes()


def test_another_artifact_is_an_error_with_both_checksums(drawn: Path, tmp_path: Path) -> None:
    picture = tmp_path / "c.png"
    recipe = imaging.read_recipe(drawn.read_bytes())
    with Image.open(drawn) as image:
        image.save(picture, pnginfo=_text({**recipe, "checksum": "0" * 64}))
    done = CliRunner().invoke(cli.app, ["remake", str(picture), "--models", str(SHIPPED), "--device", "cpu"])
    assert isinstance(done.exception, InvalidValue)
    assert done.exception.message == (
        f"the recipe belongs to digits-pixelcnn {recipe['version']} with checksum 000000000000…, but this artifact has "
        f"{recipe['checksum'][:12]}…; use the artifact that made the picture"
    )
    assert not (tmp_path / "c.remade.png").exists()


def _text(recipe: dict[str, Any]) -> PngInfo:
    """Return a recipe as the text of a PNG."""
    text = PngInfo()
    text.add_text("manifold", json.dumps(recipe))
    return text
