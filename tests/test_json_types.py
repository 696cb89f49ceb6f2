"""The types of JSON values in requests: no value is converted. The tests cover every field of every request, by reflection over the contract."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import pytest
from pydantic import BaseModel
from starlette.testclient import TestClient

from manifold.runtime import codecs, inputs
from manifold.runtime.conditions import class_weights
from manifold.runtime.engine import load
from manifold.runtime.errors import InvalidValue
from manifold.service.core import use_cases
from manifold.service.core.validation import validate
from tests.forms import ask, png, refused

VALUES: dict[str, Any] = {
    "text": "5", "true": True, "false": False, "integer": 5, "number": 4.5, "whole number": 4.0, "array": [], "object": {}, "null": None,
}  # fmt: skip
NUMBERS = ("integer", "number", "whole number")


def accepted(annotation: Any) -> set[str]:
    """Return the types of JSON values, by their names in VALUES, that an annotation allows."""
    if annotation is Any:
        return set(VALUES)
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return set().union(*map(accepted, get_args(annotation)))
    if origin is Literal:
        return {"text"}
    if hasattr(annotation, "__metadata__"):
        return accepted(annotation.__origin__)
    plain = origin or annotation
    if isinstance(plain, type) and issubclass(plain, BaseModel):
        return {"object"}
    known: dict[Any, set[str]] = {
        str: {"text"}, int: {"integer"}, float: set(NUMBERS), bool: {"true", "false"}, list: {"array"}, dict: {"object"}, type(None): {"null"},
    }  # fmt: skip
    return known[plain]


def shapes_in(annotation: Any) -> Iterator[tuple[type[BaseModel], bool]]:
    """Yield the objects within an annotation, and whether each is the value of a mapping by name."""
    for part in get_args(annotation):
        if isinstance(part, type) and issubclass(part, BaseModel):
            yield part, get_origin(annotation) is dict
        else:
            yield from shapes_in(part)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, False


def fields_of(shape: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and the annotation of every field of a request, including those of nested objects."""
    for name, info in shape.model_fields.items():
        own = (*path, info.alias or name)
        yield own, info.annotation
        for within, by_name in shapes_in(info.annotation):
            yield from fields_of(within, (*own, "look") if by_name else own)


def body(path: tuple[str, ...], value: Any, needed: dict[str, Any]) -> dict[str, Any]:
    """Return a request with one value at a path, and with the fields that the request needs."""
    if path[0] == "costs" and len(path) == 2:
        return {**needed, "costs": {"false_positive": 1, "false_negative": 1, "prevalence": 0.1, path[1]: value}}
    made: Any = value
    for name in reversed(path[1:]):
        made = {name: made}
    return {**needed, path[0]: made}


NEEDED: dict[str, dict[str, Any]] = {"interpolate": {"from": {"seed": 1}, "to": {"seed": 2}}}
CASES = [
    (name, ".".join(path), kind)
    for name, case in use_cases.every.items()
    for path, annotation in fields_of(case.request)
    for kind in VALUES
    if kind not in accepted(annotation)
]


def test_the_cases_hold_every_use_case_and_the_objects_within_requests() -> None:
    """The reflection must not find an empty list."""
    assert {name for name, _, _ in CASES} == set(use_cases.every)
    paths = {path for _, path, _ in CASES}
    assert {"seed", "conditions.look.texts", "from.latent", "costs.prevalence", "return_latents"} <= paths
    assert len(CASES) > 500
    for needed in NEEDED.values():
        assert validate(use_cases.every["interpolate"].request, needed)


@pytest.mark.parametrize("name", list(use_cases.every))
def test_a_value_of_another_type_is_refused_under_its_path(forms_client: TestClient, name: str) -> None:
    wrong = []
    for case, path, kind in CASES:
        if case == name:
            answer = forms_client.post(
                f"/{name}", json=body(tuple(path.split(".")), VALUES[kind], NEEDED.get(name, {}))
            )
            if answer.status_code != 422 or answer.json()["error"]["field"] != path:
                wrong.append((path, kind, answer.status_code, answer.text[:200]))
    assert not wrong


