"""JSON and numbers from outside: accepted and refused texts, without exceptions from Python itself."""

from __future__ import annotations

import base64
import io
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from google.protobuf.message import Message
from PIL import Image, PngImagePlugin
from starlette.testclient import TestClient

from manifold.runtime import codecs, conditions, imaging, texts
from manifold.runtime.errors import InvalidValue, Malformed, TooLarge
from manifold.service.core.use_cases import sample
from manifold.service.core.validation import validate
from manifold.service.http.app import create_app
from manifold.service.rpc import messages
from manifold.service.settings import Settings
from manifold.service.stubs import manifold_pb2 as pb
from tests.conftest import SHIPPED, wait_until_ready

NINES = "9" * 5000


def levels(value: Any) -> int:
    """Return the nesting depth of a value."""
    if not isinstance(value, list | dict):
        return 0
    return 1 + max([levels(each) for each in (value.values() if isinstance(value, dict) else value)] or [0])


def drawn(generator: random.Random, depth: int) -> Any:
    """Draw a value of about this many levels, with brackets, quotation marks and backslashes in its texts."""

    def text() -> str:
        return "".join(generator.choice('[]{}"\\n a,:') for _ in range(generator.randint(0, 6)))

    value: Any = text()
    for _ in range(depth):
        items = [
            generator.choice((text(), [text()], {text(): text()}, 7, None)) for _ in range(generator.randint(0, 2))
        ]
        items.append(value)
        generator.shuffle(items)
        value = items if generator.random() < 0.5 else {f"{text()}{place}": each for place, each in enumerate(items)}
    return value


def test_levels_are_counted_outside_of_texts() -> None:
    generator = random.Random(20)
    seen = set()
    for _ in range(100):
        value = drawn(generator, generator.randint(texts.LEVELS - 4, texts.LEVELS + 4))
        text = json.dumps(value, ensure_ascii=generator.random() < 0.5)
        deep = levels(value) > texts.LEVELS
        seen.add(deep)
        if deep:
            with pytest.raises(Malformed, match="more than 64 levels"):
                texts.json_of(text)
        else:
            assert texts.json_of(text.encode()) == value
    assert seen == {True, False}


@pytest.mark.parametrize("depth", [65, 500, 1024, 1025, 100_000])
def test_what_is_too_deep_is_refused_however_deep(depth: int) -> None:
    for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "[" * depth, '[{"a":' * depth):
        with pytest.raises(Malformed):
            texts.json_of(text, "body")
    assert levels(texts.json_of("[" * 64 + "]" * 64)) == 64


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "[Infinity]",
        "-Infinity",
        "1e400",
        NINES,
        f"[-{NINES}]",
        '"\\ud800"',
        "01",
        "{'a': 1}",
        "[1,]",
        "",
        " ",
        "\x00",
        "nul",
    ],
)
def test_only_json_is_json(text: str) -> None:
    with pytest.raises(Malformed, match="not JSON"):
        texts.json_of(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a":\n}', r"body: the text is not JSON \(line 2, column 1, at '}'\); correct it"),
        ('{"n": 1,}', "column 8.*; remove the comma"), ('{"n": 1}{', "column 9"),
        ('{"n": NaN}', "JSON has no such number; write null"), ("[-Infinity]", "JSON has no such number"),
        ("{a: 1}", "in double quotes"), ("['a']", "in double quotes"),
        ('{"a": 1', r"\(line 1, column 8\): it ends too early; send the whole text"),
        (b"\xff", "in UTF-8"), (b'{"a": "\xff"}', "in UTF-8"), (f'{{"a": {"x" * 200}', "at 'x{20}'"),
    ],
)  # fmt: skip
def test_a_text_that_is_not_json_is_explained(text: str | bytes, says: str) -> None:
    with pytest.raises(Malformed, match=says) as caught:
        texts.json_of(text)
    assert "char " not in caught.value.message  # orjson's own words


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0), ("007", 7), ("9223372036854775807", 2**63 - 1), ("9223372036854775808", None), (NINES, None), ("0" * 5000, None), ("", None), ("-1", None),
        ("+1", None), ("1.0", None), ("1_0", None), (" 1", None), ("1\n", None), ("\u0661", None), ("\u00b2", None), ("1e3", None), ("0x1", None),
    ],
)  # fmt: skip
def test_whole_numbers_are_digits(text: str, number: int | None) -> None:
    assert texts.whole(text) == number


def test_a_whole_number_has_a_limit() -> None:
    assert (texts.whole("10", 10), texts.whole("11", 10)) == (10, None)


