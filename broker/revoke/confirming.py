"""Confirm: another person agrees to what they are shown; the last one needed revokes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from broker.belonging import Belonging
from broker.errors import Conflict, Denied, InvalidRequest
from broker.model.caller import OperatorCaller
from broker.model.proposal import SHORTEST_NAME, Agreement, Preview, Proposal, ProposalState
from broker.model.requests import ConfirmAnswer, ConfirmOutcome, RevokeAnswer, RevokeOrder
from broker.ports import AuditLog, Clock, Entropy, RoleSource, StateStore, Transaction
from broker.revoke.acting import Acting, Plan
from broker.revoke.waiting import decision_of, exchange, hits, opened, over, right_of
from lockstep.formats import Reason

_ROUNDS: Final = 3
"""How often a confirmation looks again, because somebody else was faster."""


class Confirming:
    """As `Proposer.confirm`."""

    def __init__(
        self,
        clock: Clock,
        entropy: Entropy,
        roles: RoleSource,
        state: StateStore,
        audit: AuditLog,
        acting: Acting,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._roles = roles
        self._state = state
        self._audit = audit
        self._acting = acting

    async def confirm(
        self, caller: OperatorCaller, proposal_id: str, preview: str, *, dry_run: bool
    ) -> ConfirmAnswer:
        """Looks anew, and again where somebody else was faster."""
        if preview and not (
            len(preview) >= SHORTEST_NAME and set(preview.lower()) <= set("0123456789abcdef")
        ):
            raise InvalidRequest(f"preview: at least {SHORTEST_NAME} hexadecimal digits of its digest")
        for _ in range(_ROUNDS):
            now = self._clock.now()
            proposal, revoked = await self._open(caller, proposal_id, now)
            if dry_run and revoked is None:
                return await self._show(caller, proposal, now)
            answer = _before(caller, proposal, revoked)
            if answer is not None:
                return answer
            found = await self._agree(caller, proposal, preview, now)
            if found is not None:
                return found
        raise Conflict("others are deciding about it at this moment: look again")

    # --- steps ------------------------------------------------------------------------------------

    async def _open(
        self, caller: OperatorCaller, proposal_id: str, now: float
    ) -> tuple[Proposal, RevokeAnswer | None]:
        """A proposal that the caller's right is for; with what was revoked where the caller was among those who did."""
        book = self._roles.current()

        async def work(tx: Transaction) -> tuple[Proposal, RevokeAnswer | None]:
            found = await opened(tx, book, caller, proposal_id)
            done = await tx.revocations.get(proposal_id)
            if done is None:
                return found, None
            preview = found.preview
            head = replace(preview.head, seq=done.first_seq, hash=b"")
            entry = await tx.revocations.entry(done.first_seq)
            head = head if entry is None else replace(head, hash=entry.hash)
            return found, RevokeAnswer(
                done.id, done.decision_id, head, len(preview.attestations), preview.leases, preview
            )

        proposal, revoked = await self._state.read(work)
        name = caller.identity.name
        state = proposal.state_at(now)
        confirmed = name in proposal.people and proposal.agreed[0].identity != name
        if state is ProposalState.CONFIRMED and confirmed and revoked is not None:
            return proposal, revoked
        if state is not ProposalState.OPEN:
            raise over(proposal, state)
        if proposal.until is not None and proposal.until <= now:
            raise Conflict("its ban would have ended by now: withdraw it, and propose it anew")
        return proposal, None

    async def _show(self, caller: OperatorCaller, proposal: Proposal, now: float) -> ConfirmAnswer:
        order = self._order(caller, proposal)
        plan = await self._acting.plan(replace(order, dry_run=True), now)
        by_now = replace(proposal, preview=plan.preview)
        return ConfirmAnswer(ConfirmOutcome.SHOWN, by_now, before=proposal.preview)

    def _order(self, caller: OperatorCaller, proposal: Proposal) -> RevokeOrder:
        right = right_of(proposal)
        return RevokeOrder(
            selector=proposal.selector,
            actor=proposal.actors,
            reason=proposal.reason,
            ticket=proposal.ticket,
            until=proposal.until,
            ban=proposal.ban,
            reach=caller.reach(right),
            needs=max(proposal.needs, caller.needs(right)),
        )

    async def _agree(
        self, caller: OperatorCaller, proposal: Proposal, name: str, now: float
    ) -> ConfirmAnswer | None:
        """One more agreement, or why it counts for nothing; None where the proposal is not any more what it was."""
        order = self._order(caller, proposal)
        mine = Agreement(caller.actor, caller.identity.name, now, order.reach)
        plan = await self._acting.plan(order, now)
        # Whoever has confirmed less has not confirmed this. Who proposed it has proposed what it aims at.
        wider = proposal.preview.grown(plan.preview, leases=False)
        before = proposal.agreed[:1] if wider else proposal.agreed
        await self._check_reaches(proposal, before, plan.preview)
        agreed = replace(proposal, needs=order.needs, agreed=(*before, mine), grown=proposal.grown or wider)
        plan = replace(plan, order=replace(order, actor=agreed.actors))
        if plan.preview.named(name):
            # It is exactly what the caller has looked at, whoever proposed or saw what before.
            seen = replace(agreed, preview=replace(plan.preview, instances=()))
            return await self._count(proposal, seen, plan, now)
        named = proposal.preview.named(name)
        # Leases come and go with every rotation: whoever has looked twice agrees to the instances, or never could.
        if proposal.preview.grown(plan.preview, leases=not named):
            return await self._grown(proposal, plan.preview)
        if (proposal.grown or name) and not named:
            # What it hits is no more than the proposal's preview; that one has not been agreed to yet.
            shown = replace(proposal.preview, instances=plan.preview.instances)
            return ConfirmAnswer(
                ConfirmOutcome.GROWN, replace(proposal, preview=shown), before=proposal.preview
            )
        return await self._count(proposal, agreed, plan, now)

    async def _check_reaches(self, proposal: Proposal, before: Sequence[Agreement], preview: Preview) -> None:
        """Raises `Conflict` where it hits by now what somebody's agreement cannot reach."""
        book = self._roles.current()
        by_now = replace(proposal, preview=preview)

        async def work(tx: Transaction) -> bool:
            for item in before:
                if not await Belonging(tx, book, item.reach).owns_proposal(by_now):
                    return False
            return True

        if not await self._state.read(work):
            raise Conflict("it hits by now what is outside the scope of who agreed to it: propose it anew")

    async def _count(
        self, proposal: Proposal, agreed: Proposal, plan: Plan, now: float
    ) -> ConfirmAnswer | None:
        if len(agreed.agreed) < agreed.needs:
            return await self._wait(proposal, agreed, plan.preview, now)
        return await self._revoke(proposal, agreed, plan, now)

    async def _grown(self, proposal: Proposal, preview: Preview) -> ConfirmAnswer | None:
        wider = proposal.preview.grown(preview, leases=False)
        before = proposal.agreed[:1] if wider else proposal.agreed
        fresh = replace(proposal, preview=preview, grown=True, agreed=before)

        async def work(tx: Transaction) -> bool:
            return await exchange(tx, proposal, fresh)

        if not await self._state.transact(work):
            return None
        return ConfirmAnswer(ConfirmOutcome.GROWN, fresh, before=proposal.preview)

    async def _wait(
        self, proposal: Proposal, agreed: Proposal, preview: Preview, now: float
    ) -> ConfirmAnswer | None:
        said = f"agreed by {len(agreed.agreed)} of {agreed.needs}: {hits(preview)}"
        decision = decision_of(
            proposal, self._entropy.identifier("D", now), agreed.agreed[-1].actor, said, now
        )

        async def work(tx: Transaction) -> bool:
            if not await exchange(tx, proposal, agreed):
                return False
            await tx.decisions.add(decision)
            return True

        if not await self._state.transact(work):
            return None
        self._audit.record(decision)
        shown = replace(agreed, preview=replace(agreed.preview, instances=preview.instances))
        return ConfirmAnswer(ConfirmOutcome.WAITING, shown)

    async def _revoke(
        self, proposal: Proposal, agreed: Proposal, plan: Plan, now: float
    ) -> ConfirmAnswer | None:
        mine = agreed.agreed[-1]
        done = replace(
            agreed,
            state=ProposalState.CONFIRMED,
            ended_by=mine.actor,
            ended_at=now,
            ended_reason="confirmed",
        )
        others = ", ".join(item.actor for item in agreed.agreed[:-1])
        answer = await self._acting.deny(
            plan,
            now,
            revocation_id=proposal.id,
            note=f"proposed by {others}, confirmed by {mine.actor}; it was {proposal.decision_id}",
            first=lambda tx: exchange(tx, proposal, done),
        )
        return None if answer is None else ConfirmAnswer(ConfirmOutcome.REVOKED, done, answer)


def _before(caller: OperatorCaller, proposal: Proposal, revoked: RevokeAnswer | None) -> ConfirmAnswer | None:
    """The answer of somebody who has agreed before; None of somebody new. Raises `Denied` of who proposed it."""
    name = caller.identity.name
    if revoked is not None:
        return ConfirmAnswer(ConfirmOutcome.REVOKED, proposal, revoked)
    if proposal.agreed[0].identity == name:
        raise Denied(Reason.NOT_ENTITLED, "you have proposed it: another operator has to confirm")
    return ConfirmAnswer(ConfirmOutcome.WAITING, proposal) if name in proposal.people else None
