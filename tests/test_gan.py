"""Adversarial pairs: losses compared with their formulas, unrolled steps with an optimiser's, spectral norms, and exported tasks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import cast, get_args

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient
from torch import Tensor, nn

from manifold.runtime.engine import load
from manifold.service.http.app import create_app
from manifold.service.settings import Settings
from manifold.training import datasets
from manifold.training.batches import Batch, to_float
from manifold.training.data import Arrays, Data, tables
from manifold.training.data.schema import ColumnSettings
from manifold.training.errors import TrainingError
from manifold.training.families import cgan, gan
from manifold.training.families.gan import Config, Score
from manifold.training.loop import checkpoints
from manifold.training.networks import adversarial, dcgan
from manifold.training.networks.layers import fix_norms
from manifold.training.train import trained_model
from tests.conftest import made_table, tiny_run, wait_until_ready
from tests.shared import export

CPU = torch.device("cpu")
SMALL = {"hidden": (16, 32), "widths": (8, 4), "latent_dim": 8}


def config(**changes: object) -> Config:
    return Config.model_validate({**SMALL, **changes})


# --- losses ---


def test_losses_are_the_formulas() -> None:
    real, fake = torch.randn(50, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    d_real, d_fake = real.sigmoid(), fake.sigmoid()
    plain = -(d_real.log() + (1 - d_fake).log()).mean()
    assert adversarial.discriminator_loss("minimax", real, fake).item() == pytest.approx(plain.item())
    assert adversarial.discriminator_loss("non-saturating", real, fake).item() == pytest.approx(plain.item())
    smooth = -(0.8 * d_real.log() + 0.2 * (1 - d_real).log() + (1 - d_fake).log()).mean()
    assert adversarial.discriminator_loss("minimax", real, fake, 0.8).item() == pytest.approx(smooth.item())
    hinge = (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()
    assert adversarial.discriminator_loss("hinge", real, fake).item() == pytest.approx(hinge.item())
    assert adversarial.generator_loss("minimax", fake).item() == pytest.approx((1 - d_fake).log().mean().item())
    assert adversarial.generator_loss("non-saturating", fake).item() == pytest.approx(-d_fake.log().mean().item())
    assert adversarial.generator_loss("hinge", fake).item() == pytest.approx(-fake.mean().item())


def test_minimax_saturates_where_the_other_does_not() -> None:
    """The gradient of the generator's loss when the discriminator is certain is σ(l) in one case and 1 - σ(l) in the other."""
    for kind, expected in (
        ("minimax", -1 / (1 + math.exp(8))),
        ("non-saturating", -1 / (1 + math.exp(-8))),
        ("hinge", -1.0),
    ):
        logit = torch.tensor([-8.0], dtype=torch.float64, requires_grad=True)
        adversarial.generator_loss(kind, logit).backward()
        assert logit.grad is not None
        assert logit.grad.item() == pytest.approx(expected)


def test_smoothed_targets_are_drawn_between_their_bounds_and_for_real_items_alone() -> None:
    drawn = adversarial.targets((0.7, 0.9), 20_000, torch.Generator().manual_seed(0))
    assert isinstance(drawn, Tensor)
    assert 0.7 <= float(drawn.min()) < 0.701
    assert 0.899 < float(drawn.max()) <= 0.9
    assert float(drawn.mean()) == pytest.approx(0.8, abs=0.002)
    assert adversarial.targets((1.0, 1.0), 5, torch.Generator()) == 1.0
    # the optimum for target t is at σ(l) = t; for a generated item the optimum is minus infinity
    real = torch.tensor([0.0], requires_grad=True)
    optimizer = torch.optim.SGD([real], lr=5.0)
    for _ in range(300):
        optimizer.zero_grad()
        adversarial.discriminator_loss("minimax", real, torch.tensor([-50.0]), 0.8).backward()
        optimizer.step()
    assert real.sigmoid().item() == pytest.approx(0.8, abs=1e-3)


def test_freezing_stops_gradients_of_weights_and_lets_them_pass() -> None:
    layer, x = nn.Linear(3, 1), torch.randn(2, 3, requires_grad=True)
    with adversarial.frozen(layer):
        layer(x).sum().backward()
    assert layer.weight.grad is None
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert layer.weight.requires_grad


# --- augmentation ---


@pytest.mark.parametrize("policy", get_args(adversarial.Policy))
def test_augmentation_keeps_shape_and_passes_gradients(policy: str) -> None:
    x = torch.rand(32, 3, 16, 16, requires_grad=True)
    changed = adversarial.augment(x, [policy], torch.Generator().manual_seed(0))
    assert changed.shape == x.shape
    assert not torch.equal(changed, x)
    changed.sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


