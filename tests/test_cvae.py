"""The conditional VAE: its bounds given the class, Bayes' rule, and the endpoints that use it."""

from __future__ import annotations

import base64
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from manifold.runtime import imaging, recipes
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import InvalidValue, UnsupportedTask
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.operations import End
from manifold.service.http.app import create_app
from manifold.service.settings import Settings
from manifold.training import datasets
from manifold.training.batches import Batch, to_float
from manifold.training.bounds import iwae
from manifold.training.data import Arrays, Data
from manifold.training.errors import TrainingError
from manifold.training.families import cvae
from manifold.training.families.cvae import CVAE, Config
from tests.conftest import tiny_run, wait_until_ready
from tests.shared import export

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, digits: Data) -> Model:
    root = tmp_path_factory.mktemp("cvae")
    run = tiny_run(
        root / "run", "cvae", digits, epochs=60, hidden=(128, 64), latent_dim=6, lr=3e-3, ema=0.98, class_k=16
    )
    return load(export(run, "cvae", root / "models", data=digits, backend="torchscript"), device="cpu")


def test_bounds_given_the_class_lie_below_the_exact_likelihood(digits: Data) -> None:
    """With one latent, p(x | y) = ∫ p(x | z, y) p(z) dz can be computed by quadrature."""
    torch.manual_seed(0)
    model = CVAE(cvae.resolve(Config(latent_dim=1, hidden=(16,)), digits), digits)
    x = (torch.from_numpy(Arrays.of(digits.test).items[:3]).float() / 255).flatten(1).round()
    c = model.condition(torch.tensor([0, 4, 9]))
    z = torch.linspace(-8, 8, 4001)[:, None]
    with torch.no_grad():
        joint = [
            -model.likelihood.nll(model.decode(z, c[i : i + 1].expand(len(z), -1)), x[i].expand(len(z), -1)).sum(1)
            for i in range(3)
        ]
        exact = (torch.stack(joint, 1) - 0.5 * z**2 - 0.5 * math.log(2 * math.pi)).logsumexp(0) + math.log(16 / 4000)
        noise = torch.randn(20_000, 3, 1, generator=torch.Generator().manual_seed(1))
        reconstruction, kl = model.terms(x, noise, c)
        tight = iwae(model, x, noise, c)
        other = iwae(model, x, noise, model.condition(torch.tensor([1, 1, 1])))
    assert torch.allclose(tight, exact, atol=0.01)
    assert (-(reconstruction + kl) <= exact + 1e-3).all()
    assert not torch.allclose(other, exact, atol=0.01)  # the class matters


def test_the_discriminative_loss_is_bayes_rule_over_the_bounds_of_all_classes(digits: Data) -> None:
    torch.manual_seed(0)
    plain, hybrid = (
        CVAE(cvae.resolve(Config(latent_dim=3, hidden=(16,), samples=2, discriminative=weight), digits), digits)
        for weight in (0.0, 3.0)
    )
    hybrid.load_state_dict(plain.state_dict())
    part = Arrays.of(digits.train)[:7]
    batch = Batch(to_float(part.items, CPU), torch.from_numpy(part.labels), torch.Generator(), 0.0)
    x, noise = plain.settled(batch.items), torch.randn(2, 7, 3)
    energies = plain.class_energies(x, noise)
    for place in range(10):
        reconstruction, kl = plain.terms(x, noise, plain.condition(torch.full((7,), place)))
        assert torch.allclose(energies[:, place], reconstruction + kl, rtol=1e-5)
    losses = {name: model.loss(replaced(batch)) for name, model in (("plain", plain), ("hybrid", hybrid))}
    surprise = losses["hybrid"]["discriminative"]
    assert "discriminative" not in losses["plain"] and surprise.item() > 0
    assert torch.allclose(losses["hybrid"]["loss"], losses["plain"]["loss"] + 3 * surprise)


def replaced(batch: Batch) -> Batch:
    """Return the batch with a new generator, so that losses have equal draws."""
    return dataclasses.replace(batch, generator=torch.Generator().manual_seed(2))


