"""Connections as they come: counted by address before anything is read of them, TLS included."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Final

from broker.api.arrival import rate_address
from broker.api.limits import Limits

_WAIT: Final = 1.0
"""Seconds without accepting where the host has no descriptor or memory left: as asyncio's own servers do."""
_PASSING: Final = (ConnectionAbortedError, ConnectionResetError, InterruptedError)

Release = Callable[[], None]


class Places:
    """How many connections are open: in all, and from one address. Owned by one event loop."""

    def __init__(self, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._taken: Counter[str] = Counter()

    def take(self, address: str) -> Release | None:
        """One place until the release is called, once or more often; None where there is none left."""
        if self._taken.total() >= self._total or self._taken[address] >= self._each:
            return None
        self._taken[address] += 1
        held = True

        def release() -> None:
            nonlocal held
            if held:
                held = False
                self._taken[address] -= 1
                if not self._taken[address]:
                    del self._taken[address]

        return release


class Accepting:
    """One listening socket. `serve` makes the protocol of a connection, and is told how to give its place back.

    asyncio's own servers count nothing before a TLS handshake is done, so that whoever never begins one costs a
    descriptor for as long as the handshake may last, as often as it likes.
    """

    def __init__(
        self,
        listener: socket.socket,
        serve: Callable[[Release], asyncio.Protocol],
        tls: ssl.SSLContext | None,
        limits: Limits,
    ) -> None:
        self._listener = listener
        self._serve = serve
        self._tls = tls
        self._handshake = limits.handshake
        self._places = Places(limits.http_connections, limits.http_connections_per_address)
        self._opening: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.create_task(self._accept())

    def close(self) -> None:
        """Take no more; what is open goes on."""
        self._accepting.cancel()
        for task in self._opening:
            task.cancel()
        self._listener.close()

    async def wait_closed(self) -> None:
        """After `close`: nothing of this is under way any more."""
        await asyncio.gather(self._accepting, *self._opening, return_exceptions=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(self._listener)
            except _PASSING:
                continue
            except OSError:
                await asyncio.sleep(_WAIT)
                continue
            release = self._places.take(rate_address(str(peer[0])))
            if release is None:
                connection.close()
                continue
            self._open(connection, release)

    def _open(self, connection: socket.socket, release: Release) -> None:
        """Whoever does not get through its handshake gives its place back here, everybody else when it is lost."""
        handed = False

        def protocol() -> asyncio.Protocol:
            nonlocal handed
            handed = True
            return self._serve(release)

        async def opened() -> None:
            await asyncio.get_running_loop().connect_accepted_socket(
                protocol,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=self._handshake if self._tls is not None else None,
                ssl_shutdown_timeout=1.0 if self._tls is not None else None,
            )

        def ended(task: asyncio.Task[None]) -> None:
            self._opening.discard(task)
            if task.cancelled() or task.exception() is not None:
                release()
                # From the first step on the transport owns it.
                if not handed:
                    connection.close()

        task = asyncio.create_task(opened())
        self._opening.add(task)
        task.add_done_callback(ended)
