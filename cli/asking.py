"""The command that answers one request of any endpoint, without a server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from manifold.cli.options import Device, Models


def ask(
    endpoint: Annotated[str, typer.Argument(help="An endpoint of the service, such as encode or anomaly-score.")],
    request: Annotated[str, typer.Argument(help="Its request as JSON, @FILE, or - for standard input.")] = "{}",
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Print the answer of an endpoint to one request, as the service would give it, without a server."""
    from manifold.runtime import texts
    from manifold.runtime.errors import Malformed
    from manifold.service.core import local

    content: bytes | str = request
    if request == "-":
        content = sys.stdin.buffer.read()
    elif request.startswith("@"):
        content = Path(request[1:]).read_bytes()
    fields = texts.json_of(content, "request")
    if not isinstance(fields, dict):
        raise Malformed("request: a JSON object is needed", field="request")
    typer.echo(local.answer(endpoint, fields, models, device).decode())
