"""Manifold trains, exports, serves and evaluates deep generative models.

`manifold.load("models/mnist-vae")` gives a `Model` that samples, encodes, reconstructs, interpolates and scores. The packages lie at the top
of the repository and are installed below this one; the links beside this file make both the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manifold.runtime import ManifoldError, Model, load

__all__ = ["ManifoldError", "Model", "load"]


def __getattr__(name: str) -> Any:
    """Import the engine when it is first asked for: `manifold --help` needs neither numpy nor ONNX Runtime."""
    if name in __all__:
        from manifold import runtime

        return getattr(runtime, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
