"""The check of API keys, before the messages of a call are read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import grpc

from manifold.runtime.errors import Malformed, ManifoldError
from manifold.service.rpc.calls import Calls
from manifold.service.rpc.limits import refusal
from manifold.service.security import Security


class Gate(grpc.aio.ServerInterceptor):
    """An interceptor that checks the API key of a call. Health and reflection need no key."""

    def __init__(
        self, services: Mapping[str, tuple[Calls, Collection[str], Collection[str]]], security: Security
    ) -> None:
        """Set the gate up. `services` contains, by name: calls, rpcs that need no key, and rpcs that need the scope admin."""
        self.services, self.security = services, security

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """Let a call through, or answer it with the error."""
        service, _, name = details.method.removeprefix("/").partition("/")
        calls, free, admin = self.services.get(service, (None, (), ()))
        if calls is not None and name not in free:
            given = [value for key, value in details.invocation_metadata if key == "authorization"]
            try:
                if len(given) > 1:
                    raise Malformed(
                        "authorization: the metadata contains it more than once; send it once", field="authorization"
                    )
                key = self.security.check(given[0] if given else None, "admin" if name in admin else "infer")
            except ManifoldError as error:
                return refusal(calls, name, error)
            calls.metrics.asked(key.id)
        return await continuation(details)
