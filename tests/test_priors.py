"""Priors fitted after training: what they are, and how an artifact gets them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime import engine, manifest, repository
from manifold.runtime.errors import UnsupportedTask
from manifold.runtime.manifest import GaussianPrior, LatentSpec, MixturePrior, NormalPrior
from manifold.training.exporting import priors


def clusters(n: int = 4000) -> np.ndarray:
    """Three Gaussians of different shapes, weights 0.5, 0.3, 0.2."""
    generator = np.random.Generator(np.random.Philox(0))
    which = generator.choice(3, n, p=[0.5, 0.3, 0.2])
    centres, widths = np.asarray([[0, 0], [6, 0], [0, 8.0]]), np.asarray([[1, 0.3], [0.2, 1], [1, 1.0]])
    return (centres[which] + widths[which] * generator.normal(size=(n, 2))).astype(np.float32)


def log_density(prior: MixturePrior, x: np.ndarray) -> np.ndarray:
    parts = [
        np.log(weight) + stats.multivariate_normal(mean, np.asarray(factor) @ np.asarray(factor).T).logpdf(x)
        for weight, mean, factor in zip(*prior.components, strict=True)
    ]
    found: np.ndarray = np.logaddexp.reduce(parts)
    return found


def test_the_mixture_is_a_density_that_fits_better_than_one_gaussian() -> None:
    fitted = priors.fit(clusters())
    gaussian, mixture = fitted["gaussian"], fitted["mixture"]
    assert isinstance(gaussian, GaussianPrior)
    assert isinstance(mixture, MixturePrior)
    factor = np.asarray(gaussian.cholesky)
    assert np.allclose(factor @ factor.T, np.cov(clusters().T), rtol=1e-4)
    held_out = clusters(8000)[4000:]
    single = stats.multivariate_normal(gaussian.mean, factor @ factor.T).logpdf(held_out).mean()
    assert log_density(mixture, held_out).mean() > single + 0.5
    axis = np.linspace(-15, 20, 701)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    assert np.exp(log_density(mixture, grid)).sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=1e-3)
    assert priors.fit(clusters()) == fitted  # the same every time


def test_a_unit_that_encodes_nothing_and_few_rows() -> None:
    dead = clusters()
    dead[:, 1] = 0.5
    fitted = priors.fit(dead)
    assert isinstance(fitted["gaussian"], GaussianPrior)
    assert fitted["gaussian"].components[2][0, 1, 1] > 0
    assert set(priors.fit(clusters(150))) == {"gaussian"}  # too few for ten components


def test_what_the_family_gave_is_kept() -> None:
    latent = LatentSpec(size=2, priors={"normal": NormalPrior()})
    found = priors.added(latent, priors.fit(clusters()))
    assert list(found.priors) == ["normal", "gaussian", "mixture"]
    assert found.prior == "normal"
    with pytest.raises(ValueError, match="do not have the size of the latent; give 3 values"):
        LatentSpec(size=3, priors=found.priors)
    mixture = found.priors["mixture"]
    assert isinstance(mixture, MixturePrior)
    for change in (
        {"weights": (0.5,) * 10},
        {"means": mixture.model_dump()["means"][1:]},
        {"weights": (-0.5, 1.5, *([0.0] * 8))},
    ):
        with pytest.raises(ValueError, match="weights"):
            MixturePrior.model_validate(mixture.model_dump() | change)


def test_an_artifact_gets_its_priors_afterwards(tiny: Path, tmp_path: Path) -> None:
    for name in ("vae", "pixelcnn"):
        shutil.copytree(tiny / "models" / name, tmp_path / name)
    path = tmp_path / "vae/1/manifest.json"
    before = manifest.read(path)
    assert before.space is not None
    stripped = before.space.model_copy(update={"priors": {"normal": NormalPrior()}})
    (path.parent / "priors.npz").unlink()
    files = {name: record for name, record in before.files.items() if name != "priors.npz"}
    path.write_text(manifest.dumps(before.model_copy(update={"latent": stripped, "files": files})))
    result = CliRunner().invoke(cli.app, ["fit-priors", "vae", "--data", "digits", "--models", str(tmp_path)])
    assert result.exit_code == 0, result.exception
    after = manifest.read(path)
    with np.load(path.parent / "priors.npz") as made, np.load(tiny / "models/vae/1/priors.npz") as exported:
        assert set(made) == set(exported)
        assert all(np.allclose(made[name], exported[name], atol=1e-6) for name in made)
    assert after.files == repository.records(path.parent)
    again = CliRunner().invoke(cli.app, ["fit-priors", "vae", "--data", "digits", "--models", str(tmp_path)])
    assert again.exit_code == 0 and manifest.read(path) == after  # those that it has stay as they are
    assert engine.load(tmp_path / "vae", device="cpu").sample(3, seed=0, prior="mixture").data.shape == (3, 1, 8, 8)
    result = CliRunner().invoke(cli.app, ["fit-priors", "pixelcnn", "--models", str(tmp_path)])
    assert isinstance(result.exception, UnsupportedTask)
