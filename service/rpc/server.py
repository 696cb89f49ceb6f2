"""The gRPC server: its port, its services and their limits, and its health, which follows /health/ready."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from manifold.service.core.intake import Intake
from manifold.service.inference import rpc as inference
from manifold.service.rpc.calls import Calls
from manifold.service.rpc.codes import CODES
from manifold.service.rpc.gate import Gate
from manifold.service.rpc.health import HealthService, ReflectionService
from manifold.service.rpc.limits import FRAME, Limited, Limits
from manifold.service.rpc.servicer import NAME, Servicer
from manifold.service.security import Security
from manifold.service.settings import Settings
from manifold.service.stubs import inference_pb2_grpc as inference_stubs
from manifold.service.stubs import manifold_pb2_grpc as stubs

HEALTH_SECONDS = 0.2  # between two polls of the registry
# milliseconds: connections of absent peers are ended, and a peer may ping every 5 s, also without a call
ALIVE = {
    "grpc.keepalive_time_ms": 60_000,
    "grpc.keepalive_timeout_ms": 20_000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.min_ping_interval_without_data_ms": 5_000,
}
STREAMS = 128  # further streams of a connection, for health and reflection


class RpcServer:
    """The gRPC server, on the event loop of the HTTP server."""

    def __init__(
        self,
        servicer: Servicer,
        tensors: inference.InferenceServicer,
        settings: Settings,
        security: Security,
        intake: Intake,
    ) -> None:
        self.servicer, self.tensors, self.settings, self.security = servicer, tensors, settings, security
        others = {name: Calls(name, CODES, servicer.metrics) for name in (health.SERVICE_NAME, reflection.SERVICE_NAME)}
        calls = {NAME: servicer.calls, inference.NAME: tensors.calls, **others}
        self.limits = Limits(settings, intake, calls, lambda reason: servicer.metrics.cut.labels(reason).inc())
        self.port = 0
        self._server: grpc.aio.Server | None = None
        self._watch: asyncio.Task[None] | None = None
        self._health: HealthService | None = None

    def open(self, port: int) -> None:
        """Open the port. Calls are answered once the server has started. Raise RuntimeError if the port cannot be opened."""
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
        served = HealthService()
        health_pb2_grpc.add_HealthServicer_to_server(served, added)
        reflected = ReflectionService((*services, health.SERVICE_NAME, reflection.SERVICE_NAME))
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, added)
        server.add_generic_rpc_handlers((self.limits,))
        name = self.settings.host.strip("[]")
        host = f"[{name}]" if ":" in name else name
        self.port = self._listen(server, f"{host}:{port}")
        self._server, self._health = server, served

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

        def latest() -> Any:  # called for each connection; None: unchanged
            if len(used) == 1:
                return None
            del used[:-1]
            return grpc.ssl_server_certificate_configuration(used)

        first = grpc.ssl_server_certificate_configuration(used)
        return int(server.add_secure_port(address, grpc.dynamic_ssl_server_credentials(first, latest)))

    async def _follow(self, served: HealthService) -> None:
        """Update the health from the readiness of the service."""
        before = None
        while True:
            ready = self.servicer.registry.readiness()[0]
            if ready is not before:
                served.set(ready, "", NAME, inference.NAME)
                before = ready
            await asyncio.sleep(HEALTH_SECONDS)

    async def stop(self, seconds: float) -> None:
        """Accept no more calls. Those in flight get `seconds` to end."""
        if self._server is None:
            return
        if self._watch is not None:
            self._watch.cancel()
        await self._server.stop(seconds)
