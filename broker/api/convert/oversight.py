"""What operators look over, to the wire."""

from __future__ import annotations

from broker.api.convert.decisions import decision
from broker.api.convert.enums import (
    ASSURANCE,
    ATTESTATION_STATE,
    DETECTION_KIND,
    DETECTION_STATE,
    REVOCATION_STATE,
)
from broker.api.convert.revocations import selector_message
from broker.api.convert.scalars import to_timestamp
from broker.model.attestation import Attestation
from broker.model.decision import Decision
from broker.model.detection import DetectionRecord
from broker.model.evidence import ProcessRef
from broker.model.revocation import Revocation
from lockstep.v1 import decision_pb2, detection_pb2, evidence_pb2
from lockstep.v1 import oversight_pb2 as pb


def attestation(noun: Attestation) -> pb.AttestationSummary:
    """One instance, with where it says it is."""
    return pb.AttestationSummary(
        attestation_id=noun.id,
        identity=noun.identity.name,
        state=ATTESTATION_STATE.wire(noun.state),
        assurance=ASSURANCE.wire(noun.assurance),
        created_at=to_timestamp(noun.created_at),
        refreshed_at=to_timestamp(noun.refreshed_at),
        expires_at=to_timestamp(noun.expires_at),
        process=_process(noun.whereabouts),
        manifests=sorted(noun.manifest_digests()),
        code_set_digest=noun.code_set,
        decision_id=noun.decision_id,
        instance_key=noun.key.thumbprint,
    )


def detection(noun: DetectionRecord) -> pb.DetectionSummary:
    """One report, and how it ended."""
    subject, seen = noun.detection.subject, noun.detection.object
    return pb.DetectionSummary(
        detection_id=noun.id,
        detector=noun.detection.detector,
        kind=DETECTION_KIND.wire(noun.detection.kind),
        state=DETECTION_STATE.wire(noun.state),
        received_at=to_timestamp(noun.received_at),
        subject=detection_pb2.DetectionSubject(
            attestation_id=subject.attestation_id,
            process=_process(subject.process),
            spiffe_id=subject.spiffe_id,
            namespace=subject.namespace,
        ),
        object=detection_pb2.DetectionObject(
            digest=seen.digest, path=seen.path, size=seen.size, name=seen.name
        ),
        reason=noun.reason,
        decision_id=noun.decision_id,
        revocation_id=noun.revocation_id,
        attestations=noun.instances[:100],
        decided_by=noun.decided_by,
    )


def revocation(noun: Revocation) -> pb.RevocationSummary:
    """One revocation, as far as it has come."""
    return pb.RevocationSummary(
        revocation_id=noun.id,
        state=REVOCATION_STATE.wire(noun.state),
        at=to_timestamp(noun.at),
        selector=selector_message(noun.selector),
        cut=noun.cut,
        ban=noun.ban,
        actor=noun.actor,
        reason=noun.reason,
        ticket=noun.ticket,
        decision_id=noun.decision_id,
        until=None if noun.until is None else to_timestamp(noun.until),
        lifted_at=to_timestamp(noun.lifted_at) if noun.lifted_at else None,
        attestations=noun.attestations,
        leases=noun.leases,
        unconfirmed=len(noun.unconfirmed),
    )


def bare_decision(noun: Decision) -> decision_pb2.Decision:
    """Without its findings."""
    message = decision(noun)
    del message.findings[:]
    return message


def _process(place: ProcessRef) -> evidence_pb2.Subject:
    return evidence_pb2.Subject(
        node=place.node,
        boot_id=place.boot_id,
        pid=place.pid,
        start_ticks=place.start_ticks,
        exec_seq=place.exec_seq,
        container_id=place.container_id,
        pod_uid=place.pod_uid,
    )