@pytest.mark.parametrize(
    ("path", "fields", "field"),
    [
        ("sample", {"model": "numbered", "inputs": {"guidance": "2"}}, "inputs.guidance"),
        ("sample", {"model": "numbered", "inputs": {"guidance": True}}, "inputs.guidance"),
        ("sample", {"model": "numbered", "inputs": {"guidance": None}}, "inputs.guidance"),
        ("sample", {"model": "numbered", "n": 2, "inputs": {"guidance": [1, "2"]}}, "inputs.guidance[1]"),
        ("sample", {"model": "numbered", "n": 2, "inputs": {"guidance": [1, False]}}, "inputs.guidance[1]"),
        ("sample", {"model": "numbered", "class": {"cat": "1"}}, "class.cat"),
        ("sample", {"model": "numbered", "class": {"cat": True}}, "class.cat"),
        ("sample", {"model": "numbered", "class": ["cat", 1.0]}, "class[1]"),
        ("sample", {"model": "numbered", "class": ["cat", True]}, "class[1]"),
        ("sample", {"model": "numbered", "class": [["cat"]]}, "class[0]"),
        ("sample", {"model": "numbered", "latents": [["1", "2"]]}, "latents"),
        ("sample", {"model": "numbered", "latents": [[True, False]]}, "latents"),
        ("sample", {"model": "numbered", "latents": [[1, None]]}, "latents"),
        ("sample", {"model": "numbered", "latents": [[1, {}]]}, "latents"),
        ("sample", {"model": "named", "named_latents": {"place": [["1", 2]]}}, "named_latents.place"),
        ("sample", {"model": "named", "named_latents": {"place": [[True, 2]]}}, "named_latents.place"),
        ("sample", {"model": "measured", "condition": ["1", "2"]}, "condition"),
        ("sample", {"model": "measured", "condition": [[1, True]]}, "condition"),
        ("sample", {"model": "measured", "condition": [None, 2]}, "condition"),
        ("sample", {"model": "measured", "conditions": {"condition": {"values": ["1", 2]}}}, "conditions.condition.values"),
        ("reconstruct", {"model": "shaped", "images": [png(1)], "class": "cat", "target_condition": ["1", 0, 0]}, "target_condition"),
        ("interpolate", {"model": "shaped", "from": {"latent": [["1"] * 3] * 2}, "to": {"seed": 1}}, "from.latent"),
        ("interpolate", {"model": "measured", "from": {"condition": [True, 1]}, "to": {"seed": 1}}, "model"),
        ("impute", {"model": "completing", "images": [png(1)], "masks": [True]}, "masks[0]"),
        ("impute", {"model": "completing", "images": [png(1)], "masks": True}, "masks"),
    ],
)  # fmt: skip
def test_values_within_arrays_are_not_converted(
    forms_client: TestClient, path: str, fields: dict[str, Any], field: str
) -> None:
    answer = forms_client.post(f"/{path}", json=fields)
    assert answer.status_code == (422 if field != "model" else 409), answer.text
    assert answer.json()["error"]["field"] == field


def test_numbers_may_be_written_as_integers(forms_client: TestClient) -> None:
    """1 is a number. 4.0 is an integer only where every transport has only numbers: in `inputs`."""
    whole = ask(
        forms_client,
        "/sample",
        model="numbered",
        seed=1,
        temperature=1,
        inputs={"guidance": 5, "steps": 4},
        **{"class": "cat"},
    )
    same = ask(
        forms_client,
        "/sample",
        model="numbered",
        seed=1,
        temperature=1.0,
        inputs={"guidance": 5.0, "steps": 4.0},
        **{"class": "cat"},
    )
    assert whole == same
    field, said = refused(forms_client, "/sample", model="numbered", inputs={"steps": 4.5}, **{"class": "cat"})
    assert field == "inputs.steps" and "is not a whole number" in said


