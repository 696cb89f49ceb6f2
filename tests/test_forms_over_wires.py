"""The long forms over gRPC, with the same answers as REST, and under /v2, where each input is a tensor."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from manifold.runtime.manifest import Manifest
from manifold.service.core import use_cases
from manifold.service.rpc import messages
from manifold.service.stubs import manifold_pb2 as pb
from manifold.service.stubs import manifold_pb2_grpc as stubs
from tests import forms
from tests.forms import TEXTS, png
from tests.open_inference import infer
from tests.served import Served, served
from tests.test_rpc import RPC_OF, alike, plain, refused

NAMES = ("named", "shaped", "measured", "captioned", "free", "several", "numbered", "completing")
STATED: dict[str, Any] = {
    "label": {"class": ["cat", "owl"]}, "pose": {"values": [[0.25], [0.5]]}, "caption": {"texts": ["a", "b"]}, "look": {"images": [png(3)]},
}  # fmt: skip
IMAGES = [png(1), png(2)]
LATENTS = {"place": [[0.5, 1]], "texture": np.linspace(-1, 1, 8).reshape(1, 2, 2, 2).tolist()}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("wires")
    forms.all_forms(root)
    with served(root, grpc=True, default_model="named", max_items=64) as service:
        yield service


@pytest.fixture(scope="module")
def stub(service: Served) -> Iterator[Any]:
    with grpc.insecure_channel(service.target) as channel:
        yield stubs.ManifoldStub(channel)


# --- gRPC ---


def to_message(value: Any) -> Any:
    """Convert a field of a REST body for messages.fill: files as bytes, numbers of an input in their own message."""
    if isinstance(value, dict):
        made = {name: to_message(each) for name, each in value.items() if name != "inputs"}
        if "images" in value:
            made["images"] = [base64.b64decode(each) for each in value["images"]]
        if "inputs" in value:
            made["inputs"] = {name: {"values": np.atleast_1d(each)} for name, each in value["inputs"].items()}
        return made
    return value


BODIES: list[tuple[str, dict[str, Any]]] = [
    ("sample", {"n": 2, "seed": 7, "return_latents": True}),
    ("sample", {"n": 2, "seed": 7, "encoding": "array"}),
    ("sample", {"named_latents": LATENTS}),
    ("sample", {"named_latents": {"place": LATENTS["place"]}, "seed": 3, "prior": "two"}),
    ("sample", {"named_latents": {"style": [[1, 2]]}}),
    ("sample", {"model": "several", "n": 2, "class": "cat"}),
    ("encode", {"images": IMAGES, "seed": 3}),
    ("reconstruct", {"images": IMAGES}),
    ("interpolate", {"from": {"named_latent": {name: rows[0] for name, rows in LATENTS.items()}}, "to": {"seed": 1}, "steps": 3}),
    ("sample", {"model": "captioned", "n": 3, "seed": 1}),
    ("sample", {"model": "free", "n": 2, "seed": 1, "conditions": {"condition": {"texts": ["one", "another"]}}}),
    ("sample", {"model": "shaped", "n": 2, "seed": 1, "conditions": {"condition": {"class": {"cat": 1.0, "dog": 1.0}}}}),
    ("sample", {"model": "several", "n": 2, "seed": 1, "conditions": STATED}),
    ("sample", {"model": "several", "n": 2, "seed": 1, "conditions": {"look": STATED["look"], "label": {"class": "dog"}}}),
    ("sample", {"model": "several", "n": 2, "seed": 1}),
    ("sample", {"model": "several", "conditions": {"look": {"values": [1.0]}}}),
    ("encode", {"model": "several", "images": IMAGES, "conditions": STATED}),
    ("reconstruct", {"model": "several", "images": IMAGES, "conditions": STATED, "target_conditions": {"caption": {"texts": ["c"]}}}),
    ("sample", {"model": "numbered", "n": 2, "seed": 1, "inputs": {"guidance": [1, 2.5], "steps": 4}}),
    ("sample", {"model": "numbered", "n": 2, "inputs": {"guidance": 21}}),
    ("sample", {"model": "numbered", "n": 2, "inputs": {"scale": 21}}),
    ("encode", {"model": "numbered", "images": IMAGES, "inputs": {"spread": 1}}),
    ("anomaly-score", {"model": "numbered", "images": IMAGES, "inputs": {"guidance": [1, 2]}}),
    ("classify", {"model": "numbered", "images": IMAGES, "inputs": {"guidance": [1, 2]}}),
    ("impute", {"model": "completing", "images": IMAGES, "masks": [png(8)], "seed": 1, "candidates": 3}),
    ("impute", {"model": "numbered", "images": IMAGES, "masks": [png(8)], "seed": 1, "candidates": 2, "inputs": {"guidance": 2}}),
]  # fmt: skip


@pytest.mark.parametrize(("route", "body"), BODIES)
def test_the_same_answer_or_the_same_error(service: Served, stub: Any, route: str, body: dict[str, Any]) -> None:
    rest = httpx.post(f"{service.url}/{route}", json=body)
    fields = to_message(body)
    if "masks" in fields:
        fields["masks"] = [base64.b64decode(each) for each in fields["masks"]]
    message = getattr(pb, use_cases.every[route].request.__name__)()
    messages.fill(message, fields)
    if rest.status_code == 200:
        assert alike(plain(getattr(stub, RPC_OF[route])(message)), plain(rest.json()))
    else:
        _, said, details = refused(stub, RPC_OF[route], message)
        error = rest.json()["error"]
        assert (said, details["ErrorInfo"].metadata["field"]) == (error["message"], error["field"])


def test_models_are_described_alike(service: Served, stub: Any) -> None:
    rest = {each["name"]: each for each in httpx.get(f"{service.url}/models").json()["models"]}
    listed = stub.ListModels(pb.ListModelsRequest()).models
    assert {each.name for each in listed} == set(NAMES) == set(rest)
    for each in listed:
        fields = messages.fields_of(each)
        items = {role: json.loads(data) for role, data in fields.get("items", {}).items()}
        conditioned = {
            name: {**one, **({"data": json.loads(one["data"])} if "data" in one else {})}
            for name, one in fields.get("conditioned", {}).items()
        }
        fields |= {"data": json.loads(each.data), "items": items, "conditioned": conditioned}
        assert plain(fields) == plain(rest[each.name])


# --- /v2 ---


def tensor(name: str, array: Any, datatype: str = "FP32") -> dict[str, Any]:
    shape = np.asarray(array).shape
    return {"name": name, "shape": list(shape), "datatype": datatype, "data": np.asarray(array).ravel().tolist()}


def outputs(service: Served, target: str, *given: dict[str, Any], **parameters: Any) -> dict[str, np.ndarray]:
    answer = infer(service, target, {"inputs": list(given), "parameters": parameters})
    assert answer.status_code == 200, answer.text
    return {each["name"]: np.reshape(each["data"], each["shape"]) for each in answer.json()["outputs"]}


def wrong(service: Served, target: str, *given: dict[str, Any], **parameters: Any) -> str:
    answer = infer(service, target, {"inputs": list(given), "parameters": parameters})
    assert answer.status_code == 400, answer.text
    said: str = answer.json()["error"]
    return said


@pytest.mark.parametrize("name", NAMES)
def test_every_example_works_as_it_is_sent(service: Served, name: str) -> None:
    manifest = service.registry.find(name, None).manifest
    assert isinstance(manifest, Manifest)
    for task, spec in manifest.tasks.items():
        said = service.client.get(f"/v2/models/{name}.{task}").json()
        assert [each["name"] for each in said["inputs"]] == [each.role for each in spec.inputs]
        answer = infer(service, f"{name}.{task}", said["parameters"]["example"].encode())
        assert answer.status_code == 200, (task, answer.text)
        assert {each["name"] for each in answer.json()["outputs"]} == set(spec.roles)
        config = service.client.get(f"/v2/models/{name}.{task}/config").json()
        assert [each["dims"] for each in config["input"]] == [each["shape"][1:] for each in said["inputs"]]


def test_optional_numbers_have_their_defaults(service: Served) -> None:
    said = service.client.get("/v2/models/numbered.encode").json()["inputs"]
    assert {each["name"]: each["parameters"]["optional"] for each in said} == {"data": False, "spread": False}
    said = service.client.get("/v2/models/numbered.decode").json()["inputs"]
    assert all(each["parameters"]["optional"] for each in said)
    assert {each["name"]: each["datatype"] for each in said}["steps"] == "INT64"
    chosen = {"n": 2, "seed": 1, "class": "cat"}
    drawn_before = outputs(service, "numbered.decode", **chosen)["data"]
    guided = tensor("guidance", [7.5, 3])
    steps = tensor("steps", [8, 8], "INT64")
    each = outputs(service, "numbered.decode", guided, steps, seed=1, **{"class": "cat"})["data"]
    assert np.array_equal(each[0], drawn_before[0]) and not np.array_equal(each[1], drawn_before[1])
    assert "give values from 0 to 20" in wrong(service, "numbered.decode", tensor("guidance", [21.0]), seed=1)
    assert "spread: numbered.encode needs this input" in wrong(
        service, "numbered.encode", tensor("data", np.zeros((1, 1, 2, 3)))
    )


def test_tokens_and_masks(service: Served) -> None:
    text = TEXTS[1].encode()
    for name in ("captioned", "free"):
        said = {each["name"]: each for each in service.client.get(f"/v2/models/{name}").json()["inputs"]}
        assert said["tokens"]["shape"] == [-1, -1 if name == "free" else forms.LONGEST]
        tokens = [[*text, *[0] * (0 if name == "free" else forms.LONGEST - len(text))]]
        mask = (np.arange(len(tokens[0])) < len(text)).astype(float)[None]
        by_tokens = outputs(
            service, name, tensor("tokens", tokens, "INT64"), tensor("token_mask", mask), seed=1
        )  # fmt: skip
        body = {"model": name, "seed": 1, "encoding": "array", "conditions": {"condition": {"texts": [TEXTS[1]]}}}
        assert np.allclose(by_tokens["data"], service.client.post("/sample", json=body).json()["data"])
        # without a mask all tokens count
        without = outputs(service, name, tensor("tokens", tokens, "INT64"), seed=1)["data"]
        assert np.array_equal(without, by_tokens["data"]) == (name == "free")
        assert "tokens: it is needed together with token_mask" in wrong(
            service, name, tensor("token_mask", mask), seed=1
        )
        high = tensor("tokens", np.full((1, forms.LONGEST), 256), "INT64")
        assert "give values from 0 to 255" in wrong(service, name, high, seed=1)
    drawn = outputs(service, "captioned", n=2, seed=4)["data"]
    assert np.allclose(drawn, service.client.post("/sample", json={"model": "captioned", "n": 2, "seed": 4, "encoding": "array"}).json()["data"])  # fmt: skip


def test_conditions_by_role_and_a_target(service: Served) -> None:
    assert "look: several.decode needs this input" in wrong(service, "several", n=2, seed=1)
    made = outputs(service, "several", tensor("look", np.zeros((2, 1, 2, 3))), tensor("pose", [[0.0], [1.0]]), seed=1)
    assert made["data"].shape == (2, 1, 2, 3)
    target = outputs(service, "named.translate", tensor("picture", np.zeros((3, 1, 2, 3))))["target"]
    assert target.shape == (3, 1, 4, 6)
    both = outputs(service, "named.decode", n=2, seed=7)
    rows = service.client.post("/sample", json={"n": 2, "seed": 7, "encoding": "array"}).json()
    assert np.allclose(both["picture"], rows["items"]["picture"]["data"]) and both["facts"].shape == (2, 4)
    assert json.loads(service.client.get("/v2/models/named").json()["parameters"]["example"])["parameters"]["n"] == 2


@pytest.mark.parametrize(
    ("name", "tensor", "wrong"),
    [
        ("label", {"shape": [1, 3], "data": [-1, 1, 1]}, "label: values from -1 to 1; give values from 0 to inf"),
        ("look", {"shape": [1, 1, 2, 3], "data": [5] * 6}, "look: values from 5 to 5; give values from 0 to 1"),
    ],
)
def test_a_tensor_of_a_condition_has_the_range_of_its_kind(
    service: Served, name: str, tensor: dict[str, Any], wrong: str
) -> None:
    look = {"name": "look", "shape": [1, 1, 2, 3], "datatype": "FP32", "data": [0] * 6}
    given = [{"name": name, "datatype": "FP32", **tensor}, *([look] if name != "look" else [])]
    answer = service.client.post("/v2/models/several/infer", json={"inputs": given, "parameters": {"seed": 1}})
    assert (answer.status_code, answer.json()["error"]) == (400, wrong)


def test_the_class_of_one_of_several_conditions_is_a_tensor(service: Served) -> None:
    look = {"name": "look", "shape": [1, 1, 2, 3], "datatype": "FP32", "data": [0] * 6}
    body = {"inputs": [look], "parameters": {"seed": 1, "class": "cat"}}
    answer = service.client.post("/v2/models/several/infer", json=body)
    assert answer.status_code == 400
    assert "give the inputs label, pose, caption, caption_mask, look" in answer.json()["error"]


def test_a_broken_array_is_called_by_its_field(stub: Any) -> None:
    request = pb.SampleRequest()
    request.named_latents["place"].MergeFrom(pb.Array(type=pb.Array.FLOAT32, shape=[1, 2], content=b"xx"))
    with pytest.raises(grpc.RpcError) as caught:
        stub.Sample(request)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith("named_latents.place: 2 bytes")
