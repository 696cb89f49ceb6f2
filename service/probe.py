"""`python -m service.probe`: is the service of this machine ready? Status 0 or 1, for a container's health check.

Asks the port of the settings. Nothing of the service is imported, as this runs every few seconds.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys

from service import settings as settings_module

SECONDS = 3


def main() -> int:
    """Prints why not."""
    settings = settings_module.read()
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    connection: http.client.HTTPConnection
    if settings.tls_certificate:
        # its own name is not in question here, nor who signed it
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(host, settings.port, timeout=SECONDS, context=context)
    else:
        connection = http.client.HTTPConnection(host, settings.port, timeout=SECONDS)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        body = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(f"{host}:{settings.port}: {error}")
        return 1
    if answer.status != 200:
        print(body.get("reason"))
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
