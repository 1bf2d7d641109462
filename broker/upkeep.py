"""Upkeep: expire, expand, clean, confirm, prune. One supervised loop that survives restarts.

Everything it does is driven by rows, so that a crash between two steps costs
time and nothing else: the next round finds the same rows due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from broker.errors import LimitExceeded, LockstepError
from broker.model.attestation import AttestationState
from broker.model.credential import Confirmation, Confirmed, Lease, LeaseState
from broker.model.receipt import receipt_payload
from broker.model.revocation import (
    EntryKind,
    LogEntry,
    NewEntry,
    Revocation,
    RevocationState,
    Selector,
    SelectorKind,
    Step,
    Unconfirmed,
)
from broker.ports import (
    Clock,
    CredentialBackend,
    ReceiptSigner,
    RevocationFeed,
    StateStore,
    Subscription,
    Transaction,
)

BATCH = 200
STUCK_AFTER = 5
MAX_STEPS = 200
PRUNE_EVERY = 15.0


@dataclass(frozen=True, slots=True)
class UpkeepLimits:
    """All in seconds: `interval` between rounds when nothing wakes it, `settle` how long a receipt waits for
    watchers to acknowledge (a verifier that has not by then has failed closed), `backoff` between tries to
    clean, up to `backoff_most`, `longest_life` of any credential, after which a cut can hit nothing."""

    interval: float = 0.5
    settle: float = 8.0
    backoff: float = 0.5
    backoff_most: float = 60.0
    longest_life: float = 86_400.0


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
        self._backends = backends
        self._state = state
        self._feed = feed
        self._receipts = receipts
        self._on_error = on_error
        self._on_stuck = on_stuck
        self._limits = limits
        self._prune_after = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Rounds, woken by revocations, until `stop` is set."""
        watch: Subscription | None = None
        try:
            while not stop.is_set():
                if watch is None:
                    watch = self._feed.subscribe("")
                try:
                    busy = await self.tick()
                except LockstepError as error:
                    self._on_error(error)
                    busy = False
                if busy:
                    continue
                try:
                    entry = await self._wait(watch, stop)
                    if entry is not None:
                        watch.acknowledge(entry.seq)
                except LimitExceeded:
                    # It fell behind; the rows say what is to be done, not the queue.
                    watch.close()
                    watch = None
        finally:
            if watch is not None:
                watch.close()

    async def tick(self) -> bool:
        """One round; True where more of the same is due at once."""
        now = self._clock.now()
        full = await self._expire(now)
        full = await self._expand(now) or full
        full = await self._clean(now) or full
        await self._settle(now)
        await self._prune(now)
        return full

    async def _wait(self, watch: Subscription, stop: asyncio.Event) -> LogEntry | None:
        entry = asyncio.ensure_future(watch.next(self._limits.interval))
        stopped = asyncio.ensure_future(stop.wait())
        done, pending = await asyncio.wait({entry, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        return entry.result() if entry in done else None

    # --- expire -----------------------------------------------------------------------------------

    async def _expire(self, now: float) -> bool:
        async def work(tx: Transaction) -> int:
            due = await tx.attestations.due(now, BATCH)
            if due:
                await tx.attestations.end(due, AttestationState.EXPIRED)
            return len(due)

        if not await self._state.read(lambda tx: tx.attestations.due(now, 1)):
            return False
        return await self._state.transact(work) >= BATCH

    # --- expand: from what was named to what is hit -----------------------------------------------

    async def _expand(self, now: float) -> bool:
        opened = await self._state.read(lambda tx: tx.revocations.open(BATCH))
        more = False
        for revocation in opened:
            if not revocation.expanded:
                more = await self._expand_one(revocation, now) or more
        return more

    async def _expand_one(self, revocation: Revocation, now: float) -> bool:
        """End what a wide selector hits, a batch a transaction; at the end say so in the log."""

        async def work(tx: Transaction) -> tuple[bool, Sequence[LogEntry]]:
            hit: dict[str, None] = {}
            for selector in await _expanded_selectors(tx, revocation.selector):
                after = ""
                while len(hit) < BATCH:
                    page = await tx.attestations.alive_by(selector, BATCH, after)
                    if not page:
                        break
                    after = page[-1].id
                    # A cut kills what was granted before it; what attested after it was judged
                    # with it in view.
                    hit.update({found.id: None for found in page if found.as_of < revocation.first_seq})
            ids = tuple(hit)
            if ids:
                await tx.attestations.end(ids, AttestationState.REVOKED)
                await tx.revocations.hit(revocation.id, ids)
                entries = [_expansion(revocation, name, now) for name in ids]
                return False, await tx.revocations.append(entries)
            current = await tx.revocations.get(revocation.id)
            if current is None:
                return True, ()
            step = Step("expanded", now, f"{current.attestations} instances")
            await tx.revocations.put(replace(current, expanded=True, steps=(*current.steps, step)))
            return True, await tx.revocations.append([_closing(revocation, now)])

        done, entries = await self._state.transact(work, urgent=True)
        self._feed.announce(entries)
        return not done

    # --- clean ------------------------------------------------------------------------------------

    async def _clean(self, now: float) -> bool:
        await self._begin(now)
        due = await self._state.read(lambda tx: tx.leases.due(now, BATCH))
        for lease in due:
            await self._clean_one(lease, now)
        return len(due) >= BATCH

    async def _begin(self, now: float) -> None:
        """Leases of revoked instances become REVOKING."""
        opened = await self._state.read(lambda tx: tx.revocations.open(BATCH))

        async def work(tx: Transaction) -> None:
            for revocation in opened:
                after = ""
                begun = 0
                while ids := await tx.revocations.hits(revocation.id, BATCH, after):
                    begun += await tx.leases.begin_revoking(ids)
                    after = ids[-1]
                if begun:
                    current = await tx.revocations.get(revocation.id)
                    if current is not None:
                        await tx.revocations.put(replace(current, leases=current.leases + begun))

        if opened:
            await self._state.transact(work, urgent=True)

    async def _clean_one(self, lease: Lease, now: float) -> None:
        if lease.state is LeaseState.ACTIVE and lease.expires_at > now:
            return
        backend = self._backends.get(lease.backend)
        expired = lease.state is LeaseState.ACTIVE
        if backend is None:
            await self._again(lease, now, f"backend {lease.backend!r} is not configured")
            return
        try:
            if not expired or backend.outside:
                await backend.revoke(lease)
            confirmed = await backend.confirm(lease, now)
        except LockstepError as error:
            await self._again(lease, now, str(error.reason))
            return
        if confirmed.result is Confirmation.ALIVE:
            await self._again(lease, now, "still alive")
            return
        end = LeaseState.EXPIRED if expired else LeaseState.REVOKED
        detail = _confirmation(confirmed)
        done = replace(lease, state=end, ended_at=self._clock.now(), detail=detail, next_attempt_at=0.0)
        await self._state.transact(lambda tx: tx.leases.replace(done, lease.state))

    async def _again(self, lease: Lease, now: float, why: str) -> None:
        """Try later; after several tries it is STUCK, which is an alarm, and still tried."""
        attempts = lease.attempts + 1
        wait = min(self._limits.backoff * 2 ** min(attempts - 1, 16), self._limits.backoff_most)
        stuck = attempts >= STUCK_AFTER
        later = replace(
            lease,
            state=LeaseState.STUCK if stuck else LeaseState.REVOKING,
            attempts=attempts,
            next_attempt_at=now + wait,
            detail=why[:200],
        )
        await self._state.transact(lambda tx: tx.leases.replace(later, lease.state))
        if stuck:
            self._on_stuck(later)

    # --- confirm and settle -----------------------------------------------------------------------

    async def _settle(self, now: float) -> None:
        for revocation in await self._state.read(lambda tx: tx.revocations.open(BATCH)):
            if revocation.expanded:
                await self._settle_one(revocation)

    async def _settle_one(self, revocation: Revocation) -> None:
        """The receipt: when nothing is left to clean, and every watcher knows or has failed closed."""
        now = self._clock.now()
        told = self._feed.told(revocation.last_seq)
        behind = {name: (all_of, of) for name, (all_of, of) in told.items() if of < all_of}
        if behind and now < revocation.at + self._limits.settle:
            return

        async def work(tx: Transaction) -> Revocation | None:
            leases = await _leases_of(tx, revocation)
            if any(lease.state.live for lease in leases):
                return None
            return _with_outcome(revocation, leases, told, now)

        outcome = await self._state.read(work)
        if outcome is None:
            return
        settled = replace(outcome, state=RevocationState.SETTLED)
        sealed = replace(settled, receipt=self._receipts.seal(receipt_payload(settled)))

        async def write(tx: Transaction) -> None:
            current = await tx.revocations.get(revocation.id)
            if current is not None and current.state is RevocationState.COMMITTED:
                await tx.revocations.put(replace(sealed, lifted_at=current.lifted_at))

        await self._state.transact(write)

    # --- prune ------------------------------------------------------------------------------------

    async def _prune(self, now: float) -> None:
        if now < self._prune_after:
            return
        self._prune_after = now + PRUNE_EVERY
        before = {entry.seq for entry in self._feed.denials.live()}
        if before and self._feed.denials.forget(now, now - self._limits.longest_life):
            gone = tuple(before.difference(entry.seq for entry in self._feed.denials.live()))
            await self._state.transact(lambda tx: tx.revocations.prune(gone))
        await self._state.transact(lambda tx: tx.replays.prune(now, BATCH * 10))


async def _expanded_selectors(tx: Transaction, selector: Selector) -> Sequence[Selector]:
    if selector.kind is not SelectorKind.PACKAGE:
        return (selector,)
    digests = await tx.manifests.digests_of_package(selector.value)
    return [Selector(SelectorKind.DIGEST, digest.hex()) for digest in digests]


def _expansion(revocation: Revocation, attestation_id: str, now: float) -> NewEntry:
    return NewEntry(
        kind=EntryKind.REVOKED,
        revocation_id=revocation.id,
        selector=Selector(SelectorKind.ATTESTATION, attestation_id),
        cut=True,
        ban=False,
        at=now,
        until=None,
        actor=revocation.actor,
        reason=revocation.reason,
        ticket=revocation.ticket,
        decision_id=revocation.decision_id,
        refers_to=revocation.first_seq,
    )


def _closing(revocation: Revocation, now: float) -> NewEntry:
    return NewEntry(
        kind=EntryKind.EXPANDED,
        revocation_id=revocation.id,
        selector=revocation.selector,
        cut=False,
        ban=False,
        at=now,
        until=None,
        actor=revocation.actor,
        reason=revocation.reason,
        decision_id=revocation.decision_id,
        refers_to=revocation.first_seq,
    )


async def _leases_of(tx: Transaction, revocation: Revocation) -> Sequence[Lease]:
    """Every lease that the revocation ended; bounded by what one revocation can hit."""
    selector = revocation.selector
    if selector.kind is SelectorKind.LEASE:
        found = await tx.leases.get(selector.value)
        return [found] if found is not None else []
    if selector.kind is SelectorKind.TOKEN:
        found = await tx.leases.by_handle(selector.value)
        return [found] if found is not None else []
    leases: list[Lease] = []
    after = ""
    while ids := await tx.revocations.hits(revocation.id, BATCH, after):
        for name in ids:
            leases.extend(await tx.leases.of_attestation(name))
        after = ids[-1]
    return leases


def _with_outcome(
    revocation: Revocation, leases: Sequence[Lease], told: Mapping[str, tuple[int, int]], now: float
) -> Revocation:
    steps = list(revocation.steps)
    watchers = ", ".join(
        f"{name or 'broker'}: {of} of {all_of}" for name, (all_of, of) in sorted(told.items())
    )
    steps.append(Step("told", now, f"acknowledged by {watchers}" if watchers else "nobody watches"))
    unconfirmed: list[Unconfirmed] = []
    cleaned = 0
    for lease in sorted(leases, key=lambda found: found.ended_at):
        if lease.ended_at < revocation.at:
            continue
        cleaned += 1
        if len(steps) < MAX_STEPS:
            steps.append(Step("cleaned", lease.ended_at, f"{lease.id} {lease.state}: {lease.detail}"))
        watching = told.get(lease.audience)
        if lease.revocability.value == "instant" and (watching is None or watching[1] < watching[0]):
            # A verifier that neither watches nor introspects sees only the signature.
            unconfirmed.append(
                Unconfirmed(lease.id, f"verifiers of {lease.audience!r} without the feed", lease.expires_at)
            )
        elif lease.detail.startswith(Confirmation.UNTIL_EXPIRY.value):
            unconfirmed.append(Unconfirmed(lease.id, lease.detail, lease.expires_at))
    steps.append(Step("confirmed", now, f"{cleaned} leases ended"))
    return replace(revocation, steps=tuple(steps), unconfirmed=tuple(unconfirmed[:MAX_STEPS]), leases=cleaned)


def _confirmation(confirmed: Confirmed) -> str:
    return f"{confirmed.result}: {confirmed.method}"
