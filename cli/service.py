"""Commands about the service: running it, and making API keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    host: Annotated[str | None, typer.Option(help="127.0.0.1 where left out.")] = None,
    port: Annotated[int | None, typer.Option(help="8000 where left out.")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="The port after that where left out; 0 is off.")] = None,
    models: Annotated[Path | None, typer.Option("--models", help="Folder of artifacts.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that serve as one, on CPUs; 1 where left out.")] = None,
) -> None:
    """Serve the models over HTTP and gRPC. All other settings are MANIFOLD_* variables or manifold.toml."""
    from manifold.service import settings
    from manifold.service.server import run

    run(settings.read(host=host, port=port, grpc_port=grpc_port, models_dir=models, workers=workers))


def key(
    name: Annotated[str, typer.Argument(help="Whose key it is: letters, digits, dots, dashes.")],
    scopes: Annotated[
        list[str] | None, typer.Option("--scope", help="infer (where left out) or admin; repeat for both.")
    ] = None,
    rate: Annotated[float, typer.Option(min=0, help="Requests/s; 0 leaves it to the service.")] = 0,
    file: Annotated[
        Path | None,
        typer.Option(help="A file of keys to add it to; a new one may be read by every user of the machine."),
    ] = None,
) -> None:
    """Make an API key: the token, which is kept nowhere, and the entry by which the service knows it."""
    from manifold.service import keyfile, security

    token, entry = security.create(name, scopes or ["infer"], rate)
    if file is None:
        typer.echo(token)
        typer.echo(f"entry, for MANIFOLD_KEYS or a file of keys: {entry}", err=True)
        return
    mode = keyfile.add(file, entry)  # before the token is printed: a token whose entry cannot be written is of no use
    typer.echo(token)
    typer.echo(f"its entry is in {file}; tell a running service by SIGHUP or POST /admin/reload", err=True)
    if not mode & 0o004:
        typer.echo(
            f"note: {file} has the mode {mode:o}; a service that runs as another user, such as the container's 10001, cannot read it: "
            f"chmod 644 {file}",
            err=True,
        )
