"""Alarms of adversarial training while it runs: mode collapse, dropped modes, vanishing gradients.

A watch inspects the generated items and the window's means of losses and gradient norms at regular steps, and raises alarms. It changes
nothing by itself; the loop decides whether to roll back to the last good state. Figures of the real items are computed in the constructor,
so that an inspection costs a few hundred samples and one pass of the classifier.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manifold.runtime.engine import Model
from manifold.runtime.operations import softmax

Array = NDArray[Any]

ITEMS = 500  # generated for an inspection
COLLAPSED = 0.3  # spread of made items over that of real ones, below which they are nearly one item
DROPPED = 0.1  # share of a class over its share of the data, below which it is lost
GONE = 0.5  # share of the classes; when more of them are lost it is a collapse
VANISHED = 0.01  # norm of the generator's gradient over the norm that was usual
SURE = 0.99  # probability that the discriminator gives to what is so, when it has won


@dataclass(frozen=True)
class Alarm:
    """An alarm. Those marked `severe` roll training back to the last good state."""

    name: str
    detail: str
    severe: bool


@dataclass(frozen=True)
class Inspection:
    """The result of an inspection."""

    record: dict[str, Any]  # figures, for the log
    alarms: tuple[Alarm, ...]


class Watch:
    """The inspections of one adversarial pair.

    `draw(n)` gives n items (n, *shape) as the generator makes them now. `classify`, if there is one, gives class probabilities (n, C) of
    items, and `shares` (C,) are the shares of the data; `judge` is the classifier's name and version. Alarms about the items begin after
    `after` steps, because no generator begins well.
    """

    def __init__(
        self, draw: Callable[[int], Tensor], real: Tensor, *, every: int, after: int = 0, rollbacks: int = 0,
        classify: Callable[[Array], Array] | None = None, shares: Array | None = None, names: Sequence[str] = (),
        judge: str | None = None,
    ) -> None:  # fmt: skip
        self.draw, self.spread, self.every, self.after, self.rollbacks = draw, spread(real), every, after, rollbacks
        self.classify, self.shares, self.names, self.judge = classify, shares, names, judge
        self.usual = 0.0  # largest mean norm of the generator's gradient in a window so far

    def look(self, step: int, means: Mapping[str, float]) -> Inspection:
        """Inspect the generated items. `means` are those of the window since the last inspection, as the loop logs them by player."""
        items = self.draw(ITEMS)
        relative = spread(items) / self.spread if self.spread > 0 else 1.0
        norm = means["generator/gradient_norm"]
        self.usual = max(self.usual, norm)
        record: dict[str, Any] = {
            "relative_spread": round(relative, 4),
            **{name: round(value, 5) for name, value in means.items() if name.endswith(("norm", "logit"))},
        }
        alarms = []
        if relative < COLLAPSED:
            alarms.append(Alarm("mode collapse", f"made items differ {relative:.2f} times as much as real ones", True))
        if self.classify is not None and self.shares is not None:
            classes = self.classify(items.cpu().numpy()).argmax(axis=1)
            made = np.bincount(classes, minlength=len(self.shares)) / len(classes)
            record["judge"] = self.judge
            record["class_shares"] = [round(float(share), 4) for share in made]
            lost = np.flatnonzero(made < DROPPED * self.shares)
            if len(lost) > GONE * len(made):
                alarms.append(Alarm("mode collapse", f"{len(made) - len(lost)} of {len(made)} classes are left", True))
            elif len(lost):
                alarms.append(Alarm("mode dropping", f"lost: {', '.join(self.names[int(i)] for i in lost)}", False))
        if step < self.after:
            alarms = []
        alarms += self._vanishing(means, norm)
        return Inspection(record, tuple(alarms))

    def _vanishing(self, means: Mapping[str, float], norm: float) -> list[Alarm]:
        real, fake = (1 / (1 + np.exp(-means[f"discriminator/{name}_logit"])) for name in ("real", "fake"))
        if norm >= VANISHED * self.usual or real < SURE or fake > 1 - SURE:
            return []
        detail = (
            f"the generator's norm is {norm / self.usual:.2g} of what it was; D(real) {real:.3f}, D(made) {fake:.3f}"
        )
        return [Alarm("vanishing gradients", detail, True)]

    def state(self) -> dict[str, Any]:
        """Return what an inspection depends on, for the checkpoint."""
        return {"usual": self.usual, "judge": self.judge}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of a checkpoint. Warn if another classifier counted the classes until then. Older checkpoints name none."""
        self.usual = state["usual"]
        before = state.get("judge", self.judge)
        if before != self.judge:
            warnings.warn(
                f"judge: until this checkpoint the classes of generated items were counted by {before or 'no classifier'}; "
                f"from here on by {self.judge or 'none: it is not among the models (MANIFOLD_MODELS_DIR), or does not fit the data'}",
                stacklevel=2,
            )


def spread(items: Tensor) -> float:
    """Return the root mean square distance between two of the items (N, ...): the root of 2 Var, for independent items."""
    flat = items.flatten(1).double()
    return float((2 * flat.var(dim=0, unbiased=True).sum()).sqrt())


def classifier(model: Model) -> Callable[[Array], Array]:
    """Return class probabilities by an artifact with the task `features`, of model inputs."""

    def classify(items: Array) -> Array:
        return softmax(model.run("features", {"data": items.astype(np.float32)})["logits"])

    return classify


def watched(draw: Callable[[torch.Generator, int], Tensor], seed: int, device: torch.device) -> Callable[[int], Tensor]:
    """Return a function that draws with a generator of its own, the same items each time, so that inspections do not advance the training's generator."""

    def drawn(n: int) -> Tensor:
        with torch.no_grad():
            return draw(torch.Generator(device).manual_seed(seed), n)

    return drawn
