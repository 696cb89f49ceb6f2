"""The path from a file to a calibrated artifact and back to a scored file, with the commands."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from manifold import cli
from manifold.evaluation import anomaly, peers
from manifold.runtime import checks, manifest
from manifold.runtime.engine import load
from manifold.runtime.errors import InvalidValue, ManifoldError, UnsupportedTask
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.manifest import Calibration, Metric, Scoring, Term
from manifold.runtime.operations import Scores
from manifold.runtime.scores import calibration, measured
from manifold.runtime.scores.scoring import Calibrated
from manifold.runtime.tables.schema import NumericColumn
from manifold.training import runs
from manifold.training.data import Data
from tests import tabled
from tests.conftest import tiny_run
from tests.shared import export, once
from tests.test_tabular import related


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and isinstance(result.exception, ManifoldError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of a folder with a file of 2 500 rows, 60 of them known anomalies, and its fitted model."""
    return shutil.copytree(once("fit", fitted), tmp_path_factory.mktemp("fit"), dirs_exist_ok=True)


def fitted(root: Path) -> None:
    table = related(2500, 0)
    truth = np.zeros(2500, int)
    truth[::42] = 1
    table["c"] = np.where(truth, table["c"] + 6, table["c"])
    table |= {"fraud": truth, "id": np.asarray([f"row-{i}" for i in range(2500)]), "same": np.ones(2500)}
    pa.csv.write_csv(pa.table(table), root / "rows.csv")
    output = run(
        "fit", root / "rows.csv", "--name", "mine", "--truth", "fraud", "--models", root / "models", "--run", root / "run",
        "--html", root / "mine.html", "--quiet", "--set", "epochs=4", "--set", "epoch_steps=40", "--set", "hidden=[32]", "--set", "references=300",
    )  # fmt: skip
    (root / "output").write_text(output)


def test_one_command_publishes_a_calibrated_artifact(folder: Path) -> None:
    model = load(folder / "models/mine", device="cpu")
    assert checks.run_all(model) == []
    spec = model.manifest.spec
    assert list(spec.ignored) == ["fraud", "id"]  # type: ignore[attr-defined]
    assert spec.columns[-1].categories == ("1",)  # type: ignore[attr-defined]
    assert "identifier" in spec.ignored["id"]  # type: ignore[attr-defined]
    recorded = {metric.name: metric for metric in model.manifest.metrics}
    assert recorded["auroc"].value > 0.85
    assert recorded["auroc"].protocol["anomalies"] == 60
    assert {"IForest", "input kNN", "reconstruction"} <= set(recorded["auroc"].protocol["beside"])
    assert recorded["false_positive_rate_at_0.05"].value < 0.12
    said = (folder / "output").read_text()
    assert "(requested 5%)" in said
    assert re.search(r"combined score of the model +(0\.\d{3}|1\.000)", said)
    assert re.search(r"baseline: isolation forest +[01]\.\d{3}", said)
    assert "only 60 anomalies are known" in said
    last = said.splitlines()[-1]
    assert re.search(
        r"mine/1: done; open the report \S+/mine\.html in a browser; next: manifold score ROWS\.csv --model mine --models",
        last,
    )
    assert last.endswith("/models -o SCORES.csv --explain")


