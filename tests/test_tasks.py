"""Single tasks: omitted inputs are drawn as /sample draws them, and given inputs are checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from manifold.runtime import manifest
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import InvalidValue, TooLarge
from manifold.runtime.manifest import TASKS
from manifold.runtime.operations import infer
from manifold.runtime.operations.infer import Choices
from manifold.runtime.shipped import latest
from tests.conftest import EXTRACTORS, NAMES, SHIPPED

MODELS = ("mnist-vae", "mnist-cvae", "mnist-vqvae", "digits-pixelcnn", "transactions-vae", "mnist-gan")


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {name: load(SHIPPED / name, device="cpu") for name in MODELS}


def done(model: Model, task: str, rows: int = 1, given: dict[str, Any] | None = None, **choices: Any) -> infer.Done:
    return model.runner.drive(infer.infer(model.manifest, task, given or {}, Choices(**choices), rows))


@pytest.mark.parametrize("name", MODELS)
def test_seed_7_is_the_same_item_as_in_sample(models: dict[str, Model], name: str) -> None:
    model = models[name]
    expected = model.sample(3, seed=7, first=2)
    found = done(model, infer.default(model.manifest), 3, seed=7, first=2)
    assert np.array_equal(found.outputs["data"], expected.data)
    assert (found.filled.seed, found.filled.first) == (7, 2)
    if expected.condition is not None:
        assert found.filled.condition is not None
        assert np.array_equal(found.filled.condition, expected.condition)


def test_class_prior_and_temperature_are_those_of_sample(models: dict[str, Model]) -> None:
    model = models["mnist-cvae"]
    expected = model.sample(2, seed=1, classes=["3", "8"], temperature=0.5)
    found = done(model, "decode", 2, seed=1, condition=["3", "8"], temperature=0.5)
    assert np.array_equal(found.outputs["data"], expected.data)
    model = models["mnist-vae"]
    prior = next(name for name in model.manifest.space.priors if name != "normal")  # type: ignore[union-attr]
    assert np.array_equal(
        done(model, "decode", 2, seed=1, prior=prior).outputs["data"], model.sample(2, seed=1, prior=prior).data
    )
    model = models["mnist-vqvae"]
    codes = model.sample(2, seed=1, temperature=0.7, classes="2").codes
    assert codes is not None
    assert np.array_equal(done(model, "sample", 2, seed=1, temperature=0.7, condition="2").outputs["codes"], codes)


def test_what_is_given_does_not_move_what_is_drawn(models: dict[str, Model]) -> None:
    """Rows of transactions-vae need a latent, noise and uniforms. Each has its own random stream, even if the others are given."""
    model = models["transactions-vae"]
    whole = done(model, "sample", 2, seed=3)
    for role, array in whole.filled.inputs.items():
        again = done(model, "sample", 2, {role: array}, seed=3)
        assert np.array_equal(again.outputs["data"], whole.outputs["data"]), role
    given = done(model, "sample", 2, dict(whole.filled.inputs))
    assert given.filled.seed is None
    assert np.array_equal(given.outputs["data"], whole.outputs["data"])


def test_a_condition_that_is_left_out_is_drawn_from_the_seed(models: dict[str, Model]) -> None:
    model = models["mnist-cvae"]
    data = model.sample(4, seed=1).data
    a, b = (done(model, "encode", 4, {"data": data}, seed=5) for _ in range(2))
    assert np.array_equal(a.outputs["mean"], b.outputs["mean"])
    assert a.filled.condition is not None and (a.filled.condition.sum(axis=1) == 1).all()
    told = done(model, "encode", 4, {"data": data, "condition": a.filled.condition})
    assert np.array_equal(a.outputs["mean"], told.outputs["mean"])
    assert told.filled.condition is None and told.filled.seed is None


REFUSED: list[tuple[str, str, dict[str, Any], dict[str, Any], str]] = [
    ("mnist-vae", "decode", {"latents": np.zeros((1, 20), np.float32)}, {}, "latents: mnist-vae.decode has no such input"),
    ("mnist-vae", "decode", {"latent": np.zeros((1, 20))}, {}, r"float64\[1, 20\]; it must be float32\[rows, 20\]"),
    ("mnist-vae", "decode", {"latent": np.zeros((1, 3), np.float32)}, {}, r"float32\[1, 3\]"),
    ("mnist-vae", "decode", {"latent": np.float32(0)}, {}, r"latent: it is float32\[\]; it must be"),
    ("mnist-vae", "decode", {"latent": np.full((1, 20), np.nan, np.float32)}, {}, "'latent' holds NaN or infinity"),
    ("mnist-vae", "encode", {}, {}, r"data: mnist-vae.encode needs this input; give float32\[rows, 1, 28, 28\]"),
    ("mnist-vae", "encode", {"data": np.full((1, 1, 28, 28), 1.5, np.float32)}, {}, "data: values from 1.5 to 1.5; give values from 0 to 1"),
    ("mnist-vae", "encode", {"data": np.zeros((1, 1, 28, 28), np.float32)}, {"seed": 1}, "seed: it has no effect, because .* mnist-vae.encode are given"),
    ("mnist-vae", "decode", {"latent": np.zeros((1, 20), np.float32)}, {"first": 1}, "seed: it has no effect, because .* mnist-vae.decode are given"),
    ("mnist-vae", "decode", {"latent": np.zeros((1, 20), np.float32)}, {"prior": "normal"}, "prior: no latent is drawn here; remove it"),
    ("mnist-vae", "decode", {"latent": np.zeros((1, 20), np.float32)}, {"temperature": 0.5}, "temperature: it has no effect on mnist-vae.decode here"),
    ("mnist-vae", "decode", {}, {"temperature": 0.0}, "temperature: 0.0 is out of range; give a number from 0.01 to 100"),
    ("mnist-vae", "decode", {}, {"condition": "3"}, "mnist-vae has no classes"),
    ("mnist-vae", "decode", {}, {"seed": 2**63}, "seed: .* is out of range; give a whole number from 0 to"),
    ("mnist-vae", "decode", {}, {"prior": "nope"}, "prior: mnist-vae has no prior 'nope'"),
    ("mnist-cvae", "decode", {"condition": np.eye(10, dtype=np.float32)[:1]}, {"condition": "3"}, "class: the condition is also given"),
    ("mnist-cvae", "decode", {"condition": -np.eye(10, dtype=np.float32)[:1]}, {}, "condition: .*; give values from 0 to inf"),
    ("mnist-cvae", "decode", {}, {"condition": "eleven"}, "class: there is no class 'eleven'"),
    ("mnist-vqvae", "decode_codes", {"codes": np.full((1, 7, 7), 128, np.int64)}, {}, "codes: values from 128 to 128; give values from 0 to 127"),
    ("mnist-vqvae", "decode", {}, {}, "latent: mnist-vqvae.decode needs this input"),
    ("mnist-vqvae", "sample", {"uniforms": np.ones((1, 49), np.float32)}, {}, "uniforms: values from 1 to 1; give values from 0 to 1"),
    (
        "digits-pixelcnn", "impute", {"data": np.zeros((1, 1, 8, 8), np.float32), "mask": np.full((1, 1, 8, 8), 2, np.float32)}, {},
        "mask: values from 2 to 2; give values from 0 to 1",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "task", "given", "choices", "message"), REFUSED)
def test_what_is_wrong_is_said(
    models: dict[str, Model], name: str, task: str, given: dict[str, Any], choices: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidValue, match=message):
        done(models[name], task, 1, given, **choices)


def test_rows() -> None:
    one, two = np.zeros((1, 2)), np.zeros((2, 2))
    assert infer.rows_of({}, None, 4) == 1
    assert infer.rows_of({}, 4, 4) == 4
    assert infer.rows_of({"a": two, "b": two}, 2, 4) == 2
    bad: list[tuple[dict[str, Any], int | None, str]] = [
        ({"a": two, "b": one}, None, "different numbers of rows"), ({"a": two}, 3, "n: 3, but 2 rows"), ({}, 0, "at least one"),
        ({"a": np.zeros((0, 2))}, None, "at least one"), ({"a": np.float32(0)}, None, "at least one"),
    ]  # fmt: skip
    for given, n, message in bad:
        with pytest.raises(InvalidValue, match=message):
            infer.rows_of(given, n, 4)
    with pytest.raises(TooLarge, match="above the limit of 4 per request"):
        infer.rows_of({}, 5, 4)


def test_every_shipped_model_has_a_default() -> None:
    found = {name: infer.default(manifest.read(folder)) for name, folder in latest(SHIPPED).items()}
    assert set(found) == {*NAMES, *EXTRACTORS}
    assert sorted(infer.ORDER) == sorted(TASKS)
    assert (found["mnist-vae"], found["mnist-gan"], found["mnist-classifier"]) == ("decode", "sample", "features")
