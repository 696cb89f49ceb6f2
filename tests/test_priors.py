"""Priors fitted after training: their parameters, and how they are added to an artifact."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime import engine, manifest, repository
from manifold.runtime.errors import UnsupportedTask
from manifold.runtime.manifest import GaussianPrior, LatentSpec, MixturePrior, NormalPrior, Prior
from manifold.training.exporting import priors


def clusters(n: int = 4000) -> np.ndarray:
    """Draw from three Gaussians of different shapes with weights 0.5, 0.3, 0.2."""
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
    assert priors.fit(clusters()) == fitted  # fits are deterministic


def test_a_unit_that_encodes_nothing_and_few_rows() -> None:
    dead = clusters()
    dead[:, 1] = 0.5
    fitted = priors.fit(dead)
    assert isinstance(fitted["gaussian"], GaussianPrior)
    assert fitted["gaussian"].components[2][0, 1, 1] > 0
    assert set(priors.fit(clusters(150))) == {"gaussian"}  # too few items for ten components


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


def test_the_default_prior_is_the_densest_at_held_out_items() -> None:
    latent = LatentSpec(size=2, priors={"normal": NormalPrior()}, default_prior="normal")
    random = np.random.Generator(np.random.Philox(5))

    def default(fitted: dict[str, Prior], held_out: NDArray[np.float64]) -> str | None:
        found = priors.added(latent, fitted)
        return priors.with_default(found, priors.densities(found, held_out)).prior

    assert default(priors.fit(clusters()), clusters()[::7]) == "mixture"
    normal = random.normal(size=(4000, 2))  # a mixture of ten parts fits the training items a little too closely
    assert default(priors.fit(normal[:400]), normal[400:]) == "normal"
    assert default(priors.fit(clusters()), clusters()[:0]) == "normal"  # without held-out items the default stays


def test_a_density_that_is_not_finite_never_decides() -> None:
    fitted = priors.fit(clusters())
    latent = priors.added(LatentSpec(size=2, priors={"normal": NormalPrior()}, default_prior="normal"), fitted)
    spoilt = np.full((3, 2), np.nan)
    assert priors.densities(latent, spoilt) == {}
    assert priors.with_default(latent, priors.densities(latent, spoilt)).prior == "normal"
    for first in ("normal", "gaussian", "mixture"):  # in any order
        found = {first: math.nan, "normal": -3.0, "gaussian": -2.0, "mixture": -2.5} | {first: math.nan}
        assert priors.with_default(latent, found).prior == ("mixture" if first == "gaussian" else "gaussian")


def test_log_densities_add_up_to_one() -> None:
    axis = np.linspace(-12, 12, 241)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    area = (axis[1] - axis[0]) ** 2
    for name, prior in {"normal": NormalPrior(), **priors.fit(clusters())}.items():
        assert np.exp(priors.log_density(prior, grid)).sum() * area == pytest.approx(1, abs=2e-3), name


def test_fitted_priors_make_the_next_version(tiny: Path, tmp_path: Path) -> None:
    for name in ("vae", "pixelcnn"):
        shutil.copytree(tiny / "models" / name, tmp_path / name)
    path = tmp_path / "vae/1/manifest.json"
    before = manifest.read(path)
    assert before.space is not None
    stripped = LatentSpec(size=before.space.size, priors={"normal": NormalPrior()}, default_prior="normal")
    (path.parent / "priors.npz").unlink()
    files = {name: record for name, record in before.files.items() if name != "priors.npz"}
    path.write_text(manifest.dumps(before.model_copy(update={"latent": stripped, "files": files})))
    written = path.read_bytes()
    result = CliRunner().invoke(cli.app, ["fit-priors", "vae", "--data", "digits", "--models", str(tmp_path)])
    assert result.exit_code == 0, result.exception
    assert result.stdout.strip() == str(tmp_path / "vae/2")
    assert path.read_bytes() == written  # a published version never changes
    after = manifest.read(tmp_path / "vae/2")
    assert after.version == 2 and after.space is not None and after.space.prior == before.space.prior
    with np.load(tmp_path / "vae/2/priors.npz") as made, np.load(tiny / "models/vae/1/priors.npz") as exported:
        assert set(made) == set(exported)
        assert all(np.allclose(made[name], exported[name], atol=1e-6) for name in made)
    assert after.files == repository.records(tmp_path / "vae/2")
    again = CliRunner().invoke(cli.app, ["fit-priors", "vae", "--data", "digits", "--models", str(tmp_path)])
    assert again.exit_code == 0 and again.stdout.strip() == str(tmp_path / "vae/2")  # nothing to change
    assert repository.versions(tmp_path / "vae") == [1, 2]
    assert engine.load(tmp_path / "vae", device="cpu").sample(3, seed=0, prior="mixture").data.shape == (3, 1, 8, 8)
    result = CliRunner().invoke(cli.app, ["fit-priors", "pixelcnn", "--models", str(tmp_path)])
    assert isinstance(result.exception, UnsupportedTask)
