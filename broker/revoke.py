"""Revoke: an operator takes trust back by selector, lifts a ban, or asks for the receipt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from broker.errors import Conflict, InvalidRequest, NotFound
from broker.ledger import Denial, Ledger, Target, holds, instance_targets, write_lift
from broker.model.attestation import Attestation
from broker.model.credential import Lease, LeaseState
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.identity import WorkloadIdentity
from broker.model.matching import selector_problem, text_problem
from broker.model.requests import LiftAnswer, RevokeAnswer, RevokeOrder
from broker.model.revocation import (
    LogEntry,
    LogHead,
    RevocationState,
    Selector,
    SelectorKind,
)
from broker.ports import AuditLog, Clock, Entropy, RevocationFeed, RoleSource, StateStore, Transaction
from lockstep.formats import Reason

PREVIEW_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class _Preview:
    attestations: tuple[Attestation, ...]
    leases: int
    lease: Lease | None = None


class Revoker:
    """Raises `InvalidRequest` (selector, reason), `NotFound`, `Conflict`, `Unavailable`."""

    def __init__(
        self,
        *,
        clock: Clock,
        entropy: Entropy,
        roles: RoleSource,
        state: StateStore,
        feed: RevocationFeed,
        ledger: Ledger,
        audit: AuditLog,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._roles = roles
        self._state = state
        self._feed = feed
        self._ledger = ledger
        self._audit = audit

    async def revoke(self, order: RevokeOrder) -> RevokeAnswer:
        """Deny everything that a selector hits; durable when this returns.

        The size of what is written does not depend on what is hit: `Upkeep`
        enumerates. The counts are those of a look before the denial.
        """
        now = self._clock.now()
        _check_texts(order.reason, order.ticket)
        problem = selector_problem(order.selector)
        if problem:
            raise InvalidRequest(f"selector {order.selector.kind}: {problem}")
        if order.until is not None and order.until <= now:
            raise InvalidRequest("until: lies in the past")
        if order.until is not None and order.ban is False:
            raise InvalidRequest("until: says how long a ban holds, and this is a cut alone")
        preview = await self._preview(order.selector)
        # Who says until when means a ban, also of what is only cut by default.
        usual = order.selector.kind.bans_by_default or order.until is not None
        ban = usual if order.ban is None else order.ban
        targets, ended, wide = self._targets(order, preview, ban)
        # Here, not before: what would be refused is refused on a dry run too.
        if order.dry_run:
            return RevokeAnswer("", "", self._feed.denials.head, len(preview.attestations), preview.leases)
        decision = Decision(
            id=self._entropy.identifier("D", now),
            kind=DecisionKind.REVOKE,
            at=now,
            verdict=Reason.REVOKED,
            effect=Effect.REVOKED,
            attestation_id=ended[0] if len(ended) == 1 else "",
            identity=preview.attestations[0].identity.name if len(preview.attestations) == 1 else "",
            revocation_id=self._entropy.identifier("V", now),
            instances=tuple(found.id for found in preview.attestations[:100]),
            actor=order.actor,
            ticket=order.ticket,
            detail=f"{order.selector}: {order.reason}",
        )

        async def first(tx: Transaction) -> bool:
            if preview.lease is not None:
                current = await tx.leases.get(preview.lease.id)
                if current is not None and current.state in (LeaseState.PENDING, LeaseState.ACTIVE):
                    ending = replace(current, state=LeaseState.REVOKING, next_attempt_at=now)
                    await tx.leases.replace(ending, current.state)
            return True

        denied = await self._ledger.deny(
            Denial(
                id=decision.revocation_id,
                targets=targets,
                attestations=ended,
                wide=wide,
                actor=order.actor,
                reason=order.reason,
                ticket=order.ticket,
                decision=decision,
                at=now,
            ),
            first=first,
        )
        head = denied.head if denied is not None else self._feed.denials.head
        return RevokeAnswer(
            decision.revocation_id, decision.id, head, len(preview.attestations), preview.leases
        )

    async def revoke_token(self, token_id: str, actor: str, identity: WorkloadIdentity) -> None:
        """RFC 7009: the holder takes its token back. One that is unknown or another's is no error.

        A revocation like any other: verifiers that follow the log refuse the token at once.
        """
        lease = await self._state.read(lambda tx: tx.leases.by_handle(token_id))
        if lease is None or lease.identity != identity.name or not lease.state.live:
            return
        selector = Selector(SelectorKind.TOKEN, token_id)
        await self.revoke(RevokeOrder(selector, actor, "taken back by its holder"))

    async def lift(self, revocation_id: str, actor: str, reason: str, ticket: str) -> LiftAnswer:
        """End the bans of a revocation. It is a log entry of its own and revives nothing."""
        now = self._clock.now()
        _check_texts(reason, ticket)
        decision = Decision(
            id=self._entropy.identifier("D", now),
            kind=DecisionKind.LIFT,
            at=now,
            verdict=Reason.OK,
            effect=Effect.LIFTED,
            revocation_id=revocation_id,
            actor=actor,
            ticket=ticket,
            detail=reason,
        )

        async def work(tx: Transaction) -> tuple[Sequence[LogEntry], LogHead] | str:
            revocation = await tx.revocations.get(revocation_id)
            if revocation is None:
                return "missing"
            if revocation.lifted_at:
                return "lifted"
            written = await write_lift(tx, revocation, decision, reason)
            if not written:
                return "no ban"
            await tx.decisions.add(decision)
            return written, await tx.revocations.head()

        result = await self._state.transact(work, urgent=True)
        if isinstance(result, str):
            if result == "missing":
                raise NotFound("no such revocation")
            raise Conflict(
                "it was lifted before"
                if result == "lifted"
                else "there is no ban to lift: it was a cut, or it has ended"
            )
        entries, head = result
        self._feed.announce(entries)
        self._audit.record(decision)
        return LiftAnswer(decision.id, head)

    async def receipt(self, revocation_id: str) -> tuple[bytes, bool]:
        """(DSSE envelope, True) once settled; (b"", False) before."""
        revocation = await self._state.read(lambda tx: tx.revocations.get(revocation_id))
        if revocation is None:
            raise NotFound("no such revocation")
        return revocation.receipt, revocation.state is RevocationState.SETTLED

    # --- steps ------------------------------------------------------------------------------------

    async def _preview(self, selector: Selector) -> _Preview:
        async def work(tx: Transaction) -> _Preview:
            if selector.kind in (SelectorKind.LEASE, SelectorKind.TOKEN):
                look = tx.leases.get if selector.kind is SelectorKind.LEASE else tx.leases.by_handle
                lease = await look(selector.value)
                if lease is None:
                    return _Preview((), 0)
                return _Preview((), 1 if lease.state.live else 0, lease)
            selectors: Sequence[Selector] = (selector,)
            if selector.kind is SelectorKind.PACKAGE:
                digests = await tx.manifests.digests_of_package(selector.value)
                selectors = [Selector(SelectorKind.DIGEST, digest.hex()) for digest in digests]
            found: dict[str, Attestation] = {}
            for one in selectors:
                for attestation in await tx.attestations.alive_by(one, PREVIEW_LIMIT):
                    found[attestation.id] = attestation
                if len(found) >= PREVIEW_LIMIT:
                    break
            return _Preview(tuple(found.values()), await tx.leases.unsettled(tuple(found)))

        preview = await self._state.read(work)
        instance = selector.kind in (SelectorKind.LEASE, SelectorKind.TOKEN)
        if instance and preview.lease is None:
            raise NotFound(f"no such {selector.kind}")
        return preview

    def _targets(
        self, order: RevokeOrder, preview: _Preview, ban: bool
    ) -> tuple[tuple[Target, ...], tuple[str, ...], bool]:
        """Log entries, instances that end at once, and whether more is to be found."""
        selector = order.selector
        own = Target(selector, cut=True, ban=ban, until=order.until)
        if selector.kind in (SelectorKind.LEASE, SelectorKind.TOKEN):
            return (own,), (), False
        if selector.kind is SelectorKind.ATTESTATION:
            if not preview.attestations:
                raise NotFound("no living attestation of this id")
            attestation = preview.attestations[0]
            roles = self._roles.current().roles_for(attestation.identity)
            taints = instance_targets(attestation, hold=holds(roles))[1:] if ban else ()
            bounded = tuple(replace(target, until=order.until) if target.ban else target for target in taints)
            return (own, *bounded), (attestation.id,), False
        return (own,), (), True


def _check_texts(reason: str, ticket: str) -> None:
    problem = text_problem(reason, ticket)
    if problem:
        raise InvalidRequest(problem)
