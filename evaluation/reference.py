"""Reference statistics: the features of real images under one extractor. They are cached by content, and stored as pytorch-fid's .npz.

The .npz holds `mu` (d,) and `sigma` (d, d), which pytorch-fid reads. A JSON file of the same name beside it holds the provenance: the
extractor, its checksum, the resize rule and the images.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation.errors import EvaluationError
from manifold.evaluation.extractors import ExtractedFeatures, Extractor, Progress, extract
from manifold.evaluation.images import ImageSource
from manifold.evaluation.statistics import FeatureGaussian
from manifold.runtime import npz
from manifold.runtime.errors import cut, reason
from manifold.runtime.repository import replacing

Array = NDArray[Any]
CACHE_VARIABLE = "MANIFOLD_CACHE"
DIMENSIONS = 8192  # largest number of features
MOMENTS_BYTES = 9 * DIMENSIONS**2
FORMAT = 2  # version of the cached files; files of another version are computed again


@dataclass(frozen=True)
class Reference:
    """The statistics of real images under an extractor. `features` is None if only moments were read from a file."""

    gaussian: FeatureGaussian
    origin: dict[str, Any]  # data, split, n and sha256; becomes part of the protocol
    features: ExtractedFeatures | None = None
    class_shares: NDArray[np.float64] | None = None
    anchors: dict[str, Any] | None = None  # read from the file, if it has any
    source: ImageSource | None = None  # None if only moments were read from a file

    @property
    def n(self) -> int | None:
        """Return the number of images; None if the file does not state it."""
        return self.gaussian.n


def of_source(extractor: Extractor, source: ImageSource, split: str, progress: Progress | None = None) -> Reference:
    """Return the statistics of all images of the source. They come from the cache if this extractor has already processed these images."""
    features, digest = cached(extractor, source, progress)
    origin = {"data": source.name, "split": split, "n": features.n, "sha256": digest}
    return Reference(features.gaussian, origin, features, features.class_shares, source=source)


def cached(
    extractor: Extractor, source: ImageSource, progress: Progress | None = None
) -> tuple[ExtractedFeatures, str | None]:
    """Return the features that the extractor computes, from the cache if possible, and the SHA-256 of the images."""
    content = source.content_hash()
    if content is None:
        return extract(extractor, source, progress=progress), None
    key = hashlib.sha256(f"{FORMAT} {extractor.sha256} {extractor.mode} {content}".encode()).hexdigest()
    path = cache_folder() / f"{key}.npz"
    if path.exists():
        try:
            return _read(path), content
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            path.unlink()  # a damaged file, for example after a full disk; it is computed again below
    features = extract(extractor, source, progress=progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, features)
    return features, content


def cache_folder() -> Path:
    """Return the folder of cached features: MANIFOLD_CACHE if it is set, else a folder in the user's cache."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "manifold" / "features"


def _write(path: Path, features: ExtractedFeatures) -> None:
    gaussian = features.gaussian
    arrays: dict[str, Any] = {
        "n": features.n, "mu": gaussian.mean, "rows": features.rows, "labels": features.labels, "duplicates": features.duplicates,
        "first": features.first, "skipped": np.asarray(features.skipped, dtype=np.str_),
        "notes": np.asarray([(note, str(n), name) for note, (n, name) in features.notes.items()], dtype=np.str_).reshape(-1, 3),
    }  # fmt: skip
    if gaussian.rows is not None:
        arrays["factor"] = gaussian.rows
    else:
        arrays["sigma"] = gaussian.covariance
    if features.probabilities is not None:
        arrays["probabilities"] = features.probabilities
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _read(path: Path) -> ExtractedFeatures:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
        arrays = dict(content)
    n = int(arrays["n"])
    gaussian = FeatureGaussian(arrays["mu"], n, covariance=arrays.get("sigma"), rows=arrays.get("factor"))
    return ExtractedFeatures(
        n, gaussian, arrays["rows"], arrays.get("probabilities"), arrays["labels"], float(arrays["duplicates"]), arrays["first"],
        tuple(str(name) for name in arrays["skipped"]), {note: (int(n), name) for note, n, name in arrays["notes"].tolist()},
    )  # fmt: skip


# --- files --------------------------------------------------------------------------------------------------------------------


