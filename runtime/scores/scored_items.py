"""The anomaly scores of items with their decisions, as the library returns them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from manifold.runtime.scores.decisions import Judged
from manifold.runtime.scores.scoring import Threshold
from manifold.runtime.shown import columns, html_table
from manifold.runtime.tabular import Tabular


@dataclass(frozen=True, repr=False)
class ScoredItem:
    """The score of one item, and the decision."""

    score: float  # higher is more anomalous
    p_value: float | None  # None if the model has no calibration
    is_anomaly: bool | None  # None if the model cannot decide: `notes` of the scores says why
    band: str | None  # allow, review or block
    risk: int | None  # 0 to 999, a fixed function of the p-value
    state: str
    parts: dict[str, dict[str, float | None]]  # value and p-value of each term
    warnings: tuple[str, ...] = ()
    explanation: dict[str, Any] | None = None
    id: Any = None  # the id of a row, if the model records an id column
    passed: dict[str, Any] | None = None  # the columns of a row that the model copies to the output

    def __repr__(self) -> str:
        p_value = "None" if self.p_value is None else f"{self.p_value:.4g}"
        return f"<ScoredItem: score {self.score:.6g}, p_value {p_value}, is_anomaly {self.is_anomaly}, band {self.band}, state {self.state}>"


@dataclass(frozen=True, repr=False)
class AnomalyScores(Tabular):
    """The anomaly scores of items."""

    items: list[ScoredItem]
    threshold: Threshold
    notes: tuple[str, ...]  # why items are not decided

    @classmethod
    def of(cls, judged: Judged, fields: Sequence[dict[str, Any]]) -> AnomalyScores:
        """Return the scores of items; `fields` are the further fields of each item."""
        items = [ScoredItem(**judged.item(place), **own) for place, own in enumerate(fields)]
        return cls(items, judged.threshold, judged.notes)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[ScoredItem]:
        return iter(self.items)

    def __getitem__(self, place: int) -> ScoredItem:
        return self.items[place]

    def table(self) -> dict[str, list[Any]]:
        """Return a row for each item by column, with the columns of scored files: score, p_value, is_anomaly, part.NAME and so on."""
        rows = []
        for item in self.items:
            row: dict[str, Any] = {} if item.id is None else {"id": item.id}
            row |= {f"passed.{name}": value for name, value in (item.passed or {}).items()}
            row |= {
                "score": item.score,
                "p_value": item.p_value,
                "is_anomaly": item.is_anomaly,
                "band": item.band,
                "risk": item.risk,
            }
            row |= {"state": item.state, "warnings": list(item.warnings)}
            for name, part in item.parts.items():
                row |= {f"part.{name}": part["value"], f"part.{name}.p_value": part["p_value"]}
            rows.append(row)
        return columns(rows)

    def __repr__(self) -> str:
        undecided = sum(item.is_anomaly is None for item in self.items)
        said = f"{len(self.items)} scored, {sum(bool(item.is_anomaly) for item in self.items)} anomalous"
        return f"<AnomalyScores: {said}{f', {undecided} undecided' if undecided else ''}>"

    def _repr_html_(self) -> str:
        """Return the first rows as a table for notebooks."""
        return html_table(self.table(), len(self.items))
