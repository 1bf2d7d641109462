"""Every call that the SDK makes: its path, and how the answer is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from lockstep.v1 import (
    attestation_pb2,
    credential_pb2,
    decision_pb2,
    detection_pb2,
    oversight_pb2,
    revocation_pb2,
)

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Method(Generic[A]):
    """A gRPC method by its full path; `read` parses one answer."""

    path: str
    read: Callable[[bytes], A]


GET_CHALLENGE = Method(
    "/lockstep.v1.AttestationService/GetChallenge", attestation_pb2.GetChallengeResponse.FromString
)
ATTEST = Method("/lockstep.v1.AttestationService/Attest", attestation_pb2.AttestResponse.FromString)
REATTEST = Method("/lockstep.v1.AttestationService/Reattest", attestation_pb2.ReattestResponse.FromString)
ISSUE = Method(
    "/lockstep.v1.CredentialService/IssueCredential", credential_pb2.IssueCredentialResponse.FromString
)
RENEW = Method("/lockstep.v1.CredentialService/RenewLease", credential_pb2.RenewLeaseResponse.FromString)
REVOKE_LEASE = Method(
    "/lockstep.v1.CredentialService/RevokeLease", credential_pb2.RevokeLeaseResponse.FromString
)
LIST_LEASES = Method(
    "/lockstep.v1.CredentialService/ListLeases", credential_pb2.ListLeasesResponse.FromString
)
WATCH = Method(
    "/lockstep.v1.RevocationService/WatchRevocations", revocation_pb2.WatchRevocationsResponse.FromString
)
REVOKE = Method("/lockstep.v1.RevocationService/Revoke", revocation_pb2.RevokeResponse.FromString)
CONFIRM_REVOCATION = Method(
    "/lockstep.v1.RevocationService/ConfirmRevocation", revocation_pb2.ConfirmRevocationResponse.FromString
)
WITHDRAW_PROPOSAL = Method(
    "/lockstep.v1.RevocationService/WithdrawProposal", revocation_pb2.WithdrawProposalResponse.FromString
)
LIST_PROPOSALS = Method(
    "/lockstep.v1.RevocationService/ListProposals", revocation_pb2.ListProposalsResponse.FromString
)
LIFT = Method("/lockstep.v1.RevocationService/Lift", revocation_pb2.LiftResponse.FromString)
GET_RECEIPT = Method(
    "/lockstep.v1.RevocationService/GetReceipt", revocation_pb2.GetReceiptResponse.FromString
)
REPORT = Method("/lockstep.v1.DetectionService/Report", detection_pb2.ReportResponse.FromString)
EXPLAIN = Method(
    "/lockstep.v1.DecisionService/ExplainDecision", decision_pb2.ExplainDecisionResponse.FromString
)
LIST_ATTESTATIONS = Method(
    "/lockstep.v1.OversightService/ListAttestations", oversight_pb2.ListAttestationsResponse.FromString
)
LIST_DETECTIONS = Method(
    "/lockstep.v1.OversightService/ListDetections", oversight_pb2.ListDetectionsResponse.FromString
)
LIST_REVOCATIONS = Method(
    "/lockstep.v1.OversightService/ListRevocations", oversight_pb2.ListRevocationsResponse.FromString
)
LIST_DECISIONS = Method(
    "/lockstep.v1.OversightService/ListDecisions", oversight_pb2.ListDecisionsResponse.FromString
)
APPROVE_DETECTION = Method(
    "/lockstep.v1.OversightService/ApproveDetection", oversight_pb2.ApproveDetectionResponse.FromString
)
DISMISS_DETECTION = Method(
    "/lockstep.v1.OversightService/DismissDetection", oversight_pb2.DismissDetectionResponse.FromString
)
