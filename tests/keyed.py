"""A service that requires API keys."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from manifold.service import security
from manifold.service.http.app import create_app
from manifold.service.settings import Settings

TOKEN, KEY = security.create("shop", ["infer"])
ADMIN_TOKEN, ADMIN = security.create("ops", ["infer", "admin"])


def id_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()[:8]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def app_with(root: Path, **options: Any) -> TestClient:
    """Return a client of the service with one small model and both keys."""
    options = {"auth": "on", "keys": f"{KEY} {ADMIN}", "default_model": "foreign", **options}
    settings = Settings(models_dir=root, device="cpu", **options)
    return TestClient(create_app(settings), raise_server_exceptions=False)
