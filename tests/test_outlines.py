"""The declared facts of families and data sets, compared with the families and data sets themselves."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from manifold.training import datasets, families, outlines, recipes
from manifold.training.errors import TrainingError
from tests.conftest import ROOT


@pytest.mark.parametrize("name", families.names())
def test_the_options_and_presets_of_a_family_are_known_without_importing_it(name: str) -> None:
    family = families.get(name)
    unused = getattr(importlib.import_module(f"manifold.training.families.{name}"), "UNUSED", ())
    assert set(unused) <= set(recipes.Recipe.model_fields)
    assert outlines.options(name) == [each for each in family.Config.model_fields if each not in unused]
    assert tuple(family.PRESETS) == outlines.PRESETS
    assert name in outlines.families()


def test_the_declared_items_and_classes_of_data_sets_are_true() -> None:
    stems = [path.stem for path in (outlines.PACKAGE / "datasets").glob("[!_]*.py")]
    assert len(datasets.names()) == len(stems)  # no file is incomplete
    for name in ("digits", "ring", "shapes"):  # those that need no download
        data, declared = datasets.load(name), outlines.data_set(name)
        assert declared is not None
        assert (declared.items, declared.classes) == (data.spec.noun, data.classes is not None)
    assert outlines.data_set("mnist_14") == outlines.data_set("mnist-14")


@pytest.mark.parametrize(
    ("family", "data", "settings", "message"),
    [
        (
            "tabular_vae",
            "mnist",
            [],
            "'mnist' has images, but the family tabular_vae learns rows; use one of creditcard",
        ),
        (
            "pixelcnn",
            "ring",
            [],
            "'ring' has rows, but the family pixelcnn learns images; use one of binarized-mnist, cifar10",
        ),
        ("cgan", "frey_face", [], "'frey_face' has no classes, but the family cgan needs them"),
        ("cvae", "frey_face", ["epochs=1"], "'frey_face' has no classes"),
        ("tabular_cvae", "creditcard", [], "'creditcard' has no classes"),
    ],
)
def test_data_that_do_not_fit_a_family_are_refused_by_their_declaration(
    family: str, data: str, settings: list[str], message: str
) -> None:
    with pytest.raises(TrainingError, match="use one of") as caught:
        outlines.check_data(family, data, settings)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("family", "data", "settings"),
    [
        ("cvae", "shapes", []),
        ("cvae", "frey_face", ["given=scale"]),
        ("cgan", "ring", []),
        ("pixelcnn", "some/folder", []),
    ],
)
def test_data_that_fit_pass(family: str, data: str, settings: list[str]) -> None:
    found: object = outlines.check_data(family, data, settings)  # type: ignore[func-returns-value]
    assert found is None  # it raises for data of another kind


def test_options_without_effect_are_refused() -> None:
    for setting in ("epochs=5", "lr=0.1"):
        with pytest.raises(TrainingError, match=r"has no effect on the family tabular_detector.*remove it"):
            outlines.check_settings("tabular_detector", ["mixed=true", setting])
    outlines.check_settings("tabular_detector", ["mixed=true", "seed=3"])
    assert outlines.terms("tabular_vae")[0] == "reconstruction" and "tails" in outlines.terms("tabular_detector")
    assert outlines.terms("vae") == ()


def test_the_page_for_authors_names_what_a_file_must_define() -> None:
    page = (ROOT / "docs/how-to/add-a-family.md").read_text()
    needed = [
        *outlines.OF_DATA,
        *outlines.OF_A_FAMILY,
        "ITEMS",
        "NEEDS_CLASSES",
        "INSTEAD_OF_CLASSES",
        "UNUSED",
        "TERMS",
        "FOLD",
    ]
    assert [name for name in needed if not re.search(rf"^[-|] `{name}\b", page, re.MULTILINE)] == []


COMPLETE = {
    "datasets": 'NAME = "half-made"\nITEMS: str = "rows"\nHAS_CLASSES = False\nLICENCE = ""\ndef load():\n    raise RuntimeError\n',
    "families": "from x import *\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty package with the folders of families and data sets, which takes the place of the real one."""
    for folder in COMPLETE:
        (tmp_path / "training" / folder).mkdir(parents=True)
    monkeypatch.setattr(outlines, "PACKAGE", tmp_path / "training")
    return tmp_path / "training"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('NAME = "half-made"\nLICENCE = ""\ndef load(): ...', 'lacks ITEMS, HAS_CLASSES; add ITEMS = "images" or "rows", HAS_CLASSES = True or False'),
        ("", "lacks NAME, ITEMS, HAS_CLASSES, LICENCE, load; add "),
        (COMPLETE["datasets"].replace('"rows"', '"tables"'), "ITEMS = 'tables' is not valid; write ITEMS = \"images\" or \"rows\""),
        (COMPLETE["datasets"].replace('"rows"', "3 * OTHER"), "ITEMS is not a literal; write ITEMS = "),
        (COMPLETE["datasets"].replace("False", "0"), "HAS_CLASSES = 0 is not valid"),
        (COMPLETE["datasets"].replace('"half-made"', '"whole"'), "NAME = 'whole' is not valid; write NAME = \"half_made\""),
        ("NAME = (\n", "line 1: '(' was never closed; correct the file"),
    ],
)  # fmt: skip
def test_an_incomplete_data_set_is_reported_only_to_those_who_use_it(text: str, message: str, package: Path) -> None:
    (package / "datasets" / "half_made.py").write_text(text)
    (package / "datasets" / "whole.py").write_text(COMPLETE["datasets"].replace("half-made", "whole"))
    for read in (outlines.data_set, datasets.load):
        with pytest.raises(TrainingError) as caught:
            read("half-made")
        assert caught.value.message.startswith("training/datasets/half_made.py: ") and message in caught.value.message
    assert outlines.data_set("whole") == outlines.DataOutline("whole", "rows", False)
    assert list(outlines.data_sets()) == ["whole"]
    assert outlines.data_set("mnist") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class Config: ...\nfrom x import build, phases\n", "lacks evaluate, exports; add the function evaluate(model, batch), the function exports("),
        ('from x import *\nITEMS = ("rows")\n', "ITEMS = 'rows' is not valid; write ITEMS = (\"images\",)"),
        ('from x import *\nITEMS = ("tables",)\n', "ITEMS = ('tables',) is not valid"),
        ("from x import *\nITEMS = tuple(KINDS)\n", "ITEMS is not a literal"),
    ],
)  # fmt: skip
def test_an_incomplete_family_is_reported_only_to_those_who_use_it(text: str, message: str, package: Path) -> None:
    (package / "families" / "half.py").write_text(text)
    (package / "families" / "whole.py").write_text(COMPLETE["families"])
    with pytest.raises(TrainingError) as caught:
        outlines.check_family("half")
    assert caught.value.message.startswith(f"training/families/half.py: {message}")
    found: object = outlines.check_family("whole")  # type: ignore[func-returns-value]
    assert found is None


def test_the_checks_import_nothing_that_takes_time() -> None:
    code = (
        "import sys; from manifold.training import outlines; outlines.options('cvae'); outlines.data_sets(); "
        "print({'torch', 'numpy', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