def test_the_report_shows_what_was_found(folder: Path) -> None:
    page = (folder / "mine.html").read_text()
    for expected in (
        "False positive rates",
        "Known anomalies",
        "baseline: isolation forest",
        "left out",
        "data:image/png",
        "c = ",
    ):
        assert expected in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_the_report_has_a_part_for_each_question(folder: Path) -> None:
    page, spec = (folder / "mine.html").read_text(), load(folder / "models/mine", device="cpu").manifest.spec
    assert re.findall("<h2>(.*?)</h2>", page) == [
        "False positive rates",
        "Known anomalies",
        "The most anomalous rows",
        "Comparison with other detectors",
        "Columns",
    ]
    heads = [re.findall("<th>(.*?)</th>", table) for table in page.split("<table>")[1:]]
    lists = [head for head in heads if head[0] == "rank: this model"]
    assert all(head[3:6] == ["rank: Mahalanobis distance", "known", "row"] for head in lists)
    assert [head[0] for head in heads if head not in lists] == [
        "requested rate", "score", "score", "score", "detectors", "column",
    ]  # fmt: skip
    assert heads[1] == [
        "score",
        "AUROC (higher is better)",
        "average precision (higher is better)",
        "recall at 1% false positive rate (higher is better)",
        "recall at the calibrated threshold for 1% (higher is better)",
    ]
    assert heads[2] == heads[3] == ["score", "row", "reasons", "all values"]
    for row in (
        "<tr><td>a</td><td>numeric",
        "<tr><td>id</td><td>left out</td>",
        "<tr><td>same</td><td>constant</td><td>1; any other value counts as unknown</td>",
        "(this model&#x27;s score)</td>",
    ):
        assert row in page
    assert isinstance(spec, TableSpec)
    (column,) = (column for column in spec.columns if column.name == "c")
    assert isinstance(column, NumericColumn)
    shown = [float(value) for value in re.findall(r"c = (-?[\d.]+),", page)]
    # the report shows the original rows, although training never saw such values
    assert max(shown) > column.maximum + 1


def test_the_file_that_was_fitted_can_be_scored(folder: Path) -> None:
    """The file still has its id and truth column. The model ignores columns that it does not have, so no preparation is needed."""
    said = run("score", folder / "rows.csv", "--model", "mine", "--models", folder / "models", "-o", folder / "s.parquet", "--budget", 60)  # fmt: skip
    assert "2,500 rows" in said
    assert "60 flagged, 0 invalid" in said
    found = pa.parquet.read_table(folder / "s.parquet").to_pydict()
    truth = pa.csv.read_csv(folder / "rows.csv")["fraud"].to_numpy()
    assert (truth[np.asarray(found["is_anomaly"])] == 1).mean() > 0.4  # only 2.4% of all rows are anomalies
    run(
        "score",
        folder / "rows.csv",
        "--model",
        "mine",
        "--models",
        folder / "models",
        "-o",
        folder / "s.ndjson",
        "--quiet",
    )
    lines = [json.loads(line) for line in (folder / "s.ndjson").read_text().splitlines()]
    assert [line["score"] for line in lines] == found["score"]
    assert not list(folder.glob("s.*rejected.ndjson"))  # other tests write rejected rows


def test_bad_rows_have_a_file_of_their_own(folder: Path) -> None:
    path = folder / "bad.csv"
    path.write_text("a,b,c,kind,size,same\n1,2,3,up,1,1\n1,2,x,up,1,1\n")
    said = run("score", path, "--model", "mine", "--models", folder / "models", "-o", folder / "bad.parquet")
    assert "1 invalid row is not in this file: see" in said
    assert json.loads((folder / "bad.rejected.ndjson").read_text()) == {
        "row": 2, "error": "c: 'x' is not a number; column 'c' is numeric",
    }  # fmt: skip


def test_recalibration_makes_a_new_version(folder: Path, tmp_path: Path) -> None:
    """Rows of another client are noisier. With its own calibration the measured false-alarm rate is the requested one."""
    models = tmp_path / "models"
    models.mkdir()
    shutil.copytree(folder / "models/mine", models / "mine")

    def noisy(seed: int) -> dict[str, np.ndarray]:
        table = related(1000, seed)
        table["c"] = table["c"] + np.random.default_rng(seed).normal(size=1000)
        return {**table, "same": np.ones(1000)}

    pa.csv.write_csv(pa.table(noisy(11)), tmp_path / "own.csv")
    pa.parquet.write_table(pa.table(noisy(12)), tmp_path / "new.parquet")
    scores = (
        "score",
        tmp_path / "new.parquet",
        "--models",
        models,
        "--false-positive-rate",
        0.05,
        "-o",
        tmp_path / "o.parquet",
    )
    run(*scores, "--model", "mine")
    before = np.mean(pa.parquet.read_table(tmp_path / "o.parquet")["is_anomaly"].to_numpy())
    said = run("calibrate", "mine", tmp_path / "own.csv", "--models", models)
    assert "mine/2" in said
    old, new = (measured.of_calibration(manifest.read(models / "mine" / version).metrics) for version in ("1", "2"))
    assert old and not new  # the figures of the old calibration do not apply to the new one
    assert "1000 rows of own.csv" in said
    run(*scores, "--model", "mine")
    after = np.mean(pa.parquet.read_table(tmp_path / "o.parquet")["is_anomaly"].to_numpy())
    assert before > 0.1
    assert after < 0.08
    first, second = (manifest.read(models / "mine" / version) for version in "12")
    assert first.scoring is not None and second.scoring is not None
    assert first.scoring.calibration is not None and second.scoring.calibration is not None
    assert second.scoring.calibration.id != first.scoring.calibration.id
    assert second.scoring.calibration.n == 1000
    assert second.provenance["recalibrated"]["version"] == 1
    assert second.files["score.onnx"] == first.files["score.onnx"]
    assert checks.run_all(load(models / "mine/2", device="cpu")) == []


