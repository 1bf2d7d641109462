"""Propose and confirm: a revocation that takes more than one operator, bound to what each was shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from broker.belonging import Belonging, outside
from broker.errors import Conflict, Denied, InvalidRequest, LimitExceeded, NotFound
from broker.ledger import Ledger
from broker.model.caller import OperatorCaller
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.proposal import SHORTEST_NAME, Agreement, Preview, Proposal, ProposalState
from broker.model.reach import Reach
from broker.model.requests import ConfirmAnswer, ConfirmOutcome, Page, RevokeAnswer, RevokeOrder
from broker.ports import AuditLog, Clock, Entropy, RevocationFeed, RoleSource, StateStore, Transaction
from broker.revoke.acting import Acting, Plan, check_texts
from lockstep.formats import Reason

_ROUNDS: Final = 3
"""How often a confirmation looks again, because somebody else was faster."""
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
            agreed=(Agreement(order.actor, order.identity, now),),
            preview=plan.preview,
            decision_id=self._entropy.identifier("D", now),
        )
        said = f"proposed, and takes {order.needs} operators: {_hits(plan.preview)}"
        decision = replace(
            _decision(proposal, proposal.decision_id, order.actor, said, now), effect=Effect.HELD
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

    async def confirm(self, caller: OperatorCaller, proposal_id: str, preview: str) -> ConfirmAnswer:
        """Another person agrees to what they are shown; the last one needed revokes, durably when this returns.

        What it would hit is looked at anew. Where that is more than the proposal's
        preview, nothing is agreed to: the proposal has the new one from then on,
        and whoever agrees to it names it (`preview`, the first digits of its digest).
        """
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

    async def withdraw(self, caller: OperatorCaller, proposal_id: str, reason: str) -> Proposal:
        """It ends without an effect. Whoever may confirm may do so, and who proposed it."""
        now = self._clock.now()
        check_texts(reason, "")
        book = self._roles.current()
        decision_id = self._entropy.identifier("D", now)

        async def work(tx: Transaction) -> tuple[Proposal, Decision | None]:
            found = await tx.proposals.get(proposal_id)
            if found is None:
                raise NotFound("no such proposal")
            _check_right(caller, found)
            if not await Belonging(tx, book, caller.reach(_right(found))).owns_proposal(found):
                raise outside()
            state = found.state_at(now)
            if state is ProposalState.WITHDRAWN:
                return found, None
            if state is not ProposalState.OPEN:
                raise _over(found, state)
            ended = replace(
                found,
                state=ProposalState.WITHDRAWN,
                ended_by=caller.actor,
                ended_at=now,
                ended_reason=reason,
            )
            decision = _decision(found, decision_id, caller.actor, f"withdrawn: {reason}", now)
            await tx.proposals.put(ended)
            await tx.decisions.add(decision)
            return ended, decision

        proposal, decision = await self._state.transact(work)
        if decision is not None:
            self._audit.record(decision)
        return _shown(proposal, now)

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
                _shown(item, now)
                for item in found
                if (not states or item.state_at(now) in states) and await belonging.sees_proposal(item)
            ]
            return Page(tuple(kept), found[-1].id if len(found) == limit else "")

        return await self._state.read(work)

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
            _check_right(caller, found)
            if not await Belonging(tx, book, caller.reach(_right(found))).owns_proposal(found):
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
            raise _over(proposal, state)
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
        right = _right(proposal)
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
            return await _exchange(tx, proposal, fresh)

        if not await self._state.transact(work):
            return None
        return ConfirmAnswer(ConfirmOutcome.GROWN, fresh, before=proposal.preview)

    async def _wait(
        self, proposal: Proposal, agreed: Proposal, preview: Preview, now: float
    ) -> ConfirmAnswer | None:
        said = f"agreed by {len(agreed.agreed)} of {agreed.needs}: {_hits(preview)}"
        decision = _decision(proposal, self._entropy.identifier("D", now), agreed.agreed[-1].actor, said, now)

        async def work(tx: Transaction) -> bool:
            if not await _exchange(tx, proposal, agreed):
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
            first=lambda tx: _exchange(tx, proposal, done),
        )
        return None if answer is None else ConfirmAnswer(ConfirmOutcome.REVOKED, done, answer)


async def _exchange(tx: Transaction, old: Proposal, new: Proposal) -> bool:
    """Write what a proposal is now; False where it is not any more what it was."""
    current = await tx.proposals.get(old.id)
    if current != old:
        return False
    await tx.proposals.put(new)
    return True


def _right(proposal: Proposal) -> str:
    return f"revoke:{proposal.selector.kind}"


def _check_right(caller: OperatorCaller, proposal: Proposal) -> None:
    if not caller.permits(_right(proposal)):
        raise Denied(Reason.NOT_ENTITLED, f"this needs the right {_right(proposal)!r}")


def _over(proposal: Proposal, state: ProposalState) -> Conflict:
    if state is ProposalState.EXPIRED:
        return Conflict("nobody has confirmed it in time: propose it anew")
    return Conflict(f"it was {state} by {proposal.ended_by}: nothing was changed")


def _shown(proposal: Proposal, now: float) -> Proposal:
    return replace(proposal, state=proposal.state_at(now))


def _hits(preview: Preview) -> str:
    count = len(preview.attestations)
    return f"{count} instances, {preview.leases} leases, preview {preview.digest.hex()[:SHORTEST_NAME]}"


def _decision(proposal: Proposal, decision_id: str, actor: str, said: str, now: float) -> Decision:
    hit: Sequence[str] = proposal.preview.attestations[:100]
    return Decision(
        id=decision_id,
        kind=DecisionKind.REVOKE,
        at=now,
        verdict=Reason.OK,
        effect=Effect.RECORDED,
        revocation_id=proposal.id,
        instances=tuple(hit),
        actor=actor,
        ticket=proposal.ticket,
        detail=f"{proposal.selector}: {proposal.reason}; {said}",
    )
