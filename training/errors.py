"""The errors of training, in addition to those of the runtime."""

from manifold.runtime.errors import ManifoldError


class TrainingError(ManifoldError):
    """An error in training: an invalid option, a run folder that does not match, or missing data."""


class DataError(TrainingError):
    """The error for a data file that is missing, truncated or altered. The message states its name and the expected hash."""


class Diverged(TrainingError):
    """The error for a loss that is not finite. The message states the step, the phase, the player and the last good checkpoint.

    `step` is the number of steps that were completed before the first such loss.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step