def write_npz(path: Path, reference: Reference, extractor: Extractor, anchors: dict[str, Any] | None = None) -> None:
    """Write mu and sigma into `path`, and the provenance into the JSON file beside it."""
    provenance = {
        "extractor": extractor.name, "extractor_sha256": extractor.sha256, "dimensions": extractor.dimensions, "resize": extractor.mode,
        "reference": reference.origin,
    }  # fmt: skip
    if reference.class_shares is not None:
        provenance["class_shares"] = [round(float(share), 8) for share in reference.class_shares]
    if anchors:
        provenance["anchors"] = anchors
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, mu=reference.gaussian.mean, sigma=reference.gaussian.covariance)
    with replacing(beside(path)) as temporary:
        temporary.write_text(json.dumps(provenance, indent=1) + "\n")


def _check_moments(name: str, shape: npz.Shape, dtype: np.dtype[Any]) -> str | None:
    most = 1 if name == "mu" else 2
    return (
        None
        if len(shape) <= most and max(shape, default=1) <= DIMENSIONS
        else f"at most {[DIMENSIONS] * most} is allowed"
    )


def beside(path: Path) -> Path:
    """Return the path of the provenance of a statistics file: `reference.json` for `reference.npz`."""
    return path.with_suffix(".json")


def _provenance(path: Path) -> dict[str, Any]:
    """Read the JSON file beside statistics. Raises EvaluationError if its structure is wrong."""
    try:
        stated = json.loads(path.read_text())
        origin, shares = stated.get("reference", {}), stated.get("class_shares") or []
        good = isinstance(origin, dict) and isinstance(origin.get("n") or 1, int) and isinstance(shares, list)
        if good and isinstance(stated.get("anchors") or {}, dict) and np.asarray(shares, np.float64).ndim == 1:
            return dict(stated)
        raise ValueError("its structure is not the one that `manifold reference` writes")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise EvaluationError(
            f"{path}: cannot be read: {cut(str(error))}; remove it, or write both files again with `manifold reference`"
        ) from None


def read_npz(path: Path, extractor: Extractor) -> Reference:
    """Read moments from a file that `manifold reference` or pytorch-fid wrote.

    Raises EvaluationError if the file is unreadable, or was made with another extractor or resize rule. Without a provenance file only the
    dimensions can be checked; the protocol then states that the split is unknown.
    """
    try:
        arrays = npz.read(path, ("mu", "sigma"), _check_moments, limit=MOMENTS_BYTES)
        mean, covariance = (np.asarray(arrays[key], np.float64) for key in ("mu", "sigma"))
    except (ValueError, KeyError) as error:
        if not path.exists():
            raise EvaluationError(f"{path}: no such file; write it with `manifold reference`") from None
        raise EvaluationError(
            f"{path}: not a statistics file (an .npz with mu and sigma): {reason(error)}; write one with `manifold reference`"
        ) from None
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise EvaluationError(
            f"{path}: mu has shape {list(mean.shape)} and sigma {list(covariance.shape)}; they must be [d] and [d, d]"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise EvaluationError(
            f"{path}: mu or sigma contains values that are not finite; write the file again with `manifold reference`"
        )
    if len(mean) != extractor.dimensions:
        raise EvaluationError(
            f"{path}: it has {len(mean)} features, but {extractor.name} computes {extractor.dimensions}; use the extractor that made this file"
        )
    provenance = _fitting_provenance(path, extractor)
    origin = provenance.get("reference") or _bare_origin(path)
    shares = provenance.get("class_shares")
    gaussian = FeatureGaussian(mean, origin.get("n"), covariance=(covariance + covariance.T) / 2)
    return Reference(gaussian, origin, None, np.asarray(shares) if shares else None, provenance.get("anchors"))


def _fitting_provenance(path: Path, extractor: Extractor) -> dict[str, Any]:
    """Return the provenance beside statistics, empty if there is none. Raises EvaluationError if another extractor made them."""
    if not beside(path).exists():
        return {}
    provenance = _provenance(beside(path))
    for key, own in (("extractor_sha256", extractor.sha256), ("resize", extractor.mode)):
        if (theirs := provenance.get(key, own)) != own:
            raise EvaluationError(
                f"{path}: made by {cut(str(provenance.get('extractor')))} with {key} {cut(str(theirs))}, but {extractor.name} has {own}; "
                "use the same extractor and resize rule, or write the file again with `manifold reference`"
            )
    return provenance


def _bare_origin(path: Path) -> dict[str, Any]:
    """Return the origin of statistics without a provenance file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"data": path.name, "split": "not stated by the file", "n": None, "sha256": digest}


def is_statistics(path: Path) -> bool:
    """Return whether a file is an .npz with statistics. Files of images and unreadable files are not."""
    if path.suffix != ".npz":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return "mu.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False  # reading it as images will report what is wrong
