"""Terms of the anomaly score without a network: their mathematics, and the family that combines them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture

from manifold.runtime.engine import load
from manifold.runtime.manifest import COMBINED
from manifold.training import export, families, runs
from manifold.training.data import Data
from manifold.training.data.schema import ColumnSettings
from manifold.training.data.tables import from_parts
from manifold.training.detectors import mixture, trimming
from manifold.training.detectors.histograms import Histograms
from manifold.training.detectors.mixture import Mixture
from manifold.training.detectors.sampled import SampledNeighbours
from manifold.training.errors import TrainingError
from manifold.training.families import tabular_detector
from manifold.training.train import train

BLOCKS = [slice(0, 1), slice(1, 3), slice(3, 4)]


def drawn(n: int, seed: int = 0, size: int = 4) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(seed)
    basis = random.normal(size=(2, size, size))
    which = random.integers(0, 2, n)
    return np.asarray(np.einsum("nd,nde->ne", random.normal(size=(n, size)), basis[which]) + 3 * which[:, None])


def parts_of(found: Mixture) -> list[tuple[float, np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Return weight, mean and covariance of each component, from the buffers."""
    precisions, means = found.precisions.double().numpy(), found.means.double().numpy()
    size = means.shape[1]
    weights = np.exp(
        found.constants.double().numpy() - 0.5 * (np.linalg.slogdet(precisions)[1] - size * np.log(2 * np.pi))
    )
    return [(w, m, np.linalg.inv(p)) for w, m, p in zip(weights, means, precisions, strict=True)]


def log_density(found: Mixture, x: np.ndarray[Any, Any], places: list[int]) -> np.ndarray[Any, Any]:
    """Return log p of some of the values of rows, by marginalising each component."""
    each = [
        np.log(w) + multivariate_normal(m[places], c[np.ix_(places, places)]).logpdf(x[:, places]).reshape(len(x))
        for w, m, c in parts_of(found)
    ]
    return np.asarray(logsumexp(each, axis=0))


def test_a_mixture_equals_its_definition() -> None:
    """The nats are those of scikit-learn and of the densities of the components; those of a column are a difference of marginal densities."""
    rows = drawn(600)
    fitted = GaussianMixture(2, reg_covar=0.01, random_state=0).fit(rows)
    found = Mixture(fitted.weights_, fitted.means_, fitted.covariances_, BLOCKS)
    x = drawn(50, seed=1)
    nats, columns, expected = (each.numpy() for each in found(torch.from_numpy(x).float()))
    assert np.allclose(nats, -fitted.score_samples(x), atol=1e-3)
    assert sum(w for w, *_ in parts_of(found)) == pytest.approx(1, abs=1e-5)
    for place, block in enumerate(BLOCKS):
        inside = list(range(4))[block]
        rest = [each for each in range(4) if each not in inside]
        assert np.allclose(
            columns[:, place], log_density(found, x, rest) - log_density(found, x, [0, 1, 2, 3]), atol=1e-3
        )
        weights = np.stack(
            [
                np.log(w) + multivariate_normal(m[rest], c[np.ix_(rest, rest)]).logpdf(x[:, rest])
                for w, m, c in parts_of(found)
            ]
        )
        weights = np.exp(weights - logsumexp(weights, axis=0))
        means = [
            m[inside] + (x[:, rest] - m[rest]) @ np.linalg.solve(c[np.ix_(rest, rest)], c[np.ix_(rest, inside)])
            for _, m, c in parts_of(found)
        ]
        assert np.allclose(expected[:, inside], np.einsum("kn,knd->nd", weights, np.stack(means)), atol=1e-3)


def test_a_wide_mixture_equals_one_with_full_covariances() -> None:
    """The form in the space of principal components has the densities of the covariances that it stands for."""
    random = np.random.default_rng(0)
    size, inside, variance = 9, 3, 0.5
    directions = np.linalg.qr(random.normal(size=(size, inside)))[0]
    centre, means = random.normal(size=size), random.normal(size=(2, inside))
    roots = random.normal(size=(2, inside, inside))
    covariances = roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(inside)
    weights, blocks = np.asarray([0.3, 0.7]), [slice(0, 1), slice(1, 4), *(slice(i, i + 1) for i in range(4, 9))]
    wide = Mixture(weights, means, covariances, blocks, mixture.Basis(centre, directions, variance))
    outside = variance * (np.eye(size) - directions @ directions.T)
    full = Mixture(weights, centre + means @ directions.T, directions @ covariances @ directions.T + outside, blocks)
    x = torch.from_numpy(random.normal(size=(40, size)) * 2).float()
    for own, expected in zip(wide(x), full(x), strict=True):
        assert torch.allclose(own, expected, atol=2e-3, rtol=1e-3)
    known = torch.ones_like(x)
    known[:, 2:4] = 0
    assert torch.allclose(wide.fill(x * known, known), full.fill(x * known, known), atol=2e-3, rtol=1e-3)