# --- over HTTP ---


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Yield a service with a model of images and one of classes, which load on the first request."""
    root = tmp_path_factory.mktemp("texts")
    for name in ("mnist-cgan", "mnist-vae", "transactions-vae"):
        (root / name).symlink_to(SHIPPED / name)
    settings = Settings(models_dir=root, default_model="mnist-vae", device="cpu", lazy=True)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def status(answer: Any, field: str | None = None) -> int:
    """Return the status of an answer. Its error must be short and name the field."""
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert len(error if isinstance(error, str) else error["message"]) < 600
        assert field is None or field in str(error)
    return int(answer.status_code)


@pytest.mark.parametrize("kind", ["image/png", "text/csv"])
def test_a_query_of_many_fields_is_refused_before_it_is_read(kind: str, service: TestClient) -> None:
    fields = "&".join(f"k{i}={i}" for i in range(65))
    answer = service.post(f"/anomaly-score?{fields}", content=b"x", headers={"Content-Type": kind})
    assert status(answer, "query") == 400


@pytest.mark.parametrize(
    "text", [NINES, "0", "-1", "1.5", "1e3", "", " 5", "\u00b2", "0x10", "86400001", "5, 5", "nan"]
)
def test_deadlines_that_are_none(text: str, service: TestClient) -> None:
    headers = {b"x-deadline-ms": text.encode("latin-1")}
    assert status(service.post("/sample", json={}, headers=headers), "X-Deadline-Ms") == 422
    assert status(service.post("/v2/models/mnist-vae/infer", json={}, headers=headers), "X-Deadline-Ms") == 400


def test_lengths_that_are_none(service: TestClient) -> None:
    for text in (NINES, "99999999999999999999"):
        assert status(service.post("/sample", content=b"{}", headers={"Content-Length": text})) == 413
        answer = service.post(
            "/v2/models/mnist-vae/infer", content=b"{}", headers={"Inference-Header-Content-Length": text}
        )
        assert status(answer, "Inference-Header-Content-Length") == 400


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 500 + "]" * 500, '{"a":' * 2000, "[" * 65 + "1" + "]" * 65])
@pytest.mark.parametrize("field", ["latents", "class", "condition", "seed", "model", "n", "unknown"])
def test_deep_json_in_queries_and_forms(field: str, text: str, service: TestClient) -> None:
    array = io.BytesIO()
    np.save(array, np.zeros((1, 20), np.float32))
    picture = imaging.to_png(np.zeros((1, 28, 28), np.uint8))
    if len(text) < 60_000:  # a length that clients send in a URL
        answer = service.post(
            "/sample", params={field: text}, content=array.getvalue(), headers={"Content-Type": codecs.NPY}
        )
        assert status(answer, field) == 400
    assert status(service.post("/reconstruct", data={field: text}, files={"file": picture}), field) == 400


def test_deep_json_in_bodies(service: TestClient) -> None:
    deep = "[" * 500 + "]" * 500
    for route in (
        "/sample",
        "/encode",
        "/impute",
        "/interpolate",
        "/v2/models/mnist-vae/infer",
        "/v2/repository/index",
    ):
        for body in (
            deep,
            f'{{"latents": {deep}}}',
            f'{{"inputs": [{{"name": "latent", "shape": {deep}, "datatype": "FP32", "data": {deep}}}]}}',
            "[" * 100_000,
        ):
            assert status(service.post(route, content=body)) == 400
    row = f'{{"model": "transactions-vae", "rows": [{{"amount": {"[" * 60}{"]" * 60}}}]}}'
    assert status(service.post("/anomaly-score", content=row), "amount") == 422


@pytest.mark.parametrize(
    "text", ['{"rows": [%s[]]}' % ("[]," * texts.PARTS), '{"class": {%s"3": 1}}' % ('"3":1,' * texts.PARTS)]
)
def test_json_of_many_parts_is_refused_before_it_is_read(
    text: str, service: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part takes a hundred bytes or more, and orjson blocks all other work while it parses."""
    monkeypatch.setattr(orjson, "loads", pytest.fail)
    for route in ("/sample", "/encode", "/v2/models/mnist-vae/infer", "/v2/repository/index"):
        assert status(service.post(route, content=text)) == 413


