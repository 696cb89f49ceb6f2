"""The declared facts of families and data sets, compared with the families and data sets themselves."""

from __future__ import annotations

import subprocess
import sys

import pytest

from manifold.training import datasets, families, outlines
from manifold.training.errors import TrainingError
from tests.conftest import ROOT


@pytest.mark.parametrize("name", families.names())
def test_the_options_and_presets_of_a_family_are_known_without_importing_it(name: str) -> None:
    family = families.get(name)
    assert outlines.options(name) == list(family.Config.model_fields)
    assert tuple(family.PRESETS) == outlines.PRESETS
    assert name in outlines.families()


def test_the_declared_items_and_classes_of_data_sets_are_true() -> None:
    assert sorted(outlines.data_sets()) == datasets.names()
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
        ("pixelcnn", "ring", [], "'ring' has rows, but the family pixelcnn learns images; use one of cifar10"),
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


def test_the_checks_import_nothing_that_takes_time() -> None:
    code = (
        "import sys; from manifold.training import outlines; outlines.options('cvae'); outlines.data_sets(); "
        "print({'torch', 'numpy', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