@pytest.mark.parametrize("policy", get_args(adversarial.Policy))
def test_augmentation_of_an_item_does_not_depend_on_the_others(policy: str) -> None:
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    beside = torch.cat([x[:1], x[1:].flip(2) / 2])
    first, second = (adversarial.augment(each, [policy], torch.Generator().manual_seed(0)) for each in (x, beside))
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1:], second[1:])


def test_translation_moves_and_cutout_erases_a_square() -> None:
    x = torch.full((200, 1, 16, 16), -1.0)
    x[:, :, 8, 8] = 1.0
    moved = adversarial.augment(x, ["translation"], torch.Generator().manual_seed(0))
    assert torch.equal(moved.flatten(1).amax(1), torch.ones(200))  # the square moves by at most 2 of 16 pixels
    places = {tuple(int(i) for i in (item[0] > 0).nonzero()[0]) for item in moved}
    assert {row for row, _ in places} == {column for _, column in places} == set(range(6, 11))
    ones = torch.ones(300, 1, 16, 16)
    holes = adversarial.augment(ones, ["cutout"], torch.Generator().manual_seed(0)) == 0
    assert int(holes.flatten(1).sum(1).max()) == 64
    first = holes[int(holes.flatten(1).sum(1).argmax()), 0]
    rows, columns = first.any(1).nonzero().flatten(), first.any(0).nonzero().flatten()
    assert first[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


# --- unrolled steps ---


def test_unrolled_steps_are_adams() -> None:
    torch.manual_seed(0)
    layer, x, y = (
        nn.Linear(4, 1).double(),
        torch.randn(8, 4, dtype=torch.float64),
        torch.randn(8, 1, dtype=torch.float64),
    )
    weights = {name: weight.detach().clone() for name, weight in layer.named_parameters()}

    def loss(at: dict[str, Tensor]) -> Tensor:
        mean: Tensor = ((torch.func.functional_call(layer, at, (x,)) - y) ** 2).mean()
        return mean

    found = adversarial.unrolled(weights, loss, 5, 0.01, (0.5, 0.999))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01, betas=(0.5, 0.999))
    for _ in range(5):
        optimizer.zero_grad()
        ((layer(x) - y) ** 2).mean().backward()
        optimizer.step()
    for name, weight in layer.named_parameters():
        assert torch.allclose(found[name], weight, atol=1e-10)


def test_gradients_pass_through_unrolled_steps() -> None:
    """The test compares d/dg of the discriminator after two steps with finite differences."""
    start = {"w": torch.tensor([0.3], dtype=torch.float64)}

    def after(g: Tensor) -> Tensor:
        found = adversarial.unrolled(start, lambda at: ((at["w"] * g - 1) ** 2).sum(), 2, 0.1, (0.5, 0.9))
        total: Tensor = (found["w"] ** 3).sum()
        return total

    g = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(after, (g,), eps=1e-6, atol=1e-5)
    (gradient,) = torch.autograd.grad(after(g), g)
    assert float(gradient.abs()) > 1e-3


# --- network bodies ---


def test_the_rules_of_dcgan_and_each_left_out() -> None:
    def kinds(module: nn.Module) -> set[str]:
        return {type(part).__name__ for part in module.modules()}

    up, down = dcgan.Up((8, 4), 1), dcgan.down(1, (4, 8))
    assert {"ConvTranspose2d", "BatchNorm2d", "ReLU"} <= kinds(up)
    assert not {"Upsample", "LeakyReLU"} & kinds(up)
    assert {"Conv2d", "BatchNorm2d", "LeakyReLU"} <= kinds(down)
    assert "MaxPool2d" not in kinds(down)
    assert sum(isinstance(part, nn.BatchNorm2d) for part in down) == 1  # none in the layer that receives images
    assert isinstance(up.layers[-1], nn.ConvTranspose2d)  # and none in the layer that outputs images
    assert kinds(dcgan.Up((8, 4), 1, ("normalise", "activations"))) >= {"Upsample", "BatchNorm2d"}
    assert "MaxPool2d" in kinds(dcgan.down(1, (4, 8), ("normalise", "activations")))
    assert "BatchNorm2d" not in kinds(dcgan.Up((8, 4), 1, ("strides",))) | kinds(dcgan.down(1, (4, 8), ("strides",)))
    assert "Tanh" in kinds(dcgan.Up((8, 4), 1, ()))
    assert "LeakyReLU" not in kinds(dcgan.down(1, (4, 8), ()))
    x = torch.rand(2, 1, 28, 28)
    for rules in ((), dcgan.RULES, ("strides",)):
        small = dcgan.down(1, (4, 8), rules)(x)
        assert small.shape == (2, 8, 7, 7)
        assert dcgan.Up((8, 4), 1, rules)(small).shape == x.shape


