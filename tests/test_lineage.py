"""The next version of an artifact is a model of the same family and items; a shipped one also stays a model of its data set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from manifold.runtime import lineage, manifest, published
from manifold.runtime.errors import InvalidValue
from tests.conftest import SHIPPED

IMAGES = manifest.read(SHIPPED / "mnist-gan/3")
ROWS = manifest.read(SHIPPED / "transactions-vae/3")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return a folder with the manifests of a shipped model of images, of a private one, and of a shipped model of rows."""
    for name in ("mnist-gan", "my-gan", "transactions-vae"):
        shutil.copytree(SHIPPED / name.replace("my-", "mnist-"), tmp_path / name)
    shutil.copy(SHIPPED / published.FILE, tmp_path)
    return tmp_path


def test_a_better_model_of_the_same_kind_continues_a_name(models: Path) -> None:
    lineage.check_manifest(models, IMAGES)
    lineage.check_manifest(models, ROWS)
    lineage.check(models, "mnist-gan", "gan", "images", "mnist")
    lineage.check(models, "my-gan", "gan", IMAGES.spec, "fashion_mnist")
    lineage.check(models, "my-new", "vae", "images", "mnist")
    lineage.check(models / "nowhere", "mnist-gan", "vae", "images", "mnist")


@pytest.mark.parametrize("name", ["mnist-gan", "my-gan"])
def test_another_kind_of_model_is_refused(models: Path, name: str) -> None:
    larger = IMAGES.spec.model_copy(update={"height": 32})
    for family, items in (
        ("gan", "rows"),
        ("gan", ROWS.spec),
        ("gan", larger),
        ("vae", IMAGES.spec),
        ("vae", "images"),
    ):
        with pytest.raises(
            InvalidValue, match=r"images of 28x28x1 .family gan.*choose another name, such as my-"
        ) as caught:
            lineage.check(models, name, family, items, "mnist")
        assert caught.value.field == "name"


def test_other_columns_are_refused(models: Path) -> None:
    columns = ROWS.spec.model_dump()["columns"]
    for others in (columns[1:], columns[::-1]):
        spec = type(ROWS.spec).model_validate({**ROWS.spec.model_dump(), "columns": others})
        with pytest.raises(InvalidValue, match=f"rows with the columns {columns[0]['name']}, "):
            lineage.check(models, "transactions-vae", "tabular_vae", spec)


def test_a_shipped_model_keeps_its_data_set(models: Path) -> None:
    with pytest.raises(
        InvalidValue, match="is a shipped model of the data set mnist, and the data of this one are 'fashion_mnist'"
    ):
        lineage.check(models, "mnist-gan", "gan", IMAGES.spec, "fashion_mnist")
    with pytest.raises(InvalidValue, match="reserves this name for a shipped model"):
        lineage.check(models, "mnist-vae", "vae", "images", "mnist")


def test_a_damaged_version_does_not_hide_the_earlier_ones(models: Path) -> None:
    for version, content in (("4", json.dumps({"name": 3})), ("5", "")):
        (models / "mnist-gan" / version).mkdir()
        (models / "mnist-gan" / version / manifest.FILE).write_text(content)
    with pytest.raises(InvalidValue, match="family gan"):
        lineage.check(models, "mnist-gan", "vae", "images")
