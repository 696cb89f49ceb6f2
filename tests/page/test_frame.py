"""The frame of the page in a real browser: the first view, filters, addresses, the back button, errors, and accessibility."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from manifold.runtime import manifest, repository
from tests.conftest import SHIPPED
from tests.keyed import KEY, TOKEN
from tests.page.browser import NARROW, WIDE, needs_browser, opened_page, serious
from tests.served import Served, served

pytestmark = needs_browser


def names(page: Any) -> list[str]:
    """Return the names of the models in the section of all models."""
    found: list[str] = page.locator("section[aria-labelledby=all] .card b").all_inner_texts()
    return found


def test_first_view(service: Served, browser: Any) -> None:
    with opened_page(browser, service.url) as page:
        page.locator("#featured").wait_for()
        featured = page.locator("section[aria-labelledby=featured] .card b").all_inner_texts()
        assert featured == ["mnist-flow", "mnist-cvae"]
        assert "generat" in page.locator("main p").first.inner_text()
        assert names(page)[:2] == ["mnist-flow", "mnist-cvae"] and "mnist-classifier" not in names(page)
        assert page.locator("section[aria-labelledby=evaluators] .card b").all_inner_texts() == ["mnist-classifier"]
        assert page.locator(".figure", has_text="lower is better").count()


def test_filters_are_in_the_address(service: Served, browser: Any) -> None:
    with opened_page(browser, f"{service.url}?family=vqvae") as page:
        page.locator("#all").wait_for()
        assert names(page) == ["mnist-vqvae"]
        page.get_by_label("Family").select_option("all")
        page.get_by_label("Task").select_option("anomaly-score")
        page.get_by_label("Name").fill("transactions")
        page.wait_for_url("**/?task=anomaly-score&find=transactions")
        page.locator("section[aria-labelledby=all] .card", has_text="mnist-vqvae").wait_for(state="detached")
        assert names(page) == ["transactions-vae"]
        page.get_by_label("Name").fill("no such thing")
        page.get_by_role("link", name="Remove the filters").click()
        page.locator("section[aria-labelledby=all] .card", has_text="mnist-flow").wait_for()


def test_back_returns(service: Served, browser: Any) -> None:
    with opened_page(browser, service.url) as page:
        page.locator("section[aria-labelledby=all] .card", has_text="mnist-cvae").click()
        page.get_by_role("heading", name="mnist-cvae").wait_for()
        page.wait_for_function("() => document.title.startsWith('mnist-cvae')")
        page.wait_for_function("() => document.activeElement.id === 'content'")  # the focus follows
        page.get_by_role("link", name="Interpolate").click()
        page.wait_for_url("**/?model=mnist-cvae&view=interpolate")
        page.go_back()
        page.get_by_role("link", name="Sample", exact=True).and_(page.locator("[aria-current=page]")).wait_for()
        page.go_back()
        page.locator("#all").wait_for()


def test_skip_link(service: Served, browser: Any) -> None:
    with opened_page(browser, service.url) as page:
        page.locator("#all").wait_for()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"


@pytest.mark.parametrize(
    ("query", "said"), [("model=mnist-cva", "no model “mnist-cva”"), ("model=mnist-cvae&version=99", "no version 99")]
)
def test_unknown_models(service: Served, browser: Any, query: str, said: str) -> None:
    with opened_page(browser, f"{service.url}?{query}") as page:
        alert = page.get_by_role("alert")
        alert.wait_for()
        assert said in alert.inner_text()
        alert.get_by_role("link", name="All models").click()
        page.locator("#all").wait_for()


def test_a_view_that_a_model_lacks(service: Served, browser: Any) -> None:
    with opened_page(browser, f"{service.url}?model=transactions-vae&view=nonsense") as page:
        page.get_by_text("no view “nonsense”").wait_for()
    with opened_page(browser, f"{service.url}?view=nonsense") as page:
        page.get_by_text("no page “nonsense”").wait_for()
        page.locator("#all").wait_for()


def test_the_service_is_gone(browser: Any, tmp_path: Path) -> None:
    """A page whose service has stopped says so, and works again when the service is back."""
    with served(tmp_path) as service, opened_page(browser, service.url) as page:
        page.get_by_text("All 0 models").wait_for()
        page.route("**/models", lambda route: route.abort())
        page.reload()
        alert = page.get_by_role("alert")
        alert.wait_for()
        assert "does not answer" in alert.inner_text() and "make serve" in alert.inner_text()
        page.unroute("**/models")
        alert.get_by_role("button", name="Try again").click()
        page.get_by_text("All 0 models").wait_for()


def test_a_key_is_asked_for(browser: Any, tmp_path: Path) -> None:
    with served(tmp_path, keys=str(KEY), auth="on") as service, opened_page(browser, service.url) as page:
        page.get_by_label("API key").fill("mf_wrong")
        page.get_by_role("button", name="Use this key").click()
        page.get_by_text("the API key is unknown").wait_for()
        page.get_by_label("API key").fill(TOKEN)
        page.get_by_role("button", name="Use this key").click()
        page.get_by_text("All 0 models").wait_for()
        assert not page.get_by_label("API key").count()


def test_previews_are_shown_with_a_key(browser: Any, tmp_path: Path) -> None:
    """An <img> sends no key, so that the page requests the picture itself."""
    (tmp_path / "mnist-cvae").symlink_to(SHIPPED / "mnist-cvae")
    with served(tmp_path, keys=str(KEY), auth="on") as service, opened_page(browser, service.url) as page:
        page.get_by_label("API key").fill(TOKEN)
        page.get_by_role("button", name="Use this key").click()
        picture = page.locator(".card img[src^='blob:']").first
        picture.wait_for()
        assert page.evaluate("image => image.decode().then(() => image.naturalWidth)", picture.element_handle()) > 100


def test_try_again_shows_the_view(service: Served, browser: Any) -> None:
    with opened_page(browser, service.url) as page:
        page.locator("#all").wait_for()
        failing = "**/models/mnist-vqvae?version=*"
        body = {"error": {"type": "busy", "message": "mnist-vqvae: the queue is full.", "request_id": "1"}}
        page.route(failing, lambda route: route.fulfill(status=429, json=body))
        page.goto(f"{service.url}?model=mnist-vqvae&view=facts")
        page.locator(".failure", has_text="the queue is full").first.wait_for()
        page.unroute(failing)
        page.locator(".failure", has_text="the queue is full").get_by_role("button", name="Try again").first.click()
        page.get_by_text("Inputs and outputs of").wait_for()


def test_versions_can_be_chosen(browser: Any, tmp_path: Path) -> None:
    """The highest version is shown, also after another one was opened. An older one is loaded when it is opened."""
    for version in (1, 2):
        folder = tmp_path / "mnist-cvae" / str(version)
        shutil.copytree(repository.find("mnist-cvae", SHIPPED), folder)
        stated = json.loads((folder / manifest.FILE).read_text())
        (folder / manifest.FILE).write_text(json.dumps({**stated, "version": version}))
    with (
        served(tmp_path, versions="all") as service,
        opened_page(browser, f"{service.url}?model=mnist-cvae&n=2") as page,
    ):
        page.locator(".sample-tiles li").first.wait_for()
        assert page.get_by_label("Version").input_value() == "2"
        page.get_by_label("Version").select_option("1")
        page.wait_for_url(re.compile("version=1"))
        page.locator(".sample-tiles li").first.wait_for()
        assert page.get_by_label("Version").input_value() == "1"
        page.locator(".brand").click()
        page.get_by_text("All 1 models").wait_for()
        page.locator(".card", has_text="mnist-cvae").click()
        page.locator(".sample-tiles li").first.wait_for()
        assert page.get_by_label("Version").input_value() == "2"


@pytest.mark.parametrize(
    "query",
    [
        "model=mnist-flow&view=edit&mask=~abcde",
        "model=mnist-cvae&view=edit&item=test:99",
        "model=mnist-vae-2d&view=latent&z=1,x",
    ],
)
def test_damaged_addresses_are_explained(service: Served, browser: Any, query: str) -> None:
    with opened_page(browser, f"{service.url}?{query}") as page:
        page.get_by_role("alert").first.wait_for()
        page.get_by_role("navigation", name="Views").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_first_view_is_accessible(service: Served, browser: Any, scheme: str, size: dict[str, int]) -> None:
    assert not serious(browser, service.url, "#featured", color_scheme=scheme, viewport=size)


@pytest.mark.parametrize("view", ["", "model=mnist-cvae", "view=learn", "view=compare"])
def test_nothing_is_wider_than_a_phone(service: Served, browser: Any, view: str) -> None:
    with opened_page(browser, f"{service.url}?{view}", viewport=NARROW) as page:
        page.locator("main h1").first.wait_for()
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
        assert re.search(r"\S", page.locator("main").inner_text())
