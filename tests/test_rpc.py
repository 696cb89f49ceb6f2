"""gRPC agrees with REST: the same answers, the same class of error, the same shutdown."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from manifold.runtime import errors, repository
from manifold.runtime.errors import ManifoldError
from manifold.service.core import failures, use_cases
from manifold.service.http.replies import STATUS
from manifold.service.rpc import messages
from manifold.service.rpc.codes import CODES, code_of
from manifold.service.rpc.servicer import NAME
from manifold.service.settings import ModelSettings
from manifold.service.stubs import manifold_pb2 as pb
from manifold.service.stubs import manifold_pb2_grpc as stubs
from tests import foreign
from tests.bodies import png
from tests.conftest import CLASS_OF, ROWS, SHIPPED, made_table
from tests.gate import Gate
from tests.pictures import saved
from tests.served import Served, served, until
from tests.test_bulk import as_csv

OF_SHIPPED = (
    "mnist-vae",
    "mnist-cvae",
    "mnist-vqvae",
    "mnist-autoencoder",
    "digits-classifier",
    "digits-pixelcnn",
    "nslkdd-cvae",
    "transactions-vae",
)
MODELS = (*OF_SHIPPED, "foreign")
ABSENT = "mnist-vae-2d"  # it exists, but its device is absent
RPC_OF = {name: "".join(word.capitalize() for word in name.split("-")) for name in use_cases.every}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("rpc")
    foreign.write(root)
    for name in OF_SHIPPED:
        (root / name).symlink_to(SHIPPED / name)
    (root / ABSENT).symlink_to(SHIPPED / ABSENT)
    told = {ABSENT: ModelSettings(device="cuda")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("manifold.runtime.graphs.backends._has_cuda", lambda _: True)
        patch.setattr("manifold.runtime.graphs.backends._cuda_device", lambda: False)
        with served(root, grpc=True, max_items=64, max_body_bytes=200_000, models=told) as service:
            yield service


@pytest.fixture(scope="module")
def channel(service: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(service.target) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Any:
    return stubs.ManifoldStub(channel)


def plain(value: Any) -> Any:
    """Convert a message, or an answer over REST, to values that can be compared."""
    if isinstance(value, pb.ImputedColumns):
        return {column: dict(each.probabilities) for column, each in value.columns.items()}
    if isinstance(value, pb.ImputeResponse):
        by_column = [plain(each) for each in value.probabilities]
        return {**plain(messages.fields_of(value)), **({"probabilities": by_column} if by_column else {})}
    if isinstance(value, Message):
        value = messages.fields_of(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        found = {key: plain(each) for key, each in value.items() if key not in ("request_id", "timing")}
        return {key: each for key, each in found.items() if each not in (None, [], {}, 0, False, "")}
    if hasattr(value, "items") and not isinstance(value, dict):  # a protobuf map
        return plain({key: plain(each) for key, each in value.items()})
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def to_message(fields: dict[str, Any], shape: type[Message]) -> Any:
    """Return the message that corresponds to a REST body."""
    message, fields = shape(), dict(fields)
    if isinstance(chosen := fields.pop("class", None), list):
        getattr(message, "class").names.names.extend(map(str, chosen))
    elif isinstance(chosen, dict):
        getattr(message, "class").weights.weights.update(chosen)
    elif chosen is not None:
        getattr(message, "class").name = str(chosen)
    for name in ("images", "masks"):
        if name in fields:
            getattr(message, name).extend(base64.b64decode(each) for each in fields.pop(name))
    for name in ("latents", "condition"):
        if name in fields:
            fields[name] = np.asarray(fields[name], np.float32)
    if "codes" in fields:
        fields["codes"] = np.asarray(fields["codes"], np.int64)
    messages.fill(message, fields)
    return message


def legal(name: str, route: str) -> dict[str, Any]:
    """Return a valid request of a route. The model may not support the route."""
    items: dict[str, Any] = (
        {"rows": [ROWS[name]] * 2} if name in ROWS else {"images": [base64.b64encode(png()).decode()] * 2}
    )
    told = {"class": CLASS_OF[name]} if name in CLASS_OF else {}
    return {
        "model": name,
        **{
            "sample": {"n": 3, "seed": 5, "return_latents": True}, "encode": {**items, **told, "seed": 3}, "reconstruct": {**items, **told},
            "interpolate": {"from": {"seed": 1, **told}, "to": {"seed": 2, **told}, "steps": 3}, "anomaly-score": {**items, "explain": True},
            "classify": items, "impute": {**_holes(name, items), "seed": 1},
        }[route],
    }  # fmt: skip


def _holes(name: str, items: dict[str, Any]) -> dict[str, Any]:
    """Return rows whose first two values are missing, or images with masks."""
    row = ROWS.get(name)
    if row is None:
        return {**items, "masks": items["images"][:1], "candidates": 2}
    return {"rows": [{**row, **dict.fromkeys(list(row)[:2])}]}


def call(stub: Any, route: str, message: Message) -> Message:
    answer: Message = getattr(stub, RPC_OF[route])(message, timeout=120)
    return answer


def refused(stub: Any, name: str, message: Any) -> tuple[grpc.StatusCode, str, dict[str, Any]]:
    """Return code, message and details of an error; the details are keyed by the name of their message."""
    with pytest.raises(grpc.RpcError) as caught:
        answer = getattr(stub, name)(message, timeout=120)
        list(answer)
    status = rpc_status.from_call(caught.value)
    details: dict[str, Any] = {}
    for each in status.details if status else ():
        kind = getattr(error_details_pb2, each.TypeName().rsplit(".", 1)[-1])
        details[kind.DESCRIPTOR.name] = kind.FromString(each.value)
    return caught.value.code(), caught.value.details() or "", details


# --- parity ---


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("route", use_cases.every)
def test_the_same_answer_or_the_same_error(service: Served, stub: Any, name: str, route: str) -> None:
    body = legal(name, route)
    rest = httpx.post(f"{service.url}/{route}", json=body, timeout=120)
    message = to_message(body, getattr(pb, use_cases.every[route].request.__name__))
    if rest.status_code == 200:
        answer = call(stub, route, message)
        assert type(answer).__name__ == use_cases.every[route].response.__name__
        found, expected = plain(answer), plain(rest.json())
        assert set(found) == set(expected)
        for key in expected:
            assert alike(found[key], expected[key]), key
    else:
        code, said, details = refused(stub, RPC_OF[route], message)
        error = rest.json()["error"]
        kind = next(each for each in STATUS if each("").type == error["type"])
        assert code is code_of(kind(""), CODES)
        assert said == error["message"]
        assert details["ErrorInfo"].reason == error["type"].upper()


def alike(found: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return set(found) == set(expected) and all(alike(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(alike(a, b) for a, b in zip(found, expected, strict=True))
    if isinstance(expected, float | int) and not isinstance(expected, bool):
        return float(found) == pytest.approx(expected, rel=1e-6)
    return bool(found == expected)


WRONG: list[tuple[str, dict[str, Any], type[ManifoldError]]] = [
    ("sample", {"model": "nobody"}, errors.UnknownModel),
    ("sample", {"model": "mnist-vae", "version": 9}, errors.UnknownModel),
    ("sample", {"model": "mnist-vae", "n": 0}, errors.InvalidValue),
    ("sample", {"model": "mnist-vae", "n": 65}, errors.TooLarge),
    ("sample", {"model": "mnist-vae", "prior": "flat"}, errors.InvalidValue),
    ("sample", {"model": "mnist-vae", "temperature": -1.0}, errors.InvalidValue),
    ("sample", {"model": "mnist-vae", "class": "3"}, errors.InvalidValue),
    ("sample", {"model": "mnist-vae", "latents": [[0.0, 1.0]]}, errors.InvalidValue),
    ("sample", {"model": "mnist-vae", "encoding": "gif"}, errors.InvalidValue),
    ("sample", {"model": "digits-pixelcnn", "class": "eleven"}, errors.InvalidValue),
    ("sample", {"model": "digits-classifier"}, errors.UnsupportedTask),
    ("encode", {"model": "mnist-vae"}, errors.InvalidValue),
    ("encode", {"model": "mnist-vae", "images": [base64.b64encode(b"no image").decode()]}, errors.Malformed),
    ("encode", {"model": "mnist-vae", "rows": [{"a": 1}]}, errors.InvalidValue),
    ("encode", {"model": "mnist-vae", "images": [base64.b64encode(png(kind="GIF")).decode()]}, errors.UnsupportedMedia),
    ("encode", {"model": ABSENT, "images": [base64.b64encode(png()).decode()]}, errors.Unavailable),
    ("anomaly-score", {"model": "transactions-vae", "rows": [{**ROWS["transactions-vae"], "amount": "much"}]}, errors.InvalidValue),
    ("anomaly-score", {"model": "mnist-vae", "images": [base64.b64encode(png()).decode()], "budget": 1, "false_positive_rate": 0.1}, errors.InvalidValue),
    ("interpolate", {"model": "mnist-vae", "from": {"seed": 1}, "to": {}}, errors.InvalidValue),
    ("impute", {"model": "mnist-vae", "rows": [{"a": None}]}, errors.UnsupportedTask),
]  # fmt: skip


@pytest.mark.parametrize(("route", "body", "kind"), WRONG)
def test_what_is_wrong_is_saidalike(
    service: Served, stub: Any, route: str, body: dict[str, Any], kind: type[ManifoldError]
) -> None:
    rest = httpx.post(f"{service.url}/{route}", json=body, timeout=120)
    error = rest.json()["error"]
    assert (rest.status_code, error["type"]) == (STATUS[kind], kind("").type)
    code, said, details = refused(
        stub, RPC_OF[route], to_message(body, getattr(pb, use_cases.every[route].request.__name__))
    )
    assert code is code_of(kind(""), CODES)
    info = details["ErrorInfo"]
    assert (info.reason, info.domain) == (error["type"].upper(), "manifold")
    assert info.metadata.get("field") == error["field"]
    assert (
        json.loads(info.metadata["valid"]) == error["valid"]
        if error["valid"] is not None
        else "valid" not in info.metadata
    )
    assert said == error["message"]
    if error["field"] is not None:
        assert details["BadRequest"].field_violations[0].field == error["field"]
    assert len(details["RequestInfo"].request_id) == 32


def test_every_error_has_a_code_of_its_kind() -> None:
    assert set(STATUS) == set(failures.PUBLIC)
    for kind in STATUS:
        assert code_of(kind(""), CODES) is not grpc.StatusCode.INTERNAL, kind
    assert code_of(errors.ArtifactError(""), CODES) is grpc.StatusCode.INTERNAL


def test_what_goes_wrong_here_is_opaque_in_both(service: Served, stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr("manifold.service.core.encoding.to_fields", broken)
    rest = httpx.post(f"{service.url}/sample", json={"model": "mnist-vae"}, timeout=120)
    assert (rest.status_code, rest.json()["error"]["type"]) == (500, "internal")
    code, said, _ = refused(stub, "Sample", pb.SampleRequest(model="mnist-vae"))
    assert code is grpc.StatusCode.INTERNAL
    assert said == rest.json()["error"]["message"]
    assert "secret" not in rest.text + said


# --- arrays ---


def test_arrays_go_in_and_out(service: Served, stub: Any) -> None:
    latents = np.random.default_rng(0).normal(size=(3, 20)).astype(np.float32)
    message = to_message({"model": "mnist-vae", "latents": latents.tolist(), "encoding": "array"}, pb.SampleRequest)
    found = messages.to_array(stub.Sample(message).data, "data")
    rest = httpx.post(
        f"{service.url}/sample", params={"model": "mnist-vae"}, content=_npy(latents),
        headers={"content-type": "application/x-npy", "accept": "application/x-npy"},
    )  # fmt: skip
    assert np.array_equal(found, np.load(io.BytesIO(rest.content)))
    pixels = np.zeros((2, 28, 28), np.uint8)
    given = pb.EncodeRequest(
        model="mnist-vae", array=pb.Array(type=pb.Array.UINT8, shape=pixels.shape, content=pixels.tobytes())
    )
    as_files = to_message({"model": "mnist-vae", "images": [base64.b64encode(png()).decode()] * 2}, pb.EncodeRequest)
    assert stub.Encode(given).mean == stub.Encode(as_files).mean


def test_warnings_about_images_are_the_same(service: Served, stub: Any) -> None:
    blank = saved(Image.new("RGBA", (40, 30)))
    for route, name in (("classify", "digits-classifier"), ("anomaly-score", "mnist-vae")):
        body = {"model": name, "images": [base64.b64encode(blank).decode()]}
        rest = httpx.post(f"{service.url}/{route}", json=body).json()
        answer: Any = call(stub, route, to_message(body, getattr(pb, use_cases.every[route].request.__name__)))
        assert rest["fitted"][0]["warnings"] == ["blank: every pixel of the file is transparent"]
        assert list(answer.fitted[0].warnings) == rest["fitted"][0]["warnings"]
        assert list(answer.fitted[0].steps) == rest["fitted"][0]["steps"]
    assert list(answer.items[0].warnings) == rest["items"][0]["warnings"] == rest["fitted"][0]["warnings"]


def test_arrays_that_are_not_what_they_say(stub: Any) -> None:
    short = pb.Array(type=pb.Array.FLOAT32, shape=[2, 20], content=b"1234")
    code, said, details = refused(stub, "Sample", pb.SampleRequest(model="mnist-vae", latents=short))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "4 bytes do not match FLOAT32 [2, 20]" in said
    assert details["ErrorInfo"].metadata["field"] == "latents"
    code, _, details = refused(stub, "Encode", pb.EncodeRequest(model="mnist-vae", images=[png()], array=short))
    assert details["ErrorInfo"].metadata["field"] == "array"


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@given(
    st.lists(
        st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5)),
        min_size=1,
        max_size=5,
    )
)
def test_rows_come_back_as_they_went(values: list[Any]) -> None:
    row = {f"c{i}": value for i, value in enumerate(values)}
    message = pb.EncodeRequest()
    messages.fill(message, {"rows": [row, row]})
    fields, _ = messages.request(pb.EncodeRequest.FromString(message.SerializeToString()))
    assert fields["rows"] == [row, row]


# --- streams ---


def test_a_stream_of_samples_is_the_whole_in_parts(service: Served, stub: Any) -> None:
    request = pb.SampleRequest(model="mnist-vae", n=200, seed=7, first=3)
    parts = list(stub.SampleStream(request))
    assert len(parts) > 2
    firsts = np.cumsum([3, *(len(part.images) for part in parts)])
    assert [part.first for part in parts] == firsts[:-1].tolist()
    images = [image for part in parts for image in part.images]
    assert len(images) == 200
    one = httpx.post(
        f"{service.url}/sample", json={"model": "mnist-vae", "n": 64, "seed": 7, "first": 100}, timeout=60
    ).json()
    assert [base64.b64encode(image).decode() for image in images[97:161]] == one["images"]
    code, _, details = refused(stub, "SampleStream", pb.SampleRequest(model="mnist-vae", n=10**6))
    assert (code, details["ErrorInfo"].reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOO_LARGE")


def test_a_file_of_rows(service: Served, stub: Any, tiny: Path) -> None:
    row = ROWS["transactions-vae"]
    table = {name: np.asarray([value] * 5) for name, value in row.items()}
    content = as_csv(table)

    def sent(kind: str = "csv") -> Iterator[pb.ScoreFileRequest]:
        yield pb.ScoreFileRequest(request=pb.ScoreRequest(model="transactions-vae"), kind=kind)
        for start in range(0, len(content), 100):
            yield pb.ScoreFileRequest(chunk=content[start : start + 100])

    lines = b"".join(part.lines for part in stub.AnomalyScoreFile(sent()))
    rest = httpx.post(
        f"{service.url}/anomaly-score",
        params={"model": "transactions-vae"},
        content=content,
        headers={"content-type": "text/csv"},
    )
    assert lines == rest.content
    assert len(lines.splitlines()) == 6
    for kind, reason in (("xls", "UNSUPPORTED_MEDIA"), ("parquet", "MALFORMED")):
        _, _, details = refused(stub, "AnomalyScoreFile", sent(kind))
        assert details["ErrorInfo"].reason == reason
    assert made_table(3)


# --- models, health, reflection ---


def test_models_stats_and_previews(service: Served, stub: Any) -> None:
    listed = {each.name: each for each in stub.ListModels(pb.ListModelsRequest()).models}
    rest = {each["name"]: each for each in httpx.get(f"{service.url}/models").json()["models"]}
    assert set(listed) == set(rest) == {*MODELS, ABSENT}
    for name, each in listed.items():
        assert plain({**messages.fields_of(each), "data": json.loads(each.data)}) == plain(rest[name])
    one = stub.GetModel(pb.GetModelRequest(model="mnist-vae"))
    whole = httpx.get(f"{service.url}/models/mnist-vae").json()
    manifest = json.loads(one.manifest)
    told = set(manifest) - {"tasks", "data"}  # the summary contains these fields in short form
    assert {key: manifest[key] for key in told} == {key: whole[key] for key in told}
    assert list(manifest["tasks"]) == whole["tasks"] == list(one.summary.tasks)
    stub.Sample(pb.SampleRequest(model="mnist-vae"))
    stats = stub.GetStats(pb.GetModelRequest(model="mnist-vae"))
    assert stats.tasks["decode"].rows >= stats.tasks["decode"].runs >= 1
    assert (
        httpx.get(f"{service.url}/models/mnist-vae/stats").json()["tasks"]["decode"]["runs"]
        == stats.tasks["decode"].runs
    )
    preview = stub.GetPreview(pb.GetModelRequest(model="mnist-vae")).png
    assert preview == (repository.find("mnist-vae", SHIPPED) / "preview.png").read_bytes()
    for name in ("Points", "Sheet"):
        file = getattr(stub, f"Get{name}")(pb.GetModelRequest(model="mnist-vae"))
        over_http = httpx.get(f"{service.url}/models/mnist-vae/{name.lower()}")
        assert (file.content, file.media_type) == (over_http.content, over_http.headers["content-type"])
        assert file.checksum == rest["mnist-vae"]["files"][name.lower()]
    for name in ("GetPreview", "GetModel", "GetStats", "GetPoints", "GetCurves", "GetSheet", "GetEpochs"):
        code, _, _ = refused(stub, name, pb.GetModelRequest(model="nobody"))
        assert code is grpc.StatusCode.NOT_FOUND
    code, _, _ = refused(stub, "GetPreview", pb.GetModelRequest(model="foreign"))
    assert code is grpc.StatusCode.NOT_FOUND


def test_health_and_reflection(channel: grpc.Channel) -> None:
    asked = health_pb2_grpc.HealthStub(channel)
    for name in ("", NAME):
        assert asked.Check(health_pb2.HealthCheckRequest(service=name)).status == health_pb2.HealthCheckResponse.SERVING
    reflected = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = reflected.ServerReflectionInfo(iter([request]))
    assert NAME in {each.name for each in answer.list_services_response.service}


def test_request_ids_and_limits(stub: Any) -> None:
    _, made = stub.Sample.with_call(pb.SampleRequest(model="mnist-vae"), metadata=(("x-request-id", "mine-7"),))
    assert ("x-request-id", "mine-7") in [tuple(each) for each in made.trailing_metadata()]
    answer, made = stub.Sample.with_call(pb.SampleRequest(model="mnist-vae"), metadata=(("x-request-id", "not one"),))
    assert len(answer.request_id) == 32
    code, _, _ = refused(stub, "Encode", pb.EncodeRequest(model="mnist-vae", images=[bytes(300_000)]))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


# --- requests in progress ---


def test_deadlines_cancellation_overload_and_the_end(tmp_path: Path) -> None:
    foreign.write(tmp_path)
    with (
        served(tmp_path, grpc=True, queue_rows=4, notice_seconds=0.3) as service,
        grpc.insecure_channel(service.target) as channel,
    ):
        stub, batcher = stubs.ManifoldStub(channel), service.batcher
        model = service.registry.entries["foreign", 1].model
        assert model is not None
        gate = Gate(model)
        running = stub.Sample.future(pb.SampleRequest(n=2))
        until(gate.began.is_set)
        cancelled = stub.Sample.future(pb.SampleRequest(n=1))
        until(lambda: batcher.rows == 3)
        cancelled.cancel()
        until(lambda: batcher.rows == 2)
        code, _, _ = refused_now(lambda: stub.Sample(pb.SampleRequest(n=1), timeout=0.2))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: batcher.rows == 2)
        code, _, details = refused_now(lambda: stub.Sample(pb.SampleRequest(n=3), timeout=60))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details["RetryInfo"].retry_delay.seconds >= 1
        health = health_pb2_grpc.HealthStub(channel)
        service.server.handle_exit(15, None)
        until(
            lambda: health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.NOT_SERVING,
            10,
        )
        until(lambda: service.registry.stopped)
        # such a call is never accepted: gRPC's core itself cancels calls that arrive while it begins to stop
        until(
            lambda: (
                refused_now(lambda: stub.Sample(pb.SampleRequest(n=1), timeout=10))[0] is grpc.StatusCode.UNAVAILABLE
            ),
            10,
        )
        gate.go.set()
        assert len(running.result(60).images) == 2
        service.thread.join(60)
        assert not service.thread.is_alive()


def refused_now(ask: Any) -> tuple[grpc.StatusCode, str, dict[str, Any]]:
    class Once:
        def Any(self, message: Any, timeout: float) -> Any:  # noqa: N802
            return ask()

    return refused(Once(), "Any", None)
