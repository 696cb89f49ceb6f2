"""The cache of decoded folders: digests and properties of files, and their images as one array that is mapped into memory.

The name of a cache file is the digest of its inputs. Files are written under a temporary name and renamed. The cache may be deleted at any
time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pooch

from manifold.runtime import imaging
from manifold.runtime.folders import Entry, Listing
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.repository import replacing
from manifold.training.data.parts import Array
from manifold.training.data.remote import digest

CACHE_VARIABLE = "MANIFOLD_CACHE"  # also used for the evaluator's features
READER = 1  # version of the cache; with another version the files are read again


def cache_folder() -> Path:
    """Return the folder of decoded images: in MANIFOLD_CACHE if it is set, by default next to the downloaded data sets."""
    given = os.environ.get(CACHE_VARIABLE)
    return (Path(given) if given else Path(pooch.os_cache("manifold"))) / "folders"


def digests(listing: Listing) -> tuple[str, ...]:
    """Return the SHA-256 of each file. It is computed again if a file's size, modification time or inode has changed."""
    index = _of_root(listing, "files")
    known = _read_json(index)
    found = {}
    for entry in listing.entries:
        state = entry.path.stat()
        stamp = [state.st_size, state.st_mtime_ns, state.st_ino]
        earlier = known.get(entry.name)
        found[entry.name] = [*stamp, earlier[3] if earlier and earlier[:3] == stamp else digest(entry.path, "sha256")]
    if found != known:
        _write_json(index, found)
    return tuple(str(found[entry.name][3]) for entry in listing.entries)


def surveyed(
    listing: Listing, files: Sequence[str], survey: Callable[[bytes, str], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the survey of each file. It depends only on the file's content, whose SHA-256 is in `files`."""
    index = _of_root(listing, "survey")
    known = _read_json(index)
    found = {
        file: known.get(file) or survey(entry.path.read_bytes(), str(entry.path))
        for entry, file in zip(listing.entries, files, strict=True)
    }
    if found != known:
        _write_json(index, found)
    return [found[file] for file in files]


def _of_root(listing: Listing, kind: str) -> Path:
    """Return the path of the cache file with this kind of information about a folder's files."""
    root = hashlib.sha256(str(listing.root).encode("utf-8", "surrogateescape")).hexdigest()
    return cache_folder() / f"{root}.{READER}.{kind}.json"


def stored(
    entries: Sequence[Entry], files: Sequence[str], spec: ImageSpec
) -> tuple[Array, tuple[str, ...], dict[str, int]]:
    """Return the images, mapped from the cache, the digest of each image's pixels, and the number of files by change."""
    path = cache_folder() / f"{_key('images', spec.model_dump_json(), *files)}.npy"
    about = path.with_suffix(".json")
    if not (path.exists() and about.exists()):
        _decode_into(path, about, entries, spec)
    stated = _read_json(about)
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
        if (
            pixels.shape != (len(entries), *spec.shape)
            or pixels.dtype != np.uint8
            or len(stated["images"]) != len(entries)
        ):
            raise ValueError("another shape")
    except (ValueError, KeyError, EOFError, OSError):  # a damaged file, for example after a full disk
        path.unlink(missing_ok=True)
        _decode_into(path, about, entries, spec)
        stated, pixels = _read_json(about), np.load(path, mmap_mode="r", allow_pickle=False)
    return pixels, tuple(stated["images"]), stated["read"]


def _decode_into(path: Path, about: Path, entries: Sequence[Entry], spec: ImageSpec) -> None:
    """Decode image files into an array file. One image is in memory at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images, read = [], Counter[str]()
    with replacing(path) as temporary:
        items = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(len(entries), *spec.shape))
        for index, entry in enumerate(entries):
            pixels, fitted = imaging.read_image(entry.path.read_bytes(), spec, field=str(entry.path))
            items[index] = pixels
            images.append(hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest())
            read.update(fitted.notes)
        items.flush()
        del items
    _write_json(about, {"images": images, "read": dict(read)})


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join((str(READER), *parts)).encode()).hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a cache file, or an empty one if the file is missing or damaged."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content))
