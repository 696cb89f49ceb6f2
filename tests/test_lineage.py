"""The next version of an artifact has the same kind of items; that of a shipped one also the same family, sizes or columns, and data set."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from manifold.runtime import lineage, manifest, published, repository
from manifold.runtime.errors import InvalidValue
from manifold.runtime.kinds import Kind
from manifold.runtime.shipped import latest
from tests.conftest import SHIPPED

IMAGES = manifest.read(latest(SHIPPED)["mnist-gan"])
ROWS = manifest.read(latest(SHIPPED)["transactions-vae"])


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return a folder with the manifests of a shipped model of images, of a private one, and of a shipped model of rows."""
    for name in ("mnist-gan", "my-gan", "transactions-vae"):
        shutil.copytree(SHIPPED / name.replace("my-", "mnist-"), tmp_path / name)
    shutil.copy(SHIPPED / published.FILE, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "family", "items", "data"),
    [
        ("mnist-gan", "gan", IMAGES.spec, "mnist"),
        ("mnist-gan", "gan", "images", "mnist"),
        ("transactions-vae", ROWS.family, ROWS.spec, ROWS.data_name),
        ("my-gan", "gan", IMAGES.spec, "fashion_mnist"),
        ("my-gan", "vae", IMAGES.spec.model_copy(update={"height": 32}), "mnist"),
        ("my-new", "vae", "rows", "mnist"),
    ],
)
def test_a_better_model_continues_a_name(models: Path, name: str, family: str, items: Kind | str, data: str) -> None:
    assert refusal(models, name, family, items, data) is None


@pytest.mark.parametrize(
    ("name", "family", "items"),
    [
        ("mnist-gan", "gan", "rows"),
        ("mnist-gan", "gan", ROWS.spec),
        ("mnist-gan", "gan", IMAGES.spec.model_copy(update={"height": 32})),
        ("mnist-gan", "vae", IMAGES.spec),
        ("mnist-gan", "vae", "images"),
        ("my-gan", "gan", "rows"),
        ("my-gan", "gan", ROWS.spec),
    ],
)
def test_another_kind_of_model_is_refused(models: Path, name: str, family: str, items: Kind | str) -> None:
    error = refusal(models, name, family, items, "mnist")
    assert error is not None and error.field == "name"
    assert re.search(r"model of images of 28x28x1 .family gan.*choose another name, such as my-", error.message)
    assert ("a shipped model" in error.message) == (name == "mnist-gan")
    assert error.message.endswith("such as my-gan-2" if name == "my-gan" else "such as my-mnist-gan")


def refusal(root: Path, name: str, family: str | None, items: Kind | str, data: str) -> InvalidValue | None:
    """Return the error of the check, if any."""
    try:
        lineage.check(root, name, family, items, data)
    except InvalidValue as error:
        return error
    return None


def test_a_name_of_a_shipped_model_is_free_in_another_folder(models: Path) -> None:
    assert refusal(models / "nowhere", "mnist-gan", "vae", "images", "mnist") is None
    lineage.check_manifest(models, ROWS)
    with pytest.raises(InvalidValue, match="choose another name"):
        lineage.check_manifest(models, ROWS.model_copy(update={"name": "mnist-gan"}))


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
    number = repository.versions(models / "mnist-gan")[-1]
    for version, content in ((f"{number + 1}", json.dumps({"name": 3})), (f"{number + 2}", "")):
        (models / "mnist-gan" / version).mkdir()
        (models / "mnist-gan" / version / manifest.FILE).write_text(content)
    with pytest.raises(InvalidValue, match="family gan"):
        lineage.check(models, "mnist-gan", "vae", "images")
