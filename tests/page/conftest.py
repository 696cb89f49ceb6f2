"""Fixtures of the page's tests: a service with some shipped models, and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import SHIPPED
from tests.page import browser as browsers
from tests.served import Served, served

MODELS = (
    "mnist-vae-2d",
    "mnist-autoencoder",
    "mnist-cvae",
    "mnist-flow",
    "mnist-vqvae",
    "mnist-classifier",
    "transactions-vae",
    "nslkdd-cvae",
)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Start a service with models for every view."""
    root = tmp_path_factory.mktemp("models")
    for name in MODELS:
        (root / name).symlink_to(SHIPPED / name)
    (root / "featured.json").write_text('["mnist-flow", "mnist-cvae"]')
    with served(root) as service:
        yield service


@pytest.fixture(scope="module")  # Playwright occupies the event loop of the thread, which tests of other modules need
def browser() -> Iterator[Any]:
    with browsers.opened_browser() as browser:
        yield browser
