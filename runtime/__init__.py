"""The inference kernel: artifacts in, arrays out.

`load("models/mnist-vae")` gives a notebook, the evaluator and the service the same thing: a `Model` that samples, encodes,
reconstructs, interpolates and scores. Nothing here knows the web, training, or any model family.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manifold.runtime.errors import ManifoldError

if TYPE_CHECKING:
    from manifold.runtime.engine import Model, load

__all__ = ["ManifoldError", "Model", "load"]


def __getattr__(name: str) -> Any:
    """The engine is imported when it is first asked for: `manifold --help` needs neither numpy nor ONNX Runtime."""
    if name in ("Model", "load"):
        from manifold.runtime import engine

        return getattr(engine, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
