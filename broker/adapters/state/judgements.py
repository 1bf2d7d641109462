"""Detections and decisions as JSON, and back; every plug of a database uses the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from broker.adapters.state.codec import process_json, read_process, to_json
from broker.model.appraisal import Finding
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.detection import Detection, DetectionKind, DetectionObject, DetectionSubject, Held
from broker.model.role import Action, Mode
from lockstep.formats import FindingReason, Reason, UnitKind


def findings_json(findings: Iterable[Finding]) -> list[Any]:
    """Findings of an appraisal."""
    return [[item.reason, item.kind, item.digest.hex(), item.path, item.name] for item in findings]


def read_findings(value: Iterable[Sequence[Any]]) -> tuple[Finding, ...]:
    """The inverse of `findings_json`."""
    return tuple(
        Finding(
            FindingReason(reason),
            None if kind is None else UnitKind(kind),
            bytes.fromhex(digest),
            path,
            name,
        )
        for reason, kind, digest, path, name in value
    )


def detection_json(detection: Detection) -> list[Any]:
    """A report, without its detector and event id, which are columns."""
    subject, seen = detection.subject, detection.object
    return [
        detection.kind,
        [subject.attestation_id, process_json(subject.process), subject.spiffe_id, subject.namespace],
        [seen.digest.hex(), seen.path, seen.size, seen.name],
        detection.sent_at,
        detection.observed_at,
        detection.rule,
    ]


def read_detection(detector: str, event_id: str, value: Sequence[Any]) -> Detection:
    """The inverse of `detection_json`."""
    kind, (attestation_id, process, spiffe_id, namespace), (digest, path, size, name), *rest = value
    return Detection(
        detector,
        event_id,
        DetectionKind(kind),
        DetectionSubject(attestation_id, read_process(process), spiffe_id, namespace),
        DetectionObject(bytes.fromhex(digest), path, size, name),
        *rest,
    )


def held_text(held: Held | None) -> str:
    """What a held report would have done; empty for every other."""
    return "" if held is None else to_json({"action": held.action, "exact": held.exact})


def read_held(text: str) -> Held | None:
    """The inverse of `held_text`."""
    if not text:
        return None
    value = json.loads(text)
    return Held(Action(value["action"]), bool(value["exact"]))


def decision_json(decision: Decision) -> dict[str, Any]:
    """A decision, without its id and time, which are columns; what is empty is left out."""
    content: dict[str, Any] = {
        "kind": decision.kind,
        "verdict": decision.verdict,
        "effect": decision.effect,
        "mode": decision.mode,
        "identity": decision.identity,
        "attestation_id": decision.attestation_id,
        "role": decision.role,
        "role_version": decision.role_version.hex(),
        "application": decision.application,
        "manifests": [digest.hex() for digest in decision.manifests],
        "code_set": decision.code_set.hex(),
        "findings": findings_json(decision.findings),
        "findings_total": decision.findings_total,
        "detection_id": decision.detection_id,
        "revocation_id": decision.revocation_id,
        "instances": decision.instances,
        "actor": decision.actor,
        "ticket": decision.ticket,
        "detail": decision.detail,
    }
    return {name: value for name, value in content.items() if value}


def read_decision(decision_id: str, at: float, value: dict[str, Any]) -> Decision:
    """The inverse of `decision_json`."""
    mode = value.pop("mode", None)
    return Decision(
        id=decision_id,
        at=at,
        kind=DecisionKind(value.pop("kind")),
        verdict=Reason(value.pop("verdict")),
        effect=Effect(value.pop("effect")),
        mode=None if mode is None else Mode(mode),
        role_version=bytes.fromhex(value.pop("role_version", "")),
        manifests=tuple(map(bytes.fromhex, value.pop("manifests", ()))),
        code_set=bytes.fromhex(value.pop("code_set", "")),
        findings=read_findings(value.pop("findings", ())),
        instances=tuple(value.pop("instances", ())),
        **value,
    )
