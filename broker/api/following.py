"""The living part of a watch: one loop that is the only writer of its stream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from broker.api.convert import revocations as convert
from broker.api.convert.scalars import to_duration
from broker.api.drain import Drain
from broker.api.duplex import Duplex
from broker.api.limits import Limits
from broker.api.metrics import Metrics
from broker.api.standing import Standing
from broker.api.viewing import View
from broker.errors import InvalidRequest
from broker.model.revocation import EntryKind, LogEntry, LogHead
from broker.ports import Clock, RevocationFeed, Subscription
from lockstep.v1 import revocation_pb2 as pb

_IDLE: Final = 3600.0
_SOONEST_CHECK: Final = 0.05

Watch = Duplex[pb.WatchRevocationsRequest, pb.WatchRevocationsResponse]


class Told:
    """A watcher's places in the feed: it reads at the first and acknowledges at all."""

    def __init__(self, places: Sequence[Subscription]) -> None:
        self._places = places

    async def next(self, timeout: float) -> LogEntry | None:
        """As `Subscription.next`."""
        return await self._places[0].next(timeout)

    def acknowledge(self, seq: int) -> None:
        """As `Subscription.acknowledge`."""
        for place in self._places:
            place.acknowledge(seq)

    def close(self) -> None:
        """Leave all of them."""
        for place in self._places:
            place.close()


class Follower:
    """Entries, beats and the farewell, each after all that came before it.

    A beat says "you have everything up to here": so it is written by whoever
    writes the entries, once the queue is empty, and never claims an entry that
    is still to be sent.
    """

    def __init__(
        self,
        view: View,
        duplex: Watch,
        told: Told,
        position: LogHead,
        standing: Standing,
        *,
        feed: RevocationFeed,
        clock: Clock,
        drain: Drain,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self._view = view
        self._duplex = duplex
        self._told = told
        self._position = position
        self._standing = standing
        self._feed = feed
        self._clock = clock
        self._drain = drain
        self._limits = limits
        self._metrics = metrics

    async def run(self) -> None:
        """Until the watcher, its right to watch, or this replica goes. Raises what a queue or message raises."""
        entry = asyncio.ensure_future(self._told.next(_IDLE))
        ping = asyncio.ensure_future(self._duplex.receive())
        leaving = asyncio.ensure_future(self._drain.wait())
        try:
            while True:
                wait = max(_SOONEST_CHECK, min(self._view.until - self._clock.now(), _IDLE))
                await asyncio.wait({entry, ping, leaving}, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                self._view.may_go_on(self._standing.current(self._clock.now()))
                if await self._catch_up(entry):
                    return
                if leaving.done():
                    await self._beat(0, going_away=True)
                    return
                if self._clock.now() >= self._view.until:
                    await self._view.check(self._clock.now())
                if ping.done():
                    message = ping.result()
                    if message is None:
                        return
                    await self._answer(message)
                    ping = asyncio.ensure_future(self._duplex.receive())
                entry = asyncio.ensure_future(self._told.next(_IDLE))
        finally:
            pending = [entry, ping, leaving]
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _catch_up(self, waiting: asyncio.Future[LogEntry | None]) -> bool:
        """Send everything that is queued; True after the entry that ends the watch."""
        if not waiting.done():
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        entry = None if waiting.cancelled() else waiting.result()
        while True:
            if entry is not None and await self._tell(entry):
                return True
            entry = await self._told.next(0.0)
            if entry is None:
                return False

    async def _tell(self, entry: LogEntry) -> bool:
        if entry.seq <= self._position.seq:
            return False
        event = await self._view.of(self._position.log_id, entry)
        if event is not None:
            await self._duplex.send(pb.WatchRevocationsResponse(event=event))
            if entry.body.kind is EntryKind.REVOKED:
                self._metrics.stage("told", self._clock.now() - entry.body.at)
        self._position = LogHead(self._position.log_id, entry.seq, entry.hash)
        return self._view.ends(entry)

    async def _answer(self, message: pb.WatchRevocationsRequest) -> None:
        if message.WhichOneof("message") != "ping":
            raise InvalidRequest("after the opening, only pings")
        self._told.acknowledge(message.ping.applied_seq)
        # A replica that may have missed something vouches for nothing: the watcher's patience runs out.
        if self._feed.age() <= self._limits.state_age:
            await self._beat(message.ping.id)

    async def _beat(self, ping: int, *, going_away: bool = False) -> None:
        beat = pb.Beat(
            ping_id=ping,
            position=convert.head(self._position),
            state_age=to_duration(self._feed.age()),
            going_away=going_away,
            grace=to_duration(self._drain.grace) if going_away else None,
        )
        await self._duplex.send(pb.WatchRevocationsResponse(beat=beat))
