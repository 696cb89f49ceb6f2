"""PixelCNN likelihoods: the order of colours, densities, few levels, masks A and B, and completed images."""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient
from torch import Tensor
from torch.nn import functional as F

from manifold.runtime import imaging, sampling
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import InvalidValue, UnsupportedTask
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.operations.complete import CANDIDATE_STREAM
from manifold.service.http.app import create_app
from manifold.service.settings import Settings
from manifold.training.data import Arrays, Data
from manifold.training.errors import TrainingError
from manifold.training.exporting import graphs
from manifold.training.families import pixelcnn
from manifold.training.families.pixelcnn import Config, GatedPixelCNN
from manifold.training.means import Means, bits_per_dim
from manifold.training.networks.emissions import Mixture
from manifold.training.networks.pixels import AssembleImages
from manifold.training.networks.sampler import Imputer, Sampler
from tests.conftest import tiny_run, wait_until_ready
from tests.shared import export


def pictures(height: int, width: int, channels: int, levels: int = 256, n: int = 60) -> Data:
    """Return random images."""
    generator = np.random.Generator(np.random.Philox(0))
    items = (generator.integers(0, levels, (n, channels, height, width)) * 255 // (levels - 1)).astype(np.uint8)
    part = Arrays(items, generator.integers(0, 3, n))
    spec = ImageSpec(height=height, width=width, channels=channels, levels=levels)
    return Data("pictures", spec, part, part, part, ("a", "b", "c"))


def network(data: Data, **changes: object) -> GatedPixelCNN:
    torch.manual_seed(0)
    config = Config.model_validate({"channels": 8, "layers": 3, "head": 16, **changes})
    return GatedPixelCNN(pixelcnn.resolve(config, data), data).eval()


# --- order ---


def test_shifts_are_masks_a_and_b() -> None:
    """The network's passes equal convolutions with the masks of the papers: A in the first layer, B in the later ones."""
    model = network(pictures(6, 5, 1, 4), layers=1)
    items, condition = torch.randint(0, 4, (2, 6, 5)), torch.zeros(2, 3)
    e = model.emission.embed(items[..., None]).permute(0, 3, 1, 2)

    def masked(x: Tensor, weight: Tensor, bias: Tensor, size: tuple[int, int], corner: tuple[int, int]) -> Tensor:
        kernel = torch.zeros(*weight.shape[:2], *size)
        kernel[:, :, corner[0] : corner[0] + weight.shape[2], corner[1] : corner[1] + weight.shape[3]] = weight
        return F.conv2d(x, kernel, bias, padding=(size[0] // 2, size[1] // 2))

    def row(linear: torch.nn.Module) -> tuple[Tensor, Tensor]:
        """Return a product of two adjacent columns as a kernel of one row and two columns."""
        weight, bias = linear.weight, linear.bias
        assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
        return weight.view(len(weight), 2, -1).permute(0, 2, 1)[:, :, None], bias

    layer = model.layers[0]
    first = model.first_vertical
    v = masked(e, first.weight, first.bias, (5, 3), (0, 0))  # type: ignore[arg-type] # rows r - 2 and r - 1 of five: A
    h = masked(e, *row(model.first_horizontal), (1, 5), (0, 0))  # mask A: columns c - 2 and c - 1 of five
    p = masked(v, layer.vertical.weight, layer.vertical.bias, (3, 3), (0, 0))  # type: ignore[arg-type] # rows r - 1 and r of three: B
    q = masked(h, *row(layer.horizontal), (1, 3), (0, 0)) + F.conv2d(p, layer.link.weight, layer.link.bias)
    a, b = q.chunk(2, 1)
    out = layer.out(  # the residual and skip outputs
        (torch.tanh(a) * torch.sigmoid(b)).permute(0, 2, 3, 1)
    ).permute(0, 3, 1, 2)
    expected = out.chunk(2, 1)[1]
    assert torch.allclose(model.features(items[..., None], condition), expected, atol=1e-5)


@pytest.mark.parametrize("likelihood", ["softmax", "logistic-mixture", "mixture"])
def test_a_colour_sees_the_pixels_before_it_and_the_colours_before_it(likelihood: str) -> None:
    model = network(pictures(3, 4, 3, 8), likelihood=likelihood, layers=5)
    images = torch.rand(1, 3, 3, 4)
    items, condition = model.settle(images), torch.zeros(1, 3)
    with torch.no_grad():
        base = model.parameters_of(items, condition)[0]  # (H, W, S, K)
        for row, column, part in itertools.product(range(3), range(4), range(3)):
            changed = items.clone()
            changed[0, part, row, column] = (
                0.987 if likelihood == "mixture" else (changed[0, part, row, column] + 3) % 8
            )
            moved = (model.parameters_of(changed, condition)[0] - base).abs().amax(-1) > 1e-7
            order = torch.arange(36).view(3, 4, 3)  # raster order of pixels; R, G, B within each
            later = order > (row * 4 + column) * 3 + part
            assert not (moved & ~later).any()
            assert moved[later].all(), (row, column, part)


@pytest.mark.parametrize("likelihood", ["softmax", "logistic-mixture"])
def test_probabilities_of_all_colour_images_sum_to_one(likelihood: str) -> None:
    model = network(pictures(1, 2, 3, 3), likelihood=likelihood)
    every = torch.tensor(list(itertools.product(range(3), repeat=6))).view(-1, 3, 1, 2)
    with torch.no_grad():
        total = torch.exp(-model.nll(every, torch.zeros(len(every), 3)).double().flatten(1).sum(1)).sum()
    assert float(total) == pytest.approx(1, abs=1e-5)


# --- densities ---


def test_a_mixture_is_a_density_on_the_unit_interval_and_draws_by_it() -> None:
    torch.manual_seed(0)
    mixture = Mixture(3, 1, 4, 8).double()
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter.mul_(4)
        features = torch.randn(1, 4, dtype=torch.float64)
        places = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
        parameters = mixture.parameters_of(features.expand(len(places), -1), places[:, None])
        density = torch.exp(-mixture.nll(parameters, places[:, None])[:, 0])
        assert float(density.mean()) == pytest.approx(1, abs=1e-4)
        uniforms = torch.rand(20_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        drawn = mixture.pick(features.expand(len(uniforms), -1), uniforms, torch.ones(len(uniforms)))[:, 0]
        cdf = density.cumsum(0) / len(places)
        at = cdf[(drawn * len(places)).long().clamp(max=len(places) - 1)].sort().values
        gap = (at - (torch.arange(len(at)) + 0.5) / len(at)).abs().max()
    assert float(gap) < 1.63 / math.sqrt(len(at))  # Kolmogorov-Smirnov test at 1%


def test_a_density_of_two_colours_integrates_to_one() -> None:
    torch.manual_seed(1)
    mixture = Mixture(2, 3, 4, 8).double()
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter.mul_(2)
        places = (torch.arange(60, dtype=torch.float64) + 0.5) / 60
        grid = torch.cartesian_prod(places, places, places)
        parameters = mixture.parameters_of(torch.randn(1, 4, dtype=torch.float64).expand(len(grid), -1), grid)
        total = torch.exp(-mixture.nll(parameters, grid).sum(1)).mean()
    assert float(total) == pytest.approx(1, abs=5e-3)


def test_bits_of_levels_and_of_densities_are_comparable() -> None:
    """A density that is constant within each level's interval has the same bits as the levels."""
    levels, density, nats = Means(), Means(), torch.tensor([5.0, 6.0])
    levels.add({"nll": nats})
    density.add(
        {"nll": nats - 4 * math.log(16)}
    )  # a density that is 16 times a level's probability, at each of 4 pixels
    found = [bits_per_dim(levels, "nll", 4, {}), bits_per_dim(density, "nll", 4, {}, more=4.0)]
    assert found[0].value == pytest.approx(5.5 / 4 / math.log(2), abs=1e-4)
    assert found[1].value == pytest.approx(found[0].value, abs=1e-4)
    assert found[0].se == found[1].se == pytest.approx(0.5 / 4 / math.log(2), abs=1e-4)


def test_dequantised_values_lie_in_their_levels_interval() -> None:
    model = network(pictures(4, 4, 1, 8), likelihood="mixture")
    images = torch.from_numpy(Arrays.of(pictures(4, 4, 1, 8).train).items).float() / 255
    generator = torch.Generator().manual_seed(0)
    seen = torch.cat([model.observe(images, generator) for _ in range(20)])
    level = torch.round(images * 7).repeat(20, 1, 1, 1)
    assert torch.equal(torch.floor(seen * 8).clamp(max=7), level)
    assert float((seen * 8 - level).mean()) == pytest.approx(0.5, abs=0.01)


def test_rounding_by_chance_keeps_the_mean_and_the_graph_rounds_to_the_nearest() -> None:
    data = pictures(8, 8, 1)
    model = network(data, levels=2)
    images = torch.full((4000, 1, 8, 8), 0.3)
    drawn = model.observe(images, torch.Generator().manual_seed(0))
    assert set(drawn.unique().tolist()) == {0, 1}
    assert float(drawn.float().mean()) == pytest.approx(0.3, abs=0.003)
    assert model.settle(images[:1]).sum() == 0
    assert model.spec.levels == 2
    fixed = network(data, levels=2, dynamic=False)
    assert fixed.observe(images, torch.Generator()).sum() == 0
    with pytest.raises(TrainingError, match="more than the 4"):
        network(pictures(4, 4, 1, 4), levels=8)
    with pytest.raises(TrainingError, match="use 2 to 256"):
        Config(levels=1)


# --- sampling ---


def naive(model: GatedPixelCNN, uniforms: Tensor, condition: Tensor) -> Tensor:
    """Sample with a full pass for every position, (B, H, W, S)."""
    kind = torch.long if model.emission.integers else torch.float32
    values = torch.zeros(len(uniforms), model.height, model.width, model.parts, dtype=kind)
    places = model.height * model.width
    with torch.no_grad():
        for place in range(places):
            row, column = divmod(place, model.width)
            features = model.features(values, condition)[:, :, row, column]
            mine = uniforms.view(len(uniforms), -1, places)[:, :, place]
            values[:, row, column] = model.emission.pick(features, mine, torch.ones(len(uniforms)))
    return values


@pytest.mark.parametrize(
    ("channels", "likelihood"), [(3, "softmax"), (1, "mixture"), (3, "mixture"), (3, "logistic-mixture")]
)
def test_cached_sampling_of_colours_and_densities_is_naive_sampling(
    tmp_path: Path, channels: int, likelihood: str
) -> None:
    """Sampling is tested in torch, and of the mixtures of colours also as an ONNX graph."""
    model = network(pictures(4, 3, channels, 16), likelihood=likelihood)
    uniforms = torch.rand(5, model.uniforms, generator=torch.Generator().manual_seed(1))
    condition = torch.eye(3)[[0, 1, 2, 0, 1]]
    expected = naive(model, uniforms, condition).permute(0, 3, 1, 2)
    sampler = Sampler(model, AssembleImages(model)).eval()
    with torch.no_grad():
        codes, items = sampler(uniforms, condition, torch.ones(5))
    assert torch.allclose(codes.view(expected.shape).double(), expected.double(), atol=1e-5)
    assert set(np.unique(np.round(items.numpy() * 15, 4) % 1)) == {0.0}  # the values are levels
    if (channels, likelihood) not in ((3, "mixture"), (3, "logistic-mixture")):
        return
    graphs.save_onnx({"sample": sampler.to_onnx()}, tmp_path)
    session = onnxruntime.InferenceSession(str(tmp_path / "sample.onnx"))
    given = {"uniforms": uniforms.numpy(), "condition": condition.numpy(), "temperature": np.ones(5, np.float32)}
    found = session.run(["codes", "data"], given)
    assert np.allclose(found[0].reshape(expected.shape), expected.numpy(), atol=1e-5)
    assert np.allclose(found[1], items.numpy(), atol=1e-5)


def test_what_is_known_is_kept_and_the_rest_follows_from_it() -> None:
    """The loop with known pixels equals naive sampling that is conditioned on them. Export compares the graph with torch."""
    model = network(pictures(4, 3, 3, 8))
    generator = torch.Generator().manual_seed(1)
    uniforms, condition = torch.rand(4, model.uniforms, generator=generator), torch.eye(3)[[0, 1, 2, 0]]
    data, mask = (
        torch.rand(4, 3, 4, 3, generator=generator),
        (torch.rand(4, 1, 4, 3, generator=generator) < 0.5).float(),
    )
    known = model.settle(data).permute(0, 2, 3, 1)
    values = torch.zeros(4, 4, 3, 3, dtype=torch.long)
    with torch.no_grad():
        for place in range(12):
            row, column = divmod(place, 3)
            mine = uniforms.view(4, 3, 12)[:, :, place]
            picked = model.emission.pick(model.features(values, condition)[:, :, row, column], mine, torch.ones(4))
            values[:, row, column] = torch.where(mask[:, 0, row, column, None] > 0, known[:, row, column], picked)
        imputer = Imputer(Sampler(model, AssembleImages(model)), model.nearest).eval()
        codes, _ = imputer(uniforms, condition, torch.ones(4), data, mask)
    assert torch.equal(codes.permute(0, 2, 3, 1), values)


# --- artifacts ---


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, digits: Data) -> Path:
    """Return four models. colour: three channels of 4 levels; density: a mixture; binary: digits at two levels; tiny: 2x2 at two levels."""
    root = tmp_path_factory.mktemp("pixels")
    colour, small = pictures(4, 4, 3, 4, 300), pictures(2, 2, 1, 2, 300)
    for name, data, changes in (
        ("colour", colour, {}), ("density", digits, {"likelihood": "mixture", "components": 2}), ("binary", digits, {"levels": 2}),
        ("small", small, {"conditional": False, "epochs": 1}),
    ):  # fmt: skip
        run = tiny_run(root / "runs" / name, "pixelcnn", data, **changes)
        export(run, name, root / "models", data=data, backend="torchscript")
    return root / "models"


def test_artifacts_sample_score_and_say_what_they_are(made: Path) -> None:
    shapes = {"colour": (3, 4, 4), "density": (1, 8, 8), "binary": (1, 8, 8), "small": (1, 2, 2)}
    for name, shape in shapes.items():
        model = load(made / name, device="cpu")
        samples = model.sample(6, seed=2)
        assert samples.data.shape == (6, *shape)
        assert np.array_equal(model.sample(1, seed=2, first=3).data[0], samples.data[3])
        scores = model.score(samples.data)
        assert scores.surprise is not None
        assert scores.surprise.shape == samples.data.shape
        assert "impute" in model.manifest.tasks
    binary = load(made / "binary", device="cpu")
    assert isinstance(binary.manifest.spec, ImageSpec)
    assert binary.manifest.spec.levels == 2
    assert set(np.unique(binary.sample(4, seed=0).data)) <= {0.0, 1.0}
    density = load(made / "density", device="cpu")
    assert density.manifest.codes is None
    (term,) = density.manifest.scoring.terms  # type: ignore[union-attr]
    assert term.likelihood is not None and not term.likelihood.discrete
    names = {metric.name: metric for metric in density.manifest.metrics}
    assert names["bits_per_dim"].value == pytest.approx(names["nll_density"].value / 64 / math.log(2) + 2, abs=1e-3)
    assert "dequantised" in names["nll_density"].protocol["observed"]


def test_a_completed_image_follows_the_exact_conditional(made: Path) -> None:
    """The test enumerates all 16 images of 2x2 at two levels. The top row is unknown, the bottom row known: raster order alone could not use it."""
    model = load(made / "small", device="cpu")
    every = np.asarray(list(itertools.product((0.0, 1.0), repeat=4)), np.float32).reshape(16, 1, 2, 2)
    p = np.exp(-model.score(every).terms["nll"])
    assert p.sum() == pytest.approx(1, abs=1e-4)
    n = 4000
    mask = np.zeros((n, 1, 2, 2), np.float32)
    mask[:, :, 1] = 1
    given = np.tile(np.asarray([[[[0.0, 0.0], [1.0, 0.0]]]], np.float32), (n, 1, 1, 1))
    found = model.impute(given, mask, seed=5, candidates=32)
    assert np.array_equal(found.data[:, :, 1], given[:, :, 1])
    fits = (every[:, 0, 1] == [1.0, 0.0]).all(axis=1)
    exact = p[fits] / p[fits].sum()
    rows = found.data[:, 0, 0]
    counts = np.asarray([(rows == top).all(axis=1).mean() for top in every[fits][:, 0, 0]])
    assert np.abs(counts - exact).max() < 3.3 * 0.5 / math.sqrt(n)


def test_an_items_completion_depends_on_seed_and_index_alone(made: Path) -> None:
    model = load(made / "binary", device="cpu")
    images, mask = np.random.default_rng(0).random((5, 1, 8, 8), np.float32), np.zeros((5, 1, 8, 8), np.float32)
    mask[:, :, :4] = 1
    whole = model.impute(images, mask, seed=3, candidates=2)
    alone = model.impute(images[4:], mask[4:], seed=3, first=4, candidates=2)
    assert np.array_equal(whole.data[4], alone.data[0])
    assert whole.classes is not None
    assert alone.classes is not None
    assert whole.classes[4] == alone.classes[0]
    told = model.impute(images, mask, seed=3, classes="3")
    assert told.classes is None
    with pytest.raises(InvalidValue, match="masks"):
        model.impute(images, mask[:2])
    with pytest.raises(UnsupportedTask):
        load("models/mnist-vae", device="cpu").impute(images, mask)
    assert CANDIDATE_STREAM > sampling.COMPONENT_STREAM


# --- the service ---


@pytest.fixture(scope="module")
def client(made: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(models_dir=made, device="cpu"))) as client:
        wait_until_ready(client)
        yield client


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def text(pixels: np.ndarray) -> str:
    return base64.b64encode(png(pixels)).decode()


HALF = np.repeat(np.asarray([255] * 4 + [0] * 4, np.uint8)[:, None], 8, axis=1)
DIGIT = (np.arange(64, dtype=np.uint8) * 4).reshape(8, 8)


def decoded(answer: dict[str, list[str]]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(image)))) for image in answer["images"]])


