"""Client of the Manifold service.

    from manifold_client import Client

    with Client("http://127.0.0.1:8000") as client:
        client.sample(n=16, seed=7).grid().save("digits.png")

`Client` waits, `AsyncClient` awaits; both have the same methods and results. Images go in as PIL images, numpy arrays, paths or bytes and
come out as PIL images; everything else is numpy.
"""

from manifold_client.client import AsyncClient, Client
from manifold_client.errors import Busy, ManifoldClientError, NotReady, RequestRefused
from manifold_client.results import (
    Classes,
    Encoded,
    Imputed,
    Interpolation,
    Item,
    Items,
    Posterior,
    Reconstruction,
    Sample,
    Samples,
    ScoredItem,
    Scores,
)

__all__ = [
    "AsyncClient", "Busy", "Classes", "Client", "Encoded", "Imputed", "Interpolation", "Item", "Items", "ManifoldClientError", "NotReady",
    "Posterior", "Reconstruction", "RequestRefused", "Sample", "Samples", "ScoredItem", "Scores",
]  # fmt: skip
