"""All doors of one broker in one loop: gRPC on `tls` and `mtls`, health, reflection, HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from broker.api.access import GRPC
from broker.api.drain import Drain
from broker.api.http.server import HttpDoor
from broker.api.interceptors import Gate
from broker.api.limits import Limits
from broker.api.listening import ListenError
from broker.api.tasks import Crew
from broker.api.tls import CertificateError, Certificates

_CERTIFICATE_PERIOD: Final = 30.0


@dataclass(frozen=True, slots=True)
class DoorConfig:
    """Addresses as ``host:port`` (port 0: any free one); an empty address opens no such door."""

    tls: str = ""
    mtls: str = ""
    reflection: bool = False
    limits: Limits = field(default_factory=Limits)


class Doors:
    """Start, drain, stop. `ready` opens the health check once the state is loaded."""

    def __init__(
        self,
        config: DoorConfig,
        gate: Gate,
        certificates: Certificates,
        crew: Crew,
        drain: Drain,
        log: structlog.typing.FilteringBoundLogger,
        http: HttpDoor | None = None,
    ) -> None:
        self._config = config
        self._certificates = certificates
        self._crew = crew
        self._drain = drain
        self._log = log
        self._http = http
        self._gate = gate
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self._watch: asyncio.Task[None] | None = None
        self.tls_port = 0
        self.mtls_port = 0

    @property
    def http_port(self) -> int:
        """0 where HTTP is not served."""
        return self._http.port if self._http is not None else 0

    async def start(self) -> None:
        """Bind and serve. Raises `ListenError`, `CertificateError`."""
        server = grpc.aio.server(interceptors=[self._gate], options=_options(self._config.limits))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._config.reflection:
            names = sorted({method.split("/")[1] for method in GRPC})
            _reflect(names, server)
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
        if self._config.tls:
            self.tls_port = _bind(server, self._config.tls, self._certificates.tls())
        if self._config.mtls:
            self.mtls_port = _bind(server, self._config.mtls, self._certificates.mtls())
        await server.start()
        self._server = server
        if self._http is not None:
            await self._http.start()
        self._watch = asyncio.create_task(self._watch_certificates())

    async def ready(self) -> None:
        """The state is loaded: say SERVING."""
        if not self._drain.begun:
            await self._say(health_pb2.HealthCheckResponse.SERVING)

    def reload(self) -> None:
        """New certificates for new connections; raises `CertificateError` and keeps the old ones."""
        self._certificates.reload()

    async def drain(self, grace: float) -> None:
        """Tell everybody, let what runs end within `grace` seconds, refuse the rest.

        HTTP goes on until `stop`: a report is better taken than refused, and
        ``/readyz`` tells load balancers to look elsewhere.
        """
        self._drain.begin(grace)
        await self._health.enter_graceful_shutdown()
        if self._server is not None:
            await self._server.stop(grace)
        await self._crew.finish(grace)

    async def stop(self) -> None:
        """Everything ends now; grants under way are still seen through for a moment."""
        self._drain.begin(0.0)
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._http is not None:
            await self._http.stop()
        if self._server is not None:
            await self._server.stop(None)
        await self._crew.finish(5.0)

    async def _say(self, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        for service in (
            "",
            *sorted({method.split("/")[1] for method, row in GRPC.items() if not row.foreign}),
        ):
            await self._health.set(service, status)

    async def _watch_certificates(self) -> None:
        """Rotated files are taken without a signal; a bad file is reported and the old pair goes on."""
        while True:
            await asyncio.sleep(_CERTIFICATE_PERIOD)
            if not self._certificates.changed():
                continue
            try:
                self._certificates.reload()
            except CertificateError as error:
                self._log.error("certificate not taken", problem=str(error))
            else:
                self._log.info("certificate renewed")


def _reflect(names: list[str], server: grpc.aio.Server) -> None:
    """Under both of its names: the two are one on the wire, and tools ask for the newer first."""
    reflection.enable_server_reflection(names, server)
    servicer = reflection.aio.ReflectionServicer(names)
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers = {"ServerReflectionInfo": method}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.reflection.v1.ServerReflection", handlers),)
    )


def _options(limits: Limits) -> list[tuple[str, Any]]:
    options: Mapping[str, int] = {
        # A second broker on the same port must fail, not share it in silence.
        "grpc.so_reuseport": 0,
        # Above what any row takes: what is somewhat too large is refused by the gate, which says so by a reason code.
        "grpc.max_receive_message_length": limits.largest + limits.largest // 4,
        "grpc.max_send_message_length": 2 * limits.largest,
        "grpc.max_metadata_size": 32 * 1024,
        "grpc.absolute_max_metadata_size": 64 * 1024,
        "grpc.max_concurrent_streams": limits.streams_per_connection,
        "grpc.max_connection_age_ms": round(limits.connection_age * 1000),
        "grpc.max_connection_age_grace_ms": round(limits.connection_grace * 1000),
        "grpc.server_handshake_timeout_ms": round(limits.handshake * 1000),
        "grpc.keepalive_time_ms": 60_000,
        "grpc.keepalive_timeout_ms": 20_000,
        "grpc.http2.min_ping_interval_without_data_ms": 10_000,
    }
    return list(options.items())


def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials) -> int:
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError:
        port = 0
    if not port:
        raise ListenError(f"{address}: cannot be bound: in use, or not an address of this host")
    return port
