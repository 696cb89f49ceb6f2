"""Commands that train models and publish them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manifold.cli import completion, early
from manifold.cli.artifacts import load, manifest_of
from manifold.cli.options import Changes, DataName, Device, ModelName, Models, Preset, Quiet, RunFolder, Skip, elsewhere
from manifold.cli.outputs import check_folder
from manifold.runtime.errors import InvalidValue, command
from manifold.training import outlines

if TYPE_CHECKING:
    from manifold.runtime.manifest import Manifest


def train(
    family: Annotated[
        str, typer.Argument(metavar="FAMILY", help="Model family, such as vae, gan or pixelcnn.", autocompletion=completion.family_names)
    ],
    source: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="The same as --data.", autocompletion=completion.data_names),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set by name, a .csv, .parquet or .npy file, or a folder of images.", autocompletion=completion.data_names
        ),
    ] = None,
    preset: Preset = "cpu",
    settings: Changes = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make. By default runs/FAMILY-DATA.")] = None,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="Precision: 32-true; or bf16-mixed or 16-mixed, for a GPU.", autocompletion=completion.precisions)] = "32-true",
    devices: Annotated[int, typer.Option(min=1, max=64, help="Number of devices.")] = 1,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Folder of images: size that the images are resized to.")
    ] = None,
    colour: Annotated[str | None, typer.Option(help="Folder of images: grey or rgb. By default grey if no file has colour.")] = None,
    background: Annotated[
        str | None, typer.Option(help="Folder of images: background from 0 (black) to 1 (white), or none. By default it is found from the files.")
    ] = None,
    invert: Annotated[
        bool, typer.Option("--invert", help="Folder of images: invert images whose border is closer to the opposite of the background.")
    ] = False,
    labels: Annotated[
        str | None, typer.Option(metavar="CSV", help="Folder of images: file with the columns file, label, split. By default labels.csv, if the folder has it.")
    ] = None,
    skip_unreadable: Skip = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Train a model on a data set. The result is a run folder.

    A run can be stopped with Ctrl-C and continued with `manifold resume`; `manifold export` publishes it.
    """
    if (source is None) == (data is None):
        raise typer.BadParameter("give one data set, as an argument or with --data", param_hint="DATA")
    name = source or data or ""
    early.check_device(device, precision)
    early.check_recipe(family, preset, settings or [])
    early.check_data(name)
    outlines.check_data(family, name, settings or [])
    if out is not None:
        early.check_run(out, f"`{command('resume', out)}` continues it, --out names another folder")
        check_folder(out)

    from manifold.runtime.kinds.table import TableSpec
    from manifold.runtime.tables import described
    from manifold.training import datasets, families, runs
    from manifold.training import train as loop
    from manifold.training.data import reading

    stated = {"size": size, "colour": colour, "background": background, "invert": invert, "labels": labels}
    named = datasets.stated(name, {**stated, "skip": skip_unreadable})
    config = configuration(families.get(family), preset, settings)
    run = runs.TrainingRun(out or Path("runs") / f"{family}-{datasets.short(named)}", family, named, preset, config)
    loop.check_new(run)
    check_folder(run.folder)
    loop.fabric_of(device, devices, precision)  # before the data set is downloaded
    loaded = datasets.load(named)
    if named in datasets.names() and Path(named).is_dir():
        typer.echo(
            f"note: {named} is the data set of this name; to use the folder of the same name, write ./{named}", err=True
        )
    for note in loaded.notes:
        typer.echo(f"note: {note}", err=True)
    if Path(named).suffix.lower() in reading.SUFFIXES:
        for column in described.describe(TableSpec.of(loaded.spec, named)):
            typer.echo(f"column {column}")
    folder = loop.train(run, loaded, device=device, precision=precision, devices=devices, quiet=quiet)
    if loop.is_first_process():
        typer.echo(f"{folder}: done; next: {command('export', folder, '--name', 'NAME')}")


def configuration(family: Any, preset: str, settings: list[str] | None) -> Any:
    """Return the preset of a family with the changes of --set, whose names were checked. Raises TrainingError for invalid values."""
    from manifold.training import recipes

    return recipes.changed_preset(family.Config, family.PRESETS[preset], settings or [])


def resume(
    run: RunFolder,
    device: Device = "auto",
    precision: Annotated[
        str, typer.Option(help="Precision that the run was started with.", autocompletion=completion.precisions)
    ] = "32-true",
    quiet: Quiet = False,
) -> None:
    """Continue a run from its last checkpoint.

    On a CPU, the result is the same, bit for bit, as that of a run that was not stopped.
    """
    early.check_device(device, precision)

    from manifold.training import runs
    from manifold.training import train as loop

    opened, before = runs.open_run(run), _changed(run)
    folder = loop.train(opened, resume=True, device=device, precision=precision, quiet=quiet)
    done = "done" if _changed(run) != before else "this run was finished already, so nothing was trained"
    typer.echo(f"{folder}: {done}; next: {command('export', folder, '--name', opened.name or 'NAME')}")


def _changed(run: Path) -> int | None:
    """Return when the checkpoint of a run was last written, in nanoseconds. None if there is none."""
    path = run / outlines.CHECKPOINT
    return path.stat().st_mtime_ns if path.exists() else None


