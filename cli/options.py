"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# --- artifacts ---

Models = Annotated[Path, typer.Option("--models", envvar="MANIFOLD_MODELS_DIR", help="Folder of artifacts.")]
ModelName = Annotated[str, typer.Argument(help="Name in the folder of artifacts, or a path.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Prior = Annotated[str | None, typer.Option(help="One of the artifact's priors.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]

# --- training ---

RunFolder = Annotated[Path, typer.Argument(help="Run folder.")]
Preset = Annotated[str, typer.Option(help="smoke (seconds), cpu or gpu.")]
Skip = Annotated[
    bool, typer.Option("--skip-unreadable", help="Go on without files that cannot be read, and say which.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the preset; repeat for more."),
]

# --- evaluation ---

DataName = Annotated[
    str | None,
    typer.Option(
        "--data", help="A data set of images, or a folder of them; the one the model was trained on where left out."
    ),
]
ExtractorName = Annotated[
    str | None,
    typer.Option(
        "--extractor", help="An artifact with the task `features`; the data set's own classifier where left out."
    ),
]
NeededExtractor = Annotated[str, typer.Option("--extractor", help="An artifact with the task `features`.")]
Resize = Annotated[str, typer.Option(help="none, torch-bilinear, tf1-bilinear or pil-bicubic.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the samples and of every shuffle.")]
Count = Annotated[int, typer.Option("--n", min=1, max=1_000_000, help="How many images are generated.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of Markdown.")]
Html = Annotated[Path | None, typer.Option("--html", help="Also write one page with numbers and pictures.")]
JsonFile = Annotated[Path | None, typer.Option("-o", "--out", help="Also write the JSON to this file.")]
