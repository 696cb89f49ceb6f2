"""The paths from noise to data of the family `flow`, and the schedules by which samplers follow them.

A path mixes data x in [-1, 1] and noise e ~ N(0, I). With `u` for the position on the path, `z` for the state of the solver and `d` for the
prediction of the network, both paths are ordinary differential equations dz/du = d:

- `flow` (Lipman et al., 2023, arXiv 2210.02747; Liu et al., 2023, arXiv 2209.03003): z = (1 - t) e + t x, u = t, d predicts x - e.
- `ddpm` (Ho et al., 2020, arXiv 2006.11239) in the form of DDIM (Song et al., 2021, arXiv 2010.02502): a^2 is the product of the
  1 - beta up to step k of 1000, s^2 = 1 - a^2, the network sees a z = a x + s e, u = s / a, d predicts e.

A solver is a table with a row for each evaluation of the network, see COLUMNS. The same loop runs every table, forwards or backwards.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.schedules import STEPS, Objective, Schedule, signal

__all__ = [
    "COLUMNS",
    "LOOP_COLUMNS",
    "STEPS",
    "Diffusion",
    "Objective",
    "Schedule",
    "Solver",
    "Table",
    "even_grid",
    "grid",
    "loop_table",
    "signal",
    "table",
]

Solver = Literal["euler", "midpoint", "heun", "ddim", "ancestral"]
Table: TypeAlias = NDArray[np.float64]

ROWS = {"euler": 1, "ddim": 1, "ancestral": 1, "midpoint": 2, "heun": 2}  # evaluations of the network for each step

# The columns of a table. The network is evaluated at scale * point and `time`, which gives d. Then
#   next point = base + now * d + before * (the d of the row before) + noise * (a draw from N(0, I)),
# and the base becomes the next point if `moves` is 1. Known pixels of the next point are `data` * x + `chance` * e. If `span` is not zero,
# x = point - span * d is first clipped to [-1, 1].
COLUMNS = ("time", "scale", "now", "before", "noise", "moves", "data", "chance", "span")

# The same in the state y = a z, whose variance stays near 1: float32 would lose digits of z, which is large at first. The network is evaluated
# at y. Then the next y = keep * base + now * d + …, with factors that contain the a of the next point. `signal` and `span` are a and s of the
# evaluation: x = (y - s d) / a is clipped if `span` is not zero. Backwards, the last y is the noise.
LOOP_COLUMNS = ("time", "keep", "now", "before", "noise", "moves", "data", "chance", "signal", "span")

# largest s / a of a solver, as in Karras et al., 2022, arXiv 2206.00364. An error of the prediction counts s / a times in x, so that beyond it
# x is lost in the rounding of float32: a trained network and its graph differed by up to 3e-3 from s / a = 2e4, and by 6e-5 from 80
HIGHEST = 80.0


class Diffusion:
    """The positions of ddpm. Between two whole steps, log a^2 is linear."""

    def __init__(self, schedule: Schedule) -> None:
        self.logs = np.log(signal(schedule))
        self.log_places = np.log([self.place(float(k)) for k in range(1, STEPS + 1)])

    def scale(self, k: float) -> float:
        """Return a at step k."""
        return float(np.exp(np.interp(k, np.arange(STEPS + 1), self.logs) / 2))

    def place(self, k: float) -> float:
        """Return u = s / a at step k."""
        scale = self.scale(k)
        return math.sqrt(max(0.0, 1 - scale**2)) / scale

    def step(self, log_place: float) -> float:
        """Return the step, from 1 to 1000, at which log u is nearest to `log_place`."""
        return float(np.interp(log_place, self.log_places, np.arange(1, STEPS + 1)))


def grid(objective: Objective, schedule: Schedule, steps: int) -> list[float]:
    """Return positions from noise to data at equal distances: times 0 to 1, or steps of ddpm, from s / a = HIGHEST to 0."""
    if objective == "flow":
        return [i / steps for i in range(steps + 1)]
    first = Diffusion(schedule).step(math.log(HIGHEST))
    return [first * (1 - i / steps) for i in range(steps + 1)]


def even_grid(objective: Objective, schedule: Schedule, steps: int) -> list[float]:
    """Return positions from noise to data at equal distances of the time, or of log u for ddpm, where solvers of second order are most exact."""
    if objective == "flow":
        return grid(objective, schedule, steps)
    path = Diffusion(schedule)
    wanted = np.linspace(math.log(HIGHEST), path.log_places[0], steps)
    return [*map(path.step, wanted), 0.0]


def points_of(objective: Objective, schedule: Schedule, solver: Solver, steps: int) -> list[float]:
    """Return the positions of a solver from noise to data."""
    return even_grid(objective, schedule, steps) if ROWS[solver] == 2 else grid(objective, schedule, steps)


def loop_table(
    objective: Objective, schedule: Schedule, solver: Solver, steps: int, *, backwards: bool = False
) -> Table:
    """Return the rows (evaluations, len(LOOP_COLUMNS)) of a solver for networks.solving.Loop."""
    rows = table(objective, schedule, solver, steps, backwards=backwards)
    end = 1.0
    if backwards and objective == "ddpm":
        end = Diffusion(schedule).scale(points_of(objective, schedule, solver, steps)[0])
    made, base = np.zeros((len(rows), len(LOOP_COLUMNS))), float(rows[0, COLUMNS.index("scale")])
    following = [*rows[1:, COLUMNS.index("scale")], end]
    for place, (row, after) in enumerate(zip(rows, following, strict=True)):
        at = dict(zip(COLUMNS, row, strict=True))
        # the time, and whether the base moves, are the same in both states
        values = {
            "time": at["time"],
            "moves": at["moves"],
            "keep": after / base,
            "signal": at["scale"],
            "span": at["scale"] * at["span"],
        }
        values |= {name: after * at[name] for name in ("now", "before", "noise", "data", "chance")}
        made[place] = [values[name] for name in LOOP_COLUMNS]
        base = after if at["moves"] else base
    return made


def table(
    objective: Objective, schedule: Schedule, solver: Solver, steps: int, *, backwards: bool = False, points: Sequence[float] | None = None
) -> Table:  # fmt: skip
    """Return the rows (evaluations, len(COLUMNS)) of a solver. `backwards`: from data to noise.

    `points` are the positions, by default those of `grid`, or of `even_grid` for midpoint and heun.
    """
    at = _of_flow if objective == "flow" else _of_diffusion(Diffusion(schedule))
    points = (points_of(objective, schedule, solver, steps) if points is None else points)[:: -1 if backwards else 1]
    rows: list[list[float]] = []
    for here, there in itertools.pairwise(points):
        (time, scale, u, _, _), (_, _, v, data, chance) = at(here), at(there)
        whole, span = v - u, 0.0 if objective == "flow" or backwards else u
        ends = [data, chance]
        if solver == "midpoint":
            middle = (here + there) / 2
            half_time, half_scale, m, half_data, half_chance = at(middle)
            half_span = 0.0 if span == 0 else m
            rows.append([time, scale, m - u, 0, 0, 0, half_data, half_chance, span])
            rows.append([half_time, half_scale, whole, 0, 0, 1, *ends, half_span])
        elif solver == "heun" and not (objective == "ddpm" and there == 0):
            last_time, last_scale, *_ = at(there)
            rows.append([time, scale, whole, 0, 0, 0, *ends, span])
            rows.append([last_time, last_scale, whole / 2, whole / 2, 0, 1, *ends, 0.0 if span == 0 else v])
        elif solver == "ancestral":
            added = v * math.sqrt(max(0.0, 1 - (v / u) ** 2))
            rows.append([time, scale, math.sqrt(v**2 - added**2) - u, 0, added, 1, *ends, span])
        else:
            rows.append([time, scale, whole, 0, 0, 1, *ends, span])
    return np.asarray(rows)


def _of_flow(t: float) -> tuple[float, float, float, float, float]:
    """Return the network's time, the scale of its input, u, and the shares of data and noise in the solver's state."""
    return t, 1.0, t, t, 1 - t


def _of_diffusion(path: Diffusion) -> Callable[[float], tuple[float, float, float, float, float]]:
    def at(k: float) -> tuple[float, float, float, float, float]:
        u = path.place(k)
        return max(k, 1.0) / STEPS, path.scale(k), u, 1.0, u

    return at
