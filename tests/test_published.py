"""Published versions never change: the record, and the commands that make a next version instead."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime import manifest, priors, published, repository, revisions, shipped
from manifold.runtime.engine import load
from manifold.runtime.errors import ArtifactError, UnknownModel
from manifold.runtime.locks import locked
from manifold.runtime.manifest import Metric
from tests.conftest import SHIPPED


@pytest.fixture
def models(tiny: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny / "models/vae", tmp_path / "vae")
    assert shipped.renew(tmp_path) == ["vae/1"]
    return tmp_path


def change(models: Path, model: str = "vae", **changes: object) -> None:
    folder = models / model / "1"
    repository.save(folder, manifest.read(folder).model_copy(update=changes))


def test_shipped_artifacts_are_what_was_published() -> None:
    assert list(shipped.problems(SHIPPED)) == []
    listed = subprocess.run(["git", "ls-files", "*/manifest.json"], cwd=SHIPPED, capture_output=True, text=True)
    tracked = {line.removesuffix("/manifest.json") for line in listed.stdout.splitlines()}
    assert tracked <= published.read(SHIPPED).keys(), "run: manifold catalogue --record --add MODEL"


def test_a_version_keeps_its_content(models: Path) -> None:
    assert list(shipped.problems(models)) == []
    assert shipped.renew(models) == []
    change(models, metrics=())  # figures are recorded after publication
    assert list(shipped.problems(models)) == []
    change(models, description="another model")
    (problem,) = shipped.problems(models)
    assert problem.startswith("vae/1: its content is not the one that was published") and "next version" in problem
    with pytest.raises(ArtifactError, match="vae/1"):
        shipped.renew(models)


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


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("inside", [True, False], ids=["priors in the manifest", "priors in a file"])
def test_sealing_never_writes_into_a_published_version(models: Path, inside: bool) -> None:
    """Sealing is refused if it would change the version, and otherwise does nothing."""
    folder = models / "vae/1"
    stated = manifest.stated(folder)
    size = stated["latent"]["size"]
    round_ = {"kind": "gaussian", "mean": [0.0] * size, "cholesky": np.eye(size).tolist()}
    latent = {**stated["latent"], "priors": {"normal": {"kind": "normal"}, "round": round_}, "default_prior": "round"}
    (folder / manifest.FILE).write_text(json.dumps({**stated, "latent": latent}))
    if not inside:
        priors.move(folder)
        repository.seal(folder)
    (models / published.FILE).unlink()
    shipped.renew(models)
    before = contents(folder)
    result = CliRunner().invoke(cli.app, ["check", "--seal", str(folder)])
    assert result.exit_code == inside, result.output
    assert ("sealing would change it" in result.output) == inside
    assert contents(folder) == before


def test_numbers_are_not_used_twice(models: Path) -> None:
    """A number whose folder was removed stays used, for every command that publishes."""

    def publish() -> str:
        return revisions.publish(load(models / "vae/1", device="cpu"), models, lambda _, changed: changed).name

    assert publish() == "2"
    assert shipped.renew(models) == ["vae/2"]
    shutil.rmtree(models / "vae/2")
    assert repository.next_version(models, "vae") == 3
    assert publish() == "3"
    assert list(published.read(models)) == ["vae/1", "vae/2"]


def test_models_outside_the_record_are_private(models: Path) -> None:
    """Neither the record nor the catalogue contains them, until they are added by name."""
    shutil.copytree(models / "vae", models / "my-vae")
    change(models, "my-vae", name="my-vae")
    assert shipped.renew(models) == []
    assert shipped.versions(models) == {"vae": [1]}
    page = models / "page.md"
    command = ["catalogue", "--page", str(page), "--models", str(models)]
    assert CliRunner().invoke(cli.app, command).exit_code == 0
    assert "### vae" in page.read_text() and "my-vae" not in page.read_text()
    assert CliRunner().invoke(cli.app, [*command, "--add", "my-vae"]).exit_code == 2
    assert CliRunner().invoke(cli.app, [*command, "--record", "--add", "my-vae"]).exit_code == 0
    assert "### my-vae" in page.read_text() and list(published.read(models)) == ["my-vae/1", "vae/1"]
    with pytest.raises(UnknownModel, match="no model nothing"):
        shipped.renew(models, ["nothing"])


def test_a_private_version_is_not_the_shipped_one(models: Path) -> None:
    revisions.publish(load(models / "vae/1", device="cpu"), models, lambda _, changed: changed)
    assert shipped.latest(models) == {"vae": models / "vae/1"}


def test_a_model_without_checksums_is_not_published(models: Path) -> None:
    (models / published.FILE).unlink()
    change(models, files={})
    with pytest.raises(ArtifactError, match=r"vae/1: has no checksums.* --seal"):
        shipped.renew(models)
    assert not (models / published.FILE).exists()


def test_the_identity_does_not_depend_on_the_program(models: Path) -> None:
    """A field with a default, which a later version of the program adds, changes nothing, also if figures are recorded."""
    folder = models / "vae/1"
    (models / published.FILE).unlink()
    stated = manifest.stated(folder)
    del stated["backend"]  # a program without this field
    (folder / manifest.FILE).write_text(json.dumps(stated))
    shipped.renew(models)
    assert manifest.read(folder).backend == "onnx"
    repository.save_metrics(folder, [Metric(name="elbo", value=-90.25)])
    assert manifest.read(folder).metrics[-1].name == "elbo"
    assert list(shipped.problems(models)) == []


def test_the_record_is_renewed_under_the_lock_of_the_folder(models: Path) -> None:
    (models / published.FILE).unlink()
    writer = threading.Thread(target=shipped.renew, args=(models,))
    with locked(models):
        writer.start()
        writer.join(0.1)
        assert not (models / published.FILE).exists()
    writer.join()
    assert list(published.read(models)) == ["vae/1"]


def test_an_artifact_directly_below_the_root_has_no_record() -> None:
    assert published._root_of(Path("/artifact")) == Path("/")


@pytest.mark.parametrize("content", ["{", "[]", '{"vae/1": 3}', '{"vae": "a"}', '{"vae/0": "a"}'])
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