def test_five_rows_are_too_few(folder: Path, tmp_path: Path) -> None:
    model = load(folder / "models/mine", device="cpu")
    with pytest.raises(InvalidValue, match="5 are too few for a calibration; give at least 20"):
        calibration.recalibrate(model, np.zeros((5, *model.manifest.spec.shape), np.float32), tmp_path, source="five")
    assert not list(tmp_path.glob("*/*"))


IMAGES = ImageSpec(height=2, width=2, channels=1)


def test_scores_that_are_not_finite_are_no_calibration(tmp_path: Path) -> None:
    about = Scoring(score="odd", terms=(Term(name="odd", kind="nll"),))
    for wrong in (np.nan, np.inf):
        scores = Scores({"odd": np.asarray([*np.arange(29.0), wrong])}, None)
        with pytest.raises(InvalidValue, match="rows: odd is not finite for some rows"):
            calibration.write(about, [scores], tmp_path, n=30, source="a test", spec=IMAGES)
    few = Scores({"odd": np.arange(19.0)}, None)
    with pytest.raises(InvalidValue, match="19 are too few for a calibration; give at least 20"):
        calibration.write(about, [few], tmp_path, n=19, source="a test", spec=IMAGES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n", [1, 2, 20, 999, 1000, 1001, 2500, 12345])
def test_figures_of_surprise_are_exact_and_keep_one_value_in_a_thousand(n: int) -> None:
    generator = np.random.Generator(np.random.Philox(n))
    images, numbers = generator.exponential(size=(n, 2, 2)), generator.exponential(size=(n, 3))
    columns = [NumericColumn(name=name, mean=0, scale=1, minimum=0, maximum=1) for name in "abc"]
    rows = TableSpec(columns=tuple(columns))
    for nats, spec in ((images, IMAGES), (numbers, rows), (numbers.astype(np.float32), rows)):
        surprise = calibration.Surprise(n, spec)
        for start in range(0, n, 300):
            surprise.add(nats[start : start + 300])
        expected: dict[str, Any] = {"surprise_scale": float(np.quantile(nats, 0.999))}
        if spec.parts is not None:
            expected["surprise_mean"] = tuple(nats.mean(axis=0).tolist())
        assert surprise.figures() == expected
        assert surprise._largest is not None
        assert len(surprise._largest) <= nats.size * 0.001 + 2
    assert calibration.Surprise(n, IMAGES).figures() == {}


def test_models_without_a_score_are_not_calibrated(tiny: Path, tmp_path: Path) -> None:
    model = load(tiny / "models/vae", device="cpu")
    bare = model.manifest.model_copy(update={"scoring": None})
    model.runner.manifest = bare
    with pytest.raises(UnsupportedTask, match="it has no score"):
        calibration.recalibrate(model, np.zeros((50, 1, 8, 8), np.float32), tmp_path, source="x")


def test_figures_of_a_perfect_and_of_a_reversed_score() -> None:
    labels = np.asarray([False] * 99 + [True])
    found = anomaly.figures(labels, np.arange(100.0))
    assert found == {"auroc": 1.0, "average_precision": 1.0, "found_at_1%": 1.0}
    found = anomaly.figures(labels, -np.arange(100.0))
    assert found == {"auroc": 0.0, "average_precision": 0.01, "found_at_1%": 0.0}


def test_the_share_of_anomalies_that_the_line_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, strange = np.arange(100.0)[:, None], np.asarray([[1000.0], [999.0], [600.0], [3.0]])
    monkeypatch.setattr(peers, "fit", lambda train: {})
    found = anomaly.judge(scorer(np.linspace(0, 100, 500)), rows, rows, strange)
    assert found.terms["a"]["flagged_at_1%"] == 0.75
    assert (found.n, found.anomalies) == (100, 4)


def test_figures_are_recorded_in_place_of_earlier_ones(tmp_path: Path) -> None:
    """Metrics of others stay. Each metric of the score holds the values of the other term and of the peer in its protocol."""
    by_others = Metric(name="auroc", value=0.5, protocol={"by": "someone"})
    terms = [{"name": name, "kind": "nll", "description": "made up"} for name in ("odd", "even")]
    score = tabled.manifest()["tasks"]["score"]
    score["outputs"].append({"role": "even", "shape": []})
    written = tabled.write(
        tmp_path,
        tasks={"score": score},
        scoring={"score": "odd", "terms": terms},
        metrics=[by_others.model_dump(mode="json")],
    )
    model: Any = SimpleNamespace(folder=written)
    for auroc in (0.7, 0.9):
        found = anomaly.Judgement(
            [{"asked": 0.01, "met": 0.02, "expected": [0.0, 0.03]}],
            {"odd": {"auroc": auroc, "flagged_at_1%": 0.5}, "even": {"auroc": 0.8, "flagged_at_1%": 0.25}},
            {"IForest": {"auroc": 0.6}},
            np.ones(100, bool),
            anomalies=4,
        )
        anomaly.record(model, found, "shapes")
    metrics = manifest.read(written).metrics
    assert [(metric.name, metric.value) for metric in metrics] == [
        ("auroc", 0.5), ("false_positive_rate_at_0.01", 0.02), ("auroc", 0.9), ("flagged_at_1%", 0.5),
    ]  # fmt: skip
    assert metrics[2].protocol["beside"] == {"IForest": 0.6, "even": 0.8}
    assert metrics[3].protocol["beside"] == {"even": 0.25}
    assert {key: metrics[1].protocol[key] for key in ("n", "anomalies", "score", "against", "expected")} == {
        "n": 100, "anomalies": 4, "score": "odd", "against": "shapes", "expected": [0.0, 0.03],
    }  # fmt: skip


def scorer(calibration_scores: np.ndarray) -> Any:
    """Return a minimal model for anomaly.judge: its one term is the item itself, calibrated on the given scores."""
    about = Scoring(terms=(Term(name="a", kind="nll", description="the item"),), score="a")
    calibration = Calibration(id="x", n=len(calibration_scores), created="", source="")
    calibrated = Calibrated(calibration, {"a": np.sort(calibration_scores)})
    spec = SimpleNamespace(noun="rows")
    score = SimpleNamespace(name="scorer", manifest=SimpleNamespace(scoring=about, spec=spec), calibrated=calibrated)
    score.score = lambda items: SimpleNamespace(terms={"a": items[:, 0]})
    return score


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--truth", "nothing"), "no column 'nothing'"),
        (("--truth", "size"), "has 2500 values: .*state which rows are anomalies, such as --truth 'size>"),
        (("--column", "a"), "not of the form NAME=VALUE"),
        (("--column", "a=number"), "unknown kind"),
        (("--preset", "huge"), "preset: unknown 'huge'; valid are smoke"),
        (("--column", "z=numeric"), "--column: there is no column 'z'"),
    ],
)
def test_wrong_options_of_fit_are_named(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ManifoldError, match=message):
        run(
            "fit",
            folder / "rows.csv",
            "--name",
            "other",
            "--models",
            folder / "models",
            "--run",
            folder / "other",
            *arguments,
        )


