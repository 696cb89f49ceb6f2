"""No text of pydantic reaches a user: on any surface, an error is a sentence of this project, with the value cut and the remedy."""

from __future__ import annotations

import copy
import itertools
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from pydantic_core import core_schema

from manifold.runtime.errors import ManifoldError
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import Manifest
from manifold.runtime.manifest.file import lines_of
from manifold.runtime.problems import NEEDED, choices, place, sentence, types_at
from manifold.service import security, settings
from manifold.service.core import contract, use_cases
from manifold.service.core.use_cases.base import UseCase
from manifold.service.core.validation import validate
from manifold.service.rpc import messages
from manifold.service.stubs import manifold_pb2 as pb
from manifold.training import families
from manifold.training.errors import TrainingError
from tests import foreign, forms
from tests.served import Served, served

PHRASES = re.compile(
    r"[Ii]nput should|should be (a|an|one|greater|less|equal|None)\b|should have at|should match|Extra inputs|Field required|Value error|"
    r"validation error|[Uu]nable to|Assertion failed|further information|pydantic|input_value|not permitted|Keys should|Object has no"
)
PYTHON = re.compile(r"\b(None|True|False)\b|\{'")  # values as Python writes them; requests are JSON
LONG = "x" * 200
VALUES: list[Any] = [
    None, True, -1, 0, 1.5, 1e400, 2**70, "", LONG, "1", [], [1, "a"], [None], ["x"] * 3, {}, {"a": None}, {"class": -1}, [[]],
]  # fmt: skip
# the bounds that the errors of pydantic state, together
CONTEXT: dict[str, Any] = {
    "gt": 0, "ge": 1.0, "lt": 1, "le": 2**63 - 1, "multiple_of": 2, "min_length": 1, "max_length": 3, "actual_length": 4, "pattern": "^a$",
    "expected": "'one', 'two' or 'three'", "expected_tags": "'one', 'two'", "discriminator": "'kind'", "tag": LONG, "class_name": "End",
    "error": "expected value at line 3 column 7", "field_type": "Tuple",
}  # fmt: skip
TYPES = typing.get_args(core_schema.ErrorType)


def check(text: str) -> None:
    """Assert that a text is in this project's words, and repeats no more than 80 characters of a value."""
    assert text and not PHRASES.search(text), text
    assert "x" * 81 not in text, text


@pytest.mark.parametrize("kind", [*TYPES, "a_type_of_a_later_version"])
def test_every_type_of_error_is_a_sentence(kind: str) -> None:
    problem = {"type": kind, "loc": ("n",), "msg": "Input should be something", "input": LONG, "ctx": CONTEXT}
    check(sentence(problem))
    check(sentence({**problem, "ctx": {}}))  # a later version may state less
    check(sentence({**problem, "input": {LONG: [LONG]}}))
    assert "xx" not in sentence({**problem, "ctx": {**CONTEXT, "tag": "t", "error": "e"}}, secret=True)
    assert kind not in NEEDED or NEEDED[kind] in sentence(problem)


def test_bounds_and_choices_are_named() -> None:
    def of(kind: str, given: Any, **context: Any) -> str:
        return sentence({"type": kind, "loc": (), "input": given, "ctx": context})

    assert of("greater_than_equal", 0, ge=1) == "0 is too small; use 1 or more"
    assert of("less_than_equal", 2**64, le=2**63 - 1).endswith("use 9223372036854775807 or less")
    assert of("greater_than", 0.0, gt=0.0) == "0.0 is too small; use a value above 0"
    assert of("literal_error", "gif", expected="'png' or 'array'") == "'gif' is unknown; use one of png, array"
    assert choices({"ctx": {"expected": "'png' or 'array'"}}) == ["png", "array"]
    assert of("json_invalid", "{", error="expected value at line 1 column 2") == (
        "the text is not valid JSON (line 1, column 2); correct it"
    )
    assert of("value_error", 1, error=ValueError("own words")) == "own words"


@pytest.mark.parametrize(
    ("value", "says"),
    [(1e23, "n: 1e+23 is too large; use a smaller integer"), (-1e23, "n: -1e+23 is too small; use a larger integer"),
     (1.5, "n: an integer is needed, not 1.5")],
)  # fmt: skip
def test_an_integer_with_too_many_digits_is_an_integer(value: float, says: str) -> None:
    with pytest.raises(ManifoldError) as caught:
        validate(use_cases.every["sample"].request, {"n": value})
    assert caught.value.message == says


def wrong_fields(shape: type[BaseModel]) -> Iterator[dict[str, Any]]:
    """Yield requests with one field that may be wrong, or is unknown."""
    for name, info in shape.model_fields.items():
        yield from ({(info.alias or name): value} for value in VALUES)
    yield from ({}, {LONG: 1}, {"nn": 1})


