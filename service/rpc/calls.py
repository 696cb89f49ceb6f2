"""The handling that all rpcs share: request id, metrics, errors with details, deadline, and invalid messages."""

from __future__ import annotations

import asyncio
import functools
import inspect
import operator
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import grpc
import orjson
import structlog
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from manifold.runtime import errors
from manifold.runtime.errors import Malformed, ManifoldError, Unavailable
from manifold.service.aside import JSON as JSON_WORK
from manifold.service.aside import aside
from manifold.service.core import failures
from manifold.service.core.metadata import REQUEST_ID, SINGLE, new_id
from manifold.service.models.entries import hold_from_now, let_go
from manifold.service.rpc.codes import Codes, code_of
from manifold.service.telemetry.metrics import Metrics
from manifold.service.telemetry.tracing import Tracing

log = structlog.get_logger()

M = TypeVar("M", bound=Message)
Context: TypeAlias = Any  # grpc.aio.ServicerContext, which has no types


@dataclass(frozen=True)
class Calls:
    """The handling that the calls of one gRPC service share."""

    service: str
    codes: Codes
    metrics: Metrics
    tracing: Tracing | None = None
    message: Callable[[ManifoldError], str] = operator.attrgetter("message")  # the text of an error

    def code_of(self, error: ManifoldError) -> grpc.StatusCode:
        """Return the status code of an error, from the table of the service."""
        return code_of(error, self.codes)

    def status(self, error: ManifoldError, code: grpc.StatusCode, request_id: str) -> status_pb2.Status:
        """Return the status of an error, with the fields of REST's errors in messages of google.rpc."""
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


class Call:
    """The context of one rpc: its request id, its metrics, and its errors with details."""

    def __init__(self, calls: Calls, context: Context, name: str) -> None:
        self.calls, self.context, self.route = calls, context, f"/{calls.service}/{name}"
        metadata = context.invocation_metadata() or ()
        sent = {str(key): str(value) for key, value in metadata}
        self.repeated = "" if len(sent) == len(metadata) else repeated(metadata)
        given = sent.get("x-request-id", "")
        self.request_id = given if REQUEST_ID.fullmatch(given) and self.repeated != "x-request-id" else new_id()
        self.began, self.held = time.perf_counter(), hold_from_now()
        attributes = {
            "rpc.system": "grpc",
            "rpc.service": calls.service,
            "rpc.method": name,
            "manifold.request_id": self.request_id,
        }
        self.trace = calls.tracing.begin(self.route[1:], sent, **attributes) if calls.tracing else None

    async def __aenter__(self) -> Call:
        self.context.set_trailing_metadata((("x-request-id", self.request_id),))
        if self.repeated:
            error = Malformed(
                f"{self.repeated}: the metadata contains it more than once; send it once", field=self.repeated
            )
            await self.__aexit__(type(error), error, None)  # raises an error, which ends the call
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
                failures.log_internal(error, self.request_id)
                await self.context.abort(code, failures.OPAQUE)
        finally:
            let_go(self.held)
            if self.trace is not None:
                failed = code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE)
                self.trace.end(self.route[1:], failed=failed, **{"rpc.grpc.status_code": code.value[0]})
            self.calls.metrics.requested(self.route, code.name, time.perf_counter() - self.began)


def repeated(metadata: Iterable[tuple[Any, Any]]) -> str:
    """Return the name of a repeated key that must occur only once, or nothing."""
    names = [str(key) for key, _ in metadata]
    return next((name for name in names if name.encode() in SINGLE and names.count(name) > 1), "")


@dataclass(frozen=True)
class UnreadableMessage:
    """The stand-in for a message that could not be parsed, with the error."""

    error: ManifoldError


def readable(message: M) -> M:
    """Return the message. Raise the error of a message that could not be parsed."""
    if isinstance(message, UnreadableMessage):
        raise message.error
    return message


@dataclass(frozen=True)
class UnparsedMessage:
    """A large message that will be parsed off the event loop."""

    parse: Callable[[bytes], Message | UnreadableMessage]
    content: bytes


_work: ContextVar[float] = ContextVar("work", default=0.0)


def work() -> float:
    """Return the cost of reading the message of this call, in bytes (service.aside)."""
    return _work.get()


async def _parsed(message: Any) -> Any:
    work = JSON_WORK * len(message.content) if isinstance(message, UnparsedMessage) else 0.0
    _work.set(work)
    return await aside(functools.partial(message.parse, message.content), work) if work else message


async def _all_parsed(messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for message in messages:
        yield await _parsed(message)


def off_the_loop(handler: Any) -> Any:
    """Wrap the handler of an rpc. Large messages are parsed before the handler is called, or when it requests them."""
    handler = handler._replace(response_serializer=_written(handler.response_serializer))
    if handler.stream_stream is not None:
        return handler._replace(stream_stream=_streaming(handler.stream_stream, _all_parsed))
    if handler.unary_stream is not None:
        return handler._replace(unary_stream=_streaming(handler.unary_stream, _parsed))
    return handler._replace(unary_unary=_answering(handler.unary_unary))


def _answering(answer: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
    async def answering(message: Any, context: Context) -> Any:
        return await answer(await _parsed(message) if isinstance(message, UnparsedMessage) else message, context)

    return answering


def _streaming(
    answers: Callable[[Any, Context], AsyncGenerator[Any]], parsed: Callable[[Any], Any]
) -> Callable[[Any, Context], AsyncGenerator[Any]]:
    async def streaming(sent: Any, context: Context) -> AsyncGenerator[Any]:
        message = parsed(sent)
        async with aclosing(answers(await message if inspect.iscoroutine(message) else message, context)) as parts:
            async for part in parts:
                yield part

    return streaming


def _written(serialize: Callable[[Message], bytes]) -> Callable[[Message | bytes], bytes]:
    """Return a serializer that passes bytes on: large messages were serialized off the event loop."""
    return lambda message: message if isinstance(message, bytes) else serialize(message)


def deadline(context: Context) -> int | None:
    """Return the time that is left for the call, in milliseconds, or None."""
    left = context.time_remaining()
    return None if left is None else max(1, int(1000 * left))
