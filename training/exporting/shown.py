"""The content of an artifact's page: the preview, training curves, latents of test items, and a sheet (a grid of images, or rows).

The preview is one PNG at the top level of the artifact. The other files are in its folder `page` and have at most PAGE_BYTES together:

    curves.json   losses by epoch: for each phase its name, the steps, and a list of numbers by name, such as train/loss
    points.npz    `means` float16 (N, L), the latents of test items, and `labels` int16 (N,), -1 for none
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
EPOCHS = (200, 100, 50, 25)  # numbers of epochs in a phase's curve; the largest that fits is used
POINTS = (1000, 500, 250, 100)  # numbers of items; the largest that fits is used
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
    """Return a PNG of samples. Samples of rows are shown beside test items, which `to_model` converts to model inputs."""
    spec = engine.manifest.spec
    n = min(spec.previewed, len(test)) if spec.parts else PREVIEWED
    return spec.preview(engine.sample(n, seed=SEED).data, to_model(first(test, spec.previewed).items))


def _least_right(context: Context) -> Array:
    """Return the indices of the test items whose true class has the smallest logit, relative to the largest logit."""
    logits = np.concatenate(
        [
            context.engine.run("features", {"data": context.data.inputs(held)})["logits"]
            for held in batches(context.data.test, BATCH)
        ]
    ).astype(np.float64)
    margin = np.take_along_axis(logits, context.data.test.labels[:, None], axis=1)[:, 0] - logits.max(axis=1)
    return np.argsort(margin, kind="stable")[:PREVIEWED]


def write_page(context: Context) -> None:
    """Write the files for the artifact's page, as many as PAGE_BYTES allow."""
    files = {"curves.json": _curves(context.run.folder / LOG), "points.npz": _points(context)}
    left = PAGE_BYTES - sum(len(content) for content in files.values() if content)
    files[f"sheet{context.data.spec.suffix}"] = _sheet(context, left)
    (context.folder / PAGE).mkdir()
    for name, content in files.items():
        if content:
            (context.folder / PAGE / name).write_bytes(content)


def _curves(log: Path) -> bytes | None:
    """Return the losses by epoch as JSON; None if there are none."""
    records = [record for record in (read_log(log) if log.exists() else []) if "epoch" in record]
    phases = list(dict.fromkeys(record["phase"] for record in records))
    for most in EPOCHS:
        curves = [_curve([record for record in records if record["phase"] == phase], most) for phase in phases]
        if curves and len(content := json.dumps(curves, separators=(",", ":")).encode()) <= CURVES_BYTES:
            return content
    return None


def _curve(records: Sequence[dict[str, Any]], most: int) -> dict[str, Any]:
    """Return the losses of one phase, at no more than `most` evenly spread epochs."""
    records = [records[place] for place in _spread(len(records), most)]
    names = dict.fromkeys(
        key for record in records for key in record if key.startswith(("train/", "selection/", "calibration/", "test/"))
    )
    losses = {name: [_rounded(record.get(name)) for record in records] for name in names}
    return {"phase": records[0]["phase"], "steps": [record["step"] for record in records], "losses": losses}


def _rounded(value: Any) -> float | None:
    """Return the value with five significant digits; None if JSON cannot represent it."""
    return float(f"{value:.5g}") if isinstance(value, int | float) and np.isfinite(value) else None


def _points(context: Context) -> bytes | None:
    """Return the latents of test items as .npz; None if the latent is so large that not even 100 items fit."""
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
    """Return the largest grid of items whose file is small enough; None if there is none."""
    groups = _groups(context, SHOWN[0])
    if groups is None:
        return None
    sheets = (context.data.spec.sheet(groups[:n].reshape(-1, *groups.shape[2:])) for n in SHOWN)
    return next((content for content in sheets if len(content) <= limit), None)


def _groups(context: Context, n: int) -> Array | None:
    """Return n test items, each with its reconstruction (n, 2, *shape), or n samples (n, 1, *shape) if the model cannot reconstruct."""
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
    """Return at most `most` evenly spread indices below n."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64)) if n else np.arange(0)
