"""An excerpt of the audit log that can be verified by itself: every link of a range, the content of what was asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from broker.adapters.audit.lines import parsed
from lockstep.formats import audit_json


@dataclass(frozen=True, slots=True)
class Wanted:
    """Decisions made at or after `since` and before `until` (seconds, UTC), and of a ticket; None and empty are all."""

    since: float | None = None
    until: float | None = None
    ticket: str = ""

    def has(self, decision: Mapping[str, Any]) -> bool:
        """True for one of them."""
        at = _time(decision)
        if at is not None and self.since is not None and at < self.since:
            return False
        if at is not None and self.until is not None and at >= self.until:
            return False
        return not self.ticket or decision.get("ticket") == self.ticket

    def shown(self) -> dict[str, str]:
        """For the head of the excerpt."""
        found = {"ticket": self.ticket}
        for name, at in (("since", self.since), ("until", self.until)):
            found[name] = "" if at is None else datetime.fromtimestamp(at, UTC).isoformat()
        return {name: value for name, value in found.items() if value}


def excerpt(path: Path, wanted: Wanted) -> Iterator[bytes]:
    """A head, then the lines from the first that is wanted to the first checkpoint after the last one.

    A line that is not wanted keeps its place and its digest, and loses its
    content. A line of before there were digests is its own proof and stays whole.
    Lines that a crash cut short are left out. Nothing comes where nothing is
    wanted. Reads the file twice and keeps nothing of it. Raises ``OSError``.
    """
    hits = [0, 0]
    for number, line in _lines(path):
        if _is(line, wanted):
            hits = [hits[0] or number, number]
    first, last = hits
    for number, line in _lines(path):
        if not first or number < first:
            continue
        if number == first:
            yield _head(line, wanted)
        if not _is(line, wanted) and "digest" in line:
            line.pop("decision", None)
        yield audit_json(line) + b"\n"
        if number > last and "checkpoint" in line:
            return


def _is(line: Mapping[str, Any], wanted: Wanted) -> bool:
    decision = line.get("decision")
    return isinstance(decision, dict) and wanted.has(decision)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line = parsed(raw)
            if line is not None:
                yield number, line


def _head(line: Mapping[str, Any], wanted: Wanted) -> bytes:
    head = {"chain": line["chain"], "count": line["n"] - 1, "follows": line["prev"], "wanted": wanted.shown()}
    return audit_json({"export": head}) + b"\n"


def _time(decision: Mapping[str, Any]) -> float | None:
    try:
        return datetime.fromisoformat(str(decision.get("at", ""))).timestamp()
    except ValueError:
        return None
