"""Revoke: an operator takes trust back by selector, lifts a ban, or asks for the receipt."""

from __future__ import annotations

from collections.abc import Sequence

from broker.belonging import Belonging, outside
from broker.errors import Conflict, Denied, NotFound
from broker.ledger import Ledger, write_lift
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.identity import WorkloadIdentity
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
from broker.revoke.acting import Acting, check_texts
from lockstep.formats import Reason


class Revoker:
    """Raises `InvalidRequest` (selector, reason), `NotFound`, `Denied` (outside the scope of a right, or it takes more
    people), `Conflict`, `Unavailable`."""

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
        self._audit = audit
        self._acting = Acting(clock, entropy, roles, state, feed, ledger)

    async def revoke(self, order: RevokeOrder) -> RevokeAnswer:
        """Deny everything that a selector hits; durable when this returns.

        The size of what is written does not depend on what is hit: `Upkeep`
        enumerates. The counts are those of a look before the denial. On a dry run
        they are all that there is.
        """
        now = self._clock.now()
        plan = await self._acting.plan(order, now)
        if order.dry_run:
            seen = plan.seen
            return RevokeAnswer("", "", seen.head, len(seen.attestations), seen.leases, plan.preview)
        if order.needs > 1:
            raise Denied(
                Reason.NOT_ENTITLED,
                f"revoke:{order.selector.kind} takes {order.needs} operators: propose it, as lockstep revoke does",
            )
        answer = await self._acting.deny(plan, now)
        assert answer is not None  # noqa: S101 - nothing could call it off
        return answer

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
        check_texts(reason, ticket)
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
            if not reach.everything and not revocation.expanded:
                return "expanding"
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
            if result == "expanding":
                raise Conflict("what it hits is still being found: look again in a moment")
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
            # Before all that it hits is found there is nothing to tell, and nobody knows whose it is.
            if found.expanded and not await Belonging(tx, book, reach).owns_revocation(found):
                raise outside()
            return found

        revocation = await self._state.read(work)
        return revocation.receipt, revocation.state is RevocationState.SETTLED
