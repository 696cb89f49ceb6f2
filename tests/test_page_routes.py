"""The routes for the files that an artifact has for pages: their content, their caching, and their errors."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from manifold import cli
from manifold.evaluation import catalogue
from manifold.runtime import figures, manifest, repository
from manifold.runtime.errors import ArtifactError
from manifold.service.http.app import create_app
from manifold.service.models import featured
from manifold.service.settings import Settings
from tests import keyed
from tests.conftest import SHIPPED, wait_until_ready

NAME = "mnist-vae"
KEPT, CHECKED = "private, max-age=31536000, immutable", "private, no-cache"


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(Settings(models_dir=SHIPPED, default_model=NAME, lazy=True))) as client:
        wait_until_ready(client)
        yield client


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Return a folder of models with a copy of one artifact, without checksums of the files for pages, so that a test may change them."""
    folder = tmp_path / NAME / "1"
    shutil.copytree(repository.find(NAME, SHIPPED), folder)
    stated = json.loads((folder / manifest.FILE).read_text())
    stated["version"] = 1
    stated["files"] = {name: record for name, record in stated["files"].items() if not name.startswith("page/")}
    (folder / manifest.FILE).write_text(json.dumps(stated))
    return tmp_path


def summaries(client: TestClient) -> dict[str, dict[str, Any]]:
    return {model["name"]: model for model in client.get("/models").json()["models"]}


def test_points_are_those_of_the_file(client: TestClient) -> None:
    answer = client.get(f"/models/{NAME}/points").json()
    with np.load(repository.find(NAME, SHIPPED) / "page/points.npz") as stored:
        means = stored["means"].astype(np.float64)
        assert answer["labels"] == stored["labels"].tolist()
    found = np.array(answer["means"])
    assert np.array_equal(found.astype(np.float16), means.astype(np.float16))
    assert answer["shape"] == [20]
    np.testing.assert_allclose(answer["spread"], means.std(axis=0), atol=1e-6)
    assert np.all(np.diff(np.array(answer["spread"])[answer["active"]]) <= 0)
    projection = answer["projection"]
    components = np.array(projection["components"])
    np.testing.assert_allclose(components @ components.T, np.eye(2), atol=1e-4)
    placed = (means - projection["mean"]) @ components.T
    # principal components: uncorrelated, and with the stated shares of the variance
    np.testing.assert_allclose(np.cov(placed.T)[0, 1], 0, atol=1e-3)
    np.testing.assert_allclose(placed.var(axis=0) / means.var(axis=0).sum(), projection["explained"], atol=1e-4)
    assert projection["explained"][0] >= projection["explained"][1]


def test_curves_have_a_loss_for_each_step(client: TestClient) -> None:
    for phase in client.get(f"/models/{NAME}/curves").json()["phases"]:
        assert phase["losses"] and all(len(losses) == len(phase["steps"]) for losses in phase["losses"].values())


@pytest.mark.parametrize("name", ["preview.png", "points", "curves", "sheet"])
def test_browsers_keep_files_by_their_checksum(client: TestClient, name: str) -> None:
    """JSON is computed from a file, so that it may differ after an upgrade: browsers ask whether it has changed."""
    computed = name in ("points", "curves")
    checksum = summaries(client)[NAME]["files"][name.removesuffix(".png")]
    first = client.get(f"/models/{NAME}/{name}", params={"checksum": checksum})
    assert (first.status_code, first.headers["cache-control"]) == (200, CHECKED if computed else KEPT)
    assert client.get(f"/models/{NAME}/{name}").headers["cache-control"] == CHECKED
    assert client.get(f"/models/{NAME}/{name}", params={"checksum": "0" * 64}).headers["cache-control"] == CHECKED
    again = client.get(f"/models/{NAME}/{name}", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert client.get(f"/models/{NAME}/{name}", headers={"if-none-match": '"0"'}).content == first.content
    assert first.headers["etag"] == f'"{hashlib.sha256(first.content).hexdigest()}"'
    assert computed or first.headers["etag"] == f'"{checksum}"'


def test_what_an_artifact_lacks_is_not_found(client: TestClient) -> None:
    files = summaries(client)["mnist-classifier"]["files"]
    assert files.keys() == {"preview"}
    for name in ("points", "curves", "sheet", "epochs"):
        answer = client.get(f"/models/mnist-classifier/{name}")
        assert answer.status_code == 404 and "mnist-classifier has no" in answer.json()["error"]["message"]
    assert client.get("/models/nobody/points").status_code == 404
    assert client.get(f"/models/{NAME}/points", params={"version": 99}).status_code == 404


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("points", "page/points.npz", b"no archive"),
        ("curves", "page/curves.json", b"["),
        ("curves", "page/curves.json", b'[{"phase": "a", "steps": [1], "losses": {"train/loss": [1, 2]}}]'),
        ("curves", "page/curves.json", b'[{"phase": "a", "steps": 1}]'),
        ("sheet", "page/sheet.png", b"no picture"),
        ("sheet", "page/sheet.png", b"\x89PNG\r\n\x1a\n" + bytes(17 * 2**20)),
        ("curves", "page/epochs.json", b'["one"]'),
    ],
)  # fmt: skip
def test_damaged_files_are_clear_errors(copied: Path, name: str, file: str, content: bytes) -> None:
    (copied / NAME / "1" / file).write_bytes(content)
    with TestClient(create_app(Settings(models_dir=copied))) as client:
        wait_until_ready(client)
        answer = client.get(f"/models/{NAME}/{name}")
        assert answer.status_code == 503 and Path(file).name in answer.json()["error"]["message"]
        assert client.post("/sample", json={}).status_code == 200  # the model itself is served


