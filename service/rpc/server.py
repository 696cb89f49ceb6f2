"""gRPC: translates messages to the handlers and back. The rpcs, their table of codes, and the server with health and reflection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from typing import Any, TypeAlias, TypeVar, cast

import grpc
import orjson
import structlog
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from manifold.runtime import errors
from manifold.runtime.errors import InvalidValue, Malformed, ManifoldError, UnsupportedMedia, cut
from manifold.service.aside import LARGE, ROW, aside
from manifold.service.core import contract, encoding, uploads
from manifold.service.core.handlers import Answer, Handlers
from manifold.service.core.reading import Uploads
from manifold.service.http import bodies
from manifold.service.http.incoming import Intake
from manifold.service.inference import rpc as inference
from manifold.service.models import describe
from manifold.service.models.registry import Registry
from manifold.service.rpc import calls, messages
from manifold.service.rpc.calls import Call, Calls, Unreadable, code_of, deadline, readable
from manifold.service.rpc.limits import FRAME, Limited, Limits, kept, refusal
from manifold.service.security import Security
from manifold.service.settings import Settings
from manifold.service.stubs import inference_pb2_grpc as inference_stubs
from manifold.service.stubs import manifold_pb2 as pb
from manifold.service.stubs import manifold_pb2_grpc as stubs
from manifold.service.telemetry.metrics import Metrics
from manifold.service.telemetry.tracing import Tracing
from manifold.service.telemetry.tracing import spent as spent_on

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
# milliseconds: peers that are gone without a word are found out, and a peer may ask every 5 s whether the service is, also without a call
ALIVE = {
    "grpc.keepalive_time_ms": 60_000,
    "grpc.keepalive_timeout_ms": 20_000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.min_ping_interval_without_data_ms": 5_000,
}
STREAMS = 128  # of a connection, beyond the calls that it may make, for health and reflection


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
            fields, given = await _read(message, contract.SampleRequest)
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
                raise UnsupportedMedia(
                    f"kind: {cut(head.kind) or 'nothing'} is not read", field="kind", valid=uploads.KINDS
                )
            fields, given = await _read(head.request, contract.ScoreRequest)
            if given.files or given.array is not None:
                raise InvalidValue("images: not beside a file of rows", field="images")
            chunks = _chunks(sent)
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
            answer, shown = pb.ModelList(), self.registry.shown

            def fill() -> None:
                for entry in shown:
                    messages.fill(answer.models.add(), _summary(describe.summary(entry, default)))

            await aside(fill, 2 * ROW * len(shown))
            return answer

    async def GetModel(self, message: pb.GetModelRequest, context: Context) -> pb.Model:  # noqa: N802
        """One model: its manifest's public part."""
        async with Call(self.calls, context, "GetModel"):
            entry = await self.registry.described(*_which(message))
            answer = pb.Model(manifest=await aside(lambda: orjson.dumps(describe.public(entry)).decode()))
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

            def read() -> bytes:
                describe.preview(path, "model")
                return path.read_bytes()

            return pb.Preview(png=await aside(read, pool="disk"))

    # --- pieces ---

    async def _use(
        self, context: Context, route: str, message: Message, shape: type[R],
        method: Callable[[R, Uploads, int | None], Awaitable[Answer]], answer: M,
    ) -> M:  # fmt: skip
        async with Call(self.calls, context, shape.__name__.removesuffix("Request")) as call:
            self.registry.check_open()
            fields, given = await _read(message, shape)
            return await self._write(await method(fields, given, deadline(context)), route, answer, call.request_id)

    async def _write(self, answer: Answer, route: str, message: M, request_id: str) -> M:
        """The answer as a message, off the event loop where that takes long."""

        size = encoding.work(answer, ROW)  # messages are filled field by field

        def write() -> tuple[float, M]:
            began = time.perf_counter()
            fields = encoding.to_fields(answer, request_id, picture=bytes)
            spent = 1000 * (time.perf_counter() - began)
            fields["timing"] = {"queue": answer.queue, "compute": answer.compute, "encode": spent}
            messages.fill(message, fields)
            # what is large is serialized here too; the server passes bytes on
            return spent, message if size < LARGE else cast(M, message.SerializeToString())

        spent, written = await aside(write, size)
        now = time.monotonic()
        spent_on("encode", now - spent / 1000, now)
        self.metrics.answered(answer, route, spent)
        return written


