"""Commands that score tables, and that calibrate a model on new data."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifold.cli import completion, early
from manifold.cli.artifacts import load, manifest_of
from manifold.cli.options import Device, ModelName, Models, Skip
from manifold.cli.outputs import check_writable
from manifold.cli.tables import aligned
from manifold.runtime.errors import InvalidValue, shown
from manifold.training import outlines

if TYPE_CHECKING:
    from manifold.runtime.scores.bulk import Total
    from manifold.runtime.scores.leading import TopRow

PROGRESS_SECONDS = 2  # between two messages of progress
LISTED = 5  # number of rows that are printed


def score(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Table or vectors to score: a .csv, .parquet or .npy file.")
    ],
    model: Annotated[
        str,
        typer.Option(
            help="Model that scores rows: its name in the folder --models, or a path.",
            autocompletion=completion.artifact_names,
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="File to write: .csv, .parquet or .ndjson.")],
    rate: Annotated[
        float | None,
        typer.Option(
            "--false-positive-rate", min=0, max=1, help="Share of normal rows that are flagged. By default 0.01."
        ),
    ] = None,
    budget: Annotated[
        int | None, typer.Option(min=1, help="Flag this number of rows, the most anomalous, instead of using a rate.")
    ] = None,
    block_rate: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Rate of the band `block`. By default a tenth of --false-positive-rate."),
    ] = None,
    discovery: Annotated[
        float | None,
        typer.Option(
            "--false-discovery-rate",
            min=0,
            max=1,
            help="Flag as many rows as this expected share of normal rows among them allows, instead of using a rate: above 0 and below 1. The file is "
            "read twice.",
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Add the reasons for each flagged row.")] = False,
    id_: Annotated[
        str | None,
        typer.Option("--id", metavar="COLUMN", help="Copy this column as `id`, instead of the --id of `manifold fit`."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="COLUMN", help="Also copy this column to the output. Repeat it for more."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Number of threads.")] = 1,
    device: Device = "auto",
    models: Models = Path("models"),
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress, and no list of rows.")] = False,
) -> None:
    """Score the rows of a table.

    The file is read as a stream and the rows keep their order. Rows that cannot be read are written to a separate file, with the reason. The
    most anomalous rows are printed.
    """

    from manifold.runtime.scores import bulk, decisions
    from manifold.runtime.scores.leading import TopRows
    from manifold.runtime.tables import files
    from manifold.runtime.tables.schema import Carry

    rule = decisions.Rule(rate, budget, None, block_rate, discovery)
    bulk.check_output(out)
    rejected = bulk.rejected_file(out)
    check_writable(out, rejected)
    early.check_file(file)
    files.format_of(file)
    loaded = load(model, models, device, threads)
    began = time.perf_counter()
    rule.check(loaded.manifest)
    own = bulk.table_of(loaded).carried
    kept = tuple(dict.fromkeys([*own.passed, *(keep or [])]))
    carry = Carry(own.id if id_ is None else id_, kept, (*([] if id_ is None else [id_]), *(keep or [])))
    top = TopRows(0 if quiet else LISTED)
    total = bulk.score_file(
        loaded,
        file,
        out,
        rule,
        explain=explain,
        progress=None if quiet else _progress(began),
        carry=carry,
        watch=top.add,
    )
    if loaded.manifest.drawing:
        typer.echo(
            f"note: {loaded.manifest.name} draws random numbers inside its graph: these scores are not reproducible",
            err=True,
        )
    for note in total.told():
        typer.echo(f"warning: {note}", err=True)
    if top.rows:
        typer.echo(f"The {len(top.rows)} most anomalous of {total.flagged:,} flagged rows:")
        typer.echo(_listed(top.rows))
    undecided = f", {total.undecided:,} not decided" if total.undecided else ""
    seconds = time.perf_counter() - began
    speed = f"{total.rows:,} rows in {seconds:.1f} s ({total.rows / seconds:,.0f} rows/s)"
    typer.echo(f"{out}: {speed}, {total.flagged:,} flagged{undecided}{_invalid(total.bad, out, rejected)}")


def _invalid(count: int, out: Path, rejected: Path) -> str:
    """Return the number of invalid rows and the file that has them, as the end of the summary. Only .ndjson files have them beside the scores."""
    if not count:
        return ", 0 invalid"
    rows = "1 invalid row is" if count == 1 else f"{count:,} invalid rows are"
    where = (
        f"not in this file: see {rejected}"
        if rejected.exists()
        else "also in this file, with the reason instead of a score"
    )
    return f"; {rows} {where}"


def _listed(rows: Sequence[TopRow]) -> str:
    """Return rows as a table. Columns without values are left out."""
    found = {
        "row": [str(row.number) for row in rows],
        "id": ["" if row.id is None else str(row.id) for row in rows],
        "score": [f"{row.score:.4g}" for row in rows],
        "p-value": ["" if row.p_value is None else f"{row.p_value:.2g}" for row in rows],
        "main reason, with its share": ["" if row.reason is None else str(row.reason) for row in rows],
    }
    columns = [[name, *values] for name, values in found.items() if any(values)]
    numeric = [at for at, (name, *_) in enumerate(columns) if name in ("row", "score", "p-value")]
    return aligned(list(zip(*columns, strict=True)), right=numeric)


def _progress(began: float) -> Callable[[Total], None]:
    """Return a function that prints the number of rows that are scored, at most every PROGRESS_SECONDS."""
    shown = began

    def progress(total: Total) -> None:
        nonlocal shown
        if time.perf_counter() - shown > PROGRESS_SECONDS:
            shown = time.perf_counter()
            typer.echo(f"{total.rows:,} rows, {total.rows / (shown - began):,.0f} rows/s", err=True)

    return progress


def calibrate(
    model: ModelName,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="Normal data: a .csv, .parquet or .npy file, or a folder of images."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set instead of FILE. Its calibration split is used, which models of the data set are not trained on. A file or a folder is "
            "accepted too.",
            autocompletion=completion.data_names,
        ),
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(
            help="Known anomalies of a table, which are left out: a column, or an expression such as label!=normal. By default the --truth "
            "of `manifold fit`."
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Publish nothing if the data differ from the old calibration data, or were used in training.",
        ),
    ] = False,
    skip_unreadable: Skip = False,
    models: Models = Path("models"),
) -> None:
    """Calibrate a model on your own normal items or a data set.

    The model is not trained. The result is published as its next version.
    """
    from manifold.runtime.operations import capabilities

    capabilities.check_supports(manifest := manifest_of(model, models), "anomaly-score")
    if (file is None) == (data is None):
        raise InvalidValue(
            f"file: {'nothing to calibrate on is given' if file is None else 'FILE and --data are given together'}; give either FILE, a file or a folder "
            "of normal items, or --data with the name of a data set",
            field="file",
        )
    if data is not None:
        early.check_data(data)
        if outlines.data_set(data) is not None:
            outlines.check_items(data, manifest.spec.noun, "--data")
            given = {"--truth": truth is not None, "--skip-unreadable": skip_unreadable}
            if option := next((option for option, is_given in given.items() if is_given), None):
                raise InvalidValue(
                    f"{option}: this option is for files and folders, and {shown(data)} is a data set; remove the option",
                    field=option.lstrip("-").replace("-", "_"),
                )
            _calibrate_on_data(model, data, models, strict=strict)
            return
        file = Path(data)
    assert file is not None
    if not file.exists() and outlines.data_set(str(file)) is not None:
        raise InvalidValue(
            f"{file}: there is no such file or folder; for the data set of this name, use --data {file}", field="file"
        )
    if not file.is_dir():
        early.check_file(file)
    if file.is_dir():
        if truth is not None:
            raise InvalidValue(
                f"--truth: this option is for tables, and {file} is a folder of images; remove anomalies from the folder",
                field="truth",
            )
        _calibrate_on_images(model, file, models, strict=strict, skip=skip_unreadable)
    else:
        if skip_unreadable:
            raise InvalidValue(
                f"--skip-unreadable: this option is for folders of images, and {file} is not a folder; remove the option",
                field="skip_unreadable",
            )
        _calibrate_on_rows(model, file, models, truth, strict=strict)


def _calibrate_on_rows(model: str, file: Path, models: Path, truth: str | None, *, strict: bool) -> None:
    """Calibrate a model on a table."""
    from manifold.runtime.scores import recalibration
    from manifold.runtime.tables import files

    loaded = load(model, models)
    with file.open("rb") as source:
        done = recalibration.recalibrate(
            loaded, source, files.format_of(file), models, name=file.name, stated=truth, strict=strict
        )
    _published(done.folder, done.text, done.warnings)


def _calibrate_on_images(model: str, folder: Path, models: Path, *, strict: bool, skip: bool) -> None:
    """Calibrate a model on a folder of images."""
    from manifold.runtime.scores import image_calibration

    def note(text: str) -> None:
        typer.echo(f"note: {text}", err=True)

    made, done = image_calibration.recalibrate(load(model, models), folder, models, strict=strict, skip=skip, note=note)
    _published(made.folder, done, made.warnings)


def _calibrate_on_data(model: str, data: str, models: Path, *, strict: bool) -> None:
    """Calibrate a model on the calibration split of a data set."""
    from manifold.training import calibrating, datasets

    def note(text: str) -> None:
        typer.echo(f"note: {text}", err=True)

    loaded = load(model, models)
    made, done = calibrating.recalibrate(loaded, datasets.load(data), models, strict=strict, note=note)
    _published(made.folder, done, made.warnings)


def _published(folder: Path, done: str, warnings: Sequence[str]) -> None:
    """Print the published folder, and warnings on stderr."""
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"{folder}: {done}")
