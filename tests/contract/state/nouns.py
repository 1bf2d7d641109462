"""Nouns with every field set, for stores to keep."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

from broker.model.appraisal import Finding, Status
from broker.model.attestation import ApplicationResult, Attestation, AttestationState
from broker.model.credential import Lease, LeaseState
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.detection import (
    Detection,
    DetectionKind,
    DetectionObject,
    DetectionRecord,
    DetectionState,
    DetectionSubject,
    Held,
)
from broker.model.evidence import Assurance, CodeSet, InstanceKey, ProcessRef, Unit
from broker.model.identity import IdentityMatch, InstanceClaims, WorkloadIdentity
from broker.model.manifest import DynamicLoad, Manifest, ManifestRecord, ManifestState, ManifestUnit
from broker.model.proposal import Agreement, Preview, Proposal, ProposalState
from broker.model.reach import EVERYTHING, Reach
from broker.model.revocation import (
    EntryKind,
    LogHead,
    NewEntry,
    Revocation,
    RevocationState,
    Selector,
    SelectorKind,
    Unconfirmed,
)
from broker.model.role import Action, AfterRevocation, Mode, OnSilence, Revocability, Role, Scope, Silence
from broker.model.step import Step
from lockstep.formats import FindingReason, Reason, UnitKind

NOW = 1_800_000_000.25


def digest(name: object) -> bytes:
    """A digest of a name."""
    return sha256(str(name).encode()).digest()


def units(*names: object, kind: UnitKind = UnitKind.SHARED_OBJECT) -> list[Unit]:
    """Units by name."""
    return [Unit(kind, digest(name)) for name in names]


def code_set(*names: object) -> CodeSet:
    """A code set of named units."""
    return CodeSet.of(units(*names))


def process(number: int = 1, **changes: Any) -> ProcessRef:
    """A process of a node."""
    found = ProcessRef(
        "node-1", "boot-1", 1000 + number, 5000 + number, 2, f"container-{number}", f"pod-{number}"
    )
    return replace(found, **changes)


def identity(subject: str = "workload", **changes: Any) -> WorkloadIdentity:
    """An identity with claims and no place of its own."""
    found = WorkloadIdentity(
        "oidc", "https://issuer.example", subject, NOW + 3600.5, {"team": "payments", "odd": "\ud800\x00"}
    )
    return replace(found, **changes)


def attestation(number: int = 1, **changes: Any) -> Attestation:
    """An attestation that a sensor has witnessed."""
    found = Attestation(
        id=f"att-{number:06}",
        identity=identity(instance=InstanceClaims("node-1", f"pod-{number}", "")),
        key=InstanceKey(b"spki" + bytes([number % 256]), digest(f"key-{number}"), "ES256"),
        assurance=Assurance.WITNESSED,
        process=process(number),
        results=(
            ApplicationResult("shop", Status.AFFIRMING, (digest("manifest"), digest("base")), 0),
            ApplicationResult("tools", Status.CONTRAINDICATED, (digest("other"),), 7),
        ),
        code_set=code_set("libc", "app").digest,
        state=AttestationState.ALIVE,
        created_at=NOW,
        refreshed_at=NOW + 0.125,
        expires_at=NOW + 300,
        as_of=41,
        decision_id=f"dec-{number:06}",
        unmeasured=("builtins.exec",),
    )
    return replace(found, **changes)


def lease(number: int = 1, **changes: Any) -> Lease:
    """A lease that is active."""
    found = Lease(
        id=f"lea-{number:06}",
        attestation_id="att-000001",
        role="shop-db",
        role_version=digest("role"),
        backend="vault",
        state=LeaseState.ACTIVE,
        mode=Mode.ENFORCE,
        decision_id="dec-000001",
        request_id=f"req-{number}",
        identity="https://issuer.example|workload",
        audience="db",
        assurance=Assurance.WITNESSED,
        handle=f"handle-{number}",
        revocability=Revocability.AT_TARGET,
        possession_required=True,
        issued_at=NOW,
        expires_at=NOW + 60,
        max_expires_at=NOW + 3600,
        as_of=41,
        renewable=False,
        ended_at=0.5,
        attempts=3,
        next_attempt_at=NOW + 5,
        detail="said something",
    )
    return replace(found, **changes)


def entry(number: int = 1, **changes: Any) -> NewEntry:
    """A log entry."""
    found = NewEntry(
        kind=EntryKind.REVOKED,
        revocation_id=f"rev-{number:06}",
        selector=Selector(SelectorKind.KEY, digest(f"key-{number}").hex()),
        cut=True,
        ban=True,
        at=NOW + number + 0.1,
        until=None,
        actor="operator:root",
        reason="tampered",
        ticket="T-1",
        decision_id="dec-000001",
        refers_to=0,
        audience="db",
    )
    return replace(found, **changes)


def revocation(number: int = 1, **changes: Any) -> Revocation:
    """An act of revoking in the middle of its way."""
    found = Revocation(
        id=f"rev-{number:06}",
        selector=Selector(SelectorKind.DIGEST, digest("libc").hex()),
        cut=True,
        ban=True,
        state=RevocationState.COMMITTED,
        actor="detector:falco",
        reason="library",
        ticket="T-1",
        decision_id="dec-000001",
        detection_id="det-000001",
        at=NOW + number,
        until=NOW + 3600,
        first_seq=3,
        last_seq=4,
        steps=(Step("denied", NOW + 0.1, "seq 3"), Step("told", NOW + 0.2)),
        unconfirmed=(Unconfirmed("lea-000001", "token", NOW + 60),),
        attestations=2,
        leases=5,
        expanded=True,
        lifted_at=NOW + 9,
        receipt=b'{"payload": ""}',
    )
    return replace(found, **changes)


def detection(number: int = 1, **changes: Any) -> DetectionRecord:
    """A report that was applied."""
    found = DetectionRecord(
        id=f"det-{number:06}",
        detection=Detection(
            detector="falco",
            event_id=f"event-{number}",
            kind=DetectionKind.LIBRARY,
            subject=DetectionSubject("att-000001", process(), "spiffe://td/a", "ns"),
            object=DetectionObject(digest("evil"), "/tmp/\udcffevil.so", 12345, "evil"),
            sent_at=NOW,
            observed_at=NOW - 1,
            rule="loaded",
        ),
        state=DetectionState.APPLIED,
        reason="matched",
        decision_id="dec-000001",
        revocation_id="rev-000001",
        instances=("att-000001", "att-000002"),
        received_at=NOW + number,
        decided_by="operator:root",
        siblings=7,
        held=Held(Action.QUARANTINE, exact=False),
    )
    return replace(found, **changes)


def proposal(number: int = 1, **changes: Any) -> Proposal:
    """A revocation that waits for a third operator, and was seen to hit more than before."""
    found = Proposal(
        id=f"rev-{number:06}",
        state=ProposalState.OPEN,
        selector=Selector(SelectorKind.PACKAGE, "pkg:pypi/app@1"),
        ban=True,
        until=NOW + 3600,
        reason="INC-\u00fc",
        ticket="T-1",
        at=NOW,
        expires_at=NOW + number,
        needs=3,
        agreed=(
            Agreement("operator:a:x", "x", NOW, EVERYTHING),
            Agreement("operator:b:y", "y", NOW + 0.5, Reach((Scope(("team-*",), ("pay-*",)),))),
        ),
        preview=Preview(LogHead("log", 7, digest("entry")), ("att-000001", "att-000002"), 5, digest("p")),
        decision_id="dec-000001",
        grown=True,
        ended_by="operator:c:z",
        ended_at=NOW + 9.25,
        ended_reason="why",
    )
    return replace(found, **changes)


def decision(number: int = 1, **changes: Any) -> Decision:
    """A refusal with findings."""
    found = Decision(
        id=f"dec-{number:06}",
        kind=DecisionKind.ATTEST,
        at=NOW + number,
        verdict=Reason.APPRAISAL_FAILED,
        effect=Effect.REFUSED,
        mode=Mode.ENFORCE,
        identity="https://issuer.example|workload",
        attestation_id="att-000001",
        role="shop-db",
        role_version=digest("role"),
        application="shop",
        manifests=(digest("manifest"), digest("base")),
        code_set=digest("code"),
        findings=(
            Finding(FindingReason.UNIT_NOT_APPROVED, UnitKind.SCRIPT, digest("evil"), "/x/\udcff", "x"),
            Finding(FindingReason.UNKNOWN_CODE, None, b"", "", "builtins.exec"),
        ),
        findings_total=12,
        detection_id="det-000001",
        revocation_id="rev-000001",
        instances=("att-000001",),
        actor="operator:root",
        ticket="T-1",
        detail="why",
    )
    return replace(found, **changes)


def manifest(version: int = 1, application: str = "shop", **changes: Any) -> ManifestRecord:
    """A manifest in force, with packages."""
    entries = [
        ManifestUnit(
            Unit(UnitKind.PYTHON_BYTECODE, digest("app")),
            (digest("app.pyc"),),
            ("/app/a.pyc", "/app/b.pyc"),
            "pkg:pypi/app@1",
            True,
        ),
        ManifestUnit(Unit(UnitKind.SHARED_OBJECT, digest("libc")), (), (), "pkg:deb/libc6@2", False),
        ManifestUnit(Unit(UnitKind.EXECUTABLE, digest("python"))),
    ]
    content = Manifest(
        digest=digest(f"{application}/{version}"),
        application=application,
        version=version,
        label=f"v{version}",
        units={item.unit: item for item in entries},
        includes=("base",),
        dynamic_load=DynamicLoad.FORBIDDEN,
        anonymous=("rwxp",),
        unknown=("builtins.exec",),
        not_before=NOW - 10.5,
        not_after=NOW + 86400,
        supersedes=version - 1,
    )
    found = ManifestRecord(content, b'{"payload": "e30="}', ("alice", "bob"), ManifestState.IN_FORCE, NOW)
    return replace(found, **changes)


def role(version: bytes = b"\x01" * 32, text: str = "name = shop-db") -> Role:
    """A role."""
    return Role(
        name="shop-db",
        owner="payments",
        mode=Mode.ENFORCE,
        identity=IdentityMatch("oidc", "workload"),
        manifests=("shop",),
        backend="vault",
        parameters={},
        assurance=Assurance.SELF,
        ttl={Assurance.SELF: 60.0},
        revocability=Revocability.INSTANT,
        silence=Silence(30.0, OnSilence.DROP),
        after_revocation=AfterRevocation.HOLD,
        possession_required=False,
        static_accepted=False,
        max_life=3600.0,
        version=version,
        text=text,
    )
