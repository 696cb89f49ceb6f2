"""The error responses of the OpenAPI document: which statuses a route can return, and a description and examples of each status."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from manifold.service.core import encoding, failures
from manifold.service.http.replies import STATUS, UNROUTED

Schema = dict[str, Any]

EXTRA = "x-errors"  # the key under which a route states its own statuses until the document is made
ALWAYS = (
    400,
    403,
    431,
    500,
    503,
)  # a header is malformed, Host or Origin is not allowed, headers are too large, a bug, too many connections
KEYED = (401, 429)  # the key is unknown, or its request rate is used up
BODY = (408, 413, 415, 422)  # the body is too slow, too large, of an unknown type, or wrong

# messages as the service writes them; a test provokes those that a single request can cause
EXAMPLES: dict[str, Schema] = {
    "malformed": {"message": "body: empty; send a JSON object, {} at least, or the fields in the query", "field": "body"},
    "unauthorized": {
        "message": "Authorization: an API key is needed; send the header Authorization: Bearer KEY; `manifold key NAME` makes one",
        "field": "Authorization",
    },
    "forbidden": {
        "message": "Authorization: the key shop has no scope admin, which this route needs; use a key that has it",
        "field": "Authorization", "valid": ["admin"],
    },
    "unknown_model": {
        "message": "model: there is no model 'mnist' (did you mean 'mnist-vae'?); choose one of the valid names",
        "field": "model", "valid": ["mnist-vae", "transactions-vae"],
    },
    "not_found": {"message": "there is no /samples; did you mean /sample?", "valid": ["/sample", "/models"]},
    "method_not_allowed": {"message": "/sample does not support GET; use one of the valid methods", "valid": ["POST"]},
    "slow_body": {"message": "the body arrives at less than 1024 bytes/s; send it faster, or in smaller requests"},
    "slow_head": {"message": "the request was not complete after 20 s; send it faster"},
    "unsupported_task": {
        "message": "mnist-gan does not support /encode: it makes items from latents and was not trained to encode items; "
        "it supports /sample, /interpolate, /anomaly-score",
        "field": "model", "valid": ["sample", "interpolate", "anomaly-score"],
    },
    "too_large": {"message": "n: 5000 is over the limit of 1024 items in a request; send several requests", "field": "n"},
    "unsupported_media": {
        "message": "Content-Type: text/plain is not supported; use one of the valid types", "field": "Content-Type",
        "valid": ["application/json", "multipart/form-data", "image/png"],
    },
    "invalid_value": {"message": "n: 0 is too small; use 1 or more", "field": "n"},
    "busy": {"message": "mnist-vae: 4100 rows are queued (limit 4096). Retry after 1 s."},
    "head_too_large": {"message": "the headers are over the limit of 65536 bytes; send fewer or shorter headers"},
    "internal": {"message": failures.OPAQUE},
    "unavailable": {"message": "mnist-vae is still loading; retry after a moment", "field": "model"},
    "too_many": {"message": "4096 connections are open; retry after a moment"},
    "deadline_exceeded": {
        "message": "the deadline passed after 30000 ms in the queue; request less, or allow more time "
        "(HTTP: header X-Deadline-Ms; gRPC: deadline of the call)",
    },
}  # fmt: skip


def also(*statuses: int) -> Schema:
    """Return the part of a route's declaration that states its own error statuses, for FastAPI's `openapi_extra`."""
    return {EXTRA: statuses}


def types() -> dict[str, int]:
    """Return the status of every type of error over HTTP."""
    return {kind("").type: status for kind, status in STATUS.items()} | {
        name: status for name, (status, _) in UNROUTED.items()
    }


def responses() -> Schema:
    """Return the components of the document: a response for each status, with an example for each type of error."""
    return {str(status): _response(status) for status in sorted({*types().values()})}


def references(statuses: Iterable[int]) -> Schema:
    """Return the error responses of an operation, which refer to the components."""
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(statuses)}


def _response(status: int) -> Schema:
    meanings = {kind("").type: meaning for kind, meaning in failures.PUBLIC.items()} | {
        name: meaning for name, (_, meaning) in UNROUTED.items()
    }
    named = [name for name, each in types().items() if each == status]
    examples = {
        name: {
            "summary": name,
            "value": {
                "error": {
                    "type": name,
                    "field": None,
                    "valid": None,
                    **EXAMPLES[name],
                    "request_id": "98f82e02488be42c",
                }
            },
        }
        for name in named
    }
    headers = {"Retry-After": {"description": "Seconds to wait before the next try.", "schema": {"type": "integer"}}}
    return {
        "description": f"{HTTPStatus(status).phrase}. "
        + " ".join(f"`{name}`: {meanings[name].means} {meanings[name].remedy}" for name in named),
        "content": {
            encoding.JSON: {"schema": {"$ref": "#/components/schemas/ErrorResponse"}, "examples": examples},
        },
        **({"headers": headers} if status in (429, 503) else {}),
    }
