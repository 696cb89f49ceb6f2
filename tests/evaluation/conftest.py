"""The evaluator on scikit-learn's digits, the shipped digits classifier and tiny artifacts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from manifold.evaluation import extractors, reference
from manifold.evaluation.extractors import Extractor
from manifold.evaluation.images import ImageArray
from manifold.evaluation.reference import Reference
from manifold.runtime import imaging
from manifold.training.data import Arrays, Data
from tests.conftest import SHIPPED
from tests.evaluation.helpers import RealArrays


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(reference.CACHE_VARIABLE, str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def extractor() -> Extractor:
    return extractors.load("digits-classifier", SHIPPED, device="cpu")


@pytest.fixture(scope="session")
def real(digits: Data) -> RealArrays:
    parts = (digits.train, digits.calibration, digits.test)
    return RealArrays("digits", *(ImageArray(Arrays.of(part).items, part.labels, "digits") for part in parts))


@pytest.fixture
def held(extractor: Extractor, real: RealArrays) -> Reference:
    return reference.of_source(extractor, real.test, "test")


@pytest.fixture(scope="session")
def pool(real: RealArrays) -> ImageArray:
    """Return all 1797 digits."""
    parts = (real.train, real.calibration, real.test)
    return ImageArray(
        np.concatenate([part.pixels for part in parts]), np.concatenate([part.labels for part in parts]), "all digits"
    )


@pytest.fixture
def folder(tmp_path: Path, real: RealArrays) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for index, image in enumerate(real.test.pixels[:60]):
        (root / f"{index:03d}.png").write_bytes(imaging.to_png(image))
    return root


@pytest.fixture(scope="module")
def tiny_models(tiny: Path) -> Iterator[Path]:
    """Yield the folder of the tiny artifacts, with the shipped extractor."""
    link = tiny / "models/digits-classifier"
    link.symlink_to(SHIPPED / "digits-classifier")
    yield tiny / "models"
    link.unlink()
