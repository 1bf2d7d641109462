"""OversightService: pages of what there is, and a person's word on what is held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from broker.api.access import GRPC
from broker.api.arrival import Call
from broker.api.convert import oversight as convert
from broker.api.convert.enums import ATTESTATION_STATE, DETECTION_STATE, REVOCATION_STATE
from broker.api.convert.scalars import digest, from_timestamp, text
from broker.api.routes import Route, Unary, nobody
from broker.model.attestation import Attestation, AttestationState
from broker.model.caller import OperatorCaller
from broker.model.decision import Decision
from broker.model.detection import DetectionRecord, DetectionState
from broker.model.reach import Reach
from broker.model.requests import AttestationQuery, Page
from broker.model.revocation import Revocation, RevocationState
from lockstep.v1 import oversight_pb2 as pb

_SERVICE = "/lockstep.v1.OversightService/"
_PAGE: Final = 100


class Overseer(Protocol):
    """What this room needs of `broker.oversee.Overseer`."""

    async def attestations(
        self,
        reach: Reach,
        query: AttestationQuery,
        states: frozenset[AttestationState],
        size: int,
        after: str,
    ) -> Page[Attestation]: ...
    async def detections(
        self, reach: Reach, states: Sequence[DetectionState], since: float, size: int, after: str
    ) -> Page[DetectionRecord]: ...
    async def revocations(
        self, reach: Reach, states: frozenset[RevocationState], since: float, size: int, after: str
    ) -> Page[Revocation]: ...
    async def decisions(self, reach: Reach, since: float, size: int, after: str) -> Page[Decision]: ...


class Approver(Protocol):
    """What this room needs of `broker.report.Approver`."""

    async def approve(
        self, caller: OperatorCaller, detection_id: str, reason: str, ticket: str
    ) -> DetectionRecord: ...
    async def dismiss(
        self, caller: OperatorCaller, detection_id: str, reason: str, ticket: str
    ) -> DetectionRecord: ...


class OversightRoom:
    """The door has asked for the right."""

    def __init__(self, overseer: Overseer, approver: Approver) -> None:
        self._overseer = overseer
        self._approver = approver

    def routes(self) -> Mapping[str, Route]:
        """Full method to route."""
        return {
            _SERVICE + "ListAttestations": Unary(pb.ListAttestationsRequest, self.attestations, nobody),
            _SERVICE + "ListDetections": Unary(pb.ListDetectionsRequest, self.detections, nobody),
            _SERVICE + "ListRevocations": Unary(pb.ListRevocationsRequest, self.revocations, nobody),
            _SERVICE + "ListDecisions": Unary(pb.ListDecisionsRequest, self.decisions, nobody),
            _SERVICE + "ApproveDetection": Unary(pb.ApproveDetectionRequest, self.approve, nobody),
            _SERVICE + "DismissDetection": Unary(pb.DismissDetectionRequest, self.dismiss, nobody),
        }

    async def attestations(
        self, request: pb.ListAttestationsRequest, call: Call[OperatorCaller]
    ) -> pb.ListAttestationsResponse:
        """Instances, alive or not."""
        query = AttestationQuery(
            digest=digest(request.loaded_digest, "loaded_digest") if request.loaded_digest else b"",
            package=text(request.loaded_package, "loaded_package", 2048),
            identity=text(request.identity, "identity", 2048),
            since=_since(request),
        )
        states = frozenset(ATTESTATION_STATE.model(state) for state in request.states)
        page = await self._overseer.attestations(_reach(call), query, states, _size(request), _after(request))
        return pb.ListAttestationsResponse(
            attestations=[convert.attestation(item) for item in page.items], next_page_token=page.next
        )

    async def detections(
        self, request: pb.ListDetectionsRequest, call: Call[OperatorCaller]
    ) -> pb.ListDetectionsResponse:
        """Reports."""
        states = [DETECTION_STATE.model(state) for state in request.states]
        page = await self._overseer.detections(
            _reach(call), states, _since(request), _size(request), _after(request)
        )
        return pb.ListDetectionsResponse(
            detections=[convert.detection(item) for item in page.items], next_page_token=page.next
        )

    async def revocations(
        self, request: pb.ListRevocationsRequest, call: Call[OperatorCaller]
    ) -> pb.ListRevocationsResponse:
        """Revocations."""
        states = frozenset(REVOCATION_STATE.model(state) for state in request.states)
        page = await self._overseer.revocations(
            _reach(call), states, _since(request), _size(request), _after(request)
        )
        return pb.ListRevocationsResponse(
            revocations=[convert.revocation(item) for item in page.items], next_page_token=page.next
        )

    async def decisions(
        self, request: pb.ListDecisionsRequest, call: Call[OperatorCaller]
    ) -> pb.ListDecisionsResponse:
        """Decisions, without their findings."""
        page = await self._overseer.decisions(_reach(call), _since(request), _size(request), _after(request))
        return pb.ListDecisionsResponse(
            decisions=[convert.bare_decision(item) for item in page.items], next_page_token=page.next
        )

    async def approve(
        self, request: pb.ApproveDetectionRequest, call: Call[OperatorCaller]
    ) -> pb.ApproveDetectionResponse:
        """A held report does what it would have done."""
        record = await self._approver.approve(call.caller, _report(request), request.reason, request.ticket)
        return pb.ApproveDetectionResponse(detection=convert.detection(record))

    async def dismiss(
        self, request: pb.DismissDetectionRequest, call: Call[OperatorCaller]
    ) -> pb.DismissDetectionResponse:
        """A held report ends."""
        record = await self._approver.dismiss(call.caller, _report(request), request.reason, request.ticket)
        return pb.DismissDetectionResponse(detection=convert.detection(record))


_Request = (
    pb.ListAttestationsRequest
    | pb.ListDetectionsRequest
    | pb.ListRevocationsRequest
    | pb.ListDecisionsRequest
)


def _report(request: pb.ApproveDetectionRequest | pb.DismissDetectionRequest) -> str:
    return text(request.detection_id, "detection_id", 128, empty=False)


def _reach(call: Call[OperatorCaller]) -> Reach:
    return call.caller.reach(GRPC[call.method].right)


def _since(request: _Request) -> float:
    return from_timestamp(request.since, "since") if request.HasField("since") else 0.0


def _size(request: _Request) -> int:
    return request.page_size or _PAGE


def _after(request: _Request) -> str:
    return text(request.page_token, "page_token", 128)
