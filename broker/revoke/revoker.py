"""Revoke: an operator takes trust back by selector, lifts a ban, or asks for the receipt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from broker.belonging import Belonging, outside
from broker.errors import Conflict, InvalidRequest, NotFound
from broker.ledger import Denial, Ledger, Target, holds, instance_targets, write_lift
from broker.model.credential import LeaseState
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.identity import WorkloadIdentity
from broker.model.matching import selector_problem, text_problem
from broker.model.reach import EVERYTHING, Reach
from broker.model.requests import LiftAnswer, RevokeAnswer, RevokeOrder
from broker.model.revocation import (
    LogEntry,
    LogHead,
    Revocation,
    RevocationState,
    Selector,
    SelectorKind,
)
from broker.ports import AuditLog, Clock, Entropy, RevocationFeed, RoleSource, StateStore, Transaction
from broker.revoke.looking import Look, check_reach, look
from lockstep.formats import Reason


class Revoker:
    """Raises `InvalidRequest` (selector, reason), `NotFound`, `Denied` (outside the scope of a right), `Conflict`,
    `Unavailable`."""

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
        # Who says until when means a ban, also of what is only cut by default.
        usual = order.selector.kind.bans_by_default or order.until is not None
        ban = usual if order.ban is None else order.ban
        preview = await self._look(order, ban=ban)
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

    async def lift(
        self, revocation_id: str, actor: str, reason: str, ticket: str, reach: Reach = EVERYTHING
    ) -> LiftAnswer:
        """End the bans of a revocation. It is a log entry of its own and revives nothing.

        `reach` is that of the right: all that it bans has to be within.
        """
        now = self._clock.now()
        book = self._roles.current()
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
            if not await Belonging(tx, book, reach).owns_revocation(revocation, ban=True):
                return "outside"
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
            if result == "outside":
                raise outside()
            raise Conflict(
                "it was lifted before"
                if result == "lifted"
                else "there is no ban to lift: it was a cut, or it has ended"
            )
        entries, head = result
        self._feed.announce(entries)
        self._audit.record(decision)
        return LiftAnswer(decision.id, head)

    async def receipt(self, revocation_id: str, reach: Reach = EVERYTHING) -> tuple[bytes, bool]:
        """(DSSE envelope, True) once settled; (b"", False) before.

        It is signed as a whole: all that it tells of has to be within the `reach` of the right.
        """
        book = self._roles.current()

        async def work(tx: Transaction) -> Revocation:
            found = await tx.revocations.get(revocation_id)
            if found is None:
                raise NotFound("no such revocation")
            if not await Belonging(tx, book, reach).owns_revocation(found):
                raise outside()
            return found

        revocation = await self._state.read(work)
        return revocation.receipt, revocation.state is RevocationState.SETTLED

    # --- steps ------------------------------------------------------------------------------------

    async def _look(self, order: RevokeOrder, *, ban: bool) -> Look:
        book = self._roles.current()

        async def work(tx: Transaction) -> Look:
            seen = await look(tx, order.selector)
            await check_reach(tx, book, order.reach, order.selector, seen, ban=ban)
            return seen

        return await self._state.read(work)

    def _targets(
        self, order: RevokeOrder, preview: Look, ban: bool
    ) -> tuple[tuple[Target, ...], tuple[str, ...], bool]:
        """Log entries, instances that end at once, and whether more is to be found."""
        selector = order.selector
        own = Target(selector, cut=True, ban=ban, until=order.until)
        if selector.kind in (SelectorKind.LEASE, SelectorKind.TOKEN):
            return (own,), (), False
        if selector.kind is SelectorKind.ATTESTATION:
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
