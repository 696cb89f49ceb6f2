"""The bounds are bounds, and the KL has the intended effect."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from manifold.training import export as exporting
from manifold.training.batches import Batch, to_float
from manifold.training.bounds import iwae
from manifold.training.data import Arrays, Data
from manifold.training.errors import TrainingError
from manifold.training.exporting.autoencoders import SCORE_DRAWS, Decode, Score
from manifold.training.families import vae
from manifold.training.families.vae import VAE, Config
from manifold.training.scores import rules, trimming
from manifold.training.scores.neighbours import Neighbours
from manifold.training.scores.placement import Placement
from manifold.training.train import trained_model
from tests.conftest import tiny_run
from tests.shared import run_as_onnx

CPU = torch.device("cpu")


def small(data: Data, **changes: object) -> VAE:
    torch.manual_seed(0)
    config = Config.model_validate({"latent_dim": 1, "hidden": (16,), **changes})
    return VAE(vae.resolve(config, data), data)


def test_elbo_below_iwae_below_the_exact_likelihood(digits: Data) -> None:
    """With one latent, p(x) = ∫ p(x | z) p(z) dz can be computed by quadrature."""
    model = small(digits)
    x = (torch.from_numpy(Arrays.of(digits.test).items[:4]).float() / 255).flatten(1).round()
    z = torch.linspace(-8, 8, 4001)[:, None]
    with torch.no_grad():
        log_joint = torch.stack(
            [-model.likelihood.nll(model.decoder(z), item.expand(len(z), -1)).sum(1) for item in x], 1
        )
        log_joint = log_joint - 0.5 * z**2 - 0.5 * math.log(2 * math.pi)
        exact = log_joint.logsumexp(0) + math.log(16 / 4000)
        noise = torch.randn(20_000, 4, 1, generator=torch.Generator().manual_seed(1))
        reconstruction, kl = model.terms(x, noise)
        elbo = -(reconstruction + kl)
        bounds = {
            k: iwae(model, x.repeat(100, 1), noise[: k * 100].view(k, 400, 1)).view(100, 4).mean(0) for k in (1, 5, 50)
        }
        tight = iwae(model, x, noise)
    assert torch.allclose(tight, exact, atol=0.01)
    assert (elbo <= exact + 1e-3).all()
    assert (bounds[1] <= bounds[5] + 0.02).all()
    assert (bounds[5] <= bounds[50] + 0.02).all()
    assert torch.allclose(bounds[1], elbo, atol=0.2)  # IWAE with one sample is the ELBO


def test_more_draws_lower_the_variance_not_the_mean(digits: Data) -> None:
    model = small(digits, latent_dim=8)
    x = (torch.from_numpy(Arrays.of(digits.test).items[:1]).float() / 255).flatten(1).round()
    generator = torch.Generator().manual_seed(0)

    def estimates(draws: int) -> torch.Tensor:
        with torch.no_grad():
            noise = torch.randn(draws, 2000, 8, generator=generator)
            return torch.stack(model.terms(x.expand(2000, -1), noise)[0:1])[0]

    one, many = estimates(1), estimates(16)
    assert float(many.std()) < 0.5 * float(one.std())
    assert float(many.mean()) == pytest.approx(float(one.mean()), abs=4 * float(one.std()) / math.sqrt(2000))


def test_without_the_kl_the_variances_collapse(digits: Data) -> None:
    items = torch.from_numpy(Arrays.of(digits.train).items[:256]).float() / 255
    spread = {}
    for beta in (0.0, 1.0):
        model = small(digits, latent_dim=4, beta=beta, likelihood="gaussian", noise=0.1)
        optimizer, generator = torch.optim.Adam(model.parameters(), 1e-2), torch.Generator().manual_seed(0)
        for _ in range(200):
            optimizer.zero_grad()
            model.loss(Batch(items, torch.zeros(256), generator, 0.0))["loss"].backward()
            optimizer.step()
        log_variance = model.encode(items.flatten(1))[1]
        assert log_variance is not None
        spread[beta] = float(log_variance.detach().mean())
    assert spread[0.0] < -6 < spread[1.0]


def test_warmup_weighs_the_kl_and_the_bound_does_not(digits: Data) -> None:
    model = small(digits, kl_warmup=10.0, beta=2.0)
    items = torch.from_numpy(Arrays.of(digits.train).items[:8]).float() / 255

    def losses(epoch: float) -> dict[str, float]:
        batch = Batch(items, torch.zeros(8), torch.Generator().manual_seed(0), epoch)
        return {name: float(value.detach()) for name, value in model.loss(batch).items()}

    for epoch, weight in ((0.0, 0.0), (5.0, 1.0), (20.0, 2.0)):
        parts = losses(epoch)
        assert parts["loss"] == pytest.approx(parts["reconstruction"] + weight * parts["kl"], rel=1e-5)
    with torch.no_grad():
        figures = vae.evaluate(model, Batch(items, torch.zeros(8), torch.Generator().manual_seed(0), 0.0))
    assert torch.allclose(figures["loss"], figures["reconstruction"] + figures["kl"])


def test_loss_is_summed_over_the_item_and_averaged_over_the_batch(digits: Data) -> None:
    model = small(digits, likelihood="gaussian")
    items = torch.from_numpy(Arrays.of(digits.train).items[:1]).float() / 255
    one, many = (
        float(model.loss(Batch(x, torch.zeros(len(x)), torch.Generator().manual_seed(0), 0.0))["kl"].detach())
        for x in (items, items.repeat(7, 1, 1, 1))
    )
    assert one == pytest.approx(many, rel=1e-5)


def test_autoencoder_has_no_posterior(digits: Data) -> None:
    model = small(digits, variational=False, latent_dim=3)
    mean, log_variance = model.encode(torch.rand(2, 64))
    assert mean.shape == (2, 3)
    assert log_variance is None
    assert float(model.loss(Batch(torch.rand(2, 1, 8, 8), torch.zeros(2), torch.Generator(), 0.0))["kl"]) == 0


def test_what_is_logged_of_the_latent(digits: Data) -> None:
    """A VAE logs KL by dimension and active units. An autoencoder logs neither."""
    batch = Batch(to_float(Arrays.of(digits.test).items, CPU), torch.zeros(len(digits.test)), torch.Generator(), 0.0)
    plain = small(digits, variational=False, likelihood="gaussian")
    assert vae.monitor(plain, batch) == {}
    model = small(digits, latent_dim=3, likelihood="gaussian")
    with torch.no_grad():
        found = vae.monitor(model, batch)
        mean, log_variance = model.encode(model.likelihood.settle(batch.items.flatten(1)))
        assert log_variance is not None
        kl = 0.5 * (log_variance.exp() + mean**2 - 1 - log_variance).mean(0)
    assert found["kl_by_dimension"] == pytest.approx(kl.tolist(), abs=1e-4)
    assert found["active_units"] == int((mean.var(0) > 0.01).sum())


def test_a_figure_is_the_mean_over_the_test_part_to_four_digits(digits: Data) -> None:
    model = small(digits, variational=False, likelihood="gaussian")
    batch = Batch(to_float(Arrays.of(digits.test).items, CPU), torch.zeros(len(digits.test)), torch.Generator(), 0.0)
    with torch.no_grad():
        exact = float(vae.evaluate(model, batch)["loss"].double().mean())
    (found,) = vae.report(model, model.config, digits)
    assert (found.name, found.unit) == ("reconstruction", "nats")
    assert found.value == pytest.approx(exact, abs=1e-4)
    assert found.protocol["observed"] == "values in [0, 1], a density"


def test_figures_say_that_pixels_were_binarised(digits: Data) -> None:
    model = small(digits, likelihood="bernoulli", iwae_k=2)
    found = {metric.name: metric for metric in vae.report(model, model.config, digits)}
    assert {metric.protocol["observed"] for metric in found.values()} == {
        "grey values binarised at random, one draw an item"
    }
    assert found["elbo_dynamic"].value == pytest.approx(-found["reconstruction"].value - found["kl"].value, abs=2e-4)
    assert found["kl"].value == pytest.approx(sum(found["active_units"].protocol["kl_by_dimension"]), abs=2e-4)
    assert "k = 2" in found["iwae_2_dynamic"].protocol["bound"]


def test_trimmed_items_place_nothing(digits: Data) -> None:
    """The aggregate posterior is that of the remaining items, without the least likely ones."""
    model = small(digits, latent_dim=2)
    x = model.likelihood.settle(to_float(Arrays.of(digits.train).items, CPU).flatten(1))
    noise = torch.randn((SCORE_DRAWS, len(x), 2), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        kept = trimming.least_surprising(sum(model.terms(x, noise)), 0.25).numpy()  # type: ignore[arg-type]
        place = vae.placement(model, model.config.changed(trim=0.25), digits.train)
        expected = vae.placement(model, model.config, Arrays.of(digits.train)[kept])
    assert len(kept) == len(digits.train) - len(digits.train) // 4
    assert torch.equal(place.centre, expected.centre)
    assert torch.equal(place.whitening, expected.whitening)


def test_references_say_which_of_their_values_are_missing(table: Data) -> None:
    model = vae.build(vae.resolve(vae.Config(hidden=(16,), latent_dim=2, references=30), table), table)
    train = Arrays.of(table.train)
    items = np.nan_to_num(train.items)
    with torch.no_grad():
        whole = vae.placement(model, model.config, dataclasses.replace(train, items=items))
        items[::2, 0] = np.nan
        place = vae.placement(model, model.config, dataclasses.replace(train, items=items))
    assert whole.held is not None and whole.held.known is None
    assert place.held is not None and place.held.known is not None
    assert 5 < int((place.held.known == 0).sum()) < 25
    assert (place.held.known[:, 1:] == 1).all()
    assert torch.isfinite(place.held.inputs).all()


def test_score_is_the_elbo_over_its_fixed_draws(digits: Data) -> None:
    model = small(digits, latent_dim=3)
    references = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    unit = Placement(torch.zeros(3), torch.eye(3), torch.eye(3), references, None)
    score = Score(model, unit, seed=0)
    data = torch.from_numpy(Arrays.of(digits.test).items[:5]).float() / 255
    with torch.no_grad():
        reconstruction, kl, negative_elbo, distance, neighbours, squared_error, surprise = score(data)
        expected = model.terms(model.likelihood.settle(data.flatten(1)), score.noise.expand(-1, 5, -1))
        mean, _ = model.encode(model.likelihood.settle(data.flatten(1)))
        shown = torch.sigmoid(model.decode(mean))
    assert torch.allclose(reconstruction, expected[0], atol=1e-4)
    assert torch.allclose(kl, expected[1], atol=1e-5)
    assert torch.allclose(negative_elbo, reconstruction + kl)
    assert torch.allclose(distance, mean.norm(dim=1), atol=1e-5)
    assert torch.allclose(neighbours, torch.cdist(mean, references).sort(1).values[:, :5].mean(1), atol=1e-5)
    assert torch.allclose(squared_error, (data.flatten(1) - shown).square().mean(1), atol=1e-6)
    assert torch.allclose(surprise.flatten(1).sum(1), reconstruction, atol=1e-3)


def test_near_neighbours_keep_their_digits() -> None:
    """Far from the origin, |a|² - 2ab + |b|² has no digits left for a distance of a thousandth."""
    generator = torch.Generator().manual_seed(0)
    references = 300 + torch.randn(50, 6, generator=generator)
    x = references[:4] + 1e-3 * torch.randn(4, 6, generator=generator)
    found = Neighbours(references, 1)(x)
    exact = torch.cdist(x.double(), references.double()).min(1).values.float()
    assert torch.allclose(found, exact, rtol=0.05)
    assert Neighbours(references, 500)(x).shape == (4,)


def test_missing_values_cost_nothing_and_tell_nothing(table: Data) -> None:
    model = vae.build(vae.resolve(vae.Config(hidden=(16,), latent_dim=2, references=30), table), table)
    x = torch.from_numpy(Arrays.of(table.test).items[:6])
    blocks = [block for _, block in table.spec.placed]  # type: ignore[attr-defined]
    holes = x.clone()
    holes[:, blocks[1]] = torch.nan
    holes[3:, blocks[2]] = torch.nan
    score = Score(model, vae.placement(model, model.config, table.train), seed=0)
    with torch.no_grad():
        surprise = score(holes)[-1]
        other = holes.clone()
        zeros = torch.where(torch.isnan(holes), torch.zeros(()), holes)
        told = model.encode(zeros)
        assert all(torch.equal(a, b) for a, b in zip(model.encode(other), told, strict=True))  # type: ignore[arg-type]
        parameters = model.decode(told[0])
        nll = model.likelihood.nll(parameters, holes)
        whole = model.likelihood.nll(parameters, x)
    assert (surprise[:, 1] == 0).all()
    assert (surprise[3:, 2] == 0).all()
    assert (surprise[:3, 2] != 0).all()
    assert torch.equal(nll[:, 0], whole[:, 0])
    assert torch.isfinite(torch.stack(score(holes)[:-1])).all()
    loss = model.loss(Batch(holes, torch.zeros(6), torch.Generator().manual_seed(0), 0.0))["loss"]
    loss.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters())  # type: ignore[arg-type]


def test_score_rules_are_checked(digits: Data) -> None:
    terms = vae._terms(vae.resolve(vae.Config(), digits), digits.spec)
    found = rules.scoring("min-p:kl,squared_error", terms, "kl")
    assert found.combination is not None
    assert (found.score, found.combination.method, found.combination.terms) == ("combined", "min-p", ("kl", "squared_error"))  # fmt: skip
    assert rules.scoring("kl", terms, "kl").combination is None
    for wrong in ("entropy", "fisher:kl,entropy", "sum:kl", "kl,squared_error", ""):
        with pytest.raises(TrainingError, match="is not a term"):
            rules.scoring(wrong, terms, "kl")


def test_the_default_score_depends_on_the_data_and_its_references(digits: Data, table: Data) -> None:
    def score(data: Data, **changes: Any) -> str:
        return vae.resolve(vae.Config.model_validate(changes), data).score

    assert score(digits) == "fisher:squared_error,edge_neighbours,edge_mixture"
    assert score(table) == "fisher:reconstruction,latent_neighbours,input_neighbours"
    assert (
        score(digits, references=0)
        == score(digits, references=0, variational=False)
        == "fisher:squared_error,edge_mixture"
    )
    assert score(table, references=0) == "negative_elbo"
    assert score(table, references=0, variational=False) == "reconstruction"
    assert score(digits, score="kl") == "kl"


def test_aggregate_posterior_is_the_law_of_total_variance(digits: Data) -> None:
    model = small(digits, latent_dim=2)
    with torch.no_grad():
        place = vae.placement(model, model.config, digits.train)
        x = model.likelihood.settle((torch.from_numpy(Arrays.of(digits.train).items).float() / 255).flatten(1))
        mean, log_variance = model.encode(x)
        assert log_variance is not None
        draws = mean + (0.5 * log_variance).exp() * torch.randn(
            200, *mean.shape, generator=torch.Generator().manual_seed(0)
        )
    flat = draws.flatten(0, 1).double().numpy()
    assert np.allclose(flat.mean(0), place.centre.numpy(), atol=0.01)
    aggregate = torch.linalg.inv(place.whitening @ place.whitening.T)
    assert np.allclose(np.cov(flat.T), aggregate.numpy(), atol=0.02)
    assert (place.covariance.diag() < aggregate.diag()).all()
    assert place.latents is not None
    whitened = ((mean.double() - place.centre) @ place.whitening).float()
    assert (torch.cdist(place.latents, whitened).min(1).values < 1e-3).all()


def test_convolutions_mirror_each_other_and_refuse_odd_sides(digits: Data, table: Data) -> None:
    model = small(digits, body="conv", widths=(4, 6), hidden=(16,))
    x = torch.rand(3, 64)
    mean, log_variance = model.encode(x)
    assert mean.shape == (3, model.config.latent_dim)
    assert log_variance is not None
    assert model.decode(mean).shape == (3, 64)
    model.decode(mean).sum().backward()
    assert all(parameter.grad is not None for parameter in (*model.up.parameters(), *model.decoder.parameters()))
    with pytest.raises(TrainingError, match="does not allow it; use fewer widths, or body 'mlp'"):
        small(digits, body="conv", widths=(4, 4, 4, 4))
    with pytest.raises(TrainingError, match="does not allow it; use fewer widths, or body 'mlp'"):
        small(table, body="conv", likelihood="columns")


def test_weights_stored_in_half_precision_are_what_is_judged_and_served(digits: Data, tmp_path: Path) -> None:
    """The rounded weights are the model: the graph equals torch at half the size, and no value is rounded twice."""
    run = tiny_run(tmp_path / "run", "vae", digits, stored="float16", body="conv", widths=(8, 16), epochs=1)
    torch_model = trained_model(run, digits)
    task = exporting.exports(run, digits).tasks["decode"]
    assert isinstance(torch_model, VAE)
    z = np.random.default_rng(0).normal(size=(4, torch_model.config.latent_dim)).astype(np.float32)
    with torch.no_grad():
        expected = Decode(torch_model)(torch.from_numpy(z)).numpy()
    found = run_as_onnx(task, {"latent": z}, tmp_path)["data"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert all(torch.equal(p, p.half().float()) for p in torch_model.parameters())
    graph = onnx.load(str(tmp_path / "task.onnx"), load_external_data=False).graph
    stored = [tensor for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    values = sum(p.numel() for p in torch_model.decoder.parameters() if p.numel() >= 64)
    assert sum(math.prod(tensor.dims) for tensor in stored) >= values > 0
    assert {tensor.data_type for tensor in stored} == {onnx.TensorProto.FLOAT16}
