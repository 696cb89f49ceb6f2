"""The gRPC contract compiles and has the fields of the REST contract."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc
from pydantic import BaseModel

from manifold.runtime.kinds import table
from manifold.service.core import contract, use_cases
from manifold.service.core.use_cases import anomaly_score, classify, encode, interpolate
from manifold.service.inference import rpc as inference
from manifold.service.rpc import servicer as rpc
from manifold.service.stubs import inference_pb2, inference_pb2_grpc, manifold_pb2, manifold_pb2_grpc
from tests.conftest import ROOT


def compile_proto(name: str, folder: Path) -> FileDescriptorProto:
    path, source = folder / "set", ROOT / "proto"
    assert protoc.main(["protoc", f"-I{source}", f"--descriptor_set_out={path}", str(source / f"{name}.proto")]) == 0
    return FileDescriptorSet.FromString(path.read_bytes()).file[0]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> FileDescriptorProto:
    return compile_proto("manifold", tmp_path_factory.mktemp("proto"))


def test_every_message_has_the_fields_of_its_contract(compiled: FileDescriptorProto) -> None:
    messages = {message.name: [field.name for field in message.field] for message in compiled.message_type}
    shapes: list[type[BaseModel]] = [
        shape for case in use_cases.every.values() for shape in (case.request, case.response)
    ]
    shapes += [
        interpolate.End,
        contract.Condition,
        encode.Posterior,
        contract.MadeItems,
        contract.Timing,
        contract.Fitted,
        anomaly_score.Part,
        anomaly_score.ScoredItem,
        anomaly_score.Explanation,
        table.ColumnReason,
        anomaly_score.Neighbour,
        classify.ClassifiedItem,
        classify.ClassificationInfo,
        anomaly_score.ThresholdInfo,
    ]
    shapes += [
        contract.TaskStats,
        contract.Stats,
        anomaly_score.CalibrationInfo,
        contract.ModelSummary,
        contract.Figure,
        contract.ConditionSummary,
        contract.NumberInput,
        contract.ModelList,
    ]
    for shape in shapes:
        names = [info.alias or name for name, info in shape.model_fields.items()]
        # `array` is a request body in REST
        assert sorted(set(messages[shape.__name__]) - {"array"}) == sorted(names), shape.__name__


def test_every_route_has_its_rpc(compiled: FileDescriptorProto) -> None:
    (service,) = compiled.service
    rpcs = {
        method.name: (method.input_type.split(".")[-1], method.output_type.split(".")[-1]) for method in service.method
    }
    for route, request, response in ((case.name, case.request, case.response) for case in use_cases.every.values()):
        name = "".join(word.capitalize() for word in route.split("-"))
        assert rpcs[name] == (request.__name__, response.__name__)


@pytest.mark.parametrize(
    ("name", "generated", "stub", "servicer"),
    [
        ("manifold", manifold_pb2, manifold_pb2_grpc.ManifoldServicer, rpc.Servicer),
        ("inference", inference_pb2, inference_pb2_grpc.GRPCInferenceServiceServicer, inference.InferenceServicer),
    ],
)
def test_the_generated_code_is_of_its_contract(
    name: str, generated: ModuleType, stub: type, servicer: type, tmp_path: Path
) -> None:
    """The test compares descriptors, because the text depends on the version of the generator."""
    compiled = compile_proto(name, tmp_path)
    found = FileDescriptorProto.FromString(generated.DESCRIPTOR.serialized_pb)
    found.name = compiled.name
    expected = FileDescriptorProto()
    expected.CopyFrom(compiled)
    waiting = list(expected.message_type)
    while waiting:  # the compiler writes these names only into descriptor sets
        message = waiting.pop()
        waiting += message.nested_type
        for field in message.field:
            field.ClearField("json_name")
    assert found == expected, "run: make stubs"
    (service,) = compiled.service
    methods = {method.name for method in service.method}
    assert methods == {method for method in vars(stub) if not method.startswith("_")}
    assert methods <= set(vars(servicer))
