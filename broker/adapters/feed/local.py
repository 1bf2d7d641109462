"""LocalFeed: the revocation log of a broker that stands alone, live in memory."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from broker.adapters.feed.subscription import LocalSubscription, Waiter
from broker.errors import LimitExceeded, Unavailable
from broker.model.denials import DenySet
from broker.model.revocation import LogEntry, LogHead
from broker.ports import Clock, StateStore, Transaction
from lockstep.formats import Reason

_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class FeedLimits:
    """Bounds: entries that wait for one watcher, watchers, entries announced before one that is missing.

    `patience` is how many seconds a verifier that hears nothing goes on to accept (W of the protocol), `fresh` how
    old (seconds) this replica's view may be for a grant (D).
    """

    queue: int = 1_024
    subscribers: int = 10_000
    ahead: int = 4_096
    patience: float = 6.0
    fresh: float = 2.0


@dataclass(frozen=True, slots=True)
class _Departed:
    """A verifier that has gone; `until` (seconds of CLOCK_BOOTTIME) it may accept what it had not heard of."""

    audience: str
    acknowledged: int
    until: float


class LocalFeed:
    """Plug of `broker.ports.RevocationFeed`, owned by one event loop.

    Entries are applied in order of their sequence, whatever the order of their
    announcements; what nobody announced (its announcer was cancelled after the
    commit) is read by `catch_up`. A log that does not continue where this
    replica stands makes the feed infinitely old, and so stops grants.
    """

    def __init__(
        self, state: StateStore, clock: Clock, denials: DenySet, limits: FeedLimits, *, alone: bool = False
    ) -> None:
        """Use `load`."""
        self._state = state
        self._clock = clock
        self._denials = denials
        self._limits = limits
        self._alone = alone
        self._ahead: dict[int, LogEntry] = {}
        self._subscriptions: set[LocalSubscription] = set()
        self._waiters: set[Waiter] = set()
        # In the order in which they went, which is that of their ends.
        self._departed: deque[_Departed] = deque()
        self._whole_at = clock.monotonic() + limits.patience
        self._known_at = -math.inf

    @classmethod
    async def load(
        cls, state: StateStore, clock: Clock, limits: FeedLimits | None = None, *, alone: bool = False
    ) -> LocalFeed:
        """The feed with everything that denies now. Raises `Unavailable`.

        `alone` says that nobody but this process can write the log: the state holds a lock that tells so.
        """
        asked = clock.monotonic()
        head, entries = await state.read(_snapshot)
        denials = DenySet(head)
        denials.load(entries, head)
        feed = cls(state, clock, denials, limits or FeedLimits(), alone=alone)
        feed._known_at = asked
        return feed

    @property
    def denials(self) -> DenySet:
        """What is denied now."""
        return self._denials

    async def catch_up(self) -> int:
        """Apply what the log has beyond this replica; the sequence applied.

        Raises `Unavailable` where the state does not answer, or holds another
        log than the one that this replica has followed.
        """
        asked = self._clock.monotonic()
        while True:
            mine = self._denials.head
            head, entries = await self._state.read(_Tail(mine.seq))
            self._check_continues(mine, head)
            if _unbroken(mine.seq, entries, head):
                for entry in entries:
                    self._apply(entry)
                self._apply_ahead()
            else:
                await self._reload()
            if self._denials.seq >= head.seq:
                break
        self._known_at = max(self._known_at, asked)
        return self._denials.seq

    async def fence(self) -> int:
        """Where this process is the only writer, what it knows is what there is: nothing is read for a grant.

        Unless it has lost its way, or has not seen the log for too long, or
        something that it was told waits for what it was not: then the log is read.
        """
        if self._alone and not self._ahead and self.age() <= self._limits.fresh:
            return self._denials.seq
        return await self.catch_up()

    def announce(self, entries: Sequence[LogEntry]) -> None:
        """Entries that this replica has committed. Never blocks, never raises for what they contain."""
        for entry in entries:
            if entry.seq > self._denials.seq:
                self._ahead[entry.seq] = entry
        try:
            self._apply_ahead()
        except Unavailable:
            # `age` says it to whoever asks, and `catch_up` raises it again.
            return
        if len(self._ahead) > self._limits.ahead:
            self._ahead.clear()  # catch_up reads them
            self._known_at = min(self._known_at, self._clock.monotonic() - 2 * self._limits.fresh)

    def subscribe(self, audience: str, *, verifier: bool = False) -> LocalSubscription:
        """A queue of everything applied from now on: subscribe first, then read. Raises `LimitExceeded`."""
        if len(self._subscriptions) >= self._limits.subscribers:
            raise LimitExceeded("too many watchers on this broker")
        subscription = LocalSubscription(self, audience, self._limits.queue, verifier=verifier)
        self._subscriptions.add(subscription)
        return subscription

    def told(self, seq: int) -> Mapping[str, tuple[int, int]]:
        """Per audience: (watchers, those of them that acknowledged `seq` or later)."""
        found: dict[str, tuple[int, int]] = {}
        for item in self._subscriptions:
            watching, acknowledged = found.get(item.audience, (0, 0))
            found[item.audience] = (watching + 1, acknowledged + (item.acknowledged >= seq))
        self._drop_deaf()
        for gone in self._departed:
            # Nobody can tell whether it is one that is back: each counts.
            if gone.acknowledged < seq:
                watching, acknowledged = found.get(gone.audience, (0, 0))
                found[gone.audience] = (watching + 1, acknowledged)
        return found

    def told_at(self, seq: int) -> float | None:
        """When (seconds, UTC) the last of those who watch acknowledged `seq`; None where one has not, or nobody
        watches."""
        self._drop_deaf()
        if any(gone.acknowledged < seq for gone in self._departed):
            return None
        heard = [item.heard_at(seq) for item in self._subscriptions]
        known = [at for at in heard if at is not None]
        return max(known) if known and len(known) == len(heard) else None

    @property
    def knows_verifiers(self) -> bool:
        """True once those of an earlier process are back, or have failed closed."""
        return self._clock.monotonic() >= self._whole_at

    def age(self) -> float:
        """Seconds since the last read of the head, that succeeded, was sent."""
        return self._clock.monotonic() - self._known_at

    async def wait_acknowledged(self, seq: int, timeout: float) -> bool:
        """True once everybody who is subscribed now has acknowledged `seq` or has gone; False after `timeout` s."""
        waiter = Waiter(seq, {item for item in self._subscriptions if item.acknowledged < seq})
        self._waiters.add(waiter)
        try:
            return await waiter.wait(timeout)
        finally:
            self._waiters.discard(waiter)

    # --- from the subscriptions -------------------------------------------------------------------

    def acknowledged(self, subscription: LocalSubscription, seq: int) -> tuple[int, float]:
        """A watcher says that it has applied `seq`: as far as that can be true, and when (seconds, UTC)."""
        possible = min(seq, self._denials.seq)
        for waiter in self._waiters:
            if possible >= waiter.seq:
                waiter.heard(subscription)
        return possible, self._clock.now()

    def left(self, subscription: LocalSubscription) -> None:
        """A watcher has gone; a verifier accepts until it misses the answer to its next ping."""
        self._subscriptions.discard(subscription)
        if subscription.verifier:
            until = self._clock.monotonic() + self._limits.patience
            self._drop_deaf()
            self._departed.append(_Departed(subscription.audience, subscription.acknowledged, until))
        for waiter in self._waiters:
            waiter.heard(subscription)

    def _drop_deaf(self) -> None:
        now = self._clock.monotonic()
        while self._departed and self._departed[0].until <= now:
            self._departed.popleft()

    # --- applying ---------------------------------------------------------------------------------

    def _apply_ahead(self) -> None:
        while (entry := self._ahead.pop(self._denials.seq + 1, None)) is not None:
            self._apply(entry)
        if self._ahead and min(self._ahead) <= self._denials.seq:
            self._ahead = {seq: entry for seq, entry in self._ahead.items() if seq > self._denials.seq}

    def _apply(self, entry: LogEntry) -> None:
        try:
            applied = self._denials.apply(entry)
        except ValueError as error:
            raise self._astray() from error
        if applied:
            for subscription in self._subscriptions:
                subscription.push(entry)

    async def _reload(self) -> None:
        # Entries were pruned before this replica saw them: they deny nothing any more, yet the chain has a gap.
        mine = self._denials.head
        head, entries = await self._state.read(_snapshot)
        self._check_continues(mine, head)
        if head.seq <= self._denials.seq:
            return  # announcements have closed the gap meanwhile
        self._denials.reload(entries, head)
        self._ahead.clear()
        for subscription in self._subscriptions:
            subscription.overflow()

    def _check_continues(self, mine: LogHead, head: LogHead) -> None:
        # `mine` is from before the read: announcements may have gone on since.
        if head.log_id != mine.log_id or head.seq < mine.seq or (head.seq == mine.seq and head != mine):
            raise self._astray()

    def _astray(self) -> Unavailable:
        self._known_at = -math.inf
        self._ahead.clear()
        return Unavailable(
            Reason.STATE_UNAVAILABLE, "the revocation log does not continue where this broker stands"
        )


class _Tail:
    """Reads the head and what comes after a sequence, in one snapshot."""

    def __init__(self, after: int) -> None:
        self._after = after

    async def __call__(self, tx: Transaction) -> tuple[LogHead, Sequence[LogEntry]]:
        head = await tx.revocations.head()
        if head.seq <= self._after:
            return head, ()
        return head, await tx.revocations.since(self._after, _PAGE)


async def _snapshot(tx: Transaction) -> tuple[LogHead, Sequence[LogEntry]]:
    return await tx.revocations.head(), await tx.revocations.live()


def _unbroken(after: int, entries: Sequence[LogEntry], head: LogHead) -> bool:
    """True where entries follow a sequence without a gap, up to the head or to a full page."""
    last = after + len(entries)
    return [entry.seq for entry in entries] == list(range(after + 1, last + 1)) and (
        last == head.seq or len(entries) == _PAGE
    )