def test_latents_of_another_size_are_a_clear_error(copied: Path) -> None:
    np.savez(copied / NAME / "1/page/points.npz", means=np.zeros((5, 3), np.float16), labels=np.zeros(5, np.int16))
    with TestClient(create_app(Settings(models_dir=copied))) as client:
        wait_until_ready(client)
        assert "3 values per item" in client.get(f"/models/{NAME}/points").json()["error"]["message"]


def test_summaries_state_figures_data_and_versions(client: TestClient) -> None:
    listed = summaries(client)
    model = listed[NAME]
    described = manifest.read(repository.find(NAME, SHIPPED))
    assert model["dataset"] == "mnist" and model["versions"] == [described.version] and model["temperature"]
    assert model["figures"] == figures.stated(described)
    assert {figure["better"] for figure in model["figures"]} <= {"lower", "higher", None}
    assert not any(arrow in figure["text"] for figure in model["figures"] for arrow in "↓↑")
    assert model["figures"][0]["better"] == "lower" and "Fréchet distance" in model["figures"][0]["text"]
    assert not listed["mnist-classifier"]["temperature"]
    places = {each["name"]: each["featured"] for each in listed.values() if each["featured"]}
    assert sorted(places.values()) == [1, 2, 3, 4, 5, 6] and places["mnist-flow"] == 1


@pytest.mark.parametrize("content", ["{", "{}", '["../x"]', '["a", "a"]', "[1]"])
def test_an_invalid_list_of_featured_models_is_ignored(tmp_path: Path, content: str) -> None:
    (tmp_path / "featured.json").write_text(content)
    assert featured.places(tmp_path) == {}


def test_figures_are_those_of_the_catalogue(client: TestClient) -> None:
    for name, model in summaries(client).items():
        described = manifest.read(repository.find(name, SHIPPED))
        marked = "; ".join(catalogue.figures(described))
        for figure in model["figures"]:
            value = (
                figure["text"].partition(" (")[0].rpartition(": ")[2]
            )  # without notes and what several figures are about
            assert value in marked, name
        assert len(model["figures"]) >= len(catalogue.figures(described))
        first = model["figures"][0]["text"].partition(" (")[0]
        assert catalogue.headline(described).startswith(first), name


def test_a_file_that_is_not_that_of_the_manifest_is_a_clear_error(tmp_path: Path) -> None:
    folder = tmp_path / NAME / "1"
    shutil.copytree(repository.find(NAME, SHIPPED), folder)
    stated = json.loads((folder / manifest.FILE).read_text())
    (folder / manifest.FILE).write_text(json.dumps({**stated, "version": 1}))
    with TestClient(create_app(Settings(models_dir=tmp_path, watch_seconds=0))) as client:
        wait_until_ready(client)
        assert client.get(f"/models/{NAME}/sheet").status_code == 200
        (folder / "page/sheet.png").write_bytes((folder / "preview.png").read_bytes())
        answer = client.get(f"/models/{NAME}/sheet")
        assert answer.status_code == 503 and "checksum in the manifest" in answer.json()["error"]["message"]


def test_files_without_a_checksum_in_the_manifest_have_one_in_the_summary(copied: Path) -> None:
    folder = copied / NAME / "1"
    (folder / "page/epochs.png").write_bytes((folder / "page/sheet.png").read_bytes())
    (folder / "page/epochs.json").write_text("[1, 5]")
    with TestClient(create_app(Settings(models_dir=copied))) as client:
        wait_until_ready(client)
        files = summaries(client)[NAME]["files"]
        assert files["points"] == hashlib.sha256((folder / "page/points.npz").read_bytes()).hexdigest()
        assert files["epochs"] == files["sheet"]
        kept = client.get(f"/models/{NAME}/epochs", params={"checksum": files["epochs"]})
        assert (kept.headers["cache-control"], kept.headers["content-type"]) == (KEPT, "image/png")
        assert client.get(f"/models/{NAME}/curves").json()["epochs"] == [1, 5]


def test_files_need_a_key(copied: Path) -> None:
    with keyed.app_with(copied, default_model=NAME) as client:
        wait_until_ready(client)
        for name in ("preview.png", "points", "curves", "sheet", "epochs"):
            assert client.get(f"/models/{NAME}/{name}").status_code == 401
        assert client.get(f"/models/{NAME}/points", headers=keyed.bearer(keyed.TOKEN)).status_code == 200


def test_an_invalid_list_of_featured_models_stops_the_catalogue(copied: Path, tmp_path: Path) -> None:
    (copied / "featured.json").write_text('["mnist-vae", 3]')
    page = tmp_path / "page.md"
    done = CliRunner().invoke(cli.app, ["catalogue", "--models", str(copied), "--page", str(page)])
    assert isinstance(done.exception, ArtifactError) and "3 is not the name of a model" in str(done.exception)
    assert not page.exists()
    assert repository.survey(copied).versions.keys() == {NAME}  # the file is no model
    assert not repository.survey(copied).unreadable