def test_the_discriminative_loss_makes_a_better_classifier(digits: Data) -> None:
    test, right = Arrays.of(digits.test), {}
    x = to_float(test.items, CPU)
    for weight in (0.0, 10.0):
        torch.manual_seed(0)
        model = CVAE(cvae.resolve(Config(latent_dim=4, hidden=(24,), discriminative=weight), digits), digits)
        optimiser = torch.optim.Adam(model.parameters(), 3e-3)
        draws, part = torch.Generator().manual_seed(0), Arrays.of(digits.train)
        for _ in range(200):
            at = torch.randint(len(part), (64,), generator=draws).numpy()
            batch = Batch(to_float(part.items[at], CPU), torch.from_numpy(part.labels[at]), draws, 0.0)
            optimiser.zero_grad()
            model.loss(batch)["loss"].backward()
            optimiser.step()
        with torch.no_grad():
            energies = model.class_energies(model.settled(x), torch.randn(1, len(test), 4, generator=draws))
        right[weight] = float((energies.argmin(1).numpy() == test.labels).mean())
    assert right[10.0] > 0.9 > right[0.0] + 0.05, f"{right}"


def test_the_class_reaches_posterior_and_decoder(digits: Data) -> None:
    torch.manual_seed(0)
    model = CVAE(cvae.resolve(Config(latent_dim=3, hidden=(16,)), digits), digits)
    c = model.condition(torch.tensor([3])).requires_grad_()
    mean, _ = model.encode(torch.rand(1, 64), c)
    assert torch.autograd.grad(mean.sum(), c)[0].abs().sum() > 0
    assert torch.autograd.grad(model.decode(torch.zeros(1, 3), c).sum(), c)[0].abs().sum() > 0


def test_sampling_by_class_random_class_and_mixture(model: Model, digits: Data) -> None:
    own = load("models/digits-classifier", device="cpu")
    by_name = {name: model.sample(40, seed=0, classes=name) for name in "0123456789"}
    right = [own.classify(by_name[name].data).argmax(axis=1) == int(name) for name in by_name]
    assert np.mean(right) > 0.8
    mixed = model.sample(1, seed=0, classes={"3": 0.5, "8": 0.5})
    assert mixed.condition is not None
    assert mixed.condition[0, [3, 8]].tolist() == [0.5, 0.5]
    three, eight = (by_name[name].data[0] for name in "38")
    assert not np.allclose(mixed.data[0], three)
    assert not np.allclose(mixed.data[0], eight)
    drawn = model.sample(2000, seed=1).condition
    assert drawn is not None
    assert np.abs(drawn.mean(axis=0) - 0.1).max() < 0.03


def test_interpolation_between_classes_at_a_fixed_latent(model: Model) -> None:
    path = model.interpolate(End(condition="1"), End(condition="7"), steps=5, seed=3)
    assert np.array_equal(path.latents, path.latents[:1].repeat(5, axis=0))
    ends = [model.sample(1, seed=3, classes=name).data[0] for name in "17"]
    assert np.allclose(path.data[0], ends[0], atol=1e-6)
    assert np.allclose(path.data[-1], ends[1], atol=1e-6)


def test_reconstruction_under_another_class_changes_the_digit(model: Model, digits: Data) -> None:
    own = load("models/digits-classifier", device="cpu")
    edge = digits.inputs(digits.test)[:100]
    labels = [int(label) for label in digits.test.labels[:100]]
    same = model.reconstruct(edge, classes=labels)
    encoded = model.encode(edge, classes=labels)
    other = [(label + 5) % 10 for label in labels]
    assert encoded.mean is not None
    changed = model.reconstruct(edge, classes=labels, target=other)
    assert np.allclose(changed.data, model.sample(100, latents=encoded.mean, classes=other).data, atol=1e-6)
    assert (own.classify(same.data).argmax(axis=1) == labels).mean() > 0.8
    assert (own.classify(changed.data).argmax(axis=1) == other).mean() > 0.6


def test_classes_by_bayes_rule(model: Model, digits: Data) -> None:
    about = model.manifest.classification
    assert about is not None
    assert about.term == "negative_iwae"
    edge = digits.inputs(digits.test)
    probabilities = model.classify(edge)
    assert np.allclose(probabilities.sum(axis=1), 1)
    reported = {metric.name: metric for metric in model.manifest.metrics}
    assert reported["accuracy"].value == pytest.approx(
        (probabilities.argmax(axis=1) == digits.test.labels).mean(), abs=1e-5
    )
    assert reported["accuracy"].value > 0.85
    assert reported["accuracy"].protocol["class_prior"] == "uniform"
    assert reported["calibration_error"].value < 0.1
    # the same from the terms given each class
    terms = np.stack([model.score(edge[:4], classes=name).terms["negative_iwae"] for name in "0123456789"], axis=1)
    expected = np.exp(-(terms - terms.min(axis=1, keepdims=True)) / about.temperature)
    assert np.allclose(probabilities[:4], expected / expected.sum(axis=1, keepdims=True), atol=1e-6)
    # without a class, the score is marginalised over the classes: -log Σ p(y) exp(-nll)
    marginal = model.score(edge[:4]).terms["negative_iwae"]
    assert np.allclose(marginal, -np.log(np.exp(-terms).mean(axis=1)), rtol=1e-6)


