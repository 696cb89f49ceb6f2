"""The command `python -m manifold.service.probe`, for a container's health check. Its status is 0 if the service of this machine is ready, otherwise 1.

It runs every few seconds and therefore imports almost nothing. It reads the three settings that it needs as service.settings does.
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
    """Return the settings of the service's listener from the environment, otherwise from manifold.toml."""
    file = Path("manifold.toml")
    written = tomllib.loads(file.read_text()) if file.exists() else {}
    return {
        name: os.environ.get(f"MANIFOLD_{name.upper()}") or str(written.get(name, default))
        for name, default in DEFAULTS.items()
    }


def main() -> int:
    """Print whether the service is ready, with the reason if it is not. Return the exit status."""
    settings = listener_settings()
    host, port = ANYWHERE.get(settings["host"], settings["host"]), int(settings["port"])
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    if settings["tls_certificate"]:  # the name and the issuer of the certificate do not matter for a probe
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
        print(f"{host}:{port}: not ready: {reason}")
    else:
        print(f"{host}:{port}: ready")
    return int(answer.status != 200)


if __name__ == "__main__":
    sys.exit(main())
