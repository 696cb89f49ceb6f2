"""The measured times of a model's runs, and the tasks that are fast enough for the event loop."""

from __future__ import annotations

from manifold.runtime.engine import Model
from manifold.service.models.queueing import Line

IN_PLACE = 0.001  # seconds: a run that is expected to take less stays on the event loop
SLOW = 0.005  # seconds of a core: after an unexpected run of this length, its task leaves the event loop
SURPRISE = 4  # multiple of the expected time from which a slow run counts as unexpected
CALM = 64  # consecutive runs below IN_PLACE after which a task may use the event loop again


class RunCosts:
    """An estimate of the seconds that a run takes: a moving mean for each line of the queue and power of two of rows."""

    KEPT = 0.8  # share of the old mean that each new run keeps

    def __init__(self) -> None:
        self._seconds: dict[Line, dict[int, float]] = {}
        self.a_row: dict[Line, float] = {}  # seconds per row of each line, at the largest size seen

    def add(self, line: Line, rows: int, seconds: float) -> None:
        """Add the time of a run."""
        known, size = self._seconds.setdefault(line, {}), rows.bit_length()
        known[size] = self.KEPT * known.get(size, seconds) + (1 - self.KEPT) * seconds
        if size == max(known):
            self.a_row[line] = self.KEPT * self.a_row.get(line, seconds / rows) + (1 - self.KEPT) * seconds / rows

    def of(self, line: Line, rows: int) -> float | None:
        """Estimate the seconds of a run of `rows` rows from the nearest size seen. Return None before the first run."""
        known, size = self._seconds.get(line), rows.bit_length()
        if not known:
            return None
        nearest = min(known, key=lambda each: (abs(each - size), each))
        return known[nearest] * max(1.0, 2.0 ** (size - nearest))


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
