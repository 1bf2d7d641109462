"""One table: who may call which method and path. What has no row is refused."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


class Who(enum.StrEnum):
    """Kinds of callers, as a door can verify them."""

    PUBLIC = "public"
    KEY_HOLDER = "key_holder"
    """Proves possession of the instance key that the message itself names (`Attest`)."""
    WORKLOAD = "workload"
    """Proves possession of the instance key of the attestation that the message names."""
    OPERATOR = "operator"
    RESOURCE_SERVER = "resource_server"
    DETECTOR = "detector"
    IDENTITY = "identity"
    """Any verified identity: it may speak of what is its own."""
    SIGNED = "signed"
    """HTTP only: the body carries a signature, which a detector's plug checks."""


class Size(enum.StrEnum):
    """Classes of message size; `Limits` says how many bytes each has."""

    SMALL = "small"
    EVIDENCE = "evidence"
    MANIFEST = "manifest"
    WEBHOOK = "webhook"


@dataclass(frozen=True, slots=True)
class Row:
    """One method or path.

    `right` is what an operator needs; a right that ends with a colon is a
    family: the door asks for any of it and the room for the exact one.
    `mutates` says that the verb claims the proof in its own transaction; the
    proofs of all others are claimed in memory. `foreign` methods (health,
    reflection) are served by their own library. `costly` calls have a rate of
    their own, by address.
    """

    callers: frozenset[Who]
    right: str = ""
    mutates: bool = False
    size: Size = Size.SMALL
    stream: bool = False
    foreign: bool = False
    costly: bool = False

    def admits(self, who: Who) -> bool:
        """True where that kind of caller may call."""
        return who in self.callers


def _row(
    *callers: Who,
    right: str = "",
    mutates: bool = False,
    size: Size = Size.SMALL,
    stream: bool = False,
    costly: bool = False,
) -> Row:
    return Row(frozenset(callers), right, mutates, size, stream, costly=costly)


_FOREIGN: Final = Row(frozenset({Who.PUBLIC}), foreign=True)
_FOREIGN_STREAM: Final = Row(frozenset({Who.PUBLIC}), stream=True, foreign=True)

GRPC: Final[Mapping[str, Row]] = {
    "/lockstep.v1.AttestationService/GetChallenge": _row(Who.PUBLIC),
    "/lockstep.v1.AttestationService/Attest": _row(
        Who.KEY_HOLDER, mutates=True, size=Size.EVIDENCE, costly=True
    ),
    "/lockstep.v1.AttestationService/Reattest": _row(
        Who.WORKLOAD, mutates=True, size=Size.EVIDENCE, costly=True
    ),
    "/lockstep.v1.CredentialService/IssueCredential": _row(Who.WORKLOAD, mutates=True),
    "/lockstep.v1.CredentialService/RenewLease": _row(Who.WORKLOAD, mutates=True),
    "/lockstep.v1.CredentialService/RevokeLease": _row(
        Who.WORKLOAD, Who.OPERATOR, right="revoke:lease", mutates=True
    ),
    "/lockstep.v1.CredentialService/ListLeases": _row(Who.WORKLOAD, Who.OPERATOR, right="read"),
    "/lockstep.v1.RevocationService/WatchRevocations": _row(
        Who.WORKLOAD, Who.RESOURCE_SERVER, Who.OPERATOR, right="read", stream=True
    ),
    "/lockstep.v1.RevocationService/Revoke": _row(Who.OPERATOR, right="revoke:", mutates=True),
    "/lockstep.v1.RevocationService/ConfirmRevocation": _row(Who.OPERATOR, right="revoke:", mutates=True),
    "/lockstep.v1.RevocationService/WithdrawProposal": _row(Who.OPERATOR, right="revoke:", mutates=True),
    "/lockstep.v1.RevocationService/ListProposals": _row(Who.OPERATOR, right="read"),
    "/lockstep.v1.RevocationService/Lift": _row(Who.OPERATOR, right="lift", mutates=True),
    "/lockstep.v1.RevocationService/GetReceipt": _row(Who.OPERATOR, right="read"),
    "/lockstep.v1.DetectionService/Report": _row(Who.WORKLOAD, Who.DETECTOR, stream=True),
    "/lockstep.v1.ManifestService/PublishManifest": _row(
        Who.OPERATOR, right="publish", mutates=True, size=Size.MANIFEST
    ),
    "/lockstep.v1.ManifestService/GetManifest": _row(Who.OPERATOR, Who.DETECTOR, right="read"),
    "/lockstep.v1.ManifestService/ListManifests": _row(Who.OPERATOR, Who.DETECTOR, right="read"),
    "/lockstep.v1.ManifestService/RetireManifest": _row(Who.OPERATOR, right="retire", mutates=True),
    "/lockstep.v1.ManifestService/WithdrawManifest": _row(Who.OPERATOR, right="withdraw", mutates=True),
    "/lockstep.v1.ManifestService/LowerMinVersion": _row(Who.OPERATOR, right="lower", mutates=True),
    "/lockstep.v1.DecisionService/ExplainDecision": _row(
        Who.WORKLOAD, Who.OPERATOR, Who.IDENTITY, right="explain"
    ),
    "/lockstep.v1.OversightService/ListAttestations": _row(Who.OPERATOR, right="read"),
    "/lockstep.v1.OversightService/ListDetections": _row(Who.OPERATOR, right="read"),
    "/lockstep.v1.OversightService/ListRevocations": _row(Who.OPERATOR, right="read"),
    "/lockstep.v1.OversightService/ListDecisions": _row(Who.OPERATOR, right="read"),
    "/lockstep.v1.OversightService/ApproveDetection": _row(Who.OPERATOR, right="approve", mutates=True),
    "/lockstep.v1.OversightService/DismissDetection": _row(Who.OPERATOR, right="approve", mutates=True),
    "/grpc.health.v1.Health/Check": _FOREIGN,
    "/grpc.health.v1.Health/List": _FOREIGN,
    "/grpc.health.v1.Health/Watch": _FOREIGN_STREAM,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _FOREIGN_STREAM,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _FOREIGN_STREAM,
}
"""Full gRPC method, exactly as it stands on the wire, to its row."""

HTTP: Final[Mapping[tuple[str, str], Row]] = {
    ("POST", "/v1/detections/{source}"): _row(Who.SIGNED, mutates=True, size=Size.WEBHOOK),
    ("POST", "/v1/introspect"): _row(Who.RESOURCE_SERVER, Who.OPERATOR, right="introspect"),
    ("POST", "/v1/revoke"): _row(Who.IDENTITY, mutates=True),
    ("GET", "/.well-known/jwks.json"): _row(Who.PUBLIC),
    ("GET", "/.well-known/openid-configuration"): _row(Who.PUBLIC),
    ("GET", "/gate/jwks.json"): _row(Who.PUBLIC),
    ("GET", "/gate/.well-known/openid-configuration"): _row(Who.PUBLIC),
    ("GET", "/metrics"): _row(Who.PUBLIC),
    ("GET", "/healthz"): _row(Who.PUBLIC),
    ("GET", "/readyz"): _row(Who.PUBLIC),
}
"""HTTP method and path template to its row. `GET` includes `HEAD`."""
