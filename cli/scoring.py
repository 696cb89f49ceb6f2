"""Commands that score files of rows, and that calibrate a model on such a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifold.cli.artifacts import load
from manifold.cli.options import Device, ModelName, Models, Quiet, Skip
from manifold.cli.outputs import check_writable
from manifold.runtime.errors import InvalidValue

if TYPE_CHECKING:
    from manifold.runtime.scores.bulk import Total

PROGRESS_SECONDS = 2  # between two lines of progress


def score(
    file: Annotated[Path, typer.Argument(help="A .csv or .parquet file of rows.")],
    model: Annotated[str, typer.Option(help="An artifact that scores rows, by name or path.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A .ndjson or .parquet file.")],
    rate: Annotated[
        float | None, typer.Option("--false-positive-rate", min=0, max=1, help="0.01 where nothing is said.")
    ] = None,
    budget: Annotated[
        int | None, typer.Option(min=1, help="Instead: flag this many rows of the file, the most anomalous.")
    ] = None,
    block_rate: Annotated[
        float | None, typer.Option(min=0, max=1, help="Of the band `block`; a tenth where left out.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Reasons, of the rows that are flagged.")] = False,
    id_: Annotated[
        str | None,
        typer.Option("--id", metavar="COLUMN", help="Copy this column as `id`, instead of the one that fit was given."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="COLUMN", help="Also copy this column to the output; repeat for more."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Within a run.")] = 1,
    device: Device = "auto",
    models: Models = Path("models"),
    quiet: Quiet = False,
) -> None:
    """Score a file of rows as a stream: order kept, bad rows set aside with their reason, the rest scored."""
    from manifold.runtime.scores import bulk, decisions
    from manifold.runtime.tables import files
    from manifold.runtime.tables.schema import Carry

    rule = decisions.Rule(rate, budget, None, block_rate)
    bulk.check_output(out)
    rejected = bulk.rejected_file(out)
    check_writable(out, rejected)
    files.format_of(file)
    loaded = load(model, models, device, threads)
    began = time.perf_counter()
    rule.check(loaded.manifest)
    own = bulk.table_of(loaded).carried
    kept = tuple(dict.fromkeys([*own.passed, *(keep or [])]))
    carry = Carry(own.id if id_ is None else id_, kept, (*([] if id_ is None else [id_]), *(keep or [])))
    total = bulk.score_file(
        loaded, file, out, rule, explain=explain, progress=None if quiet else _progress(began), carry=carry
    )
    if loaded.manifest.drawing:
        typer.echo(
            f"note: {loaded.manifest.name} draws random numbers by itself: these scores are not reproducible", err=True
        )
    for note in total.told():
        typer.echo(f"warning: {note}", err=True)
    where = f", set aside in {rejected if rejected.exists() else out}" if total.bad else ""
    undecided = f", {total.undecided:,} not decided" if total.undecided else ""
    seconds = time.perf_counter() - began
    typer.echo(
        f"{out}: {total.rows:,} rows in {seconds:.1f} s ({total.rows / seconds:,.0f} rows/s), {total.flagged:,} flagged{undecided}, {total.bad:,} bad{where}"
    )


def _progress(began: float) -> Callable[[Total], None]:
    """Return a function that prints how many rows are scored, not more often than every PROGRESS_SECONDS."""
    shown = began

    def progress(total: Total) -> None:
        nonlocal shown
        if time.perf_counter() - shown > PROGRESS_SECONDS:
            shown = time.perf_counter()
            typer.echo(f"{total.rows:,} rows, {total.rows / (shown - began):,.0f} rows/s", err=True)

    return progress


def calibrate(
    model: ModelName,
    file: Annotated[Path, typer.Argument(help="A .csv or .parquet file of normal rows, or a folder of normal images.")],
    truth: Annotated[
        str | None,
        typer.Option(
            help="Known anomalies of a file of rows, which are left out: a column, or an expression such as label!=normal. The truth that fit "
            "was given if left out."
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Publish nothing if the items look unlike the old calibration.")
    ] = False,
    skip_unreadable: Skip = False,
    models: Models = Path("models"),
) -> None:
    """Calibrate an artifact on normal rows or images of one's own, without training: published as its next version."""
    if file.is_dir():
        if truth is not None:
            raise InvalidValue("--truth: it is for files of rows; leave anomalies out of the folder", field="truth")
        _calibrate_on_images(model, file, models, strict=strict, skip=skip_unreadable)
    else:
        if skip_unreadable:
            raise InvalidValue("--skip-unreadable: it is for folders of images", field="skip_unreadable")
        _calibrate_on_rows(model, file, models, truth, strict=strict)


def _calibrate_on_rows(model: str, file: Path, models: Path, truth: str | None, *, strict: bool) -> None:
    """Calibrate an artifact on a file of rows."""
    from manifold.runtime.scores import recalibration
    from manifold.runtime.tables import files

    loaded = load(model, models)
    with file.open("rb") as source:
        done = recalibration.recalibrate(
            loaded, source, files.format_of(file), models, name=file.name, stated=truth, strict=strict
        )
    _published(done.folder, done.text, done.warnings)


def _calibrate_on_images(model: str, folder: Path, models: Path, *, strict: bool, skip: bool) -> None:
    """Calibrate an artifact on a folder of images."""
    from manifold.runtime.scores import image_calibration

    def note(text: str) -> None:
        typer.echo(f"note: {text}", err=True)

    made, done = image_calibration.recalibrate(load(model, models), folder, models, strict=strict, skip=skip, note=note)
    _published(made.folder, done, made.warnings)


def _published(folder: Path, done: str, warnings: Sequence[str]) -> None:
    """Print what was published, and warnings on stderr."""
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"{folder}: {done}")
