"""Enums of the wire and of the house, one table each."""

from __future__ import annotations

from typing import Final

from broker.api.convert.scalars import Twins
from broker.model.appraisal import Status
from broker.model.attestation import AttestationState
from broker.model.credential import LeaseState
from broker.model.decision import DecisionKind
from broker.model.detection import DetectionKind, DetectionState
from broker.model.evidence import Assurance
from broker.model.manifest import ManifestState
from broker.model.proposal import ProposalState
from broker.model.requests import ConfirmOutcome
from broker.model.revocation import RevocationState
from broker.model.role import Mode, Revocability
from lockstep.formats import UnitKind
from lockstep.v1 import (
    attestation_pb2,
    credential_pb2,
    decision_pb2,
    detection_pb2,
    evidence_pb2,
    manifest_pb2,
    oversight_pb2,
    revocation_pb2,
)

STATUS: Final = Twins[attestation_pb2.AttestationStatus.ValueType, Status](
    "status",
    {
        attestation_pb2.ATTESTATION_STATUS_AFFIRMING: Status.AFFIRMING,
        attestation_pb2.ATTESTATION_STATUS_WARNING: Status.WARNING,
        attestation_pb2.ATTESTATION_STATUS_CONTRAINDICATED: Status.CONTRAINDICATED,
    },
)
MODE: Final = Twins[attestation_pb2.Mode.ValueType, Mode](
    "mode", {attestation_pb2.MODE_OBSERVE: Mode.OBSERVE, attestation_pb2.MODE_ENFORCE: Mode.ENFORCE}
)
ASSURANCE: Final = Twins[evidence_pb2.AssuranceLevel.ValueType, Assurance](
    "assurance level",
    {
        evidence_pb2.ASSURANCE_LEVEL_SELF: Assurance.SELF,
        evidence_pb2.ASSURANCE_LEVEL_WITNESSED: Assurance.WITNESSED,
        evidence_pb2.ASSURANCE_LEVEL_KERNEL: Assurance.KERNEL,
        evidence_pb2.ASSURANCE_LEVEL_HARDWARE: Assurance.HARDWARE,
    },
)
UNIT_KIND: Final = Twins[evidence_pb2.UnitKind.ValueType, UnitKind](
    "unit kind",
    {
        evidence_pb2.UNIT_KIND_EXECUTABLE: UnitKind.EXECUTABLE,
        evidence_pb2.UNIT_KIND_SHARED_OBJECT: UnitKind.SHARED_OBJECT,
        evidence_pb2.UNIT_KIND_PYTHON_SOURCE: UnitKind.PYTHON_SOURCE,
        evidence_pb2.UNIT_KIND_PYTHON_BYTECODE: UnitKind.PYTHON_BYTECODE,
        evidence_pb2.UNIT_KIND_PYTHON_ARCHIVE: UnitKind.PYTHON_ARCHIVE,
        evidence_pb2.UNIT_KIND_PYTHON_PATH_FILE: UnitKind.PYTHON_PATH_FILE,
        evidence_pb2.UNIT_KIND_SCRIPT: UnitKind.SCRIPT,
        evidence_pb2.UNIT_KIND_MODULE_JS: UnitKind.MODULE_JS,
        evidence_pb2.UNIT_KIND_MODEL: UnitKind.MODEL,
        evidence_pb2.UNIT_KIND_DATA_CODE: UnitKind.DATA_CODE,
    },
)
LEASE_STATE: Final = Twins[credential_pb2.LeaseState.ValueType, LeaseState](
    "lease state",
    {
        credential_pb2.LEASE_STATE_PENDING: LeaseState.PENDING,
        credential_pb2.LEASE_STATE_ACTIVE: LeaseState.ACTIVE,
        credential_pb2.LEASE_STATE_REVOKING: LeaseState.REVOKING,
        credential_pb2.LEASE_STATE_REVOKED: LeaseState.REVOKED,
        credential_pb2.LEASE_STATE_EXPIRED: LeaseState.EXPIRED,
        credential_pb2.LEASE_STATE_STUCK: LeaseState.STUCK,
    },
)
REVOCABILITY: Final = Twins[credential_pb2.Revocability.ValueType, Revocability](
    "revocability",
    {
        credential_pb2.REVOCABILITY_INSTANT: Revocability.INSTANT,
        credential_pb2.REVOCABILITY_AT_TARGET: Revocability.AT_TARGET,
        credential_pb2.REVOCABILITY_UNTIL_EXPIRY: Revocability.UNTIL_EXPIRY,
        credential_pb2.REVOCABILITY_NEVER: Revocability.NEVER,
    },
)
DECISION_KIND: Final = Twins[decision_pb2.DecisionKind.ValueType, DecisionKind](
    "decision kind",
    {
        decision_pb2.DECISION_KIND_ATTEST: DecisionKind.ATTEST,
        decision_pb2.DECISION_KIND_REATTEST: DecisionKind.REATTEST,
        decision_pb2.DECISION_KIND_ISSUE: DecisionKind.ISSUE,
        decision_pb2.DECISION_KIND_RENEW: DecisionKind.RENEW,
        decision_pb2.DECISION_KIND_DETECTION: DecisionKind.DETECTION,
        decision_pb2.DECISION_KIND_REVOKE: DecisionKind.REVOKE,
        decision_pb2.DECISION_KIND_LIFT: DecisionKind.LIFT,
        decision_pb2.DECISION_KIND_MANIFEST: DecisionKind.MANIFEST,
    },
)
# A heartbeat is a message of its own on the stream, so HEARTBEAT has no twin among the kinds.
DETECTION_KIND: Final = Twins[detection_pb2.DetectionKind.ValueType, DetectionKind](
    "detection kind",
    {
        detection_pb2.DETECTION_KIND_LIBRARY: DetectionKind.LIBRARY,
        detection_pb2.DETECTION_KIND_EXEC: DetectionKind.EXEC,
        detection_pb2.DETECTION_KIND_MEMFD: DetectionKind.MEMFD,
        detection_pb2.DETECTION_KIND_ANON_EXEC: DetectionKind.ANON_EXEC,
        detection_pb2.DETECTION_KIND_TEXT_PATCH: DetectionKind.TEXT_PATCH,
        detection_pb2.DETECTION_KIND_INJECTION: DetectionKind.INJECTION,
        detection_pb2.DETECTION_KIND_SCRIPT: DetectionKind.SCRIPT,
        detection_pb2.DETECTION_KIND_DOWNLOAD: DetectionKind.DOWNLOAD,
        detection_pb2.DETECTION_KIND_SENSOR_BLIND: DetectionKind.SENSOR_BLIND,
        detection_pb2.DETECTION_KIND_MODULE: DetectionKind.MODULE,
        detection_pb2.DETECTION_KIND_GENERATED_CODE: DetectionKind.GENERATED_CODE,
    },
)
DETECTION_STATE: Final = Twins[detection_pb2.DetectionState.ValueType, DetectionState](
    "detection state",
    {
        detection_pb2.DETECTION_STATE_APPLIED: DetectionState.APPLIED,
        detection_pb2.DETECTION_STATE_OBSERVED: DetectionState.OBSERVED,
        detection_pb2.DETECTION_STATE_DUPLICATE: DetectionState.DUPLICATE,
        detection_pb2.DETECTION_STATE_UNRELATED: DetectionState.UNRELATED,
        detection_pb2.DETECTION_STATE_UNMATCHED: DetectionState.UNMATCHED,
        detection_pb2.DETECTION_STATE_REJECTED: DetectionState.REJECTED,
        detection_pb2.DETECTION_STATE_HELD: DetectionState.HELD,
        detection_pb2.DETECTION_STATE_DISMISSED: DetectionState.DISMISSED,
    },
)
MANIFEST_STATE: Final = Twins[manifest_pb2.ManifestState.ValueType, ManifestState](
    "manifest state",
    {
        manifest_pb2.MANIFEST_STATE_PROPOSED: ManifestState.PROPOSED,
        manifest_pb2.MANIFEST_STATE_IN_FORCE: ManifestState.IN_FORCE,
        manifest_pb2.MANIFEST_STATE_RETIRED: ManifestState.RETIRED,
        manifest_pb2.MANIFEST_STATE_WITHDRAWN: ManifestState.WITHDRAWN,
        manifest_pb2.MANIFEST_STATE_EXPIRED: ManifestState.EXPIRED,
    },
)
ATTESTATION_STATE: Final = Twins[oversight_pb2.AttestationState.ValueType, AttestationState](
    "attestation state",
    {
        oversight_pb2.ATTESTATION_STATE_ALIVE: AttestationState.ALIVE,
        oversight_pb2.ATTESTATION_STATE_REVOKED: AttestationState.REVOKED,
        oversight_pb2.ATTESTATION_STATE_EXPIRED: AttestationState.EXPIRED,
        oversight_pb2.ATTESTATION_STATE_LAPSED: AttestationState.LAPSED,
    },
)
PROPOSAL_STATE: Final = Twins[revocation_pb2.ProposalState.ValueType, ProposalState](
    "proposal state",
    {
        revocation_pb2.PROPOSAL_STATE_OPEN: ProposalState.OPEN,
        revocation_pb2.PROPOSAL_STATE_CONFIRMED: ProposalState.CONFIRMED,
        revocation_pb2.PROPOSAL_STATE_WITHDRAWN: ProposalState.WITHDRAWN,
        revocation_pb2.PROPOSAL_STATE_EXPIRED: ProposalState.EXPIRED,
    },
)
CONFIRM_OUTCOME: Final = Twins[revocation_pb2.ConfirmOutcome.ValueType, ConfirmOutcome](
    "outcome of a confirmation",
    {
        revocation_pb2.CONFIRM_OUTCOME_REVOKED: ConfirmOutcome.REVOKED,
        revocation_pb2.CONFIRM_OUTCOME_WAITING: ConfirmOutcome.WAITING,
        revocation_pb2.CONFIRM_OUTCOME_GROWN: ConfirmOutcome.GROWN,
        revocation_pb2.CONFIRM_OUTCOME_SHOWN: ConfirmOutcome.SHOWN,
    },
)
REVOCATION_STATE: Final = Twins[oversight_pb2.RevocationState.ValueType, RevocationState](
    "revocation state",
    {
        oversight_pb2.REVOCATION_STATE_COMMITTED: RevocationState.COMMITTED,
        oversight_pb2.REVOCATION_STATE_CLEANING: RevocationState.CLEANING,
        oversight_pb2.REVOCATION_STATE_SETTLED: RevocationState.SETTLED,
    },
)