def refused(shape: type[BaseModel], fields: dict[str, Any]) -> ManifoldError | None:
    """Return the error of a request, if it is wrong."""
    try:
        validate(shape, fields)
    except ManifoldError as error:
        return error
    return None


@pytest.mark.parametrize("shape", [*(case.request for case in use_cases.every.values()), contract.CalibrateRequest])
def test_requests(shape: type[BaseModel]) -> None:
    found = [error for fields in wrong_fields(shape) if (error := refused(shape, fields)) is not None]
    assert len(found) > 20
    for error in found:
        check(error.message)
        assert error.field is not None
        assert not PYTHON.search(error.message), error.message


def objects(shape: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """Yield the objects of a request that have fixed fields, with their paths. The key `a` stands for any name."""
    yield path, shape
    for name, info in shape.model_fields.items():
        for found in types_at(shape, [name]):
            named = typing.get_origin(found) is dict
            inner = types_at(shape, [name, "a"]) if named else [found]
            for each in inner:
                if isinstance(each, type) and issubclass(each, BaseModel):
                    yield from objects(each, (*path, info.alias or name, *(("a",) if named else ())))


@pytest.mark.parametrize("case", use_cases.every.values(), ids=lambda case: case.name)
def test_an_unknown_field_names_the_valid_ones_at_every_level(case: UseCase) -> None:
    for path, shape in objects(case.request):
        names = [info.alias or name for name, info in shape.model_fields.items()]
        fields: dict[str, Any] = {f"{names[0]}x": 1}
        for key in reversed(path):
            fields = {key: fields}
        error = refused(case.request, fields)
        assert error is not None
        assert (error.field, error.valid) == (".".join((*path, f"{names[0]}x")), names)
        assert f"did you mean {names[0]!r}?" in error.message


def test_a_field_in_an_array_is_named_by_its_index() -> None:
    """Every surface writes images[0] and rows[0].amount."""
    assert place(("rows", 0, "amount")) == "rows[0].amount"
    for name, fields, field, said in (
        ("encode", {"images": [{"image": 1}]}, "images[0]", 'a base64 string is needed, not {"image": 1}'),
        ("encode", {"images": "a"}, "images", "an array of base64 strings is needed, not 'a'; put a single item in brackets"),
        ("encode", {"rows": {"a": None}}, "rows", 'an array is needed, not {"a": null}; put a single item in brackets: [ITEM]'),
        ("encode", {"rows": [3]}, "rows[0]", "an object or an array is needed, not 3"),
        ("sample", {"conditions": {"a": {"texts": ["a", None]}}}, "conditions.a.texts[1]", "a text is needed, not null"),
        ("anomaly-score", {"costs": {"fraud": 3}}, "costs.fraud", "unknown field; remove it or correct its name"),
    ):  # fmt: skip
        error = refused(use_cases.every[name].request, fields)
        assert error is not None
        assert (error.field, error.message.startswith(f"{field}: {said}")) == (field, True), error.message


def test_forms_of_images_are_named_with_their_transport() -> None:
    """gRPC has neither JSON nor multipart forms, and its errors are those of REST."""
    needed = ImageSpec(height=2, width=2, channels=1).needed
    assert needed.startswith("PNG, JPEG or WebP images (over HTTP: ")


def test_messages_of_grpc() -> None:
    for message in (
        pb.SampleRequest(n=-1),
        pb.SampleRequest(encoding=LONG),
        pb.InterpolateRequest(steps=1),
        pb.ImputeRequest(candidates=99),
    ):
        case = next(each for each in use_cases.every.values() if each.request.__name__ == type(message).__name__)
        with pytest.raises(ManifoldError) as caught:
            validate(case.request, messages.request(message)[0])
        check(caught.value.message)


def test_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    nested = [f"MODELS__A__{name.upper()}" for name in settings.ModelSettings.model_fields]
    names = [name.upper() for name in settings.Settings.model_fields if name != "models"]
    for value in ("x", "-1", "1e999", "{", LONG, "[1]"):
        with monkeypatch.context() as changed:
            for name in (*names, *nested):
                changed.setenv(f"MANIFOLD_{name}", value)
            with pytest.raises(settings.SettingsError) as caught:
                settings.read()
        check(caught.value.message)
        assert len(caught.value.message.splitlines()) > 10
    monkeypatch.setenv("MANIFOLD_MODELS", "{")
    with pytest.raises(settings.SettingsError, match="MANIFOLD_MODELS is not valid JSON"):
        settings.read()
    monkeypatch.delenv("MANIFOLD_MODELS")
    for toml in (
        "port = 'a'", "keys = ['mf_secret']", "models = 3", "[models.a]\ndevice = 'tpu'", "cors_origins = [1]", "nn = 1",
    ):  # fmt: skip
        (tmp_path / "manifold.toml").write_text(toml)
        with pytest.raises(settings.SettingsError) as caught:
            settings.read()
        check(caught.value.message)
        assert "mf_secret" not in caught.value.message


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values within JSON."""
    yield path
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


@pytest.mark.parametrize("make", [forms.named, forms.captioned])
def test_manifests(make: Any) -> None:
    content, failed = make(), 0
    wrong: Iterator[Any] = itertools.cycle((None, -1, "", LONG, [], {"a": 1}, 1.5))
    for path in [path for path in places(content) if path]:
        changed = copy.deepcopy(content)
        at = changed
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = next(wrong)
        try:
            Manifest.model_validate(changed)
        except ValidationError as error:
            failed += 1
            for line in lines_of(error):
                assert not PHRASES.search(line), line
    assert failed > 30


@pytest.mark.parametrize("make", [forms.named, forms.captioned, foreign.manifest])
def test_an_unknown_field_of_a_manifest_suggests_the_nearest(make: Any) -> None:
    content, found = make(), []
    for path in places(content):
        changed = copy.deepcopy(content)
        at = changed
        for key in path:
            at = at[key]
        if not isinstance(at, dict) or all(isinstance(value, dict) for value in at.values()):
            continue  # not a record: its keys are names
        name = f"{next(iter(at))}x"
        at[name] = 1
        try:
            Manifest.model_validate(changed)
        except ValidationError as error:
            lines = [line for line in lines_of(error) if "unknown field" in line]
            found += lines
            field = place((*path, name))
            assert not lines or lines == [
                f"  {field}: unknown field (did you mean {name[:-1]!r}?); remove it or correct its name"
            ]
    assert len(found) > 4


def test_recipes() -> None:
    for name in ("vae", "gan", "tabular_vae"):
        for field in families.get(name).Config.model_fields:
            for value in (None, -1, LONG, [LONG], {"a": 1}, 1.5, True):
                try:
                    families.get(name).Config.model_validate({field: value})
                except TrainingError as error:
                    check(error.message)


def test_files_of_keys() -> None:
    for text in (LONG, "a:b", f"a:root:{'0' * 64}", f"a:infer:{'0' * 64}:x"):
        with pytest.raises(settings.SettingsError) as caught:
            security.parse(text)
        check(caught.value.message)
        assert LONG[:20] not in caught.value.message


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("problems")
    foreign.write(root)
    with served(root) as service:
        yield service


def test_routes(service: Served) -> None:
    client, answers = service.client, []
    for version in ("a", "-1", "1.5", LONG, ""):
        for path in ("/models/foreign", "/models/foreign/stats", "/models/foreign/preview.png"):
            answers.append(client.get(path, params={"version": version}))
    for fields in ({"n": "a"}, {"seed": "1.5"}, {"encoding": LONG}, {LONG: "1"}, {"inputs": '{"a": [null]}'}):
        answers.append(client.post("/sample", params=fields))
        answers.append(client.post("/sample", json=fields))
        answers.append(
            client.post(
                "/admin/models/foreign/calibrate",
                params=fields,
                content=b"a\n1\n",
                headers={"content-type": "text/csv"},
            )
        )
    bodies: list[Any] = [
        {"inputs": 1},
        {"parameters": {"n": "a"}},
        {"parameters": {"n": None, "seed": True}},
        {"parameters": {"class": {"a": None}}},
        {"inputs": [{"name": "latent", "datatype": "FP32", "data": []}]},
        {"inputs": [{"name": "latent", "shape": None, "datatype": None, "data": []}]},
        {"inputs": [{"name": "latent", "shape": [None], "datatype": True, "data": None}]},
        {"inputs": [{"name": "latent", "shape": [1], "datatype": True, "data": {"a": None}}]},
        {"inputs": [{"name": "latent", "shape": [1], "datatype": "FP32", "data": {"a": None}}]},
        {"inputs": [{"name": "latent", "shape": [1], "parameters": {"binary_data_size": True}, "datatype": "FP32"}]},
        {"parameters": {LONG: 1}},
        {"id": 1},
        {"outputs": [{"name": 1}]},
        {LONG: 1},
        [],
    ]
    answers += [client.post("/v2/models/foreign/infer", json=body) for body in bodies]
    for answer in answers:
        assert 400 <= answer.status_code < 500, answer.text
        error = answer.json()["error"]
        message = error if isinstance(error, str) else error["message"]
        check(message)
        assert not PYTHON.search(message), message
