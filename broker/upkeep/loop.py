"""The one loop: a round after the other, woken by what is revoked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from broker.errors import LimitExceeded, LockstepError
from broker.model.attestation import AttestationState
from broker.model.credential import Lease
from broker.ports import (
    Clock,
    CredentialBackend,
    ReceiptSigner,
    RevocationFeed,
    StateStore,
    Subscription,
    Transaction,
)
from broker.upkeep.cleaning import Cleaning
from broker.upkeep.expansion import Expansion
from broker.upkeep.limits import BATCH, UpkeepLimits
from broker.upkeep.settling import Settling

PRUNE_EVERY: Final = 15.0
PRUNE_ROWS: Final = 10 * BATCH
PRUNE_ROUNDS: Final = 50


class Upkeep:
    """Runs until told to stop; a round that fails is reported through `on_error` and tried again."""

    def __init__(
        self,
        *,
        clock: Clock,
        backends: Mapping[str, CredentialBackend],
        state: StateStore,
        feed: RevocationFeed,
        receipts: ReceiptSigner,
        on_error: Callable[[LockstepError], None],
        on_stuck: Callable[[Lease], None],
        limits: UpkeepLimits,
    ) -> None:
        self._clock = clock
        self._state = state
        self._feed = feed
        self._on_error = on_error
        self._limits = limits
        self._expansion = Expansion(state, feed)
        self._cleaning = Cleaning(clock, backends, state, on_stuck, limits)
        self._settling = Settling(clock, state, feed, receipts, limits)
        self._prune_after = 0.0
        self._forgotten: tuple[int, ...] = ()

    async def run(self, stop: asyncio.Event) -> None:
        """Rounds, woken by revocations, until `stop` is set."""
        watch: Subscription | None = None
        try:
            while not stop.is_set():
                busy = False
                try:
                    # First the queue, then the rows: what comes between the two wakes the next round.
                    watch = watch or self._subscribe()
                    busy = await self.tick()
                except LockstepError as error:
                    self._on_error(error)
                if busy:
                    continue
                try:
                    await self._wait(watch, stop)
                except LimitExceeded:
                    # It fell behind; the rows say what is to be done, not the queue.
                    if watch is not None:
                        watch.close()
                    watch = None
        finally:
            if watch is not None:
                watch.close()

    async def tick(self) -> bool:
        """One round; True where more of the same is due at once."""
        now = self._clock.now()
        more = await self._expansion.tick(now)
        # Leases before attestations: one that ends with its attestation has expired, and was not revoked.
        more = await self._cleaning.tick(now) or more
        more = await self._expire(now) or more
        await self._settling.tick()
        await self._prune(now)
        return more

    def _subscribe(self) -> Subscription | None:
        try:
            return self._feed.subscribe("")
        except LimitExceeded as error:
            self._on_error(error)  # the interval is enough to go by
            return None

    async def _wait(self, watch: Subscription | None, stop: asyncio.Event) -> None:
        """Until the log or `stop` says something, or the interval is over; what was said is acknowledged."""
        stopped = asyncio.ensure_future(stop.wait())
        waits = {stopped}
        entry = None
        if watch is not None:
            entry = asyncio.ensure_future(watch.next(self._limits.interval))
            waits.add(entry)  # type: ignore[arg-type]
        try:
            await asyncio.wait(waits, timeout=self._limits.interval, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
            results = await asyncio.gather(*waits, return_exceptions=True)
        for result in results:
            if isinstance(result, LockstepError):
                raise result
        # All of it was applied before it was queued: upkeep works from rows, and keeps no receipt waiting.
        if watch is not None:
            watch.acknowledge(self._feed.denials.seq)
            while await watch.next(0.0) is not None:
                pass

    async def _expire(self, now: float) -> bool:
        async def work(tx: Transaction) -> bool:
            due = await tx.attestations.due(now, BATCH)
            if not due:
                return False
            await tx.attestations.end(due, AttestationState.EXPIRED)
            # Nothing outlives its attestation, not even what was granted when it was to live longer.
            begun = await tx.leases.begin_revoking(due)
            return len(due) >= BATCH or begun > 0

        if not await self._state.read(lambda tx: tx.attestations.due(now, 1)):
            return False
        return await self._state.transact(work)

    async def _prune(self, now: float) -> None:
        if now < self._prune_after:
            return
        # What a failing state did not drop is dropped the next time.
        self._forgotten += self._feed.denials.forget(now, now - self._limits.longest_life)
        if self._forgotten:
            await self._state.transact(lambda tx: tx.revocations.prune(self._forgotten))
            self._forgotten = ()
        for _ in range(PRUNE_ROUNDS):
            if await self._state.transact(lambda tx: tx.replays.prune(now, PRUNE_ROWS)) < PRUNE_ROWS:
                break
        self._prune_after = now + PRUNE_EVERY
