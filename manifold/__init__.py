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

        try:
            return getattr(runtime, name)
        except ModuleNotFoundError as error:
            if not _is_required(error.name or ""):
                raise
            raise ImportError(
                f"Manifold's packages are not installed in this Python ({error.name} is missing); run `source .venv/bin/activate` (or `make setup`)",
                name=error.name,
            ) from None
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _is_required(module: str) -> bool:
    """Return whether a missing module belongs to the required packages. If the package is not installed, these are all foreign modules."""
    from manifold.runtime import extras

    if not module or module.partition(".")[0] == __name__:
        return False
    required = extras.requirements()
    return not required or module.partition(".")[0] in extras.required_modules(required)
