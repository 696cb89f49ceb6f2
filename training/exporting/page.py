"""The files of an artifact's page: training curves, samples by epoch, latents of test items, and a sheet (a grid of images, or rows).

They are in the artifact's folder `page` and have at most PAGE_BYTES together:

    curves.json   losses by epoch: for each phase its name, the steps, and a list of numbers by name, such as train/loss
    epochs.png    samples of the same seeds during training: one row of images for each epoch in epochs.json
    epochs.json   the epochs of these rows, ascending
    points.npz    `means` float16 (N, L), the latents of test items, and `labels` int16 (N,), -1 for none
    sheet.png     (or .csv, by the kind of data) test items, each followed by its reconstruction; samples if the model has no encoder

The first three are made from the folder of the run, the others from the artifact and its data.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import imaging
from manifold.runtime.engine import Model
from manifold.runtime.kinds import Kind
from manifold.runtime.manifest import Manifest
from manifold.runtime.operations import draws_items, supports
from manifold.training.data import Data
from manifold.training.data.parts import first, subset
from manifold.training.exporting import priors
from manifold.training.exporting.context import Context
from manifold.training.loop import sheets
from manifold.training.runs import LOG, read_log

Array = NDArray[Any]

SEED = 0
PAGE = "page"  # the folder
CURVES, POINTS, EPOCHS, EPOCHS_LIST = "curves.json", "points.npz", "epochs.png", "epochs.json"
PAGE_BYTES, CURVES_BYTES, POINTS_BYTES = 150_000, 30_000, 70_000
EPOCHS_SHARE = 0.5  # share of the bytes that curves and points leave, which samples by epoch may have
CURVE_EPOCHS = (200, 100, 50, 25)  # numbers of epochs in a phase's curve; the largest that fits is used
ITEMS = (1000, 500, 250, 100)  # numbers of items; the largest that fits is used
SHOWN = (32, 16, 8, 4, 2, 1)
ROWS = ((12, 8), (12, 6), (8, 6), (6, 4), (4, 4), (4, 2), (2, 2))  # numbers of epochs, and of samples of each


@dataclass(frozen=True)
class Source:
    """A model and the data that its page shows. `to_model` converts the data's stored items to inputs of the model."""

    model: Model
    data: Data
    to_model: Callable[[Array], Array]


def write_page(context: Context) -> None:
    """Write the files for the artifact's page, as many as PAGE_BYTES allow."""
    source = Source(context.engine, context.data, context.data.spec.to_model)
    write(context.folder, files(source, context.run.folder))


