"""Variants of flows: other samplers, shapes and classes, the graph beside torch for every guidance, and options that are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manifold.cli.training import configuration
from manifold.evaluation import diffusion, evaluate_model, held_out
from manifold.evaluation.extractors import silent
from manifold.evaluation.report import Pictures, Report
from manifold.runtime import engine
from manifold.runtime.engine import Model
from manifold.runtime.errors import InvalidValue, UnsupportedTask
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.operations import infer
from manifold.training import judging
from manifold.training.data import Data
from manifold.training.data.parts import Arrays
from manifold.training.errors import TrainingError
from manifold.training.families import flow, gan
from manifold.training.networks.solving import Make
from manifold.training.train import averaged
from tests import shared
from tests.conftest import tiny_run


def coloured(digits: Data, height: int, width: int, classes: tuple[str, ...] | None) -> Data:
    """Return colour images of noise, with the first class for all items if there are classes."""
    generator = np.random.default_rng(0)

    def made(part: Any, n: int) -> Arrays:
        items = generator.integers(0, 256, (n, 3, height, width)).astype(np.uint8)
        return dataclasses.replace(Arrays.of(part), items=items, labels=np.zeros(n, np.int64))

    return dataclasses.replace(
        digits, spec=ImageSpec(height=height, width=width, channels=3), classes=classes, train=made(digits.train, 128),
        selection=made(digits.test, 32), calibration=made(digits.test, 64), test=made(digits.test, 64),
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, digits: Data) -> tuple[Model, Any]:
    """Return an artifact and its network in torch."""
    root = tmp_path_factory.mktemp("plain")
    run = tiny_run(root / "run", "flow", digits)
    config = run.resolved(digits).config
    assert isinstance(config, flow.Config)
    module = flow.build(config, digits)
    module.load_state_dict(averaged(run, config, None))
    model = engine.load(shared.export(run, "plain", root / "models", data=digits), device="cpu", threads=1)
    return model, module.eval()


@pytest.mark.parametrize("guidance", [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 2.5, 0.0]])
@pytest.mark.parametrize("steps", [2, 4])
def test_the_graph_equals_torch_for_every_guidance(plain: tuple[Model, Any], guidance: list[float], steps: int) -> None:
    """With guidance 1 for all items the graph evaluates one copy of each item, otherwise two."""
    model, module = plain
    latent = np.random.default_rng(1).standard_normal((3, 1, 8, 8)).astype(np.float32)
    condition = np.eye(10, dtype=np.float32)[[1, 2, 3]]
    given = {
        "latent": latent,
        "condition": condition,
        "guidance": np.asarray(guidance, np.float32),
        "steps": np.full(3, steps),
    }
    found = model.run("sample", given)["data"]
    with torch.no_grad():
        expected = Make(module.loop())(*(torch.from_numpy(each) for each in given.values()))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    for place in range(3):
        alone = model.run("sample", {role: array[place : place + 1] for role, array in given.items()})["data"]
        if len(set(guidance)) == 1 or guidance[place] != 1:
            assert np.array_equal(alone[0], found[place])
        else:  # alone it is evaluated once, beside others twice
            np.testing.assert_allclose(alone[0], found[place], atol=1e-5)


def test_an_ancestral_model_of_odd_colour_images(tmp_path: Path, digits: Data) -> None:
    """Images of 7x9 without classes: no size can be halved, and the sampler draws noise at each step."""
    data = coloured(digits, 7, 9, None)
    run = tiny_run(tmp_path / "run", "flow", data, objective="ddpm", noise_schedule="linear", sampler="ancestral")
    model = engine.load(shared.export(run, "odd", tmp_path / "models", data=data), device="cpu", threads=1)
    made = model.sample(3, seed=1, steps=4).data
    assert made.shape == (3, 3, 7, 9)
    assert np.array_equal(made[1], model.sample(1, seed=1, first=1, steps=4).data[0])
    assert not np.array_equal(made, model.sample(3, seed=1, steps=4, temperature=0.5).data)
    assert model.manifest.tasks.keys() == {"sample", "score", "denoise"}
    with pytest.raises(InvalidValue, match="steps: 3 is not offered"):
        model.sample(1, steps=3)
    with pytest.raises(UnsupportedTask, match="cannot encode: its sampler draws new noise at each step"):
        model.encode(made)


def test_a_model_of_one_class_with_one_number_of_steps(tmp_path: Path, digits: Data) -> None:
    data = coloured(digits, 6, 4, ("noise",))
    run = tiny_run(
        tmp_path / "run", "flow", data, objective="ddpm", sampler="heun", steps=(3,), default_steps=3, multiples=(1,)
    )
    model = engine.load(shared.export(run, "one", tmp_path / "models", data=data), device="cpu", threads=1)
    assert model.sample(2, seed=1, classes=["noise", "none"]).data.shape == (2, 3, 6, 4)
    given = {"noisy": np.ones((2, 3, 6, 4), np.float32), "time": np.full(2, 0.5, np.float32)}
    made = model.run("denoise", {**given, "condition": np.array([[1], [0]], np.float32)})["prediction"]
    assert not np.array_equal(made[0], made[1])


def test_the_evaluator_reports_the_bound_with_its_error(
    plain: tuple[Model, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures are the mean over the images of the bound in nats, negated, and in bits for each pixel."""
    model, _ = plain
    nats = iter([np.full(50, 100.0), np.full(50, 120.0)])
    monkeypatch.setattr(diffusion, "bound", lambda predict, images, *rest: next(nats)[: len(images)])
    monkeypatch.setattr(held_out, "BATCH", 50)
    monkeypatch.setattr(held_out, "CHAINED", 100)
    report, data = Report("plain", 1, {}, {}), judging.real_data("digits")
    held_out.chain_bound(report, model, data, 0, silent)
    assert report.metrics["elbo_levels"] == -110
    assert report.metrics["bits_per_dim"] == pytest.approx(110 / 64 / np.log(2), rel=1e-3)
    assert (
        report.metrics["elbo_levels_se"] == pytest.approx(10 / np.sqrt(99), rel=1e-3)
        and report.details["elbo_levels"]["classes"] == "no class"
    )
    monkeypatch.setattr(held_out, "CHAINED", 20)
    held_out.reconstruction(report, model, data, Pictures(), 0, silent)
    assert report.details["reconstruction_mse"]["n"] == 20
    few, many = report.metrics["reconstruction_mse"], Report("plain", 1, {}, {})
    held_out.reconstruction(many, model, data, Pictures(), 0, silent, {"steps": 2, "guidance": 3.0})
    assert many.metrics["reconstruction_mse"] != few  # the default is 4 steps


