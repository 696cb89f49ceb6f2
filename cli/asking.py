"""The command that answers one request to an endpoint, without a server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from manifold.cli import completion
from manifold.cli.options import Device, Models


def ask(
    endpoint: Annotated[
        str,
        typer.Argument(
            metavar="ENDPOINT",
            help="Endpoint of the service, such as encode or anomaly-score.",
            autocompletion=completion.endpoints,
        ),
    ],
    request: Annotated[
        str, typer.Argument(metavar="REQUEST", help="Request as JSON, @FILE, or - for standard input.")
    ] = "{}",
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Answer one request to an endpoint, without a server.

    The answer is the one that the service gives.
    """
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
        raise Malformed('request: not a JSON object; write it as \'{"model": "mnist-vae", "n": 2}\'', field="request")
    typer.echo(local.answer(endpoint, fields, models, device).decode())
