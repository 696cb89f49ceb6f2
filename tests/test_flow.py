"""Flow matching and diffusion: closed forms for Gaussian data, orders of solvers, likelihoods, and the graphs."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from manifold.evaluation import diffusion
from manifold.runtime import engine
from manifold.runtime.engine import Model
from manifold.runtime.errors import InvalidValue
from manifold.training.batches import Batch
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.families import flow
from manifold.training.networks import paths
from manifold.training.networks.densities import log_density
from manifold.training.networks.solving import Loop
from manifold.training.networks.unet import UNet
from manifold.training.train import averaged
from tests import shared
from tests.conftest import tiny_run

MEAN, SPREAD = 0.3, 0.2
OBJECTIVES: tuple[paths.Objective, ...] = ("flow", "ddpm")


class Optimal(nn.Module):
    """The optimal prediction for data N(MEAN, SPREAD²): E[x - e | z] of flow matching, or E[e | z] of ddpm, whose network sees a z."""

    def __init__(self, objective: paths.Objective, schedule: paths.Schedule = "cosine") -> None:
        super().__init__()
        self.objective = objective
        self.levels = torch.from_numpy(paths.signal(schedule)).sqrt()

    def shares(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shares of data and noise in the network's input."""
        if self.objective == "flow":
            return time, 1 - time
        steps = time.double() * paths.STEPS
        low = steps.floor().long().clamp(max=paths.STEPS - 1)
        logs = self.levels.log()
        a = (logs[low] + (steps - low) * (logs[low + 1] - logs[low])).exp()
        return a, (1 - a**2).sqrt()

    def forward(self, z: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        a, s = (each.view(-1, *[1] * (z.dim() - 1)) for each in self.shares(time.double()))
        rest = (z.double() - a * MEAN) / (s**2 + a**2 * SPREAD**2)
        x, e = MEAN + a * SPREAD**2 * rest, s * rest
        return (x - e if self.objective == "flow" else e).to(z.dtype)


def solved(network: nn.Module, objective: paths.Objective, solver: paths.Solver, steps: int, noise: Tensor, *, backwards: bool = False) -> Tensor:  # fmt: skip
    """Return the result of a solver for noise (B, C, H, W), or of the way back for data."""
    table = paths.loop_table(objective, "cosine", solver, steps, backwards=backwards)
    loop = Loop(network, [table], [steps], clips=False).double()
    condition = torch.zeros(len(noise), 1, dtype=noise.dtype)
    out: Tensor = loop(noise, condition, None, torch.full((len(noise),), steps))
    return out


@pytest.fixture(scope="module")
def noise() -> Tensor:
    return torch.randn(64, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


# --- paths and solvers ---------------------------------------------------------------------------------------------------------


class Decaying(nn.Module):
    """dz/dt = -z², with the solution z(1) = z(0) / (1 + z(0))."""

    def forward(self, z: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        return -(z**2)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2)])
def test_the_error_of_a_solver_falls_with_its_order(solver: paths.Solver, order: int, noise: Tensor) -> None:
    start = noise.abs()
    exact = start / (1 + start)
    errors = [float((solved(Decaying(), "flow", solver, steps, start) - exact).abs().max()) for steps in (16, 32, 64)]
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2.0**order, rel=0.15)


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun"])
def test_more_steps_come_closer_to_gaussian_data(solver: paths.Solver, noise: Tensor) -> None:
    """For Gaussian data the exact flow is linear: noise e becomes m + s e."""
    exact = MEAN + SPREAD * noise
    errors = [float((solved(Optimal("flow"), "flow", solver, steps, noise) - exact).abs().max()) for steps in (8, 32, 128)]  # fmt: skip
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_samples_of_the_optimal_network_have_the_data_distribution(objective: paths.Objective, noise: Tensor) -> None:
    solver: paths.Solver = "midpoint" if objective == "flow" else "ddim"
    made = solved(Optimal(objective), objective, solver, 500, noise)
    assert float((made - (MEAN + SPREAD * noise)).abs().max()) < 0.01


