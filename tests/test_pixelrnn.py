"""PixelRNNs: causality shown by gradients, the papers' equations by definition, probabilities that sum to one, and fast sampling against naive."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifold.runtime import golden
from manifold.runtime.engine import load
from manifold.training.batches import Batch
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.exporting import graphs
from manifold.training.families import pixelrnn
from manifold.training.families.pixelrnn import Config
from manifold.training.networks.pixels import AssembleImages
from manifold.training.networks.recurrent import Direction, RowLayer, cell, shift_down, skew, unskew
from manifold.training.networks.sampler import Imputer, Sampler, nothing
from tests.conftest import tiny_run
from tests.shared import export
from tests.test_pixelcnn import drawn_inputs, grid, naive

BODIES = ("row", "diagonal")


def network(data: Data, **changes: object) -> Any:
    torch.manual_seed(0)
    config = Config.model_validate({"channels": 6, "layers": 2, "head": 16, **changes})
    return pixelrnn.build(pixelrnn.resolve(config, data), data).eval()


# --- causality ---


def row_reach(height: int, width: int, layers: int) -> np.ndarray:
    """Return the positions that reach each position through a Row LSTM, by its definition: (H, W, H, W) bool."""
    rows, columns = np.mgrid[:height, :width]
    seen = np.zeros((height, width, height, width), bool)
    for r, c in itertools.product(range(height), range(width)):
        near = (abs(columns - c) <= 3) & (r - rows <= 3)
        seen[r, c] = near & ((rows < r) | ((rows == r) & (columns < c)))
    for _ in range(layers):
        states = np.zeros_like(seen)
        for r, c in itertools.product(range(height), range(width)):
            states[r, c] = seen[r, max(0, c - 1) : c + 1].any(0)
            if r:
                states[r, c] |= states[r - 1, max(0, c - 1) : c + 2].any(0)
        seen |= states
    return seen


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("body", BODIES)
def test_a_position_sees_what_its_body_says_and_nothing_later(
    body: str, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Diagonal BiLSTM sees all earlier positions with one layer. A Row LSTM sees a triangle above the position."""
    height, width = 4, 9
    model = network(grid(height, width, 2), body=body, layers=layers).double()
    codes = torch.zeros(1, height, width, dtype=torch.long)
    embedded = model.emission.embed(codes[..., None]).detach().requires_grad_()
    monkeypatch.setattr(model.emission, "embed", lambda values: embedded)
    logits = model(codes, torch.zeros(1, 3, dtype=torch.float64))
    place = np.arange(height * width).reshape(height, width)
    expected = place < place[..., None, None] if body == "diagonal" else row_reach(height, width, layers)
    for row, column in itertools.product(range(height), range(width)):
        (gradient,) = torch.autograd.grad(logits[0, :, row, column].sum(), embedded, retain_graph=True)
        seen = (gradient[0].abs().sum(-1) > 0).numpy()
        assert np.array_equal(seen, expected[row, column]), (row, column)
    if body == "row":  # the test image is large enough to show the triangle
        assert not expected[1, 0].all() and not expected[-1, 0][:-1].all()


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (1, 4), (4, 1)])
def test_a_column_of_the_skewed_map_is_a_diagonal(shape: tuple[int, int]) -> None:
    height, width = shape
    x = torch.rand(height, width, 2, 3, requires_grad=True)
    skewed = skew(x)
    assert skewed.shape == (height, width + height - 1, 2, 3)
    assert torch.equal(unskew(skewed), x)
    for r, c in itertools.product(range(height), range(width)):
        assert torch.equal(skewed[r, r + c], x[r, c])
    for column in range(width + height - 1):
        (gradient,) = torch.autograd.grad(skewed[:, column].sum(), x, retain_graph=True)
        rows, columns = np.nonzero(gradient.sum((-1, -2)).numpy())
        assert set(rows + columns) == {column}


# --- equations ---


def test_the_first_convolution_has_mask_a_and_the_row_lstm_follows_its_equations() -> None:
    """The pass over an image equals masked convolutions, and equation 3 row by row."""
    model = network(grid(6, 5, 4), layers=1)
    e, condition = torch.randn(6, 5, 2, 8), torch.rand(2, 3)
    first, layer = model.first, model.stack[0]
    kernel = torch.zeros(12, 8, 7, 7)
    kernel[:, :, :3] = first.above.weight
    kernel[:, :, 3, :3] = first.left.weight.view(12, 3, 8).permute(0, 2, 1)
    as_images = e.permute(2, 3, 0, 1)
    x = F.conv2d(as_images, kernel, first.above.bias, padding=3)
    assert torch.allclose(first(e), x.permute(2, 3, 0, 1), atol=1e-5)

    assert isinstance(layer, RowLayer)
    mask_b = torch.zeros(24, 12, 3)
    mask_b[:, :, :2] = layer.input.weight.view(24, 2, 12).permute(0, 2, 1)
    state = memory = torch.zeros(2, 6, 5)
    expected = []
    for row in range(6):
        gates = F.conv1d(x[:, :, row], mask_b, layer.input.bias, padding=1) + layer.classes(condition)[..., None]
        gates = gates + F.conv1d(state, layer.state.convolution.weight[:, :, 0], padding=1)
        i, f, g, o = gates.chunk(4, 1)
        memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
        state = o.sigmoid() * memory.tanh()
        expected.append(layer.out(state.permute(2, 0, 1)))
    found = layer.of_image(x.permute(2, 3, 0, 1), e, condition)
    assert torch.allclose(found, torch.stack(expected), atol=1e-5)


