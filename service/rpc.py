"""gRPC: translates messages to the handlers and back. The rpcs, their table of codes, and the server with health and reflection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from typing import Any, TypeAlias, TypeVar

import grpc
import orjson
import structlog
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from runtime import errors
from runtime.errors import InvalidValue, Malformed, ManifoldError, NotFound, UnsupportedMedia
from service import bodies, contract, describe, encoding, messages, uploads
from service.calls import Call, Calls, Tolerant, deadline, readable
from service.handlers import Answer, Handlers
from service.inference import rpc as inference
from service.metrics import Metrics
from service.reading import Uploads
from service.registry import Registry
from service.security import Security
from service.settings import Settings
from service.stubs import inference_pb2_grpc as inference_stubs
from service.stubs import manifold_pb2 as pb
from service.stubs import manifold_pb2_grpc as stubs
from service.tracing import Tracing
from service.tracing import spent as spent_on

log = structlog.get_logger()

M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=contract.Request)
Context: TypeAlias = Any  # grpc.aio.ServicerContext, which says nothing of its types

NAME = "manifold.v1.Manifold"
CODES: dict[type[ManifoldError], grpc.StatusCode] = {
    errors.RequestError: grpc.StatusCode.INVALID_ARGUMENT, errors.UnknownModel: grpc.StatusCode.NOT_FOUND,
    errors.NotFound: grpc.StatusCode.NOT_FOUND, errors.UnsupportedTask: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unauthorized: grpc.StatusCode.UNAUTHENTICATED, errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.Busy: grpc.StatusCode.RESOURCE_EXHAUSTED, errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
}  # fmt: skip
HEALTH_SECONDS = 0.2  # between looks at the registry
# milliseconds: peers that are gone without a word are found out
ALIVE = {
    "grpc.keepalive_time_ms": 60_000,
    "grpc.keepalive_timeout_ms": 20_000,
    "grpc.http2.min_ping_interval_without_data_ms": 10_000,
}
FRAME = 16 * 1024  # bytes that a message may be over the body's limit, for its fields


class Servicer(stubs.ManifoldServicer):
    """One method an rpc."""

    def __init__(
        self, handlers: Handlers, registry: Registry, metrics: Metrics, settings: Settings, tracing: Tracing | None = None
    ) -> None:  # fmt: skip
        self.handlers, self.registry, self.metrics, self.settings = handlers, registry, metrics, settings
        self.calls = Calls(NAME, CODES, metrics, tracing)

    # --- use cases ---

    async def Sample(self, message: pb.SampleRequest, context: Context) -> pb.SampleResponse:  # noqa: N802
        """New items."""
        return await self._use(
            context, "sample", message, contract.SampleRequest, self.handlers.sample, pb.SampleResponse()
        )

    async def Encode(self, message: pb.EncodeRequest, context: Context) -> pb.EncodeResponse:  # noqa: N802
        """Where items lie."""
        return await self._use(
            context, "encode", message, contract.EncodeRequest, self.handlers.encode, pb.EncodeResponse()
        )

    async def Reconstruct(self, message: pb.ReconstructRequest, context: Context) -> pb.ReconstructResponse:  # noqa: N802
        """Items through the latent and back."""
        return await self._use(
            context,
            "reconstruct",
            message,
            contract.ReconstructRequest,
            self.handlers.reconstruct,
            pb.ReconstructResponse(),
        )

    async def Interpolate(self, message: pb.InterpolateRequest, context: Context) -> pb.InterpolateResponse:  # noqa: N802
        """A path between two items."""
        return await self._use(
            context,
            "interpolate",
            message,
            contract.InterpolateRequest,
            self.handlers.interpolate,
            pb.InterpolateResponse(),
        )

    async def AnomalyScore(self, message: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:  # noqa: N802
        """How strange items are."""
        return await self._use(
            context, "anomaly-score", message, contract.ScoreRequest, self.handlers.score, pb.ScoreResponse()
        )

    async def Classify(self, message: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:  # noqa: N802
        """Which class items are of."""
        return await self._use(
            context, "classify", message, contract.ClassifyRequest, self.handlers.classify, pb.ClassifyResponse()
        )

    async def Impute(self, message: pb.ImputeRequest, context: Context) -> pb.ImputeResponse:  # noqa: N802
        """Rows made whole."""
        return await self._use(
            context, "impute", message, contract.ImputeRequest, self.handlers.impute, pb.ImputeResponse()
        )

    # --- streams ---

    async def SampleStream(self, message: pb.SampleRequest, context: Context) -> AsyncIterator[pb.SampleResponse]:  # noqa: N802
        """New items as they are made."""
        async with Call(self.calls, context, "SampleStream") as call:
            self.registry.check_open()
            fields, given = _read(message, contract.SampleRequest)
            async with aclosing(await self.handlers.sample_stream(fields, given, deadline(context))) as parts:
                async for part in parts:
                    yield await self._write(part, "sample", pb.SampleResponse(), call.request_id)

    async def AnomalyScoreFile(  # noqa: N802
        self, sent: AsyncIterator[pb.ScoreFileRequest], context: Context
    ) -> AsyncIterator[pb.ScoreFileResponse]:
        """The rows of a file."""
        async with Call(self.calls, context, "AnomalyScoreFile"):
            self.registry.check_open()
            head = readable(await anext(aiter(sent), pb.ScoreFileRequest()))
            if head.kind not in uploads.KINDS:
                raise UnsupportedMedia(f"kind: {head.kind or 'nothing'} is not read", field="kind", valid=uploads.KINDS)
            fields, given = _read(head.request, contract.ScoreRequest)
            if given.images or given.array is not None:
                raise InvalidValue("images: not beside a file of rows", field="images")
            chunks = (readable(part).chunk async for part in sent)
            limits = self.settings.max_upload_bytes
            _, lines = await uploads.score(fields, head.kind, chunks, limits, self.handlers, self.metrics)
            async with aclosing(lines):
                async for line in lines:
                    yield pb.ScoreFileResponse(lines=line)

    # --- models ---

    async def ListModels(self, message: pb.ListModelsRequest, context: Context) -> pb.ModelList:  # noqa: N802
        """What there is, and its state."""
        async with Call(self.calls, context, "ListModels"):
            readable(message)
            default = self.settings.default_model
            answer = pb.ModelList()
            for entry in self.registry.shown:
                messages.fill(answer.models.add(), _summary(describe.summary(entry, default)))
            return answer

    async def GetModel(self, message: pb.GetModelRequest, context: Context) -> pb.Model:  # noqa: N802
        """One model: its manifest's public part."""
        async with Call(self.calls, context, "GetModel"):
            entry = await self.registry.described(*_which(message))
            answer = pb.Model(manifest=orjson.dumps(describe.public(entry)).decode())
            messages.fill(answer.summary, _summary(describe.summary(entry, self.settings.default_model)))
            return answer

    async def GetStats(self, message: pb.GetModelRequest, context: Context) -> pb.Stats:  # noqa: N802
        """What one model has done, and what waits."""
        async with Call(self.calls, context, "GetStats"):
            answer = pb.Stats()
            messages.fill(answer, describe.stats(await self.registry.get(*_which(message))))
            return answer

    async def GetPreview(self, message: pb.GetModelRequest, context: Context) -> pb.Preview:  # noqa: N802
        """What the model makes, as a picture."""
        async with Call(self.calls, context, "GetPreview"):
            entry = self.registry.find(*_which(message))
            path = entry.folder / "preview.png"
            if not path.exists():
                raise NotFound(f"{entry.name} has no preview", field="model")
            return pb.Preview(png=path.read_bytes())

    # --- pieces ---

    async def _use(
        self, context: Context, route: str, message: Message, shape: type[R],
        method: Callable[[R, Uploads, int | None], Awaitable[Answer]], answer: M,
    ) -> M:  # fmt: skip
        async with Call(self.calls, context, shape.__name__.removesuffix("Request")) as call:
            self.registry.check_open()
            fields, given = _read(message, shape)
            return await self._write(await method(fields, given, deadline(context)), route, answer, call.request_id)

    async def _write(self, answer: Answer, route: str, message: M, request_id: str) -> M:
        """The answer as a message, off the event loop where that takes long."""

        def write() -> float:
            began = time.perf_counter()
            fields = encoding.to_fields(answer, request_id, picture=bytes)
            spent = 1000 * (time.perf_counter() - began)
            fields["timing"] = {"queue": answer.queue, "compute": answer.compute, "encode": spent}
            messages.fill(message, fields)
            return spent

        spent = await asyncio.get_running_loop().run_in_executor(None, write) if encoding.large(answer) else write()
        now = time.monotonic()
        spent_on("encode", now - spent / 1000, now)
        self.metrics.answered(answer, route, spent)
        return message


