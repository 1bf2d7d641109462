"""Expand: from what a revocation names to the instances that it hits, and their leases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from broker.errors import Unavailable
from broker.ledger import wide_digests
from broker.model.attestation import AttestationState
from broker.model.revocation import (
    EntryKind,
    LogEntry,
    NewEntry,
    Revocation,
    RevocationState,
    Selector,
    SelectorKind,
)
from broker.model.step import Step
from broker.ports import RevocationFeed, StateStore, Transaction
from broker.upkeep.faults import Aside, OnFault
from broker.upkeep.limits import BATCH, UpkeepLimits

BEGUN = "cleaning"
"""The step that says: every lease that hung on it is being taken back."""


class Expansion:
    """Ends instances, and begins to end their leases, a batch a transaction."""

    def __init__(
        self, state: StateStore, feed: RevocationFeed, on_fault: OnFault, limits: UpkeepLimits
    ) -> None:
        self._state = state
        self._feed = feed
        self._aside = Aside(on_fault, limits.backoff_most)

    async def tick(self, now: float) -> bool:
        """One batch for each revocation that is not through; True where there is more."""
        more, after = False, ""
        while True:
            page = await self._committed(after)
            for revocation in page:
                if not self._aside.has(revocation.id, now):
                    more = await self._go_on(revocation, now) or more
            if len(page) < BATCH:
                return more
            after = page[-1].id

    async def _committed(self, after: str) -> Sequence[Revocation]:
        """Those that are through are CLEANING: however many wait for a receipt, none of them is read here."""
        return await self._state.read(lambda tx: tx.revocations.page(BATCH, after, RevocationState.COMMITTED))

    async def _go_on(self, revocation: Revocation, now: float) -> bool:
        try:
            if not revocation.expanded:
                return await self._expand(revocation, now)
            await self._begin(revocation, now)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this revocation's
            self._aside.put(revocation.id, f"expanding {revocation.id}", error, now)
        return False

    async def _expand(self, revocation: Revocation, now: float) -> bool:
        """A batch of what a wide selector hits; after the last one, say in the log that this was all."""

        async def work(tx: Transaction) -> tuple[bool, Sequence[LogEntry]]:
            current = await tx.revocations.get(revocation.id)
            if current is None or current.expanded:
                return False, ()
            ids = await _hit_by(tx, current)
            if ids:
                await tx.attestations.end(ids, AttestationState.REVOKED)
                begun = await tx.leases.begin_revoking(ids)
                await tx.accounts.begin_closing(ids, now)
                await tx.revocations.hit(current.id, ids)
                entries = await tx.revocations.append([_expansion(current, name, now) for name in ids])
                grown = replace(
                    current,
                    attestations=current.attestations + len(ids),
                    leases=current.leases + begun,
                    last_seq=entries[-1].seq,
                )
                await tx.revocations.put(grown)
                return True, entries
            entries = await tx.revocations.append([_closing(current, now)])
            step = Step("expanded", now, f"{current.attestations} instances")
            done = replace(current, expanded=True, steps=(*current.steps, step), last_seq=entries[-1].seq)
            await tx.revocations.put(done)
            return True, entries

        more, entries = await self._state.transact(work, urgent=True)
        self._feed.announce(entries)
        return more

    async def _begin(self, revocation: Revocation, now: float) -> None:
        """The leases of what was ended become REVOKING; then it is CLEANING, and this is not done again."""
        after, begun = "", 0
        while True:
            ids = await self._hits(revocation.id, after)
            if ids:
                begun += await self._begin_batch(ids, now)
                after = ids[-1]
            if len(ids) < BATCH:
                break

        async def work(tx: Transaction) -> None:
            current = await tx.revocations.get(revocation.id)
            if current is None or current.state is not RevocationState.COMMITTED:
                return
            step = Step(BEGUN, now, f"{current.leases + begun} leases")
            # An earlier broker said so by the step alone.
            said = any(step.name == BEGUN for step in current.steps)
            await tx.revocations.put(
                replace(
                    current,
                    state=RevocationState.CLEANING,
                    leases=current.leases + begun,
                    steps=current.steps if said else (*current.steps, step),
                )
            )

        await self._state.transact(work, urgent=True)

    async def _hits(self, revocation_id: str, after: str) -> Sequence[str]:
        return await self._state.read(lambda tx: tx.revocations.hits(revocation_id, BATCH, after))

    async def _begin_batch(self, ids: Sequence[str], now: float) -> int:
        async def work(tx: Transaction) -> int:
            await tx.accounts.begin_closing(ids, now)
            return await tx.leases.begin_revoking(ids)

        return await self._state.transact(work, urgent=True)


async def _hit_by(tx: Transaction, revocation: Revocation) -> list[str]:
    hit: dict[str, None] = {}
    for selector in await _selectors(tx, revocation.selector):
        after = ""
        while len(hit) < BATCH:
            page = await tx.attestations.alive_by(selector, BATCH, after)
            # A cut kills what was granted before it; what attested after it was judged with it in view.
            hit.update({found.id: None for found in page if found.as_of < revocation.first_seq})
            if len(page) < BATCH:
                break
            after = page[-1].id
    return list(hit)[:BATCH]


async def _selectors(tx: Transaction, selector: Selector) -> Sequence[Selector]:
    if selector.kind is not SelectorKind.PACKAGE:
        return (selector,)
    return [Selector(SelectorKind.DIGEST, digest.hex()) for digest in await wide_digests(tx, selector)]


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