def test_the_diagonal_bilstm_is_an_lstm_over_the_states_at_the_side_and_above() -> None:
    """Both directions by their recursion, position by position. The states to the left are used one row below."""
    height, width, channels = 4, 3, 6
    model = network(grid(height, width, 2), body="diagonal", layers=1)
    layer, condition = model.stack[0], torch.rand(2, 3)
    x, e = torch.randn(height, width, 2, 2 * channels), torch.randn(height, width, 2, 8)

    def states(direction: Direction, inputs: Tensor) -> Tensor:
        lstm, zero = nn.LSTMCell(direction.lstm.input_size, channels), torch.zeros(2, channels)
        lstm.load_state_dict({name.removesuffix("_l0"): value for name, value in direction.lstm.state_dict().items()})
        found = torch.zeros(height, width, 2, channels)
        for r in range(height):
            state = memory = zero
            for c in range(width):
                above = found[r - 1, c] if r else zero
                state, memory = lstm(torch.cat([inputs[r, c], above, condition], 1), (state, memory))
                found[r, c] = state
        return found

    with torch.no_grad():
        right = states(layer.to_right, x)
        left = states(layer.to_left, torch.cat([x, e], -1).flip(1)).flip(1)
        expected = layer.out(right)
        expected[1:] += layer.out_shifted(left[:-1])
        assert torch.allclose(layer.of_image(x, e, condition), expected, atol=1e-5)


def test_a_cell_is_that_of_torch() -> None:
    lstm, gates, memory = nn.LSTMCell(4, 5), torch.randn(3, 20), torch.randn(3, 5)
    with torch.no_grad():
        lstm.weight_ih.zero_(), lstm.weight_hh.zero_(), lstm.bias_hh.zero_()  # only the bias is left
        for each, before in zip(gates, memory, strict=True):
            lstm.bias_ih.copy_(each)
            expected = lstm(torch.zeros(1, 4), (torch.zeros(1, 5), before[None]))
            found = cell(each[None], before[None])
            assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True))


def test_rows_move_down() -> None:
    x = torch.arange(6.0).view(3, 2)
    assert shift_down(x, 0).tolist() == [[0, 0], [0, 1], [2, 3]]
    assert shift_down(x, 1).tolist() == [[0, 0], [0, 2], [0, 4]]


# --- likelihood and sampling ---


@pytest.mark.parametrize("body", BODIES)
def test_probabilities_of_all_images_sum_to_one(body: str) -> None:
    model = network(grid(3, 3, 2), body=body)
    images = torch.tensor(list(itertools.product(range(2), repeat=9))).view(-1, 3, 3)
    with torch.no_grad():
        for y in range(3):
            condition = model.to_condition(torch.full((len(images),), y))
            nats = model.nll(images, condition).double().flatten(1).sum(1)
            assert float(torch.exp(-nats).sum()) == pytest.approx(1, abs=1e-5)
            assert float(nats.std()) > 1e-3  # the images differ in probability


@pytest.mark.parametrize("body", BODIES)
def test_the_loss_is_the_exact_likelihood_given_the_class(body: str) -> None:
    model = network(grid(2, 3, 4), body=body)
    batch = Batch(torch.rand(5, 1, 2, 3), torch.tensor([0, 1, 2, 0, 1]), torch.Generator().manual_seed(0), 0.0)
    items, every = model.settle(batch.items), torch.eye(3)[batch.labels]
    with torch.no_grad():
        expected = model.nll(items, every).flatten(1).sum(1)
        assert torch.allclose(pixelrnn.evaluate(model, batch)["loss"], expected)
        assert float(model.loss(batch)["loss"]) == pytest.approx(float(expected.mean()), rel=1e-5)


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("shape", [(7, 7, 16), (3, 9, 2), (9, 3, 4)])
@pytest.mark.parametrize("body", BODIES)
def test_cached_sampling_is_naive_sampling(body: str, shape: tuple[int, int, int], batch: int) -> None:
    """The last two shapes are wider and higher than the first convolution."""
    model = network(grid(*shape), body=body)
    uniforms, condition, temperature = drawn_inputs(batch, shape[0] * shape[1])
    expected = naive(model, uniforms, condition, temperature)
    with torch.no_grad():
        codes, items = Sampler(model, AssembleImages(model)).eval()(uniforms, condition, temperature)
    assert torch.equal(codes, expected)
    assert torch.equal(torch.round(items[:, 0] * (shape[2] - 1)).long(), expected)


