"""The client's arguments: signatures that match the service's, and errors before anything is sent."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args, get_type_hints

import httpx
import numpy as np
import pytest
from mypy import api as mypy
from PIL import Image

from manifold_client import (
    AsyncClient,
    Client,
    Condition,
    Costs,
    End,
    InvalidType,
    InvalidValue,
    ManifoldClientError,
    Retry,
    exchanges,
)
from tests.conftest import ROOT

SCHEMAS = json.loads((ROOT / "docs/openapi.json").read_text())["components"]["schemas"]
REQUESTS = {
    "sample": "SampleRequest", "sample_stream": "SampleRequest", "encode": "EncodeRequest", "reconstruct": "ReconstructRequest",
    "interpolate": "InterpolateRequest", "anomaly_score": "ScoreRequest", "classify": "ClassifyRequest", "impute": "ImputeRequest",
}  # fmt: skip
PAGES = ("docs/reference/client.md",)  # their python blocks, one after the other, must pass mypy --strict
SKIPPED = ("numpy", "PIL", "httpx", "pandas", "polars", "pyarrow")
ROW = {"amount": 1.0}
IMAGE = Image.new("L", (8, 8))
ONCE = Retry(attempts=1)


@pytest.fixture
def offline() -> Client:
    """Return a client whose requests fail the test."""

    def handle(request: httpx.Request) -> httpx.Response:
        raise AssertionError(f"{request.url} was called")

    return Client(transport=httpx.MockTransport(handle))


@pytest.fixture
def sent() -> tuple[Client, list[dict[str, Any]]]:
    """Return a client, and the bodies that it sends. Its answers have no items."""
    bodies: list[dict[str, Any]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.read()))
        return httpx.Response(
            200,
            json={"model": "m", "version": 1, "request_id": "r", "items": [] if "score" in request.url.path else None,
                  "threshold": {}},
        )  # fmt: skip

    return Client(transport=httpx.MockTransport(handle)), bodies


# --- signatures ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", REQUESTS)
def test_every_field_of_an_endpoint_is_a_parameter(method: str) -> None:
    parameters = inspect.signature(getattr(Client, method)).parameters
    names = [exchanges.WIRE.get(name, name) for name in parameters if name != "self"]
    assert sorted(names) == sorted(SCHEMAS[REQUESTS[method]]["properties"])
    assert all(each.annotation not in (inspect.Parameter.empty, "Any") for each in list(parameters.values())[1:])
    same = inspect.signature(getattr(AsyncClient, method))
    assert same.parameters == parameters
    assert "seed" not in names or "seed: int | None = None" in str(same).replace("'", "")


def test_every_endpoint_has_a_method() -> None:
    paths = json.loads((ROOT / "docs/openapi.json").read_text())["paths"]
    posts = {
        path.strip("/").replace("-", "_")
        for path, each in paths.items()
        if "post" in each and "admin" not in path and not path.startswith("/v2/")
    }
    assert posts == set(REQUESTS) - {"sample_stream"}


@pytest.mark.parametrize(("schema", "mapping"), [("Condition", Condition), ("End", End), ("Costs", Costs)])
def test_the_keys_of_mappings_are_those_of_the_service(schema: str, mapping: type) -> None:
    assert sorted(mapping.__annotations__) == sorted(SCHEMAS[schema]["properties"])


def test_limits_and_choices_are_those_of_the_service() -> None:
    found: dict[str, tuple[Any, ...]] = {}
    for schema in [*set(REQUESTS.values()), "Costs"]:
        for name, stated in SCHEMAS[schema]["properties"].items():
            one = next((each for each in stated.get("anyOf", [stated]) if each.get("type") != "null"), stated)
            if "minimum" in one:
                # /interpolate has `steps` of at least 2 items, the others those of a sampler
                least = min(one["minimum"], found.get(name, (one["minimum"],))[0])
                found[name] = (least, one.get("maximum"))
            elif "exclusiveMinimum" in one:
                found[name] = (one["exclusiveMinimum"], one.get("exclusiveMaximum", float("inf")))
            elif "enum" in one:
                found[name] = tuple(one["enum"])
    assert found == {**exchanges.WHOLE, **exchanges.RANGES, **exchanges.OPEN, **exchanges.CHOICES}
    assert SCHEMAS[REQUESTS["interpolate"]]["properties"]["steps"]["minimum"] == exchanges.LEAST_PATH
    hints = get_type_hints(Client.interpolate, vars(exchanges) | vars(__import__("manifold_client.types").types))
    for name in ("fit", "encoding", "method"):
        (literal,) = [each for each in get_args(hints[name]) if get_args(each)]
        assert get_args(literal) == exchanges.CHOICES[name]


def test_a_misspelt_field_is_a_type_error_that_suggests_the_nearest_name(offline: Client) -> None:
    with pytest.raises(TypeError, match=r"sed: sample has no such field; did you mean seed\?") as caught:
        offline.sample(sed=7)  # type: ignore[call-arg]
    assert isinstance(caught.value, ManifoldClientError)
    with pytest.raises(InvalidType, match="did you mean temperature"):
        offline.sample_stream(3, temprature=1)  # type: ignore[call-arg]
    with pytest.raises(InvalidType, match="missing a required argument: 'n'"):
        offline.sample_stream()  # type: ignore[call-arg]

    async def scene() -> None:
        async with AsyncClient() as client:
            await client.anomaly_score(rows=[ROW], false_positive=0.1)  # type: ignore[call-arg]

    with pytest.raises(InvalidType, match="did you mean false_positive_rate"):
        asyncio.run(scene())
    assert inspect.iscoroutinefunction(AsyncClient.sample)


def test_types_find_a_misspelt_field_and_pass_the_documented_blocks(tmp_path: Path) -> None:
    """mypy --strict passes on the blocks of the pages; numpy, Pillow and httpx are skipped for speed."""
    files = [tmp_path / f"block{place}.py" for place in range(len(PAGES))]
    for path, page in zip(files, PAGES, strict=True):
        path.write_text("".join(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)))
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from manifold_client import Client\n"
        "client = Client()\n"
        "client.sample(sed=7)  # type: ignore[call-arg]\n"
        "client.sample(seed=7)\n"
        'client.encode(b"", fit="x")\n'
        'client.anomaly_score(rows={}, false_positive="1%")\n'
    )
    skipped = "".join(f"[mypy-{name}.*]\nfollow_imports = skip\nignore_missing_imports = true\n" for name in SKIPPED)
    config = tmp_path / "mypy.ini"
    config.write_text(f"[mypy]\nstrict = true\nmypy_path = {ROOT / 'client'}\n{skipped}")
    cache = str(tmp_path / "cache")
    said, errors, _ = mypy.run(["--config-file", str(config), "--cache-dir", cache, *map(str, [*files, wrong])])
    assert errors == ""
    assert re.findall(r"(\w+).py:(\d+): error: .*\[(.*)\]", said) == [
        ("wrong", "5", "arg-type"),
        ("wrong", "6", "call-arg"),
    ], said


# --- errors before anything is sent ----------------------------------------------------------------------------------------------

GREY = np.zeros((8, 8), np.uint8)
WRONG: dict[str, tuple[Callable[[Client], Any], type[ManifoldClientError], str]] = {
    "no file": (lambda c: c.encode("no-such.png"), InvalidValue, "images: there is no file 'no-such.png' .*give the path"),
    "no file in a list": (lambda c: c.encode([IMAGE, Path("no.png")]), InvalidValue, r"images\[1\]: there is no file"),
    "a folder": (lambda c: c.encode("."), InvalidValue, "images: '.' is a folder; give its files"),
    "base64": (lambda c: c.encode("iVBORw0KGgo"), InvalidValue, "a string is read as the path of a file.*base64.b64decode"),
    "bytes of a text": (lambda c: c.encode(b"GIF89a"), InvalidValue, "images: these 6 bytes are not a PNG, JPEG or WebP"),
    "a number": (lambda c: c.encode(3), InvalidType, "images: 3 is neither an image nor a list"),  # type: ignore[arg-type]
    "nested lists": (lambda c: c.encode([[0, 1]]), InvalidType, r"images\[0\]: \[0, 1\] is not an image"),  # type: ignore[list-item]
    "no images": (lambda c: c.encode([]), InvalidValue, "images: the list is empty; give at least one"),
    "no items": (lambda c: c.encode(), InvalidValue, "images: there are no items; give images or rows"),
    "both": (lambda c: c.encode(IMAGE, rows=ROW), InvalidValue, "rows: a request contains images or rows"),
    "rows as images": (lambda c: c.anomaly_score(ROW), InvalidType, "images: a dict holds rows; give it as rows="),  # type: ignore[arg-type]
    "an image as rows": (lambda c: c.impute(IMAGE), InvalidType, "is an image; give images=… and masks=…"),
    "one or several": (lambda c: c.encode(np.zeros((8, 8, 4))), InvalidValue, r"\(8, 8, 4\) could be one image with 4 channels or 8 grey"),
    "channels first": (lambda c: c.encode(np.zeros((2, 3, 8, 8))), InvalidValue, r"array.transpose\(0, 2, 3, 1\)"),
    "five axes": (lambda c: c.encode(np.zeros((1, 1, 1, 8, 8))), InvalidValue, "is not that of images; give"),
    "an empty batch": (lambda c: c.encode(np.zeros((0, 8, 8))), InvalidValue, "give at least one image"),
    "floats to 255": (lambda c: c.encode(np.full((8, 8), 255.0)), InvalidValue, "floats from 255 to 255; scale floats to 0..1"),
    "NaN": (lambda c: c.encode(np.full((8, 8), np.nan)), InvalidValue, "images: NaN"),
    "large integers": (lambda c: c.encode(np.full((8, 8), 300)), InvalidValue, "whole numbers from 300 to 300"),
    "complex": (lambda c: c.encode(np.zeros((8, 8), complex)), InvalidType, "array of complex128 is not an image"),
    "n": (lambda c: c.sample(0), InvalidValue, "n: 0 is not allowed; give an integer of 1 or more"),
    "n as a text": (lambda c: c.sample("3"), InvalidType, "n: '3' is not an integer"),  # type: ignore[arg-type]
    "n as a truth value": (lambda c: c.sample(True), InvalidType, "n: True is a boolean"),
    "n of a stream": (lambda c: c.sample_stream(-1), InvalidValue, "n: -1 is not allowed"),
    "seed": (lambda c: c.sample(seed=-1), InvalidValue, r"seed: -1 is not allowed; give an integer of 0 to 2\^63 - 1"),
    "large seed": (lambda c: c.sample(seed=2**63), InvalidValue, "seed: 9223372036854775808 is not allowed"),
    "temperature": (lambda c: c.sample(temperature=0), InvalidValue, "temperature: 0 is not allowed; give a number from 0.01 to 100"),
    "rate": (lambda c: c.anomaly_score(rows=ROW, false_positive_rate=1), InvalidValue, "between 0 and 1"),
    "rate as a text": (lambda c: c.anomaly_score(rows=ROW, false_positive_rate="1%"), InvalidType, "'1%' is not a number"),  # type: ignore[arg-type]
    "two ways to decide": (lambda c: c.anomaly_score(rows=ROW, budget=1, false_positive_rate=0.1), InvalidValue, "cannot be combined"),
    "costs": (lambda c: c.anomaly_score(rows=ROW, costs={"false_positive": 1}), InvalidValue, "costs: false_negative, prevalence missing"),  # type: ignore[arg-type]
    "prevalence": (
        lambda c: c.anomaly_score(rows=ROW, costs={"false_positive": 1, "false_negative": 2, "prevalence": 2}), InvalidValue,
        "costs.prevalence: 2 is not allowed",
    ),
    "key of costs": (lambda c: c.anomaly_score(rows=ROW, costs={"false_negativ": 1}), InvalidType, "did you mean false_negative"),  # type: ignore[arg-type]
    "choice": (lambda c: c.encode(IMAGE, fit="cover"), InvalidValue, "fit: 'cover' is unknown; give one of contain, strict"),  # type: ignore[arg-type]
    "truth value": (lambda c: c.sample(return_latents=1), InvalidType, "return_latents: 1 is not a boolean"),  # type: ignore[arg-type]
    "model": (lambda c: c.sample(model=3), InvalidType, "model: 3 is not a string"),  # type: ignore[arg-type]
    "empty model": (lambda c: c.sample(model=""), InvalidValue, "model: it is empty"),
    "class": (lambda c: c.sample(class_=3.5), InvalidType, "class_: 3.5 is not a class"),  # type: ignore[arg-type]
    "weights": (lambda c: c.sample(class_={"3": -1}), InvalidValue, "class_.3: -1 is not a weight"),
    "class and condition": (lambda c: c.sample(class_=3, condition=[1.0]), InvalidValue, "condition: class_ and condition cannot be combined"),
    "latents": (lambda c: c.sample(latents=[[1.0], [1.0, 2.0]]), InvalidValue, "latents: the lists have different lengths"),
    "latents as text": (lambda c: c.sample(latents="x"), InvalidType, "latents: 'x' is not an array"),
    "latents with NaN": (lambda c: c.sample(latents=[[np.nan]]), InvalidValue, "latents: it holds NaN or infinity"),
    "latents and codes": (lambda c: c.sample(latents=[[1.0]], codes=[[[1]]]), InvalidValue, "latents and codes cannot be combined"),
    "inputs": (lambda c: c.sample(inputs={"guidance": "high"}), InvalidType, "inputs.guidance: 'high' is not an array"),
    "inputs as a list": (lambda c: c.sample(inputs=[1]), InvalidType, "inputs: .* is not a mapping"),  # type: ignore[arg-type]
    "condition": (lambda c: c.sample(conditions={"look": {"image": IMAGE}}), InvalidType, "conditions.look.image: .*mean images"),  # type: ignore[typeddict-unknown-key]
    "empty condition": (lambda c: c.sample(conditions={"look": {}}), InvalidValue, "conditions.look: it states nothing"),
    "text": (lambda c: c.sample(conditions={"caption": {"texts": [1]}}), InvalidType, "conditions.caption.texts: .* is not a list of strings"),  # type: ignore[list-item]
    "two places": (lambda c: c.interpolate({"seed": 1, "image": IMAGE}, {"seed": 2}), InvalidValue, "start: image and seed cannot be combined"),
    "end without a place": (lambda c: c.interpolate({"first": 3}, {"seed": 1}), InvalidValue, "start: only first is given; give one of image"),
    "several images as one": (
        lambda c: c.interpolate({"image": np.zeros((1, 4, 4, 3), np.uint8)}, {"seed": 1}), InvalidValue,
        r"start.image: the shape \(1, 4, 4, 3\) is that of several images; give one image, such as array\[0\]",
    ),
    "grey images as one": (lambda c: c.encode([np.zeros((2, 5, 5))]), InvalidValue, r"images\[0\]: the shape \(2, 5, 5\) is that of several"),
    "both names of a field": (lambda c: c.call("sample", **{"class_": 1, "class": 2}), InvalidValue, "class_: class_ and class cannot be combined"),
    "empty end": (lambda c: c.interpolate({"seed": 1}, {}), InvalidValue, "stop: it is empty; give one of image"),
    "key of an end": (lambda c: c.interpolate({"seed": 1}, {"latents": [1]}), InvalidType, "stop.latents: an end has no such field; did you mean latent"),  # type: ignore[arg-type]
    "image of an end": (lambda c: c.interpolate({"image": "no.png"}, {"seed": 1}), InvalidValue, "start.image: there is no file"),
    "seed of an end": (lambda c: c.interpolate({"seed": -1}, {"seed": 1}), InvalidValue, "start.seed: -1"),
    "file of an end": (lambda c: c.interpolate({"seed": 1}, "no.png"), InvalidValue, "stop.image: there is no file 'no.png'"),
    "an end": (lambda c: c.interpolate(3, {"seed": 1}), InvalidType, "start: 3 is not an end; give an image, or a mapping such as"),  # type: ignore[arg-type]
    "row as an end": (lambda c: c.interpolate(ROW, {"seed": 1}), InvalidType, "start: an end has no fields 'amount'; write {'row'"),  # type: ignore[arg-type]
    "masks of a list of rows": (lambda c: c.impute([ROW], masks=[IMAGE]), InvalidValue, "masks: they belong to images"),
    "file of masks": (lambda c: c.impute("no.png", masks=IMAGE), InvalidValue, "images: there is no file 'no.png'"),
    "steps": (lambda c: c.interpolate({"seed": 1}, {"seed": 2}, steps=1), InvalidValue, "steps: 1 is not allowed"),
    "masks of rows": (lambda c: c.impute(rows=ROW, masks=[IMAGE]), InvalidValue, "masks: they belong to images"),
    "masks": (lambda c: c.impute(images=[IMAGE] * 3, masks=[IMAGE] * 2), InvalidValue, "masks: 2 for 3 images"),
    "candidates": (lambda c: c.impute(images=IMAGE, masks=IMAGE, candidates=65), InvalidValue, "integer of 1 to 64"),
    "no rows": (lambda c: c.impute([]), InvalidValue, "rows: the list is empty"),
    "the path of an image as rows": (lambda c: c.impute("examples/digit.png"), InvalidType, "rows: .*digit.png' is an image; give images=… and masks=…"),
    "images as rows": (lambda c: c.anomaly_score(rows=[IMAGE]), InvalidType, r"rows\[0\]: .* is an image; give images=…$"),  # type: ignore[list-item]
    "an array of images as rows": (lambda c: c.impute(np.zeros((2, 8, 8))), InvalidType, r"of shape \(2, 8, 8\) holds no rows; .* or images=… and masks"),
    "a file of rows": (lambda c: c.impute("rows.csv"), InvalidType, r"rows: 'rows.csv' is not a list of rows; .*give pandas.read_csv\('rows.csv'\)"),
    "a path of rows": (lambda c: c.impute(Path("r.jsonl.gz")), InvalidType, r"pandas.read_json\('r.jsonl.gz', lines=True\)"),
    "a list of files of rows": (lambda c: c.impute(["r.parquet"]), InvalidType, r"rows\[0\]: .*read_parquet\('r.parquet'\)"),
    "a file of rows as images": (lambda c: c.anomaly_score("r.csv"), InvalidValue, r"images: 'r.csv' is a file of rows.*give rows=pandas.read_csv\('r.csv'\)"),
    "a file of rows as an end": (lambda c: c.interpolate({"row": "r.csv"}, {"seed": 1}), InvalidType, r"start.row: .*read_csv\('r.csv'\)"),
    "values as rows": (lambda c: c.impute([1, 2]), InvalidType, r"rows\[0\]: 1 is not a row"),  # type: ignore[arg-type]
    "infinity": (lambda c: c.impute([{"a": float("inf")}]), InvalidValue, r"rows\[0\].a: inf cannot be sent"),
    "bytes in a cell": (lambda c: c.impute({"a": b"x"}), InvalidType, "rows.a: b'x' is a bytes"),
    "a name": (lambda c: c.impute({1: 2}), InvalidType, "the column 1 has a name that is not a string"),  # type: ignore[dict-item]
    "endpoint": (lambda c: c.call(""), InvalidValue, "endpoint: '' is not a name"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_found_before_anything_is_sent(offline: Client, case: str) -> None:
    call, kind, message = WRONG[case]
    with pytest.raises(ManifoldClientError, match=message) as caught:
        call(offline)
    error = caught.value
    assert {kind, TypeError if kind is InvalidType else ValueError} <= set(type(error).__mro__)
    assert error.field and str(error).startswith(error.field.split(".")[0])
    assert len(str(error)) < 400


def test_fields_as_they_are_sent(sent: tuple[Client, list[dict[str, Any]]]) -> None:
    client, bodies = sent
    two: Any = np.int64(2)
    client.sample(two, seed=7, class_=np.asarray(["1", "2"]), inputs={"guidance": np.float32(2)}, conditions=None)
    assert bodies.pop() == {"n": 2, "seed": 7, "class": ["1", "2"], "inputs": {"guidance": 2.0}}
    client.interpolate({"seed": 1, "class": 3}, {"latent": np.zeros(2)}, fit="strict")
    assert bodies.pop() == {"from": {"seed": 1, "class": 3}, "to": {"latent": [0.0, 0.0]}, "fit": "strict"}
    client.interpolate(IMAGE, {"image": GREY, "class": 3})
    from_, to = bodies.pop().values()
    assert from_ == {"image": to["image"]} and to["class"] == 3
    for masked in (IMAGE, GREY, [IMAGE]):
        client.impute(masked, masks=GREY)
        body = bodies.pop()
        assert body["images"] == [from_["image"]] == body["masks"] and "rows" not in body
    client.impute([{"a": Decimal("sNaN"), "b": Decimal("NaN"), "c": float("nan"), "d": Decimal("1.5")}])
    assert bodies.pop()["rows"] == [{"a": None, "b": None, "c": None, "d": 1.5}]
    client.sample(conditions={"caption": {"texts": "a circle"}, "pose": {"values": (0.5,)}})
    assert bodies.pop() == {"conditions": {"caption": {"texts": ["a circle"]}, "pose": {"values": [0.5]}}}
    client.anomaly_score(rows=ROW, costs={"false_positive": 1, "false_negative": 200, "prevalence": 0.01})
    assert bodies.pop()["costs"] == {"false_positive": 1.0, "false_negative": 200.0, "prevalence": 0.01}
