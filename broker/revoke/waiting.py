"""What every step of a proposal keeps to: whose right it is, what it is by now, and what is put on record."""

from __future__ import annotations

from dataclasses import replace

from broker.belonging import Belonging, outside
from broker.errors import Conflict, Denied, NotFound
from broker.model.caller import OperatorCaller
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.proposal import SHORTEST_NAME, Preview, Proposal, ProposalState
from broker.model.role import RoleBook
from broker.ports import Transaction
from lockstep.formats import Reason


async def exchange(tx: Transaction, old: Proposal, new: Proposal) -> bool:
    """Write what a proposal is now; False where it is not any more what it was."""
    current = await tx.proposals.get(old.id)
    if current != old:
        return False
    await tx.proposals.put(new)
    return True


def right_of(proposal: Proposal) -> str:
    """The right that it takes."""
    return f"revoke:{proposal.selector.kind}"


async def opened(tx: Transaction, book: RoleBook, caller: OperatorCaller, proposal_id: str) -> Proposal:
    """A proposal that the caller may act on. Raises `NotFound`, `Denied` (not_entitled).

    The door asked for any right to revoke; it takes the one for what is aimed at.
    """
    found = await tx.proposals.get(proposal_id)
    if found is None:
        raise NotFound("no such proposal")
    right = right_of(found)
    if not caller.permits(right):
        raise Denied(Reason.NOT_ENTITLED, f"this needs the right {right!r}")
    if not await Belonging(tx, book, caller.reach(right)).owns_proposal(found):
        raise outside()
    return found


def over(proposal: Proposal, state: ProposalState) -> Conflict:
    """Why nothing can be said about it any more."""
    if state is ProposalState.EXPIRED:
        return Conflict("nobody has confirmed it in time: propose it anew")
    return Conflict(f"it was {state} by {proposal.ended_by}: nothing was changed")


def shown(proposal: Proposal, now: float) -> Proposal:
    """As it is at a moment."""
    return replace(proposal, state=proposal.state_at(now))


def hits(preview: Preview) -> str:
    """A preview in words, with its name."""
    count = len(preview.attestations)
    return f"{count} instances, {preview.leases} leases, preview {preview.digest.hex()[:SHORTEST_NAME]}"


def decision_of(proposal: Proposal, decision_id: str, actor: str, said: str, now: float) -> Decision:
    """One step, on record: nothing is denied by it."""
    return Decision(
        id=decision_id,
        kind=DecisionKind.REVOKE,
        at=now,
        verdict=Reason.OK,
        effect=Effect.RECORDED,
        revocation_id=proposal.id,
        instances=proposal.preview.attestations[:100],
        actor=actor,
        ticket=proposal.ticket,
        detail=f"{proposal.selector}: {proposal.reason}; {said}",
    )
