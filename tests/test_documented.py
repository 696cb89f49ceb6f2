"""The OpenAPI document: tags, servers, the statuses of each route, and examples of errors as the service writes them."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute
from PIL import Image
from pydantic import TypeAdapter

from manifold.service.core import use_cases
from manifold.service.http import statuses
from manifold.service.http.app import create_app
from manifold.service.http.tags import TAGS
from manifold.service.inference import described
from manifold.service.settings import Settings
from tests import foreign
from tests.conftest import SHIPPED
from tests.served import Served, served


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("documented")
    foreign.write(root)
    for name in ("mnist-gan", "mnist-vae"):  # the models of the examples
        (root / name).symlink_to(SHIPPED / name)
    with served(root, default_model="foreign") as service:
        yield service


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    made: dict[str, Any] = create_app(Settings()).app.openapi()
    return made


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def test_every_route_has_a_tag_a_summary_and_described_statuses(document: dict[str, Any]) -> None:
    assert document["servers"][0]["url"] == "./"  # relative to the document, so that a proxy may add a prefix
    names = [tag["name"] for tag in TAGS]
    assert document["tags"] == TAGS and all(tag["description"] for tag in TAGS)
    assert list(dict.fromkeys(operation["tags"][0] for _, operation in operations(document))) == [
        names[0], names[1], *names[2:],
    ]  # fmt: skip
    for path, operation in operations(document):
        assert operation["summary"][0].isupper() and not operation["summary"].endswith("."), path
        for status, response in operation["responses"].items():
            if "$ref" in response:
                response = document["components"]["responses"][response["$ref"].rpartition("/")[2]]
            assert response["description"] not in ("", "OK", "Error", "Successful Response"), (path, status)
            if int(status) >= 400 and not (path == "/health/ready" and status == "503"):
                (content,) = response["content"].values()
                assert content.get("examples") or content.get("example"), (path, status)


def fields(schema: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield all properties within a schema, with their places."""
    if isinstance(schema, list):
        for each in schema:
            yield from fields(each, place)
    elif isinstance(schema, dict):
        for name, each in schema.get("properties", {}).items():
            yield f"{place}.{name}", each
            yield from fields(each, f"{place}.{name}")
        for key in ("items", "additionalProperties", "anyOf", "oneOf", "allOf"):
            yield from fields(schema.get(key), place)


def test_every_operation_parameter_and_field_is_described(document: dict[str, Any]) -> None:
    found = [each for name, schema in document["components"]["schemas"].items() for each in fields(schema, name)]
    for path, operation in operations(document):
        found += [(path, operation), *((f"{path} {each['name']}", each) for each in operation.get("parameters", ()))]
        bodies = (operation.get("requestBody", {}), *operation["responses"].values())
        for content in (each for body in bodies for each in body.get("content", {}).values()):
            found += fields(content.get("schema"), path)
    assert len(found) > 250
    assert [place for place, each in found if not each.get("description")] == []


def test_every_successful_response_has_an_example_in_its_form(document: dict[str, Any]) -> None:
    app = create_app(Settings()).app
    shapes = {case.path: case.response for case in use_cases.every.values()}
    shapes |= {
        route.path: route.response_model
        for route in app.routes
        if isinstance(route, APIRoute) and route.response_model is not None
    }
    forms = 0
    for path, operation in operations(document):
        content = operation["responses"]["200"]["content"]
        for kind in {"application/json", "text/plain"} & content.keys():
            named = content[kind].get("examples", {"the": {"value": content[kind].get("example")}})
            for each in named.values():
                assert each["value"] is not None, path
                if kind == "application/json" and path in shapes:
                    TypeAdapter(shapes[path]).validate_python(each["value"])
                    forms += 1
    assert forms >= 20


def test_pictures_are_shown_where_a_response_can_be_one(document: dict[str, Any]) -> None:
    for case in use_cases.every.values():
        text = document["paths"][case.path]["post"]["responses"]["200"]["description"]
        found = re.findall(r'<img alt="[^"]+" src="data:image/png;base64,([^"]+)">', text)
        assert len(found) == case.gives_items, case.path
        for picture in found:
            assert Image.open(io.BytesIO(base64.b64decode(picture))).width >= 8


@pytest.mark.parametrize("path", [case.path for case in use_cases.every.values()])
def test_a_use_case_lists_every_status_that_it_can_give(document: dict[str, Any], path: str) -> None:
    stated = {int(status) for status in document["paths"][path]["post"]["responses"]}
    assert stated == {200, *statuses.types().values()} - {405}  # 405 is of methods that the document lacks


def test_examples_of_errors_are_those_of_the_service(service: Served) -> None:
    client = service.client
    answers = {
        "malformed": client.post("/sample"),
        "not_found": client.get("/samples"),
        "method_not_allowed": client.get("/sample"),
        "unknown_model": client.post("/sample", json={"model": "mnist"}),
        "unsupported_task": client.post("/encode", json={"model": "mnist-gan", "images": []}),
        "too_large": client.post("/sample", json={"n": 5000}),
        "invalid_value": client.post("/sample", json={"n": 0}),
        "unsupported_media": client.post("/sample", content=b"x", headers={"content-type": "text/plain"}),
    }
    for name, answer in answers.items():
        error, example = answer.json()["error"], statuses.EXAMPLES[name]
        assert answer.status_code == statuses.types()[name]
        assert (error["type"], error["message"], error["field"]) == (name, example["message"], example.get("field")), (
            name
        )
        assert bool(error["valid"]) == bool(example.get("valid")), name
    assert answers["unsupported_task"].json()["error"]["valid"] == statuses.EXAMPLES["unsupported_task"]["valid"]


def test_examples_of_errors_of_the_protocol_are_those_of_the_service(service: Served) -> None:
    client, path = service.client, "/v2/models/mnist-vae/infer"
    tensor = {"name": "latent", "shape": [1, 2], "datatype": "FP32", "data": [0, 0]}
    chunks = iter([bytes(Settings().max_body_bytes), b"x"])  # without Content-Length
    answers = {
        400: client.post(path, json={"inputs": [tensor]}),
        403: client.get("/v2", headers={"host": "example.com"}),
        404: client.get("/v2/models/mnist"),
        413: client.post(path, content=chunks),
        415: client.post(path, content=b"x", headers={"content-encoding": "br"}),
    }
    for status, answer in answers.items():
        text, example = answer.json()["error"], described.MESSAGES[status]
        assert answer.status_code == status
        if status == 404:  # it ends with the names of the models
            text, example = text.partition("valid:")[0], example.partition("valid:")[0]
        assert text == example


def test_fields_may_be_in_the_query_without_a_body(service: Served) -> None:
    client = service.client
    by_query, by_body = client.post("/sample?n=2&seed=7"), client.post("/sample", json={"n": 2, "seed": 7})
    assert by_query.status_code == 200
    assert by_query.json()["images"] == by_body.json()["images"]
    both = client.post("/sample?n=2&class=3", json={"seed": 7}).json()["error"]
    assert (
        both["message"] == 'query: ?n=2&class=3 has no effect beside a JSON body; add {"n":2,"class":"3"} to the body'
    )
    long = client.post(f"/sample?class={'1' * 300}", json={"seed": 7}).json()["error"]
    assert long["message"].endswith("beside a JSON body; send all fields in the body")
