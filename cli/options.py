"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manifold.cli import completion
from manifold.runtime.errors import InvalidValue, shown

# --- artifacts ---

Models = Annotated[
    Path,
    typer.Option("--models", envvar=completion.MODELS_VARIABLE, help="Folder that holds the models.", is_eager=True),
]  # eager: the completion of a model's name needs it


def elsewhere(models: Path) -> list[str]:
    """Return the option --models for the commands that a message names; empty if they use this folder without it."""
    return [] if models == completion.default_models() else ["--models", str(models)]


ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Model: its name in the folder --models, NAME/VERSION, or a path.",
        autocompletion=completion.artifact_names,
    ),
]
Device = Annotated[
    str,
    typer.Option(help="Device that runs the model: auto (a GPU if there is one), cpu or cuda.", autocompletion=completion.devices),
]  # fmt: skip
Prior = Annotated[
    str | None,
    typer.Option(
        help="Prior that latents are drawn from. By default, the default prior of the model (`default_prior` in the manifest).",
        autocompletion=completion.prior_names,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]

# --- training ---

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, as `manifold train` makes it.")]
Preset = Annotated[
    str,
    typer.Option(
        help="Preset of the options: smoke (seconds, for a trial), cpu (minutes) or gpu.", autocompletion=completion.presets
    ),
]  # fmt: skip
Skip = Annotated[bool, typer.Option("--skip-unreadable", help="Skip image files that cannot be read, and list them.")]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one option of the preset. Repeat it for more.",
        autocompletion=completion.changes,
    ),
]

# --- evaluation ---

DataName = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Data set of images, or a folder of images. By default the data set that the model was trained on.",
        autocompletion=completion.data_names,
    ),
]
ExtractorName = Annotated[
    str | None,
    typer.Option(
        "--extractor",
        help="Model with the task `features`. By default the classifier that was trained on the data set.",
        autocompletion=completion.model_names,
    ),
]
NeededExtractor = Annotated[
    str, typer.Option("--extractor", help="Model with the task `features`.", autocompletion=completion.model_names)
]
Resize = Annotated[
    str,
    typer.Option(
        help="How images are resized for the extractor: none, torch-bilinear, tf1-bilinear or pil-bicubic.",
        autocompletion=completion.resizes,
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the samples and of every shuffle.")]
Count = Annotated[int, typer.Option("-n", "--n", min=1, max=1_000_000, help="Number of images to generate.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of Markdown.")]
Html = Annotated[Path | None, typer.Option("--html", help="Also write a page with the numbers and pictures.")]
JsonFile = Annotated[Path | None, typer.Option("-o", "--out", help="Also write the JSON to this file.")]


def pair(text: str, option: str) -> tuple[str, str]:
    """Return name and value of NAME=VALUE. Raises InvalidValue if one of them is missing."""
    name, _, value = text.partition("=")
    if not name or not value:
        raise InvalidValue(f"{option} {shown(text)}: not of the form NAME=VALUE", field=option)
    return name, value


def number_of(text: str, option: str) -> float:
    """Return the number that a text states. Raises InvalidValue for other texts."""
    try:
        return float(text)
    except ValueError:
        raise InvalidValue(f"{option}: {shown(text)} is not a number", field=option) from None
