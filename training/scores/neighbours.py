"""The graph module for distances to the nearest reference points."""

from __future__ import annotations

from torch import Tensor, nn

from manifold.training.networks.layers import per_item

CANDIDATES = 4  # number of candidates, as a multiple of k


class Neighbours(nn.Module):
    """The mean Euclidean distance (B,) from points (B, D) to the k nearest of N references.

    Candidates are found by one matrix product. Their distances are computed again from the differences, and the k nearest are selected by
    these, because |a|² - 2ab + |b|² loses its significant digits if two points are close.
    """

    points: Tensor

    def __init__(self, references: Tensor, k: int) -> None:
        super().__init__()
        self.register_buffer("points", references.contiguous())  # (N, D)
        self.k = min(k, len(references))

    def find(self, x: Tensor, added: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the indices and the distances of the k nearest references, (B, k) each, nearest first.

        They are selected from a larger number of candidates. `added` (B,) is added to the squared distances.
        """
        k = min(CANDIDATES * self.k, len(self.points))
        half = 0.5 * (self.points * self.points).sum(1)
        nearest = (half - x @ self.points.T).topk(k, dim=1, largest=False).indices
        differences = x[:, None] - self.points[nearest]  # (B, k, D)
        squared = per_item((differences * differences).flatten(0, 1)).view(-1, k)
        distances = (squared if added is None else squared + added[:, None]).sqrt()
        best = distances.topk(self.k, dim=1, largest=False)
        return nearest.gather(1, best.indices), best.values

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        return per_item(self.find(x, added)[1]) / self.k
