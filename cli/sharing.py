"""Commands that copy models to and from other places: folders of models, and repositories of the Hugging Face Hub."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from manifold.cli.options import ModelName, Models, Quiet, elsewhere
from manifold.cli.outputs import check_folder
from manifold.runtime.errors import command

MIB = 2**20


def push(
    model: ModelName,
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="Folder of models, or hf://OWNER/REPO[/SUBFOLDER][@REVISION]."),
    ],
    as_next: Annotated[
        bool,
        typer.Option("--next", help="Push it as the next version at the target, instead of under its own number."),
    ] = False,
    public: Annotated[
        bool,
        typer.Option("--public", help="If the repository must be made, make it public. By default it is private."),
    ] = False,
    licence: Annotated[
        str | None,
        typer.Option(
            "--license",
            help="Licence of the model for the card, as an identifier of the Hub such as apache-2.0. By default it is read from the manifest.",
        ),
    ] = None,
    replace_card: Annotated[
        bool, typer.Option("--replace-card", help="Replace a README.md that was not made by this command.")
    ] = False,
    quiet: Quiet = False,
    models: Models = Path("models"),
) -> None:
    """Copy a model to a folder or a Hugging Face repository.

    All checksums are verified first, and a model without checksums is refused. In a folder of models, the model is written to TARGET/NAME/VERSION, and in a
    repository to VERSION. A model card, README.md, is written beside the versions. A version that exists with other content is never replaced.

    Repositories need the extra `hub`. The token is that of `hf auth login`, or of the environment variable HF_TOKEN.
    """
    from manifold.runtime import repository
    from manifold.runtime.sharing import addresses, pushing

    place = addresses.read(target, "target")
    if isinstance(place, Path):
        check_folder(place)
    wishes = pushing.Wishes(renumber=as_next, private=not public, license=licence, replace_card=replace_card)
    _set_bars(place, quiet)
    done = pushing.push(repository.find(model, models), place, wishes, _teller("push", quiet))
    typer.echo(done.place)
    for note in ("this version is there already", *done.notes)[0 if done.there else 1 :]:
        typer.echo(f"note: {note}", err=True)


def pull(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Artifact, folder of a model with its versions, folder of models with one model, or hf://OWNER/REPO[/SUBFOLDER][@REVISION].",
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Name that the model gets. By default it keeps its own.")] = None,
    as_next: Annotated[
        bool,
        typer.Option(
            "--next", help="Pull it as the next version of the model in the folder, instead of under its own number."
        ),
    ] = False,
    show: Annotated[
        bool, typer.Option("--list", help="Only list the versions at the source, with the size of their files.")
    ] = False,
    quiet: Quiet = False,
    models: Models = Path("models"),
) -> None:
    """Copy a model from a folder or a Hugging Face repository.

    It is copied into the folder --models. The latest version is copied; name another one as SOURCE/VERSION. Every file is compared with its
    checksum in the manifest, and files that the manifest does not list are left out. No file is executed or unpickled. If the command fails, nothing
    is left behind.

    Repositories need the extra `hub`. The token is that of `hf auth login`, or of the environment variable HF_TOKEN.
    """
    from manifold.runtime.sharing import addresses, pulling, sources
    from manifold.training import outlines

    if name is not None:
        outlines.check_name(name)
    place = addresses.read(source, "source")
    if show:
        lines = [f"{address}  {size / MIB:.1f} MiB" for address, size in sources.addresses(pulling.open_source(place))]
        typer.echo("\n".join(lines) if lines else f"{source}: contains no artifact")
        return
    check_folder(models)
    _set_bars(place, quiet)
    done = pulling.pull(pulling.open_source(place), models, name=name, renumber=as_next, tell=_teller("pull", quiet))
    typer.echo(done.folder)
    for note in ("this version is there already", *done.notes)[0 if done.there else 1 :]:
        typer.echo(f"note: {note}", err=True)
    if not done.there:
        model = f"{done.folder.parent.name}/{done.folder.name}"
        typer.echo(f"note: to run its tests on this machine: {command('check', model, *elsewhere(models))}", err=True)


def _teller(name: str, quiet: bool) -> Callable[[str], None]:
    """Return a function that prints the steps of a command on stderr, or nothing if `quiet`."""

    def tell(text: str) -> None:
        if not quiet:
            typer.echo(f"{name}: {text}", err=True)

    return tell


def _set_bars(place: object, quiet: bool) -> None:
    """Switch the progress bars of huggingface_hub off if `quiet`, or if stderr is not a terminal."""
    if not isinstance(place, Path) and (quiet or not sys.stderr.isatty()):
        from huggingface_hub import utils

        utils.disable_progress_bars()
