"""The limits of gRPC calls: their number, the bytes that they hold, and the time in which a client may send or read nothing.

Each call is counted before its message is read, when gRPC requests its handler, and has an OpenCall until its task ends. Once a second, `look`
ends the calls whose client exceeds a time limit. They get a status. If the client does not read it, gRPC resets the stream.

gRPC keeps the received part of a message, up to the size limit of one message. The number of calls that receive a message at the same time is
limited, so that all their messages together are within max_bodies_bytes. Other calls wait. A call that has received nothing for a second makes
room for them.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message
from grpc._cython import cygrpc

from manifold.runtime.errors import Busy, DeadlineExceeded, Malformed, ManifoldError
from manifold.service.aside import JSON as JSON_WORK
from manifold.service.aside import LARGE
from manifold.service.core.intake import Intake, Room
from manifold.service.rpc.calls import Call, Calls, UnparsedMessage, UnreadableMessage, off_the_loop
from manifold.service.settings import Settings

Context: TypeAlias = Any  # grpc.aio.ServicerContext, which has no types

RECEIVING, WORKING, SENDING, ENDING = "receiving", "working", "sending", "ending"
FRAME = 16 * 1024  # bytes by which a message may exceed the limit of bodies, for its fields
SMALL = 64 * 1024  # size of messages that are not counted, bytes; HTTP does not count bodies of one piece either
PATIENCE = 1.0  # seconds without a message after which a call makes room for others
IDLE_SECONDS = 600.0  # time limit between two messages of an inference stream: clients of Triton keep one stream open
WATCHES = 256  # largest number of health and reflection streams, which need no key
WATCH_SECONDS = 3600.0  # time limit of one of them
NO_MESSAGE = "message: the call has no message; send one"

INFERENCES = "/inference.GRPCInferenceService/ModelStreamInfer"
WATCHING = ("/grpc.health.v1.Health/Watch", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
PROBES = (
    "/grpc.health.v1.Health/Check",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
)

_open: ContextVar[OpenCall | None] = ContextVar("open_call", default=None)


class OpenCall:
    """A call from its first metadata to the end of its task."""

    __slots__ = ("_limits", "began", "error", "held", "kept", "method", "phase", "room", "since", "streams", "task")

    def __init__(self, limits: Limits, room: Room, method: str, task: asyncio.Task[Any]) -> None:
        self._limits, self.room, self.method, self.task = limits, room, method, task
        self.held, self.kept = 0, 0  # bytes of the last message, and of the spooled file
        self.error: ManifoldError | None = None  # the reason why the service ends it
        self.streams = False  # whether a handler runs that can still send a status
        self.phase, self.began = WORKING, time.monotonic()
        self.since = self.began

    def at(self, phase: str) -> None:
        """Enter a phase."""
        self.phase, self.since = phase, time.monotonic()

    def take(self, size: int) -> None:
        """Count a received message instead of the previous one. Raise Busy over the total limit."""
        self._limits.received(self)
        self.phase = WORKING
        if self.held or size > SMALL:
            intake = self._limits.intake
            intake.held -= self.held
            self.held = 0
            if size > SMALL:
                intake.hold(size)
                self.held = size

    def keep(self, size: int) -> None:
        """Count bytes that stay until the call ends. Raise Busy over the total limit."""
        self._limits.intake.hold(size)
        self.kept += size

    async def receiving(self, sent: AsyncIterator[Any]) -> AsyncGenerator[Any]:
        """Yield the messages of a stream. Raise the error that ends the call while it waits for one."""
        messages = aiter(sent)
        while True:
            await self._limits.receive(self)
            try:
                message = await anext(messages)
            except StopAsyncIteration:
                return
            except asyncio.CancelledError:
                self.raise_error()
                raise
            finally:
                self._limits.received(self)
                self.at(WORKING)
            yield message

    def raise_error(self) -> None:
        """Raise the error with which the service ends the call, instead of the cancellation. Return if the client ended it."""
        error, self.error = self.error, None
        if error is not None:
            self.task.uncancel()
            raise error

    @property
    def calls(self) -> Calls:
        """The handling that the calls of its gRPC service share."""
        return self._limits.calls[self.method[1:].partition("/")[0]]

    def leave(self, error: ManifoldError) -> None:
        """End the stream of a call whose handler cannot end it."""
        self._limits.dismiss(self, error)

    def close(self, task: object) -> None:
        """Release the resources of a call that has ended. A call that ended while it waited for its message has no status yet."""
        self._limits.open.discard(self)
        if self.phase == RECEIVING:
            self._limits.mute.append(self)
        self._limits.received(self)
        self._limits.intake.held -= self.held + self.kept
        self.held = self.kept = 0
        self.room.leave()


def taken(size: int) -> None:
    """Count a message of the current call. Raise Busy over the total limit."""
    call = _open.get()
    if call is not None:
        call.take(size)


def kept(size: int, most: int) -> None:
    """Count bytes that the current call keeps until its end, up to `most`. Raise Busy over the total limit."""
    call = _open.get()
    if call is not None and call.kept < most:
        call.keep(size)


def answered() -> None:
    """Record that the current call only has to send its response."""
    call = _open.get()
    if call is not None:
        call.at(SENDING)


def streaming(behaviour: Callable[[Any, Context], Any], receives: bool) -> Callable[[Any, Context], Awaitable[None]]:
    """Return the handler of a stream. It records when it waits for its client, and ends with a status if the service ends it."""

    async def stream(sent: Any, context: Context) -> None:
        call = _open.get()
        if call is None:
            async with aclosing(behaviour(sent, context)) as answers:
                async for answer in answers:
                    await context.write(answer)
            return
        call.streams = True
        try:
            async with aclosing(behaviour(call.receiving(sent) if receives else sent, context)) as answers:
                async for answer in answers:
                    call.at(SENDING)
                    await context.write(answer)
                    call.at(WORKING)
        except (asyncio.CancelledError, ManifoldError) as why:
            error = call.error if isinstance(why, asyncio.CancelledError) else why
            if error is None:
                raise
            await _say(call, error, context)

    return stream


async def _say(call: OpenCall, error: ManifoldError, context: Context) -> None:
    """End a call with the status of an error."""
    if isinstance(call.error, ManifoldError):
        call.error = None
        call.task.uncancel()
    try:
        await context.abort(call.calls.code_of(error), error.message)
    except grpc.aio.InternalError:  # the client has not read the first part of the response
        call.leave(error)


class Limits(grpc.GenericRpcHandler):
    """The open calls of a server, and its handlers. gRPC requests the handler of each call here, in the task of the call."""

    def __init__(
        self, settings: Settings, intake: Intake, calls: Mapping[str, Calls], cut: Callable[[str], None]
    ) -> None:
        """Set the limits up. `calls` contains the handling of each gRPC service by name. `cut` is called with the reason when a call is ended."""
        self.settings, self.intake, self.calls, self.cut = settings, intake, calls, cut
        self.open: set[OpenCall] = set()
        self.handlers: dict[str, Any] = {}
        self.slots = max(1, settings.max_bodies_bytes // (settings.max_body_bytes + FRAME))
        self._receiving: dict[OpenCall, None] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._leaving: list[tuple[OpenCall, ManifoldError]] = []
        # calls that ended without a message: gRPC leaves them open if the client only closed its side
        self.mute: list[OpenCall] = []
        self._dismissals = set[asyncio.Task[None]]()
        watches, probes = Room(WATCHES, "watches"), Room(settings.max_calls, "probes")
        self._rooms = {**dict.fromkeys(WATCHING, watches), **dict.fromkeys(PROBES, probes)}
        self.watches = watches

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a call, or a handler that returns an error."""
        method = details.method
        handler = self.handlers.get(method)
        if handler is None:
            return None
        room = self._rooms.get(method, self.intake.calls)
        try:
            room.enter()
        except Busy as error:
            service, _, name = method[1:].partition("/")
            return refusal(self.calls[service], name, error)
        task = asyncio.current_task()
        assert task is not None
        call = OpenCall(self, room, method, task)
        self.open.add(call)
        task.add_done_callback(call.close)
        _open.set(call)
        if handler.request_streaming:
            return handler
        if len(self._receiving) >= self.slots:
            return _later(handler, call)
        self._receiving[call] = None
        call.phase = RECEIVING
        return handler

    async def receive(self, call: OpenCall) -> None:
        """Let a call receive a message, as soon as there is room for it."""
        while len(self._receiving) >= self.slots:
            oldest = next(iter(self._receiving))
            if time.monotonic() - oldest.since > PATIENCE:
                self._end(
                    oldest,
                    Busy("bodies: the service receives too many messages. Retry after 1 s.", reason="bodies"),
                    "bodies",
                )
                continue
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
        self._receiving[call] = None
        call.at(RECEIVING)

    def received(self, call: OpenCall) -> None:
        """Record that the call no longer waits for a message, so that another call may."""
        if call in self._receiving:
            del self._receiving[call]
            self._wake()

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def look(self) -> None:
        """End the calls whose client exceeds a time limit. Called once a second."""
        now = time.monotonic()
        for call in list(self.open):
            waited = now - call.since
            silence = IDLE_SECONDS if call.method == INFERENCES else self.settings.receive_seconds
            if call.phase == RECEIVING and waited > silence:
                self._end(
                    call, DeadlineExceeded(f"no message arrived within {silence:g} s; send it faster"), "slow_body"
                )
            elif call.phase in (SENDING, ENDING) and waited > self.settings.send_seconds:
                error = DeadlineExceeded(
                    f"the client read nothing of the response for {self.settings.send_seconds:g} s; read it faster"
                )
                self._end(call, error, "slow_reader")
            elif call.room is self.watches and now - call.began > WATCH_SECONDS and call.phase != ENDING:
                self._end(
                    call,
                    Busy(
                        f"the stream has reached its time limit of {WATCH_SECONDS:g} s; open it again", reason="watches"
                    ),
                    "old_watch",
                )
        mute, self.mute = self.mute, []
        for call in mute:
            self.dismiss(call, Malformed(NO_MESSAGE))
        for _ in range(len(self._waiting)):  # one that receives may have become old enough to make room
            self._wake()

    def _end(self, call: OpenCall, error: ManifoldError, reason: str) -> None:
        """End a call: by its handler if that can send a status. Otherwise, or if that takes too long, end it without the handler."""
        self.received(call)
        if call.phase != ENDING:
            self.cut(reason)
        if call.streams and call.phase != ENDING:
            call.error = error
            call.task.cancel()
        else:
            self.dismiss(call, error)
        call.at(ENDING)

    def dismiss(self, call: OpenCall, error: ManifoldError) -> None:
        """End a call without its handler, together with others in this turn of the event loop: finding them takes a scan of all tasks."""
        if not self._leaving:
            call.task.get_loop().call_soon(self._dismiss)
        self._leaving.append((call, error))

    def _dismiss(self) -> None:
        """End the calls that no handler can end."""
        leaving, self._leaving = self._leaving, []
        ends = ends_of([call.task for call, _ in leaving])
        for call, error in leaving:
            if call.task.done() and call.task not in ends:  # its client has disconnected
                continue
            code = call.calls.code_of(error)
            dismissal = asyncio.create_task(
                dismiss(call.task, ends.get(call.task), code, error.message, self.settings.send_seconds)
            )
            self._dismissals.add(dismissal)
            dismissal.add_done_callback(self._dismissals.discard)


