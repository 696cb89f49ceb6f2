"""Completions for the shell. They read the names of folders and files, and import nothing that takes time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
    return _beginning(incomplete, _priors(_root(ctx), _argument(ctx, "model")))


def class_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the classes of the model on the command line whose names begin with `incomplete`."""
    classes = _manifest(_root(ctx), _argument(ctx, "model")).get("classes")
    return _beginning(incomplete, filter(_is_text, classes) if isinstance(classes, list) else ())


def changes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return KEY= for the options of the family on the command line whose names begin with `incomplete`."""
    family = _fitted(ctx) if ctx.info_name == "fit" else _argument(ctx, "family")
    return _beginning(
        incomplete, (f"{key}=" for key in outlines.options(family)) if family in outlines.families() else ()
    )


def _fitted(ctx: typer.Context) -> str:
    """Return the family with all options that `manifold fit` may use: that of --label or --detector, else the network."""
    chosen = str(ctx.params.get("detector") or early.AUTO)
    return "tabular_cvae" if ctx.params.get("label") else "tabular_vae" if chosen == early.AUTO else chosen


def detectors(incomplete: str) -> list[str]:
    """Return the values of --detector that begin with `incomplete`."""
    return _beginning(incomplete, early.DETECTORS)


def endpoints(incomplete: str) -> list[str]:
    """Return the endpoints whose names begin with `incomplete`."""
    return _beginning(incomplete, early.ENDPOINTS)


def formats(incomplete: str) -> list[str]:
    """Return the formats of graphs whose names begin with `incomplete`."""
    return _beginning(incomplete, outlines.FORMATS)


def precisions(incomplete: str) -> list[str]:
    """Return the precisions whose names begin with `incomplete`."""
    return _beginning(incomplete, outlines.PRECISIONS)


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


def _argument(ctx: typer.Context, name: str) -> str:
    """Return the first argument of the command line; empty if there is none. After an option without its value, it is among the rest."""
    return str(ctx.params.get(name) or next(iter(ctx.args), ""))


def _root(ctx: typer.Context) -> Path:
    """Return the folder of the models."""
    return Path(ctx.params.get("models") or default_models())


def _priors(root: Path, name: str) -> list[str]:
    """Return the priors of a model; none if it cannot be read."""
    latent = _manifest(root, name).get("latent")
    priors = latent.get("priors") if isinstance(latent, dict) else None
    return list(priors) if isinstance(priors, dict) else []


def _manifest(root: Path, name: str) -> dict[str, Any]:
    """Return the manifest of a model NAME (its latest version) or NAME/VERSION as it is stored; an empty one if it cannot be read."""
    folder = root / name
    versions = [path for path in folder.glob("*/manifest.json") if path.parent.name.isdecimal()]
    file = max(versions, key=lambda path: int(path.parent.name), default=folder / "manifest.json")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _beginning(start: str, names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(start)})
