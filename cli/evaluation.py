"""Commands that judge models and images against real images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from manifold.runtime.errors import InvalidValue

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
            help="Statistics (.npz) instead of the data's test part; `shipped`: those of the extractor's artifact."
        ),
    ] = None,
    extractor: ExtractorName = None,
    resize: Resize = "none",
    as_json: AsJson = False,
    html: Html = None,
    out: JsonFile = None,
    record: Annotated[bool, typer.Option("--record", help="Write the numbers into the artifact's manifest.")] = False,
    quiet: Quiet = False,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Judge a model: distances to real images, scores, likelihood, reconstructions, beside what real images score."""
    from manifold.evaluation import recording

    check_writable(out, html, makes_folders=True)
    if record:
        check_recordable(model, models)
    session = _session(models, n, seed, extractor, resize, device, quiet)
    report, pictures, folder = session.evaluate(model, _read_by(data, model, models), prior=prior, against=against)
    if record:
        recording.record(folder, report)
    _show(report, pictures, as_json, html, out)


def compare(
    models_: Annotated[
        list[str],
        typer.Argument(
            metavar="A B ...", help="Artifacts, or JSON files of `manifold evaluate`. NAME:PRIOR picks a prior."
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
    """Rank models by KID, beside real images. What is recorded under the same protocol is not measured again."""
    import json

    from manifold.evaluation import comparison

    session = _session(models, n, seed, extractor, resize, device, quiet)
    reports = comparison.ranked([session.known_or_evaluated(name, _read_by(data, name, models)) for name in models_])
    typer.echo(json.dumps(reports, indent=1) if as_json else comparison.to_markdown(reports))


def evaluate_images(
    images: Annotated[Path, typer.Argument(help="A folder of PNG, JPEG or WebP files, or a .npy or .npz file.")],
    against: Annotated[Path, typer.Option(help="The same of real images, or statistics: an .npz with mu and sigma.")],
    extractor: NeededExtractor,
    resize: Resize = "none",
    seed: Seed = 0,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Go on without files that cannot be read, and say which.")
    ] = False,
    as_json: AsJson = False,
    html: Html = None,
    out: JsonFile = None,
    quiet: Quiet = False,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Judge a folder of images, from whatever made them, against another."""
    check_writable(out, html, makes_folders=True)
    session = _session(models, 0, seed, extractor, resize, device, quiet)
    report, pictures = session.evaluate_images(images, against, skip=skip_unreadable)
    _show(report, pictures, as_json, html, out)


def reference(
    extractor: NeededExtractor,
    path: Annotated[
        Path | None, typer.Argument(metavar="IMAGES", help="A folder or array of images instead of a data set.")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The .npz to write.")] = None,
    data: DataName = None,
    images: Annotated[Path | None, typer.Option(help="The same as the argument.")] = None,
    part: Annotated[
        str | None, typer.Option(help="Of the data set: test (where left out), calibration or train.")
    ] = None,
    ship: Annotated[
        bool, typer.Option("--ship", help="Put it into the extractor's artifact, as `reference.npz`.")
    ] = False,
    resize: Resize = "none",
    skip_unreadable: Annotated[
        bool,
        typer.Option("--skip-unreadable", help="Of a folder: go on without files that cannot be read, and say which."),
    ] = False,
    quiet: Quiet = False,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Write reference statistics: mu and sigma as pytorch-fid has them, and where they come from beside them."""
    if sum(given is not None for given in (path, data, images)) > 1:
        raise InvalidValue("give one of IMAGES, --images and --data", field="data")
    if (out is None) == (not ship):
        raise InvalidValue("give either --out FILE.npz or --ship", field="out")
    source = path or images
    if source is not None and part is not None:
        raise InvalidValue(f"--part: it is for data sets; all images of {source} are taken", field="part")
    if skip_unreadable and (source is None or not source.is_dir()):
        raise InvalidValue("--skip-unreadable: it is for folders of images", field="skip_unreadable")
    check_writable(out)
    check_suffix(out, "statistics", ".npz")
    session = _session(models, 0, 0, extractor, resize, device, quiet)

    def warn(text: str) -> None:
        typer.echo(f"warning: {text}", err=True)

    typer.echo(session.write_reference(out, data, source, part or "test", skip=skip_unreadable, warn=warn))


def disentangle(
    model: ModelName,
    data: DataName = None,
    item: Annotated[int, typer.Option(help="Test item whose latent is moved.")] = 0,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="A PNG with a row for each active dimension.")] = None,
    as_json: AsJson = False,
    device: Device = "auto",
    models: Models = Path("models"),
) -> None:
    """Say whether latent dimensions hold single factors (MIG and DCI, where the data's factors are known), and draw traversals."""
    import json

    from manifold.evaluation import disentanglement

    check_writable(out, makes_folders=True)
    check_suffix(out, "traversals", ".png")
    session = _session(models, 0, 0, None, "none", device, True)
    figures, picture = session.disentangle(model, _read_by(data, model, models), item)
    if out is not None:
        write(out, picture)
    typer.echo(json.dumps(figures, indent=1) if as_json else disentanglement.to_markdown(figures))


def _session(models: Path, n: int, seed: int, extractor: str | None, resize: str, device: str, quiet: bool) -> Session:
    """Return the evaluations of one command."""
    from manifold.evaluation.session import Session, SessionOptions

    return Session(models, SessionOptions(n, seed, extractor, resize, device), _real_data, quiet)


def _read_by(data: str | None, model: str, models: Path) -> str | None:
    """Return the name of a data set for a model. The images of a folder are read as the model reads them."""
    if data is None or model.endswith(".json"):
        return data
    from manifold.runtime import manifest, repository
    from manifold.training import datasets

    return datasets.like(data, manifest.read(repository.find(model.partition(":")[0], models)).spec)


def _real_data(name: str) -> RealData:
    """Return a data set by name. The evaluator does not know the training package, which takes a while to import."""
    from manifold.training import judging

    return judging.real_data(name)


def _show(report: dict[str, Any], pictures: Pictures, as_json: bool, html: Path | None, out: Path | None) -> None:
    """Write a report to the files that are asked for, and print it."""
    from manifold.evaluation import markdown, report_page
    from manifold.evaluation.report import to_json

    if out is not None:
        write(out, to_json(report).encode())
    if html is not None:
        write(html, report_page.to_html(report, pictures).encode())
    typer.echo(to_json(report) if as_json else markdown.of_report(report), nl=False)
