"""The routes of the protocol in the OpenAPI document: summaries, bodies, statuses and examples."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from manifold.service.core import encoding, failures
from manifold.service.inference.http import OCTETS, STATUS
from manifold.service.inference.tensors import DTYPES

Schema = dict[str, Any]

TAG = "Open Inference Protocol"
ERROR: Schema = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
MESSAGES = {  # an example for each status; a test provokes those that a single request can cause
    400: "latent: it is float32[1, 2]; it must be float32[rows, 20]",
    401: "Authorization: an API key is needed; send the header Authorization: Bearer KEY; `manifold key NAME` makes one",
    403: "Host: 'example.com' is not a name of this service; add it to MANIFOLD_HOSTS, or use API keys (docs/explanation/security.md)",
    404: "model: there is no model 'mnist' (did you mean 'mnist-vae'?); choose one of the valid names; valid: mnist-vae, transactions-vae",
    413: "body: larger than the limit of 16777216 bytes; send less, or several requests",
    415: "Content-Encoding: br is not supported; use one of the valid encodings; valid: gzip, deflate",
    500: failures.OPAQUE,
    503: "mnist-vae is still loading; retry after a moment",
}
VERSION: Schema = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}, "example": "1"}
NAME: Schema = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
INFERENCE = {"parameters": {"n": 1, "seed": 7}}
TENSOR: Schema = {
    "type": "object", "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string", "description": "Name of the tensor."},
        "shape": {"type": "array", "items": {"type": "integer"}, "description": "Shape, with the number of rows as first axis."},
        "datatype": {"type": "string", "enum": list(DTYPES), "description": "Type of the values."},
        "parameters": {"type": "object", "description": "Parameters of the tensor, such as `binary_data_size`."},
        "data": {"type": "array", "items": {}, "description": "Values: one flat list in row-major order, or lists nested as the shape."},
    },
}  # fmt: skip
OUTPUT: Schema = {
    "type": "object", "required": ["name"],
    "properties": {
        "name": {"type": "string", "description": "Name of the output."},
        "parameters": {"type": "object", "description": "Parameters of the output, such as `binary_data`."},
    },
}  # fmt: skip
REQUEST: Schema = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "description": "Id of the request. The response repeats it."},
        "parameters": {"type": "object", "description": "Parameters: n, seed, first, class, prior, temperature, binary_data_output, timeout."},
        "inputs": {"type": "array", "items": TENSOR, "description": "Inputs of the model. Optional inputs may be left out."},
        "outputs": {"type": "array", "items": OUTPUT, "description": "Outputs to return. By default, all."},
    },
}  # fmt: skip
OBJECT: Schema = {"type": "object"}
KEYED, OPEN, MODEL = (400, 401, 403, 500, 503), (400, 500, 503), (404,)
CONNECTION = (408, 431)  # statuses of connections, whose errors have the form of the other routes

# by path: the method, the summary, the description, and the error statuses beside those of all routes that need a key
MODELS = {
    "": ("get", "Describe the tensors of a model", "The response contains a request that works, under `parameters.example`.", MODEL),
    "/ready": ("get", "Report whether a model is ready", "200 if the model answers or loads at its first request, otherwise 503.", MODEL),
    "/config": (
        "get", "Describe a model in terms of Triton's configuration",
        "Datatypes and shapes of the tensors, without the batch axis, and the largest batch size.", MODEL,
    ),
    "/stats": ("get", "Report the statistics of a model", "Counts and total times of requests, by task.", MODEL),
    "/infer": (
        "post", "Run a model on tensors",
        "Optional inputs that are not given are drawn or set to their default. The parameters n, seed, first, class, prior and temperature "
        "control them. Binary tensors may follow the JSON (header Inference-Header-Content-Length).",
        (404, 408, 413, 415),
    ),
}  # fmt: skip
OTHERS = {
    "/v2": ("get", "Describe the server", "Name, version and extensions of the server.", ()),
    "/v2/health/live": ("get", "Report whether the process runs", "200 as soon as the process answers requests.", ()),
    "/v2/health/ready": ("get", "Report whether the service is ready", "200 if it is ready, otherwise 503.", ()),
    "/v2/models/stats": ("get", "Report the statistics of all models", "Counts and total times of requests, by model and task.", ()),
    "/v2/repository/index": (
        "post", "List the models and their states",
        "All versions of all models. With `ready: true` in the body, only those that answer requests.", (413,),
    ),
    "/v2/repository/models/{name}/load": ("post", "Load a model from its folder", "It needs a key with the scope `admin`.", (404, 413)),
    "/v2/repository/models/{name}/unload": ("post", "Take a model out of service", "It needs a key with the scope `admin`.", (404, 413)),
}  # fmt: skip


def responses() -> Schema:
    """Return the error responses of the protocol, as components of the document."""
    return {f"v2-{status}": _response(status) for status in sorted({*STATUS.values(), 500})}


def paths() -> Schema:
    """Return the operations of all routes, by path."""
    whole = {f"/v2/models/{{name}}{end}": each for end, each in MODELS.items()}
    versions = {f"/v2/models/{{name}}/versions/{{version}}{end}": each for end, each in MODELS.items()}
    return {
        path: {method: _operation(path, method, summary, description, own)}
        for path, (method, summary, description, own) in {**OTHERS, **whole, **versions}.items()
    }


def _response(status: int) -> Schema:
    content = {encoding.JSON: {"schema": ERROR, "example": {"error": MESSAGES[status]}}}
    return {"description": HTTPStatus(status).phrase, "content": content}


def _operation(path: str, method: str, summary: str, description: str, own: tuple[int, ...]) -> Schema:
    every = OPEN if path.startswith("/v2/health/") else KEYED
    errors = {
        str(status): {"$ref": f"#/components/responses/{'' if status in CONNECTION else 'v2-'}{status}"}
        for status in sorted({*every, *own, 431})
    }
    shape: Schema = {"type": "array"} if path.endswith("/index") else OBJECT
    content: Schema = {encoding.JSON: {"schema": shape}}
    if path.endswith("/infer"):
        content[OCTETS] = {"schema": {"type": "string", "format": "binary"}}
    operation: Schema = {
        "tags": [TAG], "summary": summary, "operationId": f"v2{path.removeprefix('/v2').replace('/', '-').replace('{', '').replace('}', '')}",
        "responses": {"200": {"description": "The result.", "content": content}, **errors},
    }  # fmt: skip
    if description:
        operation["description"] = description
    parameters = [dict(each) for each in (NAME, VERSION) if f"{{{each['name']}}}" in path]
    if parameters:
        operation["parameters"] = parameters
    if method == "post":
        infer = path.endswith("/infer")
        body: Schema = {"schema": REQUEST, "examples": {"draw": {"summary": "One item of a seed", "value": INFERENCE}}}
        fields = {encoding.JSON: body if infer else {"schema": OBJECT, "example": {}}}
        operation["requestBody"] = {"required": infer, "content": fields}
    return operation