def write(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write the page of the artifact in `folder`: these files by name. Other files of the page are removed."""
    (folder / PAGE).mkdir(exist_ok=True)
    for name in read(folder).keys() - contents.keys():
        (folder / PAGE / name).unlink()
    for name, content in contents.items():
        (folder / PAGE / name).write_bytes(content)


def read(folder: Path) -> dict[str, bytes]:
    """Return the files of the page of the artifact in `folder`, by name."""
    paths = sorted((folder / PAGE).iterdir()) if (folder / PAGE).is_dir() else []
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def possible(manifest: Manifest) -> list[str]:
    """Return the names of the files that can be made from an artifact and its data, without the run."""
    names = [POINTS] if _most_points(manifest) else []
    shows = supports(manifest, "reconstruct") or draws_items(manifest)
    return [*names, *([sheet_name(manifest)] if shows else [])]


def sheet_name(manifest: Manifest) -> str:
    """Return the name of a sheet of the model's items."""
    return f"sheet{manifest.spec.suffix}"


def files(source: Source, run: Path | None = None, kept: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """Return the files of the page by name. `run` is the folder of the run, if it still exists.

    The files in `kept` are not made again, except for a sheet that is too large beside new files.
    """
    found, name = dict(kept or {}), sheet_name(source.model.manifest)
    sheet = found.pop(name, None)
    if run is not None and CURVES not in found:
        _add(found, CURVES, curves(run / LOG, min(CURVES_BYTES, _left(found))))
    if POINTS not in found:
        _add(found, POINTS, points(source, min(POINTS_BYTES, _left(found))))
    if run is not None and EPOCHS not in found:
        found |= epochs(run, source.data, int(EPOCHS_SHARE * _left(found)))
    if sheet is None or len(sheet) > _left(found):
        sheet = sheet_of(source, _left(found))
    _add(found, name, sheet)
    return found


def _add(found: dict[str, bytes], name: str, content: bytes | None) -> None:
    if content is not None:
        found[name] = content


def _left(found: Mapping[str, bytes]) -> int:
    """Return the number of bytes that the page may still have."""
    return PAGE_BYTES - sum(map(len, found.values()))


# --- from the run ---


def curves(log: Path, limit: int = CURVES_BYTES) -> bytes | None:
    """Return the losses by epoch as JSON; None if there are none."""
    records = _epoch_records(log)
    phases = list(dict.fromkeys(record["phase"] for record in records))
    for most in CURVE_EPOCHS:
        found = [_curve([record for record in records if record["phase"] == phase], most) for phase in phases]
        if found and len(content := _json(found)) <= limit:
            return content
    return None


def _epoch_records(log: Path) -> list[dict[str, Any]]:
    """Return the records of a log that end an epoch."""
    return [record for record in (read_log(log) if log.exists() else []) if "epoch" in record]


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


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


def epochs(run: Path, data: Data, limit: int) -> dict[str, bytes]:
    """Return the picture of samples by epoch and the list of the epochs, from the sheets of samples that the run keeps.

    The sheets are those of the last phase that has any. Return nothing for rows of a table, for a run with fewer than two sheets, and if no
    picture is small enough.
    """
    spec = data.spec
    if not spec.pictures:
        return {}
    kept = _sampled(run, spec)
    for most, across in ROWS if len(kept) > 1 else ():
        chosen = [sorted(kept)[place] for place in _spread(len(kept), most)]
        rows = np.concatenate([kept[epoch][:across] for epoch in chosen])
        picture = imaging.to_png(imaging.grid(rows, columns=min(across, len(rows) // len(chosen))))
        listed = _json(chosen)
        if len(picture) + len(listed) <= limit:
            return {EPOCHS: picture, EPOCHS_LIST: listed}
    return {}


def _sampled(run: Path, spec: Kind) -> dict[int, Array]:
    """Return the first samples of each epoch that has a sheet in the run, in the last phase with sheets, by epoch."""
    found: dict[str, dict[int, Array]] = {}
    for record in _epoch_records(run / LOG):
        images = sheets.first_row(sheets.path_of(run, record["phase"], record["epoch"], spec), spec)
        if images is not None:
            found.setdefault(record["phase"], {})[record["epoch"]] = images
    return list(found.values())[-1] if found else {}


# --- from the artifact and its data ---


def points(source: Source, limit: int = POINTS_BYTES) -> bytes | None:
    """Return the latents of test items as .npz; None if the latent is so large that not even 100 items fit."""
    most = _most_points(source.model.manifest, limit)
    if not most:
        return None
    part = subset(source.data.test, _spread(len(source.data.test), most))
    means = priors.posterior_means(source.model, source.data, part, source.to_model).astype(np.float16)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, means=means, labels=part.labels.astype(np.int16))
    return buffer.getvalue()


def _most_points(manifest: Manifest, limit: int = POINTS_BYTES) -> int:
    """Return how many items' latents fit; 0 if there is no encoder into a latent, or not even the smallest number fits."""
    if manifest.space is None or "encode" not in manifest.tasks:
        return 0
    return next((most for most in ITEMS if 2 * most * manifest.space.count <= limit), 0)


def sheet_of(source: Source, limit: int) -> bytes | None:
    """Return the largest grid of items whose file is small enough; None if there is none."""
    groups = _groups(source, SHOWN[0])
    if groups is None:
        return None
    spec = source.model.manifest.spec
    grids = (spec.sheet(groups[:n].reshape(-1, *groups.shape[2:])) for n in SHOWN)
    return next((content for content in grids if len(content) <= limit), None)


def _groups(source: Source, n: int) -> Array | None:
    """Return n test items, each with its reconstruction (n, 2, *shape), or n samples (n, 1, *shape) if the model cannot reconstruct."""
    model, data = source.model, source.data
    if supports(model.manifest, "reconstruct"):
        held = first(data.test, n)
        items = source.to_model(held.items)
        conditioned = model.manifest.tasks["encode"].input("condition")
        back = model.reconstruct(
            items, classes=priors.conditions(model.manifest, data, held) if conditioned else None
        ).data
        return np.stack([items, back], axis=1)
    return model.sample(n, seed=SEED).data[:, None] if draws_items(model.manifest) else None


def _spread(n: int, most: int) -> Array:
    """Return at most `most` evenly spread indices below n."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64)) if n else np.arange(0)