def test_wide_rows_are_fitted() -> None:
    """Rows of 300 values in a space of few dimensions: rows outside this space are anomalous."""
    random = np.random.default_rng(0)
    basis = random.normal(size=(5, 300))
    rows = random.normal(size=(600, 5)) @ basis + 0.1 * random.normal(size=(600, 300))
    found = mixture.fit(rows[:500], [slice(i, i + 1) for i in range(300)], 0)
    other = rows[500:] + 0.6 * random.normal(size=(100, 300))
    nats, columns, expected = found(torch.from_numpy(np.r_[rows[500:], other]).float())
    assert nats[:100].max() < nats[100:].min()
    assert columns.shape == (200, 300) and (expected[:100] - torch.from_numpy(rows[500:]).float()).abs().mean() < 0.2


@pytest.mark.parametrize("n", [60, 300])
def test_the_variance_outside_the_principal_components_is_that_of_new_rows(n: int) -> None:
    random = np.random.default_rng(0)
    mixing = 2 * random.normal(size=(5, 200))
    rows, new = (random.normal(size=(count, 5)) @ mixing + random.normal(size=(count, 200)) for count in (n, 2000))
    found = mixture.principal(rows, 0)
    away = new - found.mean_
    outside = away - away @ found.components_.T @ found.components_
    expected = np.square(outside).sum() / (len(new) * (200 - found.n_components_))
    assert mixture.outside(rows, 0) == pytest.approx(expected, rel=0.12)
    inside = np.square((rows - found.mean_) @ found.components_.T).sum()
    in_sample = (np.square(rows - found.mean_).sum() - inside) / (n * (200 - found.n_components_))
    assert in_sample < 0.7 * expected  # the variance of the fitted rows is too small


def test_the_density_of_a_mixture_sums_to_one() -> None:
    found = mixture.fit(drawn(500, size=2), [slice(0, 1), slice(1, 2)], 0)
    line = np.linspace(-20, 20, 400)
    grid = torch.tensor(list(itertools.product(line, line))).float()
    assert torch.exp(-found(grid)[0]).sum() * (line[1] - line[0]) ** 2 == pytest.approx(1, abs=1e-2)


def test_the_number_of_components_follows_the_rows() -> None:
    random = np.random.default_rng(0)
    one = random.normal(size=(800, 3))
    several = one + 8 * random.integers(0, 4, (800, 1))
    blocks = [slice(i, i + 1) for i in range(3)]
    assert len(mixture.fit(one, blocks, 0).constants) <= 2
    assert len(mixture.fit(several, blocks, 0).constants) >= 4
    assert len(mixture.fit(several[:8], blocks, 0).constants) == 1  # too few rows for more


def test_histograms_equal_their_definition() -> None:
    random = np.random.default_rng(0)
    rows = np.c_[random.normal(size=300), random.integers(0, 2, 300), np.full(300, 7.0)]
    found = Histograms(rows)
    x = np.r_[rows[:20], [[9.0, 0.0, 7.0], [-9.0, 1.0, 7.0], [0.0, 0.5, 8.0], [rows[:, 0].max(), 1.0, 7.0]]]
    expected = np.zeros(len(x))
    for column in range(3):
        low, high = rows[:, column].min(), rows[:, column].max()
        counts, edges = np.histogram(rows[:, column], found.bins, range=(low, high if high > low else low + found.bins))
        for i, value in enumerate(x[:, column]):
            place = min(int(np.searchsorted(edges, value, side="right")) - 1, found.bins - 1)
            count = counts[place] if low <= value <= high else 0
            expected[i] -= np.log((count + 0.5) / (300 + 0.5 * (found.bins + 2)))
    assert np.allclose(found(torch.from_numpy(x).float()).numpy(), expected, atol=1e-4)


def test_sampled_neighbours_equal_their_definition() -> None:
    rows, x = drawn(100), drawn(30, seed=1)
    found = SampledNeighbours(rows, 8, seed=3, samples=20)
    samples = found.points.double().numpy().reshape(20, 8, 4)
    expected = [np.mean([np.linalg.norm(sample - row, axis=1).min() for sample in samples]) for row in x]
    assert np.allclose(found(torch.from_numpy(x).float()).numpy(), expected, atol=1e-4)
    assert (np.abs(samples.reshape(-1, 1, 4) - rows).max(2).min(1) < 1e-5).all()  # all are rows
    assert all(len(np.unique(sample, axis=0)) == 8 for sample in samples)


