"""From a decision to the manifest that would have allowed it: on top of the version in force."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from lockstep.formats import FindingReason, UnitKind
from lockstep.v1 import decision_pb2, evidence_pb2
from lockstep_client.manifest import Builder, CodeManifest, ManifestError, ManifestUnit
from lockstep_client.manifest.packages import purl_name
from lockstep_client.measure.model import Unit, UnitHint


@dataclass(frozen=True, slots=True)
class Proposal:
    """What would be published; `before` are the units in force, `unapprovable` what no manifest can allow."""

    manifest: CodeManifest
    before: tuple[ManifestUnit, ...]
    added: tuple[ManifestUnit, ...]
    unapprovable: tuple[str, ...]


def propose(
    explained: decision_pb2.ExplainDecisionResponse,
    *,
    application: str,
    current: CodeManifest | None,
    included: Collection[Unit],
    version: int,
    not_before: datetime,
    not_after: datetime,
    only: Sequence[str] = (),
    keep_old: bool = False,
) -> Proposal:
    """The manifest of `current` with what the decision's code set adds.

    `included` are units that layers approve already. `only`: hexadecimal
    prefixes of the digests to approve, empty for all. A package that came in
    another version replaces the old one, unless `keep_old`. Raises
    `ManifestError` where there is nothing to approve.
    """
    before = current.units if current is not None else ()
    known = {entry.unit for entry in before} | set(included)
    reported = _reported(explained.decision)
    seen = list(dict.fromkeys([*_units(explained.code_set), *reported]))
    wanted = [unit for unit in seen if unit not in known and _chosen(unit, only)]
    for prefix in only:
        if not any(digest.hex().startswith(prefix.lower()) for _, digest in seen):
            raise ManifestError(f"--unit {prefix}: no unit of this decision begins like this")
    hints = [UnitHint(item.digest, item.path, item.name) for item in explained.hints]
    builder = Builder()
    builder.measured(wanted, [*hints, *reported.values()])
    added = builder.collection.units()
    anonymous, unknown, unapprovable = _permissions(explained.decision, only)
    kept = before if keep_old else _without_replaced(before, added)
    builder.collection.add_units(kept)
    base = current or CodeManifest(application, version, (), not_before, not_after)
    manifest = replace(
        base,
        version=version,
        units=builder.collection.units(),
        not_before=not_before,
        not_after=not_after,
        label=explained.decision.decision_id,
        anonymous=tuple(sorted({*base.anonymous, *anonymous})),
        unknown=tuple(sorted({*base.unknown, *unknown})),
    )
    if not added and (manifest.anonymous, manifest.unknown) == (base.anonymous, base.unknown):
        raise ManifestError(_nothing(explained, unapprovable))
    return Proposal(manifest, before, added, unapprovable)


def _units(code_set: Sequence[evidence_pb2.UnitSet]) -> list[Unit]:
    found: list[Unit] = []
    for group in code_set:
        name = evidence_pb2.UnitKind.Name(group.kind).removeprefix("UNIT_KIND_").lower()
        found += [(UnitKind(name), digest) for digest in group.digests]
    return found


def _reported(decision: decision_pb2.Decision) -> dict[Unit, UnitHint]:
    """Code that a detector met after the measurement: it is in the findings, not in the code set."""
    found: dict[Unit, UnitHint] = {}
    for finding in decision.findings:
        if finding.reason != FindingReason.UNIT_NOT_APPROVED or not finding.digest:
            continue
        kind = UnitKind.DATA_CODE  # text or bytes of no file: a detector knows them by digest alone
        if finding.kind != evidence_pb2.UNIT_KIND_UNSPECIFIED:
            kind = UnitKind(evidence_pb2.UnitKind.Name(finding.kind).removeprefix("UNIT_KIND_").lower())
        if kind is UnitKind.PYTHON_SOURCE and finding.path.endswith(".pyc"):
            kind = UnitKind.PYTHON_BYTECODE
        found[kind, finding.digest] = UnitHint(finding.digest, finding.path, finding.name)
    return found


def _chosen(unit: Unit, only: Sequence[str]) -> bool:
    return not only or any(unit[1].hex().startswith(prefix.lower()) for prefix in only)


def _permissions(
    decision: decision_pb2.Decision, only: Sequence[str]
) -> tuple[set[str], set[str], tuple[str, ...]]:
    """Permissions of anonymous memory and names of unknown code that the findings ask for, and what cannot be had."""
    anonymous: set[str] = set()
    unknown: set[str] = set()
    never: list[str] = []
    for finding in decision.findings:
        if finding.reason == FindingReason.DELETED_FILE:
            never.append(f"{finding.path}: its file was deleted or replaced; restart the process")
        elif finding.reason == FindingReason.UNIT_MISSING:
            never.append(f"{finding.path or finding.digest.hex()}: required, and not loaded")
        elif finding.reason == FindingReason.ANONYMOUS_CODE and not only:
            anonymous.add(finding.name)
        elif finding.reason == FindingReason.UNKNOWN_CODE and not only:
            unknown.add(finding.path)
    return anonymous, unknown, tuple(never)


def _without_replaced(
    before: Sequence[ManifestUnit], added: Sequence[ManifestUnit]
) -> tuple[ManifestUnit, ...]:
    versions: dict[str, set[str]] = {}
    for entry in added:
        if entry.package.startswith("pkg:pypi/"):
            versions.setdefault(purl_name(entry.package), set()).add(entry.package)
    return tuple(
        entry
        for entry in before
        if purl_name(entry.package) not in versions or entry.package in versions[purl_name(entry.package)]
    )


def _nothing(explained: decision_pb2.ExplainDecisionResponse, unapprovable: Sequence[str]) -> str:
    decision = explained.decision
    if unapprovable:
        return f"no manifest can allow what {decision.decision_id} found: {unapprovable[0]}"
    if not explained.code_set and not decision.findings:
        return f"{decision.decision_id} is about no code set: name the decision of an attestation"
    return f"everything that {decision.decision_id} saw is approved already"
