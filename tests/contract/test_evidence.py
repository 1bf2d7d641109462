"""The SDK's evidence, as the SDK itself seals it, and the fake one keep to the contract of verifiers."""

from __future__ import annotations

import pytest

from broker.adapters.evidence.sdk import EvidenceLimits, SdkEvidence
from broker.model.evidence import Assurance, CodeSet, Evidence, InstanceKey, ProcessRef, SealedEvidence
from lockstep.v1 import evidence_pb2
from lockstep_client import messages
from tests.contract.evidence_suite import NOW, UNITS, EvidenceSuite, Sealing
from tests.fakes.evidence import FakeEvidence


class TestSdkEvidence(EvidenceSuite):
    @pytest.fixture
    def verifier(self) -> SdkEvidence:
        return SdkEvidence(EvidenceLimits())

    @pytest.fixture
    def own(self) -> messages.InstanceKey:
        return messages.InstanceKey.generate()

    @pytest.fixture
    def spki(self, own: messages.InstanceKey) -> bytes:
        return own.spki

    @pytest.fixture
    def other(self) -> bytes:
        return messages.InstanceKey.generate().spki

    @pytest.fixture
    def sealing(self, own: messages.InstanceKey) -> Sealing:
        def seal(key: InstanceKey, nonce: bytes) -> SealedEvidence:
            code = CodeSet.of(UNITS)
            statement = evidence_pb2.EvidenceStatement(
                nonce=nonce,
                key_thumbprint=key.thumbprint,
                measured_at=NOW,
                units=[
                    evidence_pb2.UnitSet(
                        kind=evidence_pb2.UNIT_KIND_PYTHON_BYTECODE,
                        digests=sorted(unit.digest for unit in UNITS),
                    )
                ],
                code_set_digest=code.digest,
            )
            sent = own.seal(statement.SerializeToString())
            return SealedEvidence(int(Assurance.SELF), sent.statement, sent.signature)

        return seal


class TestFakeEvidence(EvidenceSuite):
    @pytest.fixture
    def verifier(self) -> FakeEvidence:
        return FakeEvidence()

    @pytest.fixture
    def spki(self) -> bytes:
        return b"one"

    @pytest.fixture
    def other(self) -> bytes:
        return b"other"

    @pytest.fixture
    def sealing(self, verifier: FakeEvidence) -> Sealing:
        def seal(key: InstanceKey, nonce: bytes) -> SealedEvidence:
            digest = CodeSet.of(UNITS).digest
            return verifier.seal(Evidence(Assurance.SELF, key.thumbprint, ProcessRef(), UNITS, digest), nonce)

        return seal