def test_a_removed_spectral_norm_leaves_weights_of_norm_one() -> None:
    torch.manual_seed(0)
    body = dcgan.down(3, (8, 16), spectral=True).train()
    for _ in range(30):
        body(torch.rand(4, 3, 8, 8))
    x = torch.rand(4, 3, 8, 8)
    before = body.eval()(x)
    dcgan.without_spectral_norm(body)
    assert not any("parametrizations" in name for name in body.state_dict())
    assert torch.allclose(body(x), before, atol=1e-2)
    for part in body:
        if isinstance(part, nn.Conv2d):
            assert torch.linalg.matrix_norm(part.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.01)


def test_a_conditional_norm_mixes_classes() -> None:
    norm = dcgan.ConditionalNorm(4, 3).eval()
    nn.init.normal_(norm.scale.weight)
    x, c = torch.randn(1, 4, 2, 2), torch.eye(3)
    halves = norm(x, torch.tensor([[0.5, 0.5, 0.0]]))
    assert torch.allclose(halves, (norm(x, c[:1]) + norm(x, c[1:2])) / 2, atol=1e-6)


def test_what_is_wrong_is_said(digits: Data, table: Data) -> None:
    for changes, field in (
        ({"loss": "wasserstein"}, "loss"), ({"targets": (0.9, 0.7)}, "targets"), ({"targets": (1.0,)}, "targets"),
        ({"loss": "hinge", "targets": (0.7, 0.9)}, "targets"), ({"rules": ("pooling",)}, "rules"), ({"augment": ("color",)}, "augment"),
        ({"widths": (0,)}, "widths"), ({"dropout": 1.0}, "dropout"), ({"unrolled": -1}, "unrolled"), ({"rollbacks": -1}, "rollbacks"),
    ):  # fmt: skip
        with pytest.raises(TrainingError) as caught:
            config(**changes)
        assert caught.value.field == field, changes
    with pytest.raises(TrainingError, match="categories"):
        gan.build(config(), table)
    with pytest.raises(TrainingError, match="no classes"):
        cgan.build(config(), table)
    with pytest.raises(TrainingError, match="halve the image size 4 times"):
        gan.build(config(body="dcgan", widths=(8, 8, 8, 8)), digits)
    with pytest.raises(TrainingError, match="normalise"):
        cgan.build(config(body="dcgan", rules=("strides",)), digits)
    with pytest.raises(TrainingError, match="judge"):
        gan.phases(gan.build(config(judge="nowhere"), digits), config(judge="nowhere"))


# --- players ---