async def _read(message: Message, shape: type[R]) -> tuple[R, Uploads]:
    def read() -> tuple[R, Uploads]:
        fields, given = messages.request(readable(message), work)
        return bodies.validate(shape, fields), given

    work = calls.work()
    return await aside(read, work)


async def _chunks(sent: AsyncIterator[pb.ScoreFileRequest]) -> AsyncIterator[bytes]:
    """Yield the pieces of a file. Those that stay in memory are counted until the call is over."""
    async for part in sent:
        chunk = readable(part).chunk
        kept(len(chunk), uploads.IN_MEMORY)
        yield chunk


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
                return refusal(calls, name, error)
            calls.metrics.asked(key.id)
        return await continuation(details)


class Health(health_pb2_grpc.HealthServicer):
    """The health of each service, asked once or watched. Nothing is locked while a client reads, so that none keeps others from hearing."""

    def __init__(self) -> None:
        self._known = {"": health_pb2.HealthCheckResponse.SERVING}
        self._changed = asyncio.Event()

    def set(self, serving: bool, *names: str) -> None:
        """Say whether these services answer."""
        response = health_pb2.HealthCheckResponse
        self._known |= dict.fromkeys(names, response.SERVING if serving else response.NOT_SERVING)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def Check(self, message: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:  # noqa: N802
        """Whether a service answers."""
        if isinstance(message, Unreadable):
            await context.abort(code_of(message.error, CODES), message.error.message)
        status = self._known.get(message.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802
        self, message: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Whether a service answers, now and at each change."""
        name, said = readable(message).service, None
        while True:
            changed = self._changed
            status = self._known.get(name, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            if status != said:
                said = status
                yield health_pb2.HealthCheckResponse(status=status)
            await changed.wait()


class Reflection(reflection.aio.ReflectionServicer):
    """What the services offer, with an error for a message that cannot be read."""

    async def ServerReflectionInfo(self, sent: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:  # noqa: N802
        """Answers one question after the other."""
        async for answer in super().ServerReflectionInfo((readable(message) async for message in sent), context):
            yield answer


# --- the server ---------------------------------------------------------------------------------------------------------------


class Server:
    """The gRPC server, on the event loop of the HTTP one."""

    def __init__(
        self, servicer: Servicer, tensors: inference.Servicer, settings: Settings, security: Security, intake: Intake
    ) -> None:
        self.servicer, self.tensors, self.settings, self.security = servicer, tensors, settings, security
        others = {name: Calls(name, CODES, servicer.metrics) for name in (health.SERVICE_NAME, reflection.SERVICE_NAME)}
        calls = {NAME: servicer.calls, inference.NAME: tensors.calls, **others}
        self.limits = Limits(settings, intake, calls, lambda reason: servicer.metrics.cut.labels(reason).inc())
        self.port = 0
        self._server: grpc.aio.Server | None = None
        self._watch: asyncio.Task[None] | None = None
        self._health: Health | None = None

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
                ("grpc.max_allowed_incoming_connections", self.settings.max_connections), ("grpc.max_concurrent_streams", self.settings.max_calls + STREAMS),
                ("grpc.server_handshake_timeout_ms", round(1000 * self.settings.receive_seconds)), *ALIVE.items(),
            ],
        )  # fmt: skip
        added = Limited(self.limits)
        stubs.add_ManifoldServicer_to_server(self.servicer, added)
        inference_stubs.add_GRPCInferenceServiceServicer_to_server(self.tensors, added)
        told = Health()
        health_pb2_grpc.add_HealthServicer_to_server(told, added)
        reflected = Reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME))
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, added)
        server.add_generic_rpc_handlers((self.limits,))
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

    async def _follow(self, told: Health) -> None:
        """Health as /health/ready has it."""
        before = None
        while True:
            ready = self.servicer.registry.readiness()[0]
            if ready is not before:
                told.set(ready, "", NAME, inference.NAME)
                before = ready
            await asyncio.sleep(HEALTH_SECONDS)

    async def stop(self, seconds: float) -> None:
        """Takes no more calls; those in flight get so long to end."""
        if self._server is None:
            return
        if self._watch is not None:
            self._watch.cancel()
        await self._server.stop(seconds)
