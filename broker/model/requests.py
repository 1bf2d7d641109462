"""What the verbs take and give: the shapes between the doors and the use cases."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from broker.model.appraisal import Status
from broker.model.attestation import Attestation
from broker.model.credential import Credential, Lease
from broker.model.decision import Decision
from broker.model.detection import DetectionState
from broker.model.evidence import Assurance, CodeSet, SealedEvidence, UnitHint
from broker.model.identity import IdentityProof
from broker.model.manifest import ManifestRecord
from broker.model.proposal import Preview, Proposal
from broker.model.reach import EVERYTHING, Reach
from broker.model.revocation import LogHead, Selector
from broker.model.role import Mode, Rotate, Silence
from lockstep.formats import Reason


@dataclass(frozen=True, slots=True)
class AttestOrder:
    """`Attest`: `spki` is the instance key as received; empty `roles` means all that match."""

    identity_proof: IdentityProof
    spki: bytes
    nonce: bytes
    evidence: tuple[SealedEvidence, ...]
    roles: tuple[str, ...] = ()
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class ReattestOrder:
    """`Reattest`."""

    attestation_id: str
    identity_proof: IdentityProof
    nonce: bytes
    evidence: tuple[SealedEvidence, ...]


@dataclass(frozen=True, slots=True)
class RoleVerdict:
    """What one role says of an attestation."""

    role: str
    status: Status
    mode: Mode
    granted: bool
    reason: Reason
    findings: int
    decision_id: str


@dataclass(frozen=True, slots=True)
class AttestAnswer:
    """`attestation` is None on a dry run. Times in seconds since the epoch, UTC."""

    attestation: Attestation | None
    decision_id: str
    status: Status
    assurance: Assurance
    expires_at: float
    roles: tuple[RoleVerdict, ...]
    silence: Silence
    as_of: int
    now: float


@dataclass(frozen=True, slots=True)
class IssueAnswer:
    """`credential` is None where nothing new was made."""

    lease: Lease
    credential: Credential | None = field(repr=False)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    now: float = 0.0
    rotate: Rotate | None = None


@dataclass(frozen=True, slots=True)
class Introspection:
    """RFC 7662 section 2.2, as far as the door needs it; `lease` is None where inactive."""

    active: bool
    lease: Lease | None = None
    attestation: Attestation | None = None


@dataclass(frozen=True, slots=True)
class RevokeOrder:
    """An operator's revocation; `ban` None takes the selector's default, or True where `until` (seconds, UTC) says
    how long the ban holds. `reach` is that of the operator's right, `needs` how many different people it takes, and
    `identity` tells this one from others."""

    selector: Selector
    actor: str
    reason: str
    ticket: str = ""
    until: float | None = None
    ban: bool | None = None
    dry_run: bool = False
    reach: Reach = EVERYTHING
    needs: int = 1
    identity: str = ""


@dataclass(frozen=True, slots=True)
class RevokeAnswer:
    """What a revocation did, or would do; `head` is the log after it, `preview` what it was seen to hit just before."""

    revocation_id: str
    decision_id: str
    head: LogHead
    attestations: int
    leases: int
    preview: Preview | None = None


class ConfirmOutcome(enum.StrEnum):
    """What became of an agreement: the last one needed revokes; one that was not asked for all of it counts for
    nothing, and a dry run only shows."""

    REVOKED = "revoked"
    WAITING = "waiting"
    GROWN = "grown"
    SHOWN = "shown"


@dataclass(frozen=True, slots=True)
class ConfirmAnswer:
    """`answer` is there where it was REVOKED; `before`, where it has GROWN or is SHOWN, is what was previewed until
    now."""

    outcome: ConfirmOutcome
    proposal: Proposal
    answer: RevokeAnswer | None = None
    before: Preview | None = None


@dataclass(frozen=True, slots=True)
class LiftAnswer:
    """A lift is a log entry of its own."""

    decision_id: str
    head: LogHead


@dataclass(frozen=True, slots=True)
class ReportAnswer:
    """How a report ended, durable when this is returned."""

    state: DetectionState
    detection_id: str
    decision_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class PublishAnswer:
    """`in_force` is False while signatures are missing."""

    record: ManifestRecord
    decision_id: str
    in_force: bool
    signatures_present: int
    signatures_required: int


@dataclass(frozen=True, slots=True)
class WithdrawAnswer:
    """A withdrawal revokes what runs under the manifest."""

    record: ManifestRecord
    decision_id: str
    revocation_id: str
    attestations: int


@dataclass(frozen=True, slots=True)
class LowerAnswer:
    """`before` is the least version that was accepted until then."""

    decision_id: str
    before: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision with the code set that it judged, and what approves the nearest thing."""

    decision: Decision
    code_set: CodeSet | None = None
    hints: tuple[UnitHint, ...] = ()
    nearest: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AttestationQuery:
    """Which instances are looked for; everything that is said must hold. `since` in seconds, UTC."""

    digest: bytes = b""
    package: str = ""
    identity: str = ""
    since: float = 0.0


P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Page(Generic[P]):
    """Some of a list in id order; `next` is the id to go on after, empty at its end."""

    items: tuple[P, ...]
    next: str = ""
