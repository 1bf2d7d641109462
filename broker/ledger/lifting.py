"""Ending the bans of a revocation, as a part of another transaction: entries of their own, which revive nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from broker.model.decision import Decision
from broker.model.revocation import EntryKind, LogEntry, Revocation
from broker.ports import Transaction

_PAGE: Final = 1000


async def entries_of(tx: Transaction, revocation: Revocation) -> Sequence[LogEntry]:
    """What a revocation wrote, as far as it is not pruned; other entries stand between its own."""
    found: list[LogEntry] = []
    after = revocation.first_seq - 1
    while page := await tx.revocations.since(after, _PAGE):
        found.extend(entry for entry in page if entry.body.revocation_id == revocation.id)
        after = page[-1].seq
        if after >= revocation.last_seq:
            break
    return found


async def write_lift(
    tx: Transaction, revocation: Revocation, decision: Decision, reason: str
) -> Sequence[LogEntry]:
    """Lift whatever a revocation bans, by a decision; empty where nothing is banned. Whoever commits announces them."""
    bans = [
        entry
        for entry in await entries_of(tx, revocation)
        if entry.body.kind is EntryKind.REVOKED and entry.body.ban
    ]
    if not bans:
        return ()
    lifted = [
        replace(
            entry.body,
            kind=EntryKind.LIFTED,
            cut=False,
            at=decision.at,
            until=None,
            actor=decision.actor,
            reason=reason,
            ticket=decision.ticket,
            decision_id=decision.id,
            refers_to=entry.seq,
        )
        for entry in bans
    ]
    written = await tx.revocations.append(lifted)
    await tx.revocations.put(replace(revocation, lifted_at=decision.at))
    return written
