"""appraise(): evidence against reference values, pure (RFC 9334 section 8: appraisal policy for evidence)."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

from broker.model.evidence import CodeSet, Evidence, Unit, hints_by_digest
from broker.model.manifest import DynamicLoad, Manifest, ReferenceValues
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
    approved, every required unit must run, nothing may have been added after
    the start where the manifest forbids it, and anonymous or unknown code must
    be permitted by name; code whose file is gone never is.
    """
    items = tuple(evidence)
    layers = (reference.manifest, *reference.layers)
    unapproved = code.units
    for layer in layers:
        unapproved = unapproved.difference(layer.units)
    findings = [
        *_unit_findings(FindingReason.UNIT_NOT_APPROVED, unapproved, items),
        *_missing(code, reference.manifest),
    ]
    if reference.manifest.dynamic_load is DynamicLoad.FORBIDDEN:
        later = {unit for item in items if item.base_digest for unit in item.units}
        findings += _unit_findings(FindingReason.DYNAMIC_LOAD, later - unapproved, items)
    findings += _unmeasured(items, layers)
    return Appraisal(Status.CONTRAINDICATED if findings else Status.AFFIRMING, reference, tuple(findings))


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
    findings = [*_unit_findings(FindingReason.UNIT_NOT_APPROVED, code.units, items), *_unmeasured(items, ())]
    return Appraisal(Status.CONTRAINDICATED, None, tuple(findings))


def _unit_findings(
    reason: FindingReason, units: Iterable[Unit], items: tuple[Evidence, ...]
) -> Iterator[Finding]:
    """Findings in a fixed order. Hints are looked up only here: in the good case nobody asks for them."""
    failed = sorted(units, key=attrgetter("kind", "digest"))
    hints = hints_by_digest(hint for item in items for hint in item.hints) if failed else {}
    for unit in failed:
        hint = hints.get(unit.digest)
        yield Finding(reason, unit.kind, unit.digest, hint.path if hint else "", hint.name if hint else "")


def _missing(code: CodeSet, manifest: Manifest) -> Iterator[Finding]:
    # What an included layer requires is required of the layer's own image, not
    # of every application on top: only the application's list counts.
    for entry in manifest.required_units():
        if entry.unit not in code.units:
            path = entry.paths[0] if entry.paths else ""
            yield Finding(FindingReason.UNIT_MISSING, entry.unit.kind, entry.unit.digest, path, entry.package)


def _unmeasured(items: tuple[Evidence, ...], layers: tuple[Manifest, ...]) -> Iterator[Finding]:
    anonymous = frozenset(permissions for layer in layers for permissions in layer.anonymous)
    unknown = frozenset(name for layer in layers for name in layer.unknown)
    for item in items:
        for mapping in item.anonymous:
            if mapping.deleted:
                reason = FindingReason.DELETED_FILE
            elif mapping.permissions not in anonymous:
                reason = FindingReason.ANONYMOUS_CODE
            else:
                continue
            yield Finding(reason, None, b"", mapping.name, mapping.permissions)
        for code in item.unknown:
            if code.name not in unknown:
                yield Finding(FindingReason.UNKNOWN_CODE, code.kind, b"", code.name, code.reason)
