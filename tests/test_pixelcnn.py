"""Causality shown by gradients, probabilities that sum to one, and the cached loop compared with naive sampling."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from manifold.runtime import golden
from manifold.runtime.engine import load
from manifold.runtime.kinds.image import ImageSpec
from manifold.training.batches import Batch
from manifold.training.data import Arrays, Data
from manifold.training.exporting import graphs, loops
from manifold.training.families import pixelcnn
from manifold.training.families.pixelcnn import Config, GatedPixelCNN
from manifold.training.networks.pixels import AssembleImages
from manifold.training.networks.sampler import FreeSampler, Sampler, nothing


def grid(height: int, width: int, levels: int, classes: int = 3) -> Data:
    """Return random images of a small size."""
    generator = np.random.Generator(np.random.Philox(0))
    items = (generator.integers(0, levels, (40, 1, height, width)) * 255 // (levels - 1)).astype(np.uint8)
    part = Arrays(items, generator.integers(0, classes, 40))
    spec = ImageSpec(height=height, width=width, channels=1, levels=levels)
    return Data("grid", spec, part, part, part, tuple("abcdefghij"[:classes]))


def network(data: Data, **changes: object) -> GatedPixelCNN:
    torch.manual_seed(0)
    config = Config.model_validate({"channels": 8, "layers": 3, "head": 16, **changes})
    return GatedPixelCNN(pixelcnn.resolve(config, data), data).eval()


def naive(model: GatedPixelCNN, uniforms: Tensor, condition: Tensor, temperature: Tensor) -> Tensor:
    """Sample with a full pass for every position."""
    codes = torch.zeros(len(uniforms), model.height, model.width, dtype=torch.long)
    for place in range(model.height * model.width):
        row, column = divmod(place, model.width)
        with torch.no_grad():
            logits = model(codes, condition)[:, :, row, column] / temperature[:, None]
        below = logits.softmax(1).cumsum(1) <= uniforms[:, place : place + 1]
        codes[:, row, column] = below.sum(1).clamp(max=model.levels - 1)
    return codes


def test_a_position_sees_all_before_it_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients are taken at a size where the receptive field covers the image, so they also show that there is no blind spot."""
    model = network(grid(5, 5, 2), layers=5)
    embedded = model.emission.embed(torch.zeros(1, 5, 5, 1, dtype=torch.long)).detach().requires_grad_()
    monkeypatch.setattr(model.emission, "embed", lambda values: embedded)
    logits = model(torch.zeros(1, 5, 5, dtype=torch.long), torch.zeros(1, 3))
    for row, column in itertools.product(range(5), range(5)):
        (gradient,) = torch.autograd.grad(logits[0, :, row, column].sum(), embedded, retain_graph=True)
        seen = gradient[0].abs().sum(-1) > 0
        place = torch.arange(25).view(5, 5)
        assert torch.equal(seen, place < row * 5 + column), (row, column)


def test_probabilities_of_all_images_sum_to_one() -> None:
    model = network(grid(2, 3, 3))
    images = torch.tensor(list(itertools.product(range(3), repeat=6))).view(-1, 2, 3)
    with torch.no_grad():
        for y in range(3):
            condition = model.to_condition(torch.full((len(images),), y))
            total = torch.exp(-model.nll(images, condition).double().flatten(1).sum(1)).sum()
            assert float(total) == pytest.approx(1, abs=1e-5)


