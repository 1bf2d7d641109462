"""Propose: a revocation that takes more than one operator waits for the others, bound to what it was seen to hit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from broker.belonging import Belonging
from broker.errors import LimitExceeded
from broker.ledger import Ledger
from broker.model.caller import OperatorCaller
from broker.model.decision import Decision, Effect
from broker.model.proposal import Agreement, Proposal, ProposalState
from broker.model.reach import Reach
from broker.model.requests import ConfirmAnswer, Page, RevokeOrder
from broker.ports import AuditLog, Clock, Entropy, RevocationFeed, RoleSource, StateStore, Transaction
from broker.revoke.acting import Acting, check_texts
from broker.revoke.confirming import Confirming
from broker.revoke.waiting import decision_of, hits, opened, over, shown

_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class ProposeLimits:
    """`lifetime` (seconds) is how long a proposal waits, `waiting` how many may at once."""

    lifetime: float = 3600.0
    waiting: int = 100


class Proposer:
    """Raises `InvalidRequest`, `NotFound`, `Denied` (a right, its scope, or one's own proposal), `Conflict` (it has
    ended), `LimitExceeded` (too many wait), `Unavailable`."""

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
        limits: ProposeLimits,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._roles = roles
        self._state = state
        self._audit = audit
        self._limits = limits
        self._acting = Acting(clock, entropy, roles, state, feed, ledger)
        self._confirming = Confirming(clock, entropy, roles, state, audit, self._acting)

    async def propose(self, order: RevokeOrder) -> Proposal:
        """Denies nobody: what it would hit is kept, with who has agreed, until the others have or its time is over."""
        now = self._clock.now()
        plan = await self._acting.plan(order, now)
        proposal = Proposal(
            id=self._entropy.identifier("V", now),
            state=ProposalState.OPEN,
            selector=order.selector,
            ban=plan.ban,
            until=order.until,
            reason=order.reason,
            ticket=order.ticket,
            at=now,
            expires_at=now + self._limits.lifetime,
            needs=order.needs,
            agreed=(Agreement(order.actor, order.identity, now, order.reach),),
            preview=plan.preview,
            decision_id=self._entropy.identifier("D", now),
        )
        said = f"proposed, and takes {order.needs} operators: {hits(plan.preview)}"
        decision = replace(
            decision_of(proposal, proposal.decision_id, order.actor, said, now), effect=Effect.HELD
        )

        async def work(tx: Transaction) -> bool:
            if await tx.proposals.waiting(now) >= self._limits.waiting:
                return False
            await tx.proposals.put(proposal)
            await tx.decisions.add(decision)
            return True

        if not await self._state.transact(work):
            raise LimitExceeded(f"{self._limits.waiting} proposals wait: withdraw some, or confirm them")
        self._audit.record(decision)
        return proposal

    async def confirm(
        self, caller: OperatorCaller, proposal_id: str, preview: str, *, dry_run: bool = False
    ) -> ConfirmAnswer:
        """Another person agrees to what they are shown; the last one needed revokes, durably when this returns.

        What it would hit is looked at anew. Where that is more than the proposal's
        preview, nothing is agreed to: the proposal has the new one from then on,
        and whoever agrees to it names it (`preview`, the first digits of its digest).
        On a dry run that is all: it is looked at, by whoever may confirm or has proposed it.
        """
        return await self._confirming.confirm(caller, proposal_id, preview, dry_run=dry_run)

    async def withdraw(self, caller: OperatorCaller, proposal_id: str, reason: str) -> Proposal:
        """It ends without an effect. Whoever may confirm may do so, and who proposed it."""
        now = self._clock.now()
        check_texts(reason, "")
        book = self._roles.current()
        decision_id = self._entropy.identifier("D", now)

        async def work(tx: Transaction) -> tuple[Proposal, Decision | None]:
            found = await opened(tx, book, caller, proposal_id)
            state = found.state_at(now)
            if state is ProposalState.WITHDRAWN:
                return found, None
            if state is not ProposalState.OPEN:
                raise over(found, state)
            ended = replace(
                found,
                state=ProposalState.WITHDRAWN,
                ended_by=caller.actor,
                ended_at=now,
                ended_reason=reason,
            )
            decision = decision_of(found, decision_id, caller.actor, f"withdrawn: {reason}", now)
            await tx.proposals.put(ended)
            await tx.decisions.add(decision)
            return ended, decision

        proposal, decision = await self._state.transact(work)
        if decision is not None:
            self._audit.record(decision)
        return shown(proposal, now)

    async def proposals(
        self, reach: Reach, states: frozenset[ProposalState], size: int, after: str
    ) -> Page[Proposal]:
        """Proposals in some states (empty: any), in id order. A page may be shorter than `size` and not be the last."""
        now = self._clock.now()
        limit = max(1, min(size, _PAGE))
        book = self._roles.current()

        async def work(tx: Transaction) -> Page[Proposal]:
            found = await tx.proposals.page(limit, after)
            belonging = Belonging(tx, book, reach)
            kept = [
                shown(item, now)
                for item in found
                if (not states or item.state_at(now) in states) and await belonging.sees_proposal(item)
            ]
            return Page(tuple(kept), found[-1].id if len(found) == limit else "")

        return await self._state.read(work)
