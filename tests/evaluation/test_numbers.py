"""The mathematical properties of the evaluator's metrics, and their independence of the batch size."""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from manifold.evaluation import evaluate_images, extractors, frechet, images, reference
from manifold.evaluation.errors import EvaluationError
from manifold.evaluation.extractors import Extractor
from manifold.evaluation.images import ImageArray
from manifold.evaluation.reference import Reference
from manifold.evaluation.statistics import of_rows
from manifold.runtime import engine, imaging
from manifold.runtime.kinds.image import ImageSpec
from tests.conftest import SHIPPED
from tests.evaluation.helpers import RealArrays, scores

Array = NDArray[Any]


# --- properties of the metrics ---


def test_a_set_against_itself(extractor: Extractor, real: RealArrays, held: Reference) -> None:
    found = scores(ImageArray(real.test.pixels, real.test.labels), held, extractor)
    assert found["fd_classifier"] < 1e-9
    assert found["precision"] == found["recall"] == 1
    # unbiased: the estimate for a set against itself is negative, because the diagonal is excluded
    assert found["kid"] < 0
    assert found["class_accuracy"] > 0.98


def blurred(pixels: Array, times: int) -> Array:
    """Blur the pixels with [1 2 1] in both directions, the given number of times."""
    x = pixels.astype(float)
    for _ in range(times):
        for axis in (2, 3):
            x = (np.roll(x, 1, axis) + 2 * x + np.roll(x, -1, axis)) / 4
    spoiled: Array = np.rint(x).astype(np.uint8)
    return spoiled


def noisy(pixels: Array, level: int) -> Array:
    noise = np.random.Generator(np.random.Philox(0)).normal(size=pixels.shape) * 20 * level
    spoiled: Array = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return spoiled


@pytest.mark.parametrize("spoil", [blurred, noisy])
def test_the_distance_grows_with_noise_and_blur(
    spoil: Any, extractor: Extractor, real: RealArrays, held: Reference
) -> None:
    found = [
        scores(ImageArray.of(spoil(real.test.pixels, level)), held, extractor)["fd_classifier"] for level in range(6)
    ]
    assert found[0] < 1e-9
    assert all(after > before for before, after in itertools.pairwise(found)), found


def test_one_class(extractor: Extractor, pool: ImageArray, held: Reference) -> None:
    found = scores(ImageArray.of(pool.pixels[pool.labels == 6]), held, extractor)
    assert found["is_marginal"] == pytest.approx(1, abs=0.05)
    assert found["is_prior"] > 8
    assert found["class_divergence"] > 2
    assert found["recall"] < 0.3


def test_recall_drops_as_classes_are_removed(extractor: Extractor, pool: ImageArray, held: Reference) -> None:
    found = []
    for classes in (10, 7, 4, 1):
        kept = pool.labels < classes
        found.append(scores(ImageArray.of(pool.pixels[kept][:400]), held, extractor))
    recalls = [each["recall"] for each in found]
    assert all(after < before - 0.1 for before, after in itertools.pairwise(recalls)), recalls
    assert min(each["precision"] for each in found) > 0.8


def test_one_repeated_image_is_caught(extractor: Extractor, real: RealArrays, held: Reference) -> None:
    found, _, _ = evaluate_images.evaluate_images(
        ImageArray.of(np.repeat(real.test.pixels[:1], 300, axis=0)), held, extractor
    )
    assert found.metrics["duplicates"] > 0.99
    half = np.zeros((4, 8, 8), np.uint8)
    half[0] = 1
    assert extractors.extract(extractor, ImageArray.of(half)).duplicates == 0.5
    assert found.metrics["recall"] < 0.05
    assert found.metrics["fd_classifier"] > 10 * found.anchors["perfect_generator"]["resampled"]
    assert any("exact copies" in warning for warning in found.warnings)
    assert any("no image was assigned to these classes" in warning for warning in found.warnings)


def test_kid_between_halves(extractor: Extractor, pool: ImageArray) -> None:
    order = np.random.Generator(np.random.Philox(0)).permutation(pool.n)
    halves = [ImageArray(pool.pixels[part], pool.labels[part]) for part in (order[:898], order[898:])]
    held = reference.of_source(extractor, halves[0], "half")
    found = scores(halves[1], held, extractor)
    assert abs(found["kid"]) < 3 * found["kid_se"]


@pytest.mark.parametrize("spectrum", [[2.0], [3.0, 1.0, 0.5], [1.0] * 8])
def test_the_expected_floor_is_the_formula_written_out(spectrum: list[float]) -> None:
    pairs = sum(
        a * b * (1 + (i == j)) / (a + b) for i, a in enumerate(spectrum) for j, b in enumerate(spectrum)
    )  # the factor (1 + δ) of the docstring
    expected = (1 / 50 + 1 / 70) * (sum(spectrum) + pairs / 2)
    assert frechet.expected_floor(np.asarray([*spectrum, 0.0, -1e-9]), 50, 70) == pytest.approx(expected)


def test_samples_of_one_gaussian_are_as_far_apart_as_expected() -> None:
    """The δ term is a sixth of the floor in one dimension. The mean of 4000 pairs of samples has an error of 1.6%."""
    generator = np.random.Generator(np.random.Philox(0))
    found = [
        frechet.distance(*(of_rows(generator.normal(0, 2.0, (n, 1)).astype(np.float32)) for n in (50, 70)))
        for _ in range(4000)
    ]
    assert np.mean(found) == pytest.approx(frechet.expected_floor(np.asarray([4.0]), 50, 70), rel=0.06)


