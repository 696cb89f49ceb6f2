"""Commands about anomaly scores: fitting a model to a table, and evaluating the score of any model."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifold.cli import completion, detection, early
from manifold.cli.artifacts import load, manifest_of
from manifold.cli.options import Changes, ModelName, Models, Preset, Quiet, elsewhere, pair
from manifold.cli.outputs import check_folder, check_recordable, check_writable
from manifold.cli.training import configuration, teller
from manifold.runtime.errors import InvalidValue, command, shown
from manifold.training import outlines

if TYPE_CHECKING:
    from manifold.evaluation.anomaly import Judgement
    from manifold.runtime.manifest import Manifest
    from manifold.training.data import Data
    from manifold.training.recipes import Recipe


def fit(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Table or vectors to learn from: a .csv, .parquet or .npy file of rows that are (mostly) normal.",
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the model to publish.")],
    truth: Annotated[
        str | None,
        typer.Option(
            help="Known anomalies. They are used for evaluation only. Give a column of two values, or an expression such as label!=normal, "
            "label==attack, 'label in a,b' or loss>0."
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Column with classes. The model is then conditional and can classify.")
    ] = None,
    id_: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="COLUMN",
            help="Column that identifies a row. It is not learned from; every output contains it as `id`.",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            metavar="COLUMN",
            help="Column that is not learned from and is copied to every output. Repeat it for more.",
        ),
    ] = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="NAME=KIND",
            help="Kind of a column: numeric, range, quantile, vector, categorical or ignore. Repeat it for more.",
        ),
    ] = None,
    missing: Annotated[
        list[str] | None,
        typer.Option(
            "--missing",
            metavar="TEXT",
            help="Text that means a missing value. Repeat it for more. These texts replace the default ones (docs/reference/tables.md lists them).",
        ),
    ] = None,
    mixed: Annotated[
        bool,
        typer.Option(
            "--mixed",
            help="The rows may contain anomalies: the most anomalous fifth (or --set trim=SHARE) is not learned from.",
        ),
    ] = False,
    detector: Annotated[
        str,
        typer.Option(
            help="How rows are scored: tabular_detector (nearest rows, a mixture of Gaussians and histograms, in seconds), tabular_vae (a network, "
            "which can also sample, encode and fill in rows), or auto. With --label it is tabular_cvae.",
            autocompletion=completion.detectors,
        ),
    ] = early.AUTO,
    preset: Preset = "cpu",
    settings: Changes = None,
    html: Annotated[Path | None, typer.Option(help="Page with the report. By default NAME.html.")] = None,
    run: Annotated[Path | None, typer.Option("--run", help="Run folder to make. By default runs/NAME.")] = None,
    models: Models = Path("models"),
    quiet: Quiet = False,
) -> None:
    """Fit an anomaly detector to a table.

    The model is trained, calibrated, published and evaluated in one step; the report is a page. It compares the model with an isolation forest,
    nearest neighbours and a Mahalanobis distance, also without known anomalies. docs/reference/tables.md describes how values and kinds of columns
    are read.
    """
    html = html or Path(f"{name}.html")
    outlines.check_name(name)
    check_writable(html)
    check_folder(models)

    from manifold.runtime import lineage
    from manifold.runtime.kinds.table import TableSpec

    family, why = early.detector(detector, label, settings or [], lineage.latest(models / name))
    lineage.check(models, name, family, TableSpec.noun, file.stem)
    folder = run or Path("runs") / name
    _check_new(folder, name, models, chosen=run is not None)
    check_folder(folder)
    early.check_file(file)
    early.check_recipe(family, preset, settings or [])
    given = dict(pair(kind, "--column") for kind in kinds or [])

    from manifold.training.data import rereading, schema, tables  # without torch and scipy

    stated = schema.ColumnSettings(kinds=given)
    stated = stated if missing is None else dataclasses.replace(stated, missing=tuple(missing))
    roles = tables.Roles(truth, id_, tuple(keep or ()))
    tables.check_header(file, stated, label, roles)

    from manifold.runtime import engine
    from manifold.runtime.tables import described
    from manifold.training import export as exporting
    from manifold.training import families, judging, runs
    from manifold.training import train as loop

    config = configuration(families.get(family), preset, settings)
    config = config.changed(mixed=mixed or config.mixed)
    typer.echo(f"detector: {family}: {why}")
    data = tables.of_file(file, stated, label, roles)
    for note in data.notes:
        typer.echo(note, err=True)
    spec = TableSpec.of(data.spec, str(file))
    lineage.check(models, name, family, spec, file.stem)
    for column in described.describe(spec, label, data.classes):
        typer.echo(f"column {column}")
    loop.train(
        runs.TrainingRun(folder, family, str(file.absolute()), preset, config, name),
        data=data,
        device="cpu",
        quiet=quiet,
    )
    published = exporting.export(runs.open_run(folder), name, models, data=data, tell=teller(quiet))
    model = engine.load(published, device="cpu")
    rereading.check_again(data, TableSpec.of(model.manifest.spec, name), file)
    for line in _classification(model.manifest, data):
        typer.echo(line)
    told = dataclasses.replace(data, notes=())  # printed above
    chosen = [f"Detector: {family}: {why}.", *_trimmed(runs.open_run(folder).resolved(data).config)]
    _tell(judging.judge(model, told, html=html, record=True, notes=chosen), model.manifest)
    if lost := schema.lost_numbers(spec):
        typer.echo(
            f"warning: the columns {', '.join(map(shown, lost))} hold numbers but were left out, which can make the detector useless; write them as plain "
            "numbers and fit again",
            err=True,
        )
    score = command("score", "ROWS.csv", "--model", name, *elsewhere(models), "-o", "SCORES.csv", "--explain")
    typer.echo(f"{published}: done; open the report {html} in a browser; next: {score}")


def judge(
    model: ModelName,
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set, .csv, .parquet or .npy file, or folder of images. By default the data that the model was trained on; a file is "
            "expected in the current folder.",
            autocompletion=completion.data_names,
        ),
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(
            help="Known anomalies of a table, as for `manifold fit`. By default the --truth of `manifold fit`."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="Models of images: another data set, or a folder, whose images are the anomalies to find.",
            autocompletion=completion.data_names,
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Tables: also write the page with the report.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Write the figures into the manifest of the model.")] = False,
    models: Models = Path("models"),
) -> None:
    """Evaluate the anomaly score of a model.

    The figures are the measured false alarm rates, the anomalies found, and the agreement with other detectors that are fitted to the same training
    items: an isolation forest, nearest neighbours and a Mahalanobis distance. The agreement needs no known anomalies. The page lists the rows that
    only one detector ranks high.
    """
    check_writable(html)
    manifest = manifest_of(model, models)
    if data is not None:
        early.check_data(data)
        outlines.check_items(data, manifest.spec.noun, "--data")
    if against is not None and manifest.spec.pictures:
        early.check_images(against, "--against")
    if record:
        check_recordable(model, models)

    from manifold.training import judging

    judging.check_can(manifest, against, html)
    loaded = load(model, models)
    items = judging.data_of(loaded, data, truth)
    _tell(judging.judge(loaded, items, against=against, html=html, record=record), loaded.manifest)


def _classification(manifest: Manifest, data: Data) -> Iterator[str]:
    """Yield the figures of a classifier on the test rows, beside the accuracy of the most frequent class; nothing for other models."""
    import numpy as np

    found = {metric.name: metric.value for metric in manifest.metrics}
    if "accuracy" in found:
        frequent = int(np.bincount(data.train.labels).argmax())
        share = float((data.test.labels == frequent).mean())
        yield (
            f"Classes of {len(data.test)} test rows: accuracy {found['accuracy']:.3f} (the most frequent class alone: {share:.3f}), cross-entropy "
            f"{found['cross_entropy']:.3f} nats, calibration error {found['calibration_error']:.3f}. All classes have the same prior probability."
        )


def _trimmed(config: Recipe) -> Iterator[str]:
    """Yield a sentence about the share of the training rows that does not count in the fit."""
    if share := getattr(config, "trim", 0):
        yield (
            f"The training rows may include anomalies, so {share:.0%} of them, the most anomalous, do not count in the fit; --set trim=SHARE changes the "
            "share."
        )


def _tell(judgement: Judgement, manifest: Manifest) -> None:
    """Print the figures of the detector, and warnings on stderr."""
    assert manifest.scoring is not None
    for line in detection.summary(judgement, manifest.scoring, manifest.spec.noun, paged=manifest.spec.in_files):
        typer.echo(line)
    for warning in judgement.warnings:
        typer.echo(f"note: {warning}", err=True)


def _check_new(folder: Path, name: str, models: Path, *, chosen: bool) -> None:
    """Raise InvalidValue if the run folder of a fit holds a run already. `chosen`: the user gave the folder."""
    if not early.has_run(folder):
        return
    another = shlex.join(["--run", str(early.next_to(folder))])
    if not chosen and (models / name).is_dir():
        raise InvalidValue(
            f"{name} was fitted before (its run is in {folder}). For a new version: add {another}", field="run"
        )
    early.check_run(
        folder,
        f"to train in another folder, use {another}. To finish the run in this folder: {command('resume', folder)}, then "
        f"{command('export', folder, '--name', name, *elsewhere(models))}",
    )
