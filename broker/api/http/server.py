"""uvicorn in the broker's loop: signals stay with the process, and nobody may dawdle over a request head."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from asyncio import TimerHandle
from collections.abc import Callable, Iterator
from typing import Any, Final

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from broker.api.http.accepting import Accepting, Release
from broker.api.limits import Limits
from broker.api.listening import ListenError, split_address

_BACKLOG: Final = 512


class HttpDoor:
    """One listener. `tls` None serves plain HTTP, which is only for loopback."""

    def __init__(self, address: str, app: ASGIApp, tls: ssl.SSLContext | None, limits: Limits) -> None:
        self._address = address
        self._app = app
        self._tls = tls
        self._limits = limits
        self._door: _Door | None = None
        self._serving: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> None:
        """Bind and serve; raises `ListenError`."""
        listener = _listen(self._address)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            http=_patient(self._limits),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=self._limits.keepalive,
            h11_max_incomplete_event_size=32 * 1024,
        )
        self._door = _Door(config, self._tls, self._limits)
        self._serving = asyncio.create_task(self._door.serve(sockets=[listener]))
        while not self._door.started:
            if self._serving.done():
                await self._serving
                raise ListenError(f"{self._address}: the HTTP door did not open")
            await asyncio.sleep(0)

    async def stop(self) -> None:
        """Closed when this returns; calls that do not end are cut."""
        if self._door is None or self._serving is None:
            return
        self._door.should_exit = True
        try:
            async with asyncio.timeout(self._limits.body):
                await asyncio.shield(self._serving)
        except TimeoutError:
            self._door.force_exit = True
            await self._serving


class _Door(uvicorn.Server):
    """Signals belong to the process, and connections are counted from their first moment."""

    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext | None, limits: Limits) -> None:
        super().__init__(config)
        self._tls = tls
        self._limits = limits

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        protocol: Callable[..., Any] = self.config.http_protocol_class

        def serve(release: Release) -> asyncio.Protocol:
            made: asyncio.Protocol = protocol(
                release=release,
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
            )
            return made

        accepting: list[Any] = [
            Accepting(listener, serve, self._tls, self._limits) for listener in sockets or []
        ]
        # All that uvicorn does with its servers is to close them, and to wait for it.
        self.servers = accepting
        self.started = True


def _patient(limits: Limits) -> type[asyncio.Protocol]:
    """uvicorn times out neither a missing nor a partial request head; this does, for each request."""

    class Patient(H11Protocol):
        _deadline: TimerHandle | None = None

        def __init__(self, *, release: Release, **rest: Any) -> None:
            super().__init__(**rest)
            self._release = release

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._arm()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            # A body that goes on after the answer is read by nobody, and each byte of it ends uvicorn's own timer.
            if self.conn.their_state is not h11.IDLE and self.conn.our_state is not h11.DONE:
                self._disarm()
            elif self.conn.trailing_data[0] or self.timeout_keep_alive_task is None:
                self._arm()

        def connection_lost(self, exc: Exception | None) -> None:
            self._release()
            self._disarm()
            super().connection_lost(exc)

        def _arm(self) -> None:
            if self._deadline is None:
                self._deadline = self.loop.call_later(limits.head, self._late)

        def _disarm(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _late(self) -> None:
            self._deadline = None
            if self.transport is not None:
                self.transport.abort()

    found: Any = Patient
    checked: type[asyncio.Protocol] = found
    return checked


def _listen(address: str) -> socket.socket:
    host, port = split_address(address)
    try:
        family, _, _, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ListenError(f"{address}: {error.strerror}") from None
    try:
        # Not SO_REUSEPORT: a second broker on the same port must fail.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ListenError(f"{address}: cannot be bound: {error.strerror}") from None
    return listener
