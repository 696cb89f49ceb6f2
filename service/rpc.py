"""gRPC: translates messages to the handlers and back. The rpcs, the one table of codes, health and reflection, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import grpc
import orjson
import structlog
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from runtime import errors
from runtime.errors import InvalidValue, Malformed, ManifoldError, NotFound, Unavailable, UnsupportedMedia
from service import bodies, contract, describe, encoding, messages, replies, uploads
from service.asgi import REQUEST_ID, new_id
from service.handlers import Answer, Handlers
from service.metrics import Metrics
from service.reading import Uploads
from service.registry import Registry
from service.security import Security
from service.settings import Settings
from service.stubs import manifold_pb2 as pb
from service.stubs import manifold_pb2_grpc as stubs

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


def code_of(error: ManifoldError) -> grpc.StatusCode:
    """The table, by the nearest class."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), grpc.StatusCode.INTERNAL)


class Servicer(stubs.ManifoldServicer):
    """One method an rpc."""

    def __init__(self, handlers: Handlers, registry: Registry, metrics: Metrics, settings: Settings) -> None:
        self.handlers, self.registry, self.metrics, self.settings = handlers, registry, metrics, settings

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
        async with Call(self, context, "SampleStream") as call:
            self.registry.check_open()
            fields, given = _read(message, contract.SampleRequest)
            async with aclosing(await self.handlers.sample_stream(fields, given, _deadline(context))) as parts:
                async for part in parts:
                    yield await self._write(part, "sample", pb.SampleResponse(), call.request_id)

    async def AnomalyScoreFile(  # noqa: N802
        self, sent: AsyncIterator[pb.ScoreFileRequest], context: Context
    ) -> AsyncIterator[pb.ScoreFileResponse]:
        """The rows of a file."""
        async with Call(self, context, "AnomalyScoreFile"):
            self.registry.check_open()
            head = _readable(await anext(aiter(sent), pb.ScoreFileRequest()))
            if head.kind not in uploads.KINDS:
                raise UnsupportedMedia(f"kind: {head.kind or 'nothing'} is not read", field="kind", valid=uploads.KINDS)
            fields, given = _read(head.request, contract.ScoreRequest)
            if given.images or given.array is not None:
                raise InvalidValue("images: not beside a file of rows", field="images")
            chunks = (_readable(part).chunk async for part in sent)
            limits = self.settings.max_upload_bytes
            _, lines = await uploads.score(fields, head.kind, chunks, limits, self.handlers, self.metrics)
            async with aclosing(lines):
                async for line in lines:
                    yield pb.ScoreFileResponse(lines=line)

    # --- models ---

    async def ListModels(self, message: pb.ListModelsRequest, context: Context) -> pb.ModelList:  # noqa: N802
        """What there is, and its state."""
        async with Call(self, context, "ListModels"):
            _readable(message)
            default = self.settings.default_model
            answer = pb.ModelList()
            for entry in self.registry.shown:
                messages.fill(answer.models.add(), _summary(describe.summary(entry, default)))
            return answer

    async def GetModel(self, message: pb.GetModelRequest, context: Context) -> pb.Model:  # noqa: N802
        """One model: its manifest's public part."""
        async with Call(self, context, "GetModel"):
            entry = await self.registry.awake(*_which(message))
            answer = pb.Model(manifest=orjson.dumps(describe.public(entry)).decode())
            messages.fill(answer.summary, _summary(describe.summary(entry, self.settings.default_model)))
            return answer

    async def GetStats(self, message: pb.GetModelRequest, context: Context) -> pb.Stats:  # noqa: N802
        """What one model has done, and what waits."""
        async with Call(self, context, "GetStats"):
            answer = pb.Stats()
            messages.fill(answer, describe.stats(await self.registry.get(*_which(message))))
            return answer

    async def GetPreview(self, message: pb.GetModelRequest, context: Context) -> pb.Preview:  # noqa: N802
        """What the model makes, as a picture."""
        async with Call(self, context, "GetPreview"):
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
        async with Call(self, context, shape.__name__.removesuffix("Request")) as call:
            self.registry.check_open()
            fields, given = _read(message, shape)
            return await self._write(await method(fields, given, _deadline(context)), route, answer, call.request_id)

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
        self.metrics.answered(answer, route, spent)
        return message


class Call:
    """Around an rpc: its request id, its place in the metrics, and its errors with their details."""

    def __init__(self, servicer: Servicer, context: Context, name: str) -> None:
        self.servicer, self.context, self.route = servicer, context, f"/{NAME}/{name}"
        given = next((str(value) for key, value in context.invocation_metadata() or () if key == "x-request-id"), "")
        self.request_id = given if REQUEST_ID.fullmatch(given) else new_id()
        self.began = time.perf_counter()

    async def __aenter__(self) -> Call:
        self.context.set_trailing_metadata((("x-request-id", self.request_id),))
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        code = grpc.StatusCode.OK
        try:
            if isinstance(error, asyncio.CancelledError | GeneratorExit):
                code = grpc.StatusCode.CANCELLED
            elif isinstance(error, ManifoldError) and code_of(error) is not grpc.StatusCode.INTERNAL:
                code = code_of(error)
                self.servicer.metrics.erred(error)
                await self.context.abort_with_status(rpc_status.to_status(status(error, self.request_id)))
            elif isinstance(error, Exception):
                code = grpc.StatusCode.INTERNAL
                self.servicer.metrics.errors.labels("internal").inc()
                log.error("internal", request_id=self.request_id, exc_info=error)
                await self.context.abort(code, replies.OPAQUE)
        finally:
            self.servicer.metrics.requested(self.route, code.name, time.perf_counter() - self.began)


