"""The library: `Model` has the names that its page lists, takes items of many forms, and its results show themselves."""

from __future__ import annotations

import inspect
import io
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

import numpy as np
import pyarrow
import pytest
from PIL import Image

from manifold.runtime.engine import Model, load
from manifold.runtime.errors import ManifoldError, Unavailable
from manifold.runtime.graphs.backends import DEVICES
from manifold.runtime.operations import Encoded, End
from tests.conftest import ROOT, ROW, SHIPPED

PAGE = (ROOT / "docs/reference/library.md").read_text()


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    """Load a few shipped models. Loading all of them takes seconds."""
    names = ("mnist-vae", "transactions-vae", "digits-pixelcnn")
    return {name: load(SHIPPED / name, device="cpu", verify=False) for name in names}


@pytest.fixture
def images(models: dict[str, Model]) -> Model:
    return models["mnist-vae"]


@pytest.fixture
def rows(models: dict[str, Model]) -> Model:
    return models["transactions-vae"]


def test_the_public_names_are_those_that_the_page_lists(images: Model) -> None:
    section = PAGE.split("\n## Model\n")[1].split("\n### ")[0]
    listed = [
        name
        for line in section.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    ]
    assert sorted(listed) == sorted(name for name in {*dir(Model), *vars(images)} if not name.startswith("_"))


def test_the_page_has_the_signatures() -> None:
    for method, arguments in re.findall(r"^(\w+)\((.*?)\) -> ", PAGE, re.MULTILINE):
        if method == "load":
            continue
        parameters = list(inspect.signature(getattr(Model, method)).parameters)[1:]
        assert [each.split("=")[0] for each in arguments.split(", ") if each != "*"] == parameters, method
        assert all(
            each.annotation is not inspect.Parameter.empty
            for each in inspect.signature(getattr(Model, method)).parameters.values()
            if each.name != "self"
        )


def test_the_blocks_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: dict[str, Model], capsys: pytest.CaptureFixture[str]
) -> None:
    import manifold

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(manifold, "load", lambda path: models[Path(path).name], raising=False)
    exec("".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)), {})
    for name, size in (("my-samples.png", (118, 118)), ("my-path.png", (88, 88))):
        with Image.open(name) as picture:
            assert picture.size == size
    assert "'score', 'p_value', 'is_anomaly', 'band', 'risk'" in capsys.readouterr().out


def test_one_image_in_every_form_is_the_same_item(images: Model, tmp_path: Path) -> None:
    digit = images.sample(1, seed=7).images()[0]
    picture = Image.fromarray(digit)
    path = tmp_path / "digit.png"
    picture.save(path)
    expected: Any = images.encode([path]).mean
    for one in (
        path,
        str(path),
        path.read_bytes(),
        picture,
        digit,
        digit[None],
        digit / np.float64(255),
        [picture],
        [digit],
    ):
        given = (
            one[None] if isinstance(one, np.ndarray) and one.dtype == np.float64 else one
        )  # floats have the model's shape
        assert np.allclose(expected, images.encode(given).latent, atol=1e-5), type(one)
    assert images.encode(np.zeros((3, 28, 28), bool)).latent.shape == (3, 20)


def test_one_row_in_every_form_is_the_same_item(rows: Model) -> None:
    expected = rows.anomaly_score([ROW]).items
    table = pyarrow.Table.from_pylist([ROW])
    narrow = table.set_column(0, table.schema.names[0], table.column(0).cast(pyarrow.float32()))
    for one in (ROW, [list(ROW.values())], table, table.to_batches()[0], narrow):
        found = rows.anomaly_score(one)
        assert found.items == expected
    assert rows.impute({**ROW, "amount": None}).rows()[0]["amount"] > 0
    assert rows.impute(pyarrow.Table.from_pylist([{**ROW, "amount": None}, ROW])).missing.any(axis=1).tolist() == [
        True,
        False,
    ]


