"""Errors of the evaluator, below the project's tree (runtime.errors)."""

from __future__ import annotations

from manifold.runtime.errors import InvalidValue


class EvaluationError(InvalidValue):
    """Something about the images, the statistics or the options is wrong; the message says what to do."""


class ProtocolMismatch(EvaluationError):
    """Two numbers were measured in different ways; comparing them would say nothing."""