def test_ancestral_sampling_gives_the_data_distribution() -> None:
    generator = torch.Generator().manual_seed(1)
    n, steps = 2000, 1000
    noise = torch.randn(n, 1, 1, 1, dtype=torch.float64, generator=generator)
    table = paths.loop_table("ddpm", "linear", "ancestral", steps)
    draws = torch.randn(n, steps, 1, 1, 1, dtype=torch.float64, generator=generator)
    loop = Loop(Optimal("ddpm", "linear"), [table], [steps], clips=False).double()
    made = loop(noise, torch.zeros(n, 1), None, torch.full((n,), steps), draws).flatten()
    assert float(made.mean()) == pytest.approx(MEAN, abs=4 * SPREAD / math.sqrt(n))
    # the variance of a step is the smaller one of the two of Ho et al., so that the spread is slightly too small
    assert float(made.std()) == pytest.approx(SPREAD, rel=0.07)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_encode_inverts_decode(objective: paths.Objective, noise: Tensor) -> None:
    """The default solver with 50 steps, from noise to data and back, and from data to noise and back."""
    solver = flow.Config(objective=objective).sampler
    made = solved(Optimal(objective), objective, solver, 50, noise)
    back = solved(Optimal(objective), objective, solver, 50, made, backwards=True)
    assert float((back - noise).abs().max()) < 1e-2
    data = MEAN + SPREAD * noise
    there = solved(Optimal(objective), objective, solver, 50, data, backwards=True)
    assert float((solved(Optimal(objective), objective, solver, 50, there) - data).abs().max()) < 1e-2


@pytest.mark.parametrize(("solver", "order", "steps"), [("ddim", 1, 8), ("midpoint", 2, 4), ("heun", 2, 4)])
def test_the_error_of_ddpm_falls_with_the_order_of_its_solver(
    solver: paths.Solver, order: int, steps: int, noise: Tensor
) -> None:
    """The exact solution from z = e / a at the first position u is m + s (z - m) / (s² + u²)^½."""
    path = paths.Diffusion("cosine")
    first = paths.points_of("ddpm", "cosine", solver, 8)[0]
    exact = MEAN + SPREAD * (noise / path.scale(first) - MEAN) / math.hypot(SPREAD, path.place(first))
    errors = [
        float((solved(Optimal("ddpm"), "ddpm", solver, each, noise) - exact).abs().max()) for each in (steps, 4 * steps)
    ]
    assert errors[0] / errors[1] > 0.75 * 4**order


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("solver", paths.ROWS)
@pytest.mark.parametrize("steps", [1, 4, 1000])
def test_no_solver_starts_where_rounding_hides_the_image(
    solver: paths.Solver, schedule: paths.Schedule, steps: int
) -> None:
    """An error of the prediction counts s / a times in the image, which is 20000 at the last step of the cosine schedule."""
    points = paths.points_of("ddpm", schedule, solver, steps)
    assert len(points) == steps + 1
    assert points[-1] == 0
    assert (np.diff(points) < 0).all()
    assert paths.Diffusion(schedule).place(points[0]) == pytest.approx(80, rel=0.01)


def test_the_signal_of_both_schedules_starts_at_one_and_falls() -> None:
    for schedule in ("linear", "cosine"):
        signal = paths.signal(schedule)
        assert len(signal) == paths.STEPS + 1 and signal[0] == 1 and (np.diff(signal) < 0).all() and signal[-1] < 1e-4


# --- training ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_regression_target_has_the_optimal_prediction(objective: paths.Objective, digits: Data) -> None:
    """The least-squares fit of the targets at one time is linear in z for Gaussian data, with the coefficients of the closed form."""
    config = flow.resolve(flow.Config(objective=objective), digits)
    model = flow.build(config, digits)
    generator = torch.Generator().manual_seed(0)
    x = MEAN + SPREAD * torch.randn(100_000, 1, 1, 1, generator=generator)
    noisy, time, target = model.mixed(x, generator)
    for low in (0.2, 0.5, 0.8):
        held = (time >= low) & (time < low + 0.02)
        z, wanted = noisy[held].flatten(), target[held].flatten()
        expected = Optimal(objective)(noisy[held], time[held]).flatten()
        slope, offset = np.polyfit(expected, wanted, 1)
        assert len(z) > 1000 and slope == pytest.approx(1, abs=0.05) and offset == pytest.approx(0, abs=0.05)


