"""What every verifier of evidence keeps to; each plug's test class says how it is made and how evidence is sealed."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import pytest

from broker.errors import Denied, InvalidRequest
from broker.model.evidence import Assurance, InstanceKey, SealedEvidence, Unit
from broker.ports import EvidenceVerifier
from lockstep.formats import Reason, UnitKind

NOW = 1_800_000_000.0
NONCE = b"n" * 57
UNITS = frozenset({Unit(UnitKind.PYTHON_BYTECODE, bytes([number]) * 32) for number in range(3)})


class Sealing(Protocol):
    """A statement that `UNITS` run, by a key for a challenge."""

    def __call__(self, key: InstanceKey, nonce: bytes) -> SealedEvidence: ...


class EvidenceSuite:
    """Subclass, name it ``Test…``; give `verifier`, two public keys `spki` and `other` (DER), and `sealing`."""

    async def test_what_was_sealed_for_a_key_and_a_challenge_verifies(
        self, verifier: EvidenceVerifier, spki: bytes, sealing: Sealing
    ) -> None:
        key = verifier.parse_key(spki)
        evidence = await verifier.verify(sealing(key, NONCE), key, NONCE, NOW)
        assert evidence.units == UNITS
        assert evidence.key_thumbprint == key.thumbprint
        assert evidence.level is Assurance.SELF

    async def test_for_another_challenge_it_is_refused(
        self, verifier: EvidenceVerifier, spki: bytes, sealing: Sealing
    ) -> None:
        key = verifier.parse_key(spki)
        await self._refused(verifier, sealing(key, NONCE), key, b"m" * 57)

    async def test_of_another_key_it_is_refused(
        self, verifier: EvidenceVerifier, spki: bytes, other: bytes, sealing: Sealing
    ) -> None:
        key, theirs = verifier.parse_key(spki), verifier.parse_key(other)
        await self._refused(verifier, sealing(key, NONCE), theirs, NONCE)

    async def test_altered_it_is_refused(
        self, verifier: EvidenceVerifier, spki: bytes, sealing: Sealing
    ) -> None:
        key = verifier.parse_key(spki)
        sealed = sealing(key, NONCE)
        for altered in (
            replace(sealed, statement=sealed.statement[:-1] + bytes([sealed.statement[-1] ^ 1])),
            replace(sealed, statement=b""),
            replace(sealed, signature=sealed.signature[:-1] + bytes([sealed.signature[-1] ^ 1])),
            replace(sealed, signature=b""),
        ):
            await self._refused(verifier, altered, key, NONCE)

    def test_a_key_is_known_by_its_thumbprint(
        self, verifier: EvidenceVerifier, spki: bytes, other: bytes
    ) -> None:
        assert verifier.parse_key(spki) == verifier.parse_key(spki)
        assert verifier.parse_key(spki).thumbprint != verifier.parse_key(other).thumbprint
        with pytest.raises(InvalidRequest):
            verifier.parse_key(b"")

    async def _refused(
        self, verifier: EvidenceVerifier, sealed: SealedEvidence, key: InstanceKey, nonce: bytes
    ) -> None:
        with pytest.raises((Denied, InvalidRequest)) as refused:
            await verifier.verify(sealed, key, nonce, NOW)
        assert refused.value.reason in (Reason.EVIDENCE_REJECTED, Reason.INVALID_REQUEST)
