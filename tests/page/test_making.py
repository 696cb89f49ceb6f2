"""The views that make pictures, in a real browser: sample, restore, interpolate, reconstruct and edit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.page.browser import needs_browser, opened_page, wait_for_address
from tests.served import Served

pytestmark = needs_browser
LARGEST = 2**63 - 1


def sources(page: Any) -> list[str]:
    """Return the pictures of the view Sample, once all are shown."""
    page.locator(".sample-tiles li").nth(5).wait_for()
    page.wait_for_load_state("networkidle")
    found: list[str] = page.locator(".sample-tiles img").evaluate_all("images => images.map(image => image.src)")
    return found


def test_samples_with_the_largest_seed_are_exact(service: Served, browser: Any) -> None:
    with opened_page(browser, f"{service.url}?model=mnist-cvae&view=sample&n=6&seed=7") as page:
        sources(page)
        with page.expect_request("**/sample") as sent:
            page.get_by_label("Seed", exact=True).fill(str(LARGEST))
            page.get_by_label("Seed", exact=True).press("Enter")
        assert f'"seed":{LARGEST}' in sent.value.post_data.replace(" ", "")
        page.locator(".sample-tiles", has_text="922…807:0").wait_for()  # short below a picture, whole in its dialog
        page.locator(".sample-tiles button").first.click()
        page.get_by_role("dialog").get_by_text(f"Seed {LARGEST}, index 0").wait_for()


def test_back_restores_the_samples(service: Served, browser: Any) -> None:
    with opened_page(browser, f"{service.url}?model=mnist-cvae&view=sample&n=6&seed=7") as page:
        before = sources(page)
        page.get_by_role("button", name="Next seed").click()
        page.locator(".sample-tiles", has_text="8:0").wait_for()
        assert sources(page) != before
        page.go_back()
        page.locator(".sample-tiles", has_text="7:0").wait_for()
        assert sources(page) == before


def test_an_item_opens_and_leads(service: Served, browser: Any) -> None:
    with opened_page(browser, f"{service.url}?model=mnist-cvae&view=sample&n=6&seed=7") as page:
        sources(page)
        page.locator(".sample-tiles button").nth(4).click()
        page.get_by_role("dialog").get_by_text("Seed 7, index 4").wait_for()
        page.keyboard.press("ArrowRight")
        page.get_by_role("dialog").get_by_text("Seed 7, index 5").wait_for()
        page.get_by_role("button", name="Use this seed").click()
        page.wait_for_url(re.compile("first=5"))


@pytest.mark.parametrize("model", ["mnist-cvae", "mnist-flow"])
def test_a_picture_is_restored_from_its_png(service: Served, browser: Any, tmp_path: Path, model: str) -> None:
    with opened_page(browser, f"{service.url}?model={model}&view=sample&n=6&seed={LARGEST - 9}") as page:
        sources(page)
        page.locator(".sample-tiles button").nth(2).click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download PNG", exact=True).click()
        path = tmp_path / "item.png"
        download.value.save_as(path)
    with opened_page(browser, service.url) as page:
        page.locator("#all").wait_for()
        page.locator(".start input[type=file]").set_input_files(path)
        page.locator(".sample-results .note", has_text="every pixel is the same").wait_for()
        wait_for_address(page, seed=str(LARGEST - 9), model=model, first="2")


def test_files_without_a_recipe_are_explained(service: Served, browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "plain.png"
    Image.new("L", (4, 4)).save(path)
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with opened_page(browser, service.url) as page:
        for file, said in ((path, "no recipe"), (text, "not a PNG")):
            page.locator(".start input[type=file]").set_input_files(file)
            page.locator(".failure", has_text=said).wait_for()


def test_a_variation_has_its_own_recipe(service: Served, browser: Any) -> None:
    """The recipe that the dialog shows is that of the picture in it, and no link leads to the item that it was made from."""
    with opened_page(browser, f"{service.url}?model=mnist-cvae&view=sample&n=6&seed=7&open=3") as page:
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("button", name="Show variations").click()
        dialog.locator(".sample-variations button.picture").nth(2).click()
        dialog.get_by_text("A variation of seed 7, index 3").wait_for()
        dialog.locator(".sample-recipe th", has_text="latents").wait_for()
        assert dialog.get_by_role("button", name="Use this seed").count() == 0
        assert dialog.locator(".sample-actions a").count() == 0
        dialog.get_by_role("button", name="Edit", exact=True).click()
        page.wait_for_url(re.compile("item=own"))


@pytest.mark.parametrize(
    ("view", "place"), [("edit", "edit-source"), ("interpolate", "interpolate-ends"), ("latent", "latent-source")]
)
def test_files_that_are_no_pictures_are_explained(
    service: Served, browser: Any, tmp_path: Path, view: str, place: str
) -> None:
    empty, text = tmp_path / "empty.png", tmp_path / "text.png"
    empty.touch()
    text.write_text("no picture")
    with opened_page(browser, f"{service.url}?model=mnist-cvae&view={view}") as page:
        if view == "interpolate":
            page.get_by_role("button", name="Change start").click()
        if view != "latent":
            page.get_by_role("button", name="File", exact=True).first.click()
        for file, said in ((empty, "empty.png is empty"), (text, "text.png is not a picture")):
            page.locator(f".{place} input[type=file]").first.set_input_files(file)
            page.locator(f".{place} .failure", has_text=said).wait_for()


def test_invalid_settings_are_explained(service: Served, browser: Any) -> None:
    with opened_page(browser, f"{service.url}?model=mnist-cvae&view=sample&seed=abc") as page:
        page.locator(".failure", has_text="abc").first.wait_for()
        page.get_by_role("button", name="Use the default").first.click()
        page.locator(".sample-tiles li").first.wait_for()


def test_a_seven_becomes_a_one(service: Served, browser: Any) -> None:
    with opened_page(browser, f"{service.url}?model=mnist-cvae&view=edit") as page:
        page.get_by_role("button", name="Class 1", exact=True).click()
        page.locator("img[alt='As class 1']").wait_for()
        wait_for_address(page, target="1")


def test_drawings_are_classified_and_kept(service: Served, browser: Any) -> None:
    with opened_page(browser, f"{service.url}?model=mnist-classifier&view=edit") as page:
        page.get_by_role("button", name="Draw").click()
        area = page.get_by_role("application").first
        box = area.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 40, steps=8)
        page.mouse.up()
        page.wait_for_url(re.compile("item=own"))
        page.locator("#probabilities").wait_for()
        page.reload()
        page.locator("#probabilities").wait_for()
        page.wait_for_url(re.compile("item=own"))


def test_missing_pixels_are_filled_in(service: Served, browser: Any) -> None:
    with opened_page(browser, f"{service.url}?model=mnist-flow&view=edit") as page:
        page.get_by_role("button", name="Fill in", exact=True).click()
        page.locator(".fills img").nth(3).wait_for()


def test_rows_are_filled_in(service: Served, browser: Any) -> None:
    with opened_page(browser, f"{service.url}?model=nslkdd-cvae&view=edit") as page:
        page.get_by_role("button", name="Empty every fourth field").click()
        page.get_by_role("region", name="Filled-in values").wait_for()


@pytest.mark.parametrize(("button", "kind"), [("Save as GIF", "GIF"), ("Save as WebP", "WEBP")])
def test_paths_are_saved_as_animations(service: Served, browser: Any, tmp_path: Path, button: str, kind: str) -> None:
    with opened_page(browser, f"{service.url}?model=mnist-cvae&view=interpolate&from=1:0:7&to=2:0:1&n=8") as page:
        page.get_by_role("slider", name="Position").first.press("ArrowRight")
        page.wait_for_url(re.compile("at=1"))
        with page.expect_download() as download:
            page.get_by_role("button", name=button).first.click()
        path = tmp_path / "path"
        download.value.save_as(path)
    with Image.open(path) as picture:
        assert picture.format == kind
        assert getattr(picture, "n_frames", 1) == 14  # eight steps there, and six back
        assert picture.width >= 256
