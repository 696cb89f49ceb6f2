"""The inference kernel. It loads artifacts and runs them.

`load("models/mnist-vae")` returns a `Model`, which samples, encodes, reconstructs, interpolates, scores, classifies and imputes. Notebooks,
the evaluator and the service use the same one. This package contains no web framework, no training and no code of a model family.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manifold.runtime.errors import ManifoldError

if TYPE_CHECKING:
    from manifold.runtime.engine import Model, load

__all__ = ["ManifoldError", "Model", "load"]


def __getattr__(name: str) -> Any:
    """Import the engine when it is first used: `manifold --help` needs neither numpy nor ONNX Runtime."""
    if name in ("Model", "load"):
        from manifold.runtime import engine

        return getattr(engine, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