def _read(message: Message, shape: type[R]) -> tuple[R, Uploads]:
    fields, given = messages.request(readable(message))
    return bodies.validate(shape, fields), given


def _which(message: pb.GetModelRequest) -> tuple[str | None, int | None]:
    readable(message)
    return (
        message.model if message.HasField("model") else None,
        message.version if message.HasField("version") else None,
    )


def _summary(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "data": None if fields["data"] is None else orjson.dumps(fields["data"]).decode()}


class Gate(grpc.aio.ServerInterceptor):
    """Asks for the key of a call, before anything of its messages is read. Health and reflection need none."""

    def __init__(
        self, services: Mapping[str, tuple[Calls, Collection[str], Collection[str]]], security: Security
    ) -> None:
        """`services` by name: the calls of each, the rpcs that need no key, and those that need the scope admin."""
        self.services, self.security = services, security

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """Lets a call through, or answers it with the error."""
        service, _, name = details.method.removeprefix("/").partition("/")
        calls, free, admin = self.services.get(service, (None, (), ()))
        if calls is not None and name not in free:
            given = [value for key, value in details.invocation_metadata if key == "authorization"]
            try:
                if len(given) > 1:
                    raise Malformed(
                        "authorization: the metadata has it more than once; send it once", field="authorization"
                    )
                key = self.security.check(given[0] if given else None, "admin" if name in admin else "infer")
            except ManifoldError as error:
                return self._refusal(calls, name, error)
            calls.metrics.asked(key.id)
        return await continuation(details)

    @staticmethod
    def _refusal(calls: Calls, name: str, error: ManifoldError) -> Any:
        async def refuse(sent: object, context: Context) -> None:
            async with Call(calls, context, name):
                raise error

        # of streams, whatever the call is: only those are not read before their handler asks for it
        return grpc.stream_stream_rpc_method_handler(refuse)