def test_json_of_many_parts_in_the_fields_of_a_form(service: TestClient) -> None:
    picture = imaging.to_png(np.zeros((1, 28, 28), np.uint8))
    fields = {f"k{place}": "[%s[]]" % ("[]," * (texts.PARTS // 3)) for place in range(4)}
    assert status(service.post("/reconstruct", data=fields, files={"file": picture})) == 413
    with pytest.raises(TooLarge):
        texts.json_of("[%s1]" % ("[]," * texts.PARTS), "recipe")


@pytest.mark.parametrize(("make", "field"), [
    (lambda names: pb.EncodeRequest.FromString(b"\x32\x00" * len(names)), "rows"),
    (lambda names: pb.EncodeRequest(rows=[pb.Row(columns={name: pb.Value() for name in names})]), "columns"),
    (lambda names: pb.SampleRequest(**{"class": pb.ClassChoice(weights={"weights": dict.fromkeys(names, 1)})}), "weights"),
])  # fmt: skip
def test_messages_of_many_parts_are_refused_before_they_are_walked(
    make: Callable[[list[str]], Message], field: str
) -> None:
    message = make([str(place) for place in range(texts.PARTS + 1)])
    with pytest.raises(TooLarge, match=f"{field}: 262145 entries are over the limit of 262144") as caught:
        messages.request(message)
    assert caught.value.field == field


def test_numbers_may_be_many() -> None:
    assert len(texts.json_of("[%s1]" % ("1.5," * texts.PARTS))) == texts.PARTS + 1
    assert len(texts.json_of("[%s[]]" % ("[]," * (texts.PARTS - 2)))) == texts.PARTS - 1


def test_of_many_unknown_fields_one_is_named(service: TestClient) -> None:
    body = {"n": 1, **{f"k{place}": place for place in range(100_000)}}
    began = time.thread_time()
    with pytest.raises(InvalidValue, match="k0: unknown field") as caught:
        validate(sample.SampleRequest, body)
    assert time.thread_time() - began < 0.05
    assert caught.value.valid is not None and "class" in caught.value.valid
    assert status(service.post("/sample", json={**body, "class": "3"}), "k0") == 422


def test_fields_that_are_there_twice(service: TestClient) -> None:
    picture = imaging.to_png(np.zeros((1, 28, 28), np.uint8))
    image = {"Content-Type": "image/png"}
    assert status(service.post("/reconstruct?seed=1&seed=2", content=picture, headers=image), "seed") == 400
    assert status(service.post("/reconstruct", data={"seed": ["1", "2"]}, files={"file": picture}), "seed") == 400
    assert status(service.post("/reconstruct?seed=1", content=picture, headers=image)) == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"class": NINES}, {"class": [NINES]}, {"class": {NINES: 1}}, {"class": 2**63}, {"class": -1}, {"class": {"3": 1, "03": 1}},
        {"class": {"3": 0, "5": 0}},
        {"class": {"3": -1, "5": 2}}, {"class": {}}, {"class": {"3": "nan"}}, {"class": {"3": True, "x": 1}},
        {"condition": [1e308] * 10}, {"condition": [1e39] * 10}, {"condition": [0] * 10}, {"condition": [-1] + [1] * 9}, {"condition": [1e-320] * 10},
        {"temperature": 1e308}, {"temperature": 1e-320}, {"temperature": 0}, {"seed": NINES}, {"seed": 2**63}, {"seed": 1.0},
        {"first": 2**63 - 1, "n": 2}, {"first": 2**63}, {"n": 2**63}, {"n": 2**31}, {"n": 1e300},
        {"latents": [[1e308] * 128]}, {"latents": [[1e39] * 128]}, {"version": 2**63},
    ],
)  # fmt: skip
def test_numbers_beyond_what_is_computed_with(fields: dict[str, Any], service: TestClient) -> None:
    assert 400 <= status(service.post("/sample", json={"model": "mnist-cgan", **fields})) < 500
    parameters = {
        name: json.dumps(value) if isinstance(value, dict | list) else value
        for name, value in fields.items()
        if name not in ("condition", "latents", "version")
    }
    if parameters:
        assert status(service.post("/v2/models/mnist-cgan/infer", json={"parameters": parameters})) in (400, 413)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/interpolate", {"from": {"seed": 1}, "to": {"seed": 2}, "steps": 2**63}), ("/interpolate", {"from": {"seed": 1}, "to": {"seed": 2}, "steps": 10**9}),
        ("/interpolate", {"from": {"seed": 1, "first": 2**63 - 1}, "to": {"seed": 2}}), ("/interpolate", {"from": {"latent": [1e308] * 20}, "to": {"seed": 2}}),
        ("/anomaly-score", {"rows": 1, "costs": {"false_positive": 1e400, "false_negative": 1, "prevalence": 0.1}}),
        ("/anomaly-score", {"rows": 1, "costs": {"false_positive": 0, "false_negative": 1, "prevalence": 0.1}}),
        ("/anomaly-score", {"rows": 1, "costs": {"false_positive": 1, "false_negative": 1, "prevalence": 1.0}}), ("/impute", {"rows": 1, "candidates": 2**63}),
        ("/anomaly-score", {"rows": 1, "budget": 2**64}), ("/anomaly-score", {"rows": 1, "false_positive_rate": 1e-400}),
    ],
)  # fmt: skip
def test_numbers_of_other_routes(path: str, fields: dict[str, Any], service: TestClient) -> None:
    text = json.dumps(fields).replace("Infinity", "1e400")
    assert 400 <= status(service.post(path, content=text)) < 500


