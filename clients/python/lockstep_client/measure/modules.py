"""Which bytes ran for each module: bytecode, source or both, by the rules of the import system (PEP 3147, 552)."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from lockstep.formats import UnitKind
from lockstep_client.measure import facts as told
from lockstep_client.measure.hashing import HEADER, FileDigest, HashCache
from lockstep_client.measure.model import Unit, UnitHint, UnknownCode

_CHECKED: Final = 0b10
_HASH_BASED: Final = 0b01
_SLACK: Final = 0.03
"""Seconds: a process's start is known to a clock tick (10 ms), a file's times to a kernel tick (4 ms)."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What decides whether bytecode is valid: its magic number and ``--check-hash-based-pycs``."""

    magic: bytes
    check_hashes: str = "default"

    @classmethod
    def current(cls) -> Interpreter:
        """This one."""
        return cls(
            importlib.util.MAGIC_NUMBER, getattr(sys.modules["_imp"], "check_hash_based_pycs", "default")
        )


@dataclass(slots=True)
class ModuleCode:
    """Units and remarks of the modules of one interpreter, as they are gathered."""

    units: set[Unit] = field(default_factory=set)
    hints: dict[bytes, UnitHint] = field(default_factory=dict)
    unknown: list[UnknownCode] = field(default_factory=list)
    extensions: dict[str, str] = field(default_factory=dict)
    """Path → module name of every extension module; the mappings say their digests."""

    def add(self, kind: UnitKind, digest: bytes, path: str, name: str) -> None:
        """One unit, with where it was met."""
        self.units.add((kind, digest))
        if digest not in self.hints:
            self.hints[digest] = UnitHint(digest, path, name)

    def say(self, name: str, reason: str, kind: UnitKind | None = UnitKind.PYTHON_SOURCE) -> None:
        """Code that cannot be measured, by name."""
        self.unknown.append(UnknownCode(kind, name, reason))


def measure_modules(
    facts: Iterable[told.Fact], cache: HashCache, started_at: float, interpreter: Interpreter
) -> ModuleCode:
    """Hash what the facts name. `started_at`: when the process began to load code (seconds, UTC).

    Files younger than that may have been changed after they were read, so that
    both source and bytecode are reported and both must be approved.
    """
    code = ModuleCode()
    for how, name, path, cached, reason in facts:
        if how == told.UNKNOWN:
            code.say(name, reason)
            continue
        try:
            if how == told.SOURCE:
                _source(code, cache, name, path, cached, started_at, interpreter)
            elif how == told.EXTENSION:
                code.extensions.setdefault(path, name)
            elif how == told.SOURCELESS:
                _sourceless(code, cache, name, path, started_at)
            elif how == told.ARCHIVE:
                _whole(code, cache, UnitKind.PYTHON_ARCHIVE, name, path, started_at)
            else:
                _whole(code, cache, UnitKind.SCRIPT, name, path, started_at)
        except OSError as error:
            code.say(name, f"its file cannot be read: {(error.strerror or str(error)).lower()}")
    return code


def _source(
    code: ModuleCode,
    cache: HashCache,
    name: str,
    path: str,
    cached: tuple[str, ...],
    started_at: float,
    interpreter: Interpreter,
) -> None:
    try:
        status: os.stat_result | None = os.stat(path)
    except OSError:
        status = None
    ran_bytecode = doubtful = False
    for candidate in cached:
        try:
            found = cache.bytecode(candidate)
        except OSError:
            continue
        if found.head[:4] != interpreter.magic or len(found.head) < HEADER:
            continue
        valid = status is None or _valid(found, path, status, interpreter)
        younger = found.changed_since(started_at - _SLACK)
        # Stale now, but one of the two changed since the start: it may have been valid at the import.
        if valid or younger or (status is not None and status.st_mtime >= started_at - _SLACK):
            code.add(UnitKind.PYTHON_BYTECODE, found.body, candidate, name)
            ran_bytecode = True
            doubtful = doubtful or younger or not valid
    if status is None:
        code.say(name, "its source is gone")
        return
    if ran_bytecode and not doubtful and len(cached) == 1:
        return
    code.add(UnitKind.PYTHON_SOURCE, cache.file(path).whole, path, name)
    if not ran_bytecode and status.st_mtime > started_at + _SLACK:
        code.say(name, "its source changed after the process started, and no bytecode tells what ran")


def _valid(found: FileDigest, path: str, source: os.stat_result, interpreter: Interpreter) -> bool:
    """PEP 552: would the import system take this bytecode for this source?"""
    flags = int.from_bytes(found.head[4:8], "little")
    if flags & ~0b11:
        return False
    if not flags & _HASH_BASED:
        return found.head[8:12] == (int(source.st_mtime) & 0xFFFFFFFF).to_bytes(4, "little") and found.head[
            12:16
        ] == (source.st_size & 0xFFFFFFFF).to_bytes(4, "little")
    checked = bool(flags & _CHECKED)
    if interpreter.check_hashes == "never" or (interpreter.check_hashes == "default" and not checked):
        return True  # the source was never consulted: the bytecode is what ran
    try:
        with open(path, "rb") as file:
            return importlib.util.source_hash(file.read()) == found.head[8:16]
    except OSError:
        return False


def _sourceless(code: ModuleCode, cache: HashCache, name: str, path: str, started_at: float) -> None:
    found = cache.bytecode(path)
    code.add(UnitKind.PYTHON_BYTECODE, found.body, path, name)
    if found.mtime > started_at + _SLACK:
        code.say(name, "its bytecode changed after the process started", UnitKind.PYTHON_BYTECODE)


def _whole(
    code: ModuleCode, cache: HashCache, kind: UnitKind, name: str, path: str, started_at: float
) -> None:
    found = cache.file(path)
    code.add(kind, found.whole, path, name)
    if found.mtime > started_at + _SLACK:
        code.say(name, "its file changed after the process started", kind)
