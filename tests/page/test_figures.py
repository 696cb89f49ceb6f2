"""The figures and statements of the page, compared with their definitions, the manifests of the shipped models, and live models."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from benchmarks import unrolled
from manifold.evaluation import anomaly, cells, peers
from manifold.runtime.manifest import figures
from manifold.service.http.pages import assets
from manifold.training.datasets import ring
from tests.conftest import SHIPPED
from tests.page.browser import needs_browser, opened_page, wait_for_address
from tests.served import Served

FOLDER = assets.FOLDER.resolve()
LESSONS = FOLDER / "views" / "lessons"
UNDIRECTED = {"kl", "active_units", "discriminator_accuracy", "nearest_train_distance"}  # neither direction is better
WITHOUT_DIRECTION = ("false_positive_rate_at_", "flagged_unlabelled_at_", "rank_correlation_")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")

SCRIPT = f"""
import * as metrics from {json.dumps((FOLDER / "lib" / "metrics.js").as_uri())};
import {{ readFileSync }} from "node:fs";
console.log(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(given => metrics.figuresOf(given).map(figure => ({{
  name: figure.name, by: figure.protocol?.by, words: metrics.wordsOf(figure.name), title: metrics.titleOf(figure), better: metrics.betterOf(figure.name),
  text: metrics.valueOf(figure), how: metrics.howOf(figure).join("; "), key: metrics.measuredBy(figure, "data", "items"),
}})))));
"""


def manifest_of(name: str) -> dict[str, Any]:
    """Return the manifest of the newest version of a shipped model."""
    path = max((SHIPPED / name).glob("*/manifest.json"), key=lambda path: int(path.parent.name))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


NAMES = sorted(path.name for path in SHIPPED.iterdir() if path.is_dir())


def shown_figures(metrics: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """Return how lib/metrics.js shows the metrics of each model."""
    done = subprocess.run(
        ["node", "--input-type=module", "-e", SCRIPT], input=json.dumps(metrics), capture_output=True, text=True, timeout=60, check=True
    )  # fmt: skip
    found: list[list[dict[str, Any]]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def shown() -> dict[str, list[dict[str, Any]]]:
    """Return the figures of the shipped models as the page shows them, by model."""
    if shutil.which("node") is None:
        pytest.skip("needs node")
    return dict(zip(NAMES, shown_figures([manifest_of(name)["metrics"] for name in NAMES]), strict=True))


# --- figures ------------------------------------------------------------------------------------------------------------------


def test_every_figure_has_a_name_a_meaning_and_its_direction(shown: dict[str, list[dict[str, Any]]]) -> None:
    """The directions are those of the evaluation, and every other figure has one unless none is better."""
    seen = {figure["name"]: figure for all_of_model in shown.values() for figure in all_of_model}
    assert len(seen) > 40
    for name, figure in seen.items():
        title, meaning = figure["words"]
        assert "_" not in title and meaning, name
        expected = cells.direction_of(name)
        if expected in ("lower is better", "higher is better"):
            assert figure["better"] == expected.split()[0], name
        elif re.sub(r"_level_\d+$", "", name) not in UNDIRECTED:
            assert figure["better"] or name.startswith(WITHOUT_DIRECTION), name
    for name in UNDIRECTED & seen.keys():
        assert seen[name]["better"] is None


@needs_node
def test_rank_correlations_name_the_peer_and_have_no_direction() -> None:
    metrics = [{"name": anomaly.correlation_name(name), "value": 0.71234, "protocol": {}} for name in peers.NAMES]
    (found,) = shown_figures([metrics])
    assert [(each["title"], each["better"], each["text"]) for each in found] == [
        ("Rank correlation with an isolation forest", None, "0.7123"),
        ("Rank correlation with nearest neighbours", None, "0.7123"),
        ("Rank correlation with the Mahalanobis distance", None, "0.7123"),
    ]
    assert all("Spearman" in each["words"][1] for each in found)


@needs_node
def test_figures_of_single_families_are_named() -> None:
    names = (
        "kl_level_2",
        "active_units_level_5",
        "nll_static_single_order",
        "nll_dynamic",
        "psnr_noisy",
        "psnr_denoised",
        "code_distance",
    )
    (found,) = shown_figures([[{"name": name, "value": 3.5, "protocol": {}} for name in names]])
    assert [(each["title"], each["better"]) for each in found] == [
        ("KL term, level 2", None),
        ("Active units, level 5", None),
        ("Negative log-likelihood (binarised pixels, mean of single orders)", "lower"),
        ("Negative log-likelihood (pixels binarised at random)", "lower"),
        ("Peak signal-to-noise ratio of the noisy items", None),
        ("Peak signal-to-noise ratio after denoising", "higher"),
        ("Distance of the codes from the prior", "lower"),
    ]
    assert all("level 1 is next to the data" in each["words"][1] for each in found[:2])


def test_detected_anomalies_are_better_if_there_are_more(shown: dict[str, list[dict[str, Any]]]) -> None:
    figure = next(each for each in shown["creditcard-vae"] if each["name"] == "flagged_at_1%")
    assert (figure["better"], figure["text"]) == ("higher", "81.61%")
    assert "anomalies" in figure["words"][1]


def test_shares_are_percentages_and_units_read_naturally(shown: dict[str, list[dict[str, Any]]]) -> None:
    figures_shown = [figure for all_of_model in shown.values() for figure in all_of_model]
    assert {each["text"] for each in figures_shown if each["name"] == "duplicates"} >= {"0%"}
    assert all(
        re.fullmatch(r"[\d.e-]+%", each["text"])
        for each in figures_shown
        if each["name"] in {"accuracy", "duplicates", "recall"}
    )
    assert not [each["text"] for each in figures_shown if re.search("fraction|squared|bits/dim", each["text"])]


@pytest.mark.parametrize("name", ["cifar10-flow", "mnist-flow", "fashion-flow"])
def test_both_bounds_of_a_flow_are_marked_and_explained(shown: dict[str, list[dict[str, Any]]], name: str) -> None:
    bits = [figure for figure in shown[name] if figure["name"] == figures.BITS]
    assert len(bits) == 2
    assert all(figure["text"].startswith("≤ ") and "upper bound" in figure["how"] for figure in bits)
    assert len({figure["title"] for figure in bits}) == 2
    assert {"100 test items", "1000 test items"} == {figure["how"].split("; ")[-1] for figure in bits}


def test_exact_bits_are_no_bound(shown: dict[str, list[dict[str, Any]]]) -> None:
    bits = [figure for figure in shown["cifar10-pixelcnn"] if figure["name"] == figures.BITS]
    assert bits and not [figure for figure in bits if "≤" in figure["text"] or "bound" in figure["how"]]


@needs_node
def test_figures_of_different_paths_or_items_are_not_compared() -> None:
    """A line of the comparison has equal protocols: the interpolation of a path and the number of items are part of them."""
    common = {
        "by": "evaluation",
        "common": {"extractor_sha256": "0", "reference": {"sha256": "1"}, "n": 10, "resize": "none"},
    }
    details = [
        {"interpolation": way, "n": n, "part": "test"}
        for way, n in (("lerp", 5), ("slerp", 5), ("lerp", 6), ("lerp", 5))
    ]
    (figures_shown,) = shown_figures(
        [
            [
                {"name": "continuity", "value": 1, "protocol": {**common, "prior": str(i), "detail": detail}}
                for i, detail in enumerate(details)
            ]
        ]
    )
    by_key = defaultdict(list)
    for i, figure in enumerate(figures_shown):
        by_key[figure["key"]].append(i)
    assert sorted(by_key.values()) == [[0, 3], [1], [2]]


# --- statements of the lessons ------------------------------------------------------------------------------------------------


def test_the_ring_is_drawn_and_counted_as_it_was_recorded() -> None:
    """The lesson states the deviation, the distance and the share that benchmarks/unrolled.py counts with."""
    text = (LESSONS / "ring.js").read_text()
    stated = re.search(r"DEVIATION = ([\d.]+), REACH = (\d+) \* DEVIATION, SHARE = ([\d.]+), COUNTED = (\d+)", text)
    assert stated
    deviation, reach, share, counted = map(float, stated.groups())
    assert (deviation, counted) == (ring.DEVIATION, unrolled.SAMPLES)
    centre, needed = (ring.RADIUS, 0.0), int(share * counted)
    for distance, n, covered in ((0.99 * reach, needed, 1), (1.01 * reach, needed, 0), (0.99 * reach, needed - 1, 0)):
        points = [[centre[0] + distance * deviation, 0.0]] * n + [[9.0, 9.0]] * (int(counted) - n)
        assert unrolled.judged(np.asarray(points))[0] == covered
    recorded = json.loads((FOLDER / "data" / "ring.json").read_text())
    plain, remedy = recorded["runs"]
    assert max(plain["covered"]) <= 2 and min(remedy["covered"][2:]) == ring.MODES


def test_the_differences_of_the_compared_models_are_stated() -> None:
    """The lessons on β and on the KL term state the epochs, schedules and numbers of training items in the manifests."""
    vae, beta, plain = (
        manifest_of(name)["provenance"] for name in ("mnist-vae", "mnist-beta-vae", "mnist-autoencoder")
    )
    items = [int(re.search(r"0 to (\d+)", each["data"]["train"])[1]) + 1 for each in (vae, beta, plain)]  # type: ignore[index]
    assert items == [50_000, 55_000, 55_000]
    assert [each["config"]["epochs"] for each in (vae, beta, plain)] == [60, 60, 30]
    assert [each["config"]["schedule"] for each in (vae, beta)] == ["constant", "cosine"]
    of_networks = (
        "latent_dim",
        "hidden",
        "body",
        "likelihood",
        "batch_size",
        "lr",
        "ema",
        "kl_warmup",
        "samples",
        "noise",
    )
    assert not [name for name in of_networks if len({str(each["config"][name]) for each in (vae, beta, plain)}) > 1]
    for name, numbers in {
        "beta": ("60 epochs", "50 000", "55 000"),
        "kl": ("60 epochs", "30", "50 000", "55 000"),
    }.items():
        text = " ".join((LESSONS / f"{name}.js").read_text().split())
        assert all(number in text for number in numbers), name


def test_sources_have_the_year_of_their_identifier() -> None:
    found = [
        (year, arxiv)
        for path in LESSONS.glob("*.js")
        for year, arxiv in re.findall(r"year: (\d{4}), title: \"[^\"]*\",?\s*url: \"https://arxiv\.org/abs/(\d{4})\.", path.read_text().replace("\n", " "))
    ]  # fmt: skip
    assert len(found) >= 9
    assert not [each for each in found if each[0] != f"20{each[1][:2]}"]


# --- views in a browser -------------------------------------------------------------------------------------------------------


@needs_browser
def test_the_bits_of_codes_sum_to_those_of_the_grid(service: Served, browser: Any) -> None:
    with opened_page(browser, f"{service.url}?view=learn&lesson=codes&step=4") as page:
        page.get_by_role("row", name=re.compile("this picture")).wait_for()
        parts = [float(text) for text in page.locator(".codes[aria-label='Bits of each code'] span").all_inner_texts()]
        total = float(page.get_by_role("row", name=re.compile("this picture")).locator("td.number").inner_text())
        assert len(parts) == 49
        # the rounding of 49 parts to one digit; if the class were given, log2(10) = 3.3 bits would be missing
        assert abs(sum(parts) - total) < 1.6


@needs_browser
def test_numbers_of_steps_are_timed_one_after_the_other(service: Served, browser: Any) -> None:
    with opened_page(browser, "about:blank") as page:
        running: list[int] = [0]
        most: list[int] = [0]

        def change(request: Any, by: int) -> None:
            if request.url.endswith("/sample"):
                running[0] += by
                most[0] = max(most[0], running[0])

        page.on("request", lambda request: change(request, 1))
        page.on("requestfinished", lambda request: change(request, -1))
        page.goto(f"{service.url}?view=learn&lesson=noise&step=4")
        page.get_by_text("16 steps").wait_for()
        assert most[0] == 1
        assert page.get_by_text(re.compile(r"^(4|8|16) steps$")).count() == 3


@needs_browser
def test_a_compared_item_has_an_address_and_a_file(service: Served, browser: Any) -> None:
    with opened_page(browser, f"{service.url}?view=compare&models=mnist-cvae,mnist-vqvae&n=2") as page:
        page.get_by_role("button", name="mnist-cvae, item 2").click()
        page.get_by_role("dialog", name="mnist-cvae, item 2").wait_for()
        wait_for_address(page, open="mnist-cvae:1")
        page.reload()
        dialog = page.get_by_role("dialog", name="mnist-cvae, item 2")
        dialog.wait_for()
        with page.expect_download() as download:
            dialog.get_by_role("button", name="Download PNG").click()
        assert download.value.suggested_filename == "mnist-cvae-1-1.png"
        assert download.value.path().read_bytes().startswith(b"\x89PNG")
        page.keyboard.press("Escape")
        dialog.wait_for(state="detached")
        wait_for_address(page, open=None)


@needs_browser
def test_a_comparison_says_why_real_items_differ(service: Served, browser: Any) -> None:
    """The training items of mnist-flow and mnist-cvae differ, and with them the distance of training items to test items."""
    with opened_page(browser, f"{service.url}?view=compare&models=mnist-flow,mnist-cvae&n=1") as page:
        row = page.get_by_role("row", name=re.compile("^Fréchet distance lower"))
        row.wait_for()
        assert "0.0674 to 0.06929" in row.inner_text()
        assert page.get_by_text("items 0 to 49999 of the training split (mnist-flow)").count() == 1


@needs_browser
def test_a_comparison_can_start_with_none(service: Served, browser: Any) -> None:
    with opened_page(browser, f"{service.url}?view=compare") as page:
        page.get_by_role("button", name="Start with none").click()
        page.get_by_text("No model is chosen").wait_for()
        assert page.get_by_role("button", name="Start with none").count() == 0


@needs_browser
def test_facts_list_columns_and_anomalies(service: Served, browser: Any) -> None:
    with opened_page(browser, f"{service.url}?model=transactions-vae&view=facts") as page:
        columns = page.get_by_role("region", name="List of the columns")
        columns.wait_for()
        declared = manifest_of("transactions-vae")["data"]["columns"]
        assert columns.locator("tbody tr").count() == len(declared)
        assert columns.get_by_role("row", name="hour number 0.00 to 24.00 h").count() == 1
        assert columns.get_by_role("row", name="night 2 categories 0, 1").count() == 1
        assert page.get_by_text("20000 normal test items and 5000 known anomalies").count() == 1
        page.get_by_role("rowheader", name="test item 1", exact=True).wait_for()
        assert page.get_by_role("rowheader", name="test item 0", exact=True).count() == 0
