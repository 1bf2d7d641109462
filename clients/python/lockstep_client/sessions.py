"""Open database sessions of a credential, so that a revocation ends them in the middle of whatever they do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import weakref
from typing import Any


class Sessions:
    """Driver connections that are open with one credential; thread-safe, forgets those that are collected.

    Drivers may be in the middle of a call on another thread, or belong to an
    event loop, so none of their own methods is called here where that could
    wait: a connection with a file descriptor has its socket shut down, which
    ends a call that is blocked on it; one of asyncpg is terminated in its loop.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, tuple[weakref.ref[Any], asyncio.AbstractEventLoop | None]] = {}

    def opened(self, connection: Any) -> None:
        """A driver's connection; called on the thread, or in the loop, that it belongs to."""
        loop: asyncio.AbstractEventLoop | None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        key = id(connection)
        reference = weakref.ref(connection, lambda _: self._forget(key))
        with self._lock:
            self._open[key] = (reference, loop)

    def closed(self, connection: Any) -> None:
        """It is over by itself."""
        self._forget(id(connection))

    def cut(self) -> int:
        """End all of them, whatever they are doing; how many there were. Never blocks."""
        with self._lock:
            found, self._open = list(self._open.values()), {}
        count = 0
        for reference, loop in found:
            connection = reference()
            if connection is not None:
                count += 1
                _end(connection, loop)
        return count

    def __len__(self) -> int:
        return len(self._open)

    def _forget(self, key: int) -> None:
        with self._lock:
            self._open.pop(key, None)


def _end(connection: Any, loop: asyncio.AbstractEventLoop | None) -> None:
    terminate = getattr(connection, "terminate", None)
    if loop is not None and callable(terminate):
        # A loop that has ended has no connection left.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(terminate)
        return
    descriptor = _descriptor(connection)
    if descriptor is not None:
        _shut_down(descriptor)


def _descriptor(connection: Any) -> int | None:
    """Of the socket: psycopg and psycopg2 have `fileno`; PyMySQL keeps a socket."""
    for owner in (connection, getattr(connection, "_sock", None)):
        fileno = getattr(owner, "fileno", None)
        if callable(fileno):
            with contextlib.suppress(Exception):  # each driver has an error of its own for one that is closed
                found = fileno()
                if isinstance(found, int) and found >= 0:
                    return found
    return None


def _shut_down(descriptor: int) -> None:
    # A copy, so that closing ours leaves the driver's bookkeeping alone.
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as copy:
        copy.shutdown(socket.SHUT_RDWR)