def test_scores_are_those_of_the_service(rows: Model, images: Model, client: Any) -> None:
    given = [ROW, {**ROW, "amount": 900}]
    options: dict[str, Any] = {
        "explain": True,
        "costs": {"false_positive": 1, "false_negative": 200, "prevalence": 0.01},
    }
    answer = client.post("/anomaly-score", json={"model": "transactions-vae", "rows": given, **options}).json()
    found = rows.anomaly_score(given, **options)
    for item, expected in zip(found, answer["items"], strict=True):
        fields = ("score", "p_value", "is_anomaly", "band", "risk", "state", "parts")
        assert {name: getattr(item, name) for name in fields} == {name: expected[name] for name in fields}
        assert list(item.warnings) == expected["warnings"]
        assert item.explanation is not None and item.explanation["columns"] == expected["explanation"]["columns"]
    assert found.threshold.p_value == answer["threshold"]["p_value"]
    explained = images.anomaly_score(images.sample(2, seed=1).data, explain=True, budget=1)
    assert [item.is_anomaly for item in explained].count(True) == 1 and explained[0].explanation


def test_masks_in_every_form(models: dict[str, Model]) -> None:
    model = models["digits-pixelcnn"]
    digits = model.sample(2, seed=3, classes="3")
    known = np.zeros((8, 8), bool)
    known[:4] = True
    expected = model.impute(digits.data, known[None, None].repeat(2, axis=0), seed=5, classes="3", candidates=1)
    assert np.array_equal(expected.data[:, :, :4], digits.data[:, :, :4])
    for mask in (known, known[None], known.astype(np.float32), [Image.fromarray(known)], Image.fromarray(known)):
        assert np.array_equal(model.impute(digits.data, mask, seed=5, classes="3", candidates=1).data, expected.data)


def test_results_show_themselves(images: Model, rows: Model, tmp_path: Path) -> None:
    digits, table = images.sample(4, seed=1), rows.sample(30, seed=1)
    assert repr(digits) == "<Samples: images of shape (4, 1, 28, 28), seed 1>"
    assert repr(table) == f"<Samples: rows of shape {table.data.shape}, seed 1>" and len(table) == 30
    picture = digits._repr_png_()
    assert picture is not None and Image.open(io.BytesIO(picture)).size == (58, 58) and digits._repr_html_() is None
    shown = str(table._repr_html_())
    assert table._repr_png_() is None and shown.count("<tr>") == 21 and "<p>20 of 30 rows</p>" in shown
    assert digits.images().shape == (4, 28, 28) and digits.images().dtype == np.uint8
    table.save(tmp_path / "rows.csv")
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 31
    assert re.fullmatch(
        r"<Reconstructed: images of shape \(4, 1, 28, 28\), mean error 0\.\d+>", repr(images.reconstruct(digits.data))
    )
    assert repr(images.encode(digits.data)) == "<Encoded: mean 4×20, log_variance 4×20>"
    scores = rows.anomaly_score({**ROW, "weekday": "<script>"})
    assert "&lt;script&gt;" in scores._repr_html_() and "<script>" not in scores._repr_html_()
    assert repr(scores).startswith("<AnomalyScores: 1 scored, ") and len(repr(scores[0])) < 150
    assert "<td>" in rows.score(table.data)._repr_html_() and repr(rows.score(table.data)).startswith(
        "<Scores: 30 scored, "
    )
    assert repr(images).startswith("<Model mnist-vae version ") and len(repr(images)) < 200


