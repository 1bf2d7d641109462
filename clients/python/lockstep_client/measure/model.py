"""What one measurement says: the units, and honestly what could not be measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from lockstep.formats import UnitKind, code_set_digest

Unit = tuple[UnitKind, bytes]
"""A kind of code and the SHA-256 (32 bytes) of what runs."""


@dataclass(frozen=True, slots=True)
class UnitHint:
    """Where a digest was met; for people, no decision rests on it."""

    digest: bytes
    path: str
    name: str


@dataclass(frozen=True, slots=True)
class UnknownCode:
    """Code that runs and whose bytes the measurer could not learn, by name."""

    kind: UnitKind | None
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class AnonymousCode:
    """Executable memory without a file to hash (`size` in bytes), or whose file was unlinked or replaced."""

    size: int
    permissions: str
    deleted: bool
    name: str


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """The measured process, as far as it can be known from inside; empty and zero where unknown."""

    node: str = ""
    boot_id: str = ""
    pid: int = 0
    start_ticks: int = 0
    container_id: str = ""
    pod_uid: str = ""


class CodeSetLike(Protocol):
    """Whatever carries units: an earlier measurement, or a recorded code set."""

    @property
    def units(self) -> frozenset[Unit]: ...


@dataclass(frozen=True)
class Measurement:
    """One measurement of one process, at level *self*: a hint, never proof.

    `units` includes those of the base that the measurement was made on: what was
    once loaded stays recorded. `measured_at` is in seconds since the epoch, UTC.
    """

    units: frozenset[Unit]
    hints: tuple[UnitHint, ...] = ()
    unknown: tuple[UnknownCode, ...] = ()
    anonymous: tuple[AnonymousCode, ...] = ()
    process: ProcessRef = ProcessRef()
    measured_at: float = 0.0
    watched_since_exec: bool = field(default=False)

    @cached_property
    def code_set_digest(self) -> bytes:
        """Canonical digest (32 bytes) of the whole set."""
        return code_set_digest((kind.value, digest) for kind, digest in self.units)

    @cached_property
    def by_kind(self) -> Mapping[UnitKind, tuple[bytes, ...]]:
        """The digests of each kind, ascending."""
        found: dict[UnitKind, list[bytes]] = {}
        for kind, digest in self.units:
            found.setdefault(kind, []).append(digest)
        return {kind: tuple(sorted(found[kind])) for kind in sorted(found)}

    def merged(self, other: Measurement) -> Measurement:
        """Both, as one statement about the process of this one (for a process and its children)."""
        return Measurement(
            units=self.units | other.units,
            hints=tuple(dict.fromkeys(self.hints + other.hints)),
            unknown=tuple(dict.fromkeys(self.unknown + other.unknown)),
            anonymous=tuple(dict.fromkeys(self.anonymous + other.anonymous)),
            process=self.process,
            measured_at=max(self.measured_at, other.measured_at),
            watched_since_exec=self.watched_since_exec and other.watched_since_exec,
        )
