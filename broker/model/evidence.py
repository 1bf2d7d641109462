"""What a workload has loaded: sealed evidence as received, evidence as verified, code sets."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from lockstep.formats import UnitKind, code_set_digest

MAX_EVIDENCE: Final = 4
"""Items that one attestation may carry."""


class Assurance(enum.IntEnum):
    """Who measured; ordered, a higher level is stronger."""

    SELF = 1
    WITNESSED = 2
    KERNEL = 3
    HARDWARE = 4

    @property
    def word(self) -> str:
        """The word that configuration and messages use."""
        return self.name.lower()


class Unit(NamedTuple):
    """One piece of code: its kind and the SHA-256 (32 bytes) of what runs.

    A tuple and no dataclass: an Attest hashes and compares hundreds, a manifest has thousands.
    """

    kind: UnitKind
    digest: bytes

    def __str__(self) -> str:
        return f"{self.kind}:{self.digest.hex()}"


@dataclass(frozen=True, slots=True)
class CodeSet:
    """Content-addressed set of units; `digest` is canonical (`lockstep.formats.code_set_digest`)."""

    units: frozenset[Unit]
    digest: bytes

    @classmethod
    def of(cls, units: Iterable[Unit]) -> CodeSet:
        """The code set of some units, in any order."""
        whole = frozenset(units)
        return cls(whole, code_set_digest((unit.kind, unit.digest) for unit in whole))

    def grow(self, units: Iterable[Unit]) -> CodeSet:
        """The set with more units: what was once loaded stays recorded."""
        more = self.units.union(units)
        return self if len(more) == len(self.units) else CodeSet.of(more)


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """One process on one boot of one node; empty and zero where unknown."""

    node: str = ""
    boot_id: str = ""
    pid: int = 0
    start_ticks: int = 0
    exec_seq: int = 0
    container_id: str = ""
    pod_uid: str = ""

    def exact(self) -> bool:
        """True where exactly one process is named."""
        return bool(self.node and self.boot_id and self.pid and self.start_ticks)


@dataclass(frozen=True, slots=True)
class UnitHint:
    """A measurer's name for a digest; shown to people, never decided on."""

    digest: bytes
    path: str
    name: str


@dataclass(frozen=True, slots=True)
class UnknownCode:
    """Code that runs and could not be measured, by name."""

    kind: UnitKind | None
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class AnonymousCode:
    """An executable mapping without a file; `size` in bytes."""

    size: int
    permissions: str
    deleted: bool
    name: str


@dataclass(frozen=True, slots=True)
class InstanceKey:
    """A workload instance's public key: DER SubjectPublicKeyInfo and RFC 7638 thumbprint (32 bytes)."""

    spki: bytes
    thumbprint: bytes
    algorithm: str


@dataclass(frozen=True, slots=True)
class SealedEvidence:
    """One measurer's signed statement as received; the bytes that are verified are the bytes parsed."""

    level: int
    statement: bytes
    signature: bytes = field(repr=False)
    key_id: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A verified statement: signature and binding held.

    `units` is the whole set at Attest, the addition at Reattest, where
    `base_digest` names the set it is added to. `measured_at` (seconds, UTC) is
    the measurer's clock and a hint. `process` is a fact only above level self.
    """

    level: Assurance
    key_thumbprint: bytes
    process: ProcessRef
    units: frozenset[Unit]
    code_set_digest: bytes
    base_digest: bytes = b""
    hints: tuple[UnitHint, ...] = ()
    unknown: tuple[UnknownCode, ...] = ()
    anonymous: tuple[AnonymousCode, ...] = ()
    watched_since_exec: bool = False
    measured_at: float = 0.0
    measurer: str = ""


def hints_by_digest(hints: Iterable[UnitHint]) -> Mapping[bytes, UnitHint]:
    """First hint of each digest."""
    found: dict[bytes, UnitHint] = {}
    for hint in hints:
        found.setdefault(hint.digest, hint)
    return found
