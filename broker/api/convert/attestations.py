"""Attest and Reattest: orders from the wire, answers to it."""

from __future__ import annotations

from collections.abc import Sequence

from broker.api.convert.enums import ASSURANCE, MODE, STATUS
from broker.api.convert.scalars import to_duration, to_timestamp
from broker.errors import InvalidRequest, Unauthenticated
from broker.model.evidence import MAX_EVIDENCE, SealedEvidence
from broker.model.identity import IdentityProof, JwtProof, PeerProof
from broker.model.requests import AttestAnswer, AttestOrder, ReattestOrder, RoleVerdict
from broker.model.role import Silence
from lockstep.formats import Reason
from lockstep.v1 import attestation_pb2, evidence_pb2, identity_pb2

_MAX_ROLES = 64
_MAX_NONCE = 256
_MAX_NAME = 256


def identity_proof(wire: identity_pb2.IdentityProof, peer: PeerProof | None) -> IdentityProof:
    """The offered proof; "the certificate of this connection" is taken from the connection.

    Raises `Unauthenticated` (no_identity) where none is offered, or no certificate stands behind it.
    """
    kind = wire.WhichOneof("proof")
    if kind == "jwt" and wire.jwt:
        return JwtProof(wire.jwt)
    if kind == "peer_certificate":
        if peer is None:
            raise Unauthenticated(
                Reason.NO_IDENTITY, "this connection has no client certificate: use the mtls listener"
            )
        return peer
    raise Unauthenticated(Reason.NO_IDENTITY, "identity_proof is missing")


def sealed(wire: Sequence[evidence_pb2.SealedEvidence]) -> tuple[SealedEvidence, ...]:
    """Raises `InvalidRequest` (too_large where there are too many)."""
    if len(wire) > MAX_EVIDENCE:
        raise InvalidRequest(f"evidence: more than {MAX_EVIDENCE} items", reason=Reason.TOO_LARGE)
    if not wire:
        raise InvalidRequest("evidence: none")
    return tuple(
        SealedEvidence(
            int(ASSURANCE.model(item.level)),
            item.statement,
            item.signature,
            _name(item.key_id, "evidence.key_id"),
        )
        for item in wire
    )


def attest_order(wire: attestation_pb2.AttestRequest, peer: PeerProof | None) -> AttestOrder:
    """Raises `InvalidRequest`, `Unauthenticated`."""
    if len(wire.roles) > _MAX_ROLES:
        raise InvalidRequest(f"roles: more than {_MAX_ROLES}")
    return AttestOrder(
        identity_proof(wire.identity_proof, peer),
        wire.instance_key.spki,
        _nonce(wire.nonce),
        sealed(wire.evidence),
        tuple(_name(role, "roles") for role in wire.roles),
        wire.dry_run,
    )


def reattest_order(wire: attestation_pb2.ReattestRequest, peer: PeerProof | None) -> ReattestOrder:
    """Raises `InvalidRequest`, `Unauthenticated`."""
    return ReattestOrder(
        wire.attestation_id,
        identity_proof(wire.identity_proof, peer),
        _nonce(wire.nonce),
        sealed(wire.evidence),
    )


def attest_response(answer: AttestAnswer) -> attestation_pb2.AttestResponse:
    """The answer to Attest."""
    return attestation_pb2.AttestResponse(
        attestation_id=answer.attestation.id if answer.attestation else "",
        decision_id=answer.decision_id,
        status=STATUS.wire(answer.status),
        assurance=ASSURANCE.wire(answer.assurance),
        expires_at=to_timestamp(answer.expires_at),
        expires_in=to_duration(answer.expires_at - answer.now),
        roles=[role_result(verdict) for verdict in answer.roles],
        silence=silence(answer.silence),
        as_of=answer.as_of,
    )


def reattest_response(answer: AttestAnswer) -> attestation_pb2.ReattestResponse:
    """The answer to Reattest."""
    return attestation_pb2.ReattestResponse(
        decision_id=answer.decision_id,
        status=STATUS.wire(answer.status),
        assurance=ASSURANCE.wire(answer.assurance),
        expires_at=to_timestamp(answer.expires_at),
        expires_in=to_duration(answer.expires_at - answer.now),
        roles=[role_result(verdict) for verdict in answer.roles],
        silence=silence(answer.silence),
        as_of=answer.as_of,
    )


def role_result(verdict: RoleVerdict) -> attestation_pb2.RoleResult:
    """A reason is only told where there is something to tell."""
    return attestation_pb2.RoleResult(
        role=verdict.role,
        status=STATUS.wire(verdict.status),
        mode=MODE.wire(verdict.mode),
        granted=verdict.granted,
        reason="" if verdict.reason is Reason.OK else verdict.reason.value,
        findings=verdict.findings,
        decision_id=verdict.decision_id,
    )


def silence(noun: Silence) -> attestation_pb2.SilencePolicy:
    """What a workload does when it hears nothing."""
    return attestation_pb2.SilencePolicy(grace=to_duration(noun.grace), then=noun.then.value)


def _nonce(value: bytes) -> bytes:
    if not 0 < len(value) <= _MAX_NONCE:
        raise InvalidRequest("nonce: missing or too long")
    return value


def _name(value: str, what: str) -> str:
    if len(value) > _MAX_NAME or not (value.isprintable() or not value):
        raise InvalidRequest(f"{what}: too long or not printable")
    return value
