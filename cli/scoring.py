"""Commands that score files of rows, and that calibrate a model on such a file."""

from __future__ import annotations

import time
from collections.abc import Callable
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
    threads: Annotated[int, typer.Option(min=1, help="Within a run.")] = 1,
    device: Device = "auto",
    models: Models = Path("models"),
    quiet: Quiet = False,
) -> None:
    """Score a file of rows as a stream: order kept, bad rows set aside with their reason, the rest scored."""
    from manifold.runtime.scores import bulk, decisions
    from manifold.runtime.tables import files

    if rate is not None and budget is not None:
        raise InvalidValue("--budget and --false-positive-rate exclude each other", field="budget")
    bulk.check_output(out)
    rejected = bulk.rejected_file(out)
    check_writable(out, rejected)
    files.format_of(file)
    loaded = load(model, models, device, threads)
    began = time.perf_counter()
    rule = decisions.Rule(rate, budget, None, block_rate)
    total = bulk.score_file(loaded, file, out, rule, explain=explain, progress=None if quiet else _progress(began))
    if loaded.manifest.drawing:
        typer.echo(
            f"note: {loaded.manifest.name} draws random numbers by itself: these scores are not reproducible", err=True
        )
    where = f", set aside in {rejected if rejected.exists() else out}" if total.bad else ""
    seconds = time.perf_counter() - began
    typer.echo(
        f"{out}: {total.rows:,} rows in {seconds:.1f} s ({total.rows / seconds:,.0f} rows/s), {total.flagged:,} flagged, {total.bad:,} bad{where}"
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
    skip_unreadable: Skip = False,
    models: Models = Path("models"),
) -> None:
    """Calibrate an artifact on normal rows or images of one's own, without training: published as its next version."""
    if file.is_dir():
        _calibrate_on_images(model, file, models, skip_unreadable)
    else:
        _calibrate_on_rows(model, file, models)


def _calibrate_on_rows(model: str, file: Path, models: Path) -> None:
    """Calibrate an artifact on a file of rows."""
    from manifold.runtime.scores import bulk
    from manifold.runtime.tables import files

    loaded = load(model, models)
    with file.open("rb") as source:
        folder, done = bulk.recalibrate(loaded, source, files.format_of(file), models, name=file.name)
    typer.echo(f"{folder}: {done}")


def _calibrate_on_images(model: str, folder: Path, models: Path, skip: bool) -> None:
    """Calibrate an artifact on a folder of images."""
    from manifold.runtime.scores import image_calibration

    def note(text: str) -> None:
        typer.echo(f"note: {text}", err=True)

    published, done = image_calibration.recalibrate(load(model, models), folder, models, skip=skip, note=note)
    typer.echo(f"{published}: {done}")