@pytest.mark.parametrize(
    "fields",
    [
        {"costs": {"false_positive": 1e308, "false_negative": 5e-324, "prevalence": 5e-324}},
        {"costs": {"false_positive": 5e-324, "false_negative": 1e308, "prevalence": 1 - 1e-16}},
        {"budget": 2**63 - 1}, {"budget": 2**63}, {"false_positive_rate": 5e-324}, {"false_positive_rate": 1 - 1e-16},
        {"false_positive_rate": 5e-324, "block_rate": 5e-324},
    ],
)  # fmt: skip
def test_extreme_rules_are_answered(fields: dict[str, Any], service: TestClient) -> None:
    from tests.conftest import ROW

    assert status(service.post("/anomaly-score", json={"model": "transactions-vae", "rows": [ROW], **fields})) == 200


def test_time_limits_that_are_far_away(service: TestClient) -> None:
    for timeout in (2**63 - 1, 10**15, 1):
        answer = service.post("/v2/models/mnist-vae/infer", json={"parameters": {"seed": 1, "timeout": timeout}})
        assert status(answer) in (200, 503)
    assert status(service.post("/sample", json={}, headers={"X-Deadline-Ms": "86400000"})) == 200


@pytest.mark.parametrize("version", [NINES, "-1", "1.5", "9" * 30, "nan", "1e3", "\u0661"])
def test_versions_that_are_none(version: str, service: TestClient) -> None:
    assert status(service.get("/models/mnist-vae", params={"version": version})) in (404, 422)
    assert status(service.get(f"/v2/models/mnist-vae/versions/{version}")) in (400, 404)


# --- weights of classes ---


def weighed(service: TestClient, weights: str) -> Any:
    """Return the answer for a mixture of classes, which is the same for both ways to send it."""
    one = service.post(
        "/sample", content=f'{{"model": "mnist-cgan", "seed": 1, "encoding": "array", "class": {weights}}}'
    )
    two = service.post("/v2/models/mnist-cgan/infer", json={"parameters": {"seed": 1, "class": weights}})
    assert (one.status_code, two.status_code) == (200, 200)
    assert json.loads(two.json()["parameters"]["classes"]) == [
        [one.json()["classes"][0].get(str(place), 0.0) for place in range(10)]
    ]
    return one.json()["data"][0]


@pytest.mark.parametrize(
    "weights",
    [
        '{"3": 1e308, "5": 1e308}',
        '{"3": 5e-324, "5": 5e-324}',
        '{"3": 1e-310, "5": 1e-310}',
        '{"3": 3, "5": 3}',
        '{"3": 1.7976931348623157e308, "05": 1.7976931348623157e308}',
    ],
)
def test_weights_are_normalised_whatever_their_size(weights: str, service: TestClient) -> None:
    assert weighed(service, weights) == weighed(service, '{"3": 1, "5": 1}')


def test_weights_keep_their_ratio(service: TestClient) -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        given = generator.uniform(0, 10, 10)
        expected = (given / given.sum()).astype(np.float32)
        names = [str(place) for place in range(10)]
        assert np.array_equal(
            conditions.class_weights(names, dict(zip(names, given.tolist(), strict=True)), 10), expected
        )
    assert conditions.class_weights(names, {"3": 1e308, "5": 1e-308}, 10).tolist() == np.eye(10)[3].tolist()
    for wrong in ({"3": float("inf")}, {"3": float("nan")}, {"3": -1.0, "5": 3.0}, {"3": 10**400}, {"3": 0.0}, {}):
        with pytest.raises(InvalidValue, match="class"):
            conditions.class_weights(names, wrong, 10)


# --- recipes ---


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 500 + "1" + "}" * 500, "[1]", "7", "NaN", "{", f'{{"n": {NINES}}}']
)
def test_recipes_that_are_none(text: str) -> None:
    info, picture = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_text(imaging.RECIPE, text)
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(picture, "PNG", pnginfo=info)
    with pytest.raises(InvalidValue, match="recipe"):
        imaging.read_recipe(picture.getvalue())


def test_manifests_that_are_too_deep(tmp_path: Path) -> None:
    from manifold.runtime import manifest
    from manifold.runtime.errors import ArtifactError

    for text in (
        "[" * 100_000,
        '{"name": ' * 500 + "1" + "}" * 500,
        '{"name": NaN}',
        f'{{"version": {NINES}}}',
        "",
        "null",
        "[]",
    ):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ArtifactError):
            manifest.read(tmp_path)


def test_base64_is_no_json() -> None:
    assert texts.json_of(json.dumps({"images": [base64.b64encode(bytes(1000)).decode()]})) == {
        "images": [base64.b64encode(bytes(1000)).decode()]
    }
