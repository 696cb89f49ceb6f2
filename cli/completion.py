"""Completions for the shell. They read the names of folders and files, and import nothing that takes time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import typer

PACKAGE = Path(__file__).resolve().parents[1]
MODELS_VARIABLE = "MANIFOLD_MODELS_DIR"  # the environment variable of --models


def model_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the models in the folder of --models whose names begin with `incomplete`."""
    root = Path(ctx.params.get("models") or os.environ.get(MODELS_VARIABLE) or "models")
    return _beginning(incomplete, (path.parents[1].name for path in root.glob("*/*/manifest.json")))


def data_names(incomplete: str) -> list[str]:
    """Return the data sets whose names begin with `incomplete`."""
    texts = (path.read_text(encoding="utf-8") for path in (PACKAGE / "training" / "datasets").glob("[!_]*.py"))
    found = (re.search(r'^NAME = "(.+)"', text, re.MULTILINE) for text in texts)
    return _beginning(incomplete, (match[1] for match in found if match))


def family_names(incomplete: str) -> list[str]:
    """Return the model families whose names begin with `incomplete`."""
    return _beginning(incomplete, (path.stem for path in (PACKAGE / "training" / "families").glob("[!_]*.py")))


def devices(incomplete: str) -> list[str]:
    """Return the devices whose names begin with `incomplete`."""
    return _beginning(incomplete, ("auto", "cpu", "cuda"))


def presets(incomplete: str) -> list[str]:
    """Return the presets whose names begin with `incomplete`."""
    return _beginning(incomplete, ("smoke", "cpu", "gpu"))


def _beginning(start: str, names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(start)})
