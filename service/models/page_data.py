"""The numbers of an artifact's page as JSON: latents of test items with their principal components, and training curves.

A response takes a few milliseconds, so that none is kept in memory: for 1000 latents of 20 values 6 ms, half of it to write short numbers.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from manifold.runtime import npz, problems
from manifold.runtime.errors import cut
from manifold.runtime.manifest import Manifest
from manifold.service.core import contract, encoding
from manifold.service.models import page_files
from manifold.service.models.page_files import AGAIN

Float64 = NDArray[np.float64]

ARRAY_BYTES = 2**20  # limit for the arrays of the points after unpacking
PLACES = range(3, 9)  # numbers of decimal places that are tried for the number of a latent
COMPONENTS = 2  # principal components in the response
PHASES = TypeAdapter(list[contract.CurvePhase])
EPOCHS = TypeAdapter(list[Annotated[int, Field(ge=0)]])


class Invalid(ValueError):
    """The error of a file whose content has the wrong form."""


def content(folder: Path, manifest: Manifest | None, subject: str, field: str) -> tuple[bytes, str, str]:
    """Return the response of a subject of page_files with its media type, and the checksum of its file. Raise NotFound or Unavailable."""
    if (read := {"points": points, "curves": curves}.get(subject)) is not None:
        body, checksum = read(folder, manifest, field)
        return body, encoding.JSON, checksum
    file = page_files.read(folder, manifest, subject, field)
    return file.content, file.media_type, file.sha256


def points(folder: Path, manifest: Manifest | None, field: str) -> tuple[bytes, str]:
    """Return the response of GET /models/{name}/points, and the checksum of its file. Raise NotFound or Unavailable."""
    file = page_files.read(folder, manifest, "points", field)
    try:
        if manifest is None or manifest.space is None:
            raise Invalid("the manifest describes no latent")
        arrays = npz.read(io.BytesIO(file.content), ("means", "labels"), _problem, limit=ARRAY_BYTES)
        return encoding.dumps(_described(arrays, manifest.space.dims)), file.sha256
    except (Invalid, npz.Unreadable) as error:
        raise page_files.unusable(folder, "points", field, f"{file.path}: {error}; {AGAIN}") from None


def curves(folder: Path, manifest: Manifest | None, field: str) -> tuple[bytes, str]:
    """Return the response of GET /models/{name}/curves, and the checksum of the file of losses. Raise NotFound or Unavailable."""
    file = page_files.read(folder, manifest, "curves", field)
    try:
        phases = _parsed(PHASES, file.content)
        for phase in phases:
            if wrong := [name for name, losses in phase.losses.items() if len(losses) != len(phase.steps)]:
                raise Invalid(f"{cut(wrong[0])} of the phase {cut(phase.phase)} does not have one number for each step")
    except Invalid as error:
        raise page_files.unusable(folder, "curves", field, f"{file.path}: {error}; {AGAIN}") from None
    body = {"phases": [phase.model_dump() for phase in phases], **_epochs(folder, manifest, field)}
    return encoding.dumps(body), file.sha256


def _epochs(folder: Path, manifest: Manifest | None, field: str) -> dict[str, list[int]]:
    """Return the field `epochs`: the epochs of the rows of the picture of samples. Return no field if the artifact has no such list."""
    file = page_files.find(folder, manifest, "listed", field)
    if file is None:
        return {}
    try:
        return {"epochs": _parsed(EPOCHS, file.content)}
    except Invalid as error:
        raise page_files.unusable(folder, "listed", field, f"{file.path}: {error}; {AGAIN}") from None


def _parsed(shape: TypeAdapter[Any], content: bytes) -> Any:
    """Return JSON in a form. Raise Invalid with the first problem."""
    try:
        return shape.validate_python(orjson.loads(content), strict=True)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"is not JSON: {cut(str(error))}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        raise Invalid(f"{problems.place(problem['loc']) or 'content'}: {problems.sentence(problem)}") from None


def _problem(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> str | None:
    """Return what is wrong with an array of the points; None if nothing is."""
    kind, axes = ("f", 2) if name == "means" else ("i", 1)
    if dtype.kind == kind and len(shape) == axes and shape[0] > 0:
        return None
    return "but means must be floats (N, L)" if name == "means" else "but labels must be integers (N,)"


def _described(arrays: dict[str, NDArray[Any]], shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the latents (N, L) with their labels, their spread, and their principal components. Raise Invalid."""
    if missing := {"means", "labels"} - arrays.keys():
        raise Invalid(f"has no array {min(missing)}")
    means, labels = arrays["means"], arrays["labels"]
    if means.shape[1] != np.prod(shape):
        raise Invalid(f"means has {means.shape[1]} values per item, but the latent has {np.prod(shape)}")
    if len(labels) != len(means):
        raise Invalid(f"labels has {len(labels)} entries, but means has {len(means)}")
    if not np.isfinite(means).all():
        raise Invalid("means contains numbers that are not finite")
    exact = means.astype(np.float64)
    spread = exact.std(axis=0)
    return {
        "means": _shortened(means), "labels": labels, "shape": shape, "spread": _rounded(spread),
        "active": np.argsort(-spread, kind="stable"), "projection": _projection(exact),
    }  # fmt: skip


def _projection(means: Float64) -> dict[str, Any]:
    """Return the mean (L,) and the first principal components (min(2, L), L) of latents (N, L), with their shares of the variance.

    The largest entry of each component is positive, so that a picture of the latents is not mirrored on another machine.
    """
    mean = means.mean(axis=0)
    _, values, directions = np.linalg.svd(means - mean, full_matrices=False)  # directions (min(N, L), L)
    number = min(COMPONENTS, means.shape[1])
    components, explained = np.zeros((number, means.shape[1])), np.zeros(number)
    found = min(number, len(directions))  # one item alone has one direction
    components[:found] = directions[:found]
    largest = components[np.arange(number), np.abs(components).argmax(axis=1)]
    components *= np.where(largest < 0, -1, 1)[:, None]
    total = float((values**2).sum())
    if total > 0:
        explained[:found] = values[:found] ** 2 / total
    return {"mean": _rounded(mean), "components": _rounded(components), "explained": _rounded(explained)}


def _shortened(means: NDArray[Any]) -> Float64:
    """Return the numbers with the fewest decimal places that still give the same float16 or float32, which halves the JSON."""
    found, left = means.astype(np.float64), np.ones(means.shape, bool)
    for places in PLACES:
        rounded = np.round(found, places)
        same = left & (rounded.astype(means.dtype) == means)
        found[same] = rounded[same]
        left &= ~same
    return found


def _rounded(values: Float64) -> Float64:
    """Return numbers with six decimal places, more than a picture shows."""
    return np.round(values, 6)
