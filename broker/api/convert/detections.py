"""Reports from the wire, and how they ended."""

from __future__ import annotations

from broker.api.convert.enums import DETECTION_KIND, DETECTION_STATE
from broker.api.convert.scalars import digest, from_timestamp, text
from broker.errors import InvalidRequest
from broker.model.detection import Detection, DetectionObject, DetectionSubject
from broker.model.evidence import ProcessRef
from broker.model.requests import ReportAnswer
from lockstep.v1 import detection_pb2 as pb

_PATH = 4096
_NAME = 1024


def detection(wire: pb.Detection, detector: str, now: float) -> Detection:
    """Raises `InvalidRequest`. `now` (seconds, UTC) is when it was received."""
    subject, seen = wire.subject, wire.object
    process = subject.process
    if process.pid < 0:
        raise InvalidRequest("subject.process.pid: negative")
    return Detection(
        detector=detector,
        event_id=text(wire.event_id, "event_id", 128, empty=False),
        kind=DETECTION_KIND.model(wire.kind),
        subject=DetectionSubject(
            attestation_id=text(subject.attestation_id, "subject.attestation_id", 128),
            process=ProcessRef(
                node=text(process.node, "subject.process.node", 253),
                boot_id=text(process.boot_id, "subject.process.boot_id", 64),
                pid=process.pid,
                start_ticks=process.start_ticks,
                exec_seq=process.exec_seq,
                container_id=text(process.container_id, "subject.process.container_id", 128),
                pod_uid=text(process.pod_uid, "subject.process.pod_uid", 128),
            ),
            spiffe_id=text(subject.spiffe_id, "subject.spiffe_id", 2048),
            namespace=text(subject.namespace, "subject.namespace", 253),
        ),
        object=DetectionObject(
            digest=digest(seen.digest, "object.digest") if seen.digest else b"",
            path=_shown(seen.path, _PATH),
            size=seen.size,
            name=_shown(seen.name, _NAME),
        ),
        sent_at=now,
        observed_at=from_timestamp(wire.observed_at, "observed_at") if wire.HasField("observed_at") else now,
    )


def _shown(value: str, limit: int) -> str:
    """A file may be called anything: what cannot be printed is spelled out, not refused, or a name would hide it."""
    plain = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in value[:limit])
    return plain[:limit]


def report_response(seq: int, answer: ReportAnswer) -> pb.ReportResponse:
    """The answer to one report."""
    return pb.ReportResponse(
        seq=seq,
        state=DETECTION_STATE.wire(answer.state),
        detection_id=answer.detection_id,
        decision_id=answer.decision_id,
        reason=answer.reason,
    )
