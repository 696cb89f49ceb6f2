"""The result of a use case, before it is encoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from manifold.runtime.manifest import Manifest
from manifold.runtime.scores import decisions
from manifold.service.models.entries import Entry

Array = NDArray[Any]


@dataclass
class UseCaseResult:
    """The result of a use case, before it is encoded as JSON, a picture or an array."""

    entry: Entry
    fields: dict[str, Any] = field(default_factory=dict)
    items: Array | None = None  # items as the graph returns them; images, data or rows in the response
    others: Mapping[str, Array] = field(default_factory=dict)  # items of the other outputs, by role
    recipes: Callable[[], list[dict[str, Any]]] | None = None  # recipes of the items, if they are pictures
    encoding: str = "png"
    work: float = 0  # the cost of reading the request, in bytes (service.aside)
    queue: float = 0.0
    compute: float = 0.0
    numbers: Array | None = None  # the numbers of a binary response without items
    judged: decisions.Judged | None = None  # decisions of /anomaly-score, for the metrics of scores

    @property
    def manifest(self) -> Manifest:
        assert self.entry.manifest is not None
        return self.entry.manifest
