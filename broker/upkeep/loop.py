"""The one loop: a round after the other, woken by what is revoked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

from broker.errors import LimitExceeded, LockstepError
from broker.model.account import Account
from broker.model.credential import Lease
from broker.model.revocation import EntryKind, LogEntry, SelectorKind
from broker.ports import (
    Clock,
    CredentialBackend,
    ReceiptSigner,
    RevocationFeed,
    StateStore,
    Subscription,
    TargetCutter,
)
from broker.upkeep.cleaning import Cleaning
from broker.upkeep.closing import Closing
from broker.upkeep.cutting import Cutting
from broker.upkeep.ending import Ending
from broker.upkeep.expansion import Expansion
from broker.upkeep.faults import OnFault
from broker.upkeep.limits import BATCH, UpkeepLimits
from broker.upkeep.retention import TURN, Retention
from broker.upkeep.rounds import Rounds
from broker.upkeep.settling import Settling
from broker.upkeep.sweeping import Sweeping

SWEEP_TURN: Final = 5.0
"""Seconds between two looks at whose turn it is to be swept."""
SETTLE_REST: Final = 4.0
"""Times as long as a turn of settling took there is none."""
CUT_TURN: Final = 30.0
CUTS_ABREAST: Final = 64
"""Instances that are cut at once."""


class Upkeep:
    """Runs until told to stop; a round that fails is reported through `on_error` and tried again.

    `on_stuck` hears of what cannot be taken back yet, `on_alarm` of what an operator has to put right, in words.
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
        on_alarm: Callable[[str], None],
        on_fault: OnFault,
        limits: UpkeepLimits,
        audited: Callable[[], str] = lambda: "",
    ) -> None:
        """`audited`: see `Retention`."""
        self._clock = clock
        self._state = state
        self._feed = feed
        self._on_error = on_error
        self._limits = limits
        self._expansion = Expansion(state, feed, on_fault, limits)
        self._ending = Ending(state, feed, limits)
        self._retention = Retention(state, audited, limits)
        self._cutting = Cutting(clock, backends, cutters, state, on_alarm, on_fault, limits)
        self._sweeping = Sweeping(clock, backends, state, on_fault, on_stuck, on_alarm, limits)
        self._cleaning = Cleaning(
            clock, backends, state, self._cutting, self._sweeping, on_stuck, on_fault, limits
        )
        self._closing = Closing(clock, state, self._cutting, self._sweeping, on_stuck, on_fault, limits)
        self._settling = Settling(clock, state, feed, receipts, on_fault, limits)
        self._settle_soon = asyncio.Event()
        every = limits.interval
        self._clean = Rounds(self._clean_once, interval=every, on_error=on_error, on_done=self._some_cleaned)
        self._close = Rounds(
            self._close_once, interval=every, on_error=on_error, on_done=self._settle_soon.set
        )

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
            group.create_task(self._keep_small(stop), name="upkeep retention")
            group.create_task(self._keep_settled(stop), name="upkeep receipts")

    def given_up(self) -> Mapping[str, int]:
        """By backend: leases that it cannot take back and tries no more, when it was last looked."""
        return self._sweeping.given_up()

    async def tick(self) -> bool:
        """One round of everything; True where more of the same is due at once."""
        now = self._clock.now()
        more = await self._expansion.tick(now)
        more = await self._cleaning.tick(now) >= BATCH or more
        more = await self._closing.tick(now) >= BATCH or more
        more = await self._ending.expire(now) or more
        more = await self._settling.tick() or more
        await self._ending.prune(now)
        await self._retention.tick(now)
        await self._sweeping.tick(now)
        return more

    async def _rows(self) -> bool:
        now = self._clock.now()
        more = await self._expansion.tick(now)
        more = await self._ending.expire(now) or more
        await self._ending.prune(now)
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
                    self._settle_soon.set()
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
        self._settle_soon.set()
        self._close.wake()

    async def _keep_swept(self, stop: asyncio.Event) -> None:
        """What no row knows is looked for beside everything else: listing a backend takes its time."""
        while not stop.is_set():
            try:
                await self._sweeping.tick(self._clock.now())
            except LockstepError as error:
                self._on_error(error)
            await _first_of(SWEEP_TURN, stop.wait())

    async def _keep_small(self, stop: asyncio.Event) -> None:
        """What is old goes beside everything else: it is in no hurry."""
        while not stop.is_set():
            try:
                await self._retention.tick(self._clock.now())
            except LockstepError as error:
                self._on_error(error)
            await _first_of(TURN, stop.wait())

    async def _keep_settled(self, stop: asyncio.Event) -> None:
        """Receipts are written beside everything else, and rest for longer than they work: many that cannot be
        settled yet keep nothing waiting that revokes."""
        while not stop.is_set():
            self._settle_soon.clear()
            began, more = self._clock.monotonic(), False
            try:
                more = await self._settling.tick()
            except LockstepError as error:
                self._on_error(error)
            rest = SETTLE_REST * (self._clock.monotonic() - began)
            if rest > 0:
                await _first_of(rest, stop.wait())
            if not more:
                await _first_of(self._limits.interval, stop.wait(), self._settle_soon.wait())

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
        """Wait for the log, for `stop` or the interval; True where it was the log.

        Raises `LimitExceeded` where the queue overflowed.
        """
        interval = self._limits.interval
        if watch is None:
            await _first_of(interval, stop.wait())
            return True
        _, entry = await _first_of(interval, stop.wait(), watch.next(interval))
        if isinstance(entry, LockstepError):
            raise entry
        # All of it was applied before it was queued: upkeep works from rows, and keeps no receipt waiting.
        watch.acknowledge(self._feed.denials.seq)
        while (later := await watch.next(0.0)) is not None:
            entry = later
        return isinstance(entry, LogEntry)


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
