"""Recalibration of a model over HTTP."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from manifold.runtime import repository
from tests.conftest import made_table, wait_until_ready
from tests.keyed import ADMIN_TOKEN, TOKEN, app_with, bearer
from tests.test_bulk import as_csv


def test_an_admin_recalibrates_a_model(tiny: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(tiny / "models" / "table", models / "table")
    rows = as_csv(made_table(300))
    headers = {"Content-Type": "text/csv"}
    with app_with(models, default_model="table") as client:
        wait_until_ready(client)
        path = "/admin/models/table/calibrate"
        assert client.post(path, content=rows, headers={**headers, **bearer(TOKEN)}).status_code == 403
        before = client.get("/models/table", headers=bearer(TOKEN)).json()["version"]
        answer = client.post(path, content=rows, headers={**headers, **bearer(ADMIN_TOKEN)})
        assert answer.status_code == 200, answer.text
        assert answer.json()["version"] == before + 1
        assert "300 rows" in answer.json()["done"]
        request = {"model": "table", "rows": [{"price": 3.0, "weight": 70, "kind": "small", "paid": 1}]}
        scored = client.post("/anomaly-score", json=request, headers=bearer(TOKEN)).json()
        assert (scored["version"], scored["calibration"]["n"]) == (before + 1, 300)
        old = client.post("/anomaly-score", json={**request, "version": before}, headers=bearer(TOKEN)).json()
        assert old["version"] == before
        assert old["calibration"]["id"] != scored["calibration"]["id"]
        for content, kind, status in (
            (b"", "text/csv", 400),
            (rows, "image/png", 415),
            (b"a,b\n1,2\n", "text/csv", 400),
        ):
            answer = client.post(path, content=content, headers={"Content-Type": kind, **bearer(ADMIN_TOKEN)})
            assert answer.status_code == status, answer.text
        assert (
            client.post(
                "/admin/models/none/calibrate", content=rows, headers={**headers, **bearer(ADMIN_TOKEN)}
            ).status_code
            == 404
        )
        assert sorted(path.name for path in (models / "table").iterdir()) == [str(before), str(before + 1)]


def test_models_that_cannot_be_written_stay(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(repository, "staging", read_only)
    with app_with(tiny / "models", default_model="table") as client:
        wait_until_ready(client)
        answer = client.post(
            "/admin/models/table/calibrate", content=as_csv(made_table(300)),
            headers={"Content-Type": "text/csv", **bearer(ADMIN_TOKEN)},
        )  # fmt: skip
        assert answer.status_code == 409
        assert "cannot write into the folder of models" in answer.json()["error"]["message"]
