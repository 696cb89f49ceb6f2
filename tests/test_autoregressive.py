"""Autoregressive networks over binary pixels: causality by gradients, probabilities that sum to one, and the running sampler against naive sampling."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from manifold.runtime import golden
from manifold.runtime.engine import load
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.operations.complete import weights_candidates
from manifold.training.data import Arrays, Data
from manifold.training.errors import TrainingError
from manifold.training.exporting import graphs
from manifold.training.families import autoregressive
from manifold.training.families.autoregressive import Config
from manifold.training.networks import running
from manifold.training.networks.masked import BODIES, MADE, Network
from tests.conftest import tiny_run
from tests.shared import export

HIDDEN: dict[str, tuple[int, ...]] = {"fvsbn": (), "nade": (7,), "made": (13, 11), "eonade": (9, 8)}
FIXED = ("fvsbn", "nade", "made")


def network(body: str, dimensions: int, hidden: tuple[int, ...] | None = None) -> Network:
    """Return a network with large random weights in evaluation mode."""
    torch.manual_seed(0)
    made: Any = BODIES[body](dimensions, HIDDEN[body] if hidden is None else hidden)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3).add_(0.3 * torch.randn_like(parameter) * (parameter != 0))
    found: Network = made.eval()
    return found


def every(dimensions: int) -> Tensor:
    """Return all binary vectors, (2^D, D)."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=dimensions)))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("body", FIXED)
def test_a_logit_depends_on_all_earlier_values_and_on_no_other(body: str, training: bool) -> None:
    """The Jacobian is strictly lower triangular, and no entry below the diagonal is 0."""
    model = network(body, 9).train(training)
    x = torch.rand(9)
    jacobian: Any = torch.autograd.functional.jacobian(lambda x: model.logits(x[None])[0], x)
    below = torch.ones(9, 9).tril(-1) > 0
    assert not jacobian[~below].any()
    # a unit can be inactive for one x
    seen = sum((torch.autograd.functional.jacobian(lambda x: model.logits(x[None])[0], x).abs() for x in torch.rand(30, 9)), torch.zeros(9, 9))  # fmt: skip
    assert (seen[below] > 0).all()