# --- the server ---------------------------------------------------------------------------------------------------------------


class Server:
    """The gRPC server, on the event loop of the HTTP one."""

    def __init__(self, servicer: Servicer, tensors: inference.Servicer, settings: Settings, security: Security) -> None:
        self.servicer, self.tensors, self.settings, self.security = servicer, tensors, settings, security
        self.port = 0
        self._server: grpc.aio.Server | None = None
        self._watch: asyncio.Task[None] | None = None
        self._health: health.aio.HealthServicer | None = None

    def open(self, port: int) -> None:
        """Take the port. Calls are answered once the server has started. Raises RuntimeError if the port cannot be had."""
        limit = self.settings.max_body_bytes + FRAME
        services = {
            NAME: (self.servicer.calls, (), ()),
            inference.NAME: (self.tensors.calls, inference.OPEN, inference.ADMIN),
        }
        server = grpc.aio.server(
            interceptors=[Gate(services, self.security)] if self.security.needed else [],
            options=[
                ("grpc.max_receive_message_length", limit), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", int(self.settings.workers > 1)),
                *ALIVE.items(),
            ],
        )  # fmt: skip
        stubs.add_ManifoldServicer_to_server(self.servicer, Tolerant(server))
        inference_stubs.add_GRPCInferenceServiceServicer_to_server(self.tensors, Tolerant(server))
        told = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(told, server)
        reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        name = self.settings.host.strip("[]")
        host = f"[{name}]" if ":" in name else name
        self.port = self._listen(server, f"{host}:{port}")
        self._server, self._health = server, told

    async def start(self) -> None:
        """Answer calls from now on."""
        assert self._server is not None and self._health is not None
        await self._server.start()
        self._watch = asyncio.create_task(self._follow(self._health))

    def _listen(self, server: grpc.aio.Server, address: str) -> int:
        if self.security.certificate is None:
            return int(server.add_insecure_port(address))
        certificate = self.security.certificate
        used: list[tuple[bytes, bytes]] = [certificate.pair()]
        self.security.reloaded.append(lambda: used.append(certificate.pair()))

        def latest() -> Any:  # asked at each connection; None: as before
            if len(used) == 1:
                return None
            del used[:-1]
            return grpc.ssl_server_certificate_configuration(used)

        first = grpc.ssl_server_certificate_configuration(used)
        return int(server.add_secure_port(address, grpc.dynamic_ssl_server_credentials(first, latest)))

    async def _follow(self, told: health.aio.HealthServicer) -> None:
        """Health as /health/ready has it."""
        before = None
        while True:
            ready = self.servicer.registry.readiness()[0]
            if ready is not before:
                serving = (
                    health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
                )
                for name in ("", NAME, inference.NAME):
                    await told.set(name, serving)
                before = ready
            await asyncio.sleep(HEALTH_SECONDS)

    async def stop(self, seconds: float) -> None:
        """Takes no more calls; those in flight get so long to end."""
        if self._server is None:
            return
        if self._watch is not None:
            self._watch.cancel()
        await self._server.stop(seconds)
