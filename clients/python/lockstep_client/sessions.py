"""Open database sessions of a credential, so that a revocation ends them in the middle of whatever they do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import threading
import weakref
from dataclasses import dataclass
from typing import Any

log = logging.getLogger("lockstep")

_Socket = tuple[int, int]
"""Device and inode: no two sockets that are open have the same."""


@dataclass(frozen=True, slots=True)
class _Session:
    """`reference` is None where the driver's class takes none, `socket` where no socket was found."""

    reference: weakref.ref[Any] | None
    descriptor: int
    socket: _Socket | None
    loop: asyncio.AbstractEventLoop | None


class Sessions:
    """Driver connections that are open with one credential; thread-safe, forgets those that are collected.

    Drivers may be in the middle of a call on another thread, or belong to an
    event loop that is busy, so none of their own methods is waited for: the
    socket is shut down, which ends whatever is blocked on it. Known are psycopg
    and psycopg2, asyncpg, PyMySQL and aiomysql, and any other whose connection
    has a `fileno`.
    """

    def __init__(self) -> None:
        # Reentrant: a collection in the middle of anything here forgets what it collects.
        self._lock = threading.RLock()
        self._open: dict[int, _Session] = {}
        self._spares: tuple[int, int] | None = None
        self._unknown: set[type] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def opened(self, connection: Any) -> None:
        """A driver's connection; called on the thread, or in the loop, that it belongs to.

        Look at the credential once more afterwards: a cut that came before
        this connection was known has not ended it.
        """
        loop = _running_loop()
        descriptor = _descriptor(connection)
        found = None if descriptor is None else _socket_at(descriptor)
        if found is None and (loop is None or not callable(getattr(connection, "terminate", None))):
            self._warn_of(type(connection))
        key = id(connection)
        with self._lock:
            if self._spares is None:
                # Kept for `cut`: a process that has no descriptor left still ends its sessions.
                self._spares = (_nothing(), _nothing())
                for spare in self._spares:
                    weakref.finalize(self, os.close, spare)
            self._loop = loop or self._loop
            self._open[key] = _Session(
                self._refer(connection, key), -1 if descriptor is None else descriptor, found, loop
            )

    def closed(self, connection: Any) -> None:
        """It is over by itself."""
        with self._lock:
            self._open.pop(id(connection), None)

    def end(self, connection: Any) -> None:
        """End this one, whatever it is doing. Never blocks."""
        with self._lock:
            session = self._open.pop(id(connection), None)
            if session is not None:
                self._cut(session)

    def cut(self) -> int:
        """End all of them, whatever they are doing; how many there were. Never blocks, never raises."""
        with self._lock:
            found, self._open = list(self._open.values()), {}
            for session in found:
                self._cut(session)
        return len(found)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that a connection was opened in last."""
        return self._loop

    def __len__(self) -> int:
        return len(self._open)

    # --- one of them ------------------------------------------------------------------------------------

    def _cut(self, session: _Session) -> None:
        connection = session.reference() if session.reference is not None else None
        terminate = getattr(connection, "terminate", None)
        if session.loop is not None and callable(terminate):
            # A loop that has ended runs nothing more: the socket is what is left.
            with contextlib.suppress(RuntimeError):
                session.loop.call_soon_threadsafe(terminate)
        if session.socket is not None and self._spares is not None:
            with contextlib.suppress(OSError):
                _shut_down(session.descriptor, session.socket, *self._spares)

    def _refer(self, connection: Any, key: int) -> weakref.ref[Any] | None:
        def forget(gone: weakref.ref[Any]) -> None:
            with self._lock:
                session = self._open.get(key)
                if session is not None and session.reference is gone:
                    del self._open[key]

        try:
            return weakref.ref(connection, forget)
        except TypeError:
            return None

    def _warn_of(self, kind: type) -> None:
        if kind not in self._unknown:
            self._unknown.add(kind)
            log.warning(
                "a revocation cannot end sessions of %s.%s from here: no socket of theirs is known",
                kind.__module__,
                kind.__qualname__,
            )


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _descriptor(connection: Any) -> int | None:
    """Of the socket: drivers have `fileno`, keep a socket, or keep a transport of asyncio's."""
    transport = getattr(connection, "_transport", None) or getattr(
        getattr(connection, "_writer", None), "transport", None
    )
    extra = getattr(transport, "get_extra_info", None)
    for owner in (
        connection,
        getattr(connection, "_sock", None),
        extra("socket") if callable(extra) else None,
    ):
        fileno = getattr(owner, "fileno", None)
        if callable(fileno):
            with contextlib.suppress(Exception):  # each driver has an error of its own for one that is closed
                found = fileno()
                if isinstance(found, int) and found >= 0:
                    return found
    return None


def _socket_at(descriptor: int) -> _Socket | None:
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None


def _shut_down(descriptor: int, expected: _Socket, spare: int, nothing: int) -> None:
    # The driver may have closed its own, and anybody may have opened another under the same
    # number: a copy stays what it is while we look.
    os.dup2(descriptor, spare, inheritable=False)
    try:
        if _socket_at(spare) == expected:
            copy = socket.socket(fileno=spare)
            try:
                copy.shutdown(socket.SHUT_RDWR)
            finally:
                copy.detach()
    finally:
        # A copy that stayed would keep open what its driver closes.
        os.dup2(nothing, spare, inheritable=False)


def _nothing() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
