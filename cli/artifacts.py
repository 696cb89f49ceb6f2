"""Commands about artifacts: checking them, the schema of their manifest, the table of all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifold.cli.options import Device, Models
from manifold.cli.outputs import check_writable
from manifold.runtime.errors import ManifoldError

if TYPE_CHECKING:
    from manifold.runtime.engine import Model


def load(model: str, models: Path, device: str = "cpu", threads: int = 1) -> Model:
    """Return the model of an artifact, by its name in the folder `models` or by its path."""
    from manifold.runtime import engine, repository

    return engine.load(repository.find(model, models), device=device, threads=threads)


def check(
    artifacts: Annotated[list[Path], typer.Argument(help="Folders NAME/VERSION, or NAME for its latest version.")],
    seal: Annotated[
        bool,
        typer.Option(
            "--seal", help="Write the checksums of the files into the manifest, and fitted priors into a file."
        ),
    ] = False,
    device: Device = "auto",
) -> None:
    """Say what is wrong with an artifact, field by field: manifest, checksums, graphs, golden vectors, batch sizes."""
    good = [_check(path, device, seal) for path in artifacts]
    if not all(good):
        raise typer.Exit(1)


def _check(path: Path, device: str, seal: bool) -> bool:
    """Print what is wrong with one artifact. Return False if anything is."""
    from manifold.runtime import checks, repository
    from manifold.runtime.errors import Unavailable, reason

    problems: list[str] = []
    notes: list[str] = []
    try:
        problems, notes, manifest = checks.check(repository.locate(path), device, seal=seal)
    except Unavailable as error:
        typer.echo(f"{path}: not checked: {error.message}")
        return True
    except ManifoldError as error:
        problems.append(error.message)
    except (OSError, MemoryError) as error:
        problems.append(reason(error))
    except Exception as error:  # the other artifacts are checked all the same
        known = f"{type(error).__name__}: {reason(error)}"
        problems.append(f"{known} (a case that Manifold does not know: please report it)")
    if problems:
        lines = [f"{path}:", *(f"  {problem}" for problem in problems)]
    else:
        lines = [f"{path}: good: {', '.join(manifest.tasks)}"]
    typer.echo("\n".join([*lines, *(f"  note: {note}" for note in notes)]))
    return not problems


def schema() -> None:
    """Print the JSON schema of the manifest."""
    import json

    from manifold.runtime import manifest

    typer.echo(json.dumps(manifest.schema(), indent=1))


def catalogue(
    page: Annotated[Path, typer.Option("--page", help="The page of all artifacts, with sheets.")] = Path(
        "docs/models.md"
    ),
    readme: Annotated[
        Path | None, typer.Option("--readme", help="A file whose table, between its marks, is renewed too.")
    ] = None,
    featured: Annotated[
        list[str] | None,
        typer.Option("--featured", metavar="MODEL", help="A model in the readme's table; repeat for more."),
    ] = None,
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help="Add new versions to the record published.json; refused if a published version has changed.",
        ),
    ] = False,
    models: Models = Path("models"),
) -> None:
    """Write the table of all artifacts, from their manifests."""
    from manifold.evaluation import catalogue as catalogues
    from manifold.runtime import published

    check_writable(page, readme)
    if record:
        published.renew(models)
    for path in catalogues.write(models, page, readme, featured or ()):
        typer.echo(path)
