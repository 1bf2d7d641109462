"""CredentialService: issue, renew, give back, list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from broker.api.arrival import Call
from broker.api.convert import credentials as convert
from broker.api.convert.enums import LEASE_STATE
from broker.api.convert.scalars import text
from broker.api.routes import Route, Unary, by_attestation
from broker.api.tasks import Crew
from broker.errors import NotFound
from broker.model.caller import OperatorCaller, WorkloadCaller
from broker.model.credential import Lease, LeaseState
from broker.model.requests import IssueAnswer, Page
from lockstep.v1 import credential_pb2 as pb

_SERVICE = "/lockstep.v1.CredentialService/"
_PAGE: Final = 100
_MAX_PAGE: Final = 1000


class Issuer(Protocol):
    """What this room needs of `broker.issue.Issuer`."""

    async def issue(self, caller: WorkloadCaller, role: str, request_id: str) -> IssueAnswer: ...
    async def renew(self, caller: WorkloadCaller, lease_id: str) -> IssueAnswer: ...
    async def give_back(self, caller: WorkloadCaller | OperatorCaller, lease_id: str) -> Lease: ...
    async def leases(
        self,
        caller: WorkloadCaller | OperatorCaller,
        states: Sequence[LeaseState],
        limit: int,
        after: str,
        attestation_id: str,
    ) -> Page[Lease]: ...


class CredentialRoom:
    """Grants are seen through by the crew: a caller that hangs up cancels nothing."""

    def __init__(self, issuer: Issuer, crew: Crew) -> None:
        self._issuer = issuer
        self._crew = crew

    def routes(self) -> Mapping[str, Route]:
        """Full method to route."""
        return {
            _SERVICE + "IssueCredential": Unary(pb.IssueCredentialRequest, self.issue, by_attestation),
            _SERVICE + "RenewLease": Unary(pb.RenewLeaseRequest, self.renew, by_attestation),
            _SERVICE + "RevokeLease": Unary(pb.RevokeLeaseRequest, self.give_back, by_attestation),
            _SERVICE + "ListLeases": Unary(pb.ListLeasesRequest, self.leases, by_attestation),
        }

    async def issue(
        self, request: pb.IssueCredentialRequest, call: Call[WorkloadCaller]
    ) -> pb.IssueCredentialResponse:
        """A credential and its lease."""
        role = text(request.role, "role", 256, empty=False)
        request_id = text(request.request_id, "request_id", 128, empty=False)
        work = partial(self._issuer.issue, call.caller, role, request_id)
        return convert.issue_response(await self._crew.see_through("issue", work))

    async def renew(self, request: pb.RenewLeaseRequest, call: Call[WorkloadCaller]) -> pb.RenewLeaseResponse:
        """More time for a lease."""
        lease_id = text(request.lease_id, "lease_id", 128, empty=False)
        work = partial(self._issuer.renew, call.caller, lease_id)
        return convert.renew_response(await self._crew.see_through("renew", work))

    async def give_back(
        self, request: pb.RevokeLeaseRequest, call: Call[WorkloadCaller | OperatorCaller]
    ) -> pb.RevokeLeaseResponse:
        """The end of a lease."""
        lease_id = text(request.lease_id, "lease_id", 128, empty=False)
        work = partial(self._issuer.give_back, call.caller, lease_id)
        lease = await self._crew.see_through("give back", work)
        return pb.RevokeLeaseResponse(lease=convert.lease(lease, call.now))

    async def leases(
        self, request: pb.ListLeasesRequest, call: Call[WorkloadCaller | OperatorCaller]
    ) -> pb.ListLeasesResponse:
        """A page of leases in id order; a workload sees its own."""
        attestation_id = text(request.attestation_id, "attestation_id", 128)
        if isinstance(call.caller, WorkloadCaller) and attestation_id != call.caller.attestation_id:
            raise NotFound("no such attestation")
        states = tuple(LEASE_STATE.model(state) for state in request.states)
        size = min(request.page_size or _PAGE, _MAX_PAGE)
        after = text(request.page_token, "page_token", 128)
        page = await self._issuer.leases(call.caller, states, size, after, attestation_id)
        operator = isinstance(call.caller, OperatorCaller)
        return pb.ListLeasesResponse(
            leases=[convert.lease(lease, call.now, operator=operator) for lease in page.items],
            next_page_token=page.next,
        )
