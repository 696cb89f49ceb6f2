"""`python -m manifold.service.probe`: is the service of this machine ready? Status 0 or 1, for a container's health check.

Runs every few seconds, so it imports next to nothing: the three settings that it needs are read as service.settings reads them.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import sys
import tomllib
from pathlib import Path

SECONDS = 3
DEFAULTS = {"host": "127.0.0.1", "port": "8000", "tls_certificate": ""}
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def listener_settings() -> dict[str, str]:
    """Return the settings of the service's listener: from the environment, else from manifold.toml."""
    file = Path("manifold.toml")
    written = tomllib.loads(file.read_text()) if file.exists() else {}
    return {
        name: os.environ.get(f"MANIFOLD_{name.upper()}") or str(written.get(name, default))
        for name, default in DEFAULTS.items()
    }


def main() -> int:
    """Prints why not."""
    settings = listener_settings()
    host, port = ANYWHERE.get(settings["host"], settings["host"]), int(settings["port"])
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    if settings["tls_certificate"]:  # neither its name nor who signed it is in question here
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(host, port, timeout=SECONDS, context=context)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        reason = json.loads(answer.read()).get("reason")
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(f"{host}:{port}: {error}")
        return 1
    if answer.status != 200:
        print(reason)
    return int(answer.status != 200)


if __name__ == "__main__":
    sys.exit(main())
