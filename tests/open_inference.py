"""Requests of the Open Inference Protocol, over REST and gRPC."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np

from tests.served import Served

HEAD = "Inference-Header-Content-Length"
Z = np.random.Generator(np.random.Philox(1)).standard_normal((2, 20)).astype(np.float32)


def infer(service: Served, model: str, body: dict[str, Any] | bytes, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return service.client.post(f"/v2/models/{model}/infer", content=content, headers=headers)


def latent(array: np.ndarray = Z, **fields: Any) -> dict[str, Any]:
    return {"name": "latent", "shape": list(array.shape), "datatype": "FP32", "data": array.tolist(), **fields}


def framed(head: dict[str, Any], *tails: bytes) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(head).encode()
    return b"".join((text, *tails)), {HEAD: str(len(text))}


def binary(answer: httpx.Response) -> tuple[dict[str, Any], bytes]:
    assert answer.headers["content-type"] == "application/octet-stream"
    size = int(answer.headers[HEAD])
    return json.loads(answer.content[:size]), answer.content[size:]


def by_sample(service: Served, **body: Any) -> np.ndarray:
    answer = service.client.post("/sample", json={"encoding": "array", **body}).json()
    return np.asarray(answer["data"], np.float32)