def status(error: ManifoldError, request_id: str) -> status_pb2.Status:
    """The error with what REST says of it, in google.rpc's messages."""
    metadata = {} if error.field is None else {"field": error.field}
    if error.valid is not None:
        metadata["valid"] = orjson.dumps(error.valid, default=str).decode()
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.type.upper(), domain="manifold", metadata=metadata),
        error_details_pb2.RequestInfo(request_id=request_id),
    ]
    if error.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, errors.Busy | Unavailable):
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(1e9 * getattr(error, "retry_after", 1)))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=getattr(code_pb2, code_of(error).name), message=error.message, details=packed)


def _read(message: Message, shape: type[R]) -> tuple[R, Uploads]:
    fields, given = messages.request(_readable(message))
    return bodies.validate(shape, fields), given


def _which(message: pb.GetModelRequest) -> tuple[str | None, int | None]:
    _readable(message)
    return (
        message.model if message.HasField("model") else None,
        message.version if message.HasField("version") else None,
    )


@dataclass(frozen=True)
class Unreadable:
    """Bytes that are not the message they should be."""

    name: str


def _readable(message: M) -> M:
    """Raises Malformed for what is not."""
    if isinstance(message, Unreadable):
        raise Malformed(f"the message is not a {message.name} of proto/manifold.proto")
    return message


class Tolerant:
    """Stands in for a server where rpcs are added: what cannot be read is then an error like any other, not gRPC's INTERNAL."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self.server = server

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The same handlers come by the other method too."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """The handlers, by the names of their rpcs."""
        tolerant = {
            name: handler._replace(request_deserializer=_tolerant(handler.request_deserializer))
            for name, handler in handlers.items()
        }
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, tolerant),))


def _tolerant(parse: Callable[[bytes], Message]) -> Callable[[bytes], Message | Unreadable]:
    name = parse.__self__.DESCRIPTOR.name  # type: ignore[attr-defined]

    def read(content: bytes) -> Message | Unreadable:
        try:
            return parse(content)
        except DecodeError:
            return Unreadable(name)

    return read


def _deadline(context: Context) -> int | None:
    """Milliseconds that are left to the call."""
    left = context.time_remaining()
    return None if left is None else max(1, int(1000 * left))


def _summary(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "data": None if fields["data"] is None else orjson.dumps(fields["data"]).decode()}


class Gate(grpc.aio.ServerInterceptor):
    """Asks for the key of a call, before anything of its messages is read. Health and reflection need none."""

    def __init__(self, servicer: Servicer, security: Security) -> None:
        self.servicer, self.security = servicer, security

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """Lets a call through, or answers it with the error."""
        service, _, name = details.method.removeprefix("/").partition("/")
        if service == NAME:
            given = next((value for key, value in details.invocation_metadata if key == "authorization"), None)
            try:
                key = self.security.check(given, "infer")
            except ManifoldError as error:
                return self._refusal(name, error)
            self.servicer.metrics.asked(key.name)
        return await continuation(details)

    def _refusal(self, name: str, error: ManifoldError) -> Any:
        async def refuse(sent: object, context: Context) -> None:
            async with Call(self.servicer, context, name):
                raise error

        # of streams, whatever the call is: only those are not read before their handler asks for it
        return grpc.stream_stream_rpc_method_handler(refuse)


# --- the server ---------------------------------------------------------------------------------------------------------------


class Server:
    """The gRPC server, on the event loop of the HTTP one."""

    def __init__(self, servicer: Servicer, settings: Settings, security: Security) -> None:
        self.servicer, self.settings, self.security = servicer, settings, security
        self.port = 0
        self._server: grpc.aio.Server | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self, port: int) -> None:
        """Listens. Raises RuntimeError where the port cannot be had."""
        limit = self.settings.max_body_bytes + FRAME
        server = grpc.aio.server(
            interceptors=[Gate(self.servicer, self.security)] if self.security.needed else [],
            options=[
                ("grpc.max_receive_message_length", limit), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0),
                *ALIVE.items(),
            ],
        )  # fmt: skip
        stubs.add_ManifoldServicer_to_server(self.servicer, Tolerant(server))
        told = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(told, server)
        reflection.enable_server_reflection((NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        self.port = self._listen(server, f"{host}:{port}")
        await server.start()
        self._server = server
        self._watch = asyncio.create_task(self._follow(told))

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
                for name in ("", NAME):
                    await told.set(name, serving)
                before = ready
            await asyncio.sleep(HEALTH_SECONDS)

    async def stop(self, seconds: float) -> None:
        """Takes no more calls; those in flight get so long to end."""
        if self._server is None or self._watch is None:
            return
        self._watch.cancel()
        await self._server.stop(seconds)