def test_a_run_folder_is_used_once(folder: Path) -> None:
    """A second fit into the same folder is refused before the file is read."""
    with pytest.raises(
        InvalidValue, match=r"run: this folder holds a run already; to train in another folder, use --run .*run-2"
    ):
        run("fit", folder / "absent.csv", "--name", "mine", "--models", folder / "models", "--run", folder / "run")


def test_a_run_of_fit_knows_the_roles_of_its_columns(folder: Path) -> None:
    """A run that Ctrl-C stopped is finished by resume and export: they read the file with the truth, kinds and id of the run."""
    assert runs.open_run(folder / "run").name == "mine"
    data = runs.open_run(folder / "run").load_data()
    fitted = load(folder / "models/mine", device="cpu").manifest
    assert data.spec == fitted.spec
    assert data.protocol == fitted.provenance["data"]
    assert data.anomalies is not None and len(data.anomalies) == 60


def test_wrong_outputs_are_named(folder: Path) -> None:
    score = ("--model", "mine", "--models", folder / "models", "-o")
    with pytest.raises(ManifoldError, match=r"use \.csv, \.parquet, \.ndjson or \.jsonl"):
        run("score", folder / "rows.csv", *score, folder / "x.json")
    with pytest.raises(ManifoldError, match="give only one of them"):
        run("score", folder / "rows.csv", *score, folder / "x.parquet", "--budget", 1, "--false-positive-rate", 0.1)
    with pytest.raises(ManifoldError, match="is not that of a table"):
        run("score", folder / "mine.html", *score, folder / "x.parquet")


