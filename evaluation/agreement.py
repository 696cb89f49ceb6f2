"""The agreement of detectors about the same items, without labels: rank correlations, and the items that only one detector ranks high.

The rank of an item is 1 plus the number of items with a higher score, so that 1 is the most anomalous, and equal scores have equal ranks. A
detector ranks an item *high* if its rank is at most N, which is 1% of the items and at least LEAST. *Only one* detector ranks an item high if
its rank in every other detector is above FAR times N.

A detector whose scores are all equal does not rank: it has no correlation, it ranks no item high, and it is ignored in the ranks of the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

SHARE = 0.01  # share of the items that a detector ranks high
LEAST = 10  # smallest number of items that a detector ranks high
FAR = 3  # an item is not ranked high by other detectors if its rank there is above FAR times N
OWN = "this model"  # the name of the model beside those of its peers
ADVICE = (
    "Items that only this model ranks high are what it adds to simple detectors: check the reasons. This model may miss items that only another "
    "detector ranks high."
)


@dataclass(frozen=True)
class Agreement:
    """The ranks of n items by detectors. The model is OWN, and its peers have the names of evaluation.peers."""

    ranks: dict[str, NDArray[np.int64]]  # (n,) by detector
    correlations: dict[tuple[str, str], float | None]  # Spearman's, by pair; None if a detector does not rank
    unranked: tuple[str, ...]  # detectors whose scores are all equal

    @property
    def n(self) -> int:
        """The number of items."""
        return len(self.ranks[OWN])

    @property
    def peers(self) -> list[str]:
        """The names of the peers."""
        return [name for name in self.ranks if name != OWN]

    @property
    def top(self) -> int:
        """The number N: the largest rank that is high."""
        return min(self.n, max(LEAST, math.ceil(SHARE * self.n)))

    @property
    def far(self) -> int:
        """The largest rank that is near the high ones."""
        return FAR * self.top

    @property
    def sizes(self) -> dict[str, int]:
        """The number of items that only this detector ranks high, by detector."""
        return {name: len(self.only(name)) for name in self.ranks}

    @property
    def compares(self) -> bool:
        """Whether there are enough items to compare the ranks: some are not among the high ones."""
        return self.n > self.top

    @property
    def lists(self) -> bool:
        """Whether an item can be ranked high by only one detector: there are enough items, and at least two detectors rank them."""
        return self.n > self.far and len(self.ranks) - len(self.unranked) > 1

    def high(self, name: str) -> NDArray[np.bool_]:
        """Return whether the detector ranks each item high, (n,)."""
        return np.full(self.n, name not in self.unranked) & (self.ranks[name] <= self.top)

    def shared(self, a: str, b: str) -> int:
        """Return the number of items that both detectors rank high."""
        return int((self.high(a) & self.high(b)).sum())

    def only(self, name: str) -> NDArray[np.int64]:
        """Return the indices of the items that only this detector ranks high, in the order of its ranks; empty unless `lists`."""
        found = self.high(name) & self.lists
        for other, ranks in self.ranks.items():
            if other != name and other not in self.unranked:
                found &= ranks > self.far
        places = np.flatnonzero(found)
        return places[np.argsort(self.ranks[name][places], kind="stable")]


def compare(own: Float64, peers: Mapping[str, Float64]) -> Agreement:
    """Compare the scores (n,) of a model with those of its peers, higher being more anomalous."""
    from scipy.stats import rankdata, spearmanr

    scores = {OWN: own, **peers}
    unranked = tuple(name for name, values in scores.items() if values.min() == values.max())
    return Agreement(
        {name: rankdata(-values, method="min").astype(np.int64) for name, values in scores.items()},
        {
            (a, b): None if a in unranked or b in unranked else float(spearmanr(scores[a], scores[b]).statistic)
            for a, b in combinations(scores, 2)
        },
        unranked,
    )


def meaning(noun: str) -> str:
    """Return what a rank correlation means, and what it does not mean. `noun` is the name of the items, such as rows."""
    return (
        f"A rank correlation (Spearman) of 1 means that two detectors order all {noun} in the same way, and 0 that their orders are unrelated. A low "
        f"correlation means that the detectors look for different things. It does not say which of them is right, and detectors that agree can all be "
        f"wrong: only labels show this."
    )


def rule(found: Agreement, noun: str) -> str:
    """Return what it means that a detector ranks an item high, and that only one does."""
    n, far = found.top, found.far
    return (
        f"Rank 1 is the highest score, and equal scores have the same rank. A detector ranks {noun} high if their rank is at most {n} "
        f"({SHARE:.0%} of the {found.n} {noun}, at least {LEAST}). Only one detector ranks them high if their rank in every other detector is above "
        f"{far} ({FAR} times {n})."
    )


def doubts(found: Agreement, noun: str, names: Mapping[str, str]) -> list[str]:
    """Return sentences on detectors that do not rank, and on too few items for the lists. `names` are the names of the peers in texts."""
    if not found.compares:
        return [f"{found.n} {noun} are too few to compare detectors; this takes more than {found.top}."]
    said = [f"All scores of {names.get(name, name)} are equal, so it does not rank {noun}." for name in found.unranked]
    if found.n <= found.far:
        said.append(
            f"{found.n} {noun} are too few to find those that only one detector ranks high; this takes more than {found.far}."
        )
    return said
