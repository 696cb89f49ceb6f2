"""The content of an artifact's page: the preview, training curves, encoded test points and a sheet.

The preview is one PNG at the artifact's top. The rest lies in its folder `page` and takes at most PAGE_BYTES:

    curves.json   losses by epoch: for each phase its name, the steps, and a list of numbers by name, such as train/loss
    points.npz    `means` float16 (N, L), where test items lie in latent space, and `labels` int16 (N,), -1 for none
    sheet.png     (or .csv, by the kind of data) test items, each followed by its reconstruction; samples if the model has no encoder
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manifold.runtime.engine import Model
from manifold.runtime.operations import supports
from manifold.training.data import Part
from manifold.training.data.parts import batches, first, subset
from manifold.training.exporting import priors
from manifold.training.exporting.context import Array, Context
from manifold.training.runs import LOG, read_log

SEED = 0
PREVIEW = "preview.png"
PREVIEWED = 64  # items
BATCH = 500  # items
PAGE = "page"  # the folder
PAGE_BYTES, CURVES_BYTES, POINTS_BYTES = 150_000, 30_000, 70_000
EPOCHS = (200, 100, 50, 25)  # of a phase's curve, at most: the most that fit are taken
POINTS = (1000, 500, 250, 100)  # the same for items
SHOWN = (32, 16, 8, 4, 2, 1)


def write_preview(context: Context) -> None:
    """Write a PNG that shows what the model makes. A model that only has features shows the test items with the smallest margin."""
    engine, data, spec = context.engine, context.data, context.data.spec
    if supports(engine.manifest, "sample"):
        content = preview(engine, data.test, spec.to_model)
    else:
        worst = data.inputs(data.test.batch(_least_right(context)))
        content = spec.preview(worst, data.inputs(first(data.test, spec.previewed)))
    (context.folder / PREVIEW).write_bytes(content)


def preview(engine: Model, test: Part, to_model: Callable[[Array], Array]) -> bytes:
    """Return a PNG of samples; of rows beside the items of a test part, of which `to_model` makes model inputs."""
    spec = engine.manifest.spec
    n = min(spec.previewed, len(test)) if spec.parts else PREVIEWED
    return spec.preview(engine.sample(n, seed=SEED).data, to_model(first(test, spec.previewed).items))


def _least_right(context: Context) -> Array:
    """Return the indices of the test items whose class has the smallest logit, against the largest."""
    logits = np.concatenate(
        [
            context.engine.run("features", {"data": context.data.inputs(held)})["logits"]
            for held in batches(context.data.test, BATCH)
        ]
    ).astype(np.float64)
    margin = np.take_along_axis(logits, context.data.test.labels[:, None], axis=1)[:, 0] - logits.max(axis=1)
    return np.argsort(margin, kind="stable")[:PREVIEWED]


def write_page(context: Context) -> None:
    """Write what the artifact's page shows, as much of it as PAGE_BYTES allow."""
    files = {"curves.json": _curves(context.run.folder / LOG), "points.npz": _points(context)}
    left = PAGE_BYTES - sum(len(content) for content in files.values() if content)
    files[f"sheet{context.data.spec.suffix}"] = _sheet(context, left)
    (context.folder / PAGE).mkdir()
    for name, content in files.items():
        if content:
            (context.folder / PAGE / name).write_bytes(content)


def _curves(log: Path) -> bytes | None:
    """Return the losses by epoch, as JSON."""
    records = [record for record in (read_log(log) if log.exists() else []) if "epoch" in record]
    phases = list(dict.fromkeys(record["phase"] for record in records))
    for most in EPOCHS:
        curves = [_curve([record for record in records if record["phase"] == phase], most) for phase in phases]
        if curves and len(content := json.dumps(curves, separators=(",", ":")).encode()) <= CURVES_BYTES:
            return content
    return None


def _curve(records: Sequence[dict[str, Any]], most: int) -> dict[str, Any]:
    """Return the losses of one phase, at `most` epochs that are spread evenly."""
    records = [records[place] for place in _spread(len(records), most)]
    names = dict.fromkeys(key for record in records for key in record if key.startswith(("train/", "test/")))
    losses = {name: [_rounded(record.get(name)) for record in records] for name in names}
    return {"phase": records[0]["phase"], "steps": [record["step"] for record in records], "losses": losses}


def _rounded(value: Any) -> float | None:
    """Return five significant digits; None for what JSON has no number for."""
    return float(f"{value:.5g}") if isinstance(value, int | float) and np.isfinite(value) else None


def _points(context: Context) -> bytes | None:
    """Return where test items lie in latent space, as .npz. A latent so wide that not even 100 items fit has none."""
    if context.manifest.space is None or "encode" not in context.manifest.tasks:
        return None
    data = context.data
    for most in POINTS:
        if 2 * most * context.manifest.space.count <= POINTS_BYTES:
            part = subset(data.test, _spread(len(data.test), most))
            means = priors.posterior_means(context.engine, data, part).astype(np.float16)
            buffer = io.BytesIO()
            np.savez_compressed(buffer, means=means, labels=part.labels.astype(np.int16))
            return buffer.getvalue()
    return None


def _sheet(context: Context, limit: int) -> bytes | None:
    """Return as large a sheet as fits."""
    groups = _groups(context, SHOWN[0])
    if groups is None:
        return None
    sheets = (context.data.spec.sheet(groups[:n].reshape(-1, *groups.shape[2:])) for n in SHOWN)
    return next((content for content in sheets if len(content) <= limit), None)


def _groups(context: Context, n: int) -> Array | None:
    """Return n test items, each with its reconstruction (n, 2, *shape), or else n samples (n, 1, *shape)."""
    engine, data = context.engine, context.data
    if supports(engine.manifest, "reconstruct"):
        held = first(data.test, n)
        items = data.inputs(held)
        conditioned = engine.manifest.tasks["encode"].input("condition")
        back = engine.reconstruct(
            items, classes=priors.conditions(engine.manifest, data, held) if conditioned else None
        ).data
        return np.stack([items, back], axis=1)
    return engine.sample(n, seed=SEED).data[:, None] if supports(engine.manifest, "sample") else None


def _spread(n: int, most: int) -> Array:
    """Return at most `most` indices below n, spread evenly."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64)) if n else np.arange(0)