def test_the_importance_weighted_bound_is_the_tighter_one(model: Model, digits: Data) -> None:
    labels = [int(label) for label in digits.test.labels]
    terms = model.score(digits.inputs(digits.test), classes=labels).terms
    assert terms["negative_iwae"].mean() < terms["negative_elbo"].mean()


def test_what_a_cvae_refuses(table: Data) -> None:
    with pytest.raises(TrainingError, match="no classes to condition on"):
        cvae.build(cvae.resolve(Config(), table), table)
    with pytest.raises(TrainingError, match="class_k"):
        Config(class_k=1)
    with pytest.raises(TrainingError, match="discriminative: a model of factors has no classes"):
        Config(discriminative=1.0, given=("scale",))
    with pytest.raises(TrainingError, match="variational: False is not possible"):
        Config(variational=False)


def test_the_run_went_down(model: Model) -> None:
    log = Path(model.folder.parents[2]) / "run/log.jsonl"
    import json

    losses = [json.loads(line)["selection/loss"] for line in log.read_text().splitlines()]
    assert losses[-1] < 0.9 * losses[0]


# --- real values instead of a class ---


SIDE = 16


def halved(part: Arrays) -> Arrays:
    """Return the split with each 2 by 2 pixels of its images averaged."""
    pairs = part.items.reshape(len(part), 3, SIDE, 2, SIDE, 2).mean(axis=(3, 5))
    return dataclasses.replace(part, items=np.round(pairs).astype(np.uint8))


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Data]:
    """Return a model of the set `shapes` that is conditioned on their positions, and the data."""
    whole = datasets.load("shapes")
    data = dataclasses.replace(
        whole, spec=ImageSpec(height=SIDE, width=SIDE, channels=3, background=0.0), train=halved(Arrays.of(whole.train)[:3000]),
        selection=None, calibration=halved(Arrays.of(whole.calibration)[:200]), test=halved(Arrays.of(whole.test)[:200]),
    )  # fmt: skip
    root = tmp_path_factory.mktemp("placed")
    run = tiny_run(
        root / "run", "cvae", data, given=("x", "y"), likelihood="logistic", epochs=16, hidden=(128, 64), latent_dim=4, lr=3e-3, ema=0.9
    )  # fmt: skip
    return load(export(run, "placed", root / "models", data=data, backend="torchscript"), device="cpu"), data


def centres(images: np.ndarray) -> np.ndarray:
    """Return centres of mass (N, 2), as shares of the side, of images (N, 3, SIDE, SIDE) in [0, 1]."""
    mass = images.sum(axis=1)
    places = (np.arange(SIDE) + 0.5) / SIDE
    total = mass.sum(axis=(1, 2))
    return np.stack([(mass.sum(axis=1) * places).sum(1) / total, (mass.sum(axis=2) * places).sum(1) / total], axis=1)


def test_shapes_are_where_their_factors_say(placed: tuple[Model, Data]) -> None:
    _, data = placed
    # the centre of mass of a triangle is not its position
    square = data.test.factors is not None and data.test.labels < 2
    asked = data.of_factors(data.test, ("x", "y"))
    assert np.abs(centres(Arrays.of(data.test).items / 255.0) - asked)[square].max() < 0.01
    with pytest.raises(TrainingError, match="lacks some of the factors depth"):
        data.of_factors(data.test, ("depth",))


def test_what_is_drawn_is_where_it_was_told_to_be(placed: tuple[Model, Data]) -> None:
    model, _ = placed
    asked = np.asarray([(x, y) for x in (0.35, 0.5, 0.65) for y in (0.35, 0.5, 0.65)])
    drawn = model.sample(len(asked), seed=0, classes=asked)
    assert drawn.condition is not None
    assert np.allclose(drawn.condition, asked)
    found = centres(drawn.data)
    assert np.corrcoef(found[:, 0], asked[:, 0])[0, 1] > 0.9
    assert np.corrcoef(found[:, 1], asked[:, 1])[0, 1] > 0.9


def test_values_are_drawn_from_the_training_part_where_none_are_given(placed: tuple[Model, Data]) -> None:
    model, data = placed
    drawn = model.sample(50, seed=0).condition
    assert drawn is not None
    legal = {tuple(row) for row in data.of_factors(data.train, ("x", "y")).round(4).tolist()}
    assert {tuple(row) for row in drawn.round(4).tolist()} <= legal
    assert len({tuple(row) for row in drawn.tolist()}) > 5