def refusal(calls: Calls, name: str, error: ManifoldError) -> Any:
    """Return a handler that answers with an error."""

    async def refuse(sent: object, context: Context) -> None:
        async with Call(calls, context, name):
            raise error

    # as a stream for every kind of call: only streams are not read before their handler requests it
    return grpc.stream_stream_rpc_method_handler(refuse)


End: TypeAlias = tuple[asyncio.Task[Any], Any]


def ends_of(tasks: Collection[asyncio.Task[Any]]) -> dict[asyncio.Task[Any], End]:
    """Return, by the tasks of calls, the objects that can end their streams.

    The task of a call is started by another task, which then waits for the end of the stream. gRPC does not publish that task, and has no way
    to end a call before its handler runs, or if its client does not read. Both tasks refer to the state of the call, by which they are matched.
    """
    known, ends = {id(task): task for task in tasks}, dict[asyncio.Task[Any], End]()
    for other in asyncio.all_tasks():
        if other.get_name() == "rpc_task":
            held = gc.get_referents(*gc.get_referents(other.get_coro()))
            states = [each for each in held if isinstance(each, cygrpc.RPCState)]
            ends |= {known[id(each)]: (other, states[0]) for each in held if id(each) in known and states}
    return ends


async def dismiss(
    task: asyncio.Task[Any], end: End | None, code: grpc.StatusCode, message: str, seconds: float
) -> None:
    """End a call with a status, or without it if it cannot be sent within `seconds`."""
    task.cancel()
    await asyncio.wait([task], timeout=seconds)
    if end is None:
        return
    waiting, state = end
    context = cygrpc._ServicerContext(state, None, None, task.get_loop())
    try:
        async with asyncio.timeout(seconds):
            await context.abort(code, message)
    except grpc.aio.AbortError:  # the status was sent
        pass
    except (
        TimeoutError,
        grpc.aio.UsageError,
        grpc.aio.InternalError,
    ):  # the client does not read it, or a status was sent before
        waiting.cancel()