def test_known_pixels_come_back_as_they_were(client: TestClient) -> None:
    body = {"model": "binary", "images": [text(DIGIT)] * 3, "masks": [text(HALF)], "seed": 4}
    answer = client.post("/impute", json=body).json()
    images = decoded(answer)
    assert (images[:, :4] == DIGIT[:4]).all()  # values from 0 to 124 are kept, although the model has two levels
    assert set(np.unique(images[:, 4:])) <= {0, 255}
    assert answer["seed"] == 4
    assert len(answer["classes"]) == 3
    assert len({image.tobytes() for image in images}) > 1  # each image has its own draw
    again = client.post("/impute", json={**body, "images": [text(DIGIT)], "first": 2}).json()
    assert (decoded(again)[0] == images[2]).all()
    told = client.post("/impute", json={**body, "class": "7", "candidates": 1}).json()
    assert told.get("classes") is None
    unseeded = client.post("/impute", json={"model": "binary", "images": [text(DIGIT)], "masks": [text(HALF)]}).json()
    assert isinstance(unseeded["seed"], int)


def test_masks_as_files_arrays_and_pictures_out(client: TestClient) -> None:
    files = [("file", ("a.png", png(DIGIT), "image/png")), ("mask", ("m.png", png(HALF), "image/png"))]
    form = client.post("/impute", files=files, data={"model": "binary", "seed": "4"})
    assert (decoded(form.json())[0][:4] == DIGIT[:4]).all()
    shown = client.post("/impute", files=files, data={"model": "binary", "seed": "4"}, headers={"Accept": "image/png"})
    assert (np.asarray(Image.open(io.BytesIO(shown.content))) == decoded(form.json())[0]).all()
    array = client.post(
        "/impute",
        json={"model": "binary", "images": [text(DIGIT)], "masks": [text(HALF)], "seed": 4, "encoding": "array"},
    ).json()
    assert np.allclose(np.asarray(array["data"])[0, 0] * 255, decoded(form.json())[0], atol=0.01)


