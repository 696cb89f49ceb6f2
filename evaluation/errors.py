"""The errors of the evaluator. They are subclasses of the project's errors in runtime.errors."""

from __future__ import annotations

from manifold.runtime.errors import InvalidValue


class EvaluationError(InvalidValue):
    """An error in the images, the statistics or the options. Its message says what to do."""


class ProtocolMismatch(EvaluationError):
    """The error for two figures that were measured in different ways and cannot be compared."""
