"""A real browser for tests of the page: Chromium, as Debian and other systems install it, driven by Playwright."""

from __future__ import annotations

import importlib.resources
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


@dataclass
class Problems:
    """Errors that a page reports: exceptions, and messages of the console."""

    seen: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ("Failed to load resource",)  # Chromium reports every response of status 4xx

    def watch(self, page: Any) -> None:
        page.on("pageerror", lambda error: self.seen.append(str(error)))
        page.on("console", lambda message: self._note(message))

    def _note(self, message: Any) -> None:
        if message.type == "error" and not message.text.startswith(self.expected):
            self.seen.append(message.text)


@contextmanager
def opened_browser() -> Iterator[Any]:
    """Start a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened_page(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """Open a page, and raise AssertionError at the end if it had an error."""
    problems = Problems()
    context = browser.new_context(**{"viewport": WIDE, "accept_downloads": True, **options})
    context.set_default_timeout(30_000)
    page = context.new_page()
    problems.watch(page)
    try:
        page.goto(url)
        yield page
    finally:
        context.close()
    assert not problems.seen


def wait_for_address(page: Any, **params: str | None) -> None:
    """Wait until the parameters of the address have these values (None for absent). The page changes its address after what it shows."""
    page.wait_for_function(
        """wanted => {
            const params = new URLSearchParams(location.search);
            return Object.entries(wanted).every(([name, value]) => params.get(name) === value);
        }""",
        arg=params,
    )


def serious(browser: Any, url: str, ready: str, **options: Any) -> list[str]:
    """Return what axe finds to be a serious or critical obstacle on a page, once the selector `ready` is visible."""
    script = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
    with opened_page(browser, url, bypass_csp=True, **options) as page:
        page.locator(ready).first.wait_for()
        page.wait_for_load_state("networkidle")
        page.add_script_tag(content=script)
        found: list[dict[str, Any]] = page.evaluate("axe.run().then(result => result.violations)")
    return [
        f"{rule['id']}: {json.dumps([node['html'][:120] for node in rule['nodes'][:3]])}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]