def test_a_mask_is_fitted_with_its_image(client: TestClient) -> None:
    large, mask = np.kron(DIGIT, np.ones((4, 4), np.uint8)), np.kron(HALF, np.ones((4, 4), np.uint8))
    answer = client.post(
        "/impute", json={"model": "binary", "images": [text(large)], "masks": [text(mask)], "seed": 4}
    ).json()
    expected = imaging.read_image(png(large), ImageSpec(height=8, width=8, channels=1))[0][0]
    assert (decoded(answer)[0][:4] == expected[:4]).all()
    assert answer["fitted"][0]["steps"]
    odd = mask.copy()
    odd[16, 0] = 255  # one white pixel of sixteen does not make the pixel known
    again = client.post(
        "/impute", json={"model": "binary", "images": [text(large)], "masks": [text(odd)], "seed": 4}
    ).json()
    assert (decoded(again)[0] == decoded(answer)[0]).all()


BAD: list[tuple[dict[str, object], int, str, str]] = [
    ({"images": [text(DIGIT)]}, 422, "masks", "white where the"),
    ({"images": [text(DIGIT)] * 3, "masks": [text(HALF)] * 2}, 422, "masks", "2 masks for 3"),
    (
        {"images": [text(DIGIT)], "masks": [text(HALF[:5])]},
        422,
        "masks[0]",
        "the mask is 8x5, which is not the size of its image; send 8x8",
    ),
    ({"images": [text(DIGIT)], "masks": ["!"]}, 400, "masks[0]", "base64"),
    ({"masks": [text(HALF)]}, 422, "images", "at least one"),
    ({"rows": [[1, 2]], "masks": [text(HALF)]}, 422, "rows", "takes PNG, JPEG or WebP images"),
    ({"images": [text(DIGIT)] * 16, "masks": [text(HALF)]}, 413, "candidates", "every class is tried"),
    ({"images": [text(DIGIT)], "masks": [text(HALF)], "candidates": 65}, 422, "candidates", "64"),
    ({"images": [text(DIGIT)], "masks": [text(HALF)], "class": "x"}, 422, "class", "there is no class"),
]


