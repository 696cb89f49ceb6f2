"""The standard services of gRPC: health and reflection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from manifold.service.rpc.calls import UnreadableMessage, readable
from manifold.service.rpc.codes import CODES, code_of

Context: TypeAlias = Any  # grpc.aio.ServicerContext, which has no types


class HealthService(health_pb2_grpc.HealthServicer):
    """The health of each service, for single checks and watches. No lock is held while a client reads, so that no client delays others."""

    def __init__(self) -> None:
        self._known = {"": health_pb2.HealthCheckResponse.SERVING}
        self._changed = asyncio.Event()

    def set(self, serving: bool, *names: str) -> None:
        """Set whether these services are ready."""
        response = health_pb2.HealthCheckResponse
        self._known |= dict.fromkeys(names, response.SERVING if serving else response.NOT_SERVING)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def Check(self, message: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:  # noqa: N802
        """Return whether a service is ready."""
        if isinstance(message, UnreadableMessage):
            await context.abort(code_of(message.error, CODES), message.error.message)
        status = self._known.get(message.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802
        self, message: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Yield whether a service is ready, now and at each change."""
        name, last_status = readable(message).service, None
        while True:
            changed = self._changed
            status = self._known.get(name, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            if status != last_status:
                last_status = status
                yield health_pb2.HealthCheckResponse(status=status)
            await changed.wait()


class ReflectionService(reflection.aio.ReflectionServicer):
    """The reflection service, with an error for invalid messages."""

    async def ServerReflectionInfo(self, sent: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:  # noqa: N802
        """Answer the requests of a stream in order."""
        async for answer in super().ServerReflectionInfo((readable(message) async for message in sent), context):
            yield answer
