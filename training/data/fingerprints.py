"""The fingerprint of a data set, which a run records when it begins, and the comparison with the data that it is continued with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from manifold.runtime.errors import LISTED, cut, shown
from manifold.runtime.kinds.table import TableSpec
from manifold.training.data.parts import Part, batches
from manifold.training.data.splits import Data

HASHED = 1000  # largest number of items that are hashed at a time
SPLITS = ("train", "selection", "calibration", "test", "anomalies")


def of(data: Data) -> dict[str, Any]:
    """Return the fingerprint of a data set, as JSON values: its digest, columns, classes, and number of items by split.

    The digest is that of the file or folder. For other data sets it is computed from the items and labels of all splits.
    """
    splits: dict[str, Part] = {name: part for name in SPLITS if (part := getattr(data, name)) is not None}
    return {
        "sha256": data.protocol.get("sha256") or digest(splits),
        "columns": [column.name for column in TableSpec.of(data.spec, data.name).columns]
        if data.spec.in_files
        else None,
        "classes": None if data.classes is None else list(data.classes),
        "items": {name: len(part) for name, part in splits.items()},
    }


def digest(splits: Mapping[str, Part]) -> str:
    """Return the SHA-256 of the items and labels of these splits, in order."""
    found = hashlib.sha256()
    for name, part in splits.items():
        found.update(f"{name} {len(part)}".encode())
        for held in batches(part, HASHED):
            found.update(np.ascontiguousarray(held.items).data)
            found.update(np.ascontiguousarray(held.labels).data)
    return found.hexdigest()


def differences(began: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences of two fingerprints as texts. A value that the earlier one does not contain is not compared."""
    found = []
    for kind in ("columns", "classes"):
        before, after = began.get(kind), now[kind]
        if kind in began and before != after:
            found.append(_of_names(kind, before or [], after or []))
    counts, present = began.get("items") or {}, now["items"]
    found += [
        f"{counts.get(split, 0)} {split} items were there, now {present.get(split, 0)}"
        for split in SPLITS
        if counts and counts.get(split, 0) != present.get(split, 0)
    ]
    if began.get("sha256") != now["sha256"]:
        found.append(f"the SHA-256 was {str(began.get('sha256'))[:12]}…, now {now['sha256'][:12]}…")
    return found


def _of_names(kind: str, before: list[str], after: list[str]) -> str:
    """Return the difference of two lists of columns or classes."""
    missing, added = ([name for name in one if name not in other] for one, other in ((before, after), (after, before)))
    parts = [
        f"{what} {', '.join(shown(name) for name in names[:LISTED])}"
        for what, names in (("without", missing), ("with the new", added))
        if names
    ]
    return f"{kind} are now {cut(' and '.join(parts))}" if parts else f"{kind} are now in another order"
