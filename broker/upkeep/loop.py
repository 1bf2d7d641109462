"""The one loop: a round after the other, woken by what is revoked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from broker.errors import LimitExceeded, LockstepError
from broker.model.account import Account
from broker.model.attestation import AttestationState
from broker.model.credential import Lease, LeaseState
from broker.model.revocation import EntryKind, LogEntry, SelectorKind
from broker.ports import (
    Clock,
    CredentialBackend,
    ReceiptSigner,
    RevocationFeed,
    StateStore,
    Subscription,
    TargetCutter,
    Transaction,
)
from broker.upkeep.cleaning import Cleaning
from broker.upkeep.closing import Closing
from broker.upkeep.cutting import Cutting
from broker.upkeep.expansion import Expansion
from broker.upkeep.faults import OnFault
from broker.upkeep.limits import BATCH, UpkeepLimits
from broker.upkeep.rounds import Rounds
from broker.upkeep.settling import Settling
from broker.upkeep.sweeping import Sweeping

_UNENDED: Final = (LeaseState.PENDING, LeaseState.ACTIVE)
PRUNE_EVERY: Final = 15.0
PRUNE_ROWS: Final = 10 * BATCH
PRUNE_ROUNDS: Final = 50
SWEEP_TURN: Final = 5.0
"""Seconds between two looks at whose turn it is to be swept."""
CUT_TURN: Final = 30.0
CUTS_ABREAST: Final = 64
"""Instances that are cut at once."""


class Upkeep:
    """Runs until told to stop; a round that fails is reported through `on_error` and tried again.

    What a plug raises that is no error of the broker's goes to `on_fault` and costs its row a try: only what
    belongs to no row ends the loop.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        backends: Mapping[str, CredentialBackend],
        cutters: Mapping[str, TargetCutter],
        state: StateStore,
        feed: RevocationFeed,
        receipts: ReceiptSigner,
        on_error: Callable[[LockstepError], None],
        on_stuck: Callable[[Lease | Account], None],
        on_fault: OnFault,
        limits: UpkeepLimits,
    ) -> None:
        self._clock = clock
        self._state = state
        self._feed = feed
        self._on_error = on_error
        self._limits = limits
        self._expansion = Expansion(state, feed)
        self._cutting = Cutting(clock, backends, cutters, state, on_fault, limits)
        self._sweeping = Sweeping(clock, backends, state, on_fault, limits)
        self._cleaning = Cleaning(
            clock, backends, state, self._cutting, self._sweeping, on_stuck, on_fault, limits
        )
        self._closing = Closing(clock, state, self._cutting, self._sweeping, on_stuck, on_fault, limits)
        self._settling = Settling(clock, state, feed, receipts, limits)
        self._cleaned = asyncio.Event()
        every = limits.interval
        self._clean = Rounds(self._clean_once, interval=every, on_error=on_error, on_done=self._some_cleaned)
        self._close = Rounds(self._close_once, interval=every, on_error=on_error, on_done=self._cleaned.set)
        self._prune_after = 0.0
        self._forgotten: tuple[int, ...] = ()

    async def run(self, stop: asyncio.Event) -> None:
        """Rounds, woken by revocations, until `stop` is set.

        Rows and backends go by themselves: a backend that hangs must not keep the
        next revocation from being expanded.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_rows(stop), name="upkeep rows")
            group.create_task(self._clean.run(stop), name="upkeep leases")
            group.create_task(self._close.run(stop), name="upkeep accounts")
            group.create_task(self._keep_swept(stop), name="upkeep strays")
            group.create_task(self._keep_cut(stop), name="upkeep cuts")

    async def tick(self) -> bool:
        """One round of everything; True where more of the same is due at once."""
        now = self._clock.now()
        more = await self._expansion.tick(now)
        more = await self._cleaning.tick(now) >= BATCH or more
        more = await self._closing.tick(now) >= BATCH or more
        more = await self._expire(now) or more
        await self._settling.tick()
        await self._prune(now)
        await self._sweeping.tick(now)
        return more

    async def _rows(self) -> bool:
        now = self._clock.now()
        more = await self._expansion.tick(now)
        more = await self._expire(now) or more
        await self._settling.tick()
        await self._prune(now)
        return more

    async def _keep_rows(self, stop: asyncio.Event) -> None:
        watch: Subscription | None = None
        spoken = True
        try:
            while not stop.is_set():
                # First the queue, then the rows: what comes between the two wakes the next round.
                watch = watch or self._subscribe()
                more = False
                try:
                    more = await self._rows()
                except LockstepError as error:
                    self._on_error(error)
                # After the round, which is what makes leases due.
                if more or spoken:
                    self._clean.wake()
                    self._close.wake()
                if more:
                    continue
                try:
                    spoken = await self._log_speaks(watch, stop)
                except LimitExceeded:
                    # It fell behind; the rows say what is to be done, not the queue.
                    if watch is not None:
                        watch.close()
                    watch, spoken = None, True
        finally:
            if watch is not None:
                watch.close()

    async def _clean_once(self) -> int:
        return await self._cleaning.tick(self._clock.now())

    async def _close_once(self) -> int:
        return await self._closing.tick(self._clock.now())

    def _some_cleaned(self) -> None:
        """What waited for leases may go on."""
        self._cleaned.set()
        self._close.wake()

    async def _keep_swept(self, stop: asyncio.Event) -> None:
        """What no row knows is looked for beside everything else: listing a backend takes its time."""
        while not stop.is_set():
            try:
                await self._sweeping.tick(self._clock.now())
            except LockstepError as error:
                self._on_error(error)
            await _first_of(SWEEP_TURN, stop.wait())

    async def _keep_cut(self, stop: asyncio.Event) -> None:
        """The shortest way from the log to backends and targets."""
        slots = asyncio.Semaphore(CUTS_ABREAST)
        watch: Subscription | None = None
        async with asyncio.TaskGroup() as cuts:
            try:
                while not stop.is_set():
                    watch = watch or self._subscribe()
                    if watch is None:
                        await _first_of(self._limits.interval, stop.wait())
                        continue
                    # It keeps no receipt waiting: what it misses, whoever cleans does.
                    watch.acknowledge(self._feed.denials.seq)
                    _, entry = await _first_of(CUT_TURN, stop.wait(), watch.next(CUT_TURN))
                    if isinstance(entry, LimitExceeded):
                        watch.close()
                        watch = None
                    elif isinstance(entry, LogEntry):
                        body = entry.body
                        if body.kind is EntryKind.REVOKED and body.selector.kind is SelectorKind.ATTESTATION:
                            await slots.acquire()
                            cuts.create_task(self._cut(body.selector.value, slots), name="cut")
            finally:
                if watch is not None:
                    watch.close()

    async def _cut(self, attestation_id: str, slots: asyncio.Semaphore) -> None:
        try:
            await self._cutting.instance(attestation_id)
        except LockstepError as error:
            self._on_error(error)
        finally:
            slots.release()

    def _subscribe(self) -> Subscription | None:
        try:
            return self._feed.subscribe("")
        except LimitExceeded as error:
            self._on_error(error)  # the interval is enough to go by
            return None

    async def _log_speaks(self, watch: Subscription | None, stop: asyncio.Event) -> bool:
        """Wait for the log, for something cleaned, for `stop` or the interval; True where it was the log.

        Raises `LimitExceeded` where the queue overflowed.
        """
        interval = self._limits.interval
        if watch is None:
            await _first_of(interval, stop.wait(), self._cleaned.wait())
            self._cleaned.clear()
            return True
        _, _, entry = await _first_of(interval, stop.wait(), self._cleaned.wait(), watch.next(interval))
        self._cleaned.clear()
        if isinstance(entry, LockstepError):
            raise entry
        # All of it was applied before it was queued: upkeep works from rows, and keeps no receipt waiting.
        watch.acknowledge(self._feed.denials.seq)
        while (later := await watch.next(0.0)) is not None:
            entry = later
        return isinstance(entry, LogEntry)

    async def _expire(self, now: float) -> bool:
        async def work(tx: Transaction) -> bool:
            due = await tx.attestations.due(now, BATCH)
            begun = False
            ended = await tx.attestations.end(due, AttestationState.EXPIRED)
            await tx.accounts.begin_closing(ended, now)
            for name in ended:
                # Nothing outlives its attestation, not even what was granted when it was to live longer.
                # What ends with it has expired, and is cleaned as that.
                for lease in await tx.leases.page(_UNENDED, BATCH, "", name):
                    if lease.state is LeaseState.PENDING or lease.expires_at > now:
                        revoking = replace(lease, state=LeaseState.REVOKING, next_attempt_at=now)
                        begun = await tx.leases.replace(revoking, lease.state) or begun
            return len(due) >= BATCH or begun

        if not await self._state.read(lambda tx: tx.attestations.due(now, 1)):
            return False
        return await self._state.transact(work)

    async def _prune(self, now: float) -> None:
        if now < self._prune_after:
            return
        # What a failing state did not drop is dropped the next time.
        ended = now - self._limits.longest_life
        self._forgotten += self._feed.denials.forget(now, ended, ended - self._limits.instance)
        if self._forgotten:
            await self._state.transact(lambda tx: tx.revocations.prune(self._forgotten))
            self._forgotten = ()
        for _ in range(PRUNE_ROUNDS):
            if await self._state.transact(lambda tx: tx.replays.prune(now, PRUNE_ROWS)) < PRUNE_ROWS:
                break
        self._prune_after = now + PRUNE_EVERY


async def _first_of(timeout: float, *waits: Coroutine[Any, Any, object]) -> Sequence[object]:
    """Until one of them is through, or `timeout` seconds; what each came to, an error where it raised one."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    return results
