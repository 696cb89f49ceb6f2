"""Commands about detectors: fitting one to a file of rows, and judging the score of any model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifold.cli.artifacts import load
from manifold.cli.options import Changes, Models, Preset, Quiet
from manifold.cli.outputs import check_recordable, check_writable
from manifold.cli.training import configuration
from manifold.runtime.errors import InvalidValue

if TYPE_CHECKING:
    from manifold.evaluation.anomaly import Judgement


def fit(
    file: Annotated[Path, typer.Argument(help="A .csv or .parquet file of rows that are (mostly) normal.")],
    name: Annotated[str, typer.Option(help="Name of the artifact.")],
    truth: Annotated[
        str | None,
        typer.Option(
            help="Known anomalies, which are only judged by: a column of two values, or an expression such as label!=normal, label==attack, "
            "'label in a,b' or loss>0."
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="A column with classes: makes a conditional model that classifies.")
    ] = None,
    id_: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="COLUMN",
            help="A column that names the row: not learned from, copied to every output as `id`.",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            metavar="COLUMN",
            help="A column that is not learned from and copied to every output; repeat for more.",
        ),
    ] = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--column", metavar="NAME=KIND", help="numeric, range, quantile, categorical or ignore; repeat for more."
        ),
    ] = None,
    missing: Annotated[
        list[str] | None,
        typer.Option(
            "--missing",
            metavar="TEXT",
            help="A text that stands for a missing value; repeat for more. They take the place of NA, N/A, NaN, null, - and ?.",
        ),
    ] = None,
    mixed: Annotated[
        bool,
        typer.Option(
            "--mixed",
            help="The rows may hold anomalies themselves: the most anomalous fifth, or --set trim=SHARE, is trimmed.",
        ),
    ] = False,
    preset: Preset = "cpu",
    settings: Changes = None,
    html: Annotated[Path | None, typer.Option(help="The report; NAME.html where left out.")] = None,
    run: Annotated[Path | None, typer.Option("--run", help="Run folder; runs/NAME where left out.")] = None,
    models: Models = Path("models"),
    quiet: Quiet = False,
) -> None:
    """From a file of rows to a published, calibrated artifact that scores them, with a report.

    How values and kinds of columns are read is written down in docs/reference/tables.md.
    """
    from manifold.runtime import engine
    from manifold.runtime.kinds.table import TableSpec
    from manifold.runtime.tables import described
    from manifold.training import export as exporting
    from manifold.training import families, judging, runs
    from manifold.training import train as loop
    from manifold.training.data import schema, tables

    html = html or Path(f"{name}.html")
    check_writable(html)
    exporting.check_name(name)
    folder = run or Path("runs") / name
    _check_new(folder)
    family = "tabular_cvae" if label else "tabular_vae"
    module = families.get(family)
    stated = schema.ColumnSettings(kinds=dict(_pair(kind, "--column") for kind in kinds or []))
    stated = stated if missing is None else dataclasses.replace(stated, missing=tuple(missing))
    data = tables.of_file(file, stated, label, tables.Roles(truth, id_, tuple(keep or ())))
    for note in data.notes:
        typer.echo(note, err=True)
    for column in described.describe(TableSpec.of(data.spec, str(file)), label, data.classes):
        typer.echo(f"column {column}")
    config = configuration(module, preset, settings)
    config = config.changed(mixed=mixed or config.mixed)
    loop.train(runs.TrainingRun(folder, family, str(file), preset, config), data=data, device="cpu", quiet=quiet)
    published = exporting.export(runs.open_run(folder), name, models, data=data)
    model = engine.load(published, device="cpu")
    tables.check_again(data, TableSpec.of(model.manifest.spec, name), file)
    told = dataclasses.replace(data, notes=())  # printed above
    _tell(judging.judge(model, told, html=html, record=True), data.spec.noun)
    typer.echo(
        f"{published}: done; the report is {html}; next: manifold score ROWS.csv --model {name} -o SCORES.parquet"
    )


def _check_new(folder: Path) -> None:
    """Raise InvalidValue if a folder holds a run already."""
    from manifold.training import runs

    if (folder / runs.CHECKPOINT).exists():
        raise InvalidValue(
            f"--run: {folder} holds a run already; name another folder, such as --run {folder}-2, or remove {folder}. An artifact of the same "
            "--name gets the next version",
            field="run",
        )


def judge(
    model: Annotated[str, typer.Argument(help="A model with a score: name in the folder of artifacts, or a path.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="A data set, a .csv or .parquet file of rows, or a folder of images; if left out, what the model was trained on, which must "
            "be in this folder if it is a file."
        ),
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(help="Known anomalies of a file, as for fit; the truth that fit was given if left out."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="Of images: another data set, or a folder, whose images are the anomalies to be found."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write the report page, of rows.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Write the figures into the artifact's manifest.")] = False,
    models: Models = Path("models"),
) -> None:
    """Judge a model's score: the false alarm rates it keeps, and what it finds beside an isolation forest and nearest neighbours."""
    from manifold.training import judging

    check_writable(html)
    if record:
        check_recordable(model, models)
    loaded = load(model, models)
    items = judging.data_of(loaded, data, truth)
    _tell(judging.judge(loaded, items, against=against, html=html, record=record), loaded.manifest.spec.noun)


def _tell(judgement: Judgement, noun: str) -> None:
    """Print a judgement: the rates, the figures of the score and of its peers, and warnings on stderr."""
    normal = int(judgement.normal.sum())
    for rate in judgement.rates:
        typer.echo(
            f"false alarms: {rate['met']:.2%} where {rate['asked']:.1%} was asked for, on {normal} held-out {noun} that are known to be normal"
        )
    for rate in judgement.unlabelled:
        low, high = rate["expected"]
        typer.echo(
            f"flagged: {rate['met']:.2%} where {rate['asked']:.1%} was asked for, of {judgement.n - normal} unlabelled held-out {noun} "
            f"({low:.2%} to {high:.2%} if none is an anomaly)"
        )
    for name, figures in {**judgement.terms, **judgement.peers}.items():
        typer.echo(f"{name}: " + ", ".join(f"{figure} {value:.3f}" for figure, value in figures.items()))
    for warning in judgement.warnings:
        typer.echo(f"note: {warning}", err=True)


def _pair(text: str, option: str) -> tuple[str, str]:
    """Return name and value of NAME=VALUE. Raises InvalidValue."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise InvalidValue(f"{option} {text}: write NAME=VALUE", field=option)
    return name, value