def export(
    run: RunFolder,
    name: Annotated[str, typer.Option(help="Name of the model to publish.")],
    models: Models = Path("models"),
    format_: Annotated[
        str,
        typer.Option("--format", help="Format of the graphs: onnx or torchscript.", autocompletion=completion.formats),
    ] = "onnx",
    decay: Annotated[
        float | None,
        typer.Option(
            help="Decay of the moving average to publish, if the run has two. By default the one that the run has chosen."
        ),
    ] = None,
    description: Annotated[str, typer.Option(help="Description in one line. By default it is made from the run.")] = "",
    quiet: Quiet = False,
) -> None:
    """Publish a run as a model that can be served.

    The exported graphs are compared with PyTorch first. If their outputs differ, nothing is published.
    """
    early.check_choice("format", format_, outlines.FORMATS)
    outlines.check_name(name)

    from manifold.training import export as exporting
    from manifold.training import runs

    trained = runs.open_run(run)
    folder = exporting.export(
        trained, name, models, backend=format_, description=description, decay=decay, tell=teller(quiet)
    )
    typer.echo(folder)
    if runs.TABLE in runs.read_config(run):
        judge = command("judge", name, *elsewhere(models), "--data", trained.data, "--record", "--html", f"{name}.html")
        typer.echo(f"note: for the report of the score: {judge}", err=True)


def teller(quiet: bool) -> Callable[[str], None]:
    """Return a function that prints the steps of an export on stderr, or nothing if `quiet`."""

    def tell(text: str) -> None:
        if not quiet:
            typer.echo(f"export: {text}", err=True)

    return tell


def fit_priors(
    model: ModelName,
    data: DataName = None,
    models: Models = Path("models"),
) -> None:
    """Fit priors to the latents of the training data.

    A Gaussian and a mixture of Gaussians are added as priors, and the one with the highest density at held-out items becomes the default. The
    result is the next version of the model. `manifold export` does this by itself.
    """
    if data is not None:
        early.check_data(data)
    manifest = manifest_of(model, models)
    if data is not None:
        outlines.check_items(data, manifest.spec.noun, "data")

    from manifold.training import datasets
    from manifold.training.exporting import later_priors, priors

    priors.check_can(manifest)
    loaded = load(model, models)
    items = datasets.load_like(data or loaded.manifest.data_name or "", loaded.manifest.spec)
    typer.echo(later_priors.add_to_artifact(loaded, items, models))


def add_page(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="Models: names in the folder --models, NAME/VERSION, or paths.",
            autocompletion=completion.artifact_names,
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set, .csv, .parquet or .npy file, or folder of images. By default the data that the model was trained on.",
            autocompletion=completion.data_names,
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", help="Folder of the run that the model was exported from, for curves and samples by epoch."
        ),
    ] = None,
    models: Models = Path("models"),
) -> None:
    """Add the files of the page to a published model.

    They are latents of test items, and a sheet of test items with their reconstructions, or of samples. With --run, the losses and the samples
    by epoch are added, too. The result is the next version of the model. `manifold export` does this by itself.
    """
    if run is not None and len(names) > 1:
        raise typer.BadParameter("it is the run of one model; name one model", param_hint="--run")
    if data is not None:
        early.check_data(data)
    manifests = {name: manifest_of(name, models) for name in dict.fromkeys(names)}
    for manifest in manifests.values():
        _check_data(manifest, data)

    from manifold.runtime import repository
    from manifold.training import judging, runs
    from manifold.training.exporting import later_page

    trained = None if run is None else runs.open_run(run)
    folders = {name: repository.find(name, models) for name in manifests}
    lacking = {name: later_page.lacking(folders[name], manifest) for name, manifest in manifests.items()}
    if trained is not None:
        later_page.check_run(trained, manifests[names[0]])
    for name, folder in folders.items():
        made = folder
        if lacking[name] or trained is not None:
            model = load(name, models)
            made = later_page.add_to_artifact(model, judging.data_of(model, data), models, trained)
        typer.echo(made)
        if made == folder:
            typer.echo(f"note: {name} has all files of its page already; no version was published", err=True)


def _check_data(manifest: Manifest, data: str | None) -> None:
    """Raise an error if the data for the page of a model are not known, or have other items."""
    if data is not None:
        outlines.check_items(data, manifest.spec.noun, "--data")
    elif manifest.data_name is None:
        raise InvalidValue(
            f"data: the manifest of {manifest.name} does not state its data set; give it with --data", field="data"
        )


def inception(
    weights: Annotated[
        Path | None,
        typer.Option(help="File pt_inception-2015-12-05-6726825d.pth. By default it is downloaded."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the model to publish.")] = "inception-v3",
    models: Models = Path("models"),
) -> None:
    """Make the Inception v3 extractor of published FIDs.

    The weights are checked against their published hash.
    """
    outlines.check_name(name)

    from manifold.runtime import repository
    from manifold.training import inception as network

    check_folder(models)
    path = network.weights_file(weights)
    extractor = network.build(network.read_weights(path))
    typer.echo(network.publish(extractor, models, name, repository.digest(path).sha256))
