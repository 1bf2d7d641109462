"""A watch of the revocation log on the bare wire."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import grpc

from lockstep.formats import AUTHORIZATION_METADATA
from lockstep.v1 import revocation_pb2 as pb
from tests.support.actors import PATIENCE, Missing
from tests.support.wire import Refused, Wire, Workload, refusal

WATCH = "/lockstep.v1.RevocationService/WatchRevocations"
Answer = pb.WatchRevocationsResponse


class Watcher:
    """``with Watcher.of(workload) as watcher``; messages in the order in which they came."""

    def __init__(
        self, wire: Wire, opening: pb.WatchRevocationsRequest, metadata: Sequence[tuple[str, str]]
    ) -> None:
        self._wire = wire
        self._opening = opening
        self._metadata = tuple(metadata)
        self._later: queue.Queue[pb.WatchRevocationsRequest | None] = queue.Queue()
        self._answers: queue.Queue[Answer | Refused | None] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)

    @classmethod
    def of(cls, workload: Workload, resume: pb.LogPosition | None = None) -> Watcher:
        """A workload's own watch."""
        opening = pb.WatchRevocationsRequest(
            open=pb.WatchOpen(attestation_id=workload.attestation_id, resume=resume)
        )
        return cls(workload.wire, opening, [workload.proof(WATCH, opening.SerializeToString())])

    @classmethod
    def bearer(cls, wire: Wire, token: str, resume: pb.LogPosition | None = None) -> Watcher:
        """An operator's, or a resource server's."""
        opening = pb.WatchRevocationsRequest(open=pb.WatchOpen(resume=resume))
        return cls(wire, opening, [(AUTHORIZATION_METADATA, f"Bearer {token}")])

    def __enter__(self) -> Self:
        ask = self._wire.channel.stream_stream(
            WATCH, request_serializer=None, response_deserializer=Answer.FromString
        )
        self._call = ask(self._send(), metadata=self._metadata)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._later.put(None)
        self._call.cancel()
        self._thread.join(5)

    def _send(self) -> Iterator[bytes]:
        yield self._opening.SerializeToString()
        while (message := self._later.get()) is not None:
            yield message.SerializeToString()

    def _read(self) -> None:
        try:
            for answer in self._call:
                self._answers.put(answer)
        except grpc.RpcError as error:
            with contextlib.suppress(AttributeError):
                self._answers.put(refusal(error))
        self._answers.put(None)

    def ping(self, number: int, applied: int = 0) -> None:
        """Ask for a beat."""
        self._later.put(pb.WatchRevocationsRequest(ping=pb.WatchPing(id=number, applied_seq=applied)))

    def next(self, kind: str, within: float = PATIENCE) -> Answer:
        """The next message of a kind; others are dropped. Raises `Refused` where the stream failed."""
        deadline = time.monotonic() + within
        while True:
            try:
                answer = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise Missing(f"no {kind} on the watch in {within:.0f} s") from None
            if answer is None:
                raise Missing(f"the watch ended before a {kind}")
            if isinstance(answer, Refused):
                raise answer
            if answer.WhichOneof("message") == kind:
                return answer

    def ended(self, within: float = PATIENCE) -> Refused | None:
        """How it ended: in order (None), or refused."""
        found: Refused | None = None
        deadline = time.monotonic() + within
        while True:
            try:
                answer = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise Missing(f"the watch did not end in {within:.0f} s") from None
            if answer is None:
                return found
            if isinstance(answer, Refused):
                found = answer
