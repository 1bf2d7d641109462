"""An excerpt of the audit log proves by itself that its lines are members of the chain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from broker.adapters.audit import AuditLines, Wanted, excerpt
from lockstep_client.audit import FaultKind, Head, check
from tests.contract.state.nouns import NOW, decision


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    for chain, numbers in (("run-1", range(5)), ("run-2", range(5, 10))):
        audit = AuditLines.append_to(path, chain)
        for number in numbers:
            audit.append(decision(number, at=NOW + number, ticket="INC" if number in (2, 6) else "other"))
            if number in (3, 7, 9):
                audit.checkpoint("a.b.c")
        audit.close()
    return path


def exported(log: Path, wanted: Wanted) -> tuple[Path, list[dict[str, Any]]]:
    out = log.with_name("excerpt")
    out.write_bytes(b"".join(excerpt(log, wanted)))
    return out, [json.loads(line) for line in out.read_bytes().splitlines()]


def test_of_a_ticket(log: Path) -> None:
    out, lines = exported(log, Wanted(ticket="INC"))
    shown = [line["decision"]["id"] for line in lines if "decision" in line]
    assert shown == [decision(2).id, decision(6).id]
    assert b"other" not in out.read_bytes()
    # Up to the first checkpoint after the last one: what is shown is under a signature.
    assert "checkpoint" in lines[-1]
    report = check(out)
    assert report.fault is None
    assert (report.lines - report.withheld, report.chains) == (4, 2)
    assert report.excerpt is not None
    assert report.excerpt["wanted"] == {"ticket": "INC"}
    assert check(log, expect=Head(report.head.count, report.head.hash)).fault is None


def test_of_a_time(log: Path) -> None:
    _, lines = exported(log, Wanted(since=NOW + 4, until=NOW + 6))
    assert [line["decision"]["id"] for line in lines if "decision" in line] == [
        decision(4).id,
        decision(5).id,
    ]
    assert exported(log, Wanted(since=NOW + 100))[1] == []
    assert len(exported(log, Wanted())[1]) == 14


@pytest.mark.parametrize("name", ["digest", "prev", "hash", "n"])
def test_a_withheld_line_that_was_changed(log: Path, name: str) -> None:
    out, lines = exported(log, Wanted(ticket="INC"))
    assert "decision" not in lines[2]
    lines[2][name] = 99 if name == "n" else "f" * 64
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    fault = check(out).fault
    assert fault is not None
    assert (fault.line, fault.kind) == (3, FaultKind.EDITED)


def test_a_shown_line_that_was_changed_or_left_out(log: Path) -> None:
    out, lines = exported(log, Wanted(ticket="INC"))
    rest = [*lines]
    del rest[2]
    out.write_text("".join(json.dumps(line) + "\n" for line in rest))
    fault = check(out).fault
    assert fault is not None
    assert (fault.line, fault.kind) == (3, FaultKind.REMOVED)
    lines[1]["decision"]["ticket"] = "INC-2"
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    fault = check(out).fault
    assert fault is not None
    assert (fault.line, fault.kind) == (2, FaultKind.EDITED)
