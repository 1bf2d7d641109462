"""What one manifest approves and another does not, told by package as people think of an upgrade."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lockstep_client.manifest.model import ManifestUnit
from lockstep_client.manifest.packages import purl_name, purl_version
from lockstep_client.measure.model import Unit


@dataclass(frozen=True, slots=True)
class PackageDifference:
    """One package: its versions before and after (several where both sides have several), units gained and lost."""

    name: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    added: int
    removed: int

    @property
    def change(self) -> str:
        """``added``, ``removed``, ``upgraded`` (another version) or ``changed`` (same version, other units)."""
        if not self.before:
            return "added"
        if not self.after:
            return "removed"
        return "changed" if self.before == self.after else "upgraded"


@dataclass(frozen=True, slots=True)
class Difference:
    """From one set of units to another; `added`, `removed` and `changed` are paths of no package."""

    packages: tuple[PackageDifference, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    units_added: int
    units_removed: int
    units_kept: int

    def __bool__(self) -> bool:
        return bool(self.units_added or self.units_removed)


def compare(before: Iterable[ManifestUnit], after: Iterable[ManifestUnit]) -> Difference:
    """What changes for whoever replaces one by the other."""
    old = {entry.unit: entry for entry in before}
    new = {entry.unit: entry for entry in after}
    gained = {unit: entry for unit, entry in new.items() if unit not in old}
    lost = {unit: entry for unit, entry in old.items() if unit not in new}
    gained_paths, lost_paths = _paths(gained), _paths(lost)
    return Difference(
        packages=_packages(old, new, gained, lost),
        added=tuple(sorted(gained_paths - lost_paths)),
        removed=tuple(sorted(lost_paths - gained_paths)),
        changed=tuple(sorted(gained_paths & lost_paths)),
        units_added=len(gained),
        units_removed=len(lost),
        units_kept=len(new) - len(gained),
    )


def _paths(units: dict[Unit, ManifestUnit]) -> set[str]:
    """How units of no package are named: by their first path, else by their digest."""
    return {
        entry.paths[0] if entry.paths else f"{entry.kind}:{entry.digest.hex()}"
        for entry in units.values()
        if not entry.package
    }


def _packages(
    old: dict[Unit, ManifestUnit],
    new: dict[Unit, ManifestUnit],
    gained: dict[Unit, ManifestUnit],
    lost: dict[Unit, ManifestUnit],
) -> tuple[PackageDifference, ...]:
    versions: dict[str, tuple[set[str], set[str]]] = {}
    counts: dict[str, list[int]] = {}
    for side, units in enumerate((old, new)):
        for entry in units.values():
            if entry.package:
                name = purl_name(entry.package)
                versions.setdefault(name, (set(), set()))[side].add(purl_version(entry.package))
    for side, units in enumerate((gained, lost)):
        for entry in units.values():
            if entry.package:
                counts.setdefault(purl_name(entry.package), [0, 0])[side] += 1
    return tuple(
        PackageDifference(
            name, tuple(sorted(versions[name][0])), tuple(sorted(versions[name][1])), *counts[name]
        )
        for name in sorted(counts)
    )