def test_anomalies_are_trimmed_even_if_they_are_alike() -> None:
    random = np.random.default_rng(0)
    rows = np.r_[drawn(900), random.normal(size=(60, 4)) * 0.05 + 12]  # a dense group far away
    kept = trimming.usual(rows, [slice(i, i + 1) for i in range(4)], 0.2, 0)
    assert len(kept) == 960 - 192 and (np.diff(kept) > 0).all()
    assert (kept < 900).all()


# --- the family ---------------------------------------------------------------------------------------------------------------


def columns_of(n: int, seed: int) -> dict[str, Any]:
    """Return n rows whose numbers depend on each other and on a category."""
    random = np.random.default_rng(seed)
    kind = random.integers(0, 2, n)
    a = random.normal(size=n) + 4 * kind
    return {
        "a": a,
        "b": 2 * a + 0.1 * random.normal(size=n),
        "kind": np.asarray(["red", "blue"])[kind],
        "c": random.normal(size=n),
        "fixed": np.ones(n),
    }


def data_of(n: int, mixed: int = 0) -> Data:
    train = columns_of(n, 0)
    train["b"][:mixed] += 8
    parts = {"train": train, "calibration": columns_of(400, 1), "test": columns_of(400, 2)}
    return from_parts("made", parts, {"source": "made"}, ColumnSettings(), folds=0)


def test_a_detector_finds_and_explains_what_no_single_column_shows(tmp_path: Path) -> None:
    """The exported graph scores as torch does, finds broken dependences, and says which value was expected."""
    data = data_of(2000)
    run = runs.TrainingRun(tmp_path / "run", "tabular_detector", "made", "cpu", tabular_detector.Config())
    train(run, data, device="cpu", quiet=True)
    model = load(export.export(run, "made", tmp_path / "models", data=data), device="cpu")
    normal = columns_of(200, 5)
    rows = [{name: values[i].item() for name, values in normal.items()} for i in range(200)]
    broken = [{**row, "b": row["b"] - 3} for row in rows]
    scores = model.anomaly_score(rows + broken, false_positive_rate=0.05, explain=True)
    values = np.asarray([item.score for item in scores])
    assert roc_auc_score(np.r_[np.zeros(200), np.ones(200)], values) > 0.99
    assert sum(item.is_anomaly is True for item in list(scores)[:200]) < 24
    for row, item in zip(rows[:50], list(scores)[200:250], strict=True):
        assert item.explanation is not None
        first = item.explanation["columns"][0]
        assert first["column"] in ("a", "b")  # the two that contradict each other
        found = {each["column"]: each["expected"] for each in item.explanation["columns"]}
        assert found["b"] is None or abs(found["b"] - row["b"]) < 1
        assert item.explanation["neighbours"]
    unseen = model.anomaly_score([{**rows[0], "kind": "green"}, rows[0]])
    assert unseen[0].score > unseen[1].score and unseen[0].state == "unknown"
    missing = model.anomaly_score([{**rows[0], "c": None}])
    assert np.isfinite(missing[0].score)
    explained = model.anomaly_score([{**rows[0], "c": None}, {**rows[0], "fixed": 2}], explain=True)
    reasons = [{each["column"]: each for each in item.explanation["columns"]} for item in explained if item.explanation]
    assert reasons[0]["c"]["nats"] == 0  # a missing value is no reason
    assert explained[1].explanation is not None and explained[1].explanation["columns"][0]["column"] == "fixed"
    assert set(model.manifest.tasks) == {"score", "neighbours"}
    assert model.manifest.scoring is not None and model.manifest.scoring.score == COMBINED


def test_missing_values_are_filled_in_with_their_means_given_the_others() -> None:
    """Under one Gaussian this is exact for three missing values, and near for more."""
    random = np.random.default_rng(0)
    root = random.normal(size=(5, 5))
    covariance, mean = root @ root.T + 0.5 * np.eye(5), random.normal(size=5)
    found = Mixture(np.ones(1), mean[None], covariance[None], [slice(i, i + 1) for i in range(5)])
    rows = random.multivariate_normal(mean, covariance, 200)
    for missing, near in (([3], 1e-3), ([0, 1], 1e-3), ([1, 2, 4], 2e-3), ([0, 1, 3, 4], 0.1)):
        known = np.setdiff1d(np.arange(5), missing)
        mask = np.ones_like(rows)
        mask[:, missing] = 0
        filled = found.fill(torch.from_numpy(rows * mask).float(), torch.from_numpy(mask).float()).numpy()
        slopes = covariance[missing][:, known] @ np.linalg.inv(covariance[known][:, known])
        expected = mean[missing] + (rows[:, known] - mean[known]) @ slopes.T
        assert np.array_equal(filled[:, known], rows[:, known].astype(np.float32))
        assert np.abs(filled[:, missing] - expected).mean() < near, missing