def drawn_inputs(batch: int, places: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return uniforms, a mixture of 3 classes for each item, and temperatures between 0.5 and 1.5."""
    generator = torch.Generator().manual_seed(1)
    uniforms = torch.rand(batch, places, generator=generator)
    condition = torch.rand(batch, 3, generator=generator).softmax(1)
    return uniforms, condition, torch.linspace(0.5, 1.5, batch)


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("shape", [(7, 7, 16), (8, 8, 4), (3, 5, 2)])
def test_cached_sampling_is_naive_sampling(shape: tuple[int, int, int], batch: int) -> None:
    """This test compares the sampler in torch; the next one compares the graph."""
    model = network(grid(*shape))
    uniforms, condition, temperature = drawn_inputs(batch, shape[0] * shape[1])
    expected = naive(model, uniforms, condition, temperature)
    with torch.no_grad():
        codes, items = Sampler(model, AssembleImages(model)).eval()(uniforms, condition, temperature)
    assert torch.equal(codes, expected)
    assert torch.equal(torch.round(items[:, 0] * (shape[2] - 1)).long(), expected)


def test_the_graph_and_one_split_by_rows_give_the_same_and_let_items_go(tmp_path: Path) -> None:
    """The graph of all rows, in batches of one and of more, equals naive sampling. The graph of one row, run row by row, equals both.

    The network has no classes. The export of the conditional one in tests/conftest.py compares its graph with torch.
    """
    model = network(grid(6, 5, 4), conditional=False)
    sampler = Sampler(model, AssembleImages(model)).eval()
    whole = {"sample": sampler.to_onnx(), **sampler.to_onnx_by_rows()}
    graphs.save_onnx(whole, tmp_path)
    sessions = {name: onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx")) for name in whole}
    names = {name: [output.name for output in session.get_outputs()] for name, session in sessions.items()}
    taken = {name: {tensor.name for tensor in session.get_inputs()} for name, session in sessions.items()}
    alive = []

    def run(part: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = sessions[part].run(names[part], {key: inputs[key] for key in taken[part]})
        found = dict(zip(names[part], outputs, strict=True))
        if part == "row":
            alive.append(len(found["next_prev_row"]))
        return found

    for batch in (1, 7):
        uniforms, _, temperature = drawn_inputs(batch, 30)
        inputs = {"uniforms": uniforms.numpy(), "temperature": temperature.numpy()}
        expected = run("sample", inputs)["codes"]
        assert np.array_equal(expected, naive(model, uniforms, nothing(uniforms), temperature).numpy())
    codes, items, left = loops.by_rows(run, inputs, 6)
    assert np.array_equal(codes, expected)
    assert left.tolist() == list(range(7))

    def keep(row: int) -> np.ndarray:  # items 2 and 5 are dropped after the second row, item 0 after the fourth
        return np.asarray([row < 3, True, row < 1, True, True, row < 1, True])

    alive.clear()
    codes, items, left = loops.by_rows(run, inputs, 6, keep)
    assert left.tolist() == [1, 3, 4, 6]
    assert np.array_equal(codes, expected[left])
    assert len(items) == 4
    assert alive == [7, 7, 5, 5, 4, 4]
    codes, _, left = loops.by_rows(run, inputs, 6, lambda row: np.zeros(7, bool))
    assert (len(codes), len(left)) == (0, 0)


def test_temperature_goes_to_the_most_likely_level() -> None:
    model = network(grid(3, 3, 4))
    uniforms, condition = torch.rand(20, 9, generator=torch.Generator().manual_seed(0)), torch.zeros(20, 3)
    with torch.no_grad():
        codes, _ = Sampler(model, AssembleImages(model))(uniforms, condition, torch.full((20,), 0.001))
        most_likely = model(codes, condition).argmax(1)
    assert torch.equal(codes, most_likely)


def test_a_sheet_draws_the_classes_in_turn() -> None:
    model = network(grid(3, 3, 4))
    drawn = pixelcnn.draw(model, 5, torch.Generator().manual_seed(0))
    uniforms = torch.rand(5, model.uniforms, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        condition = model.to_condition(torch.tensor([0, 1, 2, 0, 1]))
        _, expected = Sampler(model, AssembleImages(model))(uniforms, condition, torch.ones(5))
    assert torch.equal(drawn, expected)


def test_the_test_loss_is_the_exact_likelihood_of_each_item() -> None:
    """For two pixels of two levels, the four images of a class have probabilities that sum to one."""
    data = grid(1, 2, 2)
    model = network(data)
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2))).view(4, 1, 1, 2)
    with torch.no_grad():
        found = pixelcnn.evaluate(model, Batch(every, torch.full((4,), 2), torch.Generator(), 0.0))
    assert found["loss"].shape == (4,)
    assert torch.exp(-found["loss"]).sum().item() == pytest.approx(1, abs=1e-5)


def test_unconditional() -> None:
    data = grid(4, 4, 3)
    model = network(data, conditional=False)
    assert model.classes == 0
    drawn = pixelcnn.draw(model, 3, torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 1, 4, 4)
    assert [metric.name for metric in pixelcnn.report(model, Config(), data)] == ["nll_levels", "bits_per_dim"]
    sampler, uniforms, temperature = Sampler(model, AssembleImages(model)), torch.rand(3, model.uniforms), torch.ones(3)
    with torch.no_grad():
        free, told = FreeSampler(sampler)(uniforms, temperature), sampler(uniforms, torch.zeros(3, 1), temperature)
    assert torch.equal(free[0], told[0])


def test_the_loader_finds_a_sampler_that_does_not_follow_its_logits(tiny: Path) -> None:
    model = load(tiny / "models/pixelcnn", device="cpu")
    vectors = golden.read(model.folder, model.manifest)
    inputs = {role: vectors[f"sample.in.{role}"] for role in ("uniforms", "condition", "temperature")}
    outputs = model.run("sample", inputs)
    assert golden.check_sampler(model.run, inputs, outputs, "logits") == []
    flipped = {**inputs, "uniforms": 1 - inputs["uniforms"]}
    assert golden.check_sampler(model.run, flipped, outputs, "logits")


def test_a_sampler_is_compared_with_logits_of_any_size() -> None:
    """The logits of two positions differ by 2000, and a wrong code is found in each."""
    logits = np.asarray([[[1000.0, -1000.0], [1001.0, -1001.0]]])  # (1, 2 codes, 2 positions)
    inputs = {"uniforms": np.asarray([[0.5, 0.5]])}  # picks the second code at the first position, then the first code
    for codes, wrong in (([[1, 0]], 0), ([[0, 0]], 1), ([[1, 1]], 1), ([[0, 1]], 2)):
        outputs = {"codes": np.asarray(codes), "data": np.zeros((1, 2))}
        found = golden.check_sampler(lambda *_: {"logits": logits}, inputs, outputs, "logits")
        said = f"sample.codes: {wrong} of 2 codes differ from the codes of one parallel pass"
        assert found == ([said] if wrong else []), codes


def test_torchscript_sampler_gives_the_same_codes(tiny: Path) -> None:
    graph, script = (load(tiny / f"models/{name}", device="cpu") for name in ("pixelcnn", "pixelcnn-ts"))
    a, b = (model.sample(9, seed=5).codes for model in (graph, script))
    assert a is not None
    assert b is not None
    assert np.array_equal(a, b)
