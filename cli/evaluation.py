"""Commands that evaluate models, and images of any origin, against real images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manifold.cli import completion, early
from manifold.cli.options import (
    AsJson,
    Count,
    DataName,
    Device,
    ExtractorName,
    Html,
    JsonFile,
    ModelName,
    Models,
    NeededExtractor,
    Prior,
    Quiet,
    Resize,
    Seed,
)
from manifold.cli.outputs import check_recordable, check_suffix, check_writable, write
from manifold.runtime.errors import InvalidValue, shown

if TYPE_CHECKING:
    from manifold.evaluation.images import RealData
    from manifold.evaluation.report import Pictures
    from manifold.evaluation.session import Session


def evaluate(
    model: ModelName,
    data: DataName = None,
    n: Count = 10_000,
    seed: Seed = 0,
    prior: Prior = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Reference statistics (.npz) instead of the test split of the data set. `shipped` means those of the extractor."
        ),
    ] = None,
    extractor: ExtractorName = None,
    resize: Resize = "none",
    as_json: AsJson = False,
    html: Html = None,
    out: JsonFile = None,
    part: Annotated[
        str | None,
        typer.Option(
            help="Split of the data set: test, or selection, to choose between models without the test split. By default test."
        ),
    ] = None,
    record: Annotated[bool, typer.Option("--record", help="Write the numbers into the manifest of the model.")] = False,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Number of steps of a sampler. By default that of the model.")
    ] = None,
    guidance: Annotated[float | None, typer.Option(help="Strength of the class. By default that of the model.")] = None,
    quiet: Quiet = False,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Evaluate a model of images.

    The report has distances to real images, Inception Scores, likelihood and reconstruction error, with the values of real images for
    comparison.
    """
    if data is not None:
        early.check_images(data, "data")
    if part is not None and against is not None:
        raise InvalidValue(
            f"--part: the model is measured against {shown(str(against))} and not against a split; remove one of the two options",
            field="part",
        )
    if record and part not in (None, "test"):
        raise InvalidValue(
            f"--record: a manifest states figures of the test split, and these are those of {shown(part)}; remove one of the two options",
            field="record",
        )
    numbers = {name: value for name, value in {"steps": steps, "guidance": guidance}.items() if value is not None}
    if record and numbers:
        raise InvalidValue(
            f"--record: a manifest states figures of the default {' and '.join(numbers)}; remove one of the two options",
            field="record",
        )
    check_writable(out, html, makes_folders=True)

    from manifold.evaluation import recording

    if record:
        check_recordable(model, models)
    session = _session(models, n, seed, extractor, resize, device, quiet)
    report, pictures, folder = session.evaluate(
        model, _read_by(data, model, models), prior=prior, against=against, part=part or "test", numbers=numbers
    )
    if record:
        recording.record(folder, report)
    _show(report, pictures, as_json, html, out)


def compare(
    models_: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="Models, or JSON files of `manifold evaluate`. NAME:PRIOR chooses a prior.",
            autocompletion=completion.compared_names,
        ),
    ],
    data: DataName = None,
    n: Count = 10_000,
    seed: Seed = 0,
    extractor: ExtractorName = None,
    resize: Resize = "none",
    as_json: AsJson = False,
    quiet: Quiet = False,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Rank models of one data set by KID.

    The table also has the values of real images. Numbers that a manifest records for the same protocol are not measured again.
    """
    import json

    if data is not None:
        early.check_images(data, "data")

    from manifold.evaluation import comparison

    for name in sorted({each for each in models_ if models_.count(each) > 1}):
        typer.echo(f"note: {shown(name)} is given {models_.count(name)} times; it is compared once", err=True)
    session = _session(models, n, seed, extractor, resize, device, quiet)
    reports = session.compare(models_, lambda name: _read_by(data, name, models))
    typer.echo(json.dumps(reports, indent=1) if as_json else comparison.to_markdown(reports))


def evaluate_images(
    images: Annotated[
        Path, typer.Argument(metavar="IMAGES", help="Folder of PNG, JPEG or WebP files, or a .npy or .npz file.")
    ],
    against: Annotated[
        Path, typer.Option(help="Real images in the same forms, or their statistics: an .npz with mu and sigma.")
    ],
    extractor: NeededExtractor,
    resize: Resize = "none",
    seed: Seed = 0,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Skip image files that cannot be read, and list them.")
    ] = False,
    as_json: AsJson = False,
    html: Html = None,
    out: JsonFile = None,
    quiet: Quiet = False,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Evaluate a folder of images against real ones.

    The images may come from any program.
    """
    check_writable(out, html, makes_folders=True)
    session = _session(models, 0, seed, extractor, resize, device, quiet)
    report, pictures = session.evaluate_images(images, against, skip=skip_unreadable)
    _show(report, pictures, as_json, html, out)


