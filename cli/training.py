"""Commands that train model families and publish what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from manifold.cli.artifacts import load
from manifold.cli.options import Changes, DataName, Device, ModelName, Models, Preset, Quiet, RunFolder, Skip
from manifold.runtime.errors import InvalidValue


def train(
    family: Annotated[str, typer.Argument(help="A file of training/families, such as vae or pixelcnn.")],
    source: Annotated[str | None, typer.Argument(metavar="DATA", help="The same as --data.")] = None,
    data: Annotated[
        str | None, typer.Option(help="A data set by name, a .csv or .parquet file, or a folder of images.")
    ] = None,
    preset: Preset = "cpu",
    settings: Changes = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/FAMILY-DATA where left out.")] = None,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="32-true, or bf16-mixed on a GPU.")] = "32-true",
    devices: Annotated[int, typer.Option(min=1, max=64, help="How many devices.")] = 1,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Of a folder: the size that its images are brought to.")
    ] = None,
    colour: Annotated[str | None, typer.Option(help="Of a folder: grey or rgb; grey if no file has colour.")] = None,
    background: Annotated[
        str | None, typer.Option(help="Of a folder: 0 (black) to 1 (white), or none; found from the files.")
    ] = None,
    invert: Annotated[
        bool, typer.Option("--invert", help="Of a folder: invert images whose border is nearer to the opposite of the background.")
    ] = False,
    labels: Annotated[
        str | None, typer.Option(metavar="CSV", help="Of a folder: a file with columns file, label, split; labels.csv if it is there.")
    ] = None,
    skip_unreadable: Skip = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Train a model family on a data set; makes a run folder."""
    from manifold.runtime.kinds.table import TableSpec
    from manifold.runtime.tables import described
    from manifold.training import datasets, families, runs
    from manifold.training import train as loop
    from manifold.training.data import reading

    if (source is None) == (data is None):
        raise InvalidValue("data: give a data set, as an argument or by --data", field="data")
    stated = {"size": size, "colour": colour, "background": background, "invert": invert, "labels": labels}
    named = datasets.stated(source or data or "", {**stated, "skip": skip_unreadable})
    config = configuration(families.get(family), preset, settings)
    run = runs.TrainingRun(out or Path("runs") / f"{family}-{datasets.short(named)}", family, named, preset, config)
    loaded = datasets.load(named)
    if named in datasets.names() and Path(named).is_dir():
        typer.echo(f"note: {named} is the data set of that name; the folder is ./{named}", err=True)
    for note in loaded.notes:
        typer.echo(f"note: {note}", err=True)
    if Path(named).suffix.lower() in reading.SUFFIXES:
        for column in described.describe(TableSpec.of(loaded.spec, named)):
            typer.echo(f"column {column}")
    folder = loop.train(run, loaded, device=device, precision=precision, devices=devices, quiet=quiet)
    typer.echo(f"{folder}: done; next: manifold export {folder} --name NAME")


def configuration(family: Any, preset: str, settings: list[str] | None) -> Any:
    """Return a family's preset with the changes of --set. Raises InvalidValue for an unknown preset, TrainingError for unknown keys."""
    from manifold.training import recipes

    if preset not in family.PRESETS:
        valid = list(family.PRESETS)
        raise InvalidValue(f"preset: unknown {preset!r}; valid are {', '.join(valid)}", field="preset", valid=valid)
    changes = recipes.parse_overrides(family.Config, settings or [])
    return family.Config.model_validate({**family.PRESETS[preset], **changes})


def resume(
    run: RunFolder,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="As it was started.")] = "32-true",
    quiet: Quiet = False,
) -> None:
    """Go on with a run where it stopped, exactly."""
    from manifold.training import runs
    from manifold.training import train as loop

    typer.echo(f"{loop.train(runs.open_run(run), resume=True, device=device, precision=precision, quiet=quiet)}: done")


def export(
    run: RunFolder,
    name: Annotated[str, typer.Option(help="Name of the artifact.")],
    models: Models = Path("models"),
    format_: Annotated[str, typer.Option("--format", help="onnx or torchscript.")] = "onnx",
    description: Annotated[str, typer.Option(help="One line; made from the run where left out.")] = "",
) -> None:
    """Publish a run as an artifact that the service loads, once it has proved equal to torch."""
    from manifold.training import export as exporting
    from manifold.training import runs

    typer.echo(exporting.export(runs.open_run(run), name, models, backend=format_, description=description))


def fit_priors(
    model: ModelName,
    data: DataName = None,
    models: Models = Path("models"),
) -> None:
    """Publish the next version of an artifact with a Gaussian and a mixture as further priors. `export` fits them by itself.

    The priors are fitted to the latent positions of the training items. The default prior is the one with the highest density at held-out items.
    """
    from manifold.training import datasets
    from manifold.training.exporting import later_priors

    loaded = load(model, models)
    items = datasets.load_like(data or loaded.manifest.data_name or "", loaded.manifest.spec)
    typer.echo(later_priors.add_to_artifact(loaded, items, models))


def inception(
    weights: Annotated[
        Path | None, typer.Option(help="pt_inception-2015-12-05-6726825d.pth; downloaded where left out.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the artifact.")] = "inception-v3",
    models: Models = Path("models"),
) -> None:
    """Make the extractor of published FIDs from its weights, which are checked against their published hash."""
    from manifold.runtime import repository
    from manifold.training import inception as network

    path = network.weights_file(weights)
    extractor = network.build(network.read_weights(path))
    typer.echo(network.publish(extractor, models, name, repository.digest(path).sha256))
