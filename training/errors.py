"""The errors of training, in addition to those of the runtime."""

from manifold.runtime.errors import ManifoldError


class TrainingError(ManifoldError):
    """A wrong option, a run folder that does not fit, data that is not there."""


class DataError(TrainingError):
    """A file of a data set is missing, truncated or altered; the message has its name and the expected hash."""


class Diverged(TrainingError):
    """A loss was not finite. The message names step, phase and the last good checkpoint."""
