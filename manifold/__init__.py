"""Manifold trains, exports, serves and evaluates deep generative models.

`manifold.load("models/mnist-vae")` returns a `Model`, which samples, encodes, reconstructs, interpolates, scores, classifies and imputes. The
packages are folders at the top of the repository. Links beside this file install them below this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manifold.runtime import ManifoldError, Model, load

    __version__: str

__all__ = ["ManifoldError", "Model", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import the engine when it is first used: `manifold --help` needs neither numpy nor ONNX Runtime."""
    if name == "__version__":
        from manifold.runtime import extras

        return extras.version(extras.DISTRIBUTION) or "0"
    if name in __all__:
        from manifold import runtime

        return getattr(runtime, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
