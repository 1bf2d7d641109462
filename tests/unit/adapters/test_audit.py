"""Audit lines chain, go on after a restart, and never hide what they lost."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from broker.adapters.audit import AuditLines, audit_record, verify_lines
from broker.errors import Unavailable
from tests.contract.state.nouns import decision


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def write(path: Path, chain: str, *numbers: int) -> AuditLines:
    audit = AuditLines.append_to(path, chain)
    for number in numbers:
        audit.append(decision(number))
    audit.close()
    return audit


def test_a_decision_as_a_line(tmp_path: Path) -> None:
    audit = write(tmp_path / "audit", "one", 1)
    (line,) = lines(tmp_path / "audit")
    content = json.loads(line)
    assert (content["chain"], content["n"], content["prev"]) == ("one", 1, "0" * 64)
    assert content["decision"] == json.loads(json.dumps(audit_record(decision(1))))
    assert content["decision"]["at"] == "2027-01-15T08:00:01.250000+00:00"
    assert content["decision"]["findings"][1] == {"reason": "unknown_code", "name": "builtins.exec"}
    assert audit.head == ("one", 1, content["hash"])
    assert (tmp_path / "audit").stat().st_mode & 0o777 == 0o600


def test_no_text_breaks_a_line(tmp_path: Path) -> None:
    audit = AuditLines.append_to(tmp_path / "audit", "one")
    audit.append(decision(1, detail='\n\r\u2028\u202e\x1b[2J"\ud800'))
    audit.close()
    (line,) = lines(tmp_path / "audit")
    assert line.isascii()
    assert line[:-1].decode().isprintable()
    assert verify_lines([line]).lines == 1


def test_the_chain_goes_on_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    write(path, "one", 1, 2)
    last = write(path, "two", 3)
    report = verify_lines(lines(path))
    assert (report.lines, report.chains, report.lost, report.torn) == (3, 2, 0, 0)
    assert report.head == last.head[2]


@pytest.mark.parametrize("number", range(4))
def test_whoever_changes_a_line_is_found(tmp_path: Path, number: int) -> None:
    path = tmp_path / "audit"
    write(path, "one", 1, 2)
    write(path, "two", 3, 4)
    good = lines(path)
    forged = [*good]
    forged[number] = forged[number].replace(b'"T-1"', b'"T-2"')
    with pytest.raises(ValueError, match=f"line {number + 1} "):
        verify_lines(forged)
    if number < 3:
        with pytest.raises(ValueError, match=f"line {number + 1} "):
            verify_lines([*good[:number], *good[number + 1 :]])
        with pytest.raises(ValueError, match="does not follow"):
            verify_lines([*good[:number], b"junk\n", *good[number + 1 :]])
        with pytest.raises(ValueError, match="does not follow"):
            verify_lines([*good[:number], good[number + 1], good[number], *good[number + 2 :]])


def test_a_cut_tail_shows_in_the_head(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    audit = write(path, "one", 1, 2, 3)
    assert verify_lines(lines(path)[:-1]).head != audit.head[2]


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_line_torn_by_a_crash_spoils_no_other(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "audit"
    write(path, "one", 1, 2)
    os.truncate(path, path.stat().st_size - cut)
    write(path, "two", 3)
    report = verify_lines(lines(path))
    # Without its line feed alone, a line is whole.
    assert (report.lines, report.torn) == ((3, 0) if cut == 1 else (2, 1))


class Flaky(io.RawIOBase):
    """A disk that takes `room` bytes and then refuses."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.data = bytearray()

    def write(self, data: memoryview) -> int:
        taken = bytes(data)[: min(len(data), self.room, 500)]
        if not taken:
            raise OSError(28, "No space left on device")
        self.room -= len(taken)
        self.data += taken
        return len(taken)


def test_wherever_the_disk_was_full_the_file_stays_whole() -> None:
    """Also one byte before the end of a line, which then stands."""
    whole = Flaky(10**9)
    AuditLines(whole, "one").append(decision(1))
    for room in range(len(whole.data) + 1):
        disk = Flaky(room)
        audit = AuditLines(disk, "one")
        refused = False
        try:
            audit.append(decision(1))
        except Unavailable:
            refused = True
        disk.room = 10**9
        for number in range(1 if refused else 2, 4):
            audit.append(decision(number))
        report = verify_lines(bytes(disk.data).splitlines(keepends=True))
        assert (report.lines, audit.head[1]) == (3, 3), room


def test_what_the_disk_refused_is_said_and_written_again() -> None:
    disk = Flaky(10**9)
    audit = AuditLines(disk, "one")
    audit.append(decision(0))
    audit.append(decision(1))
    disk.room = 700
    with pytest.raises(Unavailable, match="No space left"):
        audit.append(decision(2))
    assert audit.last == decision(1).id
    written = 2
    disk.room = 10**9
    for number in range(written, 9):
        audit.append(decision(number))
    report = verify_lines(bytes(disk.data).splitlines(keepends=True))
    assert (report.lines, report.torn, report.lost) == (9, 1, 0)
    assert report.head == audit.head[2]


def test_the_last_decision_is_found_behind_a_long_line_and_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    audit = AuditLines.append_to(path, "one")
    audit.append(decision(1))
    audit.append(decision(2, detail="x" * 600_000))
    audit.checkpoint("a.b.c")
    head = audit.head[2]
    audit.close()
    again = AuditLines.append_to(path, "two")
    assert (again.last, again.head) == (decision(2).id, ("two", 0, head))
    again.close()
    assert verify_lines(lines(path)).lines == 3


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    os.symlink(tmp_path / "elsewhere", tmp_path / "link")
    for path in (tmp_path, tmp_path / "missing" / "audit", tmp_path / "link"):
        with pytest.raises(Unavailable):
            AuditLines.append_to(path, "one")
