"""Scores over time: the statistic is correct, and a change shows on /metrics."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from scipy import stats
from starlette.testclient import TestClient

from manifold.runtime.scores import drift


@pytest.mark.parametrize(("n", "m", "shift"), [(500, 900, 0.0), (500, 900, 0.15), (2000, 5000, 0.05), (37, 1000, 1.0)])
def test_the_statistic_is_scipys(n: int, m: int, shift: float) -> None:
    generator = np.random.default_rng(n + m)
    values, sample = (
        np.round(generator.normal(shift, 1, n), 2),
        np.sort(np.round(generator.normal(size=m), 2)),
    )  # rounded, so that there are ties
    found = drift.kolmogorov_smirnov(values, sample)
    expected = stats.ks_2samp(values, sample, method="asymp")
    assert found.statistic == pytest.approx(expected.statistic)
    assert found.p_value == pytest.approx(
        stats.kstwobign.sf(found.statistic * np.sqrt(n * m / (n + m))), rel=1e-6, abs=1e-12
    )


def test_p_values_of_no_change_are_even() -> None:
    generator = np.random.default_rng(0)
    p = [
        drift.kolmogorov_smirnov(generator.normal(size=300), np.sort(generator.normal(size=400))).p_value
        for _ in range(400)
    ]
    assert stats.kstest(p, "uniform").statistic < 0.1


def test_the_sample_itself_is_no_change() -> None:
    sample = np.linspace(0, 1, 50)
    found = drift.kolmogorov_smirnov(sample, sample)
    assert (found.statistic, found.p_value) == (0.0, 1.0)


def test_only_recent_values_count() -> None:
    recent, sample = drift.Recent(100), np.linspace(0, 1, 1000)
    assert recent.against(sample) is None
    recent.add(np.full(150, 5.0))
    gone = recent.against(sample)
    assert gone is not None
    assert (gone.n, gone.statistic) == (100, 1.0)
    for start in range(0, 100, 7):
        recent.add(np.linspace(0, 1, 100)[start : start + 7])
    back = recent.against(sample)
    assert back is not None
    assert back.statistic < 0.02


def test_metrics_tell_usual_from_changed_traffic(client: TestClient) -> None:
    def send(pixels: list[np.ndarray]) -> None:
        images = []
        for item in pixels:
            file = io.BytesIO()
            Image.fromarray(item).save(file, "PNG")
            images.append(base64.b64encode(file.getvalue()).decode())
        assert client.post("/anomaly-score", json={"model": "mnist-vae-2d", "images": images}).status_code == 200

    def read(name: str) -> dict[tuple[str, str], float]:
        found = {}
        for family in text_string_to_metric_families(client.get("/metrics").text):
            for sample in family.samples:
                if sample.name == name and sample.labels["model"] == "mnist-vae-2d":
                    found[sample.labels["part"], sample.labels.get("le", "")] = sample.value
        return found

    before = read("manifold_score_p_value_bucket").get(("negative_elbo", "+Inf"), 0)
    made = client.post("/sample", json={"model": "mnist-vae-2d", "n": 60, "seed": 1}).json()["images"]
    send([np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in made])
    usual = read("manifold_score_drift_ks")["negative_elbo", ""]
    noise = np.random.default_rng(0).integers(0, 255, (200, 28, 28), np.uint8)
    send(list(noise))
    changed = read("manifold_score_drift_ks")["negative_elbo", ""]
    assert changed > max(usual, 0.6)
    assert read("manifold_score_drift_p_value")["negative_elbo", ""] < 1e-6
    assert read("manifold_score_drift_rows")["negative_elbo", ""] == before + 260
    counts = read("manifold_score_p_value_bucket")
    assert counts["negative_elbo", "+Inf"] == before + 260
    assert counts["negative_elbo", "0.001"] >= 200
