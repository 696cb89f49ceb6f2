"""Files of rows from `fit` to its report and to a second evaluation: the state of each row, its number in the file, and its own values."""

from __future__ import annotations

import html
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from manifold.evaluation import agreement, anomaly, file_rows, peers, shown_rows
from manifold.runtime.engine import load
from manifold.runtime.errors import InvalidValue, ManifoldError
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.scores import measured
from manifold.runtime.tables.schema import NumericColumn
from manifold.runtime.tables.truth import Truth
from manifold.training import export as exporting
from manifold.training import judging
from manifold.training.data import Arrays, tables
from manifold.training.data.schema import ColumnSettings
from manifold.training.data.tables import Roles
from manifold.training.errors import DataError, TrainingError
from tests.conftest import made_table
from tests.shared import once
from tests.test_fit import run, scorer

SMALL = ("--set", "epochs=2", "--set", "epoch_steps=20", "--set", "hidden=[16]", "--set", "references=200", "--quiet")
FIRST = 2**53 + 1


def written(path: Path, n: int = 2400, seed: int = 0, unlabelled: int = 200) -> dict[str, list[Any]]:
    """Write a file of rows in which every 40th row is an attack and the first rows have no label. Return its columns."""
    generator = np.random.default_rng(seed)
    a = generator.normal(size=n)
    attack = np.arange(n) % 40 == 39
    b = 2 * a + 0.3 * generator.normal(size=n) + np.where(attack, 9, 0)
    labels = ["" if i < unlabelled else "worm" if attack[i] else "Normal" for i in range(n)]
    table: dict[str, list[Any]] = {
        "order": [FIRST + i for i in range(n)], "shop": [f"00{i % 9}" for i in range(n)], "a": [f"{x:.9f}" for x in a],
        "b": [f"{x:.9f}" for x in b], "way": generator.choice(["up", "down"], n).tolist(), "label": labels,
    }  # fmt: skip
    lines = (",".join(str(column[i]) for column in table.values()) for i in range(n))
    path.write_text("\n".join([",".join(table), *lines]) + "\n")
    return table


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of two fits of the same file: one with known anomalies, and one without."""
    return shutil.copytree(once("judged-files", fitted), tmp_path_factory.mktemp("judged"), dirs_exist_ok=True)


def fitted(root: Path) -> None:
    written(root / "rows.csv")
    with pytest.MonkeyPatch.context() as patch:  # no test here needs an ONNX graph
        patch.setattr(exporting, "export", partial(exporting.export, backend="torchscript"))
        fit_both(root)


def fit_both(root: Path) -> None:
    common = ("--models", root / "models", *SMALL)
    roles = ("--truth", "label!=normal", "--id", "order", "--keep", "shop")
    said = run(
        "fit", root / "rows.csv", "--name", "mine", *roles, "--run", root / "run", "--html", root / "mine.html", *common
    )
    (root / "mine.txt").write_text(said)
    said = run(
        "fit", root / "rows.csv", "--name", "blind", "--column", "label=ignore", "--column", "order=ignore",
        "--run", root / "blind", "--html", root / "blind.html", *common,
    )  # fmt: skip
    (root / "blind.txt").write_text(said)


def cells(page: str, heading: str) -> list[list[str]]:
    """Return the texts of the table below a heading, without its header row."""
    table = page.split(f">{heading}</h3>")[1].split("</table>")[0]
    return [
        [html.unescape(re.sub("<.*?>", "", cell)) for cell in re.findall("<td>(.*?)</td>", row)]
        for row in table.split("<tr>")[2:]
    ]


def test_the_manifest_records_the_roles_of_columns(folder: Path) -> None:
    model = load(folder / "models/mine", device="cpu")
    spec = model.manifest.spec
    assert isinstance(spec, TableSpec)
    assert spec.names == ["a", "b", "way"]
    assert spec.truth == Truth(column="label", test="not in", values=("normal",))
    assert (spec.id, spec.passed) == ("order", ("shop",))
    assert set(spec.ignored) == {"order", "shop", "label"}
    assert "known anomalies" in spec.ignored["label"]
    protocol = model.manifest.provenance["data"]
    assert {key: protocol[key] for key in ("truth", "id", "passed")} == {
        "truth": "label!=normal", "id": "order", "passed": ["shop"],
    }  # fmt: skip


def test_what_is_printed_claims_false_alarms_of_normal_rows_only(folder: Path) -> None:
    said = (folder / "mine.txt").read_text()
    assert "truth: 200 of 2400 rows have no value in 'label'; they are unlabelled" in said
    normal = re.findall(
        r"False positive rate on (\d+) held-out rows that are known to be normal: [\d.]+% \(requested [\d.]+%\)", said
    )
    unlabelled = re.findall(r"Share of (\d+) unlabelled held-out rows that is flagged: [\d.]+% \(requested", said)
    assert len(set(normal)) == len(set(unlabelled)) == 1
    assert int(normal[0]) + int(unlabelled[0]) == 235  # a tenth of the 2345 rows that are no known anomalies
    assert int(unlabelled[0]) < 40
    blind = (folder / "blind.txt").read_text()
    assert "alse positive" not in blind
    assert "Share of 240 unlabelled held-out rows" in blind


def test_the_report_shows_the_rows_of_the_file(folder: Path) -> None:
    """Three lists show each row with its number, id and original values."""
    page = (folder / "mine.html").read_text()
    table = {name: [str(value) for value in column] for name, column in written(folder / "again.csv").items()}
    seen = []
    for heading, label in (("Known anomalies", "worm"), ("Rows known to be normal", "Normal"), ("Unlabelled rows", "")):
        rows = cells(page, heading)
        assert len(rows) == 10
        scores = [float(row[0]) for row in rows]
        assert scores == sorted(scores, reverse=True)
        for _, number, order, shop, because, values in rows:
            at = int(number) - 1
            assert (order, shop, label) == (str(FIRST + at), table["shop"][at], table["label"][at])
            assert values == "show" + ", ".join(f"{name} = {table[name][at]}" for name in ("a", "b", "way"))
            for name, value in re.findall(r"(\w+) = (\S+), expected", because):
                assert value == table[name][at]
            seen.append(number)
    assert len(set(seen)) == 30
    assert "55 rows (label!=normal), which were not used in training." in page


def test_the_report_of_unlabelled_rows_claims_no_false_alarms(folder: Path) -> None:
    page = (folder / "blind.html").read_text()
    assert re.findall("<h[23]>(.*?)</h[23]>", page) == [
        "Flagged among unlabelled rows",
        "The most anomalous rows",
        "Unlabelled rows",
        "Comparison with other detectors",
        "Rows that only one detector ranks high",
        "Columns",
    ]
    assert "false alarm" not in page.lower() and "false positive" not in page.lower()
    assert "Labels are needed to tell which." in page
    metrics = {metric.name for metric in load(folder / "models/blind", device="cpu").manifest.metrics}
    assert "flagged_unlabelled_at_0.05" in metrics
    assert not [name for name in metrics if name.startswith("false_positive")]


@pytest.mark.parametrize("name", ["mine", "blind"])
def test_rows_that_only_one_detector_ranks_high_are_those_of_the_file(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its ranks, its number, id and copied column, and its values; what is known is stated if there are labels."""
    monkeypatch.setattr(agreement, "FAR", 1)  # so that there are some
    model = load(folder / "models" / name, device="cpu")
    data = tables.of_model(model, folder / "rows.csv")
    found = judging.judge(model, data, html=tmp_path / "page.html").agreement
    assert found is not None and data.rows is not None and sum(found.sizes.values()) > 0
    numbers, table = np.concatenate([data.rows.test, data.rows.anomalies]), written(tmp_path / "again.csv")
    page = (tmp_path / "page.html").read_text()
    for detector, only in ((each, found.only(each)[:10]) for each in found.ranks):
        title = f"Only {peers.NAMES.get(detector, detector)}: {found.sizes[detector]} of {found.n} rows"
        shown = cells(page.replace("h4>", "h3>"), title) if len(only) else []
        for place, row in zip(only, shown, strict=True):
            at = int(numbers[place]) - 1
            expected = [*(str(ranks[place]) for ranks in found.ranks.values())]
            if name == "mine":
                known = {"": "unlabelled", "worm": "anomaly"}.get(table["label"][at], "normal")
                expected += [known, str(at + 1), str(FIRST + at), table["shop"][at]]
            else:
                expected.append(str(at + 1))
            assert row[: len(expected)] == expected
            assert f"a = {table['a'][at]}, b = {table['b'][at]}" in row[-1]
    said = (folder / f"{name}.txt").read_text()
    recorded = {metric.name: metric.value for metric in model.manifest.metrics}
    for each, peer in peers.NAMES.items():
        value = found.correlations["this model", each]
        assert value is not None and re.search(rf"this model, {peer} +{value:.3f}", said)
        assert recorded[anomaly.correlation_name(each)] == pytest.approx(value, rel=1e-5)