def test_each_turn_moves_its_own_player_alone(digits: Data, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", "gan", digits, epochs=1, watch_steps=0)
    state = checkpoints.load(run.checkpoint)
    owned = [len(optimizer["state"]) for optimizer in state["optimizers"]]
    model = gan.build(run.config, digits)  # type: ignore[arg-type]
    assert owned == [len(list(model.discriminator.parameters())), len(list(model.generator.parameters()))]


@pytest.mark.parametrize(
    "changes",
    [{}, {"body": "dcgan"}, {"body": "dcgan", "spectral": True, "loss": "hinge", "augment": ("translation",)}],
)
def test_training_goes_on_exactly_where_it_stopped(digits: Data, tmp_path: Path, changes: dict[str, object]) -> None:
    from manifold.training import families, runs
    from manifold.training.train import train

    options = gan.Config.model_validate(
        {**families.get("gan").PRESETS["smoke"], **changes, "watch_steps": 3, "judge": "none"}
    )
    whole, parts = (runs.TrainingRun(tmp_path / name, "gan", "digits", "smoke", options) for name in ("whole", "parts"))
    train(whole, digits, device="cpu", quiet=True)
    train(parts, digits, device="cpu", quiet=True, stop_after=7)
    train(parts, digits, device="cpu", quiet=True, resume=True)
    first, second = (checkpoints.load(run.checkpoint) for run in (whole, parts))
    assert first["position"] == second["position"]
    for key in ("model", "average"):
        for name, value in first[key].items():
            assert torch.equal(value, second[key][name]), (key, name)
    assert first["watch"] == second["watch"]


def test_power_iterations_are_not_averaged(digits: Data, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", "gan", digits, body="dcgan", spectral=True, watch_steps=0)
    average = checkpoints.load(run.checkpoint)["average"]
    vectors = [value for name, value in average.items() if name.endswith(("._u", "._v"))]
    assert vectors
    for vector in vectors:
        assert float(vector.norm()) == pytest.approx(1, abs=1e-5)


def test_the_score_of_a_conditional_pair_is_the_best_class(digits: Data) -> None:
    torch.manual_seed(0)
    model = cgan.build(config(body="dcgan"), digits).eval()
    x = torch.rand(5, 1, 8, 8)
    each = torch.stack([model.discriminator(x, torch.eye(10)[[y] * 5]) for y in range(10)], 1)
    assert torch.allclose(Score(model.discriminator)(x), -each.amax(1), atol=1e-5)


@pytest.mark.parametrize("spectral", [False, True])
def test_the_discriminator_depends_on_the_class_by_projection(digits: Data, spectral: bool) -> None:
    """The logits of one item under two classes differ by <embedding(a) - embedding(b), h>."""
    torch.manual_seed(0)
    discriminator = cgan.build(config(spectral=spectral), digits).eval().discriminator
    x, classes = torch.rand(5, 1, 8, 8), torch.eye(10)
    with torch.no_grad():
        first, second = (discriminator(x, classes[[y] * 5]) for y in (3, 8))
        assert isinstance(discriminator.embedding, nn.Linear)
        apart = discriminator.features(x) @ (
            discriminator.embedding.weight[:, 3] - discriminator.embedding.weight[:, 8]
        )
    assert (first != second).all()
    assert torch.allclose(first - second, apart, atol=1e-6)


def batch_of(digits: Data) -> Batch:
    return Batch(
        to_float(Arrays.of(digits.train).items[:20], CPU), torch.from_numpy(digits.train.labels[:20]), generator(), 0.0
    )


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_logged_logits_are_means_and_the_test_loss_is_the_cross_entropy(digits: Data) -> None:
    torch.manual_seed(0)
    model, batch = cgan.build(config(), digits).eval(), batch_of(digits)
    with torch.no_grad():
        c = model.condition(batch.labels)
        real = model.discriminator(batch.items, c)
        fake = model.discriminator(model.generator(model.latents(20, generator()), c), c)
        losses, figures = model.discriminator_loss(batch), gan.evaluate(model, batch_of(digits))
    assert losses["real_logit"].item() == pytest.approx(real.mean().item(), rel=1e-5)
    assert losses["fake_logit"].item() == pytest.approx(fake.mean().item(), rel=1e-5)
    entropy = -(real.sigmoid().log() + (1 - fake.sigmoid()).log())
    assert losses["loss"].item() == pytest.approx(entropy.mean().item(), rel=1e-5)
    assert torch.allclose(figures["loss"], entropy, rtol=1e-5)
    assert torch.allclose(figures["real_logit"], real)
    assert torch.allclose(figures["fake_logit"], fake)


def test_a_generator_looks_ahead_where_it_is_asked_to(digits: Data) -> None:
    """Without unrolled steps the loss uses the current discriminator. With unrolled steps it uses a better one, which is fooled less."""
    found = {}
    for steps in (0, 3):
        torch.manual_seed(0)
        model = gan.build(config(unrolled=steps, dropout=0.0, discriminator_lr=1e-2), digits)
        found[steps] = model.generator_loss(batch_of(digits))["loss"].item()
        with torch.no_grad():
            plain = model.discriminator(model.made(batch_of(digits), None))
    assert found[0] == pytest.approx(-plain.sigmoid().log().mean().item(), rel=1e-5)
    assert found[3] > found[0] + 0.01


@pytest.mark.parametrize("body", ["mlp", "dcgan"])
def test_every_weight_learns(digits: Data, body: str) -> None:
    torch.manual_seed(0)
    model, batch = cgan.build(config(body=body), digits), batch_of(digits)
    for player, loss in ((model.discriminator, model.discriminator_loss), (model.generator, model.generator_loss)):
        loss(batch)["loss"].backward()
        for name, weight in player.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.any(), name
            assert name != "head.weight" or len(weight) == 1  # the row of the logit alone: no unused rows


# --- artifacts ---


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, digits: Data) -> Path:
    root = tmp_path_factory.mktemp("gans")
    numbers = {name: column for name, column in made_table().items() if name in ("price", "weight")}
    table = tables.from_table("numbers", numbers, {"source": "tests"}, ColumnSettings({"price": 2}))
    mlp = tiny_run(root / "runs/mlp", "gan", digits, targets=(0.7, 0.9))
    spectral = tiny_run(root / "runs/sn", "gan", digits, body="dcgan", spectral=True, stored="float16")
    conditional = tiny_run(root / "runs/cgan", "cgan", digits, body="dcgan", unrolled=1)
    rows = tiny_run(root / "runs/rows", "gan", table, loss="minimax")
    for run, name, data in (
        (mlp, "mlp", digits),
        (spectral, "sn", digits),
        (conditional, "cgan", digits),
        (rows, "rows", table),
    ):
        backend = "onnx" if run is spectral else "torchscript"  # tests/test_recipes.py has a conditional one in ONNX
        export(run, name, root / "models", data=data, backend=backend)
    return root


def test_weights_that_are_stored_in_half_precision_take_half_the_room(made: Path) -> None:
    """Batch normalisations are not folded into convolutions, because that would make float32 weights of them again."""
    model = load(made / "models/sn", device="cpu")
    preset = gan.PRESETS["smoke"]
    network = gan.build(Config.model_validate({**preset, "body": "dcgan", "spectral": True}), datasets.load("digits"))
    large = sum(weight.numel() for weight in network.parameters() if weight.numel() >= 64)
    assert (model.folder / "weights.bin").stat().st_size == pytest.approx(2 * large, rel=0.05)


def test_a_fixed_norm_is_the_norm() -> None:
    norm = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3, affine=False)))
    for _ in range(5):
        norm(torch.randn(8, 2, 4, 4) * 3 + 1)
    nn.init.normal_(cast(nn.BatchNorm2d, norm[1]).weight)
    norm.eval()
    x = torch.randn(4, 2, 4, 4)
    before = norm(x)
    fix_norms(norm)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in norm.modules())
    assert torch.allclose(norm(x), before, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "sn", "cgan", "rows"])
