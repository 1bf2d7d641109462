"""RevocationService: revoke, lift, receipts; the watch has a room of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from broker.api.arrival import Call
from broker.api.convert import revocations as convert
from broker.api.convert.scalars import text
from broker.api.routes import Route, Stream, Unary, nobody
from broker.api.watching import WatchRoom, by_open
from broker.errors import Denied
from broker.model.caller import OperatorCaller
from broker.model.reach import Reach
from broker.model.requests import LiftAnswer, RevokeAnswer, RevokeOrder
from lockstep.formats import Reason
from lockstep.v1 import revocation_pb2 as pb

_SERVICE = "/lockstep.v1.RevocationService/"


class Revoker(Protocol):
    """What this room needs of `broker.revoke.Revoker`."""

    async def revoke(self, order: RevokeOrder) -> RevokeAnswer: ...
    async def lift(
        self, revocation_id: str, actor: str, reason: str, ticket: str, reach: Reach
    ) -> LiftAnswer: ...
    async def receipt(self, revocation_id: str, reach: Reach) -> tuple[bytes, bool]: ...


class RevocationRoom:
    """Operators revoke what their rights name; everybody watches what is theirs."""

    def __init__(self, revoker: Revoker, watch: WatchRoom) -> None:
        self._revoker = revoker
        self._watch = watch

    def routes(self) -> Mapping[str, Route]:
        """Full method to route."""
        return {
            _SERVICE + "Revoke": Unary(pb.RevokeRequest, self.revoke, nobody),
            _SERVICE + "Lift": Unary(pb.LiftRequest, self.lift, nobody),
            _SERVICE + "GetReceipt": Unary(pb.GetReceiptRequest, self.receipt, nobody),
            _SERVICE + "WatchRevocations": Stream(pb.WatchRevocationsRequest, self._watch.run, by_open),
        }

    async def revoke(self, request: pb.RevokeRequest, call: Call[OperatorCaller]) -> pb.RevokeResponse:
        """The door asked for any right to revoke; this selector's kind needs its own."""
        order = convert.revoke_order(request, call.caller)
        right = convert.revoke_right(order.selector)
        if not call.caller.permits(right):
            raise Denied(Reason.NOT_ENTITLED, f"this needs the right {right!r}")
        answer = await self._revoker.revoke(order)
        return pb.RevokeResponse(
            revocation_id=answer.revocation_id,
            decision_id=answer.decision_id,
            position=convert.head(answer.head),
            attestations=answer.attestations,
            leases=answer.leases,
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
