"""The inference kernel: artifacts in, arrays out.

`load("models/mnist-vae")` gives a notebook, the evaluator and the service the same thing: a `Model` that samples, encodes,
reconstructs, interpolates and scores. Nothing here knows the web, training, or any model family.
"""

from runtime.engine import Model, load
from runtime.errors import ManifoldError

__all__ = ["ManifoldError", "Model", "load"]