def test_training_reaches_the_optimal_loss(digits: Data) -> None:
    """The least loss of flow matching for Gaussian data is E[Var(x - e | z)] = E[s² / ((1 - t)² + t² s²)]."""
    torch.manual_seed(0)
    network = UNet((1, 2, 2), 0, channels=16, multiples=(1,), blocks=1, patch=1, dropout=0.0)
    config = flow.resolve(flow.Config(), digits)
    model = flow.build(config, digits)
    optimizer, generator = torch.optim.Adam(network.parameters(), 2e-3), torch.Generator().manual_seed(0)
    losses, least = [], []
    for step in range(240):
        x = MEAN + SPREAD * torch.randn(128, 1, 2, 2, generator=generator)
        noisy, time, target = model.mixed(x, generator)
        loss = ((network(noisy, time, torch.zeros(128, 1)) - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= 160:
            losses.append(float(loss.detach()))
            least.append(float((SPREAD**2 / ((1 - time) ** 2 + time**2 * SPREAD**2)).mean()))
    assert np.mean(losses) == pytest.approx(np.mean(least), rel=0.1)


def test_labels_are_dropped_at_the_given_share(digits: Data) -> None:
    config = flow.resolve(flow.Config(label_dropout=0.25), digits)
    model, seen = flow.build(config, digits), []

    def spy(x: Tensor, condition: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(condition)
        return torch.zeros(len(x))

    model.errors = spy  # type: ignore[method-assign]
    batch = Batch(
        torch.rand(4000, 1, 8, 8), torch.zeros(4000, dtype=torch.int64), torch.Generator().manual_seed(0), 0.0
    )
    model.loss(batch)
    dropped = float((seen[0].sum(1) == 0).float().mean())
    assert dropped == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 4000))


# --- likelihoods ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_density_of_the_equation_is_that_of_gaussian_data(objective: paths.Objective) -> None:
    generator = torch.Generator().manual_seed(0)
    x = MEAN + SPREAD * torch.randn(20, 1, 2, 2, dtype=torch.float64, generator=generator)
    points = paths.even_grid(objective, "cosine", 200)
    table = paths.table(objective, "cosine", "midpoint", 200, backwards=True, points=points)
    spread = 1.0 if objective == "flow" else paths.Diffusion("cosine").place(points[0])
    network = Optimal(objective)
    found = log_density(network, x, table, spread=spread, generator=generator)
    expected = stats.norm.logpdf(x, MEAN, SPREAD).sum(axis=(1, 2, 3))
    # the network is diagonal and linear, so that one random vector gives the exact divergence
    np.testing.assert_allclose(found, expected, atol=0.1)


def test_random_signs_estimate_the_divergence() -> None:
    """For z' = A z the mean over signs is the trace of A, and the density changes by the trace per unit of time."""
    a = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.3

    def network(z: Tensor, time: Tensor) -> Tensor:
        return z @ a.T

    x = torch.zeros(4, 3, dtype=torch.float64)
    table = paths.table("flow", "linear", "midpoint", 2, backwards=True)
    found = log_density(network, x, table, spread=1.0, generator=torch.Generator().manual_seed(0), probes=4000)
    expected = -1.5 * math.log(2 * math.pi) - float(a.trace())  # from t = 1 to 0
    np.testing.assert_allclose(found, expected, atol=0.05)


def tiny_chain(objective: paths.Objective) -> diffusion.Chain:
    """Return a chain of four steps."""
    whole = diffusion.chain_of(objective, "cosine", 4)
    if objective == "flow":
        return whole
    places = [50, 300, 600, 999]
    return diffusion.Chain(objective, whole.time[places], whole.data[places], whole.noise[places])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_bound_equals_a_brute_force_sum_on_a_tiny_chain(objective: paths.Objective) -> None:
    """One pixel at four levels: all Gaussians and KL terms by quadrature, against the closed forms with drawn noise."""
    chain, levels, network = tiny_chain(objective), 4, Optimal(objective)

    def predict(z: Any, time: Any) -> Any:
        return network(torch.from_numpy(np.asarray(z)), torch.from_numpy(np.asarray(time))).numpy()

    value = 2 / 3  # in [0, 1]
    x = 2 * value - 1
    grid = np.linspace(-12, 12, 4001)
    width = grid[1] - grid[0]
    known = np.linspace(-1, 1, levels)
    a, s = chain.data, chain.noise

    # decoding: E over q(z_1 | x)
    q1 = stats.norm.pdf(grid, a[0] * x, s[0])
    logits = stats.norm.logpdf(grid[:, None], a[0] * known, s[0])
    decoded = logits[:, 2] - np.logaddexp.reduce(logits, axis=1)
    total = -(q1 * decoded).sum() * width
    # prior: KL of two Gaussians by quadrature
    q = stats.norm(a[-1] * x, s[-1])
    p = stats.norm(0, math.hypot(a[-1], s[-1]))
    total += (q.pdf(grid) * (q.logpdf(grid) - p.logpdf(grid))).sum() * width
    # the steps: KL(q(z_{k-1} | z_k, x) || p(z_{k-1} | z_k)), both with the posterior's variance
    for k in range(1, len(a)):
        ratio = a[k] / a[k - 1]
        added = s[k] ** 2 - ratio**2 * s[k - 1] ** 2
        variance = added * s[k - 1] ** 2 / s[k] ** 2
        z = grid
        guess = chain.restored(z, predict(z.astype(np.float64), np.full(len(z), chain.time[k])), np.full(len(z), k))
        mean_q = ratio * s[k - 1] ** 2 / s[k] ** 2 * z + a[k - 1] * added / s[k] ** 2 * x
        mean_p = ratio * s[k - 1] ** 2 / s[k] ** 2 * z + a[k - 1] * added / s[k] ** 2 * guess
        divergence = (mean_q - mean_p) ** 2 / (2 * variance)
        total += (stats.norm.pdf(z, a[k] * x, s[k]) * divergence).sum() * width
    images = np.full((10_000, 1), value, np.float32)
    for draws in (None, 2):
        found = diffusion.bound(predict, images, levels, chain, np.random.default_rng(0), draws)
        assert found.mean() == pytest.approx(total, abs=4 * found.std() / math.sqrt(len(found)) + 1e-3)


def test_the_bound_is_above_the_likelihood_of_gaussian_data() -> None:
    """With many levels the bound approaches the differential entropy plus log(levels / 2) from above."""
    generator, levels = np.random.default_rng(0), 256
    x = np.clip(generator.normal(MEAN, SPREAD, (400, 1, 2, 2)), -1, 1)
    images = (np.rint((x + 1) / 2 * 255) / 255).astype(np.float32)
    network = Optimal("flow")

    def predict(z: Any, time: Any) -> Any:
        return network(torch.from_numpy(z), torch.from_numpy(time)).numpy()

    chain = diffusion.chain_of("flow", "cosine")
    found = diffusion.bound(predict, images, levels, chain, generator, 100).mean()
    exact = -(stats.norm.logpdf(2 * images.astype(np.float64) - 1, MEAN, SPREAD) + math.log(2 / 255)).sum(axis=(1, 2, 3)).mean()  # fmt: skip
    assert exact - 0.1 < found < exact + 1.0


# --- artifacts -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=OBJECTIVES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, digits: Data) -> Model:
    """Return a small model of each objective. Its export has compared the graphs with torch."""
    root = tmp_path_factory.mktemp(request.param)
    run = tiny_run(root / "run", "flow", digits, objective=request.param)
    return engine.load(shared.export(run, request.param, root / "models", data=digits), device="cpu", threads=1)


def test_guidance_one_is_the_class_and_zero_is_no_class(made: Model) -> None:
    one = made.sample(3, seed=1, guidance=[1, 2, 0], classes=["1", "2", "3"]).data
    assert np.array_equal(one[0], made.sample(1, seed=1, guidance=1, classes="1").data[0])
    assert np.array_equal(one[2], made.sample(1, seed=1, first=2, classes="none", guidance=1).data[0])
    assert not np.array_equal(one[1], made.sample(1, seed=1, first=1, classes="2", guidance=1).data[0])
    # without a class, guidance has no effect
    none = made.sample(2, seed=1, classes="none", guidance=1).data
    assert np.array_equal(made.sample(2, seed=1, classes="none", guidance=7).data, none)
    assert np.array_equal(made.sample(2, seed=1, classes=["none", "2"], guidance=7).data[0], none[0])


def test_an_item_does_not_depend_on_its_batch_or_its_neighbours_steps(made: Model) -> None:
    whole = made.sample(5, seed=3, numbers={"steps": [2, 4, 2, 4, 2]}).data
    for place, steps in enumerate((2, 4, 2, 4, 2)):
        assert np.array_equal(whole[place], made.sample(1, seed=3, first=place, steps=steps).data[0])


def test_decode_shares_the_graph_of_sample(made: Model) -> None:
    """Both are the same loop with other defaults. The graph is stored once and opened once."""
    files = {name: spec.graph for name, spec in made.manifest.tasks.items()}
    assert files["decode"] == files["sample"]
    assert len({*files.values()}) == len(files) - 1
    graphs: Any = made.runner.graphs
    assert graphs["decode"].session is graphs["sample"].session
    assert graphs["decode"].session is not graphs["encode"].session


def test_torchscript_makes_the_same_images(tmp_path: Path, digits: Data) -> None:
    run = tiny_run(tmp_path / "run", "flow", digits)
    models = [
        engine.load(
            shared.export(run, backend, tmp_path / "models", data=digits, backend=backend), device="cpu", threads=1
        )
        for backend in ("onnx", "torchscript")
    ]
    for options in ({"steps": 2, "guidance": 3}, {"steps": 4, "guidance": 1}, {"classes": "none"}):
        first, second = (model.sample(2, seed=1, **options).data for model in models)
        np.testing.assert_allclose(first, second, atol=1e-4)
    images = models[0].sample(2, seed=1).data
    first, second = (model.encode(images).placed for model in models)
    np.testing.assert_allclose(first, second, atol=1e-3)


def test_mixtures_of_classes_and_no_class(made: Model) -> None:
    half = made.sample(2, seed=1, classes={"3": 1, "none": 1})
    assert half.condition is not None and half.condition[:, 3].tolist() == [0.5, 0.5] and half.condition.sum() == 1
    assert not made.sample(2, seed=1, classes="none").condition.any()  # type: ignore[union-attr]
    with pytest.raises(InvalidValue, match="sum above 1"):
        made.sample(1, condition=np.ones((1, 10), np.float32))


def test_known_pixels_stay(made: Model) -> None:
    images = made.sample(3, seed=1).data
    mask = np.zeros((1, 1, 8, 8), np.float32)
    mask[..., :4, :] = 1
    filled = made.impute(images, mask, seed=2, classes=["1", "2", "3"]).data
    assert np.array_equal(filled[:, :, :4], images[:, :, :4]) and not np.array_equal(filled, images)
    with pytest.raises(InvalidValue, match="candidates: it has no effect"):
        made.impute(images, mask, candidates=2)


def test_wrong_steps_and_guidance_are_refused(made: Model) -> None:
    for options, message in (
        ({"steps": 3}, "steps: 3 is not offered; give one of 2, 4"), ({"guidance": 21}, "guidance: 21 is out of range; give a number from 0 to 20"),
        ({"guidance": [1, 2, 3]}, "guidance: .*3.* numbers for 2 items"),
        ({"steps": 4, "numbers": {"steps": 2}}, "steps: it is given twice"),
    ):  # fmt: skip
        with pytest.raises(InvalidValue, match=message):
            made.sample(2, **options)


def test_items_are_encoded_and_interpolated_without_a_class(made: Model) -> None:
    images = made.sample(2, seed=1).data
    back = made.reconstruct(images)
    assert back.data.shape == images.shape
    path = made.interpolate({"seed": 1}, {"data": images[0]}, steps=3)
    assert path.data.shape == (3, 1, 8, 8)


def test_the_evaluator_bounds_the_likelihood(made: Model, digits: Data) -> None:
    predict = diffusion.predictions(made)
    chain = diffusion.chain_of_model(made.manifest)
    images = digits.inputs(digits.test)[:20].astype(np.float32)
    nats = diffusion.bound(predict, images, 4, chain, np.random.default_rng(0), 50)
    assert np.isfinite(nats).all() and nats.mean() > 0


def test_an_unconditional_model_takes_no_guidance(tmp_path: Path, digits: Data) -> None:
    run = tiny_run(tmp_path / "run", "flow", digits, conditional=False)
    model = engine.load(shared.export(run, "plain", tmp_path / "models", data=digits), device="cpu", threads=1)
    assert model.sample(2, seed=1, steps=2).data.shape == (2, 1, 8, 8)
    with pytest.raises(InvalidValue, match="guidance: plain has no such input"):
        model.sample(1, guidance=2)


def test_the_better_of_two_averages_is_kept(tmp_path: Path, digits: Data) -> None:
    run = tiny_run(tmp_path / "run", "flow", digits, ema=0.0, ema_second=0.999)
    records = run.folder.joinpath("log.jsonl").read_text().splitlines()
    assert '"chosen": 0.0' in records[-1]  # after 36 steps the slow average still contains the first weights
    config = run.resolved(digits).config
    kept = [averaged(run, config, decay) for decay in (None, 0.0, 0.999)]
    name = "network.first.weight"
    assert torch.equal(kept[0][name], kept[1][name]) and not torch.equal(kept[0][name], kept[2][name])
    with pytest.raises(TrainingError, match=r"no moving average with decay 0.5; valid are 0, 0.999"):
        averaged(run, config, 0.5)