@pytest.mark.parametrize(("body", "status", "field", "says"), BAD)
def test_what_is_wrong_with_a_request_is_said(
    client: TestClient, body: dict[str, object], status: int, field: str, says: str
) -> None:
    answer = client.post("/impute", json={"model": "binary", **body})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["field"] == field
    assert says in error["message"]


def test_a_model_without_classes_takes_none(client: TestClient) -> None:
    square = np.zeros((2, 2), np.uint8)
    body = {"model": "small", "images": [text(square)], "masks": [text(square)]}
    assert client.post("/impute", json=body).status_code == 200
    refused = client.post("/impute", json={**body, "class": "a"})
    assert refused.status_code == 422
    assert "has no classes" in refused.json()["error"]["message"]


def test_the_model_of_the_library_loads_what_the_service_answers(made: Path, client: TestClient) -> None:
    model: Model = load(made / "colour", device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    mask = np.zeros((4, 4), np.uint8)
    mask[1:3] = 255
    answer = client.post(
        "/impute", json={"model": "colour", "images": [text(pixels)], "masks": [text(mask)], "seed": 9}
    ).json()
    edge = imaging.from_uint8(pixels.transpose(2, 0, 1)[None], model.manifest.spec)  # type: ignore[arg-type]
    found = model.impute(edge, (mask > 0).astype(np.float32)[None, None], seed=9)
    expected = imaging.to_uint8(found.data, model.manifest.spec)[0].transpose(1, 2, 0)  # type: ignore[arg-type]
    assert (decoded(answer)[0] == expected).all()
    assert (decoded(answer)[0][1:3] == pixels[1:3]).all()


def test_draws_of_a_sheet(made: Path) -> None:
    model = network(pictures(4, 4, 3, 8))
    drawn = pixelcnn.draw(model, 5, torch.Generator().manual_seed(0))
    assert drawn is not None
    assert drawn.shape == (5, 3, 4, 4)
