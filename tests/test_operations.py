"""The operations on arrays, above all their determinism."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from starlette.testclient import TestClient

from manifold.runtime import codecs, imaging, recipes, sampling
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import InvalidValue, UnsupportedTask
from manifold.runtime.inputs import draw_latents
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.manifest import GaussianPrior, MixturePrior
from manifold.runtime.operations import PATHS, End
from manifold.runtime.scores import scoring
from manifold.runtime.tables import rows
from manifold.training.data import Arrays, Data
from tests.conftest import CLASS_OF, NAMES, ROWS, SHIPPED, WITHOUT_ENCODER

CONDITIONAL = "digits-pixelcnn"


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_and_index_same_bits(name: str, shipped: dict[str, Model], client: TestClient) -> None:
    """The item is the same alone, in a batch of any size, through REST or the library, and after a restart."""
    model = shipped[name]
    whole = model.sample(64, seed=11).data
    for first, n in ((0, 1), (63, 1), (5, 2), (7, 3), (20, 5), (0, 64)):
        assert np.array_equal(model.sample(n, seed=11, first=first).data, whole[first : first + n])
    assert np.array_equal(load(SHIPPED / name, device="cpu").sample(9, seed=11, first=4).data, whole[4:13])
    request: dict[str, Any] = {"model": name, "seed": 11, "first": 4, "n": 9}
    spec = model.manifest.spec
    if spec.pictures:
        images = [
            Image.open(io.BytesIO(codecs.from_base64(text, "")))
            for text in client.post("/sample", json=request).json()["images"]
        ]
        pixels = imaging.to_uint8(whole[4:13], ImageSpec.of(spec, name)).transpose(0, 2, 3, 1)
        assert np.array_equal(np.stack([np.asarray(image) for image in images]).reshape(pixels.shape), pixels)
    else:
        assert client.post("/sample", json=request).json()["rows"] == rows.decode(whole[4:13], TableSpec.of(spec, name))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_ENCODER])
def test_encode_reconstruct_and_score_do_not_depend_on_the_batch(name: str, shipped: dict[str, Model]) -> None:
    model = shipped[name]
    samples = model.sample(64, seed=1)
    data, told = samples.data, samples.condition if name in CLASS_OF else None
    whole = model.encode(data, seed=5, classes=told), model.reconstruct(data, classes=told), model.score(data)
    for first, n in ((0, 1), (9, 1), (3, 2), (30, 5)):
        part, some = slice(first, first + n), None if told is None else told[first : first + n]
        encoded = model.encode(data[part], seed=5, first=first, classes=some)
        back, scores = model.reconstruct(data[part], classes=some), model.score(data[part])
        assert np.array_equal(encoded.placed, whole[0].placed[part])
        assert whole[0].codes is None or np.array_equal(encoded.codes, whole[0].codes[part])  # type: ignore[arg-type]
        assert np.array_equal(back.data, whole[1].data[part])
        assert np.array_equal(back.errors, whole[1].errors[part])
        for term, values in scores.terms.items():
            assert np.array_equal(values, whole[2].terms[term][part]), term


def test_a_random_class_does_not_shift_the_noise(shipped: dict[str, Model]) -> None:
    model = shipped[CONDITIONAL]
    drawn = model.sample(12, seed=3)
    assert drawn.condition is not None
    names = [str(int(weights.argmax())) for weights in drawn.condition]
    assert len(set(names)) > 3
    assert np.array_equal(model.sample(12, seed=3, classes=names).data, drawn.data)
    assert np.array_equal(model.sample(12, seed=3, classes="random").data, drawn.data)


def test_ways_to_name_a_class(shipped: dict[str, Model]) -> None:
    model = shipped[CONDITIONAL]
    by_name = model.sample(2, seed=0, classes="3").data
    forms: list[Any] = [3, ["3", 3], {"3": 0.5}, np.eye(10, dtype=np.float32)[3]]
    for other in forms:
        assert np.array_equal(model.sample(2, seed=0, classes=other).data, by_name)
    mixed = model.sample(2, seed=0, classes={"3": 1, "8": 3}).condition
    assert mixed is not None
    assert mixed[0].tolist() == pytest.approx([0, 0, 0, 0.25, 0, 0, 0, 0, 0.75, 0])
    for wrong in ("x", 10, -1, ["3"], {"3": -1}, {"3": 0}, {"x": 1}, {"3": float("inf")}):
        with pytest.raises(InvalidValue, match="class"):
            model.sample(2, seed=0, classes=wrong)


def test_temperature_and_priors(shipped: dict[str, Model]) -> None:
    model = shipped["mnist-vae"]
    cold, warm = (model.sample(500, seed=0, prior="normal", temperature=t).latents for t in (0.5, 1.0))
    assert cold is not None
    assert warm is not None
    assert np.allclose(cold, 0.5 * warm, atol=1e-6)
    fitted = model.sample(5000, seed=0, prior="gaussian").latents
    assert fitted is not None
    assert model.manifest.space is not None
    prior = model.manifest.space.priors["gaussian"]
    assert isinstance(prior, GaussianPrior)
    (factor,) = prior.components[2]
    assert np.allclose(np.cov(fitted.T), factor @ factor.T, atol=0.1)
    with pytest.raises(InvalidValue) as caught:
        model.sample(1, prior="vamp")
    assert caught.value.valid == ["normal", "gaussian", "mixture"]


@pytest.mark.parametrize("name", ["mnist-vae", "mnist-autoencoder"])
def test_the_mixture_prior_has_its_moments_and_its_components(name: str, shipped: dict[str, Model]) -> None:
    model = shipped[name]
    assert model.manifest.space is not None
    prior = model.manifest.space.priors["mixture"]
    assert isinstance(prior, MixturePrior)
    weights, means, factors = prior.components
    n = 20_000
    latents = draw_latents(model.manifest, "mixture", 3, 0, n, sampling.FIRST_INPUT_STREAM, 1.0)
    centre = weights @ means
    covariances = factors @ factors.transpose(0, 2, 1) + np.einsum("ki,kj->kij", means - centre, means - centre)
    expected = np.einsum("k,kij->ij", weights, covariances)
    spread = np.sqrt(np.diag(expected))
    assert (np.abs(latents.mean(axis=0) - centre) < 5 * spread / np.sqrt(n)).all()
    assert np.abs(np.cov(latents.T) - expected).max() < 0.06 * spread.max() ** 2
    # at a temperature near 0 an item is its component's mean, and each component has its expected frequency
    cold = draw_latents(model.manifest, "mixture", 3, 0, n, sampling.FIRST_INPUT_STREAM, 1e-6)
    nearest = ((cold[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert np.abs(np.bincount(nearest, minlength=len(weights)) / n - weights).max() < 0.015
    # an item depends only on its seed and index
    assert np.array_equal(
        draw_latents(model.manifest, "mixture", 3, 7, 5, sampling.FIRST_INPUT_STREAM, 1.0), latents[7:12]
    )


def test_without_a_seed_one_is_chosen_and_said(shipped: dict[str, Model]) -> None:
    model = shipped["mnist-vae"]
    a, b = model.sample(1), model.sample(1)
    assert a.seed != b.seed
    assert a.seed is not None
    assert np.array_equal(model.sample(1, seed=a.seed).data, a.data)
    assert model.sample(latents=np.zeros((1, 20), np.float32)).seed is None


@pytest.mark.parametrize(("seed", "first"), [(-1, 0), (2**63, 0), (0, -1), (0, 2**63 - 1)])
def test_seeds_out_of_range(shipped: dict[str, Model], seed: int, first: int) -> None:
    with pytest.raises(InvalidValue):
        shipped["mnist-vae"].sample(1, seed=seed, first=first)


@pytest.mark.parametrize("method", ["slerp", "lerp"])
def test_paths_begin_and_end_where_they_should(shipped: dict[str, Model], method: str) -> None:
    model = shipped["mnist-vae"]
    ends = [model.sample(1, seed=seed).latents for seed in (3, 9)]
    assert ends[0] is not None
    assert ends[1] is not None
    path = model.interpolate(End(seed=3), End(latent=ends[1][0]), steps=7, method=method)
    assert np.array_equal(path.latents[0], ends[0][0])
    assert np.array_equal(path.latents[-1], ends[1][0])
    assert np.array_equal(path.data[0], model.sample(1, seed=3).data[0])
    if method == "slerp":
        lengths = np.linalg.norm(path.latents, axis=1)
        assert lengths.min() > 0.85 * min(lengths[0], lengths[-1])
    else:
        assert np.allclose(path.latents[3], (ends[0][0] + ends[1][0]) / 2, atol=1e-6)


def test_slerp_goes_along_the_circle_at_even_speed() -> None:
    for degrees in (60.0, 90.0, 150.0):
        turns = np.deg2rad(degrees) * np.asarray([0, 0.25, 0.5, 1])
        expected = 2 * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        found = PATHS["slerp"](expected[0].astype(np.float32), expected[-1].astype(np.float32), turns / turns[-1])
        assert np.allclose(found, expected, atol=1e-6), degrees


def test_slerp_of_the_same_point_and_of_zero(shipped: dict[str, Model]) -> None:
    zero, one = np.zeros(20, np.float32), np.ones(20, np.float32)
    model = shipped["mnist-vae"]
    for a, b in ((one, one), (zero, one), (one, -one), (zero, zero)):
        assert np.isfinite(model.interpolate(End(latent=a), End(latent=b), steps=5, method="slerp").data).all()


def test_posterior_draws_follow_the_posterior(shipped: dict[str, Model]) -> None:
    model = shipped["mnist-vae"]
    data = model.sample(1, seed=0).data.repeat(4000, axis=0)
    encoded = model.encode(data, seed=1)
    assert encoded.latents is not None
    assert encoded.mean is not None
    assert encoded.log_variance is not None
    standardised = (encoded.latents - encoded.mean) / np.exp(0.5 * encoded.log_variance)
    assert stats.kstest(standardised[:, 0], "norm").pvalue > 0.001


def test_what_a_model_cannot_do_says_what_it_can(shipped: dict[str, Model]) -> None:
    model = shipped[CONDITIONAL]
    data = model.sample(1, seed=0).data
    for attempt in (
        lambda: model.encode(data),
        lambda: model.reconstruct(data),
        lambda: model.interpolate(End(seed=1), End(seed=2)),
    ):
        with pytest.raises(UnsupportedTask, match="it supports sample, anomaly_score, classify, impute"):
            attempt()


def test_class_marginal_is_the_log_sum_exp(shipped: dict[str, Model]) -> None:
    model = shipped[CONDITIONAL]
    data = model.sample(6, seed=2).data
    marginal = model.score(data)
    by_class = np.stack([model.score(data, classes=str(y)).terms["nll"] for y in range(10)], 1)
    assert np.allclose(marginal.terms["nll"], -np.log(np.exp(-by_class).mean(1)), atol=1e-6)
    assert marginal.surprise is not None
    best = np.stack([np.asarray(model.score(data, classes=str(y)).surprise) for y in range(10)], 1)
    assert np.allclose(marginal.surprise, best[np.arange(6), by_class.argmin(1)], atol=1e-5)


# --- recipes ---


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ROWS])
def test_remake_gives_the_same_bytes(name: str, client: TestClient, shipped: dict[str, Model]) -> None:
    variants: list[dict[str, Any]] = [{"n": 5, "first": 3}, {"n": 1, "temperature": 0.7}, {}]
    if shipped[name].manifest.classes:
        variants += [{"n": 3, "class": ["1", "2", 3]}, {"n": 2, "class": {"1": 0.5, "7": 0.5}}, {"class": "4"}]
    elif latent := shipped[name].manifest.space:
        given = np.linspace(-1, 1, 2 * latent.count).reshape(2, -1).tolist()
        variants += [{"latents": given}, *({"prior": name} for name in latent.priors)]
    for fields in variants:
        content = client.post("/sample", json={"model": name, **fields}, headers={"accept": "image/png"}).content
        assert recipes.remake(shipped[name], imaging.read_recipe(content)) == content, fields
        for text in client.post("/sample", json={"model": name, "seed": 5, **fields}).json()["images"]:
            item = codecs.from_base64(text, "")
            assert recipes.remake(shipped[name], imaging.read_recipe(item)) == item


def test_recipes_of_other_weights_or_damaged_are_refused(shipped: dict[str, Model]) -> None:
    model = shipped["mnist-vae"]
    samples = model.sample(1, seed=0)
    (recipe,) = recipes.for_samples(model.manifest, model.checksum, samples, {})
    with pytest.raises(InvalidValue, match=r"this artifact has .*; use the artifact that made the picture"):
        recipes.remake(shipped["mnist-vae-2d"], recipe)
    for damage in ({"temperature": "x"}, {"seed": "x"}, {"item": None}):
        with pytest.raises(InvalidValue, match="damaged"):
            recipes.remake(model, {**recipe, **damage})


# --- calibration ---


def test_rates_have_the_beta_law() -> None:
    for n, k in ((999, 9), (4999, 49), (4999, 4999), (10, 1)):
        expected = stats.beta(k, n + 1 - k).ppf([0.025, 0.975])
        assert scoring.rate_interval(n, k) == pytest.approx(tuple(expected), rel=1e-5)


def test_p_values_are_conformal() -> None:
    about = type("About", (), {"n": 4})()
    calibrated = scoring.Calibrated(about, {"s": np.asarray([1.0, 2.0, 2.0, 3.0])})
    values = np.asarray([0.0, 1.0, 2.0, 2.5, 3.0, 9.0])
    assert (calibrated.p_values("s", values) * 5).tolist() == pytest.approx([5, 5, 4, 2, 2, 1])
    for rate in (0.2, 0.4, 0.6, 0.8):
        line = calibrated.threshold("s", rate)
        assert line.p_value is not None
        flagged = calibrated.p_values("s", values) <= line.p_value
        assert line.score is not None
        assert np.array_equal(flagged, values > line.score)
    assert calibrated.threshold("s", 0.1).score is None


def test_p_values_of_new_normal_items_are_uniform() -> None:
    generator = np.random.default_rng(0)
    about = type("About", (), {"n": 2000})()
    calibrated = scoring.Calibrated(about, {"s": np.sort(generator.normal(size=2000))})
    assert stats.kstest(calibrated.p_values("s", generator.normal(size=2000)), "uniform").pvalue > 0.001


def test_the_shipped_digits_calibration_holds_on_test_items(shipped: dict[str, Model], digits: Data) -> None:
    """With 200 calibration and 300 test digits, the measured rate at 10% lies in the joint confidence interval."""
    model = shipped[CONDITIONAL]
    assert isinstance(model.manifest.spec, ImageSpec)
    p = model.calibrated.p_values(
        "nll", model.score(imaging.from_uint8(Arrays.of(digits.test).items, model.manifest.spec)).terms["nll"]
    )
    realised = (p <= 0.1).mean()
    assert abs(realised - 0.1) < 3.5 * np.sqrt(0.1 * 0.9 * (1 / 200 + 1 / 300))
    noise = np.random.default_rng(0).integers(0, 4, (50, 1, 8, 8)).astype(np.float32) / 3
    assert (model.calibrated.p_values("nll", model.score(noise).terms["nll"]) < 0.01).all()