def test_a_missing_category_is_filled_in_with_the_likeliest_one() -> None:
    """A fraction between categories would be in no bin of the histograms."""
    random = np.random.default_rng(0)
    kinds = random.integers(0, 3, 600)
    rows = np.c_[np.eye(3)[kinds], 3.0 * kinds + 0.3 * random.normal(size=600)]
    known = np.c_[np.zeros((600, 3)), np.ones(600)]
    found = mixture.fit(rows, [slice(0, 3), slice(3, 4)], 0)
    filled = found.fill(torch.from_numpy(rows * known).float(), torch.from_numpy(known).float()).numpy()
    assert set(np.unique(filled[:, :3])) == {0, 1} and (filled[:, :3].sum(1) == 1).all()
    assert (filled[:, :3].argmax(1) == kinds).mean() > 0.9
    assert np.array_equal(filled[:, 3], rows[:, 3].astype(np.float32))


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_rows_with_a_missing_value_are_not_flagged_for_it(share: float) -> None:
    """The column c follows from two others. Whether training rows lack values or not, rows that lack one have usual p-values."""
    random = np.random.default_rng(0)

    def rows(n: int, missing: float) -> dict[str, np.ndarray]:
        a, b = random.normal(size=(2, n))
        table = {"a": a, "b": b, "c": 2 * a + b + 0.05 * random.normal(size=n), "d": random.normal(size=n)}
        table["c"] = np.where(random.random(n) < missing, np.nan, table["c"])
        return table

    parts = {"train": rows(2000, share), "calibration": rows(500, share), "test": rows(500, 1.0)}
    data = from_parts("t", parts, {"source": "made"}, ColumnSettings(), folds=0)
    family = families.get("tabular_detector")
    config = family.resolve(tabular_detector.Config(references=1000), data)
    model = family.build(config, data)
    family.finish(model, config, data)
    with torch.no_grad():
        score = family.exports(model, config, data).tasks["score"]
    calibration, test = (score({"data": data.inputs(part)}) for part in (data.calibration, data.test))
    for name in ("input_neighbours", "mixture", "histograms"):
        line = np.quantile(calibration[name], 0.95)
        assert (test[name] > line).mean() < 0.09, name
    broken = {"a": np.full(5, 3.0), "b": np.full(5, np.nan), "c": np.full(5, -6.0), "d": np.zeros(5)}
    strange = score(
        {"data": data.inputs(from_parts("t", {**parts, "test": broken}, {}, ColumnSettings(), folds=0).test)}
    )
    assert (strange["mixture"] > np.quantile(calibration["mixture"], 0.99)).all()


def test_mixed_rows_are_trimmed() -> None:
    """With `mixed`, a tenth of anomalies among the training rows does not hide others like them."""
    data = data_of(1500, mixed=150)
    family = families.get("tabular_detector")
    aurocs = {}
    test = columns_of(300, 7)
    test["b"][:50] += 8
    rows = data.inputs(
        from_parts(
            "t", {"train": test, "calibration": test, "test": test}, {"source": "made"}, ColumnSettings(), folds=0
        ).test
    )
    for mixed in (False, True):
        config = family.resolve(tabular_detector.Config(mixed=mixed), data)
        model = family.build(config, data)
        family.finish(model, config, data)
        with torch.no_grad():
            exported = family.exports(model, config, data)
        made = exported.tasks["score"]({"data": rows})
        aurocs[mixed] = roc_auc_score(np.r_[np.ones(50), np.zeros(250)], made["mixture"])
    assert aurocs[True] > 0.98, aurocs
    assert aurocs[True] > aurocs[False] + 0.01, aurocs


