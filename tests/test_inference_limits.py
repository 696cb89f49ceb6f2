"""The Open Inference Protocol at the limits of a service: a full queue, and keys."""

from __future__ import annotations

import grpc
import pytest

from manifold.runtime import repository
from manifold.service import security
from manifold.service.stubs import inference_pb2 as pb
from manifold.service.stubs import inference_pb2_grpc as stubs
from tests.conftest import SHIPPED
from tests.gate import Gate
from tests.open_inference import infer
from tests.served import served, until


def test_a_full_queue_is_503_and_unavailable(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The status is not 429, because the protocol's clients do not know it."""
    root = tmp_path_factory.mktemp("full")
    (root / "mnist-vae").symlink_to(SHIPPED / "mnist-vae")
    with served(root, grpc=True, queue_rows=4) as service, grpc.insecure_channel(service.target) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        entry = service.registry.entries["mnist-vae", int(repository.find("mnist-vae", SHIPPED).name)]
        assert entry.model is not None and entry.batcher is not None
        gate, batcher = Gate(entry.model), entry.batcher
        four = pb.ModelInferRequest(model_name="mnist-vae")
        four.parameters["n"].int64_param = 4
        waiting = stub.ModelInfer.future(four)
        until(lambda: batcher.rows == 4)
        answer = infer(service, "mnist-vae", {})
        assert (answer.status_code, list(answer.json())) == (503, ["error"])
        assert int(answer.headers["retry-after"]) >= 1
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(pb.ModelInferRequest(model_name="mnist-vae"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        gate.go.set()
        assert waiting.result(30).model_name == "mnist-vae"
        late = infer(service, "mnist-vae", {}, **{"X-Deadline-Ms": "0"})
        assert late.status_code == 400


def test_keys_are_asked_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("keys")
    (root / "mnist-vae").symlink_to(SHIPPED / "mnist-vae")
    token, key = security.create("client", ["infer"])
    with served(root, grpc=True, auth="on", keys=str(key)) as service, grpc.insecure_channel(service.target) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        assert service.client.get("/v2/health/ready").status_code == 200
        assert stub.ServerReady(pb.ServerReadyRequest()).ready
        for path in ("/v2", "/v2/models/mnist-vae", "/v2/models/stats"):
            answer = service.client.get(path)
            assert (answer.status_code, list(answer.json())) == (401, ["error"])
            assert isinstance(answer.json()["error"], str)
            assert service.client.get(path, headers={"Authorization": f"Bearer {token}"}).status_code == 200
        assert infer(service, "mnist-vae", {}).status_code == 401
        assert infer(service, "mnist-vae", {}, Authorization=f"Bearer {token}").status_code == 200
        request = pb.ModelInferRequest(model_name="mnist-vae")
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert stub.ModelInfer(request, metadata=(("authorization", f"Bearer {token}"),)).model_name == "mnist-vae"