def reference(
    extractor: NeededExtractor,
    path: Annotated[
        Path | None, typer.Argument(metavar="IMAGES", help="Folder or array of images instead of a data set.")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write, .npz.")] = None,
    data: DataName = None,
    images: Annotated[Path | None, typer.Option(help="The same as the argument IMAGES.")] = None,
    part: Annotated[
        str | None, typer.Option(help="Split of the data set: test, selection, calibration or train. By default test.")
    ] = None,
    ship: Annotated[
        bool, typer.Option("--ship", help="Write the statistics into the folder of the extractor, as reference.npz.")
    ] = False,
    resize: Resize = "none",
    skip_unreadable: Annotated[
        bool,
        typer.Option("--skip-unreadable", help="Skip image files of a folder that cannot be read, and list them."),
    ] = False,
    quiet: Quiet = False,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Write reference statistics of real images.

    The file has mu and sigma in the format of pytorch-fid. A second file beside it records where they come from.
    """
    if sum(given is not None for given in (path, data, images)) > 1:
        raise InvalidValue("data: several sources are given; give one of IMAGES, --images and --data", field="data")
    if (out is None) == (not ship):
        raise typer.BadParameter("give either --out FILE.npz or --ship", param_hint="--out")
    if data is not None:
        early.check_images(data, "data")
    source = path or images
    if source is not None and part is not None:
        raise InvalidValue(
            f"--part: this option is for data sets, and all images of {source} are used; remove the option",
            field="part",
        )
    if skip_unreadable and (source is None or not source.is_dir()):
        raise InvalidValue(
            "--skip-unreadable: this option is for folders of images; remove the option", field="skip_unreadable"
        )
    check_writable(out)
    check_suffix(out, "statistics", ".npz")
    session = _session(models, 0, 0, extractor, resize, device, quiet)

    def warn(text: str) -> None:
        typer.echo(f"warning: {text}", err=True)

    typer.echo(session.write_reference(out, data, source, part or "test", skip=skip_unreadable, warn=warn))


def disentangle(
    model: ModelName,
    data: DataName = None,
    item: Annotated[int, typer.Option(help="Index of the test image whose latent is varied.")] = 0,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="PNG to write, with one row of images for each active dimension.")
    ] = None,
    as_json: AsJson = False,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Measure which factors the latent dimensions hold.

    The figures are the number of active dimensions and, if the factors of the data set are known, MIG and DCI. With --out, the command also
    draws how the images change along each active dimension.
    """
    import json

    if data is not None:
        early.check_images(data, "data")
    check_writable(out, makes_folders=True)
    check_suffix(out, "traversals", ".png")

    from manifold.evaluation import disentanglement

    session = _session(models, 0, 0, None, "none", device, True)
    figures, picture = session.disentangle(model, _read_by(data, model, models), item)
    if out is not None:
        write(out, picture)
    typer.echo(json.dumps(figures, indent=1) if as_json else disentanglement.to_markdown(figures))


def _session(models: Path, n: int, seed: int, extractor: str | None, resize: str, device: str, quiet: bool) -> Session:
    """Return the session that the evaluations of one command share."""
    from manifold.evaluation.session import Session, SessionOptions

    return Session(models, SessionOptions(n, seed, extractor, resize, device), _real_data, quiet)


def _read_by(data: str | None, model: str, models: Path) -> str | None:
    """Return the name of a data set for a model. Images of a folder are read in the format that the model needs."""
    if data is None or model.endswith(".json"):
        return data
    from manifold.runtime import manifest, repository
    from manifold.training import datasets

    return datasets.like(data, manifest.read(repository.find(model.partition(":")[0], models)).spec)


def _real_data(name: str) -> RealData:
    """Return a data set by name. The evaluator does not import the training package, which takes time to import."""
    from manifold.training import judging

    return judging.real_data(name)


def _show(report: dict[str, Any], pictures: Pictures, as_json: bool, html: Path | None, out: Path | None) -> None:
    """Write a report to the requested files, and print it."""
    from manifold.evaluation import markdown, report_page
    from manifold.evaluation.report import to_json

    if out is not None:
        write(out, to_json(report).encode())
    if html is not None:
        write(html, report_page.to_html(report, pictures).encode())
    typer.echo(to_json(report) if as_json else markdown.of_report(report), nl=False)
