"""Units as they are gathered from several places, merged so that the same input gives the same manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from lockstep.formats import UnitKind
from lockstep_client.manifest.model import ManifestUnit
from lockstep_client.measure.model import Unit

_EMPTY: Final = sha256(b"").digest()


@dataclass(slots=True)
class _Gathered:
    files: set[bytes] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)
    packages: set[str] = field(default_factory=set)
    required: bool = False


def _package(digest: bytes, packages: set[str]) -> str:
    # What two packages share belongs to neither, and the empty file to nobody: a ban of one package must
    # not hit the others.
    return next(iter(packages)) if len(packages) == 1 and digest != _EMPTY else ""


class Collection:
    """Units with where and whose they are; adding the same twice changes nothing."""

    def __init__(self) -> None:
        self._units: dict[Unit, _Gathered] = {}

    def __len__(self) -> int:
        return len(self._units)

    def add(
        self,
        kind: UnitKind,
        digest: bytes,
        *,
        path: str = "",
        package: str = "",
        whole: bytes = b"",
        required: bool = False,
    ) -> None:
        """One unit. `whole` is the whole file's digest where it differs; `package` empty for nobody's."""
        gathered = self._units.setdefault((kind, digest), _Gathered())
        if whole and whole != digest:
            gathered.files.add(whole)
        if path:
            gathered.paths.add(path)
        gathered.packages.add(package)
        gathered.required = gathered.required or required

    def add_units(self, units: Iterable[ManifestUnit]) -> None:
        """The units of another manifest: the version in force that this one is built on."""
        for entry in units:
            gathered = self._units.setdefault(entry.unit, _Gathered())
            gathered.files.update(entry.file_digests)
            gathered.paths.update(entry.paths)
            gathered.packages.add(entry.package)
            gathered.required = gathered.required or entry.required

    def units(self) -> tuple[ManifestUnit, ...]:
        """Everything, in the order of kind and digest."""
        return tuple(
            ManifestUnit(
                kind=kind,
                digest=digest,
                file_digests=tuple(sorted(gathered.files)),
                paths=tuple(sorted(gathered.paths)),
                package=_package(digest, gathered.packages),
                required=gathered.required,
            )
            for (kind, digest), gathered in sorted(self._units.items())
        )

    def packages(self) -> Counter[str]:
        """How many units each package has; under the empty name those of nobody."""
        return Counter(entry.package for entry in self.units())
