"""Commands about the service: running it, opening its page, and making API keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manifold.cli import completion
from manifold.cli.options import ModelName


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. By default 127.0.0.1: this machine only.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port of HTTP. By default 8000.")] = None,
    grpc_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port of gRPC. By default one more than --port; 0 turns gRPC off.")] = None,
    models: Annotated[Path | None, typer.Option("--models", help="Folder that holds the models. By default models.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Number of worker processes, on CPUs. By default 1.")] = None,
) -> None:  # fmt: skip
    """Serve the models over HTTP and gRPC.

    All other settings are environment variables MANIFOLD_*, or keys of a file manifold.toml in this folder.
    """
    from manifold.service import __main__ as entry

    raise typer.Exit(entry.run(host=host, port=port, grpc_port=grpc_port, models_dir=models, workers=workers))


def open_(
    model: ModelName,
    host: Annotated[str | None, typer.Option(help="Address of the service. By default 127.0.0.1: this machine only.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of HTTP. By default 8000.")] = None,
    models: Annotated[Path | None, typer.Option("--models", help="Folder that holds the models. By default models.", is_eager=True)] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address of the page.")] = False,
) -> None:  # fmt: skip
    """Open the page of a model in a browser.

    A service is started and runs until Ctrl-C. If a Manifold service answers at the address already, its page is opened, and no service is
    started. The address of the page is printed, so that it can be opened on another machine.
    """
    from manifold.cli import opening

    address, folder = opening.configured(host, port, models)
    health = address.health()
    wanted = opening.wanted(model, folder, running=health is not None)
    if health is None:
        raise typer.Exit(opening.serve(address, wanted, not no_browser, host=host, port=port))
    opening.check_has(address, health, wanted.name)
    opening.wait(address, wanted.name)
    opening.show(address.page(wanted), not no_browser)


def key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the key: letters, digits, dots and dashes.")],
    scopes: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            help="Scope of the key: infer or admin. By default infer. Repeat it for both.",
            autocompletion=completion.scopes,
        ),
    ] = None,
    rate: Annotated[
        float,
        typer.Option(
            min=0, max=999_999, help="Requests per second that the key allows. 0 means the service's own limit."
        ),
    ] = 0,
    file: Annotated[
        Path | None,
        typer.Option(help="File of keys to add the entry to. A new file can be read by every user of this machine."),
    ] = None,
) -> None:
    """Make an API key. Print the token, which is stored nowhere, and the entry that the service needs."""
    from manifold.service import keyfile, security

    token, entry = security.create(name, scopes or ["infer"], rate)
    if file is None:
        typer.echo(token)
        typer.echo(f"entry for MANIFOLD_KEYS or a file of keys: {entry}", err=True)
        return
    mode = keyfile.add(file, entry)  # before the token is printed: a token whose entry cannot be written is useless
    typer.echo(token)
    typer.echo(f"the entry is in {file}; a running service reads it after SIGHUP or POST /admin/reload", err=True)
    if not mode & 0o004:
        typer.echo(
            f"note: {file} has the mode {mode:o}: a service that runs as another user, such as 10001 in a container, cannot read it; "
            f"run chmod 644 {file}",
            err=True,
        )