WRONG: dict[str, tuple[Callable[[Model, Model], Any], str]] = {
    "no file": (lambda m, t: m.encode("no.png"), r"images\[0\]: 'no.png' cannot be read: No such file.*; give the path"),
    "a number": (lambda m, t: m.encode(cast(Any, 3)), "images: 3 is a int; give arrays, Pillow images"),
    "objects": (lambda m, t: m.encode(cast(Any, [3])), r"images\[0\]: 3 is not an image; give an array"),
    "no items": (lambda m, t: t.encode([]), "rows: the list is empty; give at least one"),
    "a table of images": (lambda m, t: m.encode(pyarrow.table({"a": [1]})), "images: a Table holds rows; the model takes images"),
    "an empty table": (lambda m, t: t.encode(pyarrow.table({"a": pyarrow.array([], pyarrow.int64())})), "rows: the table is empty"),
    "a text of rows": (lambda m, t: t.encode("rows"), "rows: 'rows' is a str; give a mapping by column"),
    "a file of rows": (lambda m, t: t.anomaly_score("rows.csv"), r"rows: 'rows.csv' is a str; read the file: give pyarrow.csv.read_csv\('rows.csv'\)"),
    "a path of rows": (lambda m, t: t.encode(Path("r.parquet")), r"read the file: give pyarrow.parquet.read_table\('r.parquet'\)"),
    "a list of files of rows": (lambda m, t: t.encode(["rows.csv"]), r"rows\[0\]: 'rows.csv' is not a row; read the file: give pyarrow.csv"),
    "a file of rows as an image": (lambda m, t: m.encode("rows.csv"), r"images\[0\]: 'rows.csv' is a file of rows; the model takes images"),
    "a column as rows": (lambda m, t: t.encode(cast(Any, Series({0: 1.0}))), "rows: this Series is not a row, .* such as frame.iloc"),
    "five channels": (lambda m, t: m.encode(np.zeros((28, 28, 5))), r"the shape is \[28, 28, 5\]; give \[28, 28\], \[n, 28, 28\], .* or Pillow images"),
    "another size": (lambda m, t: m.encode(np.zeros((14, 14), np.uint8)), r"images: the shape is \[14, 14\]; give \[28, 28\]"),
    "a shape of an end": (lambda m, t: m.interpolate(np.zeros((14, 14)), {"seed": 1}), r"start.image: the shape is \[14, 14\]; give \[28, 28\]"),
    "no axes": (lambda m, t: m.encode(np.zeros(())), r"images: the shape is \[\]; give \[28, 28\]"),
    "no images": (lambda m, t: m.encode(np.zeros((0, 28, 28))), "images: the array is empty; give at least one item"),
    "the width of rows": (lambda m, t: t.encode(np.zeros((3, 4))), r"rows: the shape is \[3, 4\]; give \[n, 23\] or \[23\], or a mapping by column"),
    "the shape of latents": (lambda m, t: m.sample(latents=np.zeros((1, 3))), r"^latents: the shape is \[1, 3\]; give \[n, 20\]$"),
    "one latent": (lambda m, t: m.sample(latents=np.zeros(20)), r"latents: the shape is \[20\]; give \[n, 20\]"),
    "no latents": (lambda m, t: m.sample(latents=np.zeros((0, 20))), r"latents: the shape is \[0, 20\]; give \[n, 20\]"),
    "the name of a latent": (lambda m, t: m.sample(latents={"z": np.zeros((1, 20))}), "latents.z: mnist-vae has no such latent; give latent"),
    "codes as floats": (lambda m, t: m.sample(codes=np.zeros((1, 7, 7))), "codes: contains float64; send only integers"),
    "an input of a task": (lambda m, t: m.run("decode", {"latent": np.zeros((1, 3))}), r"input 'latent' is float64\[1, 3\]; give float32\[n, 20\] for n items"),
    "no inputs of a task": (lambda m, t: m.run("decode", {}), "^inputs: the inputs latent are needed"),
    "a device": (lambda m, t: load("x", device=cast(Any, "tpu")), "device: 'tpu' is unknown; give one of auto, cpu, cuda"),
    "a table of images as columns": (lambda m, t: m.sample(1, seed=1).to_arrow(), r"table: the items are images, which have no columns; use images\(\)"),
    "integers of rows": (lambda m, t: t.encode(np.zeros((2, 3), int)), "rows: an array of int64; give floats"),
    "pixels": (lambda m, t: m.encode(np.full((28, 28), 300)), "images: pixels from 300 to 300; give 0 to 255"),
    "different shapes": (lambda m, t: m.encode([np.zeros((28, 28)), np.zeros((8, 8))]), "images: arrays of different shapes"),
    "an end that is empty": (lambda m, t: m.interpolate({}, {"seed": 1}), "start: it is empty; give a mapping such as {'seed': 1}"),
    "an end without a place": (lambda m, t: m.interpolate({"first": 3}, {"seed": 1}), "start: only first is given; give a mapping such as {'seed': 1}"),
    "an end of None": (lambda m, t: m.interpolate({"seed": 1}, {"image": None, "class": None}), "stop: it is empty; give a mapping"),
    "an end object": (lambda m, t: m.interpolate(End(first=3), {"seed": 1}), "start: it is empty; give a mapping"),
    "two places of an end object": (lambda m, t: m.interpolate(End(seed=1, data=m.sample(1).data[0]), {"seed": 1}), "start: data and seed cannot"),
    "first of an end": (lambda m, t: m.interpolate({"seed": 1, "first": cast(Any, "x")}, {"seed": 1}), "start.first: 'x' is not an integer"),
    "an end with latents without one": (lambda m, t: m.interpolate({"latent": {}}, {"seed": 1}), "start.latent: it is empty; give at least one"),
    "the shape of an end's latent": (lambda m, t: m.interpolate({"seed": 1}, {"latent": [1.0]}), r"stop.latent: the shape is \[1\]; give \[20\]"),
    "class and classes": (lambda m, t: m.interpolate({"seed": 1, "class": 1, "classes": 2}, {"seed": 1}), "start: class and classes cannot be combined"),
    "class and condition": (lambda m, t: m.interpolate({"seed": 1}, {"class": 1, "condition": [2]}), "stop: class and condition cannot be combined"),
    "a file of an end": (lambda m, t: m.interpolate("no.png", {"seed": 1}), r"start.image\[0\]: 'no.png' cannot be read"),
    "latents as a text": (lambda m, t: m.sample(latents="x"), "latents: 'x' is not an array"),
    "ragged latents": (lambda m, t: m.sample(latents=[[1.0], [1.0, 2.0]]), "latents: .* cannot be converted"),
    "texts as latents": (lambda m, t: m.sample(latents=[["1"] * 20]), "latents: contains"),
    "a number as latents": (lambda m, t: m.sample(latents=1.0), "latents: a single number is not an array"),
    "a class": (lambda m, t: m.sample(classes="3"), "classes: mnist-vae has no classes; remove it, or use a model with classes"),
    "a condition": (lambda m, t: m.sample(condition="3"), "condition: mnist-vae has no classes; remove it, or use a model with classes"),
    "a class of an end": (lambda m, t: m.interpolate({"seed": 1}, {"seed": 2, "class": "3"}), "stop.class: mnist-vae has no classes"),
    "numbers": (lambda m, t: m.sample(numbers={"guidance": 2}), "numbers: mnist-vae has no input .guidance"),
    "a use case": (lambda m, t: m.classify(m.sample(1).data), "does not support classify: it has no classes; it supports sample, encode, .*anomaly_score"),
    "a task": (lambda m, t: m.run("decoder", {}), "task: mnist-vae has no task 'decoder'; did you mean decode. it has "),
    "a rate as a text": (lambda m, t: t.anomaly_score(ROW, false_positive_rate=cast(Any, "1%")), "false_positive_rate: '1%' is out of range"),
    "a budget as a text": (lambda m, t: t.anomaly_score(ROW, budget=cast(Any, "3")), "budget: '3' is not allowed; give an integer"),
    "costs as texts": (
        lambda m, t: t.anomaly_score(ROW, costs=cast(Any, {"false_positive": "1", "false_negative": 2, "prevalence": 0.1})),
        "costs.false_positive: '1' is not allowed",
    ),
    "prevalence": (
        lambda m, t: t.anomaly_score(ROW, costs={"false_positive": 1, "false_negative": 2, "prevalence": 2}),
        "costs.prevalence: 2 is not allowed; give a number between 0 and 1",
    ),
    "a missing folder": (lambda m, t: m.sample(1).save("no/x.png"), "path: no/x.png: there is no folder no; create it first"),
    "no path": (lambda m, t: load(cast(Any, 3)), "path: 3 is not a path"),
    "threads": (lambda m, t: load("x", threads=0), "threads: 0 is not allowed"),
    "n": (lambda m, t: m.sample(0), "n: 0 is not allowed; give an integer of 1 or more"),
    "seed": (lambda m, t: m.sample(seed=-1), "seed: -1 is out of range"),
    "steps": (lambda m, t: m.interpolate({"seed": 1}, {"seed": 2}, steps=1), "steps: 1 is not allowed; give an integer of 2"),
    "method": (lambda m, t: m.interpolate({"seed": 1}, {"seed": 2}, method="x"), "method: 'x' is unknown; give one of slerp, lerp"),
    "two places": (lambda m, t: m.interpolate({"seed": 1, "image": "x"}, {"seed": 2}), "start: image and seed cannot be combined"),
    "key of an end": (lambda m, t: m.interpolate({"seed": 1}, {"sed": 2}), "stop.sed: an end has no such key; give one of image"),
    "an end": (lambda m, t: m.interpolate(cast(Any, 1), {"seed": 2}), "start: 1 is not an end; give a mapping"),
    "classes": (lambda m, t: m.sample(classes="3", condition="3"), "classes: classes and condition cannot be combined"),
    "masks of rows": (lambda m, t: t.impute(ROW, np.ones(3)), "transactions-vae cannot fill in rows by a mask"),
    "options of masks": (lambda m, t: t.impute(ROW, candidates=cast(Any, 3)), "candidates: it has no effect without masks"),
    "costs": (lambda m, t: t.anomaly_score(ROW, costs={"false_positive": 1}), "costs: .* is not complete; give false_positive, false_neg"),
    "explained arrays": (lambda m, t: t.anomaly_score(t.sample(1, seed=1).data, explain=True), "explain: an array of encoded rows has no values"),
    "save": (lambda m, t: m.sample(1, seed=1).save("x.csv"), "path: x.csv has the wrong suffix; images are saved as .png"),
    "rows of images": (lambda m, t: m.sample(1, seed=1).rows(), r"rows: the items are images; use images\(\)"),
    "images of rows": (lambda m, t: t.sample(1, seed=1).images(), r"images: the items are rows; use rows\(\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_say_what_to_do(images: Model, rows: Model, case: str) -> None:
    call, message = WRONG[case]
    with pytest.raises(ManifoldError, match=message):
        call(images, rows)


def test_a_misspelt_option_is_an_error(images: Model) -> None:
    with pytest.raises(TypeError, match=r"sample\(\) got an unexpected keyword argument 'sed'; did you mean seed\?"):
        images.sample(2, sed=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("method", "name", "hint"),
    [
        ("sample", "class_", "mnist-vae has no classes; remove it"),
        ("sample", "conditions", "mnist-vae takes no condition; remove it"),
        ("reconstruct", "target_class", "mnist-vae takes no condition; remove it"),
        ("sample", "inputs", r"did you mean numbers\?"),
        ("sample", "named_latents", r"did you mean latents\?"),
        ("encode", "images", r"did you mean items\?"),
        ("anomaly_score", "rows", r"did you mean items\?"),
        ("sample", "xyz", "its arguments are n, seed"),
    ],
)
def test_an_argument_of_the_client_names_that_of_the_library(images: Model, method: str, name: str, hint: str) -> None:
    with pytest.raises(TypeError, match=rf"{method}\(\) got an unexpected keyword argument '{name}'; {hint}"):
        getattr(images, method)(**{name: "8"})


def test_a_model_with_classes_suggests_them() -> None:
    call: Any = load(SHIPPED / "mnist-cvae", device="cpu", verify=False).sample
    with pytest.raises(TypeError, match=r"'class_'; did you mean classes\?"):
        call(1, class_="8")


def test_type_checkers_know_the_devices() -> None:
    assert get_args(get_type_hints(load)["device"]) == DEVICES == ("auto", "cpu", "cuda")


def test_results_are_tables(images: Model, rows: Model) -> None:
    table = rows.sample(3, seed=1)
    assert table.table() == {name: [row[name] for row in table.rows()] for name in table.rows()[0]}
    back = rows.reconstruct(table.data)
    assert list(back.table()) == [*table.table(), "error"] and back.table()["error"] == back.errors.tolist()
    digits = images.sample(2, seed=1)
    assert list(images.reconstruct(digits.data).table()) == ["error"]
    encoded = images.encode(digits.data, seed=3).table()
    assert len(encoded) == 60 and list(encoded)[::20] == ["mean.0", "log_variance.0", "latents.0"]
    named = Encoded(mean={"place": np.ones((1, 2))}, codes=np.asarray([[[3]]])).table()
    assert named == {"place.mean.0": [1.0], "place.mean.1": [1.0], "codes.0": [3]}
    scores = rows.anomaly_score(table.rows())
    assert (
        scores.to_arrow().to_pydict() == scores.table()
        and next(iter(rows.score(table.data).table())) == "reconstruction"
    )


@pytest.mark.parametrize("name", ["pandas", "polars", "arrow"])
def test_a_missing_package_is_named(images: Model, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    package = name.replace("arrow", "pyarrow")
    monkeypatch.setitem(sys.modules, package, None)
    install = "part of the extra tables" if package == "pyarrow" else f"run `pip install {package}`"
    with pytest.raises(Unavailable, match=rf"to_{name}: {package} is not installed.*{install}.* Or use table\(\)"):
        getattr(images.reconstruct(images.sample(1, seed=1).data), f"to_{name}")()


def test_lists_of_latents_and_images_as_ends(images: Model) -> None:
    made = images.sample(2, seed=1)
    listed = images.sample(latents=np.asarray(made.latents).tolist())
    assert np.array_equal(listed.data, images.sample(latents=np.asarray(made.latents)).data)
    ends: Any = ({"image": Image.fromarray(made.images()[0])}, {"data": made.data[1]})
    expected = images.interpolate(*ends, steps=3)
    assert np.array_equal(
        images.interpolate(Image.fromarray(made.images()[0]), made.data[1], steps=3).data, expected.data
    )
    first: Any = np.asarray(made.latents)[0]
    assert np.array_equal(
        images.interpolate({"latent": first.tolist()}, {"seed": 1}).data,
        images.interpolate({"latent": first}, {"seed": 1}).data,
    )


def test_keys_of_an_end_that_are_none_do_not_hide_others(images: Model, shipped: dict[str, Model]) -> None:
    item: Any = images.sample(1, seed=1).data[0]
    found = images.interpolate({"image": None, "data": item, "first": None}, {"seed": 1}, steps=2)
    assert np.array_equal(found.data, images.interpolate({"image": item}, {"seed": 1}, steps=2).data)
    other: Any = {"seed": 2, "class": 5}
    made = shipped["mnist-cvae"].interpolate({"seed": 1, "class": None, "classes": 3}, other, steps=2)
    assert np.array_equal(made.data, shipped["mnist-cvae"].interpolate({"seed": 1, "class": 3}, other, steps=2).data)
    open_end = shipped["mnist-cvae"].interpolate({"class": 3, "first": 2}, other, steps=2, seed=4)
    assert open_end.seed == 4
    with pytest.raises(ManifoldError, match=r"start\.first: 'x' is not an integer"):
        shipped["mnist-cvae"].interpolate({"class": 3, "first": "x"}, other, seed=4)


def test_results_have_items_by_index(images: Model, rows: Model) -> None:
    digits, table = images.sample(3, seed=1), rows.sample(3, seed=1)
    assert np.array_equal(digits[-1], digits.images()[2]) and [*table] == table.rows() and len([*digits]) == 3
    with pytest.raises(IndexError):
        digits[3]


def test_errors_show_what_is_valid(images: Model) -> None:
    with pytest.raises(ManifoldError) as caught:
        images.sample(prior="x")
    assert caught.value.valid and str(caught.value.valid[0]) in str(caught.value)
    long = ManifoldError("a: b", valid=[f"name-{place}" for place in range(1000)])
    assert "(valid: name-0, name-1" in str(long) and len(str(long)) < 400
    assert str(ManifoldError("a: give x or y", valid=["x", "y"])) == "a: give x or y"


def test_the_version_of_the_package() -> None:
    import manifold
    from manifold.runtime import extras

    assert manifold.__version__ == (extras.version("manifold") or "0")


class Series:
    """A row of a data frame of pandas."""

    ndim, iloc = 1, None

    def __init__(self, values: Mapping[Any, Any] = ROW) -> None:
        self.values = values

    def to_dict(self) -> dict[Any, Any]:
        return dict(self.values)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.asarray(list(ROW.values()), object)


def test_a_series_is_one_row(rows: Model) -> None:
    expected = rows.anomaly_score(ROW).items
    one: Any = Series()
    assert rows.anomaly_score(one).items == expected == rows.anomaly_score([one]).items
