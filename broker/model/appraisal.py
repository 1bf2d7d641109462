"""appraise(): evidence against reference values, pure (RFC 9334 section 8: appraisal policy for evidence)."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from broker.model.evidence import CodeSet, Evidence, Unit, hints_by_digest
from broker.model.manifest import ReferenceValues
from lockstep.formats import FindingReason, UnitKind


class Status(enum.IntEnum):
    """Tiers of an attestation result, ordered from good to bad."""

    AFFIRMING = 1
    WARNING = 2
    CONTRAINDICATED = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that failed; `path` and `name` are the measurer's hints."""

    reason: FindingReason
    kind: UnitKind | None
    digest: bytes
    path: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Appraisal:
    """The verdict of one code set against one alternative; affirming has no findings."""

    status: Status
    reference: ReferenceValues | None
    findings: tuple[Finding, ...] = ()


def appraise(evidence: Iterable[Evidence], code: CodeSet, reference: ReferenceValues) -> Appraisal:
    """Hold what runs against one manifest with its layers.

    `code` is the whole set (at Reattest the recorded set with the addition);
    the evidence items add what is not a digest. Every unit that runs must be
    approved, every required unit must run, and anonymous, deleted or unknown
    code must be permitted by name.
    """
    items = tuple(evidence)
    hints = hints_by_digest(hint for item in items for hint in item.hints)
    findings: list[Finding] = []
    approved = [reference.manifest.units.keys(), *(layer.units.keys() for layer in reference.layers)]
    missing: set[Unit] = set(code.units)
    for keys in approved:
        missing -= keys
    for unit in sorted(missing):
        hint = hints.get(unit.digest)
        findings.append(
            Finding(
                FindingReason.UNIT_NOT_APPROVED,
                unit.kind,
                unit.digest,
                hint.path if hint else "",
                hint.name if hint else "",
            )
        )
    # What an included layer requires is required of the layer's own image, not
    # of every application on top: only the application's list counts.
    for entry in reference.manifest.units.values():
        if entry.required and entry.unit not in code.units:
            path = entry.paths[0] if entry.paths else ""
            findings.append(
                Finding(FindingReason.UNIT_MISSING, entry.unit.kind, entry.unit.digest, path, entry.package)
            )
    layers = (reference.manifest, *reference.layers)
    anonymous = frozenset(item for layer in layers for item in layer.anonymous)
    unknown = frozenset(item for layer in layers for item in layer.unknown)
    for item in items:
        for mapping in item.anonymous:
            if mapping.deleted:
                findings.append(
                    Finding(FindingReason.DELETED_FILE, None, b"", mapping.name, mapping.permissions)
                )
            elif mapping.permissions not in anonymous:
                findings.append(
                    Finding(FindingReason.ANONYMOUS_CODE, None, b"", mapping.name, mapping.permissions)
                )
        for code_item in item.unknown:
            if code_item.name not in unknown:
                findings.append(
                    Finding(FindingReason.UNKNOWN_CODE, code_item.kind, b"", code_item.name, code_item.reason)
                )
    status = Status.CONTRAINDICATED if findings else Status.AFFIRMING
    return Appraisal(status, reference, tuple(findings))


def best_appraisal(
    evidence: Iterable[Evidence], code: CodeSet, alternatives: Sequence[ReferenceValues]
) -> Appraisal:
    """One alternative must cover the whole set: of several, the one with fewest findings.

    Without any alternative everything that runs is a finding. A mixture of two
    releases never passes, since each alternative is appraised alone.
    """
    items = tuple(evidence)
    best: Appraisal | None = None
    for reference in alternatives:
        result = appraise(items, code, reference)
        if not result.findings:
            return result
        if best is None or len(result.findings) < len(best.findings):
            best = result
    if best is not None:
        return best
    hints = hints_by_digest(hint for item in items for hint in item.hints)
    findings = tuple(
        Finding(
            FindingReason.UNIT_NOT_APPROVED,
            unit.kind,
            unit.digest,
            hints[unit.digest].path if unit.digest in hints else "",
            hints[unit.digest].name if unit.digest in hints else "",
        )
        for unit in sorted(code.units)
    )
    return Appraisal(Status.CONTRAINDICATED, None, findings)
