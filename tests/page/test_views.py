"""The views of the page in a real browser: what a user does in each of them, and what appears."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import ROOT, ROW
from tests.page.browser import NARROW, WIDE, needs_browser, opened_page, serious, wait_for_address
from tests.served import Served

pytestmark = needs_browser
LARGEST = 2**63 - 1


# --- latent space -------------------------------------------------------------------------------------------------------------


def test_the_decoder_follows_the_pointer_and_the_keys(service: Served, browser: Any) -> None:
    with opened_page(browser, f"{service.url}?model=mnist-vae-2d&view=latent") as page:
        plane = page.locator(".latent-plane")
        plane.wait_for()
        page.locator(".latent-legend button").nth(9).wait_for()
        before = plane.get_attribute("data-at")
        plane.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("before => document.querySelector('.latent-plane').dataset.at !== before", arg=before)
        box = plane.bounding_box()
        for step in range(20):
            page.mouse.move(box["x"] + 40 + 10 * step, box["y"] + 60)
        page.locator(".rate[data-fps]").wait_for()


def test_two_points_span_a_path(service: Served, browser: Any) -> None:
    with opened_page(browser, f"{service.url}?model=mnist-vae-2d&view=latent") as page:
        plane = page.locator(".latent-plane")
        page.locator(".latent-legend button").first.wait_for()
        plane.click(position={"x": 80, "y": 80})
        page.wait_for_function("() => new URLSearchParams(location.search).has('a')")
        first = page.evaluate("new URLSearchParams(location.search).get('a')")
        plane.click(position={"x": 280, "y": 280})
        page.locator(".latent-path").wait_for()
        page.go_back()
        page.locator(".latent-path").wait_for(state="detached")
        wait_for_address(page, a=first, b=None)


def test_two_models_beside_each_other(service: Served, browser: Any) -> None:
    with opened_page(browser, f"{service.url}?model=mnist-vae-2d&view=latent") as page:
        page.get_by_label("Beside another model").select_option("mnist-autoencoder")
        page.locator(".latent-plane").nth(1).wait_for()
        wait_for_address(page, beside="mnist-autoencoder")


def test_codes_are_changed(service: Served, browser: Any) -> None:
    with opened_page(browser, f"{service.url}?model=mnist-vqvae&view=latent") as page:
        field = page.get_by_label("Code of line 2, column 4")
        page.locator(".latent-codes button").nth(10).click()
        assert page.get_by_text("Cancelled").count() == 0  # nothing was cancelled by opening the view
        field.fill("5")
        field.press("Enter")
        page.get_by_role("button", name="Undo all changes").click()


# --- anomalies ----------------------------------------------------------------------------------------------------------------


def rows_file(folder: Path) -> Path:
    """Write a CSV file of 400 rows of which one is far from all others. Its first text would be a formula in a spreadsheet."""
    random = np.random.default_rng(0)
    path = folder / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["note", *ROW])
        for place in range(400):
            row: dict[str, object] = {
                name: round(value * random.uniform(0.8, 1.2), 3) if isinstance(value, int | float) else value
                for name, value in ROW.items()
            }
            row |= {"night": 0, "weekday": str(place % 7)}
            if place == 321:
                row |= {"amount": 4000, "amount_over_usual": 30}
            writer.writerow(["=1+1", *row.values()])
    return path


def test_one_drop_finds_the_anomaly_and_says_why(service: Served, browser: Any, tmp_path: Path) -> None:
    """The decisions in the downloaded file are those of the service at the same rate."""
    path = rows_file(tmp_path)
    with opened_page(browser, f"{service.url}?model=transactions-vae&view=anomaly") as page:
        page.locator(".anomaly input[type=file]").first.set_input_files(path)
        page.locator(".top-one", has_text="because").wait_for()
        assert "amount" in page.locator(".top-one").inner_text()
        page.locator(".top-one button").first.click()
        page.locator("dialog table.reasons").wait_for()
        page.keyboard.press("Escape")
        rate = page.get_by_label("False alarm rate, %")
        rate.fill("2")
        rate.press("Enter")
        page.wait_for_function("() => new URLSearchParams(location.search).get('rate') === '0.02'")
        with page.expect_download() as download:
            page.get_by_role("button", name="Download scores as CSV").click()
        saved = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    sent = httpx.post(
        f"{service.url}/anomaly-score", params={"model": "transactions-vae", "false_positive_rate": 0.02}, content=path.read_bytes(),
        headers={"content-type": "text/csv"},
    )  # fmt: skip
    lines = [json.loads(line) for line in sent.text.splitlines()]
    expected = [line for line in lines if "score" in line]
    assert len(saved) == len(expected) == 400
    for given, own in zip(saved, expected, strict=True):
        assert given["note"] == "'=1+1"
        assert (float(given["score"]), given["is_anomaly"].lower(), given["band"]) == (
            own["score"],
            str(own["is_anomaly"]).lower(),
            own["band"],
        )


def test_costs_decide_nothing_before_their_rate_is_known(service: Served, browser: Any, tmp_path: Path) -> None:
    path = rows_file(tmp_path)
    with opened_page(browser, f"{service.url}?model=transactions-vae&view=anomaly&costs=1,50,0.01") as page:
        requests, held = re.compile(r"/anomaly-score(\?|$)"), list[Any]()
        sent, released = list[str](), list[bool]()

        def hold(route: Any) -> None:
            sent.append(route.request.url)
            held.append(route) if len(sent) > 1 and not released else route.continue_()

        page.route(requests, hold)
        page.locator(".anomaly input[type=file]").first.set_input_files(path)
        page.get_by_text("The service works out the rate that these costs amount to").wait_for()
        page.locator(".anomaly table .band.open").first.wait_for()
        assert page.locator(".anomaly table .band:not(.open)").count() == 0
        assert page.get_by_role("button", name="Download scores as CSV").is_disabled()
        released.append(True)
        for route in held:
            route.continue_()
        page.get_by_text("These costs amount to a false alarm rate of").wait_for()
        page.locator(".anomaly table .band.block, .anomaly table .band.review").first.wait_for()


# --- compare, facts, learn ----------------------------------------------------------------------------------------------------


def test_models_are_compared_on_one_seed(service: Served, browser: Any) -> None:
    query = f"view=compare&models=mnist-cvae,mnist-vqvae&seed={LARGEST}&n=3"
    with opened_page(browser, f"{service.url}?{query}") as page:
        page.locator(".matrix img").nth(5).wait_for()
        assert page.locator(".matrix .line").count() == 2
        shown = page.locator(".matrix .line").first.locator("img").first
        width = page.evaluate("image => image.decode().then(() => image.naturalWidth)", shown.element_handle())
        assert width == 28
        page.get_by_role("button", name="New seed").click()
        page.wait_for_function(f"() => new URLSearchParams(location.search).get('seed') !== '{LARGEST}'")
        page.go_back()
        wait_for_address(page, seed=str(LARGEST))


def test_one_missing_model_does_not_stop_the_others(service: Served, browser: Any) -> None:
    with opened_page(browser, f"{service.url}?view=compare&models=mnist-cvae,nosuch&n=2") as page:
        page.locator("section[aria-label='nosuch'] .failure").wait_for()
        page.locator(".matrix img").nth(1).wait_for()
        assert page.locator(".matrix .failure").count() == 1


def test_facts(service: Served, browser: Any) -> None:
    with opened_page(browser, f"{service.url}?model=mnist-vqvae&view=facts") as page:
        page.get_by_role("button", name="logarithmic").click()
        page.wait_for_function("() => new URLSearchParams(location.search).has('scale')")
        page.get_by_text("Inputs and outputs of").click()
        page.get_by_role("cell", name="uniforms").first.wait_for()


@pytest.mark.parametrize("lesson", ["kl", "beta", "ring", "codes", "noise"])
def test_lessons_go_step_by_step(service: Served, browser: Any, lesson: str) -> None:
    with opened_page(browser, f"{service.url}?view=learn&lesson={lesson}&step=1") as page:
        page.get_by_role("link", name=re.compile("Next")).click()
        page.wait_for_url(re.compile("step=2"))
        page.locator("main h1").wait_for()
        assert page.locator("main a[href*='arxiv'], main a[href*='doi']").count()
        assert page.locator("main", has_text=re.compile(r"training/families/\w+\.py")).count()


def test_the_recorded_path_is_that_of_the_model(service: Served, browser: Any) -> None:
    """The lesson on flows shows recorded states: the last one is the picture that the service makes from the same seed."""
    recorded = json.loads((ROOT / "service/http/pages/static/data/path.json").read_text())
    assert recorded["model"] == "mnist-flow"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize(
    "query",
    [
        "model=mnist-cvae&view=sample&n=4", "model=transactions-vae&view=sample&n=4", "model=mnist-vae-2d&view=latent", "model=mnist-cvae&view=interpolate",
        "model=mnist-cvae&view=edit", "model=transactions-vae&view=anomaly", "view=compare&models=mnist-cvae,mnist-vqvae&n=2", "model=mnist-vqvae&view=facts",
        "view=learn", "view=learn&lesson=kl&step=2",
    ],
)  # fmt: skip
def test_views_are_accessible_and_fit(
    service: Served, browser: Any, query: str, size: dict[str, int], scheme: str
) -> None:
    """axe finds no serious obstacle, and nothing is wider than the screen."""
    if (size is NARROW) == (scheme == "light"):  # light on a wide screen, and dark on a narrow one
        pytest.skip("the other combination is checked")
    assert not serious(browser, f"{service.url}?{query}", "main h1", color_scheme=scheme, viewport=size)
    with opened_page(browser, f"{service.url}?{query}", color_scheme=scheme, viewport=size) as page:
        page.locator("main h1").first.wait_for()
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