def test_real_images_score_what_a_perfect_generator_would(extractor: Extractor, pool: ImageArray) -> None:
    rows = extractors.extract(extractor, pool).rows
    generator = np.random.Generator(np.random.Philox(1))
    found = []
    for _ in range(20):
        order = generator.permutation(pool.n)
        found.append(frechet.distance(*(of_rows(rows[part]) for part in (order[:898], order[898:]))))
    resampled, deviation = frechet.resampled_floor(rows, 898, 899, seed=0, repeats=20)
    closed_form = frechet.expected_floor(of_rows(rows).spectrum, 898, 899)
    assert np.mean(found) == pytest.approx(resampled, rel=0.3)
    assert closed_form == pytest.approx(resampled, rel=0.3)
    assert deviation < resampled


# --- extraction ---


def test_nothing_depends_on_the_batch(extractor: Extractor, real: RealArrays, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for batch, workers in ((128, None), (1, None), (37, {0}), (1000, {0, 1, 2})):
        if workers:
            monkeypatch.setattr(os, "sched_getaffinity", lambda _, workers=workers: workers)
        features = extractors.extract(extractor, real.test, batch=batch)
        found.append(
            (features.gaussian.mean.tobytes(), features.gaussian.covariance.tobytes(), features.rows.tobytes())
        )
    assert len(set(found)) == 1


def test_generated_images_are_what_the_service_sends(extractor: Extractor) -> None:
    model = engine.load(SHIPPED / "digits-pixelcnn", device="cpu")
    source = images.Generated(model, 20, seed=5)
    pixels = np.concatenate([np.asarray(source.batch(start, start + 10).pixels) for start in (0, 10)])
    samples = model.sample(20, seed=5)
    assert isinstance(model.manifest.spec, ImageSpec)
    assert np.array_equal(pixels, imaging.to_uint8(samples.data, model.manifest.spec))
    assert samples.condition is not None
    assert np.array_equal(source.batch(0, 20).labels, samples.condition.argmax(axis=1))


def test_features_are_cached_by_content(
    extractor: Extractor, real: RealArrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = reference.of_source(extractor, real.test, "test")
    monkeypatch.setattr(reference, "extract", lambda *_, **__: pytest.fail("went through the extractor again"))
    again = reference.of_source(extractor, ImageArray(real.test.pixels.copy(), real.test.labels), "test")
    assert again.origin["sha256"] == first.origin["sha256"]
    assert np.array_equal(again.gaussian.covariance, first.gaussian.covariance)
    assert again.features is not None
    assert first.features is not None
    assert np.array_equal(again.features.rows, first.features.rows)
    changed = real.test.pixels.copy()
    changed[0, 0, 0, 0] ^= 255
    with pytest.raises(pytest.fail.Exception):
        reference.of_source(extractor, ImageArray(changed, real.test.labels), "test")


def test_a_damaged_cache_is_made_anew(extractor: Extractor, real: RealArrays) -> None:
    first = reference.of_source(extractor, real.test, "test")
    (path,) = reference.cache_folder().iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    assert np.array_equal(reference.of_source(extractor, real.test, "test").gaussian.mean, first.gaussian.mean)


def test_grey_images_for_a_colour_extractor_and_resizing(extractor: Extractor) -> None:
    manifest_ = extractor.model.manifest
    colour = Extractor(extractor.model, "torch-bilinear")
    assert isinstance(manifest_.data, ImageSpec)
    colour.spec = manifest_.data.model_copy(update={"channels": 3, "height": 16, "width": 12})
    edge = colour.edge(np.full((2, 1, 8, 8), 255, np.uint8))
    assert edge.shape == (2, 3, 16, 12)
    assert edge.dtype == np.float32
    assert np.allclose(edge, 1)
    with pytest.raises(EvaluationError, match="choose one of torch-bilinear, tf1-bilinear, pil-bicubic"):
        extractor.edge(np.zeros((1, 1, 16, 16), np.uint8))
    with pytest.raises(EvaluationError, match="these are in colour"):
        extractor.edge(np.zeros((1, 3, 8, 8), np.uint8))


def test_resize_modes_are_those_they_are_named_after() -> None:
    import torch
    from PIL import Image

    from manifold.evaluation import resize

    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 13, 9), dtype=np.uint8)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).float(), (29, 31), mode="bilinear", align_corners=False
    )
    assert np.abs(resize.resize(pixels, 29, 31, "torch-bilinear") - expected.numpy()).max() < 1e-3
    bicubic = resize.resize(pixels, 29, 31, "pil-bicubic")
    plane = np.asarray(Image.fromarray(pixels[1, 2].astype(np.float32)).resize((31, 29), Image.Resampling.BICUBIC))
    assert np.array_equal(bicubic[1, 2], plane.clip(0, 255))
    ramp = np.arange(4, dtype=np.uint8)[None, None, None] * 10
    tf1 = resize.resize(ramp, 1, 8, "tf1-bilinear")[0, 0, 0]
    assert tf1.tolist() == [0, 5, 10, 15, 20, 25, 30, 30]  # corner-aligned: position x of 8 reads the input at x / 2
    half_pixel = resize.resize(ramp, 1, 8, "torch-bilinear")[0, 0, 0]
    assert half_pixel.tolist() == [0, 2.5, 7.5, 12.5, 17.5, 22.5, 27.5, 30]
