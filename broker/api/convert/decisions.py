"""Decisions and code sets to the wire."""

from __future__ import annotations

from collections.abc import Iterable

from broker.api.convert.enums import DECISION_KIND, MODE, UNIT_KIND
from broker.api.convert.scalars import to_timestamp
from broker.model.appraisal import Finding
from broker.model.decision import Decision
from broker.model.evidence import CodeSet, UnitHint
from broker.model.requests import Explanation
from lockstep.formats import UnitKind
from lockstep.v1 import attestation_pb2, decision_pb2, evidence_pb2


def decision(noun: Decision) -> decision_pb2.Decision:
    """A decision with the findings that were kept."""
    return decision_pb2.Decision(
        decision_id=noun.id,
        kind=DECISION_KIND.wire(noun.kind),
        at=to_timestamp(noun.at),
        verdict=noun.verdict.value,
        effect=noun.effect.value,
        mode=attestation_pb2.MODE_UNSPECIFIED if noun.mode is None else MODE.wire(noun.mode),
        identity=noun.identity,
        attestation_id=noun.attestation_id,
        role=noun.role,
        role_version=noun.role_version,
        manifests=noun.manifests,
        code_set_digest=noun.code_set,
        findings=[finding(item) for item in noun.findings],
        findings_total=noun.findings_total,
        detection_id=noun.detection_id,
        revocation_id=noun.revocation_id,
        instances=len(noun.instances),
        application=noun.application,
        detail=noun.detail,
        actor=noun.actor,
        ticket=noun.ticket,
    )


def finding(noun: Finding) -> decision_pb2.Finding:
    """One thing that failed."""
    return decision_pb2.Finding(
        reason=noun.reason.value,
        kind=evidence_pb2.UNIT_KIND_UNSPECIFIED if noun.kind is None else UNIT_KIND.wire(noun.kind),
        digest=noun.digest,
        path=noun.path,
        name=noun.name,
    )


def unit_sets(code: CodeSet) -> list[evidence_pb2.UnitSet]:
    """A code set by kind, digests ascending."""
    by_kind: dict[UnitKind, list[bytes]] = {}
    for unit in code.units:
        by_kind.setdefault(unit.kind, []).append(unit.digest)
    return [
        evidence_pb2.UnitSet(kind=UNIT_KIND.wire(kind), digests=sorted(by_kind[kind]))
        for kind in sorted(by_kind)
    ]


def hints(nouns: Iterable[UnitHint]) -> list[evidence_pb2.UnitHint]:
    """Names for people."""
    return [evidence_pb2.UnitHint(digest=hint.digest, path=hint.path, name=hint.name) for hint in nouns]


def explain_response(noun: Explanation) -> decision_pb2.ExplainDecisionResponse:
    """The answer to ExplainDecision."""
    return decision_pb2.ExplainDecisionResponse(
        decision=decision(noun.decision),
        code_set=unit_sets(noun.code_set) if noun.code_set is not None else [],
        hints=hints(noun.hints),
        nearest=noun.nearest,
    )
