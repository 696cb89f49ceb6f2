"""Names of likelihood figures: each states its bound and the form of x, also for figures of earlier manifests. Means have standard errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from manifold.runtime import manifest
from manifold.runtime.manifest import figures
from manifold.training.means import Means
from tests.conftest import SHIPPED


def test_names_state_bound_and_form() -> None:
    assert figures.name_of("exact", "static") == "nll_static"
    assert figures.name_of("elbo", "dynamic") == "elbo_dynamic"
    assert figures.name_of("iwae", "dynamic", 500) == "iwae_500_dynamic"
    for name in (
        "nll_static",
        "elbo_levels_se",
        "iwae_50_density",
        "elbo_levels_given_class",
        "nll_dynamic_given_class",
    ):
        assert figures.is_likelihood(name), name
    for name in ("nll", "elbo", "bits_per_dim", "negative_elbo", "nll_other", "kl"):
        assert not figures.is_likelihood(name), name


EVALUATED: dict[str, Any] = {"by": "evaluation", "common": {"n": 100}}


@pytest.mark.parametrize(
    ("name", "value", "protocol", "expected"),
    [
        ("nll", 35.6, {"bound": "exact", "observed": "pixels at 2 levels, rounded by chance, one draw an item"}, ("nll_dynamic", 35.6)),
        ("nll_given_class", 33.5, {"bound": "exact", "observed": "pixels at 2 levels, rounded by chance"}, ("nll_dynamic_given_class", 33.5)),
        ("nll", 34.0, {"bound": "exact", "observed": "pixels at 4 levels"}, ("nll_levels", 34.0)),
        ("nll", 20.0, {"bound": "exact", "observed": "pixels at 256 levels, dequantised by uniform noise: a density on [0, 1]"}, ("nll_density", 20.0)),
        ("elbo", -93.5, {"binarisation": "dynamic, one draw an item", "likelihood": "bernoulli"}, ("elbo_dynamic", -93.5)),
        ("iwae_500", -89.6, {"binarisation": "dynamic, one draw an item", "likelihood": "bernoulli"}, ("iwae_500_dynamic", -89.6)),
        ("elbo", 572.0, {"likelihood": "gaussian-learned"}, ("elbo_density", 572.0)),
        ("elbo", -26.4, {"likelihood": "columns"}, ("elbo_columns", -26.4)),
        ("iwae_50", -14294.4, {"likelihood": "logistic"}, ("iwae_50_levels", -14294.4)),
        ("nll", 1211.6, {"bound": "upper bound on -log p(x): -log p(x | z_q) - log p(codes)"}, ("elbo_levels", -1211.6)),
        ("nll_uniform_prior", 1361.0, {"bound": "upper bound on -log p(x): -log p(x | z_q) - log p(codes)"}, ("elbo_levels_uniform_prior", -1361.0)),
        ("nll", 80.4, {**EVALUATED, "detail": {"bound": "upper bound: -ELBO", "observed": "grey values binarised at 1/2"}}, ("elbo_threshold", -80.4)),
        (
            "nll", 90.6, {**EVALUATED, "detail": {"bound": "upper bound: importance-weighted", "k": 32, "observed": "grey values binarised at 1/2"}},
            ("iwae_32_threshold", -90.6),
        ),
        ("nll", 28.6, {**EVALUATED, "detail": {"bound": "exact", "observed": "pixels at 2 levels, the nearest"}}, ("nll_threshold", 28.6)),
        ("psnr", 21.3, {**EVALUATED}, ("psnr_mean", 21.3)),
        ("nll", 1.0, {}, ("nll", 1.0)),  # a figure of another origin, about which nothing is known
        ("elbo_dynamic", -93.5, {"binarisation": "dynamic"}, ("elbo_dynamic", -93.5)),
    ],
)  # fmt: skip
def test_earlier_names_are_readable(
    name: str, value: float, protocol: dict[str, Any], expected: tuple[str, float]
) -> None:
    (found,) = figures.renamed([{"name": name, "value": value, "protocol": protocol}])
    assert (found["name"], found["value"]) == expected
    assert figures.renamed([found]) == [found]


@pytest.mark.parametrize(
    ("name", "bound", "expected"),
    [
        ("nll", "upper bound: -ELBO", "lower bound on log p(x)"),
        ("nll", "upper bound: importance-weighted", "importance-weighted lower bound on log p(x)"),
        (
            "nll_given_class",
            "upper bound on -log p(x): -log p(x | z_q) - log p(codes)",
            "lower bound on log p(x): log p(x | z_q) + log p(codes)",
        ),
        (
            "elbo_threshold",
            "upper bound: -ELBO",
            "lower bound on log p(x)",
        ),  # a manifest that was written after it was read
        ("elbo_levels", "upper bound of another program", "lower bound on log p(x)"),
        ("nll", "exact", "exact"),
        ("bits_per_dim", "upper bound: -ELBO", "upper bound: -ELBO"),
        ("elbo", "lower bound on log p(x), one draw, analytic KL", "lower bound on log p(x), one draw, analytic KL"),
    ],
)
def test_the_protocol_of_a_lower_bound_states_one(name: str, bound: str, expected: str) -> None:
    stated = {"bound": bound, "k": 32, "observed": "grey values binarised at 1/2"}
    present = {**stated, "bound": expected}
    for protocol, changed in ((stated, present), ({**EVALUATED, "detail": stated}, {**EVALUATED, "detail": present})):
        (found,) = figures.renamed([{"name": name, "value": 80.4, "protocol": protocol}])
        assert found["protocol"] == changed
        assert stated["bound"] == bound  # the given metrics are not changed
        assert figures.renamed([found]) == [found]


def test_no_lower_bound_of_a_shipped_model_is_called_an_upper_one() -> None:
    for path in sorted(SHIPPED.glob("*/*/manifest.json")):
        for metric in manifest.read(path.parent).metrics:
            bound = metric.protocol.get("detail", metric.protocol).get("bound", "")
            if metric.name.startswith(("elbo", "iwae")):
                assert "upper" not in bound, f"{path}: {metric.name}"


def test_an_error_follows_its_figure() -> None:
    detail = {"bound": "upper bound: -ELBO", "observed": "levels"}
    metrics = [
        {"name": "nll", "value": 7.0, "protocol": {**EVALUATED, "prior": prior, "detail": detail}}
        for prior in ("a", "b")
    ]
    errors = [{"name": "nll_se", "value": 0.5, "protocol": {**EVALUATED, "prior": prior}} for prior in ("a", "b", "c")]
    assert [each["name"] for each in figures.renamed([*metrics, *errors])] == [
        "elbo_levels", "elbo_levels", "elbo_levels_se", "elbo_levels_se", "nll_se"
    ]  # fmt: skip


def test_every_likelihood_of_a_shipped_model_states_its_protocol() -> None:
    for path in sorted(SHIPPED.glob("*/*/manifest.json")):
        names = [metric.name for metric in manifest.read(path.parent).metrics]
        assert not [name for name in names if figures.EARLIER.fullmatch(name)], path


def test_means_have_the_standard_error_of_the_mean() -> None:
    values = torch.from_numpy(np.random.default_rng(0).normal(-3, 2, 1000))
    means = Means()
    for part in values.split(130):
        means.add({"elbo_levels": part, "kl": part**2})
    assert means["elbo_levels"] == pytest.approx(float(values.mean()))
    assert means.se("elbo_levels") == pytest.approx(float(values.std()) / math.sqrt(1000))
    (found,) = means.metrics({"elbo_levels": {"n": 1000}})
    assert found.se == pytest.approx(2 / math.sqrt(1000), rel=0.1)
    one = Means()
    one.add({"kl": values[:1]})
    assert one.se("kl") is None
