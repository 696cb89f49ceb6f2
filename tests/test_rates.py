"""Measured false positive rates: their interval, the tests of exchangeability, and the statement of a shift on every surface."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from manifold.cli import detection
from manifold.evaluation import anomaly, anomaly_page, catalogue, rates
from manifold.runtime import manifest as manifests
from manifold.runtime import repository, shipped
from manifold.runtime.engine import load
from manifold.runtime.errors import UnsupportedTask
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.manifest import COMBINED, Calibration, Combination, Manifest, Metric
from manifold.runtime.scores import measured
from manifold.runtime.scores.scoring import Calibrated, cross_combined
from manifold.service.stubs import manifold_pb2, manifold_pb2_grpc
from manifold.training import judging
from manifold.training.data import Data
from tests.conftest import SHIPPED
from tests.served import Served, served
from tests.test_fit import scorer

SHIFT = "the test split is later in time"
STATED = "not exchangeable: the test split is later in time"

# --- the interval ---


@pytest.mark.parametrize(("n", "m", "k"), [(4, 5, 1), (4, 5, 2), (6, 3, 3), (1, 4, 1)])
def test_the_interval_is_that_of_all_orders_of_the_scores(n: int, m: int, k: int) -> None:
    """Exchangeable scores without ties have every order with equal probability. All orders of n calibration and m test scores are counted."""
    counts = Counter[int]()
    for places in itertools.combinations(range(n + m), m):  # places of the test scores, highest first
        calibration = sorted(set(range(n + m)) - set(places))
        counts[sum(place < calibration[k - 1] for place in places)] += 1
    shares = np.cumsum([counts[flagged] for flagged in range(m + 1)]) / math.comb(n + m, m)
    for level in (0.5, 0.9, 0.95):
        low, high = (int(np.argmax(shares >= end - 1e-12)) / m for end in ((1 - level) / 2, (1 + level) / 2))
        assert rates.interval(n, m, k, level) == pytest.approx((low, high))


@pytest.mark.parametrize(("n", "m", "rate"), [(165, 200, 0.1), (1318, 1319, 0.01), (999, 10_000, 0.05), (99, 50, 0.05)])
def test_the_interval_covers_the_measured_rate_of_exchangeable_items(n: int, m: int, rate: float) -> None:
    """Calibration and test scores are drawn from one distribution, 4000 times. An interval for m alone would be too narrow."""
    generator = np.random.default_rng(n)
    k = math.floor((n + 1) * rate)
    calibration = np.partition(generator.random((4000, n)), n - k, axis=1)[:, n - k]  # the k-th largest of n scores
    met = generator.binomial(m, 1 - calibration) / m
    low, high = rates.interval(n, m, k)
    assert 0.94 < np.mean((met >= low) & (met <= high)) < 0.99
    if m > 5 * n:
        half = 1.96 * math.sqrt(rate * (1 - rate) / m)
        assert np.mean(abs(met - rate) <= half) < 0.7


def test_measured_rates_lie_in_their_interval_in_95_of_100_splits() -> None:
    """The score combines two dependent terms, with tails fitted to the calibration items, as in the shipped models."""
    combination = Combination(terms=("a", "b"))
    inside, p_values = list[bool](), list[float]()
    for seed in range(150):
        generator = np.random.default_rng(seed)
        a = generator.gamma(2, size=1000)
        terms = {"a": a, "b": a + generator.normal(size=1000)}
        held, new = ({name: term[part] for name, term in terms.items()} for part in (slice(400), slice(400, 1000)))
        values = {**held, COMBINED: cross_combined(combination, held)}
        about = Calibration(id="x", n=400, created="", source="")
        calibrated = Calibrated(about, {name: np.sort(term) for name, term in values.items()}, combination)
        scores = calibrated.place(new)[COMBINED]
        inside += [
            not rates.outside(rate)
            for rate in rates.measure(calibrated, COMBINED, calibrated.p_values(COMBINED, scores))
        ]
        compared = rates.comparison(calibrated, COMBINED, scores)
        assert compared is not None
        p_values.append(compared.p_value)
    assert len(inside) == 150 * 3  # 400 items do not resolve 0.1%
    assert 0.93 < np.mean(inside) < 0.99
    assert np.mean(np.asarray(p_values) < 0.05) < 0.08
    assert np.mean(np.asarray(p_values) < 0.5) > 0.35


# --- tests of exchangeability ---


def judged(test: np.ndarray, **options: Any) -> anomaly.Judgement:
    generator = np.random.default_rng(1)
    return anomaly.judge(scorer(generator.normal(size=999)), test[:0, None], test[:, None], **options)


def test_scores_that_differ_from_the_calibration_are_a_warning_unless_the_shift_is_known() -> None:
    generator = np.random.default_rng(2)
    same = judged(generator.normal(size=500))
    assert same.warnings == []
    assert same.comparison is not None and same.comparison.p_value > 0.001
    other = generator.normal(0.4, 1, 500)
    (warning,) = judged(other).warnings
    assert warning.startswith(
        "the scores of the held-out rows differ from those of the calibration rows (Kolmogorov-Smirnov distance 0."
    )
    assert "they contain anomalies, or they come from another source or time" in warning
    (warning,) = judged(other, normal=np.ones(500, bool)).warnings
    assert warning.endswith("do not hold for them: they come from another source or time")
    assert judged(other, shift=SHIFT).warnings == []
    (warning,) = judged(generator.normal(1.5, 1, 500), shift=SHIFT).warnings
    assert warning.endswith(f"{SHIFT}, or they contain anomalies, or they come from another source or time")


def test_a_trend_along_the_file_is_a_warning() -> None:
    """The split by a permutation makes held-out rows exchangeable with calibration rows, but the rows of tomorrow are not."""
    generator = np.random.default_rng(3)
    scores, numbers = generator.normal(size=600), generator.permutation(2000)[:600]
    assert judged(scores, numbers=numbers).warnings == []
    ordered = np.sort(scores)[np.argsort(np.argsort(numbers))]  # a later row has a higher score
    found = judged(ordered, numbers=numbers)
    (warning,) = found.warnings
    assert warning.startswith("the scores in the first half of the file differ from those in the second half")
    assert "run `manifold calibrate` on the newest rows" in warning
    assert found.order is not None
    assert (found.order.n, found.order.statistic, round(found.order.p_value, 12)) == (300, 1.0, 0.0)
    assert judged(ordered[:30], numbers=numbers[:30]).order is None


def test_a_model_without_a_calibration_cannot_be_judged() -> None:
    model = scorer(np.arange(50.0))
    model.calibrated = Calibrated(None, {})
    with pytest.raises(
        UnsupportedTask, match="scorer has no calibration, so it has no false positive rates to measure; calibrate it"
    ):
        anomaly.judge(model, np.zeros((0, 1)), np.zeros((9, 1)))


# --- the reason for a shift ---


def fitted(**provenance: Any) -> Manifest:
    base = manifests.read(repository.find("creditcard-vae", SHIPPED))
    return base.model_copy(update={"provenance": {"data": {"data": "mine", "sha256": "aa"}, **provenance}})


def data(**protocol: Any) -> Data:
    base = manifests.read(repository.find("creditcard-vae", SHIPPED))
    none = np.zeros((0, 1))
    return Data("mine", base.spec, none, none, none, protocol={"sha256": "aa", **protocol})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("manifest", "items", "reason"),
    [
        (fitted(), data(), ""),
        (fitted(), dataclasses.replace(data(), shift=SHIFT), SHIFT),
        (fitted(), dataclasses.replace(data(), folds=5), "calibrated by folds, and the models of the folds"),
        (fitted(), data(sha256="bb"), "the model was calibrated on rows of mine, and the test rows are those of mine"),
        (fitted(data={"data": "other"}), data(sha256=None), "calibrated on rows of other, and the test rows are those of mine"),
        (fitted(data=None), data(), "the model was calibrated on rows of other data, and"),
        (fitted(recalibrated={"sha256": "cc"}), data(), "the model was calibrated again, on .* rows.*, and the test rows are those of mine"),
        (fitted(recalibrated={"sha256": "aa"}), data(), "calibrated on the rows of this file, so the rates on them say nothing about other rows"),
        (fitted(), data(order="by time"), "the splits of mine have changed since the model was trained, so test rows may have been used"),
    ],
)  # fmt: skip
def test_the_reason_for_a_shift(manifest: Manifest, items: Data, reason: str) -> None:
    found = judging.shift(manifest, items)
    if reason:
        assert re.search(reason, found), found
    else:
        assert found == ""


# --- surfaces ---


def rate_metrics(model: str, shift: str | None) -> tuple[Metric, ...]:
    """Return the figures of a judgement whose rate for 1% lies outside its interval."""
    about = manifests.read(repository.find(model, SHIPPED)).scoring
    assert about is not None and about.calibration is not None
    common = {"by": measured.RECORDED, "n": 500, "score": about.score, "calibration": about.calibration.id}
    told = {} if shift is None else {"shift": shift}
    return tuple(
        Metric(name=f"{measured.RATE}{rate:g}", value=met, protocol={**common, "expected": [0.004, 0.02], **told})
        for rate, met in ((0.01, 0.03), (0.1, 0.01))
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository of two detectors of rows: creditcard-vae with exchangeable test rows, transactions-vae with a shift."""
    root = tmp_path_factory.mktemp("models")
    for name, shift in (("creditcard-vae", None), ("transactions-vae", SHIFT)):
        source = repository.find(name, SHIPPED)
        folder = root / name / source.name
        shutil.copytree(source, folder)
        repository.save_metrics(folder, rate_metrics(name, shift))
    return root


