"""Taking trust back: the one short transaction that every verb uses, however it came to the decision.

Order (protocol, "Revocation"): deny in memory, write, then tell. The
transaction's size does not depend on how many leases hang on what is revoked;
`Upkeep` enumerates those afterwards.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

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
    Step,
    process_value,
    taint,
)
from broker.model.role import AfterRevocation, Role
from broker.ports import AuditLog, RevocationFeed, StateStore, Transaction


@dataclass(frozen=True, slots=True)
class Target:
    """One entry of a denial: what, and whether it cuts, bans, and until when (seconds, UTC)."""

    selector: Selector
    cut: bool
    ban: bool
    until: float | None = None


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
    """What revoking one instance takes: the attestation, its process, and the taint that outlives it.

    The strictest `after_revocation` of its roles decides whether an identity
    whose instances cannot be told apart waits for a lift.
    """
    hold = not roles or any(role.after_revocation is AfterRevocation.HOLD for role in roles)
    found = [Target(Selector(SelectorKind.ATTESTATION, attestation.id), cut=True, ban=True)]
    banned = taint(attestation, hold=hold)
    found.extend(Target(selector, cut=False, ban=True) for selector in banned)
    where = attestation.whereabouts
    if where.exact():
        process = Selector(SelectorKind.PROCESS, process_value(where))
        if process not in banned:
            # A workload's own word about its process: good enough to answer a second
            # report with "already revoked", not to ban anybody.
            found.append(Target(process, cut=True, ban=False))
    return tuple(found)


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
        selectors = [target.selector for target in denial.targets]
        self._feed.denials.anticipate(selectors)

        async def work(tx: Transaction) -> tuple[tuple[LogEntry, ...], LogHead] | None:
            if first is not None and not await first(tx):
                return None
            written = await tx.revocations.append([_entry(denial, target) for target in denial.targets])
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
                    first_seq=written[0].seq,
                    last_seq=written[-1].seq,
                    steps=_first_steps(denial),
                    attestations=len(denial.attestations),
                    expanded=not denial.wide,
                )
            )
            await tx.revocations.hit(denial.id, denial.attestations)
            await tx.decisions.add(denial.decision)
            return tuple(written), await tx.revocations.head()

        result = await self._state.transact(work, urgent=True)
        if result is None:
            self._feed.denials.settle_anticipated(selectors)
            return None
        entries, head = result
        self._feed.announce(entries)
        # The entries deny from here on. Where they are still ahead of this replica's
        # view (an earlier commit is being announced), the view catches up first.
        if self._feed.denials.seq < entries[-1].seq:
            await self._feed.catch_up()
        self._feed.denials.settle_anticipated(selectors)
        self._audit.record(denial.decision)
        return Denied(entries, head)


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
    )


def _first_steps(denial: Denial) -> tuple[Step, ...]:
    steps = []
    if denial.reported_at is not None:
        steps.append(Step("reported", denial.reported_at, denial.actor))
    steps.append(Step("denied", denial.at, "memory; durable with this entry"))
    return tuple(steps)


async def loaded_banned(tx: Transaction, bans: Sequence[LogEntry], code: CodeSet) -> bool:
    """True where the code set has a digest, or a unit of a package, that one of the entries names."""
    if not bans:
        return False
    loaded = {unit.digest for unit in code.units}
    for entry in bans:
        selector = entry.body.selector
        if selector.kind is SelectorKind.DIGEST:
            if bytes.fromhex(selector.value) in loaded:
                return True
        elif not loaded.isdisjoint(await tx.manifests.digests_of_package(selector.value)):
            return True
    return False


async def wide_hit(tx: Transaction, entries: Sequence[LogEntry], attestation: Attestation) -> bool:
    """True where the recorded code set has what a digest or package entry names."""
    for entry in entries:
        selector = entry.body.selector
        if selector.kind is SelectorKind.DIGEST:
            digests: Sequence[bytes] = (bytes.fromhex(selector.value),)
        else:
            digests = await tx.manifests.digests_of_package(selector.value)
        if digests and await tx.code.contains(attestation.code_set, digests):
            return True
    return False
