"""Calibration on a file: known anomalies are excluded, and rows that differ from the old calibration are reported."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifold.runtime import manifest, repository
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import InvalidValue
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.manifest import Calibration
from manifold.runtime.scores import departures, recalibration
from manifold.runtime.scores.recalibration import Done
from manifold.runtime.scores.scoring import Calibrated
from manifold.runtime.tables.truth import Truth
from manifold.runtime.tables.values import FALSE, TRUE
from tests.conftest import made_table, wait_until_ready
from tests.keyed import ADMIN_TOKEN, app_with, bearer
from tests.test_bulk import as_csv, as_parquet

NORMAL = Truth(column="label", test="not in", values=("normal",))
N, ATTACKS = 900, 300


def rows(n: int = N, attacks: int = ATTACKS, names: tuple[str, str] = ("normal", "attack")) -> dict[str, Any]:
    """Return rows of the model's columns. The last ones are attacks with twice the weight."""
    table: dict[str, Any] = made_table(n)
    table["weight"][n - attacks :] += 90
    return {**table, "label": np.asarray([names[0]] * (n - attacks) + [names[1]] * attacks)}


@pytest.fixture(scope="module")
def knowing(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny model of rows as `fit --truth label!=normal` publishes it."""
    root = tmp_path_factory.mktemp("knowing")
    shutil.copytree(tiny / "models/table", root / "table")
    folder = repository.find("table", root)
    made = manifest.read(folder)
    assert isinstance(made.data, TableSpec)
    spec = made.data.model_copy(update={"truth": NORMAL, "ignored": {"label": "says which rows are known anomalies"}})
    repository.save(folder, made.model_copy(update={"data": spec}))
    return root


def calibrated(
    root: Path, into: Path, table: dict[str, Any] | bytes, *, kind: str = "csv", **options: Any
) -> tuple[Model, Done]:
    """Copy the models, and calibrate the one of rows."""
    shutil.copytree(root, into)
    content = table if isinstance(table, bytes) else as_csv(table) if kind == "csv" else as_parquet(table)
    done = recalibration.recalibrate(
        load(into / "table", device="cpu"), io.BytesIO(content), kind, into, name="a file", **options
    )
    return load(done.folder, device="cpu"), done


def found(model: Model) -> float:
    """Return the share of the attacks that are flagged at 1%."""
    table = rows()
    encoded = model.manifest.spec.encode({name: column[-ATTACKS:] for name, column in table.items()}, missing=False)
    assert model.manifest.scoring is not None
    score = model.manifest.scoring.score
    terms = model.calibrated.place(model.score(encoded.data).terms)
    return float((model.calibrated.p_values(score, terms[score]) <= 0.01).mean())


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_known_anomalies_are_left_out_by_the_truth_of_fit(knowing: Path, tmp_path: Path, kind: str) -> None:
    """If anomalies are included in the calibration, attacks are no longer detected. If they are excluded, all are detected."""
    model, done = calibrated(knowing, tmp_path / "models", rows(), kind=kind)
    assert (done.known_anomalies, done.warnings) == (ATTACKS, ())
    assert done.text.startswith(f"calibrated on {N - ATTACKS} rows of a file")
    assert done.text.endswith("0 invalid rows left out, 300 known anomalies left out (label!=normal)")
    assert model.calibrated.n == N - ATTACKS
    assert found(model) == 1
    recorded = model.manifest.provenance["recalibrated"]
    assert (recorded["truth"], recorded["known_anomalies_left_out"]) == ("label!=normal", ATTACKS)
    unlabelled = {name: column for name, column in rows().items() if name != "label"}
    blind, said = calibrated(knowing, tmp_path / "blind", unlabelled, kind=kind)
    assert (blind.calibrated.n, said.known_anomalies) == (N, 0)
    assert found(blind) < 0.05
    distribution, tail, labels = said.warnings
    assert "the file has no column 'label', so known anomalies could not be left out" in labels
    assert "differ from the old calibration: the distributions of combined differ by 0.3" in distribution
    assert re.match(r"3\d\.\d% of the rows are above the old threshold for [15]%", tail)
    assert blind.manifest.provenance["recalibrated"]["warnings"] == [distribution, tail]


@pytest.mark.parametrize(
    ("stated", "names", "known"),
    [
        ("label==attack", ("normal", "attack"), ATTACKS),
        ("label", ("normal", "attack"), ATTACKS),
        ("label in attack, worm", ("normal", "attack"), ATTACKS),
        ("label!=normal", ("normal", "attack"), ATTACKS),
        ("weight>120", ("normal", "normal"), ATTACKS),
        ("label", ("no", "yes"), ATTACKS),
        ("label", ("0", "1"), ATTACKS),
        ("label==other", ("normal", "normal"), 0),
    ],
)
def test_a_truth_is_given_anew(tiny: Path, tmp_path: Path, stated: str, names: tuple[str, str], known: int) -> None:
    """The model has no truth. The new one may be a column that it was trained on."""
    table = {**rows(names=names)}
    root = tmp_path / "root"
    shutil.copytree(tiny / "models/table", root / "table")
    model, done = calibrated(root, tmp_path / "models", table, stated=stated)
    assert (done.known_anomalies, model.calibrated.n) == (known, N - known)


def test_a_column_alone_means_the_rule_of_fit(knowing: Path, tmp_path: Path) -> None:
    """Attacks are the more frequent value in this file."""
    _, done = calibrated(knowing, tmp_path / "models", rows(900, 600), stated="label")
    assert done.known_anomalies == 600


def test_rows_without_a_label_are_kept_and_counted(knowing: Path, tmp_path: Path) -> None:
    table = rows()
    table["label"] = table["label"].astype(object)
    table["label"][:50] = ""
    model, done = calibrated(knowing, tmp_path / "models", table)
    assert done.text.endswith("300 known anomalies left out (label!=normal), 50 unlabelled rows kept")
    assert model.calibrated.n == N - ATTACKS


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (rows(100, 100), {}, r"all 100 rows are known anomalies .label!=normal.; give a file with normal rows"),
        (rows(100, 90), {}, "10 are too few for a calibration"),
        (rows(), {"stated": "fraud"}, "there is no column 'fraud'; the file has 'price'"),
        (rows(), {"stated": "kind"}, "has 3 values"),
        ({**rows(), "label": np.asarray(["normal"] * (N - 1) + ["?!"])}, {"stated": "label>1"}, "which is not a number"),
        ({k: v for k, v in rows().items() if k != "label"}, {"strict": True}, r"differ from .* Nothing was published"),
    ],
)  # fmt: skip
def test_files_that_are_refused(
    knowing: Path, tmp_path: Path, given: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    before = sorted(path.name for path in (knowing / "table").iterdir())
    with pytest.raises(InvalidValue, match=message):
        calibrated(knowing, tmp_path / "models", given, **options)
    assert sorted(path.name for path in (tmp_path / "models/table").iterdir()) == before


def test_a_value_that_fit_did_not_see_is_an_error(knowing: Path, tmp_path: Path) -> None:
    """The truth was given as a column alone, so the meaning of a third value is unknown."""
    root = tmp_path / "root"
    shutil.copytree(knowing, root)
    folder = repository.find("table", root)
    made = manifest.read(folder)
    assert isinstance(made.data, TableSpec)
    boolean = Truth(column="label", test="in", values=TRUE, others=FALSE)
    repository.save(folder, made.model_copy(update={"data": made.data.model_copy(update={"truth": boolean})}))
    with pytest.raises(InvalidValue, match="column 'label' has the value 'maybe', but the rule covers only '1'"):
        calibrated(root, tmp_path / "models", rows(names=("no", "maybe")))
    _, done = calibrated(root, tmp_path / "others", rows(names=("no", "yes")))
    assert done.known_anomalies == ATTACKS


# --- unusual rows ---


def old(scores: np.ndarray) -> Calibrated:
    return Calibrated(Calibration(id="x", n=len(scores), created="", source=""), {"a": np.sort(scores)})


def test_rows_like_the_old_ones_give_no_warning() -> None:
    """None of 200 pairs of large and small samples gives a warning."""
    generator = np.random.Generator(np.random.Philox(0))
    sizes = [(50, 40), (1000, 1000), (300, 5000), (5000, 30)]
    for n, m in sizes * 50:
        assert departures.warnings(old(generator.normal(size=n)), "a", generator.normal(size=m)) == []


@pytest.mark.parametrize(
    ("n", "shift", "anomalies", "warned"),
    [
        (1000, 0.0, 0, ""),
        (1000, 0.1, 0, ""),  # significant with so many rows, but small
        (200_000, 0.1, 0, ""),
        (1000, 0.25, 0, "d"),
        (1000, 0.0, 60, "t"),  # too few rows to move the distribution
        (1000, 0.0, 300, "dt"),
        (1000, 1.5, 0, "dt"),
        (1000, -1.0, 0, "d"),  # rows that are more usual than the old calibration also differ from it
        (60, 0.0, 2, ""),  # with so few rows this may be chance
    ],
)  # fmt: skip
def test_what_is_warned_of(n: int, shift: float, anomalies: int, warned: str) -> None:
    generator = np.random.Generator(np.random.Philox(1))
    new = np.concatenate([generator.normal(shift, 1, n - anomalies), generator.normal(8, 1, anomalies)])
    found = departures.warnings(old(generator.normal(size=4000)), "a", new)
    kinds = ["differ from the old calibration", "are above the old threshold for 1%"]
    assert [[text in warning for text in kinds].index(True) for warning in found] == ["dt".index(w) for w in warned]


def test_a_small_calibration_resolves_a_line_for_five_percent() -> None:
    generator = np.random.Generator(np.random.Philox(2))
    new = np.concatenate([generator.normal(size=100), np.full(40, 9.0)])
    assert (
        "30.0% of the rows are above the old threshold for 5%"
        in departures.warnings(old(np.linspace(-2, 2, 40)), "a", new)[-1]
    )
    # 15 old rows resolve neither threshold
    assert "beyond" not in str(departures.warnings(old(np.linspace(-2, 2, 15)), "a", new))


def test_without_an_old_calibration_there_is_nothing_to_compare() -> None:
    assert departures.warnings(Calibrated(None, {}), "a", np.arange(100.0)) == []
    assert departures.warnings(old(np.arange(100.0)), "a", np.zeros(0)) == []


def test_warnings_speak_of_the_items_of_the_model() -> None:
    moved, tail = departures.warnings(old(np.linspace(-2, 2, 4000)), "a", np.full(300, 3.0), "images")
    assert moved.startswith("the images differ from") and "the folder contains the right images" in moved
    assert (
        "of the images are above the old threshold" in tail
        and "the folder may contain" in tail
        and "--truth" not in tail
    )


# --- over HTTP ---


def test_an_admin_sees_what_was_left_out_and_warnings(knowing: Path, tmp_path: Path) -> None:
    shutil.copytree(knowing, tmp_path / "models")
    headers = {"Content-Type": "text/csv", **bearer(ADMIN_TOKEN)}
    blind = {name: column for name, column in rows().items() if name != "label"}
    with app_with(tmp_path / "models", default_model="table") as client:
        wait_until_ready(client)
        path = "/admin/models/table/calibrate"
        answer = client.post(path, content=as_csv(rows()), headers=headers).json()
        assert (answer["known_anomalies"], answer["warnings"]) == (ATTACKS, [])
        refused = client.post(path, content=as_csv(blind), headers=headers, params={"strict": "true"})
        assert refused.status_code == 422
        assert "Nothing was published" in refused.json()["error"]["message"]
        stated = client.post(path, content=as_csv(blind), headers=headers, params={"truth": "weight>120"}).json()
        assert (stated["known_anomalies"], stated["version"]) == (ATTACKS, answer["version"] + 1)
        wrong = client.post(path, content=as_csv(blind), headers=headers, params={"truth": "label!=normal"})
        assert (wrong.status_code, wrong.json()["error"]["field"]) == (422, "truth")
        warned = client.post(path, content=as_csv(blind), headers=headers).json()
        distribution, tail, labels = warned["warnings"]
        assert "differ from the old calibration" in distribution and "above the old threshold" in tail
        assert "no column 'label'" in labels
        assert warned["version"] == stated["version"] + 1


def test_an_admin_states_only_options_that_there_are(knowing: Path, tmp_path: Path) -> None:
    shutil.copytree(knowing, tmp_path / "models")
    headers = {"Content-Type": "text/csv", **bearer(ADMIN_TOKEN)}
    with app_with(tmp_path / "models", default_model="table") as client:
        wait_until_ready(client)
        for query, status, field in (
            ("truht=label", 422, "truht"), ("truth=", 422, "truth"), ("truth=a&truth=b", 400, "truth"), ("strict=yes", 422, "strict"),
            ("strict=1", 422, "strict"), ("strict=", 422, "strict"), ("truth=7&strict=true", 422, "truth"),
        ):  # fmt: skip
            path = f"/admin/models/table/calibrate?{query}"
            answer = client.post(path, content=as_csv(rows(30, 0)), headers=headers)
            assert (answer.status_code, answer.json()["error"]["field"]) == (status, field), query
