"""One watcher's bounded queue, and whoever waits until all watchers have heard."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

from broker.errors import LimitExceeded, Misuse
from broker.model.revocation import LogEntry

_HEARD: Final = 32
"""Acknowledgements that are remembered of one watcher: as many revocations as may wait for one receipt."""


class Source(Protocol):
    """What a subscription tells its feed."""

    def acknowledged(self, subscription: LocalSubscription, seq: int) -> tuple[int, float]:
        """The watcher has applied `seq`; how much of that can be true, and when it was said (seconds, UTC)."""

    def left(self, subscription: LocalSubscription) -> None:
        """The watcher has gone."""


class LocalSubscription:
    """Plug of `broker.ports.Subscription`; one reader at a time."""

    def __init__(self, source: Source, audience: str, bound: int, *, verifier: bool = False) -> None:
        self.audience = audience
        self.verifier = verifier
        self.acknowledged = 0
        # What was acknowledged when, seconds, UTC: the latest, in order.
        self._heard: deque[tuple[int, float]] = deque(maxlen=_HEARD)
        self._source = source
        self._bound = bound
        self._queue: deque[LogEntry] = deque()
        self._overflowed = False
        self._closed = False
        self._wake: asyncio.Future[None] | None = None

    async def next(self, timeout: float) -> LogEntry | None:
        """The next entry; None after `timeout` seconds, and at once when closed.

        Raises `LimitExceeded` once the queue overflowed: what it lost can only
        be had from a new snapshot.
        """
        if self._wake is not None:
            raise Misuse("a subscription has one reader")
        if not (self._queue or self._overflowed or self._closed):
            loop = asyncio.get_running_loop()
            self._wake = loop.create_future()
            alarm = loop.call_later(timeout, self._rouse)
            try:
                await self._wake
            finally:
                alarm.cancel()
                self._wake = None
        if self._overflowed:
            raise LimitExceeded("the watcher is too slow: take a new snapshot")
        return self._queue.popleft() if self._queue else None

    def acknowledge(self, seq: int) -> None:
        """The watcher has applied everything up to `seq`. Never goes back, nor beyond what there is."""
        if not self._closed and seq > self.acknowledged:
            possible, at = self._source.acknowledged(self, seq)
            if possible > self.acknowledged:
                self.acknowledged = possible
                self._heard.append((possible, at))

    def heard_at(self, seq: int) -> float | None:
        """When (seconds, UTC) it acknowledged `seq`, or at the latest by then; None where it has not."""
        return next((at for heard, at in self._heard if heard >= seq), None)

    def close(self) -> None:
        """Nothing more is queued; a waiting `next` returns."""
        if not self._closed:
            self._closed = True
            self._queue.clear()
            self._source.left(self)
            self._rouse()

    # --- from the feed ----------------------------------------------------------------------------

    def push(self, entry: LogEntry) -> None:
        """Queue an entry, or overflow."""
        if len(self._queue) >= self._bound:
            self.overflow()
        elif not self._overflowed:
            self._queue.append(entry)
            self._rouse()

    def overflow(self) -> None:
        """Something was lost: the watcher must begin anew."""
        self._overflowed = True
        self._queue.clear()
        self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


class Waiter:
    """Somebody who waits for acknowledgements of `seq` by some watchers."""

    def __init__(self, seq: int, missing: set[LocalSubscription]) -> None:
        self.seq = seq
        self._missing = missing
        self._done = asyncio.Event()
        if not missing:
            self._done.set()

    def heard(self, subscription: LocalSubscription) -> None:
        """A watcher acknowledged, or left."""
        self._missing.discard(subscription)
        if not self._missing:
            self._done.set()

    async def wait(self, timeout: float) -> bool:
        """True once nobody is missing, False after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._done.wait()
        except TimeoutError:
            return False
        return True
