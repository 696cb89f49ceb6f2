"""Completions for the shell. They read the names of folders and files, and import nothing that takes time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import typer

from manifold.cli import early
from manifold.training import outlines

MODELS_VARIABLE = "MANIFOLD_MODELS_DIR"  # the environment variable of --models


def default_models() -> Path:
    """Return the folder of the models if --models is not given."""
    return Path(os.environ.get(MODELS_VARIABLE) or "models")


def model_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the models in the folder of --models whose names begin with `incomplete`."""
    return _beginning(incomplete, (path.parents[1].name for path in _root(ctx).glob("*/*/manifest.json")))


def artifact_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return model names like `model_names` or, after a slash, the versions NAME/VERSION of a model."""
    name, slash, _ = incomplete.partition("/")
    if not slash:
        return model_names(ctx, incomplete)
    return _beginning(incomplete, (f"{name}/{path.parent.name}" for path in _root(ctx).glob(f"{name}/*/manifest.json")))


def compared_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return artifact names like `artifact_names` or, after a colon, the priors NAME:PRIOR of a model."""
    name, colon, _ = incomplete.partition(":")
    if not colon:
        return artifact_names(ctx, incomplete)
    return _beginning(incomplete, (f"{name}:{prior}" for prior in _priors(_root(ctx), name)))


def prior_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the priors of the model on the command line whose names begin with `incomplete`."""
    return _beginning(incomplete, _priors(_root(ctx), str(ctx.params.get("model") or "")))


def formats(incomplete: str) -> list[str]:
    """Return the formats of graphs whose names begin with `incomplete`."""
    return _beginning(incomplete, early.FORMATS)


def precisions(incomplete: str) -> list[str]:
    """Return the precisions whose names begin with `incomplete`."""
    return _beginning(incomplete, early.PRECISIONS)


def resizes(incomplete: str) -> list[str]:
    """Return the resizing rules whose names begin with `incomplete`."""
    return _beginning(incomplete, ("none", "torch-bilinear", "tf1-bilinear", "pil-bicubic"))


def scopes(incomplete: str) -> list[str]:
    """Return the scopes of API keys whose names begin with `incomplete`."""
    return _beginning(incomplete, ("infer", "admin"))


def data_names(incomplete: str) -> list[str]:
    """Return the data sets whose names begin with `incomplete`."""
    return _beginning(incomplete, outlines.data_sets())


def family_names(incomplete: str) -> list[str]:
    """Return the model families whose names begin with `incomplete`."""
    return _beginning(incomplete, outlines.families())


def devices(incomplete: str) -> list[str]:
    """Return the devices whose names begin with `incomplete`."""
    return _beginning(incomplete, early.DEVICES)


def presets(incomplete: str) -> list[str]:
    """Return the presets whose names begin with `incomplete`."""
    return _beginning(incomplete, outlines.PRESETS)


def _root(ctx: typer.Context) -> Path:
    """Return the folder of the models."""
    return Path(ctx.params.get("models") or default_models())


def _priors(root: Path, name: str) -> list[str]:
    """Return the priors of a model NAME (its latest version) or NAME/VERSION; none if it cannot be read."""
    folder = root / name
    versions = [path for path in folder.glob("*/manifest.json") if path.parent.name.isdecimal()]
    file = max(versions, key=lambda path: int(path.parent.name), default=folder / "manifest.json")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    latent = found.get("latent") if isinstance(found, dict) else None
    priors = latent.get("priors") if isinstance(latent, dict) else None
    return list(priors) if isinstance(priors, dict) else []


def _beginning(start: str, names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(start)})
