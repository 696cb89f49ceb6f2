"""Around every rpc: its request id, its place in the metrics, its errors with their details, its deadline, and bytes that are no message."""

from __future__ import annotations

import asyncio
import operator
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import grpc
import orjson
import structlog
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from runtime import errors
from runtime.errors import Malformed, ManifoldError, Unavailable
from service import replies
from service.asgi import REQUEST_ID, new_id
from service.entries import hold_from_now, let_go
from service.metrics import Metrics
from service.tracing import Tracing

log = structlog.get_logger()

M = TypeVar("M", bound=Message)
Context: TypeAlias = Any  # grpc.aio.ServicerContext, which says nothing of its types


Codes: TypeAlias = Mapping[type[ManifoldError], grpc.StatusCode]


@dataclass(frozen=True)
class Calls:
    """What the calls of one service have in common."""

    service: str
    codes: Codes
    metrics: Metrics
    tracing: Tracing | None = None
    message: Callable[[ManifoldError], str] = operator.attrgetter("message")  # of an error

    def code_of(self, error: ManifoldError) -> grpc.StatusCode:
        """Of its table."""
        return code_of(error, self.codes)

    def status(self, error: ManifoldError, code: grpc.StatusCode, request_id: str) -> status_pb2.Status:
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
        return status_pb2.Status(code=getattr(code_pb2, code.name), message=self.message(error), details=packed)


def code_of(error: ManifoldError, codes: Codes) -> grpc.StatusCode:
    """The code of the nearest class."""
    return next((codes[kind] for kind in type(error).__mro__ if kind in codes), grpc.StatusCode.INTERNAL)


class Call:
    """Around an rpc: its request id, its place in the metrics, and its errors with their details."""

    def __init__(self, calls: Calls, context: Context, name: str) -> None:
        self.calls, self.context, self.route = calls, context, f"/{calls.service}/{name}"
        sent = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        given = sent.get("x-request-id", "")
        self.request_id = given if REQUEST_ID.fullmatch(given) else new_id()
        self.began, self.held = time.perf_counter(), hold_from_now()
        said = {
            "rpc.system": "grpc",
            "rpc.service": calls.service,
            "rpc.method": name,
            "manifold.request_id": self.request_id,
        }
        self.trace = calls.tracing.begin(self.route[1:], sent, **said) if calls.tracing else None

    async def __aenter__(self) -> Call:
        self.context.set_trailing_metadata((("x-request-id", self.request_id),))
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        code = grpc.StatusCode.OK
        try:
            if isinstance(error, asyncio.CancelledError | GeneratorExit):
                code = grpc.StatusCode.CANCELLED
            elif isinstance(error, ManifoldError) and self.calls.code_of(error) is not grpc.StatusCode.INTERNAL:
                code = self.calls.code_of(error)
                self.calls.metrics.erred(error)
                await self.context.abort_with_status(
                    rpc_status.to_status(self.calls.status(error, code, self.request_id))
                )
            elif isinstance(error, Exception):
                code = grpc.StatusCode.INTERNAL
                self.calls.metrics.erred(error)
                log.error("internal", request_id=self.request_id, exc_info=error)
                await self.context.abort(code, replies.OPAQUE)
        finally:
            let_go(self.held)
            if self.trace is not None:
                failed = code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE)
                self.trace.end(self.route[1:], failed=failed, **{"rpc.grpc.status_code": code.value[0]})
            self.calls.metrics.requested(self.route, code.name, time.perf_counter() - self.began)


@dataclass(frozen=True)
class Unreadable:
    """Bytes that are not the message they should be."""

    name: str
    file: str  # the contract


def readable(message: M) -> M:
    """Raises Malformed for what is not."""
    if isinstance(message, Unreadable):
        raise Malformed(f"the message is not a {message.name} of {message.file}")
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
    kind = parse.__self__.DESCRIPTOR  # type: ignore[attr-defined]
    unreadable = Unreadable(kind.name, f"proto/{kind.file.name.rpartition('/')[2]}")

    def read(content: bytes) -> Message | Unreadable:
        try:
            return parse(content)
        except DecodeError:
            return unreadable

    return read


def deadline(context: Context) -> int | None:
    """Milliseconds that are left to the call."""
    left = context.time_remaining()
    return None if left is None else max(1, int(1000 * left))
