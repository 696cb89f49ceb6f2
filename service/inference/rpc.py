"""The protocol over gRPC: conversion of its messages for the core and back."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeAlias
from urllib.parse import unquote

import grpc
import structlog
from google.protobuf import json_format
from numpy.typing import NDArray

from manifold.runtime import errors
from manifold.runtime.errors import Forbidden, InvalidValue, Malformed, ManifoldError, shown
from manifold.service.aside import aside
from manifold.service.core import failures
from manifold.service.core.metadata import FORWARDED, NO_ADMIN
from manifold.service.inference import tensors
from manifold.service.inference.core import ID, Asked, Core, Inferred, check_id, flag, of_one_line, refuse, server
from manifold.service.rpc.calls import Call, Calls, deadline, readable, work
from manifold.service.settings import is_loopback
from manifold.service.stubs import inference_pb2 as pb
from manifold.service.stubs import inference_pb2_grpc as stubs
from manifold.service.telemetry.metrics import Metrics
from manifold.service.telemetry.tracing import Tracing

log = structlog.get_logger()

Array = NDArray[Any]
Context: TypeAlias = Any  # grpc.aio.ServicerContext, which has no types

NAME = "inference.GRPCInferenceService"
OPEN = ("ServerLive", "ServerReady")  # the rpcs that need no key
ADMIN = ("RepositoryModelLoad", "RepositoryModelUnload")  # the rpcs that need a key with the scope admin
CODES = {
    errors.RequestError: grpc.StatusCode.INVALID_ARGUMENT, errors.UnknownModel: grpc.StatusCode.NOT_FOUND, errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Unauthorized: grpc.StatusCode.UNAUTHENTICATED, errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.Busy: grpc.StatusCode.UNAVAILABLE, errors.Unavailable: grpc.StatusCode.UNAVAILABLE, errors.DeadlineExceeded: grpc.StatusCode.UNAVAILABLE,
}  # fmt: skip
# the field of typed contents for each datatype; FP16 is supported as raw bytes only
CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents",
}  # fmt: skip


class InferenceServicer(stubs.GRPCInferenceServiceServicer):
    """The gRPC service of the protocol: one method for each rpc."""

    def __init__(self, core: Core, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self.core, self.registry, self.settings = core, core.registry, core.settings
        self.calls = Calls(NAME, CODES, metrics, tracing, of_one_line)

    # --- server and models ---

    async def ServerLive(self, message: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:  # noqa: N802
        """Return that the process runs."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, message: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:  # noqa: N802
        """Return whether the service is ready."""
        return pb.ServerReadyResponse(ready=self.registry.readiness()[0])

    async def ServerMetadata(self, message: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:  # noqa: N802
        """Return the name, the version and the extensions of the server."""
        return pb.ServerMetadataResponse(**server())

    async def ModelReady(self, message: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:  # noqa: N802
        """Return whether a model answers requests."""
        async with Call(self.calls, context, "ModelReady"):
            readable(message)
            return pb.ModelReadyResponse(ready=await self.core.ready(message.name, message.version))

    async def ModelMetadata(self, message: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:  # noqa: N802
        """Return the tensors of a model."""
        async with Call(self.calls, context, "ModelMetadata"):
            readable(message)
            metadata = await self.core.metadata(message.name, message.version)
            answer = pb.ModelMetadataResponse(
                name=metadata["name"],
                versions=metadata["versions"],
                platform=metadata["platform"],
                properties=metadata["parameters"],
            )
            for side in ("inputs", "outputs"):
                for tensor in metadata[side]:
                    getattr(answer, side).add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
            return answer

    async def ModelConfig(self, message: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:  # noqa: N802
        """Return a model in terms of Triton's configuration."""
        async with Call(self.calls, context, "ModelConfig"):
            readable(message)
            config = await self.core.config(message.name, message.version)
            answer = pb.ModelConfigResponse()
            json_format.ParseDict(config, answer.config)
            return answer

    async def ModelStatistics(self, message: pb.ModelStatisticsRequest, context: Context) -> pb.ModelStatisticsResponse:  # noqa: N802
        """Return the statistics of models."""
        async with Call(self.calls, context, "ModelStatistics"):
            readable(message)
            statistics = await self.core.stats(message.name, message.version)
            answer = pb.ModelStatisticsResponse()
            json_format.ParseDict({"model_stats": statistics}, answer)
            return answer

    # --- repository ---

    async def RepositoryIndex(self, message: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:  # noqa: N802
        """Return all models with their states."""
        async with Call(self.calls, context, "RepositoryIndex"):
            readable(message)
            return pb.RepositoryIndexResponse(
                models=[pb.RepositoryIndexResponse.ModelIndex(**each) for each in self.core.index(message.ready)]
            )

    async def RepositoryModelLoad(  # noqa: N802
        self, message: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Load a model from its folder."""
        async with Call(self.calls, context, "RepositoryModelLoad"):
            self._admit(context)
            await self.core.load(readable(message).model_name, message.parameters)
            return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self, message: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Take a model out of service."""
        async with Call(self.calls, context, "RepositoryModelUnload"):
            self._admit(context)
            await self.core.unload(readable(message).model_name)
            return pb.RepositoryModelUnloadResponse()

    def _admit(self, context: Context) -> None:
        """Raise Forbidden without keys, unless loopback is trusted and the call comes from this machine. The gate has checked keys."""
        if self.settings.authenticated:
            return
        if not self.settings.trust_loopback:
            raise Forbidden(NO_ADMIN, field="authorization")
        forwarded = any(str(key) in FORWARDED for key, _ in context.invocation_metadata() or ())
        if forwarded or not is_local(context.peer()):
            raise Forbidden(
                "authorization: without API keys, this machine alone may load and unload models, not through a proxy; use a key with the scope admin",
                field="authorization",
            )  # fmt: skip

    # --- inference ---

    async def ModelInfer(self, message: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:  # noqa: N802
        """Run one inference."""
        async with Call(self.calls, context, "ModelInfer"):
            return await self._infer(message, deadline(context))

    async def ModelStreamInfer(  # noqa: N802
        self, sent: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Run inferences in order. An error is the answer to its request, unless the client requests a status instead."""
        asked = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        ends = asked.get("triton_grpc_error") == "true"
        async with Call(self.calls, context, "ModelStreamInfer"):
            async for message in sent:
                try:
                    answer = pb.ModelStreamInferResponse(infer_response=await self._infer(message, None))
                except ManifoldError as error:
                    if ends:
                        raise
                    self.calls.metrics.erred(error)
                    answer = pb.ModelStreamInferResponse(error_message=self._message_of(error))
                    answer.infer_response.id = getattr(message, "id", "")[:ID]  # the request of the error
                yield answer

    def _message_of(self, error: ManifoldError) -> str:
        if self.calls.code_of(error) is grpc.StatusCode.INTERNAL:
            log.error("internal", type=error.type, message=error.message)
            return failures.OPAQUE
        return of_one_line(error)

    async def _infer(self, message: pb.ModelInferRequest, deadline_ms: int | None) -> pb.ModelInferResponse:
        began = time.perf_counter()
        asked = await aside(lambda: _read(readable(message)), work())
        return await self.core.infer(asked, deadline_ms, began, _write)


def is_local(peer: str) -> bool:
    """Return whether the peer of a call (ipv4:127.0.0.1:5, ipv6:%5B::1%5D:5, unix:...) is on this machine."""
    kind, _, address = unquote(peer).partition(":")
    return kind == "unix" or (kind in ("ipv4", "ipv6") and is_loopback(address.rpartition(":")[0]))


def _read(message: pb.ModelInferRequest) -> Asked:
    """Return the inference that a message requests. Raise RequestError."""
    raw, given = message.raw_input_contents, {}
    if raw and len(raw) != len(message.inputs):
        raise Malformed(
            f"raw_input_contents: {len(raw)} for {len(message.inputs)} inputs; send one for each, or none", field="raw_input_contents"
        )  # fmt: skip
    for place, tensor in enumerate(message.inputs):
        field = f"inputs[{place}]"
        if tensor.name in given:
            raise Malformed(f"{field}: {shown(tensor.name)} occurs twice; send it once", field=field)
        refuse(_values(tensor.parameters), field)
        shape = tensors.check_shape(list(tensor.shape), field)
        if not raw:
            given[tensor.name] = _typed(tensor, shape, field)
        elif tensor.HasField("contents"):
            raise Malformed(
                f"{field}: contents and raw_input_contents are both given; send only one of them", field=field
            )
        else:
            given[tensor.name] = tensors.from_bytes(raw[place], tensor.datatype, shape, field)
    for output in message.outputs:
        asked = _values(output.parameters)
        refuse(asked, "outputs")
        flag(asked, "binary_data", field="outputs")
    wanted = tuple(dict.fromkeys(output.name for output in message.outputs)) or None
    parameters = _values(message.parameters)
    return Asked(message.model_name, message.model_version, parameters, given, wanted, check_id(message.id))


def _typed(tensor: pb.ModelInferRequest.InferInputTensor, shape: tuple[int, ...], field: str) -> Array:
    """Return an input from typed contents. Raise RequestError."""
    kind = CONTENTS.get(tensor.datatype)
    if kind is None:
        wrong = f"{shown(tensor.datatype)} is not supported as contents" if tensor.datatype else "is missing"
        raise InvalidValue(
            f"{field}: datatype {wrong}; use a valid type{' or raw_input_contents' if tensor.datatype else ''}",
            field=field,
            valid=list(CONTENTS),
        )
    others = [descriptor.name for descriptor, _ in tensor.contents.ListFields() if descriptor.name != kind]
    if others:
        raise Malformed(f"{field}: {tensor.datatype} does not belong into {others[0]}; use {kind}", field=field)
    return tensors.from_values(list(getattr(tensor.contents, kind)), tensor.datatype, shape, field)


def _values(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    """Return the values of parameters. A parameter without a value is None."""
    kinds = {name: parameter.WhichOneof("parameter_choice") for name, parameter in parameters.items()}
    return {name: None if kind is None else getattr(parameters[name], kind) for name, kind in kinds.items()}


def _write(made: Inferred) -> pb.ModelInferResponse:
    """Return the response. Its tensors are raw bytes, which every client can read."""
    message = pb.ModelInferResponse(
        model_name=made.target.name, model_version=str(made.target.entry.version), id=made.id
    )  # fmt: skip
    for name, value in made.parameters.items():
        if isinstance(value, str):
            message.parameters[name].string_param = value
        elif isinstance(value, bool):
            message.parameters[name].bool_param = value
        else:
            message.parameters[name].int64_param = value
    for name, array in made.outputs.items():
        message.outputs.add(name=name, datatype=tensors.NAMES[array.dtype], shape=array.shape)
        message.raw_output_contents.append(tensors.to_bytes(array))
    return message
