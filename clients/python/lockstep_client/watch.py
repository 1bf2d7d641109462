"""The live revocation log: read, pinged and acknowledged; used by workloads and by resource servers.

What arrives is handed to a `Sink`; nothing is decided here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from lockstep.v1 import revocation_pb2
from lockstep_client import messages, methods
from lockstep_client.callers import Caller
from lockstep_client.clock import Clock
from lockstep_client.errors import LockstepError
from lockstep_client.streaming import StreamThread
from lockstep_client.transport import Stream, Transport

PING_EVERY = 2.0
"""Seconds between pings."""
DEAF_AFTER = 6.0
"""Seconds without a beat after which a stream counts as broken (W of the protocol)."""
_MOST_PINGS = 16
_Reply = revocation_pb2.WatchRevocationsResponse


class Sink(Protocol):
    """Who wants to know. Called on the watch's own thread; must not block."""

    def snapshot(
        self, events: Sequence[revocation_pb2.RevocationEvent], position: revocation_pb2.LogPosition
    ) -> None:
        """The whole live deny set at a position, as far as this watcher may see it; replaces what was known.

        A position in another log than before: its sequences say nothing about those of the old one.
        """

    def event(self, event: revocation_pb2.RevocationEvent) -> None:
        """One new entry of the log."""

    def reached(self, position: revocation_pb2.LogPosition) -> None:
        """Everything up to here was handed on; entries that are not ours count too."""

    def beat(self, asked_at: float | None, grace: float) -> None:
        """Up to date as of a ping, but for the broker's own bound.

        `asked_at` is the `Clock.steady` time of the ping that this answers, None
        where it answers none of ours and says nothing about how old it is;
        `grace` (seconds) is above zero where the replica announced that it leaves.
        """

    def denied(self, error: LockstepError) -> None:
        """The broker refuses the watch; it is tried again in some seconds, and at once when it is kicked."""


class Watch:
    """Follows the log with its position over any number of streams."""

    def __init__(
        self, transport: Transport, who: Callable[[], tuple[str, Caller] | None], sink: Sink, clock: Clock
    ) -> None:
        self._sink = sink
        self._clock = clock
        self._position: revocation_pb2.LogPosition | None = None
        self._attestation = ""
        self._session: WatchSession | None = None
        self.thread = StreamThread("lockstep-watch", transport, methods.WATCH, who, self._begin, sink.denied)

    def ask(self) -> None:
        """Ping now, instead of at the next turn: somebody waits for the answer."""
        session = self._session
        if session is not None:
            session.ask()

    def _begin(self, attestation_id: str) -> WatchSession:
        if attestation_id != self._attestation:
            self._attestation, self._position = attestation_id, None
        self._session = WatchSession(attestation_id, self._position, self._sink, self._clock, self._keep)
        return self._session

    def _keep(self, position: revocation_pb2.LogPosition | None) -> None:
        self._position = position


class WatchSession:
    """One stream of it."""

    def __init__(
        self,
        attestation_id: str,
        position: revocation_pb2.LogPosition | None,
        sink: Sink,
        clock: Clock,
        keep: Callable[[revocation_pb2.LogPosition | None], None],
    ) -> None:
        self._attestation_id = attestation_id
        self._position = position
        self._sink = sink
        self._clock = clock
        self._keep = keep
        self._ended = threading.Event()
        self._wake = threading.Event()
        self._asked: OrderedDict[int, float] = OrderedDict()
        self._last_beat = clock.steady()
        self._parts: list[revocation_pb2.RevocationEvent] = []
        # Until the snapshot is whole, a beat says that the broker lives, not that we know everything.
        self._whole = position is not None
        self.healthy = False

    def first(self) -> revocation_pb2.WatchRevocationsRequest:
        """Opens where the last stream ended."""
        return messages.watch_open(self._attestation_id, self._position)

    def later(self, cancel: Callable[[], None]) -> Iterator[revocation_pb2.WatchRevocationsRequest]:
        """A ping at once, then every two seconds and after every event that was applied."""
        number = 0
        while not self._ended.is_set():
            number += 1
            now = self._clock.steady()
            if now - self._last_beat > DEAF_AFTER:
                cancel()
                return
            self._asked[number] = now
            while len(self._asked) > _MOST_PINGS:
                self._asked.popitem(last=False)
            yield messages.watch_ping(number, 0 if self._position is None else self._position.seq)
            self._wake.wait(PING_EVERY)
            self._wake.clear()

    def take(self, answer: _Reply, stream: Stream[_Reply]) -> bool:
        """Hand on, then remember the position: what is acknowledged has been applied."""
        kind = answer.WhichOneof("message")
        if kind == "event":
            if self._of_another_log(answer.event.position):
                return self._anew()
            self._sink.event(answer.event)
            self._applied(answer.event.position)
        elif kind == "snapshot":
            self._parts.extend(answer.snapshot.events)
            if answer.snapshot.complete:
                events, self._parts = self._parts, []
                self._whole = True
                self._sink.snapshot(events, answer.snapshot.position)
                self._applied(answer.snapshot.position)
        elif kind == "beat":
            return self._beat(answer.beat, stream)
        elif kind == "resync":
            return self._anew()
        return False

    def end(self) -> None:
        """Stop pinging."""
        self._ended.set()
        self._wake.set()

    def ask(self) -> None:
        """Ping now."""
        self._wake.set()

    def _anew(self) -> bool:
        self._keep(None)
        self.healthy = True
        return True

    def _of_another_log(self, position: revocation_pb2.LogPosition) -> bool:
        return self._position is not None and position.log_id != self._position.log_id

    def _applied(self, position: revocation_pb2.LogPosition) -> None:
        self._position = position
        self._keep(position)
        self._sink.reached(position)
        self._wake.set()

    def _beat(self, beat: revocation_pb2.Beat, stream: Stream[_Reply]) -> bool:
        self.healthy = True
        self._last_beat = self._clock.steady()
        if not self._whole:
            return beat.going_away
        if beat.HasField("position"):
            if self._of_another_log(beat.position):
                return self._anew()
            if self._position is None or beat.position.seq > self._position.seq:
                # Entries that were not for us: whoever waits for our word need not wait for the next ping.
                self._wake.set()
            self._position = beat.position
            self._keep(beat.position)
            self._sink.reached(beat.position)
        grace = max(0.001, beat.grace.ToTimedelta().total_seconds()) if beat.going_away else 0.0
        # A farewell answers no ping: it may have been on its way for long, and makes nothing fresh.
        asked_at = self._asked.pop(beat.ping_id, None)
        if asked_at is not None or beat.going_away:
            self._sink.beat(asked_at, grace)
        if beat.going_away:
            stream.leave()
        return beat.going_away
