"""The tags of the OpenAPI document: the subjects under which /docs groups the routes."""

from __future__ import annotations

from manifold.service.core.use_cases.base import GENERATE, SCORE
from manifold.service.inference.described import TAG

MODELS, HEALTH, ADMINISTRATION = "Models", "Health and metrics", "Administration"

TAGS = [
    {"name": GENERATE, "description": "Generate new items, encode given ones, reconstruct them, interpolate between them, and fill in gaps."},
    {"name": SCORE, "description": "Compute anomaly scores with p-values and decisions, and class probabilities, for rows of tables and for images."},
    {"name": MODELS, "description": "List and describe the models of this service."},
    {"name": HEALTH, "description": "Probes for load balancers and orchestrators, and metrics for Prometheus. They need no API key."},
    {
        "name": ADMINISTRATION,
        "description": "Load, unload and calibrate models, and reload API keys. These routes need a key with the scope `admin`, or, without keys, "
        "the setting `MANIFOLD_TRUST_LOOPBACK=true` and a request from this machine.",
    },
    {
        "name": TAG,
        "description": "Version 2 of the protocol of KServe and Triton: every task of every model as a function of tensors. "
        "`NAME` is the main task of a model, `NAME.TASK` any of its tasks. Its errors have the form `{\"error\": \"message\"}`.",
    },
]  # fmt: skip
