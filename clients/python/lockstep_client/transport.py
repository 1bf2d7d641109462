"""Calls to a broker cluster over gRPC and TLS: several addresses, proofs, deadlines, errors of ours.

The bytes that a proof digests are the bytes that are sent: a message is
serialised once here, and the channel passes it on as it is.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import grpc
from google.protobuf.message import Message

from lockstep.formats import Reason
from lockstep_client.callers import Caller, Pairs
from lockstep_client.clock import Clock
from lockstep_client.errors import LockstepError, Unavailable, Unreachable
from lockstep_client.line import Line
from lockstep_client.methods import Method
from lockstep_client.status import Metadata, error_of, nonce_of, outcome_of

A = TypeVar("A")

CALL_TIMEOUT = 5.0
"""Seconds that one call may take, connecting included."""
CONNECT_TIMEOUT = 3.0
"""Seconds that one address gets to complete TCP and TLS."""
_FRESH_NONCES = 2

_OPTIONS = (
    # A broker that restarts is back in a second: gRPC's own pause of up to two minutes is not ours.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Two clients of one process must not share a connection's fate.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)


class Transport:
    """One connection at a time, to the first address that answers. Thread-safe.

    Raises the SDK's errors only. `credentials` is asked at every connection, so
    that rotated certificates are taken up.
    """

    def __init__(
        self, addresses: tuple[str, ...], credentials: Callable[[], grpc.ChannelCredentials], clock: Clock
    ) -> None:
        self._addresses = addresses
        self._credentials = credentials
        self._clock = clock
        self._lock = threading.Lock()
        self._index = 0
        self._line: Line | None = None
        self._lines: list[Line] = []
        # Also at the end of the interpreter, where nobody called `close`.
        self._finish = weakref.finalize(self, _close_all, self._lines)
        self._nonce: str | None = None
        self.last_heard = clock.steady()
        """When the cluster last answered anything at all, `Clock.steady` seconds."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """All of them, in the order in which they are tried."""
        return self._addresses

    @property
    def address(self) -> str:
        """The address in use, or next to be tried."""
        return self._addresses[self._index]

    def connect(self) -> None:
        """Have a connection, to whichever address answers. Raises `Unavailable`, `ConfigurationError`."""
        self._open(self._clock.steady() + CONNECT_TIMEOUT * len(self._addresses))

    def unary(self, method: Method[A], message: Message, caller: Caller, timeout: float = CALL_TIMEOUT) -> A:
        """One answer. Tries the next address where nobody listens, and again after `proof_rejected`.

        A refusal brings a fresh nonce; a second one is possible where another thread
        has just used or replaced it.
        """
        body = message.SerializeToString()
        deadline = self._clock.steady() + timeout
        nonces = _FRESH_NONCES
        failures = 0
        while True:
            line = self._open(deadline)
            try:
                with line.used() as channel:
                    return self._once(channel, method, body, caller, deadline)
            except grpc.RpcError as error:
                self._learn(error)
                found = error_of(error)
            except ValueError:  # another thread has closed it under our hands
                found = Unavailable("the connection was closed")
            if found.reason == Reason.PROOF_REJECTED and nonces:
                nonces -= 1
                continue
            if transport_failure(found):
                failures += 1
                self.failed(line)
                if failures < len(self._addresses) and self._clock.steady() < deadline:
                    continue
            raise found from None

    def stream(
        self, method: Method[A], first: Message, later: Iterator[Message], caller: Caller
    ) -> Stream[A]:
        """A bidirectional stream; the proof covers the first message."""
        body = first.SerializeToString()
        line = self._open(self._clock.steady() + CONNECT_TIMEOUT)
        return Stream(self, line, method, body, later, caller.metadata(method.path, body, self._nonce))

    def failed(self, line: Line) -> None:
        """A connection broke: the next call tries the next address. Says nothing about newer connections."""
        with self._lock:
            if self._line is line:
                self._line = None
                self._index = (self._index + 1) % len(self._addresses)
        line.give_up()

    def reconnect(self) -> None:
        """Take up new certificates at the next call."""
        with self._lock:
            line, self._line = self._line, None
        if line is not None:
            line.give_up()

    def close(self) -> None:
        """End everything in flight."""
        with self._lock:
            self._line = None
        self._finish()

    def abandon(self) -> None:
        """In a fork's child: never touch the parent's connection again, not even to free it."""
        self._lock = threading.Lock()
        self._finish.detach()
        self._line = None
        self._nonce = None

    def heard(self, metadata: Metadata) -> None:
        """Somebody answered, and may have given a new nonce."""
        self.last_heard = self._clock.steady()
        nonce = nonce_of(metadata)
        if nonce is not None:
            self._nonce = nonce

    def _once(
        self, channel: grpc.Channel, method: Method[A], body: bytes, caller: Caller, deadline: float
    ) -> A:
        call: grpc.UnaryUnaryMultiCallable[bytes, A] = channel.unary_unary(
            method.path, request_serializer=None, response_deserializer=method.read
        )
        answer, outcome = call.with_call(
            body,
            timeout=max(0.001, deadline - self._clock.steady()),
            metadata=caller.metadata(method.path, body, self._nonce),
        )
        self.heard(outcome.initial_metadata())
        self.heard(outcome.trailing_metadata())
        return answer

    def _learn(self, error: grpc.RpcError) -> None:
        outcome = outcome_of(error)
        if outcome is None:
            return
        nonce = nonce_of(outcome.trailing_metadata()) or nonce_of(outcome.initial_metadata())
        if nonce is not None:
            self._nonce = nonce
            self.last_heard = self._clock.steady()

    def _open(self, deadline: float) -> Line:
        for _ in self._addresses:
            with self._lock:
                line = self._line
                if line is not None:
                    return line
                line = self._line = Line(
                    grpc.secure_channel(self.address, self._credentials(), options=_OPTIONS)
                )
                self._lines[:] = [item for item in self._lines if not item.closed]
                self._lines.append(line)
            left = deadline - self._clock.steady()
            with line.used():
                if line.connected(min(CONNECT_TIMEOUT, max(0.001, left))):
                    return line
            self.failed(line)
        # gRPC does not tell why a connection does not come up.
        raise Unreachable(
            f"no broker answers at {', '.join(self._addresses)}, or its certificate is not by "
            "LOCKSTEP_CA_FILE (unset: the system's roots)"
        )


class Stream(Generic[A]):
    """The answers of one stream. Iterating raises the SDK's errors; ends quietly where the broker ends it."""

    def __init__(
        self,
        transport: Transport,
        line: Line,
        method: Method[A],
        first: bytes,
        later: Iterator[Message],
        metadata: Pairs,
    ) -> None:
        self._transport = transport
        self._line = line
        open_stream: grpc.StreamStreamMultiCallable[bytes, A] = line.channel.stream_stream(
            method.path, request_serializer=None, response_deserializer=method.read
        )
        self._cancelled = False
        try:
            self._call = open_stream(_serialised(first, later), metadata=metadata)
        except ValueError:  # another thread has closed it under our hands
            raise Unavailable("the connection was closed") from None

    def __iter__(self) -> Iterator[A]:
        first = True
        try:
            with self._line.used():
                for answer in self._call:
                    self._transport.heard(self._call.initial_metadata() if first else None)
                    first = False
                    yield answer
        except grpc.RpcError as error:
            self._transport._learn(error)
            found = error_of(error)
            if transport_failure(found) and not self._cancelled:
                self._transport.failed(self._line)
            raise found from None

    def leave(self) -> None:
        """The replica drains: the next call goes elsewhere."""
        self._transport.failed(self._line)

    def cancel(self) -> None:
        """End the stream from any thread; the reader gets `Unavailable`."""
        self._cancelled = True
        self._call.cancel()


def _serialised(first: bytes, later: Iterator[Message]) -> Iterator[bytes]:
    yield first
    for message in later:
        yield message.SerializeToString()


def transport_failure(error: LockstepError) -> bool:
    """True where another replica may do better: nobody answered, or it is leaving."""
    return isinstance(error, Unavailable) and error.reason in ("", Reason.DRAINING, Reason.STATE_UNAVAILABLE)


def _close_all(lines: list[Line]) -> None:
    for line in lines:
        line.close()
