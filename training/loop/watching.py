"""The alarms of a running adversarial training: mode collapse, dropped modes, vanishing gradients.

At regular steps a watch inspects generated items, and the mean losses and gradient norms since the last inspection, and returns alarms. It
changes nothing itself: the loop decides whether to roll back to the last good state. Figures of real items are computed in the constructor,
so an inspection only costs a few hundred samples and one pass of the classifier.
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

ITEMS = 500  # number of generated items for an inspection
COLLAPSED = 0.3  # ratio of the spreads of generated and real items below which there is mode collapse
DROPPED = 0.1  # ratio of a class's shares of generated and real items below which the class is lost
GONE = 0.5  # share of lost classes above which there is mode collapse
VANISHED = 0.01  # ratio of the norm of the generator's gradient to its largest norm below which it has vanished
SURE = 0.99  # probability of the correct answer above which the discriminator separates real and generated items


@dataclass(frozen=True)
class Alarm:
    """An alarm. Alarms marked `severe` roll training back to the last good state."""

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

    `draw(n)` returns n items (n, *shape) of the current generator. `classify` is optional and returns class probabilities (n, C) of items;
    `shares` (C,) are the class shares of the data, and `judge` is the name and version of the classifier. Alarms about items only start after
    `after` steps, as generators are poor at first.
    """

    def __init__(
        self, draw: Callable[[int], Tensor], real: Tensor, *, every: int, after: int = 0, rollbacks: int = 0,
        classify: Callable[[Array], Array] | None = None, shares: Array | None = None, names: Sequence[str] = (),
        judge: str | None = None,
    ) -> None:  # fmt: skip
        self.draw, self.spread, self.every, self.after, self.rollbacks = draw, spread(real), every, after, rollbacks
        self.classify, self.shares, self.names, self.judge = classify, shares, names, judge
        self.usual = 0.0  # largest mean norm of the generator's gradient between two inspections so far

    def look(self, step: int, means: Mapping[str, float]) -> Inspection:
        """Inspect generated items. `means` are the loop's mean losses and norms by player since the last inspection."""
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
            alarms.append(
                Alarm(
                    "mode collapse",
                    f"generated items differ from each other {relative:.2f} times as much as real items do",
                    True,
                )
            )
        if self.classify is not None and self.shares is not None:
            classes = self.classify(items.cpu().numpy()).argmax(axis=1)
            made = np.bincount(classes, minlength=len(self.shares)) / len(classes)
            record["judge"] = self.judge
            record["class_shares"] = [round(float(share), 4) for share in made]
            lost = np.flatnonzero(made < DROPPED * self.shares)
            if len(lost) > GONE * len(made):
                alarms.append(
                    Alarm("mode collapse", f"only {len(made) - len(lost)} of {len(made)} classes are generated", True)
                )
            elif len(lost):
                alarms.append(
                    Alarm("mode dropping", f"missing classes: {', '.join(self.names[int(i)] for i in lost)}", False)
                )
        if step < self.after:
            alarms = []
        alarms += self._vanishing(means, norm)
        return Inspection(record, tuple(alarms))

    def _vanishing(self, means: Mapping[str, float], norm: float) -> list[Alarm]:
        real, fake = (1 / (1 + np.exp(-means[f"discriminator/{name}_logit"])) for name in ("real", "fake"))
        if norm >= VANISHED * self.usual or real < SURE or fake > 1 - SURE:
            return []
        detail = f"the generator's gradient norm is {norm / self.usual:.2g} of its largest; D(real) {real:.3f}, D(generated) {fake:.3f}"
        return [Alarm("vanishing gradients", detail, True)]

    def state(self) -> dict[str, Any]:
        """Return the state of the watch for the checkpoint."""
        return {"usual": self.usual, "judge": self.judge}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state from a checkpoint. Warn if another classifier counted the classes before. Older checkpoints do not name it."""
        self.usual = state["usual"]
        before = state.get("judge", self.judge)
        if before != self.judge:
            warnings.warn(
                f"judge: before this checkpoint the classes of generated items were counted by {before or 'no classifier'}, "
                f"from now on by {self.judge or 'no classifier, as it is missing in MANIFOLD_MODELS_DIR or does not fit the data'}",
                stacklevel=2,
            )


def spread(items: Tensor) -> float:
    """Return the root mean square distance between two items of (N, ...), which is √(2 Var) for independent items."""
    flat = items.flatten(1).double()
    return float((2 * flat.var(dim=0, unbiased=True).sum()).sqrt())


def classifier(model: Model) -> Callable[[Array], Array]:
    """Return a function that computes class probabilities of model inputs with an artifact's task `features`."""

    def classify(items: Array) -> Array:
        return softmax(model.run("features", {"data": items.astype(np.float32)})["logits"])

    return classify


def watched(draw: Callable[[torch.Generator, int], Tensor], seed: int, device: torch.device) -> Callable[[int], Tensor]:
    """Return a function that draws the same items each time, with a separate generator, so that inspections do not change the training's one."""

    def drawn(n: int) -> Tensor:
        with torch.no_grad():
            return draw(torch.Generator(device).manual_seed(seed), n)

    return drawn
