"""RevocationService: revoke, propose and confirm, lift, receipts; the watch has a room of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from broker.api.arrival import Call
from broker.api.convert import proposals as shown
from broker.api.convert import revocations as convert
from broker.api.convert.enums import PROPOSAL_STATE
from broker.api.convert.scalars import text
from broker.api.routes import Route, Stream, Unary, nobody
from broker.api.watching import WatchRoom, by_open
from broker.errors import Denied
from broker.model.caller import OperatorCaller
from broker.model.proposal import Proposal, ProposalState
from broker.model.reach import Reach
from broker.model.requests import ConfirmAnswer, LiftAnswer, Page, RevokeAnswer, RevokeOrder
from lockstep.formats import Reason
from lockstep.v1 import revocation_pb2 as pb

_SERVICE = "/lockstep.v1.RevocationService/"
_PAGE: Final = 100


class Revoker(Protocol):
    """What this room needs of `broker.revoke.Revoker`."""

    async def revoke(self, order: RevokeOrder) -> RevokeAnswer: ...
    async def lift(
        self, revocation_id: str, actor: str, reason: str, ticket: str, reach: Reach
    ) -> LiftAnswer: ...
    async def receipt(self, revocation_id: str, reach: Reach) -> tuple[bytes, bool]: ...


class Proposer(Protocol):
    """What this room needs of `broker.revoke.Proposer`."""

    async def propose(self, order: RevokeOrder) -> Proposal: ...
    async def confirm(
        self, caller: OperatorCaller, proposal_id: str, preview: str, *, dry_run: bool = False
    ) -> ConfirmAnswer: ...
    async def withdraw(self, caller: OperatorCaller, proposal_id: str, reason: str) -> Proposal: ...
    async def proposals(
        self, reach: Reach, states: frozenset[ProposalState], size: int, after: str
    ) -> Page[Proposal]: ...


class RevocationRoom:
    """Operators revoke what their rights name, alone or together; everybody watches what is theirs."""

    def __init__(self, revoker: Revoker, proposer: Proposer, watch: WatchRoom) -> None:
        self._revoker = revoker
        self._proposer = proposer
        self._watch = watch

    def routes(self) -> Mapping[str, Route]:
        """Full method to route."""
        return {
            _SERVICE + "Revoke": Unary(pb.RevokeRequest, self.revoke, nobody),
            _SERVICE + "ConfirmRevocation": Unary(pb.ConfirmRevocationRequest, self.confirm, nobody),
            _SERVICE + "WithdrawProposal": Unary(pb.WithdrawProposalRequest, self.withdraw, nobody),
            _SERVICE + "ListProposals": Unary(pb.ListProposalsRequest, self.proposals, nobody),
            _SERVICE + "Lift": Unary(pb.LiftRequest, self.lift, nobody),
            _SERVICE + "GetReceipt": Unary(pb.GetReceiptRequest, self.receipt, nobody),
            _SERVICE + "WatchRevocations": Stream(pb.WatchRevocationsRequest, self._watch.run, by_open),
        }

    async def revoke(self, request: pb.RevokeRequest, call: Call[OperatorCaller]) -> pb.RevokeResponse:
        """The door asked for any right to revoke; this selector's kind needs its own.

        What takes more than one operator is a proposal only for whoever knows what that is.
        """
        order = convert.revoke_order(request, call.caller)
        right = convert.revoke_right(order.selector)
        if not call.caller.permits(right):
            raise Denied(Reason.NOT_ENTITLED, f"this needs the right {right!r}")
        if order.needs > 1 and request.propose and not order.dry_run:
            return shown.proposed(await self._proposer.propose(order))
        return shown.revoked(await self._revoker.revoke(order))

    async def confirm(
        self, request: pb.ConfirmRevocationRequest, call: Call[OperatorCaller]
    ) -> pb.ConfirmRevocationResponse:
        """Another operator agrees."""
        proposal = text(request.proposal_id, "proposal_id", 128, empty=False)
        preview = text(request.preview, "preview", 64)
        answer = await self._proposer.confirm(call.caller, proposal, preview, dry_run=request.dry_run)
        return shown.confirm_response(answer)

    async def withdraw(
        self, request: pb.WithdrawProposalRequest, call: Call[OperatorCaller]
    ) -> pb.WithdrawProposalResponse:
        """A proposal ends without an effect."""
        proposal = text(request.proposal_id, "proposal_id", 128, empty=False)
        ended = await self._proposer.withdraw(call.caller, proposal, request.reason)
        return pb.WithdrawProposalResponse(proposal=shown.proposal(ended))

    async def proposals(
        self, request: pb.ListProposalsRequest, call: Call[OperatorCaller]
    ) -> pb.ListProposalsResponse:
        """What waits, and how the others ended."""
        states = frozenset(PROPOSAL_STATE.model(state) for state in request.states)
        after = text(request.page_token, "page_token", 128)
        reach = call.caller.reach("read")
        page = await self._proposer.proposals(reach, states, request.page_size or _PAGE, after)
        return pb.ListProposalsResponse(
            proposals=[shown.proposal(item) for item in page.items], next_page_token=page.next
        )

    async def lift(self, request: pb.LiftRequest, call: Call[OperatorCaller]) -> pb.LiftResponse:
        """End the bans of a revocation."""
        revocation = text(request.revocation_id, "revocation_id", 128, empty=False)
        answer = await self._revoker.lift(
            revocation, call.caller.actor, request.reason, request.ticket, call.caller.reach("lift")
        )
        return pb.LiftResponse(decision_id=answer.decision_id, position=convert.head(answer.head))

    async def receipt(
        self, request: pb.GetReceiptRequest, call: Call[OperatorCaller]
    ) -> pb.GetReceiptResponse:
        """The signed account, once settled."""
        revocation = text(request.revocation_id, "revocation_id", 128, empty=False)
        envelope, complete = await self._revoker.receipt(revocation, call.caller.reach("read"))
        return pb.GetReceiptResponse(envelope=envelope, complete=complete)