@pytest.fixture(scope="module")
def service(models: Path) -> Iterator[Served]:
    with served(models, default_model="creditcard-vae", grpc=True) as running:
        yield running


MEASURED = {"requested": 0.01, "measured": 0.03, "n": 500, "interval": [0.004, 0.02]}


@pytest.mark.parametrize(("name", "shift"), [("creditcard-vae", None), ("transactions-vae", SHIFT)])
def test_the_threshold_of_the_endpoints_states_the_shift(service: Served, name: str, shift: str | None) -> None:
    """The measured rate for a requested 2% is that for 1%, the nearest one. A budget has no rate."""
    spec = manifests.read(repository.find(name, service.registry.settings.models_dir)).spec
    names = TableSpec.of(spec, name).names
    column = names[0]
    request = {"model": name, "rows": [{column: 1}], "false_positive_rate": 0.02}
    threshold = service.client.post("/anomaly-score", json=request).json()["threshold"]
    assert (threshold["measured"], threshold["shift"]) == (MEASURED, shift)
    budget = {"model": name, "rows": [{column: 1}], "budget": 1}
    threshold = service.client.post("/anomaly-score", json=budget).json()["threshold"]
    assert (threshold["measured"], threshold["shift"]) == (None, shift)
    answer = service.client.post(
        f"/anomaly-score?model={name}",
        content=f"{','.join(names)}\n1{',' * (len(names) - 1)}\n",
        headers={"Content-Type": "text/csv"},
    )
    last = json.loads(answer.text.splitlines()[-1])
    assert "threshold" in last, answer.text
    last = last["threshold"]
    assert (last["measured"], last["shift"]) == (MEASURED, shift)
    row = manifold_pb2.Row(columns={column: manifold_pb2.Value(number=1)})
    with grpc.insecure_channel(service.target) as channel:
        message = manifold_pb2.ScoreRequest(model=name, rows=[row], false_positive_rate=0.02)
        info = manifold_pb2_grpc.ManifoldStub(channel).AnomalyScore(message, timeout=60).threshold
    told = {name: getattr(info.measured, name) for name in ("requested", "measured", "n")}
    assert {**told, "interval": list(info.measured.interval)} == MEASURED
    assert (info.shift if info.HasField("shift") else None) == shift


