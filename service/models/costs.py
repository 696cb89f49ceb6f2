"""The measured times of a model's runs, and the tasks that are fast enough for the event loop."""

from __future__ import annotations

import math

from manifold.runtime.engine import Model
from manifold.service.models.queueing import Line

IN_PLACE = 0.001  # seconds: a run that is expected to take less stays on the event loop
SLOW = 0.005  # seconds of a core: after an unexpected run of this length, its task leaves the event loop
SURPRISE = 4  # multiple of the expected time from which a slow run counts as unexpected
CALM = 64  # consecutive runs below IN_PLACE after which a task may use the event loop again


Kind = tuple[float | str, ...]  # a task, and the numbers that all rows of a run share


def kind_of(line: Line) -> Kind:
    """Return the runs whose costs a line shares: those of its task with the same shared numbers, and of any length."""
    return (line,) if isinstance(line, str) else (line[0], *line[2:])


class RunCosts:
    """An estimate of the seconds that a run takes: a moving mean for each kind of run and power of two of rows.

    A kind that has not run yet is estimated from the kind of the same task whose shared numbers are nearest: the time is proportional to
    them, as they are numbers of steps.
    """

    KEPT = 0.8  # share of the old mean that each new run keeps

    def __init__(self) -> None:
        self._seconds: dict[Kind, dict[int, float]] = {}
        self._a_row: dict[Kind, float] = {}

    def add(self, line: Line, rows: int, seconds: float) -> None:
        """Add the time of a run.

        The seconds of a row are those of the largest size seen. If the kind has shared numbers, every run counts, because the estimate decides
        how many rows a run gets: otherwise a slow run would make all later ones smaller, and the estimate would stay.
        """
        kind, size = kind_of(line), rows.bit_length()
        known = self._seconds.setdefault(kind, {})
        known[size] = self.KEPT * known.get(size, seconds) + (1 - self.KEPT) * seconds
        if len(kind) > 1 or size == max(known):
            self._a_row[kind] = self.KEPT * self._a_row.get(kind, seconds / rows) + (1 - self.KEPT) * seconds / rows

    def a_row(self, line: Line) -> float | None:
        """Estimate the seconds of one row in a large run. Return None before the first run of the task."""
        kind, factor = self._nearest(kind_of(line))
        return None if kind is None else self._a_row[kind] * factor

    def of(self, line: Line, rows: int) -> float | None:
        """Estimate the seconds of a run of `rows` rows from the nearest size seen. Return None before the first run of the task."""
        kind, factor = self._nearest(kind_of(line))
        if kind is None:
            return None
        known, size = self._seconds[kind], rows.bit_length()
        nearest = min(known, key=lambda each: (abs(each - size), each))
        return known[nearest] * max(1.0, 2.0 ** (size - nearest)) * factor

    def _nearest(self, kind: Kind) -> tuple[Kind | None, float]:
        """Return the kind that an estimate for `kind` is based on, and the ratio of their times. Return None before the first run of the task."""
        if kind in self._seconds:
            return kind, 1.0
        ratios = {each: _ratio(kind, each) for each in self._seconds if each[0] == kind[0]}
        if not ratios:
            return None, 1.0
        nearest = min(ratios, key=lambda each: abs(math.log(ratios[each])))
        return nearest, ratios[nearest]


def _ratio(kind: Kind, other: Kind) -> float:
    """Return the product of the ratios of the shared numbers of two kinds. A number that differs between the rows of a run has the ratio 1."""
    pairs = zip(kind[1:], other[1:], strict=True)
    return math.prod(
        own / its for own, its in pairs if isinstance(own, float) and isinstance(its, float) and own > 0 and its > 0
    )


class InPlace:
    """The tasks that may run on the event loop. Their graphs have a fixed cost. A slow run ends the permission."""

    def __init__(self, model: Model) -> None:
        self.work = RunCosts()  # time on a core, without waits for the interpreter's lock
        self._fixed = {
            name for name in model.manifest.tasks if model.device == "cpu" and model.runner.has_fixed_cost(name)
        }
        self._wary: dict[str, int] = {}  # by task, runs below IN_PLACE needed before it may use the event loop again

    def allows(self, task: str, rows: int) -> bool:
        """Return whether a run is expected to be shorter than a hop to a thread."""
        if task not in self._fixed or task in self._wary:
            return False
        expected = self.work.of(task, rows)
        return expected is not None and expected < IN_PLACE

    def ran(self, task: str, rows: int, work: float) -> None:
        """Record the time that a run took on a core, in seconds."""
        if task in self._fixed:
            expected = self.work.of(task, rows) or 0.0
            if work > SLOW and work > SURPRISE * expected:
                self._wary[task] = CALM
            elif task in self._wary and work < IN_PLACE:
                self._wary[task] -= 1
                if not self._wary[task]:
                    del self._wary[task]
        self.work.add(task, rows, work)
