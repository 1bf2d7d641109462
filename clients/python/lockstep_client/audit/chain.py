"""Follow the chain of an audit log, and say of the first wrong line what was done to it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from lockstep.formats import audit_line_hash, audit_line_whole
from lockstep_client.audit.lines import LONGEST, hashes_of, is_torn, is_withheld, parsed

GENESIS: Final = "0" * 64
_TELL: Final = 4 * 1024 * 1024
"""Bytes after which progress is told."""

Opened = Callable[[str], Mapping[str, Any]]
"""A checkpoint's claims, its signature verified; raises ``ValueError`` with what is wrong."""


class FaultKind(enum.StrEnum):
    """What was done to a line."""

    EDITED = "edited"
    REMOVED = "removed"
    REORDERED = "reordered"
    CHECKPOINT = "checkpoint"
    CUT = "cut"


@dataclass(frozen=True, slots=True)
class Fault:
    """The first line that is wrong (from 1), what kind of wrong, and the same in words."""

    line: int
    kind: FaultKind
    message: str


@dataclass(frozen=True, slots=True)
class Head:
    """A place in the chain: the hash of the `count`-th line of a chain; `chain` empty is any."""

    count: int
    hash: str
    chain: str = ""


@dataclass(slots=True)
class Report:
    """What a file holds, up to the fault where there is one.

    `torn` are numbers of lines that a crash cut short, `withheld` how many lines
    of an excerpt have no content, `lost` decisions that an older broker says it
    could not write. `checkpoints` were there, `signed` of them verified; the
    lines after the last of these (`signed_lines`) rest on the hashes alone.
    """

    lines: int = 0
    chains: int = 0
    lost: int = 0
    withheld: int = 0
    checkpoints: int = 0
    signed: int = 0
    signed_lines: int = 0
    signed_at: int = 0
    torn: list[int] = field(default_factory=list)
    head: Head = Head(0, GENESIS)
    excerpt: Mapping[str, Any] | None = None
    fault: Fault | None = None


class _Broken(Exception):
    def __init__(self, line: int, kind: FaultKind, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(line, kind, message)


def check(
    path: Path,
    *,
    expect: Head | None = None,
    opened: Opened | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Report:
    """Read a file of the audit log, or an excerpt of one, once (twice where it is broken).

    `expect` is a place that the chain must reach: without one, a tail that was
    cut off cannot be seen. `opened` verifies checkpoints; `progress` hears how many
    bytes more were read. Raises ``OSError``.
    """
    walk = _Walk(path, expect, opened)
    with path.open("rb") as file:
        try:
            for number, raw in _told(file, progress):
                walk.take(number, raw)
            walk.end()
        except _Broken as broken:
            walk.report.fault = broken.fault
    return walk.report


class _Walk:
    def __init__(self, path: Path, expect: Head | None, opened: Opened | None) -> None:
        self.report = Report()
        self._path = path
        self._expect = expect
        self._reached = expect is None
        self._opened = opened
        self._previous = GENESIS
        self._counts: dict[str, int] = {}
        self._junk: list[int] = []
        self._number = 0

    def take(self, number: int, raw: bytes) -> None:
        """One line."""
        self._number = number
        line = parsed(raw)
        if line is None:
            if not is_torn(raw):
                raise _Broken(number, FaultKind.EDITED, "it is no line of the log, nor the beginning of one")
            self._junk.append(number)
            return
        if number == 1 and isinstance(line.get("export"), dict):
            self._begin_excerpt(line["export"])
            return
        self._check_self(number, line)
        self._check_place(number, line)
        # What no line is, and the chain goes on after it: a crash, or a full disk, cut it short.
        self.report.torn += self._junk
        self._junk = []
        if "checkpoint" in line:
            self._check_checkpoint(number, line)
        self._count(line)

    def end(self) -> None:
        """After the last line."""
        # A last line that is none may be what a crash left; whether it was one, only `expect` can tell.
        self.report.torn += self._junk
        if not self._reached and self._expect is not None:
            message = f"the file ends before the expected line {self._expect.count} ({self._expect.hash})"
            raise _Broken(self._number + 1, FaultKind.CUT, message)

    def _begin_excerpt(self, header: Mapping[str, Any]) -> None:
        self.report.excerpt = header
        self._previous = str(header.get("follows", GENESIS))
        chain, count = header.get("chain"), header.get("count")
        if isinstance(chain, str) and isinstance(count, int):
            self._counts[chain] = count

    def _check_self(self, number: int, line: Mapping[str, Any]) -> None:
        if is_withheld(line):
            if self.report.excerpt is None:
                raise _Broken(number, FaultKind.EDITED, "its content was taken out of it")
            good = line["hash"] == audit_line_hash(line)
            self.report.withheld += 1
        else:
            good = audit_line_whole(line)
        if not good:
            raise _Broken(number, FaultKind.EDITED, "it has not the hash that it names")

    def _check_place(self, number: int, line: Mapping[str, Any]) -> None:
        prev = line.get("prev")
        if prev != self._previous:
            if self._junk:
                raise _Broken(
                    self._junk[0], FaultKind.EDITED, "it is no line of the log, and the next does not follow"
                )
            if any(prev == found for found in hashes_of(self._path)) or prev == GENESIS:
                message = (
                    "it follows a line that stands elsewhere: lines changed places, or one is here twice"
                )
                raise _Broken(number, FaultKind.REORDERED, message)
            raise _Broken(
                number, FaultKind.REMOVED, "the line that it follows is not here: removed or replaced"
            )
        chain = str(line.get("chain"))
        if line.get("n") != self._counts.get(chain, 0) + 1:
            raise _Broken(number, FaultKind.EDITED, "its number does not go on from the one before")

    def _check_checkpoint(self, number: int, line: Mapping[str, Any]) -> None:
        self.report.checkpoints += 1
        if self._opened is None:
            return
        try:
            claims = self._opened(str(line["checkpoint"]))
        except ValueError as error:
            raise _Broken(number, FaultKind.CHECKPOINT, str(error)) from None
        signed = (claims.get("chain"), claims.get("count"), claims.get("hash"))
        chain = str(line.get("chain"))
        if signed != (chain, self._counts.get(chain, 0), self._previous):
            raise _Broken(number, FaultKind.CHECKPOINT, "what it signs is not the line before it")
        self.report.signed += 1
        self.report.signed_lines = self.report.lines
        self.report.signed_at = int(claims.get("iat", 0))

    def _count(self, line: Mapping[str, Any]) -> None:
        chain, found = str(line.get("chain")), str(line["hash"])
        self._counts[chain] = count = self._counts.get(chain, 0) + 1
        self._previous = found
        report, expect = self.report, self._expect
        report.lines += 1
        report.chains = len(self._counts)
        report.head = Head(count, found, chain)
        lost = line.get("lost", 0)
        report.lost += lost if isinstance(lost, int) else 0
        if expect is not None and (expect.count, expect.hash) == (count, found):
            self._reached = self._reached or expect.chain in ("", chain)


def _told(file: BinaryIO, progress: Callable[[int], None]) -> Iterator[tuple[int, bytes]]:
    number = read = 0
    while raw := file.readline(LONGEST):
        number += 1
        read += len(raw)
        if read >= _TELL:
            progress(read)
            read = 0
        yield number, raw
    progress(read)
