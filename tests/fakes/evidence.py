"""FakeEvidence: statements that a test hands over as nouns; bound to nonce and key as real ones are."""

from __future__ import annotations

from hashlib import sha256

from broker.errors import Denied, InvalidRequest
from broker.model.evidence import Evidence, InstanceKey, SealedEvidence
from lockstep.formats import Reason

_SIGNATURE = b"signature"


class FakeEvidence:
    """Plug of `broker.ports.EvidenceVerifier`: what was sealed here verifies for its nonce and key alone."""

    def __init__(self) -> None:
        self._sealed: dict[bytes, tuple[Evidence, bytes]] = {}

    def seal(self, evidence: Evidence, nonce: bytes) -> SealedEvidence:
        """A statement of `evidence`, for one challenge."""
        statement = f"statement {len(self._sealed)}".encode()
        self._sealed[statement] = (evidence, nonce)
        return SealedEvidence(int(evidence.level), statement, _SIGNATURE)

    def parse_key(self, spki: bytes) -> InstanceKey:
        if not spki:
            raise InvalidRequest("instance_key: empty")
        return InstanceKey(spki, sha256(spki).digest(), "ES256")

    async def verify(self, sealed: SealedEvidence, key: InstanceKey, nonce: bytes, now: float) -> Evidence:
        evidence, bound_to = self._sealed.get(sealed.statement, (None, b""))
        if (
            sealed.signature != _SIGNATURE
            or evidence is None
            or bound_to != nonce
            or evidence.key_thumbprint != key.thumbprint
        ):
            raise Denied(Reason.EVIDENCE_REJECTED, "the evidence is refused")
        return evidence