def test_the_library_converts_nothing(forms_root: Path) -> None:
    model = load(forms_root / "numbered")
    for options in (
        {"seed": 1.0}, {"seed": True}, {"seed": "1"}, {"first": 1.5}, {"temperature": "1"}, {"temperature": True},
        {"numbers": {"guidance": "2"}}, {"numbers": {"guidance": True}}, {"numbers": {"guidance": [1, None]}},
    ):  # fmt: skip
        with pytest.raises(InvalidValue):
            model.sample(2, classes="cat", **options)
    with pytest.raises(InvalidValue, match="contains text; send only numbers"):
        class_weights(["a", "b"], {"a": "1"}, 2)  # type: ignore[dict-item]
    numbers: dict[str, Any] = {"seed": np.int64(3), "temperature": np.float32(1)}
    assert model.sample(2, classes="cat", **numbers).seed == 3


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([[1, "2"]], "text"), ([[True]], "true or false"), ([None], "null"), ([{}], "objects"), ([1, [None]], "null"), ("12", "text"),
        (np.asarray([True]), "bool"), (np.asarray(["1"]), "str"),
    ],
)  # fmt: skip
def test_arrays_hold_numbers(values: Any, named: str) -> None:
    with pytest.raises(InvalidValue, match=f"x: contains .*{named}.*; send only numbers"):
        codecs.check_types(values, "x")


@pytest.mark.parametrize("values", [[[1, 2]], [[np.int32(1)]], np.zeros((1, 2), np.uint8)])
def test_codes_may_be_integers_of_any_size(values: Any) -> None:
    codecs.check_types(values, "codes", whole=True)
    assert codecs.floats(values, (2,) if np.size(values) > 1 else (1,), "codes").dtype == np.float32


@pytest.mark.parametrize("values", [[[1.0]], [[True]], [["1"]], np.zeros(2, np.float32)])
def test_codes_are_no_floats(values: Any) -> None:
    with pytest.raises(InvalidValue, match=r"codes: contains .*; send only integers"):
        codecs.check_types(values, "codes", whole=True)


@pytest.mark.parametrize("query", ["seed=3", "n=2&seed=3", "x", "model=named"])
def test_a_query_beside_a_json_body_is_refused(forms_client: TestClient, query: str) -> None:
    answer = forms_client.post(f"/sample?{query}", json={"model": "named", "n": 1})
    assert answer.status_code == 422 and answer.json()["error"]["field"] == "query"
    assert query.partition("=")[0] in answer.json()["error"]["message"]
    answer = forms_client.post(f"/v2/models/named/infer?{query}", json={})
    assert answer.status_code == 400 and "query" in answer.json()["error"]


def test_a_query_is_text_that_is_read_as_json(forms_client: TestClient) -> None:
    """Beside a raw body, the query contains the fields: JSON values as text, with the same types."""
    latents, kind = codecs.to_npy(np.zeros((1, 2, 3), np.float32)), {"content-type": codecs.NPY}
    fields = {"model": "shaped", "class": "cat"}
    assert (
        forms_client.post(
            "/sample", params={**fields, "n": "1", "return_latents": "true"}, content=latents, headers=kind
        ).status_code
        == 200
    )
    for name, text in (
        ("n", "1.0"),
        ("n", '"1"'),
        ("n", "true"),
        ("return_latents", "True"),
        ("return_latents", "1"),
        ("seed", "x"),
    ):
        answer = forms_client.post("/sample", params={**fields, name: text}, content=latents, headers=kind)
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, name), text


def test_a_field_is_sent_once_in_the_query_or_in_the_form(forms_client: TestClient) -> None:
    answer = forms_client.post("/encode?fit=contain", files={"file": ("a.png", b"x")}, data={"fit": "strict"})
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "fit")
    assert "more than once" in answer.json()["error"]["message"]


def test_messages_name_values_as_json_writes_them(forms_client: TestClient) -> None:
    for value, text in ((None, "null"), (True, "true"), ("1", "'1'")):
        field, said = refused(forms_client, "/sample", first=value)
        assert (field, said) == ("first", f"first: an integer is needed, not {text}")


def test_a_temperature_beyond_its_range_is_still_one_error() -> None:
    with pytest.raises(InvalidValue, match="is out of range"):
        inputs.check_temperature(0)
