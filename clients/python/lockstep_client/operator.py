"""What a person or a pipeline asks of a broker: explain, revoke, lift, receipts, and what there is."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from lockstep.v1 import credential_pb2, decision_pb2, detection_pb2, oversight_pb2, revocation_pb2
from lockstep_client import methods
from lockstep_client.callers import Anonymous, Bearer, Caller
from lockstep_client.clock import SystemClock
from lockstep_client.errors import ConfigurationError
from lockstep_client.identity import channel_credentials
from lockstep_client.settings import Settings, read_secret_file, require
from lockstep_client.transport import CALL_TIMEOUT, Transport

_PAGE = 200


class Paged(Protocol):
    """An answer that is one page of many."""

    @property
    def next_page_token(self) -> str: ...


P = TypeVar("P", bound=Paged)


class Operator:
    """Calls as the holder of ``LOCKSTEP_OPERATOR_TOKEN_FILE``, else of the workload's identity.

    Every method raises `Denied`, `Unavailable` or `InvalidRequest`.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises `ConfigurationError`; asks nothing of the broker yet."""
        require(settings, "address", "where the broker is")
        self._transport = Transport(settings.addresses, lambda: channel_credentials(settings), SystemClock())
        self._caller = caller_of(settings)

    @property
    def transport(self) -> Transport:
        """For calls that are not listed here."""
        return self._transport

    @property
    def caller(self) -> Caller:
        """Who calls."""
        return self._caller

    def explain(self, decision_id: str, *, code_set: bool = False) -> decision_pb2.ExplainDecisionResponse:
        """Why something was granted, refused or revoked; with `code_set` everything that was appraised."""
        request = decision_pb2.ExplainDecisionRequest(decision_id=decision_id, include_code_set=code_set)
        return self._transport.unary(methods.EXPLAIN, request, self._caller, 2 * CALL_TIMEOUT)

    def revoke(
        self,
        selector: revocation_pb2.Selector,
        *,
        reason: str,
        ticket: str = "",
        until: dt.datetime | None = None,
        ban: bool | None = None,
        dry_run: bool = False,
        propose: bool = False,
    ) -> revocation_pb2.RevokeResponse:
        """Take back what a selector names; `ban` None takes the selector's default, `until` ends a ban.

        Where that takes more than one operator it is `Denied`; with `propose` the
        answer has a `proposal` instead, and nothing is denied until others confirm it.
        """
        request = revocation_pb2.RevokeRequest(
            selector=selector,
            reason=reason,
            ticket=ticket,
            dry_run=dry_run,
            ban=ban,
            until=_stamp(until),
            propose=propose,
        )
        return self._transport.unary(methods.REVOKE, request, self._caller, 2 * CALL_TIMEOUT)

    def confirm(
        self, proposal_id: str, *, preview: str = "", dry_run: bool = False
    ) -> revocation_pb2.ConfirmRevocationResponse:
        """Agree to another operator's proposal; the last one needed revokes.

        `preview` are the first digits of the digest of what is agreed to: needed
        once it hits more than was proposed, which the outcome says. A dry run only looks.
        """
        request = revocation_pb2.ConfirmRevocationRequest(
            proposal_id=proposal_id, preview=preview, dry_run=dry_run
        )
        return self._transport.unary(methods.CONFIRM_REVOCATION, request, self._caller, 2 * CALL_TIMEOUT)

    def withdraw(self, proposal_id: str, *, reason: str) -> revocation_pb2.Proposal:
        """End a proposal that waits. Again: the same answer."""
        request = revocation_pb2.WithdrawProposalRequest(proposal_id=proposal_id, reason=reason)
        return self._transport.unary(methods.WITHDRAW_PROPOSAL, request, self._caller).proposal

    def proposals(
        self, *, states: Sequence[revocation_pb2.ProposalState.ValueType] = ()
    ) -> Iterator[revocation_pb2.Proposal]:
        """Revocations that take more than one operator, in id order."""
        request = revocation_pb2.ListProposalsRequest(states=states)
        for page in self._pages(methods.LIST_PROPOSALS, request):
            yield from page.proposals

    def lift(self, revocation_id: str, *, reason: str, ticket: str = "") -> revocation_pb2.LiftResponse:
        """End a ban. What was taken back stays taken back."""
        request = revocation_pb2.LiftRequest(revocation_id=revocation_id, reason=reason, ticket=ticket)
        return self._transport.unary(methods.LIFT, request, self._caller)

    def receipt(self, revocation_id: str) -> revocation_pb2.GetReceiptResponse:
        """The signed receipt of a revocation, as far as it has come."""
        request = revocation_pb2.GetReceiptRequest(revocation_id=revocation_id)
        return self._transport.unary(methods.GET_RECEIPT, request, self._caller)

    def leases(
        self, *, attestation_id: str = "", states: Sequence[credential_pb2.LeaseState.ValueType] = ()
    ) -> Iterator[credential_pb2.Lease]:
        """Every lease, in id order, page by page."""
        request = credential_pb2.ListLeasesRequest(attestation_id=attestation_id, states=states)
        for page in self._pages(methods.LIST_LEASES, request):
            yield from page.leases

    def attestations(
        self,
        *,
        states: Sequence[oversight_pb2.AttestationState.ValueType] = (),
        digest: bytes = b"",
        package: str = "",
        identity: str = "",
        since: dt.datetime | None = None,
    ) -> Iterator[oversight_pb2.AttestationSummary]:
        """Instances, in id order; everything that is said must hold."""
        request = oversight_pb2.ListAttestationsRequest(
            states=states,
            loaded_digest=digest,
            loaded_package=package,
            identity=identity,
            since=_stamp(since),
        )
        for page in self._pages(methods.LIST_ATTESTATIONS, request):
            yield from page.attestations

    def detections(
        self,
        *,
        states: Sequence[detection_pb2.DetectionState.ValueType] = (),
        since: dt.datetime | None = None,
    ) -> Iterator[oversight_pb2.DetectionSummary]:
        """Reports, and how they ended, in id order."""
        request = oversight_pb2.ListDetectionsRequest(states=states, since=_stamp(since))
        for page in self._pages(methods.LIST_DETECTIONS, request):
            yield from page.detections

    def approve(
        self, detection_id: str, *, reason: str = "", ticket: str = ""
    ) -> oversight_pb2.DetectionSummary:
        """Let a held report do what it would have done; durable when this returns. Again: the same answer."""
        request = oversight_pb2.ApproveDetectionRequest(
            detection_id=detection_id, reason=reason, ticket=ticket
        )
        answer = self._transport.unary(methods.APPROVE_DETECTION, request, self._caller, 2 * CALL_TIMEOUT)
        return answer.detection

    def dismiss(self, detection_id: str, *, reason: str, ticket: str = "") -> oversight_pb2.DetectionSummary:
        """End a held report, and the timed ban that holds whom it named. Again: the same answer."""
        request = oversight_pb2.DismissDetectionRequest(
            detection_id=detection_id, reason=reason, ticket=ticket
        )
        answer = self._transport.unary(methods.DISMISS_DETECTION, request, self._caller, 2 * CALL_TIMEOUT)
        return answer.detection

    def revocations(
        self,
        *,
        states: Sequence[oversight_pb2.RevocationState.ValueType] = (),
        since: dt.datetime | None = None,
    ) -> Iterator[oversight_pb2.RevocationSummary]:
        """Revocations, in id order."""
        request = oversight_pb2.ListRevocationsRequest(states=states, since=_stamp(since))
        for page in self._pages(methods.LIST_REVOCATIONS, request):
            yield from page.revocations

    def decisions(self, *, since: dt.datetime | None = None) -> Iterator[decision_pb2.Decision]:
        """Decisions without their findings, in id order."""
        request = oversight_pb2.ListDecisionsRequest(since=_stamp(since))
        for page in self._pages(methods.LIST_DECISIONS, request):
            yield from page.decisions

    def _pages(self, method: methods.Method[P], request: Any) -> Iterator[P]:
        request.page_size = _PAGE
        while True:
            page = self._transport.unary(method, request, self._caller, 2 * CALL_TIMEOUT)
            yield page
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    def close(self) -> None:
        """End the connection."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _stamp(at: dt.datetime | None) -> Timestamp | None:
    if at is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def caller_of(settings: Settings) -> Caller:
    """The operator's token, else the workload's, else the client certificate. Raises `ConfigurationError`."""
    for path, setting in (
        (settings.operator_token_file, "LOCKSTEP_OPERATOR_TOKEN_FILE"),
        (settings.identity_token_file, "LOCKSTEP_IDENTITY_TOKEN_FILE"),
    ):
        if path:
            return Bearer(lambda path=path, setting=setting: read_secret_file(path, setting))  # type: ignore[misc]
    if settings.client_cert_file:
        return Anonymous()
    raise ConfigurationError(
        "who asks? set LOCKSTEP_OPERATOR_TOKEN_FILE to a file with your token, or LOCKSTEP_CLIENT_CERT_FILE and "
        "LOCKSTEP_CLIENT_KEY_FILE to a certificate",
        setting="LOCKSTEP_OPERATOR_TOKEN_FILE",
    )
