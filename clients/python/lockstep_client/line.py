"""One connection with the count of its users: closed when it is given up and nobody uses it any more.

A gRPC channel must be closed by hand: one that is merely dropped is closed by
the garbage collector, which at the end of the interpreter waits for threads
that are gone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc


class Line:
    """A channel. Thread-safe."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self._lock = threading.Lock()
        self._users = 0
        self._given_up = False
        self._closed = False

    @property
    def closed(self) -> bool:
        """True once it has been closed."""
        return self._closed

    @contextmanager
    def used(self) -> Iterator[grpc.Channel]:
        """For the length of one call or stream."""
        with self._lock:
            self._users += 1
        try:
            yield self.channel
        finally:
            self._leave()

    def give_up(self) -> None:
        """Close as soon as the last user has left; what is in flight ends by itself."""
        with self._lock:
            self._given_up = True
            idle = self._users == 0
        if idle:
            self.close()

    def close(self) -> None:
        """Now, with everything in flight; idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.channel.close()

    def connected(self, timeout: float) -> bool:
        """Wait for TCP and TLS to succeed or fail, which gRPC's own ready future does not tell apart."""
        settled = threading.Event()
        states: list[grpc.ChannelConnectivity] = []

        def note(state: grpc.ChannelConnectivity) -> None:
            if state in (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE):
                states.append(state)
                settled.set()

        self.channel.subscribe(note, try_to_connect=True)
        try:
            settled.wait(timeout)
        finally:
            self.channel.unsubscribe(note)
        return bool(states) and states[0] is grpc.ChannelConnectivity.READY

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            over = self._given_up and self._users == 0
        if over:
            self.close()
