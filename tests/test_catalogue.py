"""The table of the shipped models agrees with their manifests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from manifold import cli
from manifold.evaluation import catalogue
from manifold.runtime import featured, imaging, manifest, repository
from manifold.runtime.errors import InvalidValue
from manifold.runtime.manifest import Metric
from manifold.runtime.shipped import latest
from tests.conftest import ROOT, SHIPPED

FEATURED = featured.read(SHIPPED)


def test_the_page_and_the_readme_are_current() -> None:
    assert (ROOT / "docs/models.md").read_text() == catalogue.page(SHIPPED, ROOT / "docs"), "run: make docs"
    text = (ROOT / "README.md").read_text()
    assert catalogue.between(text, catalogue.featured(SHIPPED, FEATURED, ROOT)) == text, "run: make docs"


def test_pictures_can_be_made_again_by_the_shipped_models() -> None:
    with_recipes = 0
    for path in [
        *(ROOT / "docs").glob("*.png"),
        *(path for folder in latest(SHIPPED).values() for path in folder.glob("*.png")),
    ]:
        try:
            recipe = imaging.read_recipe(path.read_bytes())
        except InvalidValue:  # a plot, or a grid of images without a recipe
            continue
        own = manifest.read(SHIPPED / recipe["model"] / str(recipe["version"]))
        assert recipe["checksum"] == repository.checksum(own.files), f"{path}: draw it again"
        with_recipes += 1
    assert with_recipes


def test_every_shipped_model_has_a_section_with_a_sheet_that_is_there() -> None:
    page = (ROOT / "docs/models.md").read_text()
    for name in latest(SHIPPED):
        assert f"### {name}\n" in page
        assert f"| [`{name}`](#{name}) |" in page
    assert len(FEATURED) == 6
    for name in FEATURED:
        assert f"| `{name}` |" in (ROOT / "README.md").read_text()
    for link in [line for line in page.splitlines() if line.startswith("![")]:
        assert (ROOT / "docs" / link.partition("(")[2].rstrip(")")).exists(), link


def test_figures_come_from_the_metrics_with_their_protocol() -> None:
    def of(*metrics: tuple[str, float, dict[str, object]]) -> list[str]:
        made = tuple(Metric(name=name, value=value, protocol=protocol) for name, value, protocol in metrics)
        base = manifest.read(repository.find("mnist-vae", SHIPPED))
        return catalogue.figures(base.model_copy(update={"metrics": made}))

    assert of() == []
    exact: dict[str, object] = {"bound": "exact", "observed": "pixels at 2 levels"}
    assert of(("nll_static", 80.04, exact), ("bits_per_dim", 0.147, exact)) == [
        "NLL 80.0 nats (exact) ↓, 0.15 bits/dim ↓ (pixels at 2 levels)"
    ]
    assert of(("elbo_levels", -80.04, {}), ("bits_per_dim", 5.5, {})) == ["ELBO -80.0 nats ↑, 5.50 bits/dim ↓"]
    assert of(("elbo_dynamic", -93.5, {"observed": "dynamic"}), ("iwae_500_dynamic", -89.6, {})) == [
        "ELBO -93.5 nats ↑, IWAE-500 -89.6 nats ↑ (dynamic)"
    ]
    dequantised: tuple[str, float, dict[str, object]] = (
        "nll_density",
        -2750.0,
        {"bound": "of the differential equation", "observed": "a density"},
    )
    assert of(dequantised) == ["NLL -2750.0 nats ↓ (a density)"]  # an estimate, not exact
    recorded: dict[str, object] = {"by": "evaluation", "common": {"n": 5}}
    bound: tuple[tuple[str, float, dict[str, object]], ...] = (
        ("elbo_levels", -1477.4, {**recorded, "detail": {"observed": "levels"}}),
        ("elbo_levels_se", 4.8, recorded),
    )
    assert of(dequantised, *bound) == ["ELBO -1477.4 ± 4.8 nats ↑ (levels)"]
    by_prior: tuple[tuple[str, float, dict[str, object]], ...] = (
        ("fd_classifier", 8.6, {"prior": "normal"}),
        ("fd_classifier", 2.3, {"prior": "mixture"}),
    )
    assert of(*by_prior) == ["Fréchet distance 2.3 (mixture prior), 8.6 (normal prior) ↓"]  # the default prior first
    assert of(("confident", 0.5, {"prior": "normal"}), ("confident", 0.7, {"prior": "mixture"})) == [
        "recognisable 70.0% ↑"
    ]
    assert of(("fd_classifier", 8.6, {"prior": "normal"})) == ["Fréchet distance 8.6 ↓"]
    resized: dict[str, object] = {"common": {"resize": "torch-bilinear"}}
    assert of(("fd_classifier", 8.6, resized)) == ["Fréchet distance 8.6 ↓ (images resized, torch-bilinear)"]
    assert of(("fd_classifier", 8.6, {"common": {"resize": "none"}})) == ["Fréchet distance 8.6 ↓"]
    assert of(("class_accuracy", 0.971, {}), ("least_class_share", 0.071, {})) == [
        "requested class recognised 97.1% ↑",
        "rarest class 7.1% ↑",
    ]
    assert of(("auroc", 0.9, {"against": "x"}), ("found_at_1%", 0.5, {})) == [
        "x as anomalies: AUROC 0.900 ↑, recall 50% at 1% FPR ↑"
    ]
    assert of(("auroc", 0.9, {})) == ["known anomalies: AUROC 0.900 ↑"]


def test_every_figure_of_the_page_has_a_direction() -> None:
    """A false alarm rate has none: the requested rate is best, and the figure states it."""
    for _, each in catalogue.artifacts(SHIPPED):
        for figure in catalogue.figures(each):
            assert re.search("[↓↑]|^false alarms at 1%: ", figure), figure


def test_the_marks_must_be_there_once() -> None:
    good = f"a\n{catalogue.BEGIN}\nold\n{catalogue.END}\nb\n"
    assert catalogue.between(good, "new") == f"a\n{catalogue.BEGIN}\nnew\n{catalogue.END}\nb\n"
    for bad in ("a", good + catalogue.BEGIN, f"{catalogue.END} {catalogue.BEGIN}"):
        with pytest.raises(ValueError, match="once each"):
            catalogue.between(bad, "new")


def test_the_command_writes_both(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"# x\n{catalogue.BEGIN}\n{catalogue.END}\n")
    told = [
        "catalogue",
        "--page",
        str(tmp_path / "models.md"),
        "--readme",
        str(tmp_path / "README.md"),
        "--featured",
        "mnist-vae",
        "--models",
        str(SHIPPED),
    ]
    done = CliRunner().invoke(cli.app, told)
    assert done.exit_code == 0, done.output
    assert "`mnist-vae`" in (tmp_path / "README.md").read_text()
    assert "### mnist-vae" in (tmp_path / "models.md").read_text()
    (tmp_path / "README.md").write_text("nothing")
    assert CliRunner().invoke(cli.app, told).exit_code != 0
    assert (tmp_path / "README.md").read_text() == "nothing"
