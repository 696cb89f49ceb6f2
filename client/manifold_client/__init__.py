"""The Python client of the Manifold service.

    from manifold_client import Client

    with Client("http://127.0.0.1:8000") as client:
        client.sample(n=16, seed=7).grid().save("digits.png")

`Client` waits for answers, `AsyncClient` awaits them; both have the same methods and results. Images are given as PIL images, numpy arrays,
paths or bytes, and returned as PIL images. Rows are given as mappings or data frames. All other results are numpy arrays.
"""

from manifold_client.async_client import AsyncClient
from manifold_client.client import Client
from manifold_client.errors import (
    Busy,
    ClientClosed,
    InvalidType,
    InvalidValue,
    ManifoldClientError,
    MissingLibrary,
    NotReady,
    RequestRefused,
)
from manifold_client.results import (
    Classes,
    Encoded,
    Fitted,
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
from manifold_client.transport import Retry
from manifold_client.types import Condition, Costs, End

__all__ = [
    "AsyncClient", "Busy", "Classes", "Client", "ClientClosed", "Condition", "Costs", "Encoded", "End", "Fitted", "Imputed", "Interpolation", "InvalidType",
    "InvalidValue", "Item", "Items", "ManifoldClientError", "MissingLibrary", "NotReady", "Posterior", "Reconstruction", "RequestRefused", "Retry", "Sample",
    "Samples", "ScoredItem", "Scores",
]  # fmt: skip