@pytest.mark.parametrize("body", BODIES)
def test_the_graph_of_the_sampler_is_naive_sampling(body: str, tmp_path: Path) -> None:
    model = network(grid(5, 6, 4), body=body, conditional=False)
    graphs.save_onnx({"sample": Sampler(model, AssembleImages(model)).eval().to_onnx()}, tmp_path)
    session = onnxruntime.InferenceSession(str(tmp_path / "sample.onnx"))
    for batch in (1, 7):
        uniforms, _, temperature = drawn_inputs(batch, 30)
        (codes, _) = session.run(["codes", "data"], {"uniforms": uniforms.numpy(), "temperature": temperature.numpy()})
        assert np.array_equal(codes, naive(model, uniforms, nothing(uniforms), temperature).numpy())


@pytest.mark.parametrize("body", BODIES)
def test_imputing_keeps_known_pixels_and_draws_the_others_given_them(body: str) -> None:
    model = network(grid(4, 5, 4), body=body)
    uniforms, condition, temperature = drawn_inputs(6, 20)
    given = torch.randint(0, 4, (6, 4, 5), generator=torch.Generator().manual_seed(3))
    mask = (torch.rand(6, 1, 4, 5, generator=torch.Generator().manual_seed(4)) > 0.5).float()
    codes = torch.zeros(6, 4, 5, dtype=torch.long)
    with torch.no_grad():
        for row, column in itertools.product(range(4), range(5)):  # naive sampling that replaces what is known
            logits = model(codes, condition)[:, :, row, column] / temperature[:, None]
            drawn = (logits.softmax(1).cumsum(1) <= uniforms[:, row * 5 + column, None]).sum(1).clamp(max=3)
            codes[:, row, column] = torch.where(mask[:, 0, row, column] > 0, given[:, row, column], drawn)
        imputer = Imputer(Sampler(model, AssembleImages(model)), model.nearest).eval()
        found, _ = imputer(uniforms, condition, temperature, given[:, None] / 3, mask)
    assert torch.equal(found, codes)


@pytest.mark.parametrize("body", BODIES)
def test_an_artifact_samples_by_its_logits_and_each_image_alone_is_the_same(
    body: str, tmp_path: Path, digits: Data
) -> None:
    run = tiny_run(tmp_path / "run", "pixelrnn", digits, body=body)
    export(run, "tiny", tmp_path, data=digits, backend="torchscript")
    model = load(tmp_path / "tiny/1", device="cpu")
    assert set(model.manifest.tasks) == {"sample", "impute", "score", "predict_row", "predict_pixel"}
    assert {metric.name for metric in model.manifest.metrics} >= {
        "nll_levels",
        "nll_levels_given_class",
        "bits_per_dim",
    }
    vectors = golden.read(model.folder, model.manifest)
    inputs = {role: vectors[f"sample.in.{role}"] for role in ("uniforms", "condition", "temperature")}
    assert golden.check_sampler(model.run, inputs, model.run("sample", inputs), "logits") == []
    together, alone = (model.sample(n, seed=2).codes for n in (5, 2))
    assert together is not None and alone is not None
    assert np.array_equal(alone, together[:2])


# --- options ---


def test_invalid_options_say_what_is_valid() -> None:
    data = grid(3, 3, 4)
    with pytest.raises(TrainingError, match=r"body: unknown value 'column'; valid are row, diagonal"):
        Config(body="column")  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="levels: 8 is more than the 4 of grid; use fewer, or 0"):
        network(data, levels=8)
    with pytest.raises(TrainingError, match="levels: 1 is not valid"):
        Config(levels=1)


@pytest.mark.parametrize("body", BODIES)
def test_the_largest_preset_takes_a_step(body: str) -> None:
    """The sizes of the preset `gpu`, with a batch of one image of 28x28 pixels."""
    config = Config.model_validate({**pixelrnn.PRESETS["gpu"], "body": body, "levels": 2})
    data = grid(28, 28, 2)
    model = pixelrnn.build(pixelrnn.resolve(config, data), data)
    batch = Batch(torch.rand(1, 1, 28, 28), torch.tensor([1]), torch.Generator().manual_seed(0), 0.0)
    model.loss(batch)["loss"].backward()
    assert all(weight.grad is not None for weight in model.parameters())