def _later(handler: Any, call: OpenCall) -> Any:
    """Return a handler that waits until there is room for the call's message, and then does the same as the given handler."""

    async def stream(sent: AsyncIterator[Any], context: Context) -> None:
        call.streams = True
        try:
            async with aclosing(call.receiving(sent)) as messages:
                message = await anext(messages, None)
            if message is None:
                raise Malformed(NO_MESSAGE)
            if handler.response_streaming:
                await handler.unary_stream(message, context)
            else:
                await context.write(await handler.unary_unary(message, context))
        except ManifoldError as error:
            await _say(call, error, context)

    return grpc.stream_stream_rpc_method_handler(stream, handler.request_deserializer, handler.response_serializer)


class Limited:
    """A stand-in for the server to which rpcs are added. Its handlers have limits, and return an error for invalid messages."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Ignore the handlers, because the other method receives the same ones."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """Add the handlers, by the names of their rpcs."""
        self.limits.handlers |= {f"/{service}/{name}": _limited(handler) for name, handler in handlers.items()}


def _limited(handler: Any) -> Any:
    """Wrap a handler: count its messages, and parse its large messages off the event loop."""
    handler = off_the_loop(handler._replace(request_deserializer=_tolerant(handler.request_deserializer)))
    if not handler.response_streaming:
        return handler._replace(response_serializer=_noted(handler.response_serializer))
    kind = "stream_stream" if handler.request_streaming else "unary_stream"
    return handler._replace(**{kind: streaming(getattr(handler, kind), handler.request_streaming)})


def _tolerant(parse: Callable[[bytes], Message]) -> Callable[[bytes], Message | UnreadableMessage | UnparsedMessage]:
    """Return a parser that counts messages, returns an error for invalid ones, and postpones large ones."""
    kind = parse.__self__.DESCRIPTOR  # type: ignore[attr-defined]
    name, file = kind.name, f"proto/{kind.file.name.rpartition('/')[2]}"

    def read(content: bytes) -> Message | UnreadableMessage:
        try:
            return parse(content)
        except DecodeError:
            return UnreadableMessage(Malformed(f"message: it is not a {name} of {file}; send a message of this type"))

    def counted(content: bytes) -> Message | UnreadableMessage | UnparsedMessage:
        try:
            taken(len(content))
        except Busy as error:
            return UnreadableMessage(error)
        return read(content) if JSON_WORK * len(content) < LARGE else UnparsedMessage(read, content)

    return counted


def _noted(serialize: Callable[[Message], bytes]) -> Callable[[Message], bytes]:
    def write(message: Message) -> bytes:
        answered()
        return serialize(message)

    return write