def test_the_library_and_the_catalogue_state_the_shift(models: Path) -> None:
    for name, shift in (("creditcard-vae", None), ("transactions-vae", SHIFT)):
        model = load(models / name, device="cpu")
        threshold = model.anomaly_score([{TableSpec.of(model.manifest.spec, name).names[0]: 1}]).threshold
        assert threshold.shift == shift
        assert threshold.measured is not None and threshold.measured.outside
    page = catalogue.page(models, models)
    plain, shifted = (page.split(f"### {name}\n")[1].split("\n#")[0] for name in ("creditcard-vae", "transactions-vae"))
    assert STATED not in plain
    assert f"- The scores of test rows and calibration rows are {STATED}. A measured rate" in shifted
    assert (
        "- false alarm rates on 500 normal test rows: 3.00% (requested 1%, 0.40% to 2.00%: outside), 1.00% (requested 10%"
        in shifted
    )
    table = catalogue.table(models)
    assert "false alarms at 1%: 3.00% (0.40% to 2.00%: outside), 1 of 2 rates outside |" in table
    assert "false alarms at 1%: 3.00% (0.40% to 2.00%: outside), 1 of 2 rates outside, not exchangeable |" in table


def test_judge_prints_and_records_the_shift(models: Path, tmp_path: Path) -> None:
    """Text, page and manifest, for rows of zeros in the units of the model."""
    shutil.copytree(models / "creditcard-vae", tmp_path / "creditcard-vae")
    model = load(tmp_path / "creditcard-vae", device="cpu")
    items = np.random.default_rng(0).normal(size=(60, *model.manifest.spec.shape)).astype(np.float32)
    normal = np.ones(60, bool)
    about = model.manifest.scoring
    assert about is not None
    for shift in ("", SHIFT):
        found = anomaly.judge(model, items[:0], items, None, normal, shift=shift)
        text = "\n".join(detection.summary(found, about, "rows"))
        assert (STATED in text) == (STATED in anomaly_page.to_html(model, found, items)) == bool(shift)
        assert "Kolmogorov-Smirnov distance" in text
        recorded = anomaly.record(model, found)
        protocols = [metric.protocol for metric in recorded.metrics if metric.name.startswith(measured.RATE)]
        assert len(protocols) == 4
        assert {protocol.get("shift", "") for protocol in protocols} == {shift}
        assert {(protocol["interval"], protocol["n"]) for protocol in protocols} == {(rates.INTERVAL, 60)}
        assert measured.of(recorded).shift == (shift or None)
        assert [rate.requested for rate in measured.of(recorded).rates] == list(rates.RATES)


