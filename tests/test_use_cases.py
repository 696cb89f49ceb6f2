"""The table of endpoints: every transport reads it, and three files add an endpoint to all of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from grpc_tools import protoc

from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.operations.capabilities import capabilities
from manifold.service.core import use_cases
from manifold.service.rpc.servicer import Servicer
from tests import copied, foreign
from tests.conftest import ROOT

OPERATION = '''
"""The length of the latents of items."""

import numpy as np

from manifold.runtime.operations.common import Capability
from manifold.runtime.operations.encode import encode


def magnitude(manifest, data, *, condition=None):
    """Return the Euclidean norm of each item's latent, (n,)."""
    encoded = yield from encode(manifest, data, condition=condition)
    return np.linalg.norm(encoded.placed.reshape(len(data), -1), axis=1)


CAPABILITIES = (Capability("latent-magnitude", 25, lambda manifest: "encode" in manifest.tasks, lambda manifest: ": it does not encode"),)
'''

USE_CASE = '''
"""The length of the latents of items."""

from manifold.runtime.operations.magnitude import magnitude
from manifold.service.core.answers import UseCaseResult
from manifold.service.core.contract import ConditionedItemsRequest, Response
from manifold.service.core.use_cases.base import UseCase


class LatentMagnitudeRequest(ConditionedItemsRequest):
    """How far items are from the origin of the latent space"""


class LatentMagnitudeResponse(Response):
    """The norm of the latent of each item."""

    magnitudes: list[float]


async def handle(handling, request, uploads, deadline_ms):
    entry, manifest = await handling.entry(request, "latent-magnitude")
    items = await handling.reader.items(manifest, request, uploads)
    answer = UseCaseResult(entry, work=uploads.work)
    norms = await handling.drive(answer, magnitude(manifest, items.data), len(items.data), deadline_ms)
    answer.fields["magnitudes"] = norms.astype(float)
    return answer


USE_CASE = UseCase("latent-magnitude", LatentMagnitudeRequest, LatentMagnitudeResponse, handle)
'''

RPC = "  rpc LatentMagnitude(LatentMagnitudeRequest) returns (LatentMagnitudeResponse);\n"
MESSAGES = """
message LatentMagnitudeRequest {
  optional string model = 1;
  optional int64 version = 2;
  repeated bytes images = 3;
  Array array = 4;
}

message LatentMagnitudeResponse {
  string model = 1;
  int64 version = 2;
  string request_id = 3;
  Timing timing = 4;
  repeated double magnitudes = 5;
}
"""

USE = """
import asyncio, json, sys
from pathlib import Path
import grpc, numpy as np
from starlette.testclient import TestClient
from typer.testing import CliRunner
from manifold.cli import app as command
from manifold.runtime import codecs
from manifold.service.http.app import create_app
from manifold.service.rpc.servicer import Servicer
from manifold.service.settings import Settings
from manifold.service.stubs import manifold_pb2 as pb, manifold_pb2_grpc as stubs

items = np.random.default_rng(0).random((2, 5, 4), np.float32)[:, None]
settings, answers = Settings(models_dir=Path(sys.argv[1]), default_model="glyphs", grpc_port=0), {}


async def over_grpc(state):
    server = grpc.aio.server()
    servicer = Servicer(state.handling, state.registry, state.metrics, settings)
    stubs.add_ManifoldServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        array = pb.Array(type=pb.Array.FLOAT32, shape=items.shape, content=items.tobytes())
        answer = await stubs.ManifoldStub(channel).LatentMagnitude(pb.LatentMagnitudeRequest(array=array))
    await server.stop(0)
    return list(answer.magnitudes)


app = create_app(settings)
with TestClient(app, base_url="http://127.0.0.1") as client:
    while client.get("/health/ready").status_code != 200:
        pass
    body = {"content": codecs.to_npy(items), "headers": {"Content-Type": "application/x-npy"}}
    answers["rest"] = client.post("/latent-magnitude", **body).json()["magnitudes"]
    answers["cannot"] = client.post("/latent-magnitude", json={"model": "foreign"}).json()["error"]
    answers["path"] = client.get("/openapi.json").json()["paths"]["/latent-magnitude"]["post"]["summary"]
    answers["endpoints"] = {each["name"]: each["endpoints"] for each in client.get("/models").json()["models"]}
    answers["grpc"] = client.portal.call(over_grpc, app.state)
request = json.dumps({"images": [codecs.to_base64(Path(sys.argv[2]).read_bytes())]})
arguments = ["ask", "latent-magnitude", request, "--models", sys.argv[1]]
answers["cli"] = json.loads(CliRunner().invoke(command, arguments, env={"MANIFOLD_DEFAULT_MODEL": "glyphs"}).output)
print(json.dumps(answers))
"""


def test_every_capability_has_a_use_case_and_an_rpc() -> None:
    assert list(use_cases.every) == list(capabilities())
    for case in use_cases.every.values():
        assert callable(getattr(Servicer, case.rpc))


def test_three_files_add_an_endpoint_to_every_surface(tmp_path: Path) -> None:
    """The files are an operation, a use case and the messages. Then REST, gRPC, OpenAPI, GET /models and the command line have the endpoint."""
    package = copied.project(tmp_path, "runtime", "service")
    (package / "runtime/operations/magnitude.py").write_text(OPERATION)
    (package / "service/core/use_cases/magnitude.py").write_text(USE_CASE)
    proto = (ROOT / "proto/manifold.proto").read_text().replace(
        "  rpc ListModels", f"{RPC}  rpc ListModels", 1
    ) + MESSAGES
    (tmp_path / "proto").mkdir()
    (tmp_path / "proto/manifold.proto").write_text(proto)
    target = package.parent
    made = protoc.main([
        "protoc", f"-Imanifold/service/stubs={tmp_path / 'proto'}", f"--python_out={target}", f"--grpc_python_out={target}",
        str(tmp_path / "proto/manifold.proto"),
    ])  # fmt: skip
    assert made == 0
    foreign.write(tmp_path / "models")
    glyphs(tmp_path / "models")
    picture = tmp_path / "grey.png"
    picture.write_bytes(ImageSpec(height=5, width=4, channels=1).sheet(np.full((1, 1, 5, 4), 0.5, np.float32)))
    answers = copied.run(package, USE, str(tmp_path / "models"), str(picture))
    assert len(answers["rest"]) == 2 and min(answers["rest"]) > 0
    assert answers["grpc"] == answers["rest"]
    assert answers["cannot"]["type"] == "unsupported_task" and "it does not encode" in answers["cannot"]["message"]
    assert answers["path"] == "How far items are from the origin of the latent space"
    offered = answers["endpoints"]
    assert "latent-magnitude" in offered["glyphs"] and "latent-magnitude" not in offered["foreign"]
    assert offered["foreign"][:2] == ["sample", "interpolate"]
    assert answers["cli"]["magnitudes"][0] > 0


def glyphs(root: Path) -> None:
    """Write an artifact of small images on the fake backend that can only encode."""
    items = {"role": "data", "source": "data", "shape": [1, 5, 4]}
    tasks = {"encode": {"graph": "none", "inputs": [items], "outputs": [{"role": "mean", "shape": [3]}]}}
    folder = root / "glyphs/1"
    folder.mkdir(parents=True)
    (folder / "none").touch()
    spec = {"kind": "image", "height": 5, "width": 4, "channels": 1}
    manifest = {"name": "glyphs", "version": 1, "backend": "fake", "data": spec, "latent": {"size": 3}, "tasks": tasks}
    (folder / "manifest.json").write_text(json.dumps(manifest))
