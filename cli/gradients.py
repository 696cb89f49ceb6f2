"""The command that compares estimators of gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manifold.cli.options import AsJson, JsonFile, RunFolder, Seed
from manifold.cli.outputs import check_suffix, check_writable, write


def gradient_variance(
    run: RunFolder,
    items: Annotated[
        int,
        typer.Option(min=1, max=100_000, help="Number of held-out items, of the selection split if the data have one."),
    ] = 50,
    draws: Annotated[
        int, typer.Option(min=2, max=1_000_000, help="Number of draws from the posterior of each item.")
    ] = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
    out: JsonFile = None,
    picture: Annotated[Path | None, typer.Option(help="PNG to write, with the variances as bars.")] = None,
) -> None:
    """Compare estimators of the ELBO's gradient.

    The estimators are SGVB forms A and B, the score function with and without a baseline, and sticking the landing. The variances are those
    of one draw, by the mean and the log standard deviation of the posterior, for the initial and the trained weights of a run.
    """
    check_writable(out, picture, makes_folders=True)
    check_suffix(picture, "pictures", ".png")

    import json

    from manifold.training import gradient_variance as variances
    from manifold.training import runs

    report = variances.measure(runs.open_run(run), items=items, draws=draws, seed=seed)
    text = json.dumps(report, indent=1)
    if out is not None:
        write(out, text.encode())
    if picture is not None:
        write(picture, variances.to_png(report))
    typer.echo(text if as_json else variances.to_markdown(report))