# --- records ---


def test_figures_of_an_earlier_calibration_are_not_those_of_the_present_one(models: Path) -> None:
    stored = manifests.read(repository.find("transactions-vae", models))
    assert stored.scoring is not None and stored.scoring.calibration is not None
    assert [rate.requested for rate in measured.of(stored).rates] == [0.01, 0.1]
    again = stored.scoring.calibration.model_copy(update={"id": "cal-new"})
    other = stored.model_copy(update={"scoring": stored.scoring.model_copy(update={"calibration": again})})
    assert measured.of(other) == measured.Measured((), stored.scoring.score)
    unnamed = tuple(
        metric.model_copy(update={"protocol": {key: value for key, value in metric.protocol.items() if key != "calibration"}})
        for metric in stored.metrics
    )  # fmt: skip
    older = stored.model_copy(update={"metrics": unnamed})
    assert len(measured.of(older).rates) == 2
    shares = tuple(metric.model_copy(update={"name": "flagged_unlabelled_at_0.01"}) for metric in stored.metrics)
    unlabelled = measured.of(stored.model_copy(update={"metrics": shares}))
    assert unlabelled == measured.Measured((), stored.scoring.score, SHIFT)
    recalibrated = older.model_copy(update={"provenance": {**older.provenance, "recalibrated": {"version": 1}}})
    assert measured.of(recalibrated).rates == ()


@pytest.mark.parametrize(
    "changes",
    [{"name": "false_positive_rate_at_x"}, {"name": "false_positive_rate_at_2"}, {"name": "auroc"},
     {"protocol": {"by": measured.RECORDED, "n": 5}}, {"protocol": {"by": measured.RECORDED, "n": 5, "expected": [1]}},
     {"protocol": {"by": measured.RECORDED, "expected": [0, 1]}}, {"protocol": {"by": "hand", "n": 5, "expected": [0, 1]}}],
)  # fmt: skip
def test_other_figures_are_no_measured_rates(changes: dict[str, Any]) -> None:
    base = manifests.read(repository.find("creditcard-vae", SHIPPED))
    good = Metric(
        name="false_positive_rate_at_0.01", value=0.1, protocol={"by": measured.RECORDED, "n": 5, "expected": [0, 1]}
    )
    assert len(measured.of(base.model_copy(update={"metrics": (good,)})).rates) == 1
    assert measured.of(base.model_copy(update={"metrics": (good.model_copy(update=changes),)})).rates == ()


def test_every_shipped_detector_loads_with_its_measured_rates() -> None:
    found = {
        folder.parent.name: measured.of(manifests.read(folder)).rates for folder in shipped.latest(SHIPPED).values()
    }
    assert sum(map(len, found.values())) >= 60


def test_a_calibration_states_its_shift_and_older_ones_do_not() -> None:
    plain = {"id": "cal-1", "n": 9, "created": "", "source": ""}
    assert Calibration.model_validate(plain).shift is None
    assert "shift" not in Calibration.model_validate(plain).model_dump(exclude_none=True)
    assert Calibration.model_validate({**plain, "shift": SHIFT}).shift == SHIFT
