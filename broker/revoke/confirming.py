"""Confirm: another person agrees to what they are shown; the last one needed revokes."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from broker.belonging import Belonging, outside
from broker.errors import Conflict, Denied, InvalidRequest, NotFound
from broker.model.caller import OperatorCaller
from broker.model.proposal import SHORTEST_NAME, Agreement, Preview, Proposal, ProposalState
from broker.model.requests import ConfirmAnswer, ConfirmOutcome, RevokeAnswer, RevokeOrder
from broker.ports import AuditLog, Clock, Entropy, RoleSource, StateStore, Transaction
from broker.revoke.acting import Acting, Plan
from broker.revoke.waiting import check_right, decision_of, exchange, hits, over, right_of
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

    async def confirm(self, caller: OperatorCaller, proposal_id: str, preview: str) -> ConfirmAnswer:
        """Looks anew, and again where somebody else was faster."""
        if preview and not (
            len(preview) >= SHORTEST_NAME and set(preview.lower()) <= set("0123456789abcdef")
        ):
            raise InvalidRequest(f"preview: at least {SHORTEST_NAME} hexadecimal digits of its digest")
        for _ in range(_ROUNDS):
            now = self._clock.now()
            proposal, answer = await self._open(caller, proposal_id, now)
            if answer is not None:
                return answer
            found = await self._agree(caller, proposal, preview, now)
            if found is not None:
                return found
        raise Conflict("others are deciding about it at this moment: look again")

    # --- steps ------------------------------------------------------------------------------------

    async def _open(
        self, caller: OperatorCaller, proposal_id: str, now: float
    ) -> tuple[Proposal, ConfirmAnswer | None]:
        """A proposal that the caller may agree to; with the answer where it has done so before."""
        book = self._roles.current()

        async def work(tx: Transaction) -> tuple[Proposal, RevokeAnswer | None]:
            found = await tx.proposals.get(proposal_id)
            if found is None:
                raise NotFound("no such proposal")
            check_right(caller, found)
            if not await Belonging(tx, book, caller.reach(right_of(found))).owns_proposal(found):
                raise outside()
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
        mine = name in proposal.people
        if state is ProposalState.CONFIRMED and mine and proposal.agreed[0].identity != name:
            return proposal, ConfirmAnswer(ConfirmOutcome.REVOKED, proposal, revoked)
        if state is not ProposalState.OPEN:
            raise over(proposal, state)
        if proposal.agreed[0].identity == name:
            raise Denied(Reason.NOT_ENTITLED, "you have proposed it: another operator has to confirm")
        if mine:
            return proposal, ConfirmAnswer(ConfirmOutcome.WAITING, proposal)
        if proposal.until is not None and proposal.until <= now:
            raise Conflict("its ban would have ended by now: withdraw it, and propose it anew")
        return proposal, None

    async def _agree(
        self, caller: OperatorCaller, proposal: Proposal, name: str, now: float
    ) -> ConfirmAnswer | None:
        """One more agreement, or why it counts for nothing; None where the proposal is not any more what it was."""
        mine = Agreement(caller.actor, caller.identity.name, now)
        right = right_of(proposal)
        needs = max(proposal.needs, caller.needs(right))
        agreed = replace(proposal, needs=needs, agreed=(*proposal.agreed, mine))
        order = RevokeOrder(
            selector=proposal.selector,
            actor=agreed.actors,
            reason=proposal.reason,
            ticket=proposal.ticket,
            until=proposal.until,
            ban=proposal.ban,
            reach=caller.reach(right),
            needs=needs,
        )
        plan = await self._acting.plan(order, now)
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
        if len(agreed.agreed) < needs:
            return await self._wait(proposal, agreed, plan.preview, now)
        return await self._revoke(proposal, agreed, plan, now)

    async def _grown(self, proposal: Proposal, preview: Preview) -> ConfirmAnswer | None:
        fresh = replace(proposal, preview=preview, grown=True)

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
        others = ", ".join(item.actor for item in proposal.agreed)
        answer = await self._acting.deny(
            plan,
            now,
            revocation_id=proposal.id,
            note=f"proposed by {others}, confirmed by {mine.actor}; it was {proposal.decision_id}",
            first=lambda tx: exchange(tx, proposal, done),
        )
        return None if answer is None else ConfirmAnswer(ConfirmOutcome.REVOKED, done, answer)
