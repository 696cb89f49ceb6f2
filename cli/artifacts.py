"""Commands about artifacts: the list of models, checks, the schema of the manifest, and the catalogue page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifold.cli import completion
from manifold.cli.options import Device, Models
from manifold.cli.outputs import check_writable
from manifold.runtime.errors import ArtifactError, ManifoldError

if TYPE_CHECKING:
    from manifold.runtime.engine import Model
    from manifold.runtime.manifest import Manifest


def load(model: str, models: Path, device: str = "cpu", threads: int = 1) -> Model:
    """Return a model, by its name in the folder `models` or by its path."""
    from manifold.runtime import engine, repository
    from manifold.runtime.graphs.backends import known_device

    return engine.load(repository.find(model, models), device=known_device(device), threads=threads)


def manifest_of(model: str, models: Path) -> Manifest:
    """Return the manifest of a model, by its name in the folder `models` or by its path. No graph is opened."""
    from manifold.runtime import manifest, repository

    return manifest.read(repository.find(model, models))


def models(
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="The same as --models.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    models: Models = Path("models"),
) -> None:
    """List the models in a folder.

    The table has the version, kind of items, data set, size and endpoints of each model, and the problems of damaged ones. Manifests and file
    sizes are read. No graph is opened; `manifold check` tests the models themselves. The exit status is 1 if a model has a problem.
    """
    import json

    from manifold.cli import listing

    found = listing.of_folder(folder or models)
    _check_any(found, folder or models)
    typer.echo(json.dumps([model.as_dict() for model in found], indent=1) if as_json else listing.to_text(found))
    if any(model.problems for model in found):
        raise typer.Exit(1)


def check(
    artifacts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="Folders NAME/VERSION, folders NAME (the latest version is checked), or names in the folder --models.",
            autocompletion=completion.artifact_names,
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Check every version of every model in the folder --models.")
    ] = False,
    seal: Annotated[
        bool,
        typer.Option(
            "--seal", help="Write the checksums of the files into the manifest, and fitted priors into a file."
        ),
    ] = False,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="File for samples of the model, a PNG for images or CSV for rows: look at it, as a check cannot see wrong colours. For one model."
        ),
    ] = None,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Check models, and report problems field by field.

    The manifest, checksums, graphs, golden vectors and batch sizes are checked. Each endpoint is called, and the items are compared with the declared
    range and with the inputs. The exit status is 1 if a model has a problem.
    """
    check_writable(sheet)
    if everything == bool(artifacts):
        raise typer.BadParameter(
            f"name the models to check, such as `manifold check {models}/my-model`, or use --all for every model in {models}, not both",
            param_hint="MODEL",
        )
    paths: list[Path]
    good = True
    if everything:
        paths, problems = _all(models)
        _check_any([*paths, *problems], models)
        for problem in problems:
            typer.echo(problem)
        good = not problems
    else:
        paths = [_named(name, models) for name in artifacts or []]
    if sheet is not None and len(paths) != 1:
        raise typer.BadParameter(f"it is for one model, but {len(paths)} are checked", param_hint="--sheet")
    results = [_check(path, device, seal, sheet) for path in paths]
    if not (good and all(results)):
        raise typer.Exit(1)


def _named(name: str, models: Path) -> Path:
    """Return the path of an artifact: the path `name` if it exists, otherwise the model of that name in the folder."""
    path = Path(name)
    return path if path.exists() or not (models / name).exists() else models / name


def _all(models: Path) -> tuple[list[Path], list[str]]:
    """Return the folders of every version of every model, and a line for each model that cannot be read."""
    from manifold.runtime import repository

    listing = repository.survey(models)
    paths = [models / name / str(version) for name, versions in listing.versions.items() for version in versions]
    return paths, [f"{models / name}:\n  {reason}" for name, reason in listing.unreadable.items()]


def _check_any(found: Sequence[object], folder: Path) -> None:
    """Raise ArtifactError if nothing was found in the folder of models."""
    if not found:
        raise ArtifactError(
            f"{folder}: contains no models; give the folder of models with --models or {completion.MODELS_VARIABLE}, or publish a model with "
            "`manifold fit` or `manifold export`"
        )


def _check(path: Path, device: str, seal: bool, sheet: Path | None = None) -> bool:
    """Check one artifact and print its problems. Return whether it has none."""
    from manifold.runtime import checks, repository
    from manifold.runtime.errors import Unavailable, reason

    problems: list[str] = []
    notes: list[str] = []
    try:
        found = checks.check(repository.locate(path), device, seal=seal)
        problems, notes, manifest = found.problems, found.notes, found.manifest
        if sheet is not None:
            notes = [*notes, _write_sheet(sheet, found.sheet)]
    except Unavailable as error:
        typer.echo(f"{path}: not checked: {error.message}")
        return True
    except ManifoldError as error:
        problems.append(error.message)
    except (OSError, MemoryError) as error:
        problems.append(reason(error))
    except ModuleNotFoundError:  # it is not about this artifact
        raise
    except Exception as error:  # the other artifacts are still checked
        known = f"{type(error).__name__}: {reason(error)}"
        problems.append(f"{known}; Manifold does not know this error: please report it")
    if problems:
        lines = [f"{path}:", *(f"  {problem}" for problem in problems)]
    else:
        lines = [f"{path}: good: {', '.join(manifest.tasks)}"]
    typer.echo(
        "\n".join([*lines, *(f"  {note}" if note.startswith("warning: ") else f"  note: {note}" for note in notes)])
    )
    return not problems


def _write_sheet(path: Path, content: bytes | None) -> str:
    """Write a sheet of samples, and return a line about it."""
    from manifold.runtime.repository import replacing

    if content is None:
        return f"{path}: not written, as the model makes no items"
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return f"{path}: samples of the model; look whether colours, polarity and orientation are right"


def schema() -> None:
    """Print the JSON schema of a model's manifest."""
    import json

    from manifold.runtime import manifest

    typer.echo(json.dumps(manifest.schema(), indent=1))


def catalogue(
    page: Annotated[
        Path, typer.Option("--page", help="The page to write, with a grid of samples for each model.")
    ] = Path("docs/models.md"),
    readme: Annotated[
        Path | None, typer.Option("--readme", help="A file whose table of models, between its marks, is also renewed.")
    ] = None,
    featured: Annotated[
        list[str] | None,
        typer.Option(
            "--featured",
            metavar="MODEL",
            help="A model in the readme's table, instead of those in featured.json; repeat for more.",
        ),
    ] = None,
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help="Add new versions of shipped models to the record published.json; refused if a published version has changed.",
        ),
    ] = False,
    add: Annotated[
        list[str] | None,
        typer.Option(
            "--add", metavar="MODEL", help="With --record, a model that is shipped from now on; repeat for more."
        ),
    ] = None,
    models: Models = Path("models"),
) -> None:
    """Write the page of the shipped models.

    It is made from their manifests. The shipped models are those in the record published.json. Without a record, they are all models in the folder.
    The list featured.json names those in the readme's table.
    """
    from manifold.evaluation import catalogue as catalogues
    from manifold.runtime import featured as features
    from manifold.runtime import repository, shipped

    if add and not record:
        raise typer.BadParameter("it has no effect without --record; give both", param_hint="--add")
    check_writable(page, readme)
    _check_any(list(repository.scan(models)), models)
    listed = features.read(models)
    if record:
        shipped.renew(models, add or ())
    for path in catalogues.write(models, page, readme, featured or listed):
        typer.echo(path)
