"""Example responses in the OpenAPI document. `python -m tests.answers` records them from the shipped models in answers.json; a test compares both.

Responses that differ from one moment to the next, such as counts and states, are written here.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from manifold.service.core import encoding
from manifold.service.core.use_cases import every

Schema = dict[str, Any]

RECORDED = Path(__file__).with_name("answers.json")
PNG = "image/png"
# fields that differ in each response, and their values in examples
STEADY: Schema = {
    "request_id": "98f82e02488be42c",
    "timing": {"queue": 0.03, "compute": 1.42, "encode": 0.35},
}
TIMES = {name: {"count": 3, "ns": ns} for name, ns in (("success", 6200000), ("fail", 0), ("queue", 210000))}
STATISTICS: Schema = {
    "model_stats": [
        {
            "name": "mnist-vae.decode", "version": "2", "last_inference": 1767225600000, "inference_count": 12, "execution_count": 3,
            "inference_stats": {**TIMES, "fail": {"count": 0, "ns": 0}}, "batch_stats": [],
        }
    ]
}  # fmt: skip
SCORED = {"runs": 2, "rows": 128, "requests": 2, "failed": 0, "seconds": 0.011, "rows_a_run": 64.0}
WRITTEN: Schema = {
    "/models/{name}/stats": {
        "model": "mnist-vae", "version": 2, "state": "ready", "device": "cpu", "queued_rows": 0, "queued_bytes": 0, "expected_wait_ms": 0.0,
        "tasks": {"decode": {"runs": 3, "rows": 12, "requests": 4, "failed": 0, "seconds": 0.0042, "rows_a_run": 4.0}, "score": SCORED},
    },
    "/health/live": {"status": "live"},
    "/health/ready": {"status": "ready", "reason": "", "models": {"mnist-vae": "ready", "transactions-vae": "idle"}},
    "/admin/reload": {"keys": [{"name": "shop", "id": "1f0c2a9d", "scopes": ["infer"], "rate": 20.0}], "needed": True, "tls": False},
    "/admin/models/{name}/calibrate": {
        "model": "transactions-vae", "version": 4, "done": "calibrated on 5000 rows of an upload", "known_anomalies": 0, "warnings": [],
    },
    "/v2/health/live": {"live": True},
    "/v2/health/ready": {"ready": True},
    "/v2/models/stats": STATISTICS,
    "/v2/models/{name}/ready": {"name": "mnist-vae", "ready": True},
    "/v2/models/{name}/stats": STATISTICS,
    "/v2/repository/index": [
        {"name": "mnist-vae", "version": "2", "state": "READY", "reason": ""},
        {"name": "transactions-vae", "version": "3", "state": "READY", "reason": "it loads at its first request"},
    ],
    "/v2/repository/models/{name}/load": {},
    "/v2/repository/models/{name}/unload": {},
}  # fmt: skip
METRICS = """# HELP manifold_requests_total Number of requests by route and status
# TYPE manifold_requests_total counter
manifold_requests_total{route="/sample",status="200"} 12.0
"""


def add(paths: Schema) -> None:
    """Add an example to each successful response, and a picture to the description of the endpoints that return pictures."""
    recorded = _recorded()
    for path, operations in paths.items():
        plain = path.replace("/versions/{version}", "")  # a version of a model answers in the same form
        for operation in operations.values():
            ok = operation["responses"]["200"]
            content = ok["content"]
            if encoding.JSON in content:
                content[encoding.JSON] |= _examples(plain, recorded)
            elif "text/plain" in content:
                content["text/plain"]["example"] = METRICS
            if picture := recorded["pictures"].get(path):
                first = next(iter(every[path[1:]].examples.values()))
                ok["description"] += (
                    f"\n\nThe picture for the first example, “{first.summary}”:\n\n{_image(picture, first.summary)}"
                )


def _examples(path: str, recorded: Schema) -> Schema:
    """Return the field of a media type with the examples of a path; empty for a new endpoint until they are recorded."""
    if path in WRITTEN:
        return {"example": WRITTEN[path]}
    return {"examples": recorded["responses"][path]} if path in recorded["responses"] else {}


def _image(content: str, text: str) -> str:
    """Return a picture that contains its bytes, as HTML: Swagger UI refuses such pictures in Markdown."""
    return f'<img alt="{text}" src="data:{PNG};base64,{content}">'


@functools.cache
def _recorded() -> Schema:
    read: Schema = json.loads(RECORDED.read_text())
    return read
