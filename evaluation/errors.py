"""Errors of the evaluator, below the project's tree (runtime.errors)."""

from __future__ import annotations

from manifold.runtime.errors import InvalidValue


class EvaluationError(InvalidValue):
    """An error in the images, the statistics or the options. The message says what to do."""


class ProtocolMismatch(EvaluationError):
    """Two numbers that were measured in different ways and cannot be compared."""