def test_a_shape_is_moved_by_another_condition(placed: tuple[Model, Data]) -> None:
    model, data = placed
    edge, own = data.inputs(data.test)[:40], data.of_factors(data.test, ("x", "y"))[:40]
    moved = model.reconstruct(edge, classes=own, target=np.asarray([0.65, 0.35]))
    away = np.abs(own - [0.65, 0.35]).mean()
    # more than half of the way; the model trained for only a minute
    assert np.abs(centres(moved.data) - [0.65, 0.35]).mean() < 0.5 * away
    kept = centres(model.reconstruct(edge, classes=own).data)
    assert np.corrcoef(kept.ravel(), centres(edge).ravel())[0, 1] > 0.9


def test_what_a_model_of_real_values_refuses(placed: tuple[Model, Data]) -> None:
    model, data = placed
    edge = data.inputs(data.test)[:2]
    with pytest.raises(InvalidValue, match="conditioned on x, y; give their values"):
        model.encode(edge)
    with pytest.raises(InvalidValue, match="conditioned on x, y; give their values"):
        model.score(edge)
    with pytest.raises(InvalidValue, match="give the values of x, y as `condition`"):
        model.sample(1, classes="3")
    with pytest.raises(InvalidValue, match="3 rows for 2 items"):
        model.encode(edge, classes=np.zeros((3, 2)))
    with pytest.raises(InvalidValue, match="condition: shape"):
        model.encode(edge, classes=np.zeros((2, 3)))
    with pytest.raises(UnsupportedTask):
        model.classify(edge)


def test_real_values_over_the_wire(placed: tuple[Model, Data]) -> None:
    model, data = placed
    settings = Settings(models_dir=model.folder.parents[1], default_model=model.manifest.name, device="cpu")
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        (about,) = client.get("/models").json()["models"]
        assert about["conditions"] == ["x", "y"]
        body = {"n": 2, "seed": 1, "condition": [0.4, 0.6], "encoding": "array"}
        answer = client.post("/sample", json=body).json()
        assert np.allclose(answer["condition"], [[0.4, 0.6]] * 2)
        assert np.allclose(answer["data"], model.sample(2, seed=1, classes=np.asarray([0.4, 0.6])).data, atol=1e-6)
        image = base64.b64encode(imaging.to_png(Arrays.of(data.test).items[0])).decode()
        own = data.of_factors(data.test, ("x", "y"))[:1].tolist()
        moved = client.post(
            "/reconstruct",
            json={"images": [image], "condition": own, "target_condition": [0.65, 0.35], "encoding": "array"},
        )
        there = model.reconstruct(data.inputs(data.test)[:1], classes=np.asarray(own), target=np.asarray([0.65, 0.35]))
        assert np.allclose(moved.json()["data"], there.data, atol=1e-6)
        path = client.post(
            "/interpolate",
            json={
                "from": {"seed": 1, "condition": [0.3, 0.5]},
                "to": {"seed": 1, "condition": [0.7, 0.5]},
                "steps": 4,
                "encoding": "array",
            },
        )
        assert np.all(np.diff(centres(np.asarray(path.json()["data"]))[:, 0]) > 0)
        for wrong, field in (
            ({"condition": [[0.1]]}, "condition"),
            ({"condition": ["a", "b"]}, "condition"),
            ({"condition": [0.4, 0.6], "class": "1"}, "condition"),
        ):
            refused = client.post("/sample", json={"n": 2, **wrong})
            assert refused.status_code == 422, refused.text
            assert refused.json()["error"]["field"] == field
        drawn = client.post("/sample", json={"n": 1, "condition": [0.4, 0.6]}).json()["images"][0]
        assert recipes.remake(model, imaging.read_recipe(base64.b64decode(drawn))) == base64.b64decode(drawn)


def test_another_class_over_the_wire(model: Model, digits: Data) -> None:
    own = load("models/digits-classifier", device="cpu")
    images = [base64.b64encode(imaging.to_png(item)).decode() for item in Arrays.of(digits.test).items[:40]]
    labels = [str(label) for label in digits.test.labels[:40]]
    other = [str((label + 5) % 10) for label in digits.test.labels[:40]]
    settings = Settings(models_dir=model.folder.parents[1], default_model=model.manifest.name, device="cpu")
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        body = {"images": images, "class": labels, "target_class": other, "encoding": "array"}
        answer = client.post("/reconstruct", json=body)
        changed = np.asarray(answer.json()["data"], np.float32)
        assert (own.classify(changed).argmax(axis=1) == np.asarray(other, int)).mean() > 0.6
        refused = client.post("/reconstruct", json={**body, "target_class": "ten"})
        assert refused.status_code == 422
