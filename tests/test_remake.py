"""The pictures of the documentation that carry a recipe can be made again.

Bytes are equal for the versions and the type of CPU with which the picture was made: docs/pictures.json records them. With others, ONNX Runtime
may round otherwise and Pillow may compress otherwise. The pixels then have to agree within one grey level.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime import imaging
from tests import published
from tests.conftest import ROOT, SHIPPED
from tests.pages import LINK

FIRST = LINK.findall((ROOT / "README.md").read_text())[0]  # the README's first picture


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


def test_the_first_picture_of_the_readme_is_one_of_them() -> None:
    assert FIRST in published.pictures()


def test_a_picture_of_earlier_weights_is_renewed(tmp_path: Path) -> None:
    old = tmp_path / "old.png"
    with Image.open(ROOT / FIRST) as picture:
        recipe = {**imaging.read_recipe((ROOT / FIRST).read_bytes()), "checksum": "0" * 64}
        picture.point(lambda _: 7).save(old, pnginfo=_text(recipe))
    new = tmp_path / "new.png"
    new.write_bytes(published.renewed(old.read_bytes()))
    assert np.abs(pixels(new) - pixels(ROOT / FIRST)).max() <= 1
    assert imaging.read_recipe(new.read_bytes()) == imaging.read_recipe((ROOT / FIRST).read_bytes())


def _text(recipe: dict[str, Any]) -> PngInfo:
    """Return a recipe as the text of a PNG."""
    text = PngInfo()
    text.add_text("manifold", json.dumps(recipe))
    return text
