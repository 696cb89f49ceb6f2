"""`manifold add-page`: the page of an artifact that was exported without one, or whose run is still there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime import manifest, repository
from manifold.runtime.engine import load
from manifold.runtime.errors import InvalidValue, UnsupportedTask
from manifold.training import runs
from manifold.training.data import Data
from manifold.training.exporting import later_page, page
from tests.conftest import SHIPPED

RUN = CliRunner()


def stripped(source: Path, target: Path, *names: str) -> Path:
    """Copy an artifact without these files of its page. Return the folder of the copy."""
    shutil.copytree(source, target)
    for name in names:
        (target / page.PAGE / name).unlink()
    before = manifest.read(target)
    files = {
        name: record for name, record in before.files.items() if name not in {f"{page.PAGE}/{each}" for each in names}
    }
    (target / manifest.FILE).write_text(manifest.dumps(before.model_copy(update={"files": files})))
    return target


def pages(folder: Path) -> dict[str, bytes]:
    return page.read(folder)


def test_points_and_sheet_of_an_artifact_are_made_again(tiny: Path, tmp_path: Path) -> None:
    """They are those of the export. Graphs and weights stay what they are, and the old version, too."""
    source = tiny / "models/vae/1"
    folder = stripped(source, tmp_path / "vae/1", *pages(source))
    written = (folder / manifest.FILE).read_bytes()
    result = RUN.invoke(cli.app, ["add-page", "vae", "--data", "digits", "--models", str(tmp_path)])
    assert result.exit_code == 0, result.exception
    assert result.stdout.strip() == str(tmp_path / "vae/2")
    exported = pages(source)
    assert pages(tmp_path / "vae/2") == {name: exported[name] for name in ("points.npz", "sheet.png")}
    made = manifest.read(tmp_path / "vae/2")
    assert made.files == repository.records(tmp_path / "vae/2")
    for name in manifest.read(folder).files:
        assert (tmp_path / "vae/2" / name).read_bytes() == (source / name).read_bytes(), name
    assert (folder / manifest.FILE).read_bytes() == written

    again = RUN.invoke(cli.app, ["add-page", "vae", "--data", "digits", "--models", str(tmp_path)])
    assert again.exit_code == 0 and again.stdout.strip() == str(tmp_path / "vae/2")
    assert "has all files of its page already" in again.stderr
    assert repository.versions(tmp_path / "vae") == [1, 2]


def test_a_run_adds_curves_and_samples_by_epoch(tiny: Path, tmp_path: Path) -> None:
    source = tiny / "models/vae/1"
    exported = pages(source)
    assert {"curves.json", "epochs.png", "epochs.json"} <= exported.keys()
    stripped(source, tmp_path / "vae/1", "curves.json", "epochs.png", "epochs.json")
    command = ["add-page", "vae", "--data", "digits", "--models", str(tmp_path)]
    result = RUN.invoke(cli.app, [*command, "--run", str(tiny / "runs/vae")])
    assert result.exit_code == 0, result.exception
    assert pages(tmp_path / "vae/2") == exported
    listed = json.loads(exported["epochs.json"])
    assert listed == sorted(listed) and len(listed) > 1

    other = RUN.invoke(cli.app, [*command, "--run", str(tiny / "runs/pixelcnn")])
    assert isinstance(other.exception, InvalidValue)
    assert "is not the run of vae: its family is 'pixelcnn', and vae was trained with 'vae'" in str(other.exception)
    two = RUN.invoke(cli.app, [*command, "vae", "vae/1", "--run", str(tiny / "runs/vae")])
    assert two.exit_code == 2 and "name one model" in two.output


def test_an_artifact_without_encoder_gets_a_sheet_only(tiny: Path, tmp_path: Path) -> None:
    source = tiny / "models/pixelcnn/1"
    stripped(source, tmp_path / "pixelcnn/1", *pages(source))
    result = RUN.invoke(cli.app, ["add-page", "pixelcnn", "--data", "digits", "--models", str(tmp_path)])
    assert result.exit_code == 0, result.exception
    assert pages(tmp_path / "pixelcnn/2").keys() == {"sheet.png"}


def test_rows_get_points_and_a_table(tiny: Path, tmp_path: Path, table: Data) -> None:
    source = tiny / "models/table/1"
    stripped(source, tmp_path / "table/1", *pages(source))
    made = later_page.add_to_artifact(load(tmp_path / "table/1", device="cpu"), table, tmp_path)
    found = pages(made)
    assert found.keys() == {"points.npz", "sheet.csv"} and found["sheet.csv"] == pages(source)["sheet.csv"]
    with np.load(made / "page/points.npz") as points:
        assert points["means"].shape == (len(table.test), 3)


def test_a_page_that_is_full_gets_a_smaller_sheet(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Data
) -> None:
    source = tiny / "models/vae/1"
    folder = stripped(source, tmp_path / "vae/1", "curves.json", "epochs.png", "epochs.json")
    had = pages(folder)
    limit = sum(map(len, had.values())) + 10
    monkeypatch.setattr(page, "PAGE_BYTES", limit)
    monkeypatch.setattr(page, "curves", lambda log, limit: b"[" + b" " * 1000 + b"]")
    made = later_page.add_to_artifact(load(folder, device="cpu"), digits, tmp_path, runs.open_run(tiny / "runs/vae"))
    found = pages(made)
    assert sum(map(len, found.values())) <= limit and found["points.npz"] == had["points.npz"]
    assert len(found["curves.json"]) == 1002 and 0 < len(found["sheet.png"]) < len(had["sheet.png"])


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        ("mnist-va", "did you mean", 2),
        ("mnist-vae-2d --data creditcard", "data: 'creditcard' has rows, but images are needed", 2),
        ("mnist-vae-2d --data fashion", "unknown data set 'fashion'", 2),
        ("mnist-classifier", "mnist-classifier: it has no page: it neither makes items nor encodes them; it supports /classify", 2),
        ("mnist-vae-2d --run nowhere", "nowhere: there is no such folder", 1),
    ],
)  # fmt: skip
def test_wrong_arguments_are_reported_before_anything_is_made(
    arguments: str, message: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["manifold", "add-page", *arguments.split(), "--models", str(SHIPPED)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert message in capsys.readouterr().err and ended.value.code == status


def test_a_model_without_the_name_of_its_data_needs_one(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED / "mnist-gan", tmp_path / "mnist-gan")
    (path,) = tmp_path.glob("mnist-gan/*/manifest.json")
    stated = manifest.read(path)
    provenance = {key: value for key, value in stated.provenance.items() if key != "data"}
    path.write_text(manifest.dumps(stated.model_copy(update={"provenance": provenance})))
    result = RUN.invoke(cli.app, ["add-page", "mnist-gan", "--models", str(tmp_path)])
    assert isinstance(result.exception, InvalidValue)
    assert "does not state its data set; give it with --data" in str(result.exception)


def test_what_can_be_made_depends_on_the_tasks() -> None:
    def lacking(name: str) -> list[str]:
        folder = repository.locate(SHIPPED / name)
        return later_page.lacking(folder, manifest.read(folder))

    with pytest.raises(UnsupportedTask):
        lacking("mnist-classifier")
    assert page.possible(manifest.read(repository.locate(SHIPPED / "mnist-pixelcnn"))) == ["sheet.png"]
    assert page.possible(manifest.read(repository.locate(SHIPPED / "nslkdd-vae"))) == ["points.npz", "sheet.csv"]


@pytest.mark.parametrize("name", ["mnist-vae-2d", "mnist-autoencoder", "mnist-beta-vae", "mnist-cvae"])
def test_shipped_models_have_their_page(name: str) -> None:
    folder = repository.locate(SHIPPED / name)
    assert later_page.lacking(folder, manifest.read(folder)) == []
    assert sum(map(len, pages(folder).values())) <= page.PAGE_BYTES
