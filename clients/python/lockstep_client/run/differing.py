"""What a refused start is about, as people think of it: packages and versions, then files of no package."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from urllib.parse import unquote

from lockstep.formats import FindingReason, UnitKind
from lockstep.v1 import decision_pb2, evidence_pb2
from lockstep_client.manifest import Builder
from lockstep_client.manifest.packages import purl_name, purl_version
from lockstep_client.measure.model import Unit, UnitHint
from lockstep_client.words import word

_PACKAGES = 5
_PATHS = 5
_NOT_OURS = ("deb", "generic")
"""Types of packages that are the base: the interpreter, the operating system."""


def lines(explained: decision_pb2.ExplainDecisionResponse) -> list[str]:
    """For people, of a decision's findings; empty where it names no unit.

    ``httpx 0.27.2 → 0.28.1, 23 units (RECORD matches 23 of 23)``: the version
    before is that of the manifest in force. A package is believed where its
    RECORD has the digest of the file that is here.
    """
    units, hints = _found(explained.decision.findings)
    if not units:
        return []
    builder = Builder()
    builder.measured(units, hints)
    entries = builder.collection.units()
    confirmed = Counter(entry.package for entry in entries if entry.package)
    paths = [
        entry.paths[0] if entry.paths else entry.digest.hex()[:12] for entry in entries if not entry.package
    ]
    claimed = Counter(owner for path in paths if (owner := builder.recorded_owner(path)))
    nobody = [path for path in paths if not builder.recorded_owner(path)]
    before = {purl_name(purl): purl_version(purl) for purl in explained.nearest}
    return [*_packages(confirmed, claimed, before), *_files(nobody)]


def _found(findings: Sequence[decision_pb2.Finding]) -> tuple[list[Unit], list[UnitHint]]:
    named = [
        item
        for item in findings
        if item.reason == FindingReason.UNIT_NOT_APPROVED
        and item.digest
        and item.kind != evidence_pb2.UNIT_KIND_UNSPECIFIED
    ]
    units = [(UnitKind(word(evidence_pb2.UnitKind, item.kind, "UNIT_KIND_")), item.digest) for item in named]
    return units, [UnitHint(item.digest, item.path, item.name) for item in named]


def _packages(confirmed: Counter[str], claimed: Counter[str], before: dict[str, str]) -> Iterator[str]:
    total = confirmed + claimed
    base = sum(count for package, count in total.items() if _kind(package) in _NOT_OURS)
    ours = sorted(
        ((count, package) for package, count in total.items() if _kind(package) not in _NOT_OURS),
        key=lambda item: (-item[0], item[1]),
    )
    if base:
        yield f"base, {_units(base)}"
    for count, package in ours[:_PACKAGES]:
        name, version = purl_name(package).rsplit("/", 1)[-1], unquote(purl_version(package))
        old = unquote(before.get(purl_name(package), ""))
        change = f"{old} → {version}" if old and old != version else version
        yield f"{name} {change}, {_units(count)} (RECORD matches {confirmed[package]} of {count})"
    if len(ours) > _PACKAGES:
        yield f"{len(ours) - _PACKAGES} more packages"


def _files(paths: Sequence[str]) -> Iterator[str]:
    if not paths:
        return
    here = os.path.join(os.getcwd(), "")
    near = sorted(path.removeprefix(here) for path in paths if path.startswith(here))
    shown = [*near, *sorted(path for path in paths if not path.startswith(here))]
    more = f" and {len(shown) - _PATHS} more" if len(shown) > _PATHS else ""
    yield f"{_units(len(paths))} of no package: {' '.join(shown[:_PATHS])}{more}"


def _kind(purl: str) -> str:
    return purl.removeprefix("pkg:").partition("/")[0]


def _units(count: int) -> str:
    return f"{count:,} unit{'' if count == 1 else 's'}"