def test_judging_again_needs_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`judge` finds the file by the name in the manifest, and the file must have the same content."""
    judge = ("judge", "mine", "--models", folder / "models")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InvalidValue,
        match=r"was fitted to 'rows.csv' .SHA-256 \w{12}….*not in the current folder; .*judge \S+/models/mine/\d+ --data FOLDER/rows.csv",
    ):
        run(*judge)
    written(tmp_path / "rows.csv", seed=1)
    with pytest.raises(InvalidValue, match="the file with this name in the current folder has other content"):
        run(*judge)
    monkeypatch.chdir(folder)
    figures = [
        line
        for line in (folder / "mine.txt").read_text().splitlines()
        if re.match(r"False positive|Share|Detection|  .*\d\.\d{3}$", line)
    ]
    assert len(figures) > 5
    assert [line for line in run(*judge).splitlines() if line in figures] == figures


def grown(folder: Path, root: Path, n: int) -> Path:
    """Write the fitted file with n more rows, the first one invalid, and return its path."""
    path = root / "grown.csv"
    written(root / "more.csv", n - 1, seed=5, unlabelled=0)
    path.write_text(
        (folder / "rows.csv").read_text() + "1,x,much,0,up,Normal\n" + (root / "more.csv").read_text().split("\n", 1)[1]
    )
    return path


def test_a_file_that_has_grown_is_judged_without_the_rows_that_were_learned_from(folder: Path, tmp_path: Path) -> None:
    model, path = load(folder / "models/mine", device="cpu"), grown(folder, tmp_path, 101)
    data, plain = tables.of_model(model, path), tables.of_model(model, folder / "rows.csv")
    assert data.rows is not None and plain.rows is not None
    for now, before in ((data.rows.test, plain.rows.test), (data.rows.anomalies, plain.rows.anomalies)):
        assert now[now <= 2400].tolist() == sorted(before.tolist())
    assert sorted([*data.rows.test, *data.rows.anomalies])[-100:] == list(range(2402, 2502))
    assert [len(part) for part in (data.train, data.calibration)] == [len(part) for part in (plain.train, plain.calibration)]  # fmt: skip
    assert data.folds == 0
    said = run("judge", "mine", "--models", folder / "models", "--data", path)
    assert "100 of the rows were appended to grown.csv after mine was fitted to it: they are evaluated too" in said
    assert re.search(r"on \d+ held-out rows that are known to be normal", said)
    shutil.copy(path, tmp_path / "rows.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert "100 of the rows were appended to rows.csv" in run("judge", "mine", "--models", folder / "models")


@pytest.mark.parametrize("n", [0, 40])
def test_rows_that_were_learned_from_are_no_calibration(folder: Path, tmp_path: Path, n: int) -> None:
    """The fitted file, as it is and with appended rows."""
    path = grown(folder, tmp_path, n) if n else folder / "rows.csv"
    shutil.copytree(folder / "models", tmp_path / "models")
    calibrate = ("calibrate", "mine", path, "--models", tmp_path / "models")
    with pytest.raises(InvalidValue, match=r"the model was trained on some of these rows.*--strict was given"):
        run(*calibrate, "--strict")
    assert "warning: the model was trained on some of these rows, so more normal rows" in run(*calibrate)
    found = measured.of(load(tmp_path / "models/mine", device="cpu").manifest)
    assert found.shift == "the model was trained on some of the calibration rows"
    written(tmp_path / "new.csv", 400, seed=3, unlabelled=0)
    assert "warning: the model was trained" not in run("calibrate", "mine", tmp_path / "new.csv", "--models", tmp_path / "models")  # fmt: skip


def test_another_file_is_judged_whole(folder: Path, tmp_path: Path) -> None:
    """The file contains no training rows, so there are no peers. An invalid row is left out and reported."""
    written(tmp_path / "new.csv", 800, seed=2, unlabelled=0)
    with (tmp_path / "new.csv").open("a") as file:
        file.write("1,x,much,0,up,Normal\n")
    said = run(
        "judge", "mine", "--models", folder / "models", "--data", tmp_path / "new.csv", "--html", tmp_path / "new.html"
    )
    assert "on 780 rows that are known to be normal" in said
    assert "note: new.csv: 1 rows could not be read and are left out (row 801: a: 'much' is not a number" in said
    assert "note: new.csv is not the file to which mine was fitted: all its rows are evaluated" in said
    assert re.search(r"combined score of the model +(0\.9|1\.0)", said)
    assert "baseline" not in said and "rank correlation" not in said
    assert "There is no comparison with other detectors, because they are fitted to the training rows" in said
    page = (tmp_path / "new.html").read_text()
    assert len(cells(page, "Known anomalies")) == 10
    assert "Comparison with other detectors" not in page and "There is no comparison with other detectors" in page


def test_a_truth_for_another_file_is_given(folder: Path, tmp_path: Path) -> None:
    written(tmp_path / "new.csv", 400, seed=3, unlabelled=0)
    judge = ("judge", "blind", "--models", folder / "models", "--data", tmp_path / "new.csv")
    assert "Share of 400 unlabelled rows" in run(*judge)
    assert "on 390 rows that are known to be normal" in run(*judge, "--truth", "label==worm")
    with pytest.raises(InvalidValue, match="no column 'fraud'"):
        run(*judge, "--truth", "fraud")
    with pytest.raises(
        DataError,
        match="no row is left for evaluation, as all 400 rows that were not used in training are known anomalies",
    ):
        run(*judge, "--truth", "order>0")


def test_another_truth_for_the_fitted_file_judges_no_row_that_was_learned_from(folder: Path) -> None:
    """The split is that of `fit`. Only attacks in the held-out tenth are scored, not all 55."""
    model = load(folder / "models/blind", device="cpu")
    data = tables.of_model(model, folder / "rows.csv", "label==worm")
    plain = tables.of_model(model, folder / "rows.csv")
    assert data.rows is not None and plain.rows is not None and data.anomalies is not None
    assert sorted([*data.rows.test, *data.rows.anomalies]) == sorted(plain.rows.test)
    assert 0 < len(data.anomalies) < 20
    assert len(data.train) == len(plain.train) == 1920
    assert set(data.rows.anomalies % 40) == {0}


def test_data_sets_have_their_own_anomalies(folder: Path) -> None:
    with pytest.raises(InvalidValue, match="--truth: it is only for files of rows"):
        run("judge", "mine", "--models", folder / "models", "--data", "ring", "--truth", "label")


def test_parquet_is_shown_as_it_is(tmp_path: Path) -> None:
    table = {"a": [0.1, 1 / 3, None], "k": ["x", "y", "x"], "n": [2**60 + 1, 2, 3]}
    pa.parquet.write_table(pa.table(table), tmp_path / "t.parquet")
    spec = TableSpec.model_validate({
        "columns": [{"kind": "numeric", "name": "a", "mean": 0, "scale": 1, "minimum": 0, "maximum": 1}],
        "ignored": {"n": "id"}, "id": "n",
    })  # fmt: skip
    rows = file_rows.read(tmp_path / "t.parquet", spec, [1, 3, 9])
    assert {number: row.cells for number, row in rows.items()} == {
        1: {"n": str(2**60 + 1), "a": "0.1"},
        3: {"n": "3", "a": None},
    }


def test_rows_without_a_file_show_what_is_missing_as_missing() -> None:
    """The rows are decoded, and 0 does not stand for a value here."""
    spec = tables.from_table("made", made_table(), {}).spec
    assert isinstance(spec, TableSpec)
    item = np.zeros((2, *spec.shape), np.float32)
    item[0, [block.start for column, block in spec.placed if column.name == "weight"]] = np.nan
    first, second = shown_rows.decode(item, spec)
    assert (first["weight"], first["kind"]) == (None, None)
    assert second["weight"] == pytest.approx(70, abs=3)


# --- splits ---


def labelled(n: int = 200) -> dict[str, Any]:
    return {**made_table(n), "label": np.asarray(["usual"] * n), "order": np.arange(n) + FIRST}


WEIGHED = ColumnSettings(kinds={"weight": "numeric"})  # its value increases from row to row here


def test_row_numbers_follow_the_rows(tmp_path: Path) -> None:
    """Each row has its number in the file, even if the caller numbers rows in another way."""
    table = labelled(300)
    table["label"][::10] = "odd"
    table["weight"] = np.arange(300.0)
    for numbers in (None, np.arange(300) * 2 + 7):
        data = tables.from_table(
            "made", table, {}, WEIGHED, roles=Roles("label==odd", "order"), file=tmp_path / "f.csv", numbers=numbers
        )
        assert data.rows is not None and data.anomalies is not None and isinstance(data.spec, TableSpec)
        block = next(block for column, block in data.spec.placed if column.name == "weight")
        column = next(column for column in data.spec.columns if column.name == "weight")
        for part, found in ((data.test, data.rows.test), (data.anomalies, data.rows.anomalies)):
            weights = Arrays.of(part).items[:, block.start] * column.scale + column.mean  # type: ignore[union-attr]
            expected = np.rint(weights).astype(int) + 1 if numbers is None else numbers[np.rint(weights).astype(int)]
            assert found.tolist() == expected.tolist()
        assert data.rows.normal.all()
        assert data.notes == ("truth: rows with label==odd are known anomalies",)


def test_label_and_truth_may_be_one_column() -> None:
    """The classes are then those of the rows that are not anomalies."""
    table = {**made_table(200), "label": np.resize(["good", "bad", "ugly"], 200)}
    data = tables.from_table("made", table, {}, label="label", roles=Roles("label==ugly"))
    assert data.classes == ("bad", "good")
    assert data.anomalies is not None
    assert len(data.anomalies) == 66
    with pytest.raises(TrainingError, match="the single class 'good' in column 'label'; remove --label"):
        tables.from_table("made", table, {}, label="label", roles=Roles("label!=good"))


@pytest.mark.parametrize(
    ("roles", "kinds", "label", "message"),
    [
        (Roles(id="nope"), {}, None, "--id: there is no column 'nope'"),
        (Roles(passed=("nope",)), {}, None, "--keep: there is no column 'nope'"),
        (Roles(passed=("order", "order")), {}, None, "--keep: column 'order' is given twice"),
        (Roles(id="order", passed=("order",)), {}, None, "--keep: column 'order' is given twice"),
        (
            Roles(id="weight"),
            {"weight": "numeric"},
            None,
            "--id: column 'weight' is not learned from; .*score --keep weight",
        ),
        (Roles("label==usual"), {"label": "categorical"}, None, "--truth: column 'label' is not learned from"),
        (Roles(id="label"), {}, "label", "--id: column 'label' is already used by --label"),
        (Roles("label!=odd"), {}, None, "no row has 'odd' in column 'label'; use one of its values: 'usual' .200."),
        (Roles("order>0"), {}, None, "has 0 rows to learn from; 200 of its 200 rows are known anomalies"),
    ],
)
def test_roles_that_do_not_fit(roles: Roles, kinds: dict[str, str], label: str | None, message: str) -> None:
    with pytest.raises(ManifoldError, match=message):
        tables.from_table("made", labelled(), {}, ColumnSettings(kinds=kinds), label, roles)


def test_a_column_that_is_ignored_may_be_copied() -> None:
    data = tables.from_table("made", labelled(), {}, ColumnSettings(kinds={"order": "ignore"}), roles=Roles(id="order"))
    assert isinstance(data.spec, TableSpec)
    assert data.spec.id == "order"


def test_files_with_other_columns_beside_are_the_same_items() -> None:
    """Artifacts of earlier versions have no truth in their spec, and can be evaluated on data sets that have one."""
    with_roles, without = (
        tables.from_table(
            "made", labelled(), {}, ColumnSettings(kinds={"order": "ignore", "label": "ignore"}), roles=roles
        ).spec
        for roles in (Roles(id="order"), None)
    )
    assert with_roles != without
    assert with_roles.reader_of(without) is not None
    other = tables.from_table("made", {**labelled(), "weight": np.arange(200.0)}, {}).spec
    assert with_roles.reader_of(other) is None


def test_models_that_clip_numbers_are_judged_by_data_that_compresses_them() -> None:
    """Earlier versions clipped numbers to `clip`. New data is clipped for these models; clipped data is refused for new models."""
    table = {name: values for name, values in labelled().items() if name not in ("order", "label")}
    new = TableSpec.of(tables.from_table("made", table, {}).spec, "")
    old = new.model_copy(update={"columns": tuple(
        column.model_copy(update={"beyond": None}) if isinstance(column, NumericColumn) else column for column in new.columns
    )})  # fmt: skip
    far = {name: values.copy() for name, values in table.items()}
    far["weight"][:2] = 1e9, -1e9
    read = old.reader_of(new)
    assert read is not None
    held, wanted = (spec.encode(far, missing=True).data for spec in (new, old))
    assert not np.array_equal(held, wanted)
    np.testing.assert_array_equal(read(held), wanted)
    assert new.reader_of(old) is None


# --- metrics ---


def test_false_alarms_are_counted_of_normal_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten of twenty unlabelled rows are far away; the normal rows are like the calibration rows."""
    monkeypatch.setattr(peers, "fit", lambda train: {})
    normal, unlabelled = np.arange(100.0), np.concatenate([np.arange(10.0), np.full(10, 900.0)])
    test, known = np.concatenate([normal, unlabelled])[:, None], np.full((5, 1), 800.0)
    marks = np.arange(120) < 100
    model = scorer(np.arange(99.0))
    found = anomaly.judge(model, test, test, known, marks)
    assert [rate["met"] for rate in found.rates if rate["asked"] == 0.1] == [0.1]
    assert [rate["met"] for rate in found.unlabelled if rate["asked"] == 0.1] == [0.5]
    assert found.terms["a"]["auroc"] == 1.0  # unlabelled rows above the anomalies do not reduce it
    none = anomaly.judge(model, test, test)
    assert (none.rates, len(none.unlabelled)) == ([], 3)
    positive_alone = anomaly.judge(model, test, test, known, np.zeros(120, bool))
    assert positive_alone.rates == []
    assert positive_alone.terms["a"]["auroc"] == pytest.approx(110 / 120, abs=0.01)
