"""Evaluation reports: recorded in manifests, compared with each other, and written as a page."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from manifold import cli
from manifold.evaluation import cells, comparison, evaluate_images, recording, report_page
from manifold.evaluation import report as reports
from manifold.evaluation.errors import ProtocolMismatch
from manifold.evaluation.extractors import Extractor
from manifold.evaluation.images import ImageArray
from manifold.evaluation.reference import Reference
from manifold.runtime import engine, manifest
from tests.evaluation.helpers import RealArrays, run

# --- records and comparisons ---


def test_reports_are_recorded_in_the_manifest_and_compared(tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_models / "vae/1"
    before = tuple(each for each in manifest.read(folder).metrics if each.protocol.get("by") != recording.RECORDED)
    for _ in range(2):  # a second record replaces the first
        found = json.loads(run("evaluate", "vae", "--n", "100", "--json", "--record", models=tiny_models))
    after = manifest.read(folder)
    assert after.metrics[: len(before)] == before
    assert len(after.metrics) == len(before) + len(found["metrics"])
    engine.load(folder, device="cpu")  # the checksums still hold
    directions = dict(row[0].partition(" (")[::2] for row in cells.metric_rows(found))
    assert directions["kid"] == "lower is better)"
    assert directions["psnr_mean"] == "higher is better)"
    assert all(directions.values())  # every figure of a report says which direction is better
    (recorded,) = recording.recorded(after)
    for key in ("model", "version", "prior", "protocol", "metrics", "anchors", "details"):
        assert recorded[key] == found[key]

    table = run("compare", "vae", "vae:normal", "pixelcnn", "--n", "100", models=tiny_models)
    assert (
        table.count("\n") == 10
    )  # header, separator, three models, training against test images, test images, a perfect generator, and two lines of notes
    assert "training images against test images" in table
    assert "| fd_classifier (lower is better) |" in table
    assert "a perfect generator" in table
    found_rows = [row for row in table.splitlines() if any(f"| {name} 1" in row for name in ("vae", "pixelcnn"))]
    kids = [float(row.split("|")[5].split("±")[0]) for row in found_rows]
    assert kids == sorted(kids)
    assert [row.split("|")[1].split(",")[0].strip() for row in found_rows] == ["1", "2", "3"]


def test_likelihoods_of_different_x_stand_in_no_one_column(tiny_models: Path) -> None:
    both = [
        json.loads(run("evaluate", name, "--n", "100", "--json", models=tiny_models)) for name in ("vae", "pixelcnn")
    ]
    alone, together = comparison.to_markdown(both[:1]), comparison.to_markdown(both)
    assert f"| {both[0]['metrics']['elbo_threshold']:.4g} ± " in alone
    assert f"≤ {both[0]['metrics']['bits_per_dim']:.4g} ± " in alone  # a bound is marked as one
    assert "nll_levels (lower is better)" in comparison.to_markdown(both[1:])
    assert "≤" not in comparison.to_markdown(both[1:])  # an exact likelihood is not marked
    assert "bits_per_dim" not in together
    assert (
        "likelihoods are omitted, as the models' x differs: grey values binarised at 1/2; pixels at 4 levels"
        in together
    )


def report(metrics: dict[str, float], **details: dict[str, Any]) -> dict[str, Any]:
    """Return a report with these figures beside a Fréchet distance."""
    return {
        "model": "vae", "version": 1, "protocol": {"extractor_sha256": "ab" * 32, "n": 100}, "metrics": {"fd_classifier": 2.0, **metrics},
        "anchors": {}, "details": details,
    }  # fmt: skip


def columns(line: str) -> list[str]:
    """Return the figures in a line of a table, without directions."""
    return [cell.partition("(")[0].strip() for cell in line.split("|")[3:-1]]


@pytest.mark.parametrize(
    ("form", "texts"),
    [
        ("levels", ("levels", "pixels at 256 levels")),
        ("threshold", ("grey values binarised at 1/2", "pixels at 2 levels, the nearest")),
    ],
)
def test_the_levels_of_a_pixelcnn_are_compared_with_those_of_a_vae(form: str, texts: tuple[str, str]) -> None:
    bound, exact = f"elbo_{form}", f"nll_{form}"
    table = comparison.to_markdown([
        report({bound: -90.0, "bits_per_dim": 0.2}, **{bound: {"bound": "-ELBO", "observed": texts[0]}}),
        report({exact: 80.0, "bits_per_dim": 0.1}, **{exact: {"bound": "exact", "observed": texts[1]}}),
    ])  # fmt: skip
    assert "omitted" not in table
    assert all(name in table for name in (bound, exact, "bits_per_dim"))


def test_the_row_of_training_images_names_its_model_if_they_differ() -> None:
    made = [{**report({"kid": 0.1 * n}), "model": f"vae-{n}", "anchors": {"train_vs_test": value}} for n, value in ((1, 0.2), (2, 0.3))]  # fmt: skip
    assert "*real: training images of vae-1 against test images*" in comparison.to_markdown(made)
    same = [{**each, "anchors": {"train_vs_test": 0.2}} for each in made]
    assert "*real: training images against test images*" in comparison.to_markdown(same)


def test_reports_of_earlier_versions_keep_their_columns(tmp_path: Path) -> None:
    observed = {"bound": "upper bound: -ELBO", "k": 8, "observed": "grey values binarised at 1/2"}
    figures = {"nll": 80.4, "nll_se": 0.26, "bits_per_dim": 0.148, "psnr": 20.8}
    path = tmp_path / "earlier.json"
    path.write_text(json.dumps(report(figures, nll=observed, bits_per_dim=observed, psnr={"unit": "dB"})))
    found = reports.read(path)
    assert found["metrics"] == {
        "fd_classifier": 2.0, "elbo_threshold": -80.4, "elbo_threshold_se": 0.26, "bits_per_dim": 0.148, "psnr_mean": 20.8,
    }  # fmt: skip
    assert found["details"] == {
        "elbo_threshold": {**observed, "bound": "lower bound on log p(x)"}, "bits_per_dim": observed, "psnr_mean": {"unit": "dB"},
    }  # fmt: skip
    header, _, row = comparison.to_markdown([found]).splitlines()
    assert columns(header) == ["fd_classifier", "elbo_threshold", "bits_per_dim", "psnr_mean"]
    assert columns(row) == ["2", "-80.4 ± 0.26", "≤ 0.148", "20.8"]


def test_figures_without_a_protocol_are_not_omitted_without_a_message(tmp_path: Path) -> None:
    path = tmp_path / "earlier.json"
    path.write_text(json.dumps(report({"nll": 80.4})))
    assert "figures of earlier versions are omitted, as their protocol is unknown: nll" in comparison.to_markdown(
        [reports.read(path)]
    )


def test_likelihoods_stand_before_bits_or_at_the_end() -> None:
    levels = {"observed": "levels"}
    for figures, expected in (
        ({"elbo_levels": -90.0, "class_accuracy": 0.9}, ["class_accuracy", "elbo_levels"]),
        ({"bits_per_dim": 3.3, "elbo_levels": -90.0}, ["elbo_levels", "bits_per_dim"]),
        ({"bits_per_dim": 3.3, "psnr_mean": 20.0, "elbo_levels": -90.0}, ["elbo_levels", "bits_per_dim", "psnr_mean"]),
    ):
        header = comparison.to_markdown([report(figures, elbo_levels=levels)]).splitlines()[0]
        assert columns(header) == ["fd_classifier", *expected]


def test_numbers_under_different_protocols_are_not_compared(tiny_models: Path, tmp_path: Path) -> None:
    for n in ("100", "120"):
        run("evaluate", "vae", "--n", n, "--out", str(tmp_path / f"{n}.json"), models=tiny_models)
    files = [str(tmp_path / "100.json"), str(tmp_path / "120.json")]
    result = CliRunner().invoke(cli.app, ["compare", *files, "--models", str(tiny_models)])
    assert isinstance(result.exception, ProtocolMismatch)
    assert "with different numbers of images (vae 1, prior mixture with 100; " in result.exception.message
    content = json.loads((tmp_path / "100.json").read_text())
    content["protocol"]["extractor_sha256"] = "0" * 64
    (tmp_path / "120.json").write_text(json.dumps(content))
    result = CliRunner().invoke(cli.app, ["compare", *files, "--models", str(tiny_models)])
    assert isinstance(result.exception, ProtocolMismatch)
    assert "with different extractors" in result.exception.message
    (tmp_path / "120.json").write_text("{}")
    assert "not a report" in str(CliRunner().invoke(cli.app, ["compare", *files]).exception)


def test_the_page_shows_pictures_that_can_be_opened(extractor: Extractor, real: RealArrays, held: Reference) -> None:
    import base64
    import re

    from PIL import Image

    found, _, pictures = evaluate_images.evaluate_images(ImageArray.of(real.test.pixels), held, extractor)
    page = report_page.to_html(found.as_dict(), pictures)
    contents = re.findall(r'base64,([^"]+)"', page)
    assert len(contents) >= 2
    for content in contents:
        Image.open(io.BytesIO(base64.b64decode(content))).load()
