"""What a workload signs and says, without sockets: instance key, proofs, seals, messages."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm

from lockstep.formats import PROOF_TYPE, b64url, evidence_signing_input, jwk_thumbprint, proof_claims
from lockstep.v1 import (
    attestation_pb2,
    credential_pb2,
    evidence_pb2,
    identity_pb2,
    revocation_pb2,
)
from lockstep_client.errors import LockstepError

DPOP_TYPE = "dpop+jwt"
"""RFC 9449 section 4.2."""
TOKEN_BYTES = 16
"""Entropy of every `jti` and request id: 128 bits."""

_PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def fresh_id() -> str:
    """An unguessable id for a proof, a request or an event."""
    return b64url(secrets.token_bytes(TOKEN_BYTES))


class InstanceKey:
    """The key pair of one process instance; it never leaves memory.

    Everything that the instance proves names the RFC 7638 `thumbprint` (32
    bytes). `spki` is the public half, DER.
    """

    __slots__ = ("_private", "algorithm", "jwk", "spki", "thumbprint")

    def __init__(self, private: _PrivateKey) -> None:
        public = private.public_key()
        if isinstance(public, ec.EllipticCurvePublicKey):
            self.algorithm = "ES256"
            described = ECAlgorithm.to_jwk(public, as_dict=True)
        else:
            self.algorithm = "EdDSA"
            described = OKPAlgorithm.to_jwk(public, as_dict=True)
        self.jwk: dict[str, str] = {
            name: str(described[name]) for name in ("kty", "crv", "x", "y") if name in described
        }
        self.spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.thumbprint = jwk_thumbprint(self.jwk)
        self._private: _PrivateKey | None = private

    @classmethod
    def generate(cls, algorithm: str = "ES256") -> InstanceKey:
        """A new key: ``ES256`` (P-256, the default) or ``EdDSA`` (Ed25519)."""
        if algorithm == "ES256":
            return cls(ec.generate_private_key(ec.SECP256R1()))
        if algorithm == "EdDSA":
            return cls(ed25519.Ed25519PrivateKey.generate())
        raise ValueError(f"unknown algorithm {algorithm!r}: ES256 or EdDSA")

    def __repr__(self) -> str:
        return f"InstanceKey({self.algorithm}, {b64url(self.thumbprint)})"

    def wipe(self) -> None:
        """Forget the private half: nothing can be proved any more (a fork's child, a closed client)."""
        self._private = None

    def message(self) -> identity_pb2.InstanceKey:
        """The public half as the wire says it."""
        return identity_pb2.InstanceKey(spki=self.spki)

    def proof(self, *, method: str, body: bytes, audience: str, issued_at: float, nonce: str | None) -> str:
        """Proof of possession for one call: a compact JWS over the method and the very bytes sent."""
        claims = proof_claims(
            method=method,
            body=body,
            audience=audience,
            jti=fresh_id(),
            issued_at=int(issued_at),
            nonce=nonce,
        )
        return jwt.encode(dict(claims), self._key(), self.algorithm, headers={"typ": PROOF_TYPE})

    def dpop(
        self, *, method: str, url: str, token_hash: str, issued_at: float, nonce: str | None = None
    ) -> str:
        """A DPoP proof for an HTTP request (RFC 9449 section 4.2); `url` without query and fragment."""
        claims: dict[str, str | int] = {
            "jti": fresh_id(),
            "htm": method,
            "htu": url,
            "iat": int(issued_at),
            "ath": token_hash,
        }
        if nonce is not None:
            claims["nonce"] = nonce
        headers = {"typ": DPOP_TYPE, "jwk": dict(self.jwk)}
        return jwt.encode(dict(claims), self._key(), self.algorithm, headers=headers)

    def seal(self, statement: bytes) -> evidence_pb2.SealedEvidence:
        """A statement that this process made of itself, signed by the instance key."""
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        return evidence_pb2.SealedEvidence(
            level=evidence_pb2.ASSURANCE_LEVEL_SELF,
            statement=statement,
            signature=algorithm.sign(evidence_signing_input(statement), self._key()),
        )

    def _key(self) -> _PrivateKey:
        if self._private is None:
            raise LockstepError("this instance key was wiped; attest anew")
        return self._private


def identity_proof(token: str | None) -> identity_pb2.IdentityProof:
    """The proof of identity: a JWT, or (None) the client certificate of the connection."""
    if token is None:
        return identity_pb2.IdentityProof(peer_certificate=identity_pb2.PeerCertificate())
    return identity_pb2.IdentityProof(jwt=token)


def challenge(key: InstanceKey) -> attestation_pb2.GetChallengeRequest:
    """Asks for a nonce that is bound to the key."""
    return attestation_pb2.GetChallengeRequest(instance_key=key.message())


def attest(
    key: InstanceKey,
    *,
    identity: identity_pb2.IdentityProof,
    nonce: bytes,
    evidence: Iterable[evidence_pb2.SealedEvidence],
    roles: Iterable[str] = (),
    dry_run: bool = False,
) -> attestation_pb2.AttestRequest:
    """A new attestation; `dry_run` only asks what would be decided."""
    return attestation_pb2.AttestRequest(
        identity_proof=identity,
        instance_key=key.message(),
        nonce=nonce,
        evidence=list(evidence),
        roles=list(roles),
        dry_run=dry_run,
    )


def reattest(
    attestation_id: str,
    *,
    identity: identity_pb2.IdentityProof,
    nonce: bytes,
    evidence: Iterable[evidence_pb2.SealedEvidence],
) -> attestation_pb2.ReattestRequest:
    """Fresh evidence for an attestation that lives."""
    return attestation_pb2.ReattestRequest(
        attestation_id=attestation_id, identity_proof=identity, nonce=nonce, evidence=list(evidence)
    )


def issue(attestation_id: str, role: str, request_id: str) -> credential_pb2.IssueCredentialRequest:
    """Asks for a credential; a retry with the same `request_id` kills the first lease."""
    return credential_pb2.IssueCredentialRequest(
        attestation_id=attestation_id, role=role, request_id=request_id
    )


def watch_open(
    attestation_id: str, resume: revocation_pb2.LogPosition | None
) -> revocation_pb2.WatchRevocationsRequest:
    """Opens a watch, after a known position or with a snapshot."""
    return revocation_pb2.WatchRevocationsRequest(
        open=revocation_pb2.WatchOpen(attestation_id=attestation_id, resume=resume)
    )


def watch_ping(ping_id: int, applied: int) -> revocation_pb2.WatchRevocationsRequest:
    """Asks for a beat and acknowledges what has been applied."""
    return revocation_pb2.WatchRevocationsRequest(
        ping=revocation_pb2.WatchPing(id=ping_id, applied_seq=applied)
    )
