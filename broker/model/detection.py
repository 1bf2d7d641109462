"""Reports of code that nobody approved: as parsed by a detector's plug, and as kept."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from broker.model.evidence import ProcessRef
from broker.model.role import Action


class DetectionKind(enum.StrEnum):
    """What was seen (`detectors.md` 1.9)."""

    LIBRARY = "library"
    EXEC = "exec"
    MEMFD = "memfd"
    ANON_EXEC = "anon_exec"
    TEXT_PATCH = "text_patch"
    INJECTION = "injection"
    SCRIPT = "script"
    DOWNLOAD = "download"
    SENSOR_BLIND = "sensor_blind"
    MODULE = "module"
    GENERATED_CODE = "generated_code"
    HEARTBEAT = "heartbeat"


class DetectionState(enum.StrEnum):
    """How a report ended. HELD waits for a person, who makes it APPLIED or DISMISSED; nothing else ever changes."""

    APPLIED = "applied"
    OBSERVED = "observed"
    DUPLICATE = "duplicate"
    UNRELATED = "unrelated"
    UNMATCHED = "unmatched"
    REJECTED = "rejected"
    HELD = "held"
    DISMISSED = "dismissed"


@dataclass(frozen=True, slots=True)
class DetectionSubject:
    """Whom a report names, most exact first; empty where it says nothing."""

    attestation_id: str = ""
    process: ProcessRef = ProcessRef()
    spiffe_id: str = ""
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class DetectionObject:
    """What was seen; `digest` is a SHA-256 (32 bytes) or empty, `size` in bytes."""

    digest: bytes = b""
    path: str = ""
    size: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Detection:
    """One authentic report, parsed.

    `event_id` is the sender's id, constant over retries; (detector, event_id)
    is the replay key. `sent_at` is when this try was sent, `observed_at` when
    it happened (both seconds, UTC; the latter a hint).
    """

    detector: str
    event_id: str
    kind: DetectionKind
    subject: DetectionSubject
    object: DetectionObject
    sent_at: float
    observed_at: float
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """What a report would have done to its instances, had no cap held it; `exact` where it named them, and it was no
    guess."""

    action: Action
    exact: bool


@dataclass(frozen=True, slots=True)
class DetectionRecord:
    """A report with how it ended. `siblings` is how many more than `instances` a ban of their identity stops.

    `held` is kept of one that was held, and `decided_by` names the person who decided about it.
    """

    id: str
    detection: Detection
    state: DetectionState
    reason: str
    decision_id: str
    revocation_id: str
    instances: tuple[str, ...]
    received_at: float
    decided_by: str = ""
    siblings: int = 0
    held: Held | None = None