def test_an_exported_generator_samples_and_scores(made: Path, name: str) -> None:
    model = load(made / "models" / name, device="cpu")
    assert set(model.manifest.tasks) == {"sample", "decode", "score"}
    samples = model.sample(7, seed=3)
    assert samples.data.shape == (7, *model.manifest.spec.shape)
    assert np.isfinite(samples.data).all()
    alone = model.sample(1, seed=3, first=4)
    assert np.array_equal(alone.data[0], samples.data[4])
    scored = model.score(samples.data)
    assert scored.terms["negative_logit"].shape == (7,)
    assert model.calibrated.n > 0
    assert "experimental" in model.manifest.scoring.terms[0].description  # type: ignore[union-attr]


def test_the_exported_generator_is_the_average(made: Path, digits: Data) -> None:
    from manifold.training.runs import open_run

    run = open_run(made / "runs/mlp")
    model, exported = trained_model(run, digits), load(made / "models/mlp", device="cpu")
    z = torch.randn(4, 16)
    with torch.no_grad():
        expected = model.generator(z).numpy()  # type: ignore[operator]
    assert np.allclose(exported.sample(4, latents=z.numpy()).data, expected, atol=1e-5)


def test_the_service_says_what_a_generator_cannot(made: Path) -> None:
    with TestClient(create_app(Settings(models_dir=made / "models", device="cpu"))) as client:
        wait_until_ready(client)
        answer = client.post("/encode", json={"model": "mlp", "images": []})
        assert answer.status_code == 409
        message = answer.json()["error"]["message"]
        assert "was not trained to encode items" in message
        assert "/sample" in message
        shown = client.post("/sample", json={"model": "mlp", "n": 1, "seed": 1}).json()["images"][0]
        answer = client.post("/interpolate", json={"model": "mlp", "from": {"image": shown}, "to": {"seed": 2}})
        assert answer.status_code == 409
        assert "was not trained to encode items" in answer.json()["error"]["message"]
        answer = client.post(
            "/interpolate",
            json={"model": "cgan", "from": {"seed": 1, "class": "3"}, "to": {"seed": 1, "class": "8"}, "steps": 4},
        )
        assert answer.status_code == 200
        assert len(answer.json()["images"]) == 4
        mixed = client.post("/sample", json={"model": "cgan", "class": {"3": 1, "8": 1}, "seed": 1})
        assert mixed.json()["classes"] == [{"3": 0.5, "8": 0.5}]


def test_the_log_has_both_players_and_what_was_seen(made: Path) -> None:
    records = [json.loads(line) for line in (made / "runs/mlp/log.jsonl").read_text().splitlines()]
    epoch = next(record for record in records if "epoch" in record)
    assert {
        "train/discriminator/real_logit",
        "train/discriminator/fake_logit",
        "train/generator/gradient_norm",
        "selection/loss",
    } <= set(epoch)