def test_numbers_are_checked_before_an_evaluation(plain: tuple[Model, Any], shipped: Any) -> None:
    model, _ = plain
    evaluate_model.check_can(model.manifest, 10, None, {"steps": 2, "guidance": 3.0})
    for numbers, message in (
        ({"steps": 3}, "steps: 3 is not offered; give one of 2, 4"),
        ({"guidance": -1.0}, "guidance: -1 is out of range; give a number from 0 to 20"),
    ):
        with pytest.raises(InvalidValue, match=message):
            evaluate_model.check_can(model.manifest, 10, None, numbers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_dropout": 0.0}, "label_dropout: 0 would leave the model without training for no class"),
        ({"steps": (4, 1001), "default_steps": 4}, "steps: .*1001.* at most 1000"),
        ({"ema": 0.99, "ema_second": 0.99}, "ema_second: 0.99 is the decay `ema` too"),
        ({"steps": (4, 8), "default_steps": 16}, "default_steps: 16 is not among the steps"),
        ({"sampler": "ddim"}, "sampler: ddim is for the objective ddpm"),
    ],
)
def test_options_that_cannot_work_are_refused(digits: Data, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        flow.resolve(flow.Config(**options), digits)


def test_a_class_called_none_is_refused_before_training(digits: Data) -> None:
    named = dataclasses.replace(digits, classes=("none", *(digits.classes or ())[1:]))
    with pytest.raises(TrainingError, match="rename the class, or use conditional=false"):
        flow.resolve(flow.Config(), named)
    assert not flow.resolve(flow.Config(conditional=False, label_dropout=0.0), named).conditional


def test_an_adversarial_network_has_no_loss_to_choose_an_average_by() -> None:
    with pytest.raises(TrainingError, match="ema_second: the better average is chosen by the loss"):
        gan.Config(ema_second=0.9)


def test_class_weights_above_one_are_refused_as_tensors_too(plain: tuple[Model, Any]) -> None:
    model, _ = plain
    weights = np.zeros((1, 10), np.float32)
    weights[0, :2] = 2
    with pytest.raises(InvalidValue, match=r"condition: an item has .* weights with a sum above 1"):
        infer.fill(model.manifest, "sample", {"condition": weights}, infer.Choices(seed=1), 1)


def test_nothing_is_drawn_from_a_posterior_without_a_variance(plain: tuple[Model, Any]) -> None:
    model, _ = plain
    encoded = model.encode(np.zeros((1, 1, 8, 8), np.float32), seed=1)
    assert encoded.seed is None
    assert encoded.latents is None


def test_images_without_masks_are_refused(plain: tuple[Model, Any]) -> None:
    model, _ = plain
    with pytest.raises(InvalidValue, match="masks: they are missing; give a mask"):
        model.impute(np.zeros((1, 1, 8, 8), np.float32), seed=1)


def test_settings_are_checked_beside_their_preset() -> None:
    found = configuration(flow, "smoke", ["steps=[4]"])
    assert (found.steps, found.default_steps) == ((4,), 4)
    assert configuration(flow, "smoke", ["default_steps=2"]).default_steps == 2
    for setting, message in (
        ("default_steps=8", r"not among the steps \[2, 4\]"), ("steps=[4,4]", "contains a number twice"), ("noise_schedule=linear", "objective=ddpm"),
    ):  # fmt: skip
        with pytest.raises(TrainingError, match=message):
            configuration(flow, "smoke", [setting])


def test_no_class_has_no_index(plain: tuple[Model, Any]) -> None:
    model, _ = plain
    for given in ("10", ["10"], {"10": 1}, {10: 1}):
        with pytest.raises(InvalidValue, match="there is no class"):
            model.sample(1, classes=given)  # type: ignore[arg-type]


def test_numbers_that_are_not_by_name_are_refused(plain: tuple[Model, Any]) -> None:
    model, _ = plain
    numbers: Any = 5
    data = np.zeros((1, 1, 8, 8), np.float32)
    for call in (model.encode, model.reconstruct, model.anomaly_score):
        with pytest.raises(InvalidValue, match="numbers: 5 is not a mapping; give the numbers by name"):
            call(data, numbers=numbers)
    with pytest.raises(InvalidValue, match="numbers: 5 is not a mapping"):
        model.sample(1, numbers=numbers)
