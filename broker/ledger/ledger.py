"""Writes denials: in memory at once, then durably, then to everybody who watches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from broker.errors import LockstepError, Unavailable
from broker.ledger.denial import Denial, Denied, Target
from broker.ledger.undecided import Undecided
from broker.model.attestation import AttestationState
from broker.model.revocation import EntryKind, NewEntry, Revocation, RevocationState
from broker.model.step import Step
from broker.ports import AuditLog, RevocationFeed, StateStore, Transaction

T = TypeVar("T")

PATIENCE: Final = 1.0
"""Seconds that an answer waits for denials that are being written; a commit takes milliseconds."""
ROUNDS: Final = 3
"""How often it looks again: others may be decided while it waits."""


class Ledger:
    """Shared by the verbs. Knows which denials are being written by this process."""

    def __init__(self, state: StateStore, feed: RevocationFeed, audit: AuditLog) -> None:
        self._state = state
        self._feed = feed
        self._audit = audit
        self._deciding: set[asyncio.Future[None]] = set()
        self._under_way: set[asyncio.Task[Denied | None]] = set()

    async def deny(
        self,
        denial: Denial,
        *,
        first: Callable[[Transaction], Awaitable[bool]] | None = None,
    ) -> Denied | None:
        """Deny in memory at once, then durably, then tell; None where `first` called it off.

        `first` runs at the head of the transaction (replay rows, caps, a changed
        manifest) and returns False to write nothing. Until then memory refuses
        and ends nothing. Raises `Unavailable` when the state cannot be written:
        memory goes on refusing.

        It goes on to its end where its caller is cancelled: who hangs up at the
        commit takes nothing from the record, and leaves nothing in doubt.
        """
        task = asyncio.create_task(self._deny(denial, first), name="deny")
        self._under_way.add(task)
        task.add_done_callback(self._through)
        return await asyncio.shield(task)

    def _through(self, task: asyncio.Task[Denied | None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited was told; nobody may be left

    async def _deny(
        self, denial: Denial, first: Callable[[Transaction], Awaitable[bool]] | None
    ) -> Denied | None:
        denials = self._feed.denials
        ticket = denials.anticipate(_bodies(denial))
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._deciding.add(ended)
        known = False
        last = 0
        try:

            async def work(tx: Transaction) -> Denied | None:
                if first is not None and not await first(tx):
                    return None
                return await write(tx, denial)

            denied = await self._state.transact(work, urgent=True)
            if denied is None:
                known = True
                return None
            last = denied.entries[-1].seq
            self._feed.announce(denied.entries)
            # The entries deny from here on. Where they are still ahead of this replica's
            # view (an earlier commit is being announced), the view catches up first.
            known = denials.seq >= last or await self._caught_up(last)
            self._audit.record(denial.decision)
            return denied
        except LockstepError as error:
            # Anything else than an outage is a no: nothing was written.
            known = not isinstance(error, Unavailable)
            raise
        finally:
            # Without a known end (no answer, cancelled) memory goes on denying. What was applied meanwhile says it all.
            if known or 0 < last <= denials.seq:
                denials.settle(ticket)
            else:
                denials.unsure(ticket)
            self._deciding.discard(ended)
            ended.set_result(None)

    async def once_decided(self, call: Callable[[], Awaitable[T]]) -> T:
        """What `call` gives; where it raises `Undecided`, again after the denials that are being written now.

        Raises `Undecided` where they take longer than `PATIENCE`, or nobody
        knows whether they were written; `Unavailable`.
        """
        for _ in range(ROUNDS):
            try:
                return await call()
            except Undecided:
                if not await self._decided():
                    raise
        return await call()

    async def _decided(self) -> bool:
        """Wait for what is being written now, or look whether what nobody knew of was; False where nothing is known."""
        if self._deciding:
            _, late = await asyncio.wait(self._deciding, timeout=PATIENCE)
            return not late
        before = self._feed.denials.seq
        return await self._feed.catch_up() > before

    async def _caught_up(self, seq: int) -> bool:
        try:
            return await self._feed.catch_up() >= seq
        except Unavailable:
            return False  # durable all the same; the feed's age says the rest


def _bodies(denial: Denial) -> Sequence[NewEntry]:
    return [_entry(denial, target) for target in dict.fromkeys(denial.targets)]


async def write(tx: Transaction, denial: Denial) -> Denied:
    """A denial as a part of another transaction; whoever commits that announces the entries.

    Memory denies only from then on: for what a holder gives up, where nothing is urgent.
    """
    entries = tuple(await tx.revocations.append(_bodies(denial)))
    await tx.attestations.end(denial.attestations, AttestationState.REVOKED)
    target = denial.targets[0]
    await tx.revocations.put(
        Revocation(
            id=denial.id,
            selector=target.selector,
            cut=target.cut,
            ban=target.ban,
            state=RevocationState.COMMITTED,
            actor=denial.actor,
            reason=denial.reason,
            ticket=denial.ticket,
            decision_id=denial.decision.id,
            detection_id=denial.detection_id,
            at=denial.at,
            until=target.until,
            first_seq=entries[0].seq,
            last_seq=entries[-1].seq,
            steps=_first_steps(denial),
            attestations=len(denial.attestations),
            expanded=not denial.wide,
        )
    )
    await tx.revocations.hit(denial.id, denial.attestations)
    await tx.decisions.add(denial.decision)
    return Denied(entries, await tx.revocations.head())


def _entry(denial: Denial, target: Target) -> NewEntry:
    return NewEntry(
        kind=EntryKind.REVOKED,
        revocation_id=denial.id,
        selector=target.selector,
        cut=target.cut,
        ban=target.ban,
        at=denial.at,
        until=target.until,
        actor=denial.actor,
        reason=denial.reason,
        ticket=denial.ticket,
        decision_id=denial.decision.id,
        audience=target.audience,
    )


def _first_steps(denial: Denial) -> tuple[Step, ...]:
    steps = []
    if denial.reported_at is not None:
        steps.append(Step("reported", denial.reported_at, denial.actor))
    steps.append(Step("denied", denial.at, "memory; durable with this entry"))
    return tuple(steps)