def test_images_are_judged_by_another_set(digits: Data, tmp_path: Path) -> None:
    """scikit-learn's digits against white shapes, scored by the model and by its peers. The model card contains all results."""
    made = tiny_run(tmp_path / "run", "vae", digits, latent_dim=3, references=200)
    published = export(made, "small", tmp_path / "models", data=digits, backend="torchscript")
    output = run(
        "judge", "small", "--data", "digits", "--against", "shapes", "--record", "--models", tmp_path / "models"
    )
    assert "baseline: isolation forest" in output
    assert re.search(r"this model, isolation forest +-?[01]\.\d{3}", output)
    plain = run("judge", "small", "--data", "digits", "--models", tmp_path / "models")
    assert re.search(r"this model, nearest neighbours +-?[01]\.\d{3}", plain)
    assert "Number of images that only one detector ranks high: this model" in plain and "page" not in plain
    recorded = {metric.name: metric for metric in load(published, device="cpu").manifest.metrics}
    assert recorded["auroc"].protocol["against"] == "shapes"
    assert {"IForest", "input kNN", "squared_error"} <= set(recorded["auroc"].protocol["beside"])
    assert recorded["auroc"].value > 0.8
    for wrong, message in (
        (("--against", "transactions"), "."),
        (("--html", tmp_path / "page.html"), "the page shows rows of a table"),
    ):
        with pytest.raises(ManifoldError, match=message):
            run("judge", "small", "--data", "digits", *wrong, "--models", tmp_path / "models")


def test_images_of_another_set_are_fitted_to_the_model() -> None:
    """Images of the model's shape keep their pixels, scaled to its range. Other images are converted to grey and resized."""
    spec = ImageSpec(height=4, width=4, channels=1, range=(-1.0, 1.0))
    same = np.arange(48, dtype=np.uint8).reshape(3, 1, 4, 4) * 5
    assert np.allclose(anomaly.fitted(same, spec), same / 127.5 - 1, atol=1e-6)
    colour = (
        np.repeat(np.asarray([[[0]], [[51]], [[255]]], np.uint8)[:, None], 3, axis=1)
        .repeat(8, axis=2)
        .repeat(8, axis=3)
    )
    fitted = anomaly.fitted(colour, spec)
    assert fitted.shape == (3, 1, 4, 4)
    assert np.allclose(fitted, np.asarray([-1, -0.6, 1])[:, None, None, None], atol=1e-2)


def test_what_cannot_be_judged_says_why(folder: Path) -> None:
    with pytest.raises(InvalidValue, match="has images, but rows are needed"):
        run("judge", "mine", "--data", "digits", "--models", folder / "models")
