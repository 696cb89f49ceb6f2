"""The field of an error about a condition is the path at which the client stated it, in every form and place of a condition."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests import forms
from tests.forms import png

LOOK = {"look": {"images": [png(0)]}}
# wrong conditions of models with one condition: a class, two real values, or a text
SHORT: list[tuple[str, dict[str, Any]]] = [
    ("shaped", {"class": "cow"}), ("shaped", {"class": 9}), ("shaped", {"class": {"cow": 1}}), ("shaped", {"class": {"cat": 0}}),
    ("shaped", {"condition": [1, 2]}), ("shaped", {"condition": [-1, 0, 2]}), ("measured", {"class": "cat"}), ("measured", {"condition": [1]}),
    ("captioned", {"class": "cat"}), ("captioned", {"condition": [1]}), ("several", {"class": "cat"}), ("several", {"condition": [1]}),
]  # fmt: skip
LONG: list[tuple[str, str, dict[str, Any]]] = [
    ("shaped", "condition", {"texts": ["cat"]}), ("shaped", "condition", {"class": "cow"}), ("shaped", "condition", {"values": [1]}),
    ("shaped", "other", {"class": "cat"}), ("measured", "condition", {"texts": ["a"]}), ("measured", "condition", {"class": "cat"}),
    ("measured", "condition", {"values": [1, 2, 3]}), ("captioned", "condition", {"class": "cat"}), ("captioned", "condition", {"values": [1]}),
    ("captioned", "condition", {"texts": ["x" * 99]}), ("captioned", "x", {"texts": ["a"]}), ("several", "label", {"class": "cow"}),
    ("several", "label", {"texts": ["cat"]}), ("several", "pose", {"values": [1, 2]}), ("several", "pose", {"class": "cat"}),
    ("several", "caption", {"class": "cat"}), ("several", "look", {"values": [1]}), ("several", "colour", {"values": [1]}),
]  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder: Path = tmp_path_factory.mktemp("forms")
    forms.all_forms(folder)
    with forms.client(folder) as client:
        yield client


def whole(model: str, name: str, part: dict[str, Any]) -> dict[str, Any]:
    """Return conditions with a wrong part, and the items that `several` needs besides."""
    return {**(LOOK if model == "several" else {}), name: part}


def error(client: TestClient, path: str, **fields: Any) -> dict[str, Any]:
    answer = client.post(path, json=fields)
    assert answer.status_code == 422, answer.text
    found: dict[str, Any] = answer.json()["error"]
    assert found["message"].startswith(found["field"]), found
    return found


@pytest.mark.parametrize(("model", "fields"), SHORT, ids=str)
def test_short_forms_of_samples(client: TestClient, model: str, fields: dict[str, Any]) -> None:
    assert error(client, "/sample", model=model, **fields)["field"] == next(iter(fields))


@pytest.mark.parametrize(("model", "name", "part"), LONG, ids=str)
def test_long_forms_of_samples(client: TestClient, model: str, name: str, part: dict[str, Any]) -> None:
    found = error(client, "/sample", model=model, conditions=whole(model, name, part))
    assert found["field"] == f"conditions.{name}"


@pytest.mark.parametrize("end", ["from", "to"])
@pytest.mark.parametrize(("model", "fields"), [case for case in SHORT if case[0] != "measured"], ids=str)
def test_short_forms_of_ends(client: TestClient, model: str, fields: dict[str, Any], end: str) -> None:
    right: dict[str, dict[str, Any]] = {
        "shaped": {"class": "cat"},
        "captioned": {"conditions": {"condition": {"texts": ["a"]}}},
    }
    rest = right.get(
        model, {"conditions": {**LOOK, "label": {"class": "cat"}, "pose": {"values": [1]}, "caption": {"texts": ["a"]}}}
    )
    ends = {name: {"seed": 1, **(fields if name == end else rest)} for name in ("from", "to")}
    assert error(client, "/interpolate", model=model, **ends)["field"] == f"{end}.{next(iter(fields))}"


@pytest.mark.parametrize(
    ("model", "name", "part"), [case for case in LONG if case[0] not in ("measured", "several")], ids=str
)
def test_long_forms_of_ends(client: TestClient, model: str, name: str, part: dict[str, Any]) -> None:
    end = {"seed": 1, "conditions": {name: part}}
    assert error(client, "/interpolate", model=model, **{"from": end, "to": end})["field"] == f"from.conditions.{name}"


@pytest.mark.parametrize("end", ["from", "to"])
@pytest.mark.parametrize(("model", "field"), [("shaped", "class"), ("several", "conditions.label")])
def test_a_condition_that_an_end_lacks(client: TestClient, model: str, field: str, end: str) -> None:
    own: dict[str, Any] = {"class": "cat"}
    if model == "several":
        own = {"conditions": {**LOOK, "label": {"class": "cat"}, "pose": {"values": [1]}, "caption": {"texts": ["a"]}}}
    lacking = {"conditions": {key: one for key, one in own["conditions"].items() if key != "label"}} if model == "several" else {}  # fmt: skip
    ends = {name: {"image": png(1), **(lacking if name == end else own)} for name in ("from", "to")}
    assert error(client, "/interpolate", model=model, **ends)["field"] == f"{end}.{field}"


@pytest.mark.parametrize(("model", "fields"), [case for case in SHORT if case[0] == "shaped"], ids=str)
def test_short_forms_of_targets(client: TestClient, model: str, fields: dict[str, Any]) -> None:
    (name, value), *_ = fields.items()
    found = error(client, "/reconstruct", model=model, images=[png(1)], **{f"target_{name}": value, "class": "cat"})
    assert found["field"] == f"target_{name}"


@pytest.mark.parametrize(
    ("model", "name", "part"), [case for case in LONG if case[0] in ("shaped", "several")], ids=str
)
def test_long_forms_of_targets(client: TestClient, model: str, name: str, part: dict[str, Any]) -> None:
    own: dict[str, Any] = {"class": "cat"}
    if model == "several":
        own = {"conditions": {**LOOK, "label": {"class": "cat"}, "pose": {"values": [1]}, "caption": {"texts": ["a"]}}}
    found = error(client, "/reconstruct", model=model, images=[png(1)], target_conditions={name: part}, **own)
    assert found["field"] == f"target_conditions.{name}"


def test_the_message_says_where_the_condition_belongs(client: TestClient) -> None:
    for fields, said in (
        ({"class": "cat"}, "class: captioned takes texts here; use conditions.condition.texts"),
        ({"conditions": {"condition": {"class": "cat"}}}, "conditions.condition: captioned takes texts here; use conditions.condition.texts"),
    ):  # fmt: skip
        assert error(client, "/sample", model="captioned", **fields)["message"] == said
    found = error(client, "/sample", model="shaped", conditions={"condition": {"texts": ["cat"]}})
    assert found["message"] == "conditions.condition: shaped takes class here; use conditions.condition.class"
    found = error(client, "/interpolate", model="named", **{"from": {"seed": 1, "first": 2**63 - 1}, "to": {"seed": 1}})
    assert found["field"] == "from.first"