@pytest.mark.parametrize("hidden", [(5,), (31,), (13, 11), (9, 20, 7)])
def test_every_mask_of_made_is_causal_and_its_probabilities_sum_to_one(hidden: tuple[int, ...]) -> None:
    model, x = network("made", 10, hidden), every(10)
    total = torch.exp(-running.nats(model.logits(x), x).double().sum(1)).sum()
    assert float(total.detach()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("body", FIXED)
def test_probabilities_of_all_images_sum_to_one(body: str) -> None:
    model, x = network(body, 10), every(10)
    assert float(torch.exp(-running.nats(model.logits(x), x).double().sum(1)).sum().detach()) == pytest.approx(
        1, abs=1e-5
    )


@torch.no_grad()
def test_probabilities_of_a_network_of_any_order_sum_to_one_in_each_order_and_on_average() -> None:
    model, x = network("eonade", 8), every(8)
    orders = torch.stack([torch.randperm(8) for _ in range(3)])
    nats = running.nats_of_orders(model, x, orders).double().sum(2)  # (N, K)
    assert torch.exp(-nats).sum(0).numpy() == pytest.approx(1, abs=1e-5)
    assert nats.std(1).max() > 0.01  # the orders are different models
    loop = running.Loop(model)
    nll, surprise = running.ScoreOrders(loop, orders, (1, 2, 4))(x.view(-1, 1, 2, 4))
    averaged = -torch.exp(-nats).mean(1).log()
    assert torch.allclose(nll.double(), averaged, atol=1e-5)
    assert float(torch.exp(-nll.double()).sum()) == pytest.approx(1, abs=1e-5)
    # the nats by pixel are weighted by p(order | x), so their sum is at most log K above -log p(x)
    more = surprise.flatten(1).sum(1) - nll
    assert more.min() > -math.log(3) - 1e-4 and more.max() < 1e-4


@torch.no_grad()
def test_the_logit_of_a_position_is_that_of_the_network_given_the_values_before_it() -> None:
    """The running pre-activations equal a pass of the network of any order for each position."""
    model, x = network("eonade", 8), (torch.rand(5, 8) > 0.5).float()
    order = torch.stack([torch.randperm(8) for _ in range(5)])
    _, logits = running.Loop(model)(order, torch.zeros_like(x), torch.ones(5), x, torch.ones_like(x))
    mask = torch.zeros_like(x)
    for turn in range(8):
        place = order[:, turn : turn + 1]
        assert torch.allclose(logits[turn], model.given(x, mask).gather(1, place)[:, 0], atol=1e-5)
        mask = mask.scatter(1, place, 1.0)


@torch.no_grad()
def test_the_first_step_of_a_network_of_any_order_does_not_depend_on_x() -> None:
    model, nothing = network("eonade", 8), torch.zeros(2, 8)
    logits = model.given(torch.tensor([[0.0] * 8, [1.0] * 8]), nothing)
    assert torch.equal(logits[0], logits[1])


@torch.no_grad()
def test_the_loss_of_a_network_of_any_order_is_its_mean_nll_over_orders(binary: Data) -> None:
    """The average over all sets of known values, computed from all orders of four pixels, equals the mean of many estimates."""
    model = built(binary, "eonade", hidden=(6,))
    x = (torch.rand(1, 4) > 0.5).float()
    orders = torch.tensor(list(itertools.permutations(range(4))))
    expected = float(running.nats_of_orders(model.network, x, orders).sum(2).mean())
    estimates = model.estimate(x.repeat(200_000, 1), torch.Generator().manual_seed(0)).double()
    error = float(estimates.std() / len(estimates) ** 0.5)
    assert float(estimates.mean()) == pytest.approx(expected, abs=4 * error)
    assert error < 0.02


def naive(model: Network, uniforms: Tensor, temperature: Tensor, order: Tensor) -> Tensor:
    """Sample with a full pass for every position."""
    x, mask = torch.zeros_like(order, dtype=torch.float32), torch.zeros_like(order, dtype=torch.float32)
    for turn in range(order.shape[1]):
        place = order[:, turn : turn + 1]
        logits = model.given(x, mask) if model.any_order else model.logits(x)
        zero = torch.sigmoid(-logits.gather(1, place)[:, 0] / temperature)
        value = (uniforms.gather(1, place)[:, 0] >= zero).float()
        x, mask = x.scatter(1, place, value[:, None]), mask.scatter(1, place, 1.0)
    return x


@torch.no_grad()
@pytest.mark.parametrize("body", list(BODIES))
def test_the_graph_of_the_sampler_equals_naive_sampling(body: str, tmp_path: Path) -> None:
    model = network(body, 12)
    sample = running.Sample(running.Loop(model), running.ToItems((1, 3, 4), (3, 4)))
    graphs.save_onnx({"sample": sample.to_onnx()}, tmp_path)
    session = onnxruntime.InferenceSession(str(tmp_path / "sample.onnx"))
    for batch in (1, 7):
        _compare(model, sample, session, batch)


def _compare(model: Network, sample: running.Sample, session: Any, batch: int) -> None:
    uniforms = torch.rand(batch, running.uniforms_of(model), generator=torch.Generator().manual_seed(batch))
    temperature = torch.linspace(0.5, 1.5, batch)
    order = uniforms[:, -12:].argsort(1) if model.any_order else torch.arange(12).repeat(batch, 1)
    expected = naive(model, uniforms, temperature, order)
    codes, items = sample(uniforms, temperature)
    assert torch.equal(items.flatten(1), expected)
    found = session.run(["codes", "data"], {"uniforms": uniforms.numpy(), "temperature": temperature.numpy()})
    assert np.array_equal(found[0], codes.numpy())
    assert np.array_equal(found[1], items.numpy())


@torch.no_grad()
def test_imputed_pixels_have_the_conditional_distribution_of_the_order() -> None:
    """With two unknown pixels of six, the share of each completion is its probability given the others, averaged over both orders."""
    model = network("eonade", 6)
    impute = running.Impute(running.Loop(model), running.ToItems((1, 2, 3), (2, 3)))
    known = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    mask = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    n = 40_000
    uniforms = torch.rand(n, 12, generator=torch.Generator().manual_seed(0))
    data, shown = known.view(1, 1, 2, 3).repeat(n, 1, 1, 1), mask.view(1, 1, 2, 3).repeat(n, 1, 1, 1)
    filled = impute(uniforms, torch.ones(n), data, shown)[1].flatten(1)
    assert torch.equal(filled[:, mask > 0], known[mask > 0].repeat(n, 1))
    for pair in itertools.product((0.0, 1.0), repeat=2):
        whole = known.clone()
        whole[mask == 0] = torch.tensor(pair)
        probability = 0.0
        for first, second in ((2, 4), (4, 2)):
            seen, p = mask.clone(), 1.0
            for place in (first, second):
                nats = running.nats(model.given(whole[None], seen[None])[0, place], whole[place])
                p, seen[place] = p * math.exp(-float(nats)), 1.0
            probability += p / 2
        share = float((filled[:, mask == 0] == torch.tensor(pair)).all(1).double().mean())
        assert share == pytest.approx(probability, abs=4 * math.sqrt(probability * (1 - probability) / n) + 1e-4)


def test_masked_weights_stay_zero_in_training() -> None:
    model = MADE(9, (12, 10)).train()
    optimiser = torch.optim.AdamW(model.parameters(), 0.1)
    for _ in range(5):
        x = (torch.rand(8, 9) > 0.5).float()
        optimiser.zero_grad()
        running.nats(model.logits(x), x).sum().backward()
        optimiser.step()
    for layer in (*model.layers, model.last, model.links):
        assert not any(block.weight[~block.mask].any() for block in layer.blocks)
        assert any(block.weight.any() for block in layer.blocks)
        x = torch.rand(4, layer.inputs)
        assert torch.allclose(x @ layer.dense().T + layer.bias, layer(x), atol=1e-5)


@pytest.fixture
def binary() -> Data:
    """Random images of 2x2 pixels with two levels."""
    items = (np.random.default_rng(0).integers(0, 2, (60, 1, 2, 2)) * 255).astype(np.uint8)
    part = Arrays(items, np.full(60, -1, np.int64))
    return Data("bits", ImageSpec(height=2, width=2, channels=1, levels=2), part, part, part, None)


def built(data: Data, body: str, **changes: object) -> autoregressive.Autoregressive:
    torch.manual_seed(0)
    config = autoregressive.resolve(Config.model_validate({"body": body, **changes}), data)
    return autoregressive.build(config, data).eval()


@pytest.mark.parametrize(
    "changes",
    [
        {"body": "fvsbn", "hidden": [3]},
        {"body": "nade", "hidden": [3, 4]},
        {"body": "rnn"},
        {"orders": 0},
        {"body": "fvsbn", "dropout": 0.1},
        {"body": "made", "orders": 2},
    ],
)
def test_options_without_effect_and_wrong_ones_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(TrainingError, match=r"^(hidden|body|orders|dropout): "):
        Config.model_validate(changes)


@pytest.mark.parametrize("body", list(BODIES))
def test_an_exported_model_samples_scores_and_imputes(body: str, tmp_path: Path, digits: Data) -> None:
    changes = {} if body == "fvsbn" else {"hidden": (16,)}
    run = tiny_run(tmp_path / "run", "autoregressive", digits, body=body, epochs=1, **changes)
    model = load(export(run, "model", tmp_path / "models", data=digits))
    assert not golden.replay(model.run, model.folder, model.manifest, "cpu")
    images = model.sample(3, seed=1).data
    assert set(np.unique(images)) <= {0.0, 1.0}
    assert np.array_equal(model.sample(1, seed=1, first=2).data[0], images[2])
    assert weights_candidates(model.manifest) == (body != "eonade")
    mask = np.zeros((3, 1, 8, 8), np.float32)
    mask[:, :, :4] = 1
    filled = model.impute(images, mask, seed=0).data
    assert np.array_equal(filled[:, :, :4], images[:, :, :4])
    names = {metric.name for metric in model.manifest.metrics}
    assert {"nll_dynamic", "bits_per_dim"} <= names
    assert ("nll_dynamic_single_order" in names) == (body == "eonade")
