"""Published versions never change: the record, and the commands that make a next version instead."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime import manifest, published, repository
from manifold.runtime.errors import ArtifactError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def models(tiny: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny / "models/vae", tmp_path / "vae")
    published.renew(tmp_path)
    return tmp_path


def change(models: Path, **changes: object) -> None:
    folder = models / "vae/1"
    repository.save(folder, manifest.read(folder).model_copy(update=changes))


def test_shipped_artifacts_are_what_was_published() -> None:
    recorded = published.read(ROOT / "models")
    present = {
        f"{name}/{version}" for name, versions in repository.scan(ROOT / "models").items() for version in versions
    }
    tracked = {name for name in present if not name.startswith("my-")}
    assert tracked <= recorded.keys()
    assert list(published.problems(ROOT / "models")) == []


def test_a_version_keeps_its_content(models: Path) -> None:
    assert list(published.problems(models)) == []
    assert published.renew(models) == []
    change(models, metrics=())  # figures are recorded after publication
    assert list(published.problems(models)) == []
    change(models, description="another model")
    (problem,) = published.problems(models)
    assert problem.startswith("vae/1: its content is not the one that was published") and "next version" in problem
    with pytest.raises(ArtifactError, match="vae/1"):
        published.renew(models)


def test_a_changed_file_is_not_sealed_again(models: Path) -> None:
    folder = models / "vae/1"
    before = (folder / manifest.FILE).read_bytes()
    (folder / "preview.png").write_bytes(b"another")
    result = CliRunner().invoke(cli.app, ["check", "--seal", str(folder)])
    assert result.exit_code == 1 and "never changes under one version" in result.output
    assert (folder / manifest.FILE).read_bytes() == before


def test_check_reports_a_changed_manifest(models: Path) -> None:
    change(models, description="another model")
    result = CliRunner().invoke(cli.app, ["check", str(models / "vae")])
    assert result.exit_code == 1 and "vae/1: its content is not the one that was published" in result.output


def test_numbers_are_not_used_twice(models: Path) -> None:
    shutil.move(models / "vae/1", models / "vae/2")
    change_version = manifest.read(models / "vae/2").model_copy(update={"version": 2})
    repository.save(models / "vae/2", change_version)
    assert published.renew(models) == ["vae/2"]
    assert list(published.read(models)) == ["vae/1", "vae/2"]


@pytest.mark.parametrize("content", ["{", "[]", '{"vae/1": 3}'])
def test_a_damaged_record_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / published.FILE).write_text(content)
    with pytest.raises(ArtifactError, match="restore the file"):
        published.read(tmp_path)


def test_the_catalogue_adds_new_versions(models: Path) -> None:
    (models / published.FILE).unlink()
    page = models / "page.md"
    command = ["catalogue", "--page", str(page), "--models", str(models), "--record"]
    assert CliRunner().invoke(cli.app, command).exit_code == 0
    assert list(json.loads((models / published.FILE).read_text())) == ["vae/1"]
    change(models, description="another model")
    result = CliRunner().invoke(cli.app, command)
    assert isinstance(result.exception, ArtifactError)
