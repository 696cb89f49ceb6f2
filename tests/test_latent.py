"""Continuity and disentanglement: metrics compared with known values, and the records of the evaluator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import mutual_info_score

from manifold.evaluation import disentanglement, latent
from manifold.evaluation.errors import EvaluationError
from manifold.runtime import imaging, repository
from manifold.runtime.engine import Model
from manifold.runtime.kinds.image import ImageSpec
from manifold.training.datasets import shapes
from tests.conftest import ROOT, SHIPPED


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- continuity ---


def test_whitening_makes_the_aggregate_posterior_round() -> None:
    mixing = generator().normal(size=(6, 6))
    mean = generator(1).normal(size=(4000, 6)) @ mixing + 3
    log_variance = np.log(np.full((4000, 6), 0.3))
    covariance = latent.aggregate_covariance(mean, log_variance)
    assert np.allclose(covariance, np.cov(mean.T) + 0.3 * np.eye(6))
    white = latent.whitening(covariance)
    assert np.allclose(white @ covariance @ white, np.eye(6), atol=1e-8)
    drawn = mean + np.sqrt(0.3) * generator(2).normal(size=mean.shape)
    assert np.allclose(np.cov((drawn @ white).T), np.eye(6), atol=0.1)


def test_a_latent_that_does_not_vary_is_no_division_by_zero() -> None:
    mean = np.zeros((100, 3))
    mean[:, 0] = generator().normal(size=100)
    white = latent.whitening(latent.aggregate_covariance(mean, None))
    assert np.isfinite(white).all()
    assert (mean[:, 0] * white[0, 0]).std() == pytest.approx(1, abs=0.02)


def paths(ends: np.ndarray, steps: int = 8) -> np.ndarray:
    """Return straight paths (P, S, L) between ends (P, 2, L)."""
    parts = np.linspace(0, 1, steps + 1)[:, None]
    return np.asarray((1 - parts) * ends[:, None, 0] + parts * ends[:, None, 1])


def test_an_isometry_of_the_white_space_has_rate_one_and_even_steps() -> None:
    mean = generator().normal(size=(5000, 4)) @ generator(1).normal(size=(4, 4))
    white = latent.whitening(latent.aggregate_covariance(mean, None))
    way = paths(mean[:60].reshape(30, 2, 4))
    rotation = np.linalg.qr(generator(2).normal(size=(9, 4)))[0]  # (9, 4), with orthonormal columns
    found = latent.continuity(way, way @ white @ rotation.T * 2, white)
    assert found.per_unit == pytest.approx(2)
    assert found.per_unit_95 == pytest.approx(2)
    assert found.largest_step == pytest.approx(1 / 8)
    assert found.feature_length == pytest.approx(2 * found.latent_length)


def test_it_does_not_depend_on_the_scale_or_basis_of_the_latent() -> None:
    mean = generator().normal(size=(5000, 4))
    way = paths(mean[:60].reshape(30, 2, 4))
    features = np.tanh(way @ generator(1).normal(size=(4, 7)))
    other = generator(2).normal(size=(4, 4)) * 10
    one, two = (
        latent.continuity(way @ basis, features, latent.whitening(latent.aggregate_covariance(mean @ basis, None)))
        for basis in (np.eye(4), other)
    )
    assert one.per_unit == pytest.approx(two.per_unit, rel=1e-6)
    assert one.latent_length == pytest.approx(two.latent_length, rel=1e-6)


def test_a_jump_shows() -> None:
    way = paths(generator().normal(size=(20, 2, 3)))
    smooth = latent.continuity(way, way, np.eye(3))
    torn = latent.continuity(way, np.where(np.arange(9)[:, None] < 4, way[:, :1], way[:, -1:]), np.eye(3))
    assert torn.largest_step == pytest.approx(1)
    assert smooth.largest_step == pytest.approx(1 / 8)
    assert torn.per_unit_95 > 5 * smooth.per_unit_95


# --- disentanglement ---


def factors(n: int = 4000) -> np.ndarray:
    return np.stack([generator(k).integers(0, 5, n) for k in range(3)], axis=1).astype(np.float32)


def test_mutual_information_is_scikit_learns() -> None:
    known = factors()
    codes = np.stack([known[:, 0] + generator(9).normal(size=len(known)), generator(8).normal(size=len(known))], axis=1)
    information, entropy = disentanglement.mutual_information(codes, known)
    for j in range(2):
        edges = np.linspace(codes[:, j].min(), codes[:, j].max(), disentanglement.BINS + 1)[1:-1]
        for k in range(3):
            expected = mutual_info_score(np.digitize(codes[:, j], edges), known[:, k])
            assert information[j, k] == pytest.approx(expected, abs=1e-9)
    assert entropy == pytest.approx([np.log(5)] * 3, abs=0.01)


def test_mig_is_its_formula_on_a_small_array() -> None:
    """The formula of Chen et al., 2018: the gap of the two largest mutual informations, divided by the entropy, with bins of equal width."""
    known = np.stack([np.repeat([0, 1, 2, 3], 6), np.tile([0, 1], 12)], axis=1)
    codes = np.stack([known[:, 0] + 0.1 * known[:, 1], known[:, 1] * 2.0, generator().normal(size=24)], axis=1)
    gaps = []
    for k in range(2):
        bins = [np.digitize(code, np.histogram(code, 20)[1][:-1]) for code in codes.T]
        information = sorted((mutual_info_score(known[:, k], each) for each in bins), reverse=True)
        gaps.append((information[0] - information[1]) / mutual_info_score(known[:, k], known[:, k]))
    assert disentanglement.mig(codes, known) == pytest.approx(gaps, abs=1e-9)
    assert 0.1 < gaps[0] < gaps[1] <= 1 or 0.1 < gaps[1] < gaps[0] <= 1  # the test has gaps that differ


def test_dci_is_its_formula_on_a_small_array() -> None:
    """The formulas of Eastwood and Williams, 2018: entropies to base K over factors and to base L over dimensions, weighted by importance."""
    importance = np.asarray([[0.7, 0.1, 0.0], [0.2, 0.1, 0.5], [0.0, 0.0, 0.0], [0.1, 0.8, 0.5]])
    by_code, by_factor = importance.sum(axis=1), importance.sum(axis=0)
    rows = [0.0 if not row.sum() else 1 - stats.entropy(row, base=3) for row in importance]
    columns = [1 - stats.entropy(column, base=4) for column in importance.T]
    expected = [float(np.average(rows, weights=by_code)), float(np.average(columns, weights=by_factor))]
    found = [disentanglement.disentangled(importance), disentanglement.complete(importance)]
    assert found == pytest.approx(expected, abs=1e-12)
    assert disentanglement.disentangled(np.eye(4, 3)) == disentanglement.complete(np.eye(4, 3)) == 1
    assert disentanglement.disentangled(np.ones((4, 3))) == pytest.approx(0, abs=1e-12)


def test_the_figures_of_dci_are_those_of_its_importances() -> None:
    known = factors(600)
    codes = known @ generator(3).normal(size=(3, 4)) + 0.1 * generator(4).normal(size=(600, 4))
    found = disentanglement.dci(codes[:400], known[:400], codes[400:], known[400:])
    rows = [1 - stats.entropy(row, base=3) for row in found.importance]
    assert found.disentanglement == pytest.approx(np.average(rows, weights=found.importance.sum(axis=1)), abs=1e-9)
    assert found.completeness == pytest.approx(1 - np.mean(stats.entropy(found.importance, base=4)), abs=1e-9)


def test_one_dimension_a_factor_is_perfect_and_a_rotation_of_it_is_not() -> None:
    known = factors()
    noise = generator(7).normal(size=(len(known), 2))
    straight = np.concatenate([known + 0.01 * generator(5).normal(size=known.shape), noise], axis=1)
    turned = straight @ np.linalg.qr(generator(6).normal(size=(5, 5)))[0]
    assert disentanglement.mig(straight, known).min() > 0.95
    assert disentanglement.mig(turned, known).mean() < 0.3
    half = len(known) // 2
    best, worst = (
        disentanglement.dci(codes[:half], known[:half], codes[half:], known[half:]) for codes in (straight, turned)
    )
    assert best.disentanglement > 0.95
    assert best.completeness > 0.95
    assert best.informativeness > 0.99
    assert best.importance.sum(axis=0) == pytest.approx([1, 1, 1])
    assert worst.disentanglement < 0.6
    assert worst.completeness < 0.6


def test_two_dimensions_that_hold_the_same_factor_leave_no_gap() -> None:
    known = factors()
    assert disentanglement.mig(np.concatenate([known, known], axis=1), known).max() == pytest.approx(0, abs=1e-9)


def test_what_disentanglement_refuses() -> None:
    with pytest.raises(EvaluationError, match="it has 1 latent dimension"):
        disentanglement.mig(np.zeros((10, 1)), np.zeros((10, 1)))
    with pytest.raises(EvaluationError, match="different values"):
        disentanglement.mig(np.zeros((300, 2)), np.arange(300.0)[:, None])


@pytest.mark.slow
def test_made_shapes_hold_every_combination_once() -> None:
    images, known = shapes.make()
    assert len(images) == np.prod([len(values) for values in shapes.FACTORS.values()])
    assert len(np.unique(known, axis=0)) == len(known)
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)  # no two combinations look the same
    border = np.concatenate([images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]], axis=2)
    assert border.max() == 0  # no shape is cut off


# --- from an artifact ---


def test_traversals_move_one_dimension(shipped: dict[str, Model]) -> None:
    model = shipped["mnist-vae"]
    means = model.sample(200, seed=0).latents
    assert means is not None
    dimensions, rows = disentanglement.traversals(model, means, item=3, steps=5)
    assert rows.shape == (len(dimensions), 5, 1, 28, 28)
    latents = np.repeat(means[3:4], 5, axis=0)
    first = dimensions[0]
    latents[:, first] = means[:, first].mean() + means[:, first].std() * np.linspace(-2.5, 2.5, 5)
    spec = ImageSpec.of(model.manifest.spec, "mnist-vae")
    assert np.array_equal(rows[0], imaging.to_uint8(model.sample(5, latents=latents).data, spec))


def test_the_command_draws_traversals_and_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from manifold import cli
    from manifold.cli import evaluation
    from manifold.evaluation.images import ImageArray, RealData

    with np.load(repository.find("mnist-vae", SHIPPED) / "golden.npz") as golden:
        some = golden["encode.in.data"]
    held = ImageArray(
        np.repeat(np.rint(some * 255).astype(np.uint8), 10, axis=0), np.zeros(10 * len(some), np.int64), "made"
    )
    known = np.stack([np.arange(held.n) // 10, np.arange(held.n) % 2], axis=1).astype(np.float32)
    held = ImageArray(held.pixels, held.labels, "made", known, ("item", "parity"))
    monkeypatch.setattr(evaluation, "_real_data", lambda name: RealData(name, held, held, held))
    run = CliRunner().invoke(
        cli.app, ["disentangle", "mnist-vae", "--models", str(ROOT / "models"), "-o", str(tmp_path / "t.png"), "--json"]
    )
    assert run.exit_code == 0, run.output
    found = json.loads(run.output)
    assert found["mig_by_factor"]["parity"] == pytest.approx(0, abs=1e-6)
    assert (tmp_path / "t.png").read_bytes()[:4] == b"\x89PNG"
    refused = CliRunner().invoke(cli.app, ["disentangle", "digits-pixelcnn", "--models", str(ROOT / "models")])
    assert refused.exit_code != 0