def test_all_terms_are_exported_with_weights_by_evidence(tmp_path: Path) -> None:
    """Every term is an output of the graph, which export compares with torch. The weights follow the evidence."""
    data = data_of(600)
    rule = f"fisher:{','.join(tabular_detector.TERMS)}"
    config = tabular_detector.Config(score=rule, references=200)
    run = runs.TrainingRun(tmp_path / "run", "tabular_detector", "made", "cpu", config)
    train(run, data, device="cpu", quiet=True)
    model = load(export.export(run, "made", tmp_path / "models", data=data), device="cpu")
    scoring = model.manifest.scoring
    assert scoring is not None and scoring.combination is not None
    combination = scoring.combination
    assert set(combination.terms) == {term.name for term in scoring.terms} == set(tabular_detector.TERMS)
    assert combination.weights is not None and combination.evidence is not None
    assert sum(combination.weights) == pytest.approx(len(combination.terms), abs=0.01)
    assert np.allclose(
        np.square(combination.evidence) / np.square(combination.evidence).mean(), combination.weights, atol=2e-3
    )
    of = dict(zip(combination.terms, combination.evidence, strict=True))
    assert of["mixture"] > of["histograms"]  # only one of them sees that columns depend on each other
    items = data.inputs(data.test)[:100]
    far = items.copy()
    far[:, 0] += 10  # the first column is a number
    for name in tabular_detector.TERMS:
        usual, away = (model.score(each).terms[name] for each in (items, far))
        assert np.isfinite(usual).all() and np.isfinite(away).all()
        assert usual.mean() < away.mean(), name


def test_a_detector_of_mixed_rows_is_exported(tmp_path: Path) -> None:
    data = data_of(400, mixed=20)
    run = runs.TrainingRun(tmp_path / "run", "tabular_detector", "made", "cpu", tabular_detector.Config(mixed=True))
    train(run, data, device="cpu", quiet=True)
    model = load(export.export(run, "made", tmp_path / "models", data=data), device="cpu")
    combination = model.manifest.scoring and model.manifest.scoring.combination
    assert combination and combination.terms == tabular_detector.MIXED and combination.basis == "agreement"
    row = {name: values[0].item() for name, values in columns_of(1, 5).items()}
    usual, unseen = model.anomaly_score([row, {**row, "kind": "green"}])
    assert unseen.score > usual.score


@pytest.mark.parametrize(
    ("changes", "terms", "weighed"),
    [
        ({}, ["input_neighbours", "mixture", "histograms"], True),
        ({"weigh": False}, ["input_neighbours", "mixture", "histograms"], False),
        ({"mixed": True}, ["input_neighbours", "mixture", "histograms", "sampled_neighbours"], True),
        ({"score": "denoiser"}, ["input_neighbours", "mixture", "histograms", "denoiser"], False),
        ({"score": "min-p:mixture,tails"}, ["input_neighbours", "mixture", "histograms", "tails"], False),
    ],
)
def test_the_score_decides_which_terms_there_are(changes: dict[str, Any], terms: list[str], weighed: bool) -> None:
    config = tabular_detector.resolve(tabular_detector.Config(**changes), data_of(100))
    assert tabular_detector._names(config) == terms
    assert config.weigh == weighed


def test_few_rows_are_no_evidence() -> None:
    data = data_of(19)
    config = tabular_detector.resolve(tabular_detector.Config(), data)
    model = tabular_detector.build(config, data)
    tabular_detector.finish(model, config, data)
    assert model.fitted.weights is None
    with torch.no_grad():
        scoring = tabular_detector.exports(model, config, data).scoring
    assert scoring is not None and scoring.combination is not None and scoring.combination.weights is None


def test_an_artifact_without_references_has_no_training_rows(tmp_path: Path) -> None:
    """With `references=0` there are no terms of distances and no task `neighbours`; a score of distances is refused."""
    data = data_of(300)
    config = tabular_detector.Config(references=0)
    run = runs.TrainingRun(tmp_path / "run", "tabular_detector", "made", "cpu", config)
    train(run, data, device="cpu", quiet=True)
    model = load(export.export(run, "made", tmp_path / "models", data=data), device="cpu")
    assert set(model.manifest.tasks) == {"score"}
    assert model.manifest.scoring is not None
    assert [term.name for term in model.manifest.scoring.terms] == ["mixture", "histograms"]
    row = {name: values[0].item() for name, values in columns_of(1, 5).items()}
    (item,) = model.anomaly_score([row], explain=True)
    assert item.explanation is not None and not item.explanation.get("neighbours")
    for mixed in (False, True):
        resolved = tabular_detector.resolve(tabular_detector.Config(references=0, mixed=mixed), data)
        assert resolved.score == "fisher:mixture,histograms"
    with pytest.raises(TrainingError, match="the terms are mixture, histograms, isolation_forest, tails, denoiser"):
        tabular_detector.resolve(tabular_detector.Config(references=0, score="input_neighbours"), data)
