"""The codebook, the bound, and a VQ-VAE with its prior from training to samples."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from manifold.runtime import checks
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import InvalidValue, UnsupportedTask
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.operations import End
from manifold.training.batches import Batch, to_float
from manifold.training.data import Arrays, Data
from manifold.training.errors import TrainingError
from manifold.training.families import vqvae
from manifold.training.families.vqvae import VQVAE, Config, _rows
from manifold.training.networks.quantiser import Quantiser, _apart, usage
from tests.conftest import tiny_run
from tests.shared import export

CPU = torch.device("cpu")


def quantiser(levels: int = 8, dimensions: int = 3, **options: object) -> Quantiser:
    torch.manual_seed(0)
    return Quantiser(levels, dimensions, **{"moving": True, "decay": 0.9, "restart": 0.0, **options})  # type: ignore[arg-type]


def resolved(data: Data, **options: object) -> Config:
    return vqvae.resolve(Config.model_validate(options), data)


def vectors(n: int = 500, dimensions: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(n, dimensions, generator=torch.Generator().manual_seed(seed))


# --- the codebook ---


def test_the_nearest_entry_is_the_nearest() -> None:
    q, z = quantiser(), vectors()
    distances = (z[:, None] - q.codebook).square().sum(2)
    assert torch.equal(q.nearest(z), distances.argmin(1))


@pytest.mark.parametrize("moving", [True, False])
def test_gradients_go_where_they_should(moving: bool) -> None:
    q, z = quantiser(moving=moving), vectors().requires_grad_()
    passed, codes, codebook, commitment = q.learn(z, torch.Generator().manual_seed(0))
    weights = torch.rand_like(passed)
    (through,) = torch.autograd.grad((passed * weights).sum(), z, retain_graph=True)
    assert torch.equal(through, weights)  # the gradient passes straight through
    (held,) = torch.autograd.grad(commitment.sum(), z, retain_graph=True)
    entries = (z - held / 2).detach()  # the gradient of |z - sg[e]|² is 2 (z - e)
    assert torch.allclose(passed, entries, atol=1e-5)
    assert not torch.equal(codes, torch.zeros_like(codes))
    if moving:
        assert not codebook.requires_grad
        assert not q.codebook.requires_grad
        return
    (of_codebook,) = torch.autograd.grad(codebook.sum(), q.codebook, retain_graph=True)
    for code in codes.unique():
        mine = z.detach()[codes == code]
        assert torch.allclose(of_codebook[code], 2 * (q.codebook[code] - mine).sum(0), atol=1e-3)
    with pytest.raises(RuntimeError, match=r"does not require grad|not have been used"):
        torch.autograd.grad(codebook.sum(), z)


def test_it_starts_from_k_means() -> None:
    centres = torch.randn(8, 3, generator=torch.Generator().manual_seed(3)) * 10
    z = centres.repeat(100, 1) + 0.1 * vectors(800)
    q = quantiser(restart=0.5)
    random = (z - q.embed(q.nearest(z))).square().sum(1).mean()
    for _ in range(20):
        q.learn(z, torch.Generator().manual_seed(4))
    after = (z - q.embed(q.nearest(z))).square().sum(1).mean()
    assert after < 0.2 * random


def test_averages_start_at_k_means() -> None:
    """The first step moves entries by its own batch and by the batch of k-means. Both are equal, so the entries stay at the clusters."""
    centres = torch.tensor([[5.0, 0, 0], [0, 5, 0], [0, 0, 5], [5, 5, 5]])
    z = centres.repeat(50, 1)
    q = Quantiser(4, 3, moving=True, decay=0.9, restart=0.0)
    q.learn(z, torch.Generator().manual_seed(0))
    assert torch.allclose(q.embed(q.nearest(centres)), centres, atol=1e-5)


def test_entries_are_chosen_in_full_precision() -> None:
    """Two entries are closer than half precision can distinguish. The nearer one is chosen even if training uses half precision."""
    q, z = quantiser(2, 3), torch.tensor([[100.0, 0.0, 0.0], [100.1, 0.0, 0.0]])
    with torch.no_grad():
        q.codebook.copy_(z)
    q.started.fill_(1)
    with torch.autocast("cpu", torch.bfloat16):
        _, codes, _, _ = q.learn(z, torch.Generator())
    assert codes.tolist() == [0, 1]


def test_new_entries_are_drawn_by_squared_distance() -> None:
    """There are 990 vectors at the entry and two groups of five at distances 3 and 6. Each group gets an entry; the far one is first in 4 of 5 cases."""
    z = torch.cat([torch.zeros(990, 2), torch.tensor([[3.0, 0.0]] * 5), torch.tensor([[0.0, 6.0]] * 5)])
    generator = torch.Generator().manual_seed(0)
    drawn = [_apart(z, torch.zeros(1, 2), 2, generator) for _ in range(300)]
    assert all({tuple(place.tolist()) for place in pair} == {(3.0, 0.0), (0.0, 6.0)} for pair in drawn)
    far_first = sum(bool(pair[0, 1] == 6) for pair in drawn) / len(drawn)
    assert far_first == pytest.approx(36 / 45, abs=0.09)  # a tolerance of four standard deviations


def test_vectors_that_are_all_entries_are_drawn_evenly() -> None:
    z = torch.arange(4.0)[:, None]
    drawn = _apart(z, z, 400, torch.Generator().manual_seed(0))
    assert torch.bincount(drawn.flatten().long()).tolist() == pytest.approx([100] * 4, abs=40)
    assert _apart(z, z, 0, torch.Generator()).shape == (0, 1)


def test_moving_averages_are_those_of_the_paper() -> None:
    q, z = quantiser(), vectors()
    q.learn(z, torch.Generator().manual_seed(0))
    q.started.fill_(1000)
    counts, sums, codes = q.counts.clone(), q.sums.clone(), q.nearest(vectors(seed=2))
    q.learn(vectors(seed=2), torch.Generator().manual_seed(0))
    one_hot = torch.nn.functional.one_hot(codes, 8).float()
    assert torch.allclose(q.counts, 0.9 * counts + 0.1 * one_hot.sum(0))
    assert torch.allclose(q.sums, 0.9 * sums + 0.1 * one_hot.T @ vectors(seed=2), atol=1e-4)
    assert torch.allclose(q.codebook, q.sums / q.counts[:, None])


@pytest.mark.parametrize("moving", [True, False])
def test_dead_entries_are_put_where_vectors_are(moving: bool) -> None:
    used = {}
    for restart in (0.0, 1.0):
        q = quantiser(64, restart=restart, moving=moving)
        q.started.fill_(1000)
        with torch.no_grad():
            q.codebook[1:] += 100  # no vector is nearest to these entries
            q.sums.copy_(q.codebook * q.counts[:, None])
        for step in range(200):
            q.learn(vectors(seed=step), torch.Generator().manual_seed(step))
        used[restart] = usage(q.nearest(vectors(5000)), 64)
    assert used[0.0] == pytest.approx((1 / 64, 1))
    assert used[1.0][0] > 0.9
    assert used[1.0][1] > 30


# --- the bound ---


def test_the_bound_is_one_and_the_prior_sums_to_one(digits: Data) -> None:
    """With two codes on a 2x2 grid, p(x) = Σ p(x | codes) p(codes) has sixteen terms."""
    torch.manual_seed(0)
    config = resolved(
        digits, levels=2, widths=(4, 4), residual=0, code_dim=2, prior_channels=4, prior_layers=1, prior_head=4
    )
    model = VQVAE(config, digits).eval()
    x = (torch.from_numpy(Arrays.of(digits.test).items[:20]).float() / 255).round()
    every = torch.tensor(list(itertools.product([0, 1], repeat=4))).view(16, 2, 2)
    condition = model.prior.to_condition(torch.tensor([3]))
    with torch.no_grad():
        log_prior = -model.prior.nll(every, condition.expand(16, -1)).flatten(1).sum(1)
        assert float(log_prior.logsumexp(0)) == pytest.approx(0, abs=1e-5)
        of_each = torch.stack(
            [-model.likelihood.nll(model.decode_codes(every), item.flatten()[None].expand(16, -1)).sum(1) for item in x]
        )
        exact = (of_each + log_prior).logsumexp(1)
        uniform = of_each.logsumexp(1) - 4 * math.log(2)
        codes = model.codes_of(model.vectors(x))
        reconstruction = -model.likelihood.nll(model.decode_codes(codes), x.flatten(1)).sum(1)
        learned = -model.prior.nll(codes, condition.expand(20, -1)).flatten(1).sum(1)
    assert (reconstruction + learned <= exact + 1e-4).all()
    assert (reconstruction - model.uniform_nats <= uniform + 1e-4).all()


@pytest.mark.parametrize(("likelihood", "levels"), [("bernoulli", True), ("logistic", True), ("gaussian", False)])
def test_only_a_law_over_levels_has_bits(digits: Data, likelihood: str, levels: bool) -> None:
    """Bits per dimension count levels; a density has none. The manifest says which of the two the score is."""
    config = resolved(
        digits,
        levels=2,
        widths=(2, 2),
        residual=0,
        code_dim=2,
        prior_channels=2,
        prior_layers=1,
        prior_head=2,
        likelihood=likelihood,
    )
    few = dataclasses.replace(digits, train=Arrays.of(digits.train)[:20], test=Arrays.of(digits.test)[:20])
    model = VQVAE(config, few).eval()
    model.quantiser.learn(_rows(model.vectors(torch.rand(5, 1, 8, 8))), torch.Generator())  # initialises the codebook
    metrics = vqvae.report(model, config, few)
    figures = {metric.name: metric.value for metric in metrics}
    assert ("bits_per_dim" in figures) == levels
    assert {"binarisation" in metric.protocol for metric in metrics if metric.name == "nll"} == {
        likelihood == "bernoulli"
    }
    if levels:
        assert figures["bits_per_dim"] == pytest.approx(figures["nll"] / 64 / math.log(2), abs=1e-3)
    used, perplexity = usage(vqvae.training_codes(model, few.train), 2)
    assert (figures["code_usage"], figures["code_perplexity"]) == (round(used, 4), round(perplexity, 2))
    scoring = vqvae.exports(model, config, few).scoring
    assert scoring is not None
    assert [term.likelihood.discrete for term in scoring.terms if term.likelihood] == [levels]


def test_the_log_shows_how_much_of_the_codebook_is_used(digits: Data) -> None:
    torch.manual_seed(0)
    model = VQVAE(resolved(digits, levels=32, widths=(4, 4), residual=0, code_dim=2), digits).eval()
    batch = Batch(
        to_float(Arrays.of(digits.test).items, CPU),
        torch.from_numpy(digits.test.labels),
        torch.Generator().manual_seed(0),
        0.0,
    )
    seen = dataclasses.replace(batch, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        codes = model.codes_of(model.vectors(model.see(seen)))
        found = vqvae.monitor(model, batch)
    assert found["code_usage"] == pytest.approx(len(codes.unique()) / 32, abs=1e-4)
    assert 0 < found["code_usage"] < 1
    assert found["code_perplexity"] == pytest.approx(usage(codes, 32)[1], abs=0.01)


# --- trained ---


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, digits: Data) -> Model:
    root = tmp_path_factory.mktemp("vqvae")
    run = tiny_run(root / "run", "vqvae", digits, epochs=20, prior_epochs=10, widths=(16, 16), code_dim=4)
    return load(export(run, "vq", root / "models", data=digits, backend="torchscript"), device="cpu")


def test_the_losses_went_down(model: Model) -> None:
    log = [json.loads(line) for line in (Path(model.folder.parents[2]) / "run/log.jsonl").read_text().splitlines()]
    first, second = ([line for line in log if line["phase"] == phase] for phase in ("autoencoder", "prior"))
    assert first[-1]["selection/reconstruction"] < 0.75 * first[0]["selection/reconstruction"]
    assert second[-1]["selection/prior"] < 0.9 * second[0]["selection/prior"]
    # the autoencoder is frozen in this phase
    assert second[-1]["selection/reconstruction"] == pytest.approx(second[-2]["selection/reconstruction"], rel=0.02)
    reported = {metric.name: metric.value for metric in model.manifest.metrics}
    assert reported["nll"] < reported["nll_uniform_prior"]
    assert reported["nll_given_class"] < reported["nll"] + 1e-6
    assert reported["code_usage"] > 0.5
    assert 1 < reported["code_perplexity"] <= 16


def test_codes_there_and_back(model: Model, digits: Data) -> None:
    edge = digits.inputs(digits.test)[:20]
    encoded = model.encode(edge)
    assert encoded.codes is not None
    assert encoded.codes.shape == (20, 2, 2)
    assert encoded.codes.dtype == np.int64
    back = model.reconstruct(edge)
    by_codes = model.sample(20, codes=encoded.codes)
    assert np.allclose(back.data, by_codes.data, atol=1e-6)
    assert back.errors.mean() < 0.12


def test_samples_come_from_prior_and_decoder_in_one_graph(model: Model) -> None:
    samples = model.sample(30, seed=2, classes="3")
    assert samples.codes is not None
    assert np.allclose(model.sample(30, codes=samples.codes).data, samples.data, atol=1e-6)
    assert np.array_equal(model.sample(5, seed=2, first=9, classes="3").data, samples.data[9:14])
    assert checks.run_all(model) == []
    with pytest.raises(InvalidValue, match="no latent is drawn"):
        model.sample(1, prior="normal")


def test_interpolation_is_between_vectors_before_the_codebook(model: Model, digits: Data) -> None:
    edge = digits.inputs(digits.test)
    path = model.interpolate(End(data=edge[0]), End(data=edge[1]), steps=6)
    ends = model.reconstruct(edge[:2]).data
    assert np.allclose(path.data[[0, -1]], ends, atol=1e-6)
    assert path.latents.shape == (6, 4 * 2 * 2)
    assert np.allclose(path.latents[1], 0.8 * path.latents[0] + 0.2 * path.latents[-1], atol=1e-5)
    with pytest.raises(InvalidValue, match="no prior over its latents"):
        model.interpolate(End(seed=1), End(seed=2))


def test_the_score_is_the_bound_marginalised_over_classes(model: Model, digits: Data) -> None:
    edge = digits.inputs(digits.test)[:5]
    by_class = np.stack([model.score(edge, classes=name).terms["nll"] for name in "0123456789"], axis=1)
    scores = model.score(edge)
    assert np.allclose(scores.terms["nll"], -np.log(np.exp(-by_class).mean(axis=1)), rtol=1e-5)
    one = model.score(edge, classes="3").terms
    assert np.allclose(one["nll"], one["reconstruction"] + one["prior"], rtol=1e-5)


def test_what_a_vqvae_refuses(digits: Data, table: Data, model: Model) -> None:
    with pytest.raises(InvalidValue, match="images are needed"):
        vqvae.resolve(Config(), table)
    odd = dataclasses.replace(digits, spec=ImageSpec(height=6, width=8, channels=1))
    with pytest.raises(TrainingError, match="images of digits are 8x6, but vqvae needs multiples of 4"):
        VQVAE(resolved(odd), odd)
    for options, message in (
        ({"widths": (4,)}, "widths"),
        ({"likelihood": "columns"}, "likelihood"),
        ({"decay": 1.0}, "decay"),
        ({"levels": 1}, "levels"),
    ):
        with pytest.raises(TrainingError, match=message):
            Config.model_validate(options)
    with pytest.raises(UnsupportedTask):
        model.classify(digits.inputs(digits.test)[:1])


# --- distinct entries of a codebook ---


def test_no_two_entries_are_put_on_one_point() -> None:
    """Nine in ten vectors are one background. Entries spread over the rest, and the background keeps one code despite small noise."""
    generator = torch.Generator().manual_seed(0)
    background = torch.ones(900, 3)
    for restart in (0.0, 1.0):
        q = quantiser(16, restart=restart)
        for step in range(50):
            q.learn(torch.cat([background, 3 * vectors(100, seed=step)]), torch.Generator().manual_seed(step))
        trembling = background + 1e-5 * torch.randn(900, 3, generator=generator)
        assert len(q.nearest(trembling).unique()) == 1
    assert usage(q.nearest(3 * vectors(1000, seed=99)), 16)[0] > 0.9


def test_the_decoder_starts_at_the_mean_of_the_data(digits: Data) -> None:
    """If images are nearly all black, a decoder that starts at grey fails in its first steps (likelihood logistic)."""
    dark = dataclasses.replace(
        digits, train=dataclasses.replace(Arrays.of(digits.train), items=Arrays.of(digits.train).items // 8)
    )
    model = VQVAE(Config(likelihood="logistic", widths=(8, 16)), dark)
    codes = torch.zeros(1, *model.grid, dtype=torch.int64)
    with torch.no_grad():
        shown = float(model.likelihood.mean(model.decode_codes(codes)).mean())
    assert shown == pytest.approx(float(Arrays.of(dark.train).items.mean()) / 255, rel=0.3)


@pytest.mark.parametrize(("pixel", "mean"), [(0, 0.01), (255, 0.99)])
def test_a_decoder_of_black_or_white_images_starts_at_a_finite_logit(digits: Data, pixel: int, mean: float) -> None:
    arrays = Arrays.of(digits.train)
    flat = dataclasses.replace(arrays, items=np.full_like(arrays.items, pixel))
    model = VQVAE(resolved(digits, widths=(4, 4), residual=0), dataclasses.replace(digits, train=flat))
    bias = model.decoder[-1].bias
    assert isinstance(bias, Tensor)
    assert torch.allclose(bias.sigmoid(), torch.tensor(mean))


def test_the_prior_learns_the_codes_that_the_artifact_gives(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """The codes do not come from a batch's own statistics or from half precision, and the autoencoder does not change."""
    torch.manual_seed(0)
    model = VQVAE(Config(widths=(8, 16), likelihood="logistic"), digits)
    generator = torch.Generator().manual_seed(0)
    batches = [
        Batch(
            torch.from_numpy(Arrays.of(digits.train).items[start : start + 64]).float() / 255,
            torch.zeros(64, dtype=torch.int64),
            generator,
            0.0,
            None,
        )
        for start in (0, 64, 128)
    ]
    for batch in batches * 20:
        model.autoencoder_loss(batch)  # changes the statistics of the normalisation
    learned = []
    nll = model.prior.nll

    def noted(codes: Tensor, condition: Tensor) -> Tensor:
        learned.append(codes)
        return nll(codes, condition)

    monkeypatch.setattr(model.prior, "nll", noted)
    before = {name: value.clone() for name, value in model.state_dict().items() if name.startswith("encoder")}
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        model.prior_loss(batches[0])
    model.eval()
    with torch.no_grad():
        expected = model.codes_of(model.vectors(model.see(batches[0])))
    assert torch.equal(learned[0], expected)
    assert len(expected.unique()) > 10
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
