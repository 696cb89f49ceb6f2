"""The means of figures over items, with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from manifold.runtime.manifest import Metric


class Means:
    """Running means of figures by name. The items are independent, so a standard error also contains the error of an item's own draws."""

    def __init__(self) -> None:
        self.n: dict[str, int] = {}
        self.sums: dict[str, float] = {}
        self.squares: dict[str, float] = {}

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Add figures of a batch by name, (B,) each."""
        for name, values in figures.items():
            exact = values.double()
            self.n[name] = self.n.get(name, 0) + len(exact)
            self.sums[name] = self.sums.get(name, 0.0) + float(exact.sum())
            self.squares[name] = self.squares.get(name, 0.0) + float((exact**2).sum())

    def __getitem__(self, name: str) -> float:
        """Return the mean of a figure."""
        return self.sums[name] / self.n[name]

    def __contains__(self, name: str) -> bool:
        return name in self.n

    def se(self, name: str) -> float | None:
        """Return the standard error of a figure's mean; None for fewer than two items."""
        n = self.n[name]
        variance = max(self.squares[name] - n * self[name] ** 2, 0.0) / (n - 1) if n > 1 else math.nan
        return math.sqrt(variance / n) if n > 1 else None

    def metrics(self, protocols: Mapping[str, Mapping[str, Any]], unit: str = "nats") -> Iterator[Metric]:
        """Yield the metric of each figure that has a protocol, in the order of `protocols`."""
        for name, protocol in protocols.items():
            error = self.se(name)
            yield Metric(
                name=name, value=round(self[name], 4), se=None if error is None else round(error, 4), unit=unit, protocol=dict(protocol)
            )  # fmt: skip


def bits_per_dim(means: Means, name: str, values: int, protocol: Mapping[str, Any], more: float = 0.0) -> Metric:
    """Return the bits per dimension of a likelihood in nats per item of `values` values. `more` bits are added for a density."""
    nats = means[name] if name.startswith("nll") else -means[name]
    bits = nats / (values * math.log(2)) + more
    error = means.se(name)
    return Metric(
        name="bits_per_dim", value=round(bits, 4), se=None if error is None else round(error / (values * math.log(2)), 4), unit="bits/dim",
        protocol={**protocol, "from": name},
    )  # fmt: skip
