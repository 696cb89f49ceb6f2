"""The terms of the anomaly score that describe images by their edges."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import multivariate_normal
from torch import nn

from manifold.runtime.manifest import InputSpec, TensorSpec
from manifold.training.data import Arrays, Data
from manifold.training.detectors import edges
from manifold.training.exporting import graphs
from manifold.training.exporting.tasks import Task
from manifold.training.families import vae
from manifold.training.scores import rules
from manifold.training.scores.options import ScoreOptions

Array = NDArray[Any]


def options(**changes: Any) -> ScoreOptions:
    return ScoreOptions.model_validate(changes)


def images(n: int, height: int = 28, width: int = 28, channels: int = 1, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (n, channels, height, width), dtype=np.uint8)


def of_definition(image: Array, height: int, width: int) -> Array:
    """Describe one grey image (H, W) in [0, 1] with loops in float64."""
    n, places = edges.RADIUS, np.arange(-edges.RADIUS, edges.RADIUS + 1)
    bell = np.exp(-(places**2) / (2 * edges.BLUR**2))
    bell /= bell.sum()
    slope = places * bell / np.abs(places * bell).sum()
    padded = np.pad(image, n, mode="edge")
    across, down = np.zeros_like(image), np.zeros_like(image)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            window = padded[y : y + 2 * n + 1, x : x + 2 * n + 1]
            across[y, x], down[y, x] = bell @ window @ slope, slope @ window @ bell
    cells = []
    for direction in range(edges.DIRECTIONS):
        angle = 2 * math.pi * direction / edges.DIRECTIONS
        strength = np.maximum(math.cos(angle) * across + math.sin(angle) * down, 0)
        whole = np.pad(strength, ((height // 2, height - height // 2), (width // 2, width - width // 2)))
        cells += [
            whole[y : y + 2 * height, x : x + 2 * width].mean()
            for y in range(0, (image.shape[0] // height) * height, height)
            for x in range(0, (image.shape[1] // width) * width, width)
        ]
    roots = np.sqrt(np.array(cells) + edges.WEAK) - math.sqrt(edges.WEAK)
    return np.asarray(roots / (np.linalg.norm(roots) + edges.EMPTY))


@pytest.mark.parametrize(
    ("shape", "cell"), [((28, 28), (4, 4)), ((8, 8), (1, 1)), ((28, 20), (4, 3)), ((9, 3), (2, 1)), ((1, 1), (1, 1))]
)
def test_edges_equal_their_definition(shape: tuple[int, int], cell: tuple[int, int]) -> None:
    module = edges.Edges(*shape)
    assert module.cell == cell
    some = torch.from_numpy(images(3, *shape)).float() / 255
    found = module(some)
    assert found.shape == (3, module.size)
    expected = np.stack([of_definition(each[0].double().numpy(), *cell) for each in some])
    assert np.allclose(found.numpy(), expected, atol=5e-5)  # roots of rounding errors, where there are no edges


def test_edges_see_directions_and_no_contrast() -> None:
    """A step to the right differs from a step to the left, and half the contrast changes little; an image without edges has no description."""
    module = edges.Edges(28, 28)
    step = torch.zeros(1, 1, 28, 28)
    step[..., 14:] = 1
    right, left, half, flat = (module(each)[0] for each in (step, 1 - step, 0.5 * step, 0 * step + 0.7))
    assert float(right @ left) < 0.8
    assert float(right @ half / half.norm()) > 0.99
    assert float(flat.abs().max()) < 1e-3
    by_direction = right.view(edges.DIRECTIONS, -1).sum(1)
    assert int(by_direction.argmax()) == 0  # towards the brighter side
    assert float(by_direction[edges.DIRECTIONS // 2]) < 1e-3
    colour = torch.cat([step, step, step], 1)
    assert torch.allclose(module(colour)[0], right, atol=1e-6)


def test_terms_equal_their_definition(digits: Data) -> None:
    """The nearest distance and the density, computed in float64 from the fitted numbers."""
    chosen = np.arange(50)
    module = edges.fit(digits.train, chosen, options(stored="float32"))
    data = torch.from_numpy(Arrays.of(digits.test).items[:6]).float() / 255
    near, nats = (each.double().numpy() for each in module(data))
    space = module.space
    directions, size = space.directions.double().numpy(), module.edges.size
    assert np.allclose(directions.T @ directions, np.eye(directions.shape[1]), atol=1e-5)

    def placed(items: torch.Tensor) -> tuple[Array, Array]:
        away = (module.edges(items) - space.centre).double().numpy() / space.scale
        inside = away @ directions
        return inside, np.linalg.norm(away - inside @ directions.T, axis=1)

    def whitened(inside: Array, outside: Array) -> Array:
        deviations: Array = space.deviations.double().numpy()
        return np.concatenate([inside / deviations, outside[:, None] / math.sqrt(space.variance)], 1)

    inside, outside = placed(data)
    held = whitened(*placed(torch.from_numpy(Arrays.of(digits.train).items[chosen]).float() / 255))
    distances = np.linalg.norm(whitened(inside, outside)[:, None] - held[None], axis=2).min(1)
    assert np.allclose(near, distances, rtol=1e-3)

    mixture = module.mixture
    covariances = np.linalg.inv(mixture.precisions.double().numpy())
    means = mixture.means.double().numpy()
    rest = -0.5 * (outside**2 / space.variance + (size - inside.shape[1]) * math.log(2 * math.pi * space.variance))
    constants = mixture.constants.double().numpy() + 0.5 * np.linalg.slogdet(covariances)[1]
    constants += 0.5 * inside.shape[1] * math.log(2 * math.pi)
    assert np.exp(constants).sum() == pytest.approx(1, abs=1e-2)  # the weights
    joint = np.stack(
        [
            constant + multivariate_normal.logpdf(inside, mean, covariance)
            for constant, mean, covariance in zip(constants, means, covariances, strict=True)
        ]
    )
    assert np.allclose(nats, -(np.logaddexp.reduce(joint, axis=0) + rest), rtol=1e-3, atol=0.2)


def test_stored_precision_is_that_of_the_artifact(digits: Data) -> None:
    module = edges.fit(digits.train, np.arange(20), options(stored="float16"))
    assert module.nearest is not None
    for values in (module.space.centre, module.space.directions, module.space.deviations, module.nearest.points):
        assert torch.equal(values, values.half().float())
    assert edges.fit(digits.train, np.arange(0), options()).nearest is None


def test_images_are_read_in_batches(digits: Data) -> None:
    """At most ROWS images are described at the same time as numbers, and at most BATCH are decoded at once."""
    read: list[int] = []

    class Watched:
        labels, factors = np.zeros(20_000, np.int64), None

        def __len__(self) -> int:
            return 20_000

        def batch(self, indices: Array) -> Arrays:
            read.append(len(indices))
            return Arrays.of(digits.train)[indices % len(digits.train)]

    edges.fit(Watched(), np.arange(700), options())
    assert max(read) <= edges.BATCH
    assert sum(n for n in read if n > 1) == edges.ROWS + 700  # single images tell the size


def test_graph_equals_torch(digits: Data, tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.terms = edges.fit(digits.train, np.arange(100), options(stored="float16"))

        def forward(self, data: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(self.terms(data))

    module, shape = Both(), digits.spec.shape
    names = ["edge_neighbours", "edge_mixture"]
    task = Task(module, [InputSpec(role="data", source="data", shape=shape)], [TensorSpec(role=name) for name in names])
    data = torch.from_numpy(Arrays.of(digits.test).items[:7]).float() / 255
    graphs.save_onnx({"score": graphs.task_to_onnx(task, [data[:3]])}, tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "score.onnx", providers=["CPUExecutionProvider"])
    for some in (data, 1 - data[:2], 0 * data[:1]):
        for found, expected in zip(session.run(names, {"data": some.numpy()}), module(some), strict=True):
            assert np.allclose(found, expected.numpy(), rtol=1e-4, atol=1e-3)


def test_other_shapes_are_anomalous(digits: Data) -> None:
    """Upside-down digits, and one digit in training against the others."""
    from sklearn.metrics import roc_auc_score

    train, test = Arrays.of(digits.train), Arrays.of(digits.test)
    module = edges.fit(train[train.labels == 4], np.arange(100), options())
    with torch.no_grad():
        for values in module(torch.from_numpy(test.items).float() / 255):
            assert roc_auc_score(test.labels != 4, values.numpy()) > 0.97


def test_the_score_task_has_the_terms(digits: Data) -> None:
    for references, names in ((30, ["edge_neighbours", "edge_mixture"]), (0, ["edge_mixture"])):
        config = vae.resolve(vae.Config(hidden=(16,), latent_dim=2, references=references), digits)
        assert config.score == rules.default(digits.spec, references, True) == f"fisher:squared_error,{','.join(names)}"
        model = vae.build(config, digits)
        task = vae.exports(model, config, digits).tasks["score"]
        listed = [output.role for output in task.outputs]
        assert listed[-1 - len(names) : -1] == names
        data = torch.from_numpy(Arrays.of(digits.test).items[:4]).float() / 255
        with torch.no_grad():
            found = dict(zip(listed, task.module(data), strict=True))
            alone = vae.placement(model, config, digits.train).edges
            assert alone is not None
            for name, expected in zip(names, alone(data), strict=True):
                assert torch.allclose(found[name], expected, rtol=1e-5)


def test_images_of_one_description_have_finite_terms() -> None:
    same = Arrays(np.zeros((40, 3, 16, 12), np.uint8), np.zeros(40, np.int64))
    module = edges.fit(same, np.arange(5), options())
    for data in (torch.zeros(2, 3, 16, 12), torch.rand(2, 3, 16, 12, generator=torch.Generator().manual_seed(0))):
        assert all(torch.isfinite(values).all() for values in module(data))
