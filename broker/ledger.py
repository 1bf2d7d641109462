"""Taking trust back: the one short transaction that every verb uses, however it came to the decision.

Order (protocol, "Revocation"): deny in memory, write, then tell. The
transaction's size does not depend on how many leases hang on what is revoked;
`Upkeep` enumerates those afterwards.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from broker.errors import LockstepError, Unavailable
from broker.model.attestation import Attestation, AttestationState
from broker.model.decision import Decision
from broker.model.evidence import CodeSet
from broker.model.revocation import (
    EntryKind,
    LogEntry,
    LogHead,
    NewEntry,
    Revocation,
    RevocationState,
    Selector,
    SelectorKind,
    taint,
)
from broker.model.role import AfterRevocation, Role
from broker.model.step import Step
from broker.ports import AuditLog, RevocationFeed, StateStore, Transaction


@dataclass(frozen=True, slots=True)
class Target:
    """One entry of a denial: what, and whether it cuts, bans, and until when (seconds, UTC).

    `audience` limits which resource servers see it, empty for all.
    """

    selector: Selector
    cut: bool
    ban: bool
    until: float | None = None
    audience: str = ""


@dataclass(frozen=True, slots=True)
class Denial:
    """Everything that one decision takes back.

    `targets` are the log entries, the first of which is what the revocation is
    aimed at; `attestations` are the instances that end in the same transaction;
    `wide` says that more may be hit, for `Upkeep` to find.
    """

    id: str
    targets: tuple[Target, ...]
    attestations: tuple[str, ...]
    wide: bool
    actor: str
    reason: str
    decision: Decision
    at: float
    ticket: str = ""
    detection_id: str = ""
    reported_at: float | None = None


@dataclass(frozen=True, slots=True)
class Denied:
    """A denial that is durable."""

    entries: tuple[LogEntry, ...]
    head: LogHead


def instance_targets(attestation: Attestation, roles: Sequence[Role]) -> tuple[Target, ...]:
    """What revoking one instance takes: the attestation, and the taint that outlives it.

    The strictest `after_revocation` of its roles decides whether an identity
    whose instances cannot be told apart waits for a lift.
    """
    hold = not roles or any(role.after_revocation is AfterRevocation.HOLD for role in roles)
    return (
        Target(Selector(SelectorKind.ATTESTATION, attestation.id), cut=True, ban=True),
        # Only what somebody else vouches for: what a workload says of its own place
        # may be the place of another, who must not fall with it.
        *(Target(selector, cut=False, ban=True) for selector in taint(attestation, hold=hold)),
    )


def quarantine_targets(
    attestation: Attestation, roles: Sequence[Role], until: float, *, certain: bool
) -> tuple[Target, ...]:
    """What a timed ban takes: as `instance_targets`, without a cut.

    The taint goes with it, or the instance would simply attest anew. Where it
    is not `certain` that this instance is meant, its identity stays free: that
    would stop all its siblings for a guess.
    """
    return tuple(
        replace(target, cut=False, until=until)
        for target in instance_targets(attestation, roles)
        if target.ban and (certain or target.selector.kind is not SelectorKind.IDENTITY)
    )


class Ledger:
    """Writes denials. Shared by the verbs; holds no state of its own."""

    def __init__(self, state: StateStore, feed: RevocationFeed, audit: AuditLog) -> None:
        self._state = state
        self._feed = feed
        self._audit = audit

    async def deny(
        self,
        denial: Denial,
        *,
        first: Callable[[Transaction], Awaitable[bool]] | None = None,
    ) -> Denied | None:
        """Deny in memory at once, then durably, then tell; None where `first` called it off.

        `first` runs at the head of the transaction (replay rows, a changed
        manifest) and returns False to write nothing. Raises `Unavailable` when
        the state cannot be written: memory goes on denying.
        """
        denials = self._feed.denials
        ticket = denials.anticipate(_bodies(denial))
        known = False
        try:

            async def work(tx: Transaction) -> Denied | None:
                if first is not None and not await first(tx):
                    return None
                return await write(tx, denial)

            denied = await self._state.transact(work, urgent=True)
            if denied is None:
                known = True
                return None
            self._feed.announce(denied.entries)
            # The entries deny from here on. Where they are still ahead of this replica's
            # view (an earlier commit is being announced), the view catches up first.
            known = denials.seq >= denied.entries[-1].seq or await self._caught_up(denied.entries[-1].seq)
            self._audit.record(denial.decision)
            return denied
        except LockstepError as error:
            # Anything else than an outage is a no: nothing was written.
            known = not isinstance(error, Unavailable)
            raise
        finally:
            # Without a known end (no answer, cancelled) memory goes on denying.
            if known:
                denials.settle(ticket)
            else:
                denials.unsure(ticket)

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


async def wide_digests(tx: Transaction, selector: Selector) -> Sequence[bytes]:
    """The unit digests that a digest or package selector means."""
    if selector.kind is SelectorKind.DIGEST:
        return (bytes.fromhex(selector.value),)
    return await tx.manifests.digests_of_package(selector.value)


async def loaded_hit(tx: Transaction, entries: Iterable[NewEntry], code: CodeSet) -> NewEntry | None:
    """The first entry that names a digest, or a package with a unit, of a code set."""
    loaded: frozenset[bytes] | None = None
    for entry in entries:
        loaded = loaded or frozenset(unit.digest for unit in code.units)
        if not loaded.isdisjoint(await wide_digests(tx, entry.selector)):
            return entry
    return None


async def wide_hit(tx: Transaction, entries: Iterable[NewEntry], attestation: Attestation) -> bool:
    """True where the recorded code set has what a digest or package entry names."""
    for entry in entries:
        digests = await wide_digests(tx, entry.selector)
        if digests and await tx.code.contains(attestation.code_set, digests):
            return True
    return False
